//! Manifests: which content is current under which name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::ImageConfig;
use crate::content::Content;
use crate::reference::Reference;

/// Characters of references that names of files cannot have or that are better not in them, and what stands for each
/// there. No reference has a `%`.
const ESCAPES: [(&str, &str); 3] = [("/", "%2F"), (":", "%3A"), ("@", "%40")];

/// Something the store keeps a current version of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Artefact {
    /// The uncompressed guest kernel (vmlinux).
    Kernel,
    /// The kernel's modules in load order, as a newc archive.
    Modules,
    /// The initramfs with the agent and the modules.
    Initramfs,
    /// An initramfs whose init powers the machine off at once: the base line of boot benchmarks.
    BareInitramfs,
    /// A root disk by name.
    Image(ImageName),
}

/// The name of a root disk: 1 to 128 of `a-z 0-9 . _ -`, beginning with a letter or digit; or, of one that was pulled, its
/// [`Reference`] written out, which has a `/` in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

/// A text that cannot be an image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` cannot be an image name: it takes 1 to 128 of a-z, 0-9, `.`, `_` and `-`, \
     beginning with a letter or digit (a file is given with --rootfs)"
)]
pub struct InvalidImageName(String);

/// Says which stored content is the current one of an [`Artefact`], and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The file.
    #[serde(flatten)]
    pub content: Content,
    /// Identifies everything the content was made from; equal recipes need no new build.
    pub recipe: String,
    /// For people: package versions, commands, dates.
    pub origin: String,
    /// How an imported image wants to be run.
    #[serde(default)]
    pub config: ImageConfig,
    /// Whether it came by [`Store::import`](crate::Store::import).
    #[serde(default)]
    pub imported: bool,
}

impl Artefact {
    /// Path of the manifest below the store's directory.
    pub(crate) fn manifest_path(&self) -> PathBuf {
        match self {
            Self::Kernel => Path::new("guest").join("kernel.json"),
            Self::Modules => Path::new("guest").join("modules.json"),
            Self::Initramfs => Path::new("guest").join("initramfs.json"),
            Self::BareInitramfs => Path::new("guest").join("bare-initramfs.json"),
            Self::Image(name) => Path::new("images").join(name.file_name()),
        }
    }
}

impl fmt::Display for Artefact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => f.write_str("kernel"),
            Self::Modules => f.write_str("kernel modules"),
            Self::Initramfs => f.write_str("initramfs"),
            Self::BareInitramfs => f.write_str("bare-boot initramfs"),
            Self::Image(name) => write!(f, "image `{name}`"),
        }
    }
}

impl ImageName {
    /// The name of the image that `cargo xtask image` builds.
    pub fn base() -> Self {
        Self("base".to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Of its manifest.
    fn file_name(&self) -> String {
        let escape = |name: String, (plain, escaped): (&str, &str)| name.replace(plain, escaped);
        ESCAPES.into_iter().fold(self.0.clone(), escape) + ".json"
    }

    /// The name whose manifest has this file name, if it is one's.
    pub(crate) fn of_file_name(file_name: &str) -> Option<Self> {
        let unescape = |name: String, (plain, escaped): (&str, &str)| name.replace(escaped, plain);
        let text = file_name.strip_suffix(".json")?.to_owned();
        let text = ESCAPES.into_iter().fold(text, unescape);
        let name = text.parse().ok();
        let name = name.or_else(|| Some(text.parse::<Reference>().ok()?.into()));
        name.filter(|name: &Self| name.file_name() == file_name)
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Reference> for ImageName {
    fn from(reference: Reference) -> Self {
        Self(reference.to_string())
    }
}

/// Reads a plain name; a reference becomes a name by `From`.
impl FromStr for ImageName {
    type Err = InvalidImageName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let fits = text.len() <= 128
            && text.starts_with(plain)
            && text
                .chars()
                .all(|c| plain(c) || matches!(c, '.' | '_' | '-'));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidImageName(text.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_are_image_names() {
        for name in ["base", "a", "debian-12.1_x", "0day", &"a".repeat(128)] {
            assert_eq!(name.parse::<ImageName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn paths_and_references_are_not_image_names() {
        let long = "a".repeat(129);
        for name in [
            "", ".", "..", "../x", "a/b", "-x", "Base", "a:b", "a b", "a\0", &long,
        ] {
            let error = name.parse::<ImageName>().unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn every_name_has_a_file_of_its_own_and_is_read_back_from_it() {
        let digest = crate::Digest::of(b"");
        let references = [
            "debian:12",
            "localhost:5000/a/b",
            "[::1]:80/a",
            &format!("q.io/a@{digest:?}"),
            &format!("q.io/{}", "a".repeat(218)),
            &format!("q.io/{}b", "a/".repeat(57)),
        ];
        let of = |text: &&str| text.parse::<Reference>().expect(text).into();
        let mut names: Vec<ImageName> = references.iter().map(of).collect();
        names.extend(["base", "a-b"].map(|name| name.parse::<ImageName>().unwrap()));
        for name in names {
            let file = name.file_name();
            assert!(!file.contains('/') && file.len() <= 255, "{file}");
            assert_eq!(ImageName::of_file_name(&file), Some(name));
        }
        for foreign in [
            "a",
            "%2F.json",
            "A.json",
            "a%2Fb.json",
            "q.io%2fa.json",
            "a b.json",
        ] {
            assert_eq!(ImageName::of_file_name(foreign), None, "{foreign}");
        }
    }
}
