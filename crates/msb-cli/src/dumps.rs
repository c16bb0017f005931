//! Keeps values of secrets out of core dumps, and out of reach of other processes of the same user.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Forbids core dumps of this process and of those it starts, and reading its memory to all but root (SPEC S10).
///
/// # Errors
/// When the system refuses, which it has no reason to.
pub(crate) fn forbid() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let nothing = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // A program that is started can be dumped again by its own standard; QEMU's memory is the guest's.
    setrlimit(Resource::Core, nothing)?;
    Ok(())
}
