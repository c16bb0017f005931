//! An archive into a tree of files, below one place and nowhere else.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use msb_tar::{Entry, Kind, Reader};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::{EXTENSION_LIMIT, Error, MAX_DEPTH};

/// Written to a file at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// Which bits of a file's mode are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modes {
    /// Those for reading, writing and executing: where a set-id program of somebody else's making must not come to be.
    Permissions,
    /// Set-id and sticky bits as well.
    All,
}

/// Where an archive goes.
#[derive(Debug)]
pub struct Place {
    dir: OwnedFd,
    name: Option<Vec<u8>>,
}

/// What was unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpacked {
    /// Entries, directories and links among them.
    pub entries: u64,
    /// Bytes of the files' contents.
    pub bytes: u64,
}

impl Place {
    /// The directory `dir`, which has to be there and may be reached through links. With a name the archive's top, a file
    /// or a directory, comes to be called so in it; without one the archive's entries go into it as they are called.
    ///
    /// # Errors
    /// [`Error::File`] when `dir` cannot be opened; [`Error::Refused`] for a name that is none of a file.
    pub fn new(dir: &Path, name: Option<&OsStr>) -> Result<Self, Error> {
        let name = name.map(|name| name.as_bytes().to_vec());
        if let Some(name) = &name
            && (matches!(name.as_slice(), b"" | b"." | b"..")
                || name.iter().any(|b| matches!(b, b'/' | 0)))
        {
            return Err(Error::Refused {
                path: path_of(name),
                problem: "cannot be the name of a file",
            });
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, dir, flags, Mode::empty());
        let dir = opened.map_err(|source| Error::File {
            what: "open the directory",
            path: dir.to_owned(),
            source: source.into(),
        })?;
        Ok(Self { dir, name })
    }

    /// As `cp -r` takes its last argument: into `path` as `name` if that is a directory, else as `path` itself, whose
    /// directory has to be there. Without a name into the directory `path`, which is made if it is not there.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when `path` ends with a slash and is no directory.
    pub fn at(path: &Path, name: Option<&OsStr>) -> Result<Self, Error> {
        let Some(name) = name else {
            match std::fs::create_dir(path) {
                Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::File {
                        what: "make the directory",
                        path: path.to_owned(),
                        source,
                    });
                }
                _ => return Self::new(path, None),
            }
        };
        let wants_directory = path.as_os_str().as_bytes().ends_with(b"/");
        match path.file_name() {
            Some(own) if !path.is_dir() && !wants_directory => {
                let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
                Self::new(dir.unwrap_or_else(|| Path::new(".")), Some(own))
            }
            _ => Self::new(path, Some(name)),
        }
    }

    /// The names on the way to what the archive calls `path`; none for the place itself.
    fn locate<'a>(&'a self, path: &'a [u8]) -> Result<Vec<&'a [u8]>, Error> {
        let refused = |problem| Error::Refused {
            path: path_of(path),
            problem,
        };
        if path.starts_with(b"/") {
            return Err(refused("is an absolute name"));
        }
        let mut names = Vec::new();
        for name in path.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return Err(refused("leads out of the tree")),
                name if name.contains(&0) => {
                    return Err(refused("has a name that no file can have"));
                }
                name => names.push(name),
            }
        }
        if names.len() > MAX_DEPTH {
            return Err(refused("is nested deeper than 200 directories"));
        }
        match (&self.name, names.first_mut()) {
            (Some(own), Some(first)) => *first = own,
            (Some(_), None) => return Err(refused("has no name")),
            (None, _) => {}
        }
        Ok(names)
    }
}

