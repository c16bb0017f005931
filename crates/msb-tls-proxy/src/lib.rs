//! TLS interception for one sandbox.
