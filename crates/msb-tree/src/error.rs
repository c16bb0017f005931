//! Why a tree could not be packed or unpacked.

use std::io;
use std::path::PathBuf;

/// An error of this crate. Names from an archive are shown with control characters escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stream is not the archive it should be: damaged, cut off, or made to do harm.
    #[error("the archive is no good at byte {at}: {problem}")]
    Archive {
        /// How far it was read.
        at: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// An entry that is not let in.
    #[error("the archive's entry {path:?} {problem}")]
    Refused {
        /// Its name in the archive.
        path: PathBuf,
        /// Why.
        problem: &'static str,
    },
    /// A file of the tree cannot be read or written.
    #[error("cannot {what} {path:?}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file: the name in the tree, or the place.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The stream itself failed.
    #[error("the stream of files broke off")]
    Stream(#[source] io::Error),
}

impl From<msb_tar::Error> for Error {
    fn from(error: msb_tar::Error) -> Self {
        match error {
            msb_tar::Error::Archive { at, problem } => Self::Archive { at, problem },
            msb_tar::Error::Entry { path, problem } => Self::Refused {
                path: crate::unpack::path_of(&path),
                problem,
            },
            msb_tar::Error::Read(source) => Self::Stream(source),
            other => Self::Stream(io::Error::other(other)),
        }
    }
}
