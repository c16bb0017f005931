//! `msb proxy` as a user runs it, with servers and clients on loopback.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod flags;
mod forward;
mod hostile;
mod http_rules;
mod life;
mod rig;
mod secrets;
mod upstream;
