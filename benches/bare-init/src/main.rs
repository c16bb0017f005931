//! An init that powers the machine off at once: the base line of the boot benchmark.
//!
//! It mounts nothing, loads nothing and prints nothing, so what a machine with this init takes is
//! what the VMM and the kernel take.
#![forbid(unsafe_code)]

use rustix::system::{RebootCommand, reboot};

fn main() {
    // Where the first fails the second still ends the machine: the VMM runs with `-no-reboot`.
    let _ = reboot(RebootCommand::PowerOff);
    let _ = reboot(RebootCommand::Restart);
}
