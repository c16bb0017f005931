//! From names and paths to files that a machine can be started with.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::ImageConfig;
use crate::error::Error;
use crate::format;
use crate::manifest::{Artefact, ImageName};
use crate::reference::ImageArgument;
use crate::store::Store;

/// Files to use instead of the store's current ones (`--kernel`, `--initramfs`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestPaths {
    /// A vmlinux with a PVH note, or a bzImage.
    pub kernel: Option<PathBuf>,
    /// An initramfs in any compression the kernel knows.
    pub initramfs: Option<PathBuf>,
}

/// What a guest boots. Stored files stay in place as long as this value or a clone of it lives.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initramfs with the agent.
    pub initramfs: PathBuf,
    _held: Vec<Arc<File>>,
}

/// A read-only root disk. A stored file stays in place as long as this value or a clone lives.
#[derive(Clone, Debug)]
pub struct RootDisk {
    /// The disk's file.
    pub path: PathBuf,
    /// What is in it.
    pub format: DiskFormat,
    /// How the image wants to be run.
    pub config: ImageConfig,
    _held: Option<Arc<File>>,
}

/// The file system on a root disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskFormat {
    /// squashfs 4.x, read-only.
    Squashfs,
    /// ext4, or ext2 or ext3, which the same driver reads.
    Ext4,
}

/// As the kernel calls it.
impl fmt::Display for DiskFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Squashfs => "squashfs",
            Self::Ext4 => "ext4",
        })
    }
}

impl Store {
    /// The kernel and initramfs to boot: the given files, else the store's current ones.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] if nothing was built yet; [`Error::Unreadable`] or
    /// [`Error::WrongFormat`] for a given file; [`Error::Damaged`], [`Error::Io`].
    pub fn guest(&self, paths: &GuestPaths) -> Result<Guest, Error> {
        self.resolve_guest(paths, Artefact::Initramfs)
    }

    /// The current kernel with an initramfs that powers off at once: what the fastest possible
    /// boot of this kernel takes is measured with it.
    ///
    /// # Errors
    ///
    /// As for [`Store::guest`].
    pub fn bare_guest(&self) -> Result<Guest, Error> {
        self.resolve_guest(&GuestPaths::default(), Artefact::BareInitramfs)
    }

    /// The root disk called `name`: a name, or the reference of an image that was pulled.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownImage`], which lists the names there are; [`Error::Reference`] if it is neither;
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn root_disk(&self, name: &str) -> Result<RootDisk, Error> {
        let artefact = Artefact::Image(self.find(name)?);
        let Some((manifest, path, held)) = self.hold(&artefact)? else {
            return Err(self.unknown(name));
        };
        Ok(RootDisk {
            format: disk_format(&path)?,
            path,
            config: manifest.config,
            _held: Some(Arc::new(held)),
        })
    }

    /// The name of the image that `text` means: the image of that name, else of that reference, if the store has it.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownImage`], which lists the names there are; [`Error::Reference`] if it is neither.
    pub fn find(&self, text: &str) -> Result<ImageName, Error> {
        let (plain, reference) = match ImageArgument::parse(text)? {
            ImageArgument::Name(name, reference) => (Some(name), reference),
            ImageArgument::Reference(reference) => (None, Some(reference)),
            ImageArgument::Path(_) => (None, None),
        };
        let has = |name: &ImageName| {
            let manifest = Artefact::Image(name.clone()).manifest_path();
            self.dir().join(manifest).exists()
        };
        let mut names = plain.into_iter().chain(reference.map(ImageName::from));
        names.find(has).ok_or_else(|| self.unknown(text))
    }

    fn resolve_guest(&self, paths: &GuestPaths, initramfs: Artefact) -> Result<Guest, Error> {
        let mut held = Vec::new();
        let mut current = |artefact: Artefact| -> Result<PathBuf, Error> {
            let (_, path, file) = self.hold(&artefact)?.ok_or_else(|| Error::Missing {
                artefact,
                store: self.dir().to_owned(),
            })?;
            held.push(Arc::new(file));
            Ok(path)
        };
        Ok(Guest {
            kernel: match &paths.kernel {
                Some(path) => given_kernel(path)?,
                None => current(Artefact::Kernel)?,
            },
            initramfs: match &paths.initramfs {
                Some(path) => given_initramfs(path)?,
                None => current(initramfs)?,
            },
            _held: held,
        })
    }
}

impl RootDisk {
    /// The root disk in the file at `path` (`--rootfs`).
    ///
    /// # Errors
    ///
    /// [`Error::Unreadable`]; [`Error::WrongFormat`] if it is neither squashfs nor ext4;
    /// [`Error::Truncated`] if it is shorter than its header says.
    pub fn from_path(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            format: disk_format(path)?,
            path: path.to_owned(),
            config: ImageConfig::default(),
            _held: None,
        })
    }
}

fn given_kernel(path: &Path) -> Result<PathBuf, Error> {
    let (head, _) = head("kernel", path)?;
    if format::is_kernel(&head) {
        Ok(path.to_owned())
    } else {
        Err(Error::WrongFormat {
            path: path.to_owned(),
            expected: "a kernel (an x86-64 vmlinux or bzImage)",
        })
    }
}

fn given_initramfs(path: &Path) -> Result<PathBuf, Error> {
    match head("initramfs", path)? {
        (_, 0) => Err(Error::WrongFormat {
            path: path.to_owned(),
            expected: "an initramfs: it is empty",
        }),
        _ => Ok(path.to_owned()),
    }
}

/// What a file system must be to be mounted without being written to.
const CLEAN: &str = "clean: it was not unmounted, so run `e2fsck -p` on it";

fn disk_format(path: &Path) -> Result<DiskFormat, Error> {
    let (head, found) = head("root disk", path)?;
    match format::disk(&head) {
        Some(disk) if disk.len <= found && disk.is_clean => Ok(disk.format),
        Some(disk) if disk.len <= found => Err(Error::WrongFormat {
            path: path.to_owned(),
            expected: CLEAN,
        }),
        Some(disk) => Err(Error::Truncated {
            path: path.to_owned(),
            expected: disk.len,
            found,
        }),
        None => Err(Error::WrongFormat {
            path: path.to_owned(),
            expected: "a squashfs or ext4 file",
        }),
    }
}

/// The first bytes of a regular file, and its length.
fn head(what: &'static str, path: &Path) -> Result<(Vec<u8>, u64), Error> {
    let read = || {
        let metadata = fs::metadata(path)?;
        let mut head = Vec::with_capacity(format::HEAD_BYTES);
        File::open(path)?
            .take(format::HEAD_BYTES as u64)
            .read_to_end(&mut head)?;
        Ok((head, metadata.len()))
    };
    read().map_err(|source| Error::Unreadable {
        what,
        path: path.to_owned(),
        source,
    })
}
