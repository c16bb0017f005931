//! Layers on their way into the store: each a file under its digest, which holds the beginning of it or all of it.
//!
//! ```text
//! DIR/blobs/sha256/<digest>   exclusively locked by who fetches it, then shared by who makes disks of it
//! DIR/pulls/<digest>          locked by who pulls the image with this manifest
//! ```
//!
//! Nothing in such a file is believed for being there: whoever takes it up hashes it first. It is removed when its
//! image is made, or has been left alone for a week.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::content::{Digest, Hasher};
use crate::store::Store;

/// Partial layers that nobody went on with for so long are removed.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const BUFFER: usize = 128 * 1024;

/// A layer's file, locked, with what it holds hashed.
pub(super) struct Blob {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    len: u64,
}

/// How a blob was found.
pub(super) enum Found {
    /// To be fetched, from its length on.
    Part(Blob),
    /// Fetched by another pull, and whole.
    Whole(Blob),
}

impl Blob {
    /// Takes up the blob, after another pull that fetches it has ended. Blocks.
    pub(super) fn take(store: &Store, digest: Digest, size: u64) -> io::Result<Found> {
        let dir = store.dir().join("blobs/sha256");
        store.make(&dir)?;
        let path = dir.join(digest.to_string());
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)?;
            let is_ours = file.try_lock().is_ok();
            if !is_ours {
                // Whoever fetches it shares it when it is whole.
                file.lock_shared()?;
            }
            if !is_at(&file, &path) {
                continue;
            }
            let mut blob = Self {
                path: path.clone(),
                file,
                hasher: Hasher::new(),
                len: 0,
            };
            blob.read_in(size)?;
            if blob.len == size && blob.hasher.clone().finish() == digest {
                blob.file.lock_shared()?;
                if is_at(&blob.file, &path) {
                    return Ok(Found::Whole(blob));
                }
                continue;
            }
            if !is_ours {
                // The other pull failed.
                continue;
            }
            if blob.len >= size {
                blob.restart()?;
            }
            return Ok(Found::Part(blob));
        }
    }

    /// Hashes what there is; more than `size` is none of it.
    fn read_in(&mut self, size: u64) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut from = (&self.file).take(size.saturating_add(1));
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(()),
                read => {
                    self.hasher.update(&buffer[..read]);
                    self.len += read as u64;
                }
            }
        }
    }

    /// Bytes that are there.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.len)?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Begins anew.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.hasher = Hasher::new();
        self.len = 0;
        Ok(())
    }

    pub(super) fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Lets others have it, who hash it as well. Whether it is still the file of its name.
    pub(super) fn share(&self) -> io::Result<bool> {
        self.file.lock_shared()?;
        Ok(is_at(&self.file, &self.path))
    }

    /// Removes it, unless others have it.
    pub(super) fn remove(self) {
        // One that stays is removed after a week.
        if self.file.try_lock().is_ok() && is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The right to pull one image, held while it lives.
pub(super) struct Turn {
    path: PathBuf,
    /// Locked.
    _file: File,
}

impl Turn {
    /// Waits for other pulls of the image; before that `on_wait` is called. Blocks.
    pub(super) fn take(store: &Store, digest: Digest, on_wait: impl Fn()) -> io::Result<Self> {
        let dir = store.dir().join("pulls");
        store.make(&dir)?;
        let path = dir.join(digest.to_string());
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)?;
            if file.try_lock().is_err() {
                on_wait();
                file.lock()?;
            }
            if is_at(&file, &path) {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // While it is locked: whoever waits for it finds that it is another file.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes layers that nobody holds and nobody has gone on with.
pub(super) fn sweep(store: &Store, now: SystemTime) {
    let entries = fs::read_dir(store.dir().join("blobs/sha256"));
    for entry in entries.into_iter().flatten().flatten() {
        let path = entry.path();
        let abandoned = |file: &File| {
            let changed = file.metadata()?.modified()?;
            let age = now.duration_since(changed).unwrap_or_default();
            io::Result::Ok(age > ABANDONED)
        };
        if let Ok(file) = File::open(&path)
            && file.try_lock().is_ok()
            && abandoned(&file).is_ok_and(|abandoned| abandoned)
            && is_at(&file, &path)
        {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Whether `path` is still this file's.
fn is_at(file: &File, path: &Path) -> bool {
    let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let (held, named) = (file.metadata().map(inode), fs::metadata(path).map(inode));
    matches!((held, named), (Ok(held), Ok(named)) if held == named)
}
