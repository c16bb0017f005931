//! Fixtures for msb's tests: origin servers, certificates, logs.
