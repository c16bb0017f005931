//! A tree of files into an archive.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use msb_tar::{Entry, Kind};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::unpack::path_of;
use crate::{Error, MAX_DEPTH};

/// Read of a file at once, in bytes.
const CHUNK: usize = 64 * 1024;
/// Of the names that are passed over so many are told.
const TOLD: usize = 16;

/// What was packed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Packed {
    /// Entries, directories and links among them.
    pub entries: u64,
    /// Bytes of the files' contents.
    pub bytes: u64,
    /// How many sockets, pipes and devices were passed over.
    pub skipped: u64,
    /// Names of the first 16 of those.
    pub skipped_names: Vec<PathBuf>,
}

/// Writes the file or tree at `source` as an archive in which it is called `name`. If `source` itself is a link it is
/// followed; no link below it is.
///
/// Files that change meanwhile have the length that they had when they were opened.
///
/// # Errors
/// [`Error::File`] for the first file that cannot be read, [`Error::Stream`] when `sink` fails.
pub fn pack(source: &Path, name: &[u8], sink: &mut dyn Write) -> Result<Packed, Error> {
    let mut packer = Packer {
        sink,
        links: HashMap::new(),
        buffer: vec![0; CHUNK],
        packed: Packed::default(),
    };
    let file = |source: Errno| Error::File {
        what: "read",
        path: path_of(name),
        source: source.into(),
    };
    let stat = rustix::fs::statat(CWD, source, AtFlags::empty()).map_err(file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::openat(CWD, source, flags, Mode::empty()).map_err(file)?;
            packer.directory(dir, name.to_vec(), MAX_DEPTH)?;
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(CWD, source, flags, Mode::empty()).map_err(file)?;
            packer.regular(&opened, name)?;
        }
        _ => packer.skip(name),
    }
    msb_tar::write_end(packer.sink).map_err(Error::Stream)?;
    packer.sink.flush().map_err(Error::Stream)?;
    Ok(packer.packed)
}

struct Packer<'a> {
    sink: &'a mut dyn Write,
    /// Files with several names, by device and number, and the name that came first.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    packed: Packed,
}

impl Packer<'_> {
    fn directory(&mut self, dir: OwnedFd, path: Vec<u8>, depth: usize) -> Result<(), Error> {
        let fails = |source: Errno| Error::File {
            what: "list",
            path: path_of(&path),
            source: source.into(),
        };
        let stat = rustix::fs::fstat(&dir).map_err(fails)?;
        self.entry(entry(&path, Kind::Directory, &stat))?;
        let depth = depth.checked_sub(1).ok_or_else(|| Error::Refused {
            path: path_of(&path),
            problem: "is nested deeper than 200 directories",
        })?;
        for (name, kind) in list(&dir).map_err(fails)? {
            let below = [&path, b"/".as_slice(), name.to_bytes()].concat();
            self.child(dir.as_fd(), &name, kind, below, depth)?;
        }
        Ok(())
    }

    fn child(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        kind: FileType,
        path: Vec<u8>,
        depth: usize,
    ) -> Result<(), Error> {
        let fails = |source: Errno| Error::File {
            what: "read",
            path: path_of(&path),
            source: source.into(),
        };
        let open = |flags| {
            let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(dir, name, flags, Mode::empty())
        };
        let stat = || rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let kind = match kind {
            FileType::Unknown => match stat() {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => return Ok(()),
                Err(error) => return Err(fails(error)),
            },
            known => known,
        };
        match kind {
            FileType::Directory => match open(OFlags::DIRECTORY) {
                Ok(child) => self.directory(child, path, depth),
                Err(error) => gone_or(error, fails),
            },
            FileType::RegularFile => match open(OFlags::NONBLOCK) {
                Ok(file) => self.regular(&file, &path),
                Err(error) => gone_or(error, fails),
            },
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new());
                match (target, stat()) {
                    (Ok(target), Ok(stat)) => {
                        let target = target.into_bytes();
                        self.entry(entry(&path, Kind::Symlink(target), &stat))
                    }
                    (Err(error), _) | (_, Err(error)) => gone_or(error, fails),
                }
            }
            _ => {
                self.skip(&path);
                Ok(())
            }
        }
    }

    fn regular(&mut self, file: &OwnedFd, path: &[u8]) -> Result<(), Error> {
        let fails = |source: Errno| Error::File {
            what: "read",
            path: path_of(path),
            source: source.into(),
        };
        let stat = rustix::fs::fstat(file).map_err(fails)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            // Replaced since it was listed.
            self.skip(path);
            return Ok(());
        }
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                let link = entry(path, Kind::HardLink(first.clone()), &stat);
                return self.entry(link);
            }
            self.links.insert(key, path.to_vec());
        }
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        self.entry(entry(path, Kind::File(size), &stat))?;
        self.packed.bytes += size;
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            let len = match rustix::io::read(file, &mut self.buffer[..most]) {
                // It has become shorter. What was announced has to follow.
                Ok(0) => {
                    self.buffer[..most].fill(0);
                    most
                }
                Ok(len) => len,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(fails(error)),
            };
            let piece = &self.buffer[..len];
            self.sink.write_all(piece).map_err(Error::Stream)?;
            left -= len as u64;
        }
        let padding = msb_tar::padding(size);
        self.sink.write_all(padding).map_err(Error::Stream)
    }

    fn entry(&mut self, entry: Entry) -> Result<(), Error> {
        self.packed.entries += 1;
        msb_tar::write(&entry, self.sink).map_err(Error::Stream)
    }

    fn skip(&mut self, path: &[u8]) {
        self.packed.skipped += 1;
        if self.packed.skipped_names.len() < TOLD {
            self.packed.skipped_names.push(path_of(path));
        }
    }
}

/// A file that was removed while its directory was read is not there, as if it had been removed before.
fn gone_or(error: Errno, fails: impl Fn(Errno) -> Error) -> Result<(), Error> {
    match error {
        Errno::NOENT => Ok(()),
        // A link in the place of what was listed.
        error => Err(fails(error)),
    }
}

fn list(dir: &OwnedFd) -> Result<Vec<(CString, FileType)>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(names)
}

fn entry(path: &[u8], kind: Kind, stat: &Stat) -> Entry {
    Entry {
        mode: stat.st_mode & 0o7777,
        mtime: u64::try_from(stat.st_mtime).unwrap_or_default(),
        ..Entry::new(path, kind)
    }
}
