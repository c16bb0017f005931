//! What is wrong with an authority, and what could not be done in a guest's root.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a store that others made is left alone, for a [`Problem`].
pub(crate) type Reason = &'static str;

/// The authority that was passed in cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The text holds no `BEGIN CERTIFICATE` section, typically because it is a key or a DER file.
    #[error("no PEM certificate found in {len_bytes} bytes")]
    NoCertificate {
        /// Length of the text in bytes.
        len_bytes: usize,
    },
    /// A PEM section is cut short or is not base64.
    #[error("PEM certificate number {number} is damaged: {reason}")]
    Pem {
        /// Which section of the text, counted from 1.
        number: usize,
        /// What the PEM reader found.
        reason: String,
    },
    /// The bytes are not one X.509 certificate in DER.
    #[error("not an X.509 certificate in DER: {reason}")]
    Der {
        /// What the DER reader found, and where.
        reason: String,
    },
}

/// Something in the guest's trust that could not be done. It is for an event: it never stops a boot.
///
/// `Display` is one line and escapes the path, which the image chose.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The guest's path of what was to be changed, inside the root.
    pub path: PathBuf,
    /// What the change was for.
    pub purpose: Purpose,
    /// Why it was not done.
    pub problem: Problem,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} {:?}: {}",
            self.purpose, self.path, self.problem
        )
    }
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// A file with all trusted roots, of the system or named by the environment.
    Bundle,
    /// A certificate in a directory that the distribution's own tool reads.
    Anchor,
    /// A certificate, or a link named after its subject's hash, in a directory that OpenSSL searches.
    HashedDirectory,
    /// A key store of Java.
    KeyStore,
    /// A certificate database of NSS, which Firefox and Chromium read.
    NssDatabase,
    /// Policies of a browser.
    BrowserPolicy,
    /// A file below [`RUNTIME_DIRECTORY`](crate::RUNTIME_DIRECTORY).
    Runtime,
}

impl fmt::Display for Purpose {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Bundle => "certificate bundle",
            Self::Anchor => "trust anchor",
            Self::HashedDirectory => "hashed certificate directory",
            Self::KeyStore => "Java key store",
            Self::NssDatabase => "NSS database",
            Self::BrowserPolicy => "browser policy",
            Self::Runtime => "runtime trust file",
        })
    }
}

/// Why something in the guest's trust was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The operating system refused, for instance on a read-only root.
    Io {
        /// What was being done.
        step: &'static str,
        /// The kind of refusal.
        kind: io::ErrorKind,
        /// The system's own words.
        message: String,
    },
    /// It lies on another file system than the root, so it may belong to the host or to another guest.
    OtherFileSystem,
    /// It is a directory, a device, a pipe or a socket.
    NotAFile,
    /// It is larger than any bundle.
    TooLarge {
        /// Its length in bytes.
        len_bytes: u64,
    },
    /// The environment names it, but it is not there.
    Missing,
    /// The environment names it by a path that is not absolute.
    RelativePath,
    /// It is a key store that cannot be changed: of an unknown kind, damaged, or with another password than Java's.
    KeyStore {
        /// Which of these.
        reason: &'static str,
    },
    /// It is a database of NSS that cannot be changed: damaged, with a password, or not as NSS makes it.
    Database {
        /// Which of these.
        reason: &'static str,
    },
    /// It is a file of policies that cannot be changed, because they would not be what its browser reads.
    Policies {
        /// Why not.
        reason: &'static str,
    },
    /// A program had it open when the image was made, and what that was writing is still beside it.
    InUse,
    /// There are more of its kind than are looked at.
    TooMany,
    /// What was read before it takes as much memory as all may.
    TooMuch,
    /// It is of a kind that is not written here.
    NotWritten,
    /// The authority's subject has no hash: a string in it is not valid in its own encoding.
    SubjectNotHashable,
}

impl Problem {
    pub(crate) fn io(step: &'static str, error: &io::Error) -> Self {
        Self::Io {
            step,
            kind: error.kind(),
            message: error.to_string(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { step, message, .. } => write!(formatter, "cannot {step}: {message}"),
            Self::OtherFileSystem => {
                formatter.write_str("left alone: it is on another file system than the root")
            }
            Self::NotAFile => formatter.write_str("not a regular file"),
            Self::TooLarge { len_bytes } => write!(
                formatter,
                "left alone: {len_bytes} bytes is too large for a bundle"
            ),
            Self::Missing => formatter.write_str("named by the environment, but it does not exist"),
            Self::RelativePath => {
                formatter.write_str("named by the environment by a path that is not absolute")
            }
            Self::KeyStore { reason }
            | Self::Database { reason }
            | Self::Policies { reason } => {
                write!(formatter, "left alone: {reason}")
            }
            Self::InUse => formatter.write_str("left alone: it was not closed"),
            Self::TooMany => {
                formatter.write_str("left alone, as the rest of its kind: there are too many")
            }
            Self::TooMuch => formatter.write_str("left alone: the files before it are too large"),
            Self::NotWritten => formatter
                .write_str("left alone: databases of this old kind are not written; `certutil --upgrade-merge` makes it a new one"),
            Self::SubjectNotHashable => {
                formatter.write_str("the authority's subject cannot be hashed")
            }
        }
    }
}