/// Reads an archive to its end and makes its files. What is in the way of a file is replaced, unless it is a directory;
/// directories that are there already stay as they are, modes included, and get what is new.
///
/// # Errors
/// [`Error::Archive`] and [`Error::Refused`] for the archive, [`Error::File`] for what cannot be written,
/// [`Error::Stream`]. What was unpacked before stays; a file that was cut off does not.
pub fn unpack(source: impl Read, place: &Place, modes: Modes) -> Result<Unpacked, Error> {
    let mut entries = Reader::new(source, EXTENSION_LIMIT);
    let mut unpacker = Unpacker {
        place,
        modes,
        open: Vec::new(),
        buffer: vec![0; CHUNK],
        unpacked: Unpacked::default(),
    };
    while let Some(entry) = entries.next()? {
        unpacker.unpacked.entries += 1;
        unpacker.entry(&entry, &mut entries)?;
    }
    unpacker.leave(0)?;
    if !entries.has_end() {
        return Err(Error::Archive {
            at: entries.position(),
            problem: "it is cut off before its end",
        });
    }
    // Whoever writes the stream is not cut off.
    io::copy(&mut entries.into_inner(), &mut io::sink()).map_err(Error::Stream)?;
    Ok(unpacker.unpacked)
}

struct Unpacker<'a> {
    place: &'a Place,
    modes: Modes,
    /// From the place's to the one that files go into.
    open: Vec<OpenDir>,
    buffer: Vec<u8>,
    unpacked: Unpacked,
}

