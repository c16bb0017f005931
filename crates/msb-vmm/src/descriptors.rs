//! Descriptors that a program was started with and knows nothing of.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::{FdFlags, fcntl_setfd};

/// Keeps all descriptors that this process has, the three standard streams aside, from the programs that it starts: whoever
/// started it may have left one open, such as the end of a pipe, on which others wait for as long as anybody has it. What this
/// process opens itself, its programs do not get in any case.
///
/// To be called first of all, while there is one thread.
///
/// # Errors
/// There is no `/proc`.
pub fn keep_descriptors() -> io::Result<()> {
    // Each is there while it is looked at, the directory's own included.
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        if let Some(number) = number.filter(|number| *number > 2) {
            // SAFETY: it is open, as it has just been listed and no other thread closes any, and it is borrowed for one
            // system call.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
        }
    }
    Ok(())
}
