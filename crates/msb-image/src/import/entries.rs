//! Entries of layers: what of an archive's entries counts in a root file system.

use std::io::{self, Read};

use msb_tar::{Error, Kind, Reader};

use super::error::LayerError;

/// Of one entry's name, link target and extended attributes, in bytes. Linux allows 64 KiB for each attribute.
const EXTENSION_LIMIT: u64 = 1 << 20;
/// Of one attribute's value, in bytes: what Linux allows.
const XATTR_LIMIT: usize = 64 << 10;

/// Owner, mode, time and extended attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// Permission bits, set-id and sticky ones included.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970, as squashfs keeps them.
    pub(super) mtime: u32,
    /// Those that squashfs can keep, by their whole name.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// One entry without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// As the archive says it.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) meta: Meta,
}

/// The entries of the archive that `from` yields.
#[derive(Debug)]
pub(super) struct Entries<R>(Reader<R>);

impl<R: Read> Entries<R> {
    pub(super) fn new(from: R) -> Self {
        Self(Reader::new(from, EXTENSION_LIMIT))
    }

    /// Where in the archive this is, in bytes: behind `next`, where the entry's data begin.
    pub(super) fn position(&self) -> u64 {
        self.0.position()
    }

    /// The reader, to be read to its end.
    pub(super) fn into_inner(self) -> R {
        self.0.into_inner()
    }

    /// The next entry; what was not read of the last one's data is passed over.
    ///
    /// # Errors
    /// [`LayerError`], or what reading fails with.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let next = self.0.next()?;
        Ok(next.map(Entry::of).transpose()?)
    }
}

/// The current entry's data.
impl<R: Read> Read for Entries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Entry {
    fn of(entry: msb_tar::Entry) -> Result<Self, LayerError> {
        let path = entry.path;
        let id = |id: u64, what| {
            u32::try_from(id).map_err(|_| {
                LayerError::entry(&path, format!("has the {what} {id}, more than Linux knows"))
            })
        };
        let (uid, gid) = (id(entry.uid, "owner")?, id(entry.gid, "group")?);
        let kept = entry.xattrs.into_iter().filter(|(name, _)| is_kept(name));
        let xattrs: Vec<_> = kept.collect();
        if xattrs.iter().any(|(_, value)| value.len() > XATTR_LIMIT) {
            return Err(LayerError::entry(
                &path,
                "has an extended attribute of more than 64 KiB, which Linux does not allow",
            ));
        }
        Ok(Self {
            kind: entry.kind,
            meta: Meta {
                mode: entry.mode,
                uid,
                gid,
                mtime: u32::try_from(entry.mtime).unwrap_or(u32::MAX),
                xattrs,
            },
            path,
        })
    }
}

/// Whether squashfs has room for the attribute, and it means to the guest what it meant to the image's maker: those of
/// overlayfs would hide files of the image.
fn is_kept(name: &[u8]) -> bool {
    let kept = [b"user.".as_slice(), b"trusted.", b"security."];
    let prefix = kept.into_iter().find(|prefix| name.starts_with(prefix));
    prefix.is_some_and(|prefix| {
        let rest = &name[prefix.len()..];
        !rest.is_empty() && !rest.starts_with(b"overlay.")
    }) && name.len() <= 255
        && !name.contains(&0)
}

/// Why there is no next entry.
#[derive(Debug)]
pub(super) enum Fault {
    Layer(LayerError),
    /// The stream fails; what that means its owner knows.
    Io(io::Error),
}

impl From<LayerError> for Fault {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Archive { at, problem } => Self::Layer(LayerError::Tar { at, problem }),
            Error::Entry { path, problem } => Self::Layer(LayerError::entry(&path, problem)),
            Error::Read(error) => Self::Io(error),
            other => Self::Io(io::Error::other(other)),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