/// A directory on the way, which gets its mode and time when it is left: files could not be written into one without
/// permission, and would change the time.
struct OpenDir {
    name: Vec<u8>,
    dir: OwnedFd,
    settle: Option<(u32, u64)>,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &Entry, data: &mut Reader<impl Read>) -> Result<(), Error> {
        let place = self.place;
        let names = place.locate(&entry.path)?;
        let Some((name, parents)) = names.split_last() else {
            return match entry.kind {
                // The place itself, which is as it is.
                Kind::Directory => Ok(()),
                _ => Err(refused(entry, "has no name")),
            };
        };
        self.enter(entry, parents)?;
        match &entry.kind {
            Kind::Directory => {
                let (step, is_new) = self.step(entry, name, 0o700)?;
                self.open.push(OpenDir {
                    // One that was there is its owner's: an archive does not open it up, nor lock it.
                    settle: is_new.then_some((entry.mode, entry.mtime)),
                    ..step
                });
                Ok(())
            }
            Kind::File(_) => self.file(entry, name, data),
            Kind::Symlink(target) => {
                let link =
                    |dir: BorrowedFd<'_>| rustix::fs::symlinkat(target.as_slice(), dir, *name);
                self.replace(entry, name, link)?;
                let times = times(entry.mtime);
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(self.dir(), *name, &times, flags).map_err(fails(entry))
            }
            Kind::HardLink(target) => self.hard_link(entry, &names, &place.locate(target)?),
            Kind::CharDevice(..) | Kind::BlockDevice(..) => Err(refused(entry, "is a device")),
            Kind::Fifo => Err(refused(entry, "is a pipe")),
        }
    }

    fn file(
        &mut self,
        entry: &Entry,
        name: &[u8],
        data: &mut Reader<impl Read>,
    ) -> Result<(), Error> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let create = |dir: BorrowedFd<'_>| rustix::fs::openat(dir, name, flags, mode);
        let file = self.replace(entry, name, create)?;
        let written = self.fill(entry, &file, data);
        if written.is_err() {
            let _ = rustix::fs::unlinkat(self.dir(), name, AtFlags::empty());
        }
        written
    }

    fn fill(
        &mut self,
        entry: &Entry,
        file: &OwnedFd,
        data: &mut Reader<impl Read>,
    ) -> Result<(), Error> {
        loop {
            let mut piece = data.data(&mut self.buffer)?;
            if piece.is_empty() {
                break;
            }
            while !piece.is_empty() {
                match rustix::io::write(file, piece) {
                    Ok(len) => {
                        piece = &piece[len..];
                        self.unpacked.bytes += len as u64;
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(fails(entry)(error)),
                }
            }
        }
        self.settle(file, entry.mode, entry.mtime)
            .map_err(fails(entry))
    }

    fn hard_link(&mut self, entry: &Entry, names: &[&[u8]], target: &[&[u8]]) -> Result<(), Error> {
        let (Some((target_name, parents)), Some(name)) = (target.split_last(), names.last()) else {
            return Err(refused(entry, "is a link to a directory"));
        };
        if target == names {
            return Ok(());
        }
        let mut dir = None;
        for parent in parents {
            let from = dir
                .as_ref()
                .map_or_else(|| self.place.dir.as_fd(), OwnedFd::as_fd);
            dir = Some(open_dir(from, parent).map_err(in_the_way(entry))?);
        }
        let from = dir
            .as_ref()
            .map_or_else(|| self.place.dir.as_fd(), OwnedFd::as_fd);
        let link = |to: BorrowedFd<'_>| {
            // Without following what the target may be.
            rustix::fs::linkat(from, *target_name, to, *name, AtFlags::empty())
        };
        self.replace(entry, name, link)
    }

    /// Makes something called `name`, in the place of what is called so, unless that is a directory.
    fn replace<T>(
        &self,
        entry: &Entry,
        name: &[u8],
        make: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Error> {
        let made = match make(self.dir()) {
            Err(Errno::EXIST) => {
                match rustix::fs::unlinkat(self.dir(), name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::ISDIR | Errno::PERM) => {
                        return Err(refused(entry, "would replace a directory"));
                    }
                    Err(error) => return Err(fails(entry)(error)),
                }
                make(self.dir())
            }
            made => made,
        };
        made.map_err(fails(entry))
    }

    /// The directory that files go into.
    fn dir(&self) -> BorrowedFd<'_> {
        let last = self.open.last();
        last.map_or_else(|| self.place.dir.as_fd(), |open| open.dir.as_fd())
    }

    /// Goes to the directory with these names, and makes those that no entry was for.
    fn enter(&mut self, entry: &Entry, names: &[&[u8]]) -> Result<(), Error> {
        let same = self.open.iter().zip(names);
        let common = same.take_while(|(open, name)| open.name == **name).count();
        self.leave(common)?;
        for name in &names[common..] {
            let (step, _) = self.step(entry, name, 0o755)?;
            self.open.push(step);
        }
        Ok(())
    }

    /// One directory further, which is made if it is not there, and whether that was so.
    fn step(&self, entry: &Entry, name: &[u8], mode: u32) -> Result<(OpenDir, bool), Error> {
        let (dir, is_new) = match open_dir(self.dir(), name) {
            Err(Errno::NOENT) => {
                let mode = Mode::from_raw_mode(mode);
                rustix::fs::mkdirat(self.dir(), name, mode).map_err(fails(entry))?;
                (open_dir(self.dir(), name), true)
            }
            opened => (opened, false),
        };
        let step = OpenDir {
            name: name.to_vec(),
            dir: dir.map_err(in_the_way(entry))?,
            settle: None,
        };
        Ok((step, is_new))
    }

    /// Leaves all directories but the first `keep`, innermost first.
    fn leave(&mut self, keep: usize) -> Result<(), Error> {
        while self.open.len() > keep
            && let Some(left) = self.open.pop()
        {
            if let Some((mode, mtime)) = left.settle {
                let settled = self.settle(&left.dir, mode, mtime);
                settled.map_err(|source| Error::File {
                    what: "write",
                    path: path_of(&left.name),
                    source: source.into(),
                })?;
            }
        }
        Ok(())
    }

    fn settle(&self, file: &OwnedFd, mode: u32, mtime: u64) -> Result<(), Errno> {
        let kept = match self.modes {
            Modes::Permissions => 0o777,
            Modes::All => 0o7777,
        };
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode & kept))?;
        rustix::fs::futimens(file, &times(mtime))
    }
}

/// A directory, and not what a link leads to.
fn open_dir(from: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(from, name, flags, Mode::empty())
}

fn times(mtime: u64) -> Timestamps {
    let time = Timespec {
        // More than a file system keeps is cut by it.
        tv_sec: i64::try_from(mtime).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn refused(entry: &Entry, problem: &'static str) -> Error {
    Error::Refused {
        path: path_of(&entry.path),
        problem,
    }
}

fn fails(entry: &Entry) -> impl Fn(Errno) -> Error {
    |source| Error::File {
        what: "write",
        path: path_of(&entry.path),
        source: source.into(),
    }
}

fn in_the_way(entry: &Entry) -> impl Fn(Errno) -> Error {
    |error| match error {
        Errno::NOTDIR | Errno::LOOP => refused(entry, "leads through a link or a file"),
        error => fails(entry)(error),
    }
}

pub(crate) fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}
