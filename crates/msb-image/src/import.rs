//! Images of other makes into root disks.
//!
//! ```text
//! OCI layout (directory or tar) ─┐ layers read and verified, merged into a tree of names (tree.rs)
//! docker archive (tar)          ─┤   → layers read again, what won of each goes to mksquashfs → disk
//! pulled layers (registry.rs)   ─┘
//! directory ──────────────────────── mksquashfs → disk
//! squashfs or ext4 file ───────────── copied
//! ```
//!
//! Files are never unpacked: no path of a layer is ever opened on this machine, nothing needs root, and the disk is the
//! only thing written. What layers hide is read once and goes nowhere.

mod entries;
mod error;
mod fingerprint;
pub(crate) mod layer;
mod limits;
mod merge;
pub(crate) mod oci;
mod pack;
pub(crate) mod source;
mod tree;

pub(crate) use error::shown_text;
pub use error::{ImportError, LayerError};
pub use limits::ImportLimits;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

pub(crate) use self::merge::merge;
use self::source::Source;
use crate::config::ImageConfig;
use crate::content::{self, Content, Digest};
use crate::error::Error;
use crate::format;
use crate::manifest::{Artefact, ImageName, Manifest};
use crate::store::{Store, hold_file};

/// Raise when equal images would become other disks than before.
const RECIPE_VERSION: u32 = 1;

/// What to import an image as.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Its name in the store. Default: made of the file's own.
    pub name: Option<ImageName>,
    /// Which image, where there are several: a reference of the layout's index, or a tag of the docker archive.
    pub reference: Option<String>,
    /// What it may take.
    pub limits: ImportLimits,
}

/// An image that was imported.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Its name in the store.
    pub name: ImageName,
    /// Its disk and how it is run.
    pub manifest: Manifest,
    /// Whether a disk was made, rather than found in the store.
    pub is_new: bool,
}

/// What is known of an image besides its disk.
pub(crate) struct Made {
    /// Equal recipes make equal disks; empty where nothing identifies it.
    pub(crate) recipe: String,
    pub(crate) origin: String,
    pub(crate) config: ImageConfig,
}

/// A disk that is there, and stays while this lives.
pub(crate) struct Known {
    content: Content,
    _held: File,
}

/// What is at a path.
enum Input {
    Oci(Source),
    Docker(Source),
    Directory,
    /// A file system.
    File,
}

impl Store {
    /// Brings the image at `path` into the store: an OCI image layout (a directory, or a tar archive of one), a docker
    /// archive, a directory with a root file system, or a squashfs or ext4 file. An image of that name is replaced once the new
    /// one is whole; one that was imported before is not made again.
    ///
    /// # Errors
    ///
    /// [`Error::Import`] says what of the image is wrong; [`Error::NotImported`], [`Error::ImageName`],
    /// [`Error::NoSpace`], [`Error::Io`]. The store is then as it was.
    pub fn import(&self, path: &Path, options: &ImportOptions) -> Result<Imported, Error> {
        let name = match &options.name {
            Some(name) => name.clone(),
            None => name_of(path)?,
        };
        self.check_replaceable(&name)?;
        let failed = |source| self.refusal(path, source);
        let reference = options.reference.as_deref();
        let input = recognise(path).map_err(failed)?;
        let image = match &input {
            Input::Oci(source) => Some((oci::layout(source, reference).map_err(failed)?, source)),
            Input::Docker(source) => {
                Some((oci::docker(source, reference).map_err(failed)?, source))
            }
            Input::Directory | Input::File => None,
        };
        let (recipe, config) = match (&image, &input) {
            (Some((image, _)), _) => (recipe(image.digest), image.config.clone()),
            (None, Input::Directory) => {
                let fingerprint = fingerprint::of(path, SystemTime::now()).map_err(failed)?;
                let recipe = fingerprint.map(|print| format!("directory {RECIPE_VERSION} {print}"));
                (recipe.unwrap_or_default(), ImageConfig::default())
            }
            (None, _) => (String::new(), ImageConfig::default()),
        };
        let made = Made {
            recipe,
            origin: path.display().to_string(),
            config,
        };
        let known = self.made_by(&made.recipe)?;
        self.keep(name, made, known, |disk| {
            let made = match &image {
                Some((image, source)) => merge(image, source, disk, options.limits),
                None => plain(path, &input, disk),
            };
            made.map_err(failed)
        })
    }

    /// That an image may be imported under this name.
    fn check_replaceable(&self, name: &ImageName) -> Result<(), Error> {
        // One that is damaged is replaced by a whole one.
        let existing = self.written(&Artefact::Image(name.clone()))?;
        match existing {
            Some(manifest) if !manifest.imported => Err(Error::NotImported {
                name: name.clone(),
                action: "replaced",
            }),
            _ => Ok(()),
        }
    }

