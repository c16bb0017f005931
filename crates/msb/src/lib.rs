//! Run untrusted code in a microVM that calls real APIs without holding a credential.
