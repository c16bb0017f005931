//! The network from a kernel's point of view: a guest made of a network namespace with a TAP device, programs of
//! others in it, and services of the host's.

#![expect(
    clippy::unwrap_used,
    reason = "the setting that allows it in tests does not reach helper functions"
)]

mod faults;
mod kernel;
mod many;
mod names;
mod rig;
mod tap;
mod tools;
mod transfer;