    /// Makes an image current under `name`: with the disk that is `known`, else with one that `build` writes.
    pub(crate) fn keep(
        &self,
        name: ImageName,
        made: Made,
        known: Option<Known>,
        build: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<Imported, Error> {
        let artefact = Artefact::Image(name.clone());
        let existing = self.written(&artefact)?;
        let is_new = known.is_none();
        let (staged, content) = match &known {
            Some(known) => (None, known.content),
            None => {
                let staged = self.temporary()?;
                build(staged.path())?;
                let content = File::open(staged.path())
                    .and_then(|mut disk| content::copy(&mut disk, &mut io::sink()))
                    .map_err(Error::io("read", staged.path()))?;
                (Some(staged), content)
            }
        };
        let manifest = Manifest {
            content,
            recipe: made.recipe,
            origin: made.origin,
            config: made.config,
            imported: true,
        };
        let manifest = self.publish_staged(&artefact, staged, manifest)?;
        if existing.is_some_and(|former| former.content != manifest.content) {
            // The former disk is nobody's now; one that stays takes space and no more.
            let _ = self.prune();
        }
        Ok(Imported {
            manifest,
            name,
            is_new,
        })
    }

    /// The error of an import; a full disk is told as such.
    fn refusal(&self, path: &Path, source: ImportError) -> Error {
        match source {
            ImportError::NoSpace(source) => Error::NoSpace {
                path: self.dir().to_owned(),
                source,
            },
            source => Error::Import {
                path: path.to_owned(),
                source: Box::new(source),
            },
        }
    }

    /// What the store has under the name of an image.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownImage`], [`Error::Damaged`], [`Error::Io`].
    pub fn image(&self, name: &ImageName) -> Result<Manifest, Error> {
        let manifest = self.manifest(&Artefact::Image(name.clone()))?;
        manifest.ok_or_else(|| self.unknown(name.as_str()))
    }

    /// The disk of any image that was made by `recipe`.
    pub(crate) fn made_by(&self, recipe: &str) -> Result<Option<Known>, Error> {
        if recipe.is_empty() {
            return Ok(None);
        }
        for name in self.image_names()? {
            // A damaged image is made again.
            if let Ok(Some(manifest)) = self.manifest(&Artefact::Image(name))
                && manifest.recipe == recipe
                && let Some(held) = hold_file(&self.content_path(&manifest.content.sha256))?
            {
                return Ok(Some(Known {
                    content: manifest.content,
                    _held: held,
                }));
            }
        }
        Ok(None)
    }
}

/// What identifies the disk of the image with this digest.
pub(crate) fn recipe(digest: Digest) -> String {
    format!("import {RECIPE_VERSION} {digest:?}")
}

/// A name for what is at `path`: its last part in lower case without what an extension adds, anything else as `-`.
fn name_of(path: &Path) -> Result<ImageName, Error> {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = whole
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let known = [
        ".tar",
        ".tar.gz",
        ".tgz",
        ".squashfs",
        ".sqfs",
        ".ext4",
        ".img",
        ".oci",
    ];
    let stem = known
        .iter()
        .find_map(|extension| name.strip_suffix(extension))
        .unwrap_or(&name);
    let text: String = stem
        .chars()
        .map(|c| match c {
            'a'..='z' | '0'..='9' | '.' | '_' | '-' => c,
            _ => '-',
        })
        .take(128)
        .collect();
    Ok(text
        .trim_start_matches(['.', '_', '-'])
        .parse::<ImageName>()?)
}

fn recognise(path: &Path) -> Result<Input, ImportError> {
    let unreadable = |source| ImportError::Read {
        what: "it".into(),
        source,
    };
    if std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        let source = Source::Directory(path.to_owned());
        let is_layout = source.has("oci-layout") || source.has("index.json");
        return Ok(match is_layout {
            true => Input::Oci(source),
            false => Input::Directory,
        });
    }
    let mut head = Vec::new();
    source::open_file(path)
        .and_then(|file| {
            file.take(format::HEAD_BYTES as u64 * 2)
                .read_to_end(&mut head)
        })
        .map_err(unreadable)?;
    if format::disk(&head).is_some() {
        return Ok(Input::File);
    }
    let unrecognised = |hint| Err(ImportError::Unrecognised { hint });
    if head.starts_with(&[0x1f, 0x8b]) {
        return unrecognised(": it is compressed by gzip, unpack it with gunzip first");
    }
    if head.get(257..262) != Some(b"ustar") {
        return unrecognised("");
    }
    let source = Source::archive(path)?;
    // Docker writes both; only the layout names blobs by digests.
    if source.has("index.json") && source.has("oci-layout") {
        Ok(Input::Oci(source))
    } else if source.has("manifest.json") {
        Ok(Input::Docker(source))
    } else {
        unrecognised(
            ": it is a tar archive without an image's index.json or manifest.json; unpack a root file system and import the directory",
        )
    }
}

fn plain(path: &Path, input: &Input, disk: &Path) -> Result<(), ImportError> {
    let Input::File = input else {
        // Whatever it is called, it is no option.
        let path = std::path::absolute(path).map_err(|source| ImportError::Read {
            what: "it".into(),
            source,
        })?;
        return pack::directory(&path, disk);
    };
    let read = |source| ImportError::Read {
        what: "it".into(),
        source,
    };
    let mut head = Vec::new();
    let mut file = source::open_file(path).map_err(read)?;
    let found = file.metadata().map_err(read)?.len();
    (&mut file)
        .take(format::HEAD_BYTES as u64)
        .read_to_end(&mut head)
        .map_err(read)?;
    let Some(disk_in) = format::disk(&head) else {
        return Err(ImportError::Unrecognised { hint: "" });
    };
    let (format, expected) = (disk_in.format, disk_in.len);
    if !disk_in.is_clean {
        return Err(ImportError::Document {
            what: format!("{format} file system"),
            problem: "was not unmounted: run `e2fsck -p` on it".into(),
        });
    }
    if found < expected {
        return Err(ImportError::BlobSize {
            what: format!("{format} file"),
            expected,
            found,
        });
    }
    let mut to = File::options().write(true).open(disk).map_err(read)?;
    io::copy(&mut io::Cursor::new(head).chain(file), &mut to)
        .map(drop)
        .map_err(ImportError::writing)
}
