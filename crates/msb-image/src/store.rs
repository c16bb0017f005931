//! The store on disk: content-addressed files, manifests, and how they are written.
//!
//! ```text
//! DIR/lock                    held for moments: to make a temporary file, to publish, to prune
//! DIR/tmp/*                   files being written; each is locked by its writer
//! DIR/files/<sha256>          whole files, never changed
//! DIR/guest/kernel.json ...   manifests: which file is current
//! DIR/images/<name>.json
//! ```
//!
//! Everything appears by a rename of a finished, synced file. What a killed writer leaves in
//! `tmp` is nobody's lock any more, so the next writer removes it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::config::ImageConfig;
use crate::content::{self, Digest};
use crate::error::Error;
use crate::manifest::{Artefact, ImageName, Manifest};

/// A directory of guest kernels, initramfs files and root disks.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The store in `dir`, which need not exist: it is created by the first write.
    pub fn open(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The store in [`Store::default_dir`].
    ///
    /// # Errors
    ///
    /// [`Error::NoHome`].
    pub fn open_default() -> Result<Self, Error> {
        Self::default_dir().map(Self::open)
    }

    /// `$MSB_HOME`, else `$XDG_CACHE_HOME/msb`, else `$HOME/.cache/msb`.
    ///
    /// An `XDG_CACHE_HOME` or `HOME` that is not absolute is passed over, as the XDG base
    /// directory specification says.
    ///
    /// # Errors
    ///
    /// [`Error::NoHome`] when none is set.
    pub fn default_dir() -> Result<PathBuf, Error> {
        default_dir(|name| std::env::var_os(name))
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a file with this digest is, if the store has it.
    pub fn content_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("files").join(digest.to_string())
    }

    /// The current manifest of `artefact`; None if there is none or its file is gone.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] if the manifest or its file is not what was written, [`Error::Io`].
    pub fn manifest(&self, artefact: &Artefact) -> Result<Option<Manifest>, Error> {
        match self.read_manifest(artefact)? {
            Current::Whole(manifest) => Ok(Some(*manifest)),
            Current::Absent => Ok(None),
            Current::FileGone => {
                // Another may have published a newer version and removed this one's file in between. Nothing is
                // removed while the lock is held; a store that cannot be locked is not being changed either.
                let _lock = self.lock().ok();
                Ok(match self.read_manifest(artefact)? {
                    Current::Whole(manifest) => Some(*manifest),
                    Current::Absent | Current::FileGone => None,
                })
            }
        }
    }

    fn read_manifest(&self, artefact: &Artefact) -> Result<Current, Error> {
        let path = self.dir.join(artefact.manifest_path());
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Current::Absent),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let damaged = |path, problem| Error::Damaged {
            artefact: Some(artefact.clone()),
            path,
            problem,
        };
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| damaged(path, format!("is not a manifest ({error})")))?;
        let path = self.content_path(&manifest.content.sha256);
        match fs::metadata(&path) {
            Ok(found) if found.len() == manifest.content.bytes => {
                Ok(Current::Whole(Box::new(manifest)))
            }
            Ok(found) => {
                let (found, expected) = (found.len(), manifest.content.bytes);
                let problem = format!("has {found} bytes instead of {expected}");
                Err(damaged(path, problem))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Current::FileGone),
            Err(error) => Err(Error::io("read", &path)(error)),
        }
    }

    /// The manifest of `artefact` as it was written, whatever became of its file; None if there is none that parses.
    pub(crate) fn written(&self, artefact: &Artefact) -> Result<Option<Manifest>, Error> {
        let path = self.dir.join(artefact.manifest_path());
        match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path)(error)),
        }
    }

    /// Names of the images the store has, sorted.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the directory cannot be listed.
    pub fn image_names(&self) -> Result<Vec<ImageName>, Error> {
        let mut names: Vec<ImageName> = list(&self.dir.join("images"))?
            .iter()
            .filter_map(|path| ImageName::of_file_name(path.file_name()?.to_str()?))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Copies `from` into the store and makes it the current version of `artefact`.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`], [`Error::Io`]; the former version then stands.
    pub fn publish(
        &self,
        artefact: &Artefact,
        from: &mut impl Read,
        recipe: String,
        origin: String,
    ) -> Result<Manifest, Error> {
        let mut staged = self.temporary()?;
        let content =
            content::copy(from, staged.as_file_mut()).map_err(Error::io("write", &self.dir))?;
        let manifest = Manifest {
            content,
            recipe,
            origin,
            config: ImageConfig::default(),
            imported: false,
        };
        self.publish_staged(artefact, Some(staged), manifest)
    }

    /// Makes a written file, or one that the store has, the current version of `artefact`.
    pub(crate) fn publish_staged(
        &self,
        artefact: &Artefact,
        staged: Option<NamedTempFile>,
        manifest: Manifest,
    ) -> Result<Manifest, Error> {
        let target = self.dir.join(artefact.manifest_path());
        let mut temporary = self.temporary()?;
        let mut text = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| Error::io("encode", &target)(error.into()))?;
        text.push(b'\n');
        temporary
            .write_all(&text)
            .map_err(Error::io("write", &target))?;
        // Nothing is pruned between the file's coming and the manifest that names it.
        let _lock = self.lock()?;
        let path = self.content_path(&manifest.content.sha256);
        // A file of that name but another length was damaged after it was written.
        let whole = fs::metadata(&path).is_ok_and(|found| found.len() == manifest.content.bytes);
        match staged {
            Some(staged) if !whole => finish(staged, &path)?,
            None if !whole => {
                // Whoever had it in their hands held it, but for a hand that deletes files here.
                return Err(Error::Damaged {
                    artefact: Some(artefact.clone()),
                    path,
                    problem: "was removed at this moment".into(),
                });
            }
            _ => {}
        }
        finish(temporary, &target)?;
        Ok(manifest)
    }

    /// Removes an imported image by its name; its disk too, if no other image and no running sandbox has it.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownImage`], [`Error::NotImported`], [`Error::Damaged`], [`Error::Io`].
    pub fn remove_image(&self, name: &ImageName) -> Result<(), Error> {
        let path = self.dir.join(Artefact::Image(name.clone()).manifest_path());
        {
            let _lock = self.lock()?;
            let text = match fs::read(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(self.unknown(name.as_str()));
                }
                Err(error) => return Err(Error::io("read", &path)(error)),
            };
            // One that does not parse is of no use to anybody.
            let manifest = serde_json::from_slice::<Manifest>(&text);
            if manifest.is_ok_and(|manifest| !manifest.imported) {
                return Err(Error::NotImported {
                    name: name.clone(),
                    action: "removed",
                });
            }
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        self.prune().map(drop)
    }

    /// That there is no image of this name.
    pub(crate) fn unknown(&self, name: &str) -> Error {
        Error::UnknownImage {
            name: name.to_owned(),
            known: self
                .image_names()
                .unwrap_or_default()
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }

    /// Removes files that no manifest names and no process holds, and returns how many.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] if a manifest cannot be read: then nothing is removed. [`Error::Io`].
    pub fn prune(&self) -> Result<usize, Error> {
        let _lock = self.lock()?;
        let mut kept = Vec::new();
        for manifest in list(&self.dir.join("guest"))?
            .into_iter()
            .chain(list(&self.dir.join("images"))?)
        {
            let text = fs::read(&manifest).map_err(Error::io("read", &manifest))?;
            let parsed: Manifest =
                serde_json::from_slice(&text).map_err(|error| Error::Damaged {
                    artefact: manifest
                        .file_name()
                        .and_then(|name| ImageName::of_file_name(name.to_str()?))
                        .map(Artefact::Image),
                    path: manifest,
                    problem: format!("is not a manifest ({error})"),
                })?;
            kept.push(self.content_path(&parsed.content.sha256));
        }
        let mut removed = 0;
        for path in list(&self.dir.join("files"))? {
            if !kept.contains(&path) && remove_unless_locked(&path)? {
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Opens the current version of `artefact`; while the handle lives, [`Store::prune`] leaves it.
    pub(crate) fn hold(
        &self,
        artefact: &Artefact,
    ) -> Result<Option<(Manifest, PathBuf, File)>, Error> {
        while let Some(manifest) = self.manifest(artefact)? {
            let path = self.content_path(&manifest.content.sha256);
            if let Some(file) = hold_file(&path)? {
                return Ok(Some((manifest, path, file)));
            }
        }
        Ok(None)
    }

    /// A new file below `tmp`, locked by this process, after removing those of dead writers.
    pub(crate) fn temporary(&self) -> Result<NamedTempFile, Error> {
        let dir = self.dir.join("tmp");
        self.make(&dir).map_err(Error::io("create", &dir))?;
        // Without this lock a file could be swept between its creation and its own lock.
        let _lock = self.lock()?;
        for path in list(&dir)? {
            remove_unless_locked(&path)?;
        }
        let temporary = NamedTempFile::new_in(&dir).map_err(Error::io("create a file in", &dir))?;
        temporary
            .as_file()
            .lock()
            .map_err(Error::io("lock", temporary.path()))?;
        Ok(temporary)
    }

    /// Makes a directory of the store's, and the store for nobody but its user: an image can be one that others may not
    /// have.
    pub(crate) fn make(&self, dir: &Path) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.dir)?;
        fs::create_dir_all(dir)
    }

    fn lock(&self) -> Result<File, Error> {
        self.make(&self.dir)
            .map_err(Error::io("create", &self.dir))?;
        let path = self.dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        file.lock().map_err(Error::io("lock", &path))?;
        Ok(file)
    }
}

fn default_dir(env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, Error> {
    let path = |name| {
        env(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let absolute = |name| path(name).filter(|path| path.is_absolute());
    path("MSB_HOME")
        .or_else(|| absolute("XDG_CACHE_HOME").map(|cache| cache.join("msb")))
        .or_else(|| absolute("HOME").map(|home| home.join(".cache/msb")))
        .ok_or(Error::NoHome)
}

/// What the manifest of an artefact stands for at one moment.
enum Current {
    /// A manifest and its file.
    Whole(Box<Manifest>),
    /// A manifest whose file is not there.
    FileGone,
    /// No manifest.
    Absent,
}

/// Paths in `dir`, sorted; none if there is no such directory.
fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", dir)(error)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(Error::io("list", dir))?;
    paths.sort();
    Ok(paths)
}

/// Opens `path` with a shared lock; None if it is gone or is replaced in that moment: then the lock is on a file that
/// has no name any more.
pub(crate) fn hold_file(path: &Path) -> Result<Option<File>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path)(error)),
    };
    file.lock_shared().map_err(Error::io("lock", path))?;
    let held = file.metadata().map_err(Error::io("read", path))?;
    let same = fs::metadata(path)
        .is_ok_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino()));
    Ok(same.then_some(file))
}

/// Whether `path` was removed; a file that a process holds a lock on, or that is gone, is not.
fn remove_unless_locked(path: &Path) -> Result<bool, Error> {
    let Ok(file) = File::open(path) else {
        return Ok(false);
    };
    if file.try_lock().is_err() {
        return Ok(false);
    }
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("remove", path)(error)),
    }
}

/// Syncs `temporary` and renames it to `target`: after a crash the old or the whole new file is
/// there.
fn finish(temporary: NamedTempFile, target: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = target.parent().unwrap_or(target);
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let file = temporary.as_file();
    file.set_permissions(fs::Permissions::from_mode(0o644))
        .and_then(|()| file.sync_all())
        .map_err(Error::io("write", target))?;
    temporary
        .persist(target)
        .map_err(|error| Error::io("write", target)(error.error))?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::io("write", dir))
}

#[cfg(test)]
mod tests;
