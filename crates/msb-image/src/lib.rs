//! The files a guest boots from: kernel, initramfs and root disk, by name or by path.
//!
//! A [`Store`] is a directory of content-addressed files and small JSON manifests that say which
//! of them is the current kernel, initramfs or named image. `cargo xtask image` fills it, and [`Store::import`] with
//! OCI layouts, docker archives and directories, `Store::pull` (feature `registry`) with images of registries; [`Store::guest`] and [`Store::root_disk`] read it. Both are safe with several processes at once
//! and after a process was killed at any point: a manifest only ever names a whole file.
//!
//! ```no_run
//! use msb_image::{GuestPaths, Store};
//!
//! let store = Store::open_default()?;
//! let guest = store.guest(&GuestPaths::default())?;
//! let root = store.root_disk("base")?;
//! println!("{} + {} on {}", guest.kernel.display(), guest.initramfs.display(), root.path.display());
//! # Ok::<(), msb_image::Error>(())
//! ```
//!
//! # Limits
//!
//! Root disks are squashfs or ext4 files; other images become squashfs by [`Store::import`], which runs `mksquashfs` and
//! nothing else. Without the feature `registry` nothing is downloaded here; with it, a helper that docker's configuration
//! names may be run.
#![forbid(unsafe_code)]

mod config;
mod content;
mod error;
mod format;
mod import;
mod manifest;
mod reference;
#[cfg(feature = "registry")]
mod registry;
mod resolve;
mod store;

pub use config::ImageConfig;
pub use content::{Content, Digest, InvalidDigest};
pub use error::Error;
pub use import::{ImportError, ImportLimits, ImportOptions, Imported, LayerError};
pub use manifest::{Artefact, ImageName, InvalidImageName, Manifest};
pub use reference::{ImageArgument, InvalidReference, Reference};
#[cfg(feature = "registry")]
pub use registry::{Credentials, Login, PullError, PullEvent, PullOptions, Retries, Sink};
pub use resolve::{DiskFormat, Guest, GuestPaths, RootDisk};
pub use store::Store;
