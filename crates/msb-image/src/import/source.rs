//! Where the parts of an image are: a directory, or a tar archive that is read in place.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use msb_tar::Kind;

use super::entries::{Entries, Fault};
use super::error::ImportError;
use crate::content::Digest;

/// What an archive may hold besides its layers.
const ARCHIVE_ENTRIES: usize = 100_000;
/// Of names and of what links lead to, in bytes.
const ARCHIVE_NAMES: usize = 16 << 20;
/// Of an index, manifest or configuration, in bytes: what registries take.
pub(crate) const DOCUMENT_LIMIT: u64 = 4 << 20;

/// The parts of an image by name.
#[derive(Debug)]
pub(crate) enum Source {
    Directory(PathBuf),
    Archive {
        path: PathBuf,
        parts: HashMap<String, Part>,
    },
}

/// A part of an archive.
#[derive(Debug)]
pub(crate) enum Part {
    At {
        offset: u64,
        size: u64,
    },
    /// Old docker archives hold a layer once and links to it.
    LinkTo(String),
}

impl Source {
    /// Reads the table of contents of the tar archive at `path`.
    pub(super) fn archive(path: &Path) -> Result<Self, ImportError> {
        let unreadable = |source| ImportError::Read {
            what: "the archive".into(),
            source,
        };
        let file = open_file(path).map_err(unreadable)?;
        let mut entries = Entries::new(BufReader::with_capacity(128 * 1024, file));
        let mut parts = HashMap::new();
        let mut names = 0;
        loop {
            let entry = match entries.next() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(Fault::Io(error)) => return Err(unreadable(error)),
                Err(Fault::Layer(error)) => {
                    return Err(ImportError::Document {
                        what: "archive".into(),
                        problem: format!("does not parse: {error}"),
                    });
                }
            };
            names += entry.path.len();
            let Some(name) = normal(&entry.path) else {
                continue;
            };
            match entry.kind {
                Kind::File(size) => {
                    let offset = entries.position();
                    parts.insert(name, Part::At { offset, size });
                }
                Kind::Symlink(target) => {
                    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                    let target = [parent.as_bytes(), b"/", &target].concat();
                    names += target.len();
                    if let Some(target) = normal(&target) {
                        parts.insert(name, Part::LinkTo(target));
                    }
                }
                _ => {}
            }
            if parts.len() > ARCHIVE_ENTRIES || names > ARCHIVE_NAMES {
                return Err(ImportError::Document {
                    what: "archive".into(),
                    problem: format!(
                        "has more than {ARCHIVE_ENTRIES} entries, or {ARCHIVE_NAMES} bytes of their names"
                    ),
                });
            }
        }
        Ok(Self::Archive {
            path: path.to_owned(),
            parts,
        })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(dir) => dir.join(name).is_file(),
            Self::Archive { parts, .. } => parts.contains_key(name),
        }
    }

    /// Opens the part `name`, and says how long it is. `what` is for the error.
    pub(super) fn open(&self, what: &str, name: &str) -> Result<(Box<dyn Read>, u64), ImportError> {
        let failed = |source: io::Error| missing(what, name, source);
        match self {
            Self::Directory(dir) => {
                // Names come from documents of the image.
                if normal(name.as_bytes()).as_deref() != Some(name) {
                    return Err(failed(io::ErrorKind::NotFound.into()));
                }
                let file = open_file(&dir.join(name)).map_err(failed)?;
                let len = file.metadata().map_err(failed)?.len();
                Ok((Box::new(file.take(len)), len))
            }
            Self::Archive { path, parts } => {
                let mut part = normal(name.as_bytes()).and_then(|name| parts.get(&name));
                // A link to a link is not made by anybody.
                if let Some(Part::LinkTo(target)) = part {
                    part = parts.get(target);
                }
                let Some(Part::At { offset, size }) = part else {
                    return Err(failed(io::ErrorKind::NotFound.into()));
                };
                let mut file = open_file(path).map_err(failed)?;
                file.seek(SeekFrom::Start(*offset)).map_err(failed)?;
                Ok((Box::new(file.take(*size)), *size))
            }
        }
    }

    /// A document of bounded length.
    pub(super) fn document(&self, what: &str, name: &str) -> Result<Vec<u8>, ImportError> {
        let (reader, size) = self.open(what, name)?;
        if size > DOCUMENT_LIMIT {
            return Err(ImportError::Document {
                what: what.to_owned(),
                problem: format!("has {size} bytes, more than {DOCUMENT_LIMIT}"),
            });
        }
        let mut bytes = Vec::new();
        reader
            .take(DOCUMENT_LIMIT)
            .read_to_end(&mut bytes)
            .map_err(|source| ImportError::Read {
                what: what.to_owned(),
                source,
            })?;
        Ok(bytes)
    }

    /// Which file the part `name` is in, and when it was changed last.
    pub(super) fn stamp(&self, what: &str, name: &str) -> Result<Stamp, ImportError> {
        let path = match self {
            Self::Directory(dir) => &dir.join(name),
            Self::Archive { path, .. } => path,
        };
        let metadata = std::fs::metadata(path).map_err(|source| missing(what, name, source))?;
        Ok(Stamp {
            file: (metadata.dev(), metadata.ino()),
            len: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Why the part cannot be read: it may not be there.
fn missing(what: &str, name: &str, source: io::Error) -> ImportError {
    let what = what.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => ImportError::MissingBlob {
            what,
            name: name.to_owned(),
        },
        _ => ImportError::Read { what, source },
    }
}

/// A state of a file: nobody can write to it and have the same one after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    len: u64,
    changed: (i64, i64),
}

/// Where a layout keeps the blob.
pub(super) fn blob(digest: Digest) -> String {
    format!("blobs/sha256/{digest}")
}

pub(crate) fn check_digest(what: &str, expected: Digest, found: Digest) -> Result<(), ImportError> {
    if found == expected {
        return Ok(());
    }
    Err(ImportError::BlobDigest {
        what: what.to_owned(),
        expected,
        found,
    })
}

/// A regular file; anything else could block or has no length.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    File::open(path)
}

/// A name within an archive, its links resolved by their text; None if it leads out or is none.
fn normal(name: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    for part in std::str::from_utf8(name).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}
