//! What can go wrong with the machine, grouped by whose fault it is.

use std::io;
use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The QEMU program is not there. Install it or name another one.
    #[error(
        "QEMU is missing: there is no program {program:?}; on Debian and Ubuntu: apt-get install qemu-system-x86"
    )]
    QemuMissing {
        /// What was looked for.
        program: PathBuf,
    },
    /// QEMU is older than the machine needs.
    #[error(
        "QEMU {found} is too old: 7.2 or newer is needed; upgrade it or name another with --qemu"
    )]
    QemuTooOld {
        /// The version found.
        found: String,
    },
    /// QEMU would not start: a wrong accelerator, a file it cannot read, no memory.
    #[error("QEMU refused to start the machine: {reason}")]
    QemuRefused {
        /// QEMU's own last words.
        reason: String,
    },
    /// The QEMU program could not be run.
    #[error("cannot run {program:?}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no program that could serve directories of the host.
    #[error(
        "virtiofsd is missing, which serves directories of the host to the guest; on Debian 12: apt-get install \
         qemu-system-common, later and elsewhere: install virtiofsd"
    )]
    VirtiofsdMissing,
    /// A directory of the host cannot be served.
    #[error("{dir:?} cannot be served to the guest: {reason}")]
    ShareRefused {
        /// The directory.
        dir: PathBuf,
        /// The server's own last words.
        reason: String,
    },
    /// QEMU runs, but its monitor does not answer.
    #[error("QEMU's monitor failed")]
    Qmp(#[from] crate::QmpError),
    /// The host refused a resource: descriptors, threads.
    #[error("the host refused {what}")]
    Host {
        /// What was asked for.
        what: &'static str,
        /// Why it was refused.
        source: io::Error,
    },
}
