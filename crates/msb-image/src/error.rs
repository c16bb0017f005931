//! What can go wrong with the store, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::import::ImportError;
use crate::manifest::{Artefact, ImageName, InvalidImageName};
use crate::reference::InvalidReference;
#[cfg(feature = "registry")]
use crate::registry::PullError;

/// A failure of the artefact store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No directory for the store can be derived from the environment.
    #[error("no place for images: set MSB_HOME, XDG_CACHE_HOME or HOME to an absolute path")]
    NoHome,

    /// The store has no current file of this kind: nothing was built yet.
    #[error("the guest {artefact} is missing from {}: run `cargo xtask image`", store.display())]
    Missing {
        /// What is missing.
        artefact: Artefact,
        /// The store's directory.
        store: PathBuf,
    },

    /// No image of this name is in the store.
    #[error("no image `{name}`: {}", known_names(known))]
    UnknownImage {
        /// The name asked for.
        name: String,
        /// Names the store has, sorted.
        known: Vec<String>,
    },

    /// The name cannot be an image's name.
    #[error(transparent)]
    ImageName(#[from] InvalidImageName),

    /// The text is neither a name nor a reference nor a path.
    #[error(transparent)]
    Reference(#[from] InvalidReference),

    /// A file the user named does not exist or cannot be read.
    #[error("cannot read the {what} {}", path.display())]
    Unreadable {
        /// What the file was meant to be.
        what: &'static str,
        /// The path as given.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// A file the user named is of another kind.
    #[error("{} is not {expected}", path.display())]
    WrongFormat {
        /// The path as given.
        path: PathBuf,
        /// What it should have been.
        expected: &'static str,
    },

    /// A file system's file is shorter than its own header says.
    #[error("{} is cut short: its header says {expected} bytes, the file has {found}", path.display())]
    Truncated {
        /// The path as given, or the stored file's.
        path: PathBuf,
        /// Bytes the file system occupies by its header.
        expected: u64,
        /// Bytes the file has.
        found: u64,
    },

    /// A stored file or manifest is not what was written there.
    #[error("the image store is damaged: {} {problem}; {}", path.display(), remedy(artefact.as_ref()))]
    Damaged {
        /// What it is of, as far as that is known.
        artefact: Option<Artefact>,
        /// The file concerned.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// A file or directory cannot become an image. The store is as it was.
    #[error("cannot import {}", path.display())]
    Import {
        /// What was to be imported.
        path: PathBuf,
        /// Why it cannot.
        source: Box<ImportError>,
    },

    /// An image cannot be fetched from its registry. The store is as it was, but for what was fetched of layers.
    #[cfg(feature = "registry")]
    #[error("cannot pull {image}")]
    Pull {
        /// The image's reference, written out.
        image: String,
        /// Why it cannot.
        source: Box<PullError>,
    },

    /// The name is that of an image which was not imported.
    #[error("the image `{name}` was not imported and cannot be {action}: choose another name")]
    NotImported {
        /// The name.
        name: ImageName,
        /// What was to be done with it.
        action: &'static str,
    },

    /// The file system of the store is full.
    #[error("no space left for images in {}: free some, or set MSB_HOME to a larger disk", path.display())]
    NoSpace {
        /// The store's directory, or the file being written.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },

    /// The store is not for this user to read or write.
    #[error("cannot {action} {}, which this user may not do: set MSB_HOME to a directory of your own", path.display())]
    Denied {
        /// What was being done.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// The store's directory cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl Error {
    /// Names the failed action; a full disk or quota becomes [`Error::NoSpace`].
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { path, source }
            }
            io::ErrorKind::PermissionDenied => Self::Denied {
                action,
                path,
                source,
            },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }
}

/// What makes a damaged artefact whole.
fn remedy(artefact: Option<&Artefact>) -> String {
    match artefact {
        Some(Artefact::Image(name)) if *name != ImageName::base() => format!(
            "pull or import `{name}` again, or remove it with `msb image rm` (`cargo xtask image --force` if that made it)"
        ),
        _ => "run `cargo xtask image --force`".to_owned(),
    }
}

fn known_names(known: &[String]) -> String {
    if known.is_empty() {
        "the store has none yet, run `cargo xtask image`".to_owned()
    } else {
        format!("known are {}", known.join(", "))
    }
}
