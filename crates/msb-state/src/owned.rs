//! Holding a sandbox.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::files::{self, Tried as _};
use crate::record::{Phase, Record};
use crate::{Error, LogWriter, socket};

pub(crate) const LOCK: &str = "lock";

/// A sandbox that this process holds. Others see it as held until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Owned {
    dir: PathBuf,
    record: Record,
    // Held open, not read.
    lock: File,
}

impl Owned {
    pub(crate) fn new(dir: PathBuf, mut lock: File, record: Record) -> Result<Self, Error> {
        let write = |lock: &mut File| {
            lock.set_len(0)?;
            lock.seek(SeekFrom::Start(0))?;
            lock.write_all(std::process::id().to_string().as_bytes())
        };
        write(&mut lock).tried("write", &dir.join(LOCK))?;
        Ok(Self { dir, record, lock })
    }

    /// What is written down of it.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether its directory is still the one that was taken hold of. Somebody who removes it by other means than this crate
    /// makes the name free for another.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        let named = std::fs::symlink_metadata(self.dir.join(LOCK));
        let inode = |data: std::fs::Metadata| (data.dev(), data.ino());
        let (named, held) = (named.map(inode), self.lock.metadata().map(inode));
        matches!((named, held), (Ok(named), Ok(held)) if named == held)
    }

    fn in_place(&self) -> Result<(), Error> {
        match self.is_in_place() {
            true => Ok(()),
            false => Err(Error::Lost {
                name: self.record.name.to_string(),
            }),
        }
    }

    /// Writes down how far it has come.
    ///
    /// # Errors
    /// [`Error::Lost`]; the system's refusal. The old record is there then.
    pub fn set_phase(&mut self, phase: Phase) -> Result<(), Error> {
        self.in_place()?;
        self.record.set_phase(phase);
        self.record.write(&self.dir)
    }

    /// What the next [`set_phase`](Self::set_phase) writes down besides.
    pub fn set_facts(&mut self, facts: Value) {
        self.record.facts = facts;
    }

    /// Listens for those who connect to the sandbox.
    ///
    /// # Errors
    /// [`Error::Lost`]; the system's refusal.
    pub fn listen(&self) -> Result<UnixListener, Error> {
        self.in_place()?;
        socket::listen(&self.dir).tried("listen at", &self.dir.join(socket::FILE))
    }

    /// Ends that.
    pub fn unlisten(&self) {
        if self.is_in_place() {
            // The next look removes it otherwise.
            let _ = std::fs::remove_file(self.dir.join(socket::FILE));
        }
    }

    /// Its log, to be written on.
    ///
    /// # Errors
    /// The system's refusal.
    pub fn log(&self) -> Result<LogWriter, Error> {
        LogWriter::open(&self.dir)
    }
}

/// Locks the sandbox in `dir`; `None` if another process has done so.
pub(crate) fn lock(dir: &Path) -> Result<Option<File>, Error> {
    let path = dir.join(LOCK);
    let lock = files::open(&path)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error).tried("lock", &path),
    }
    // A lock of a file that has no name any more keeps nobody out.
    let inode = |data: std::fs::Metadata| (data.dev(), data.ino());
    let held = lock.metadata().tried("look at", &path)?;
    let named = std::fs::metadata(&path).tried("look at", &path)?;
    Ok((inode(held) == inode(named)).then_some(lock))
}

/// The process id that the holder has left in its lock.
pub(crate) fn read_pid(dir: &Path) -> Option<u32> {
    let mut text = String::new();
    let lock = files::open_to_read(&dir.join(LOCK)).ok()?;
    lock.take(16).read_to_string(&mut text).ok()?;
    text.parse().ok()
}
