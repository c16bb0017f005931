//! Why an image cannot be imported.

use std::io;

use crate::content::Digest;

/// What is wrong with an image, or with turning it into a disk. Each message is one line and names what it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file or directory is nothing that images are made of.
    #[error(
        "it is neither an OCI image layout, a docker archive, a squashfs or ext4 file nor a directory{hint}"
    )]
    Unrecognised {
        /// What it may be instead; empty, or begins with `: `.
        hint: &'static str,
    },
    /// An index, manifest or configuration is not what the image specification says.
    #[error("its {what} {problem}")]
    Document {
        /// Which document.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Something the image refers to is not in it.
    #[error(
        "its {what} is not there ({}): the copy is incomplete, make it anew",
        shown_text(name)
    )]
    MissingBlob {
        /// What was looked for.
        what: String,
        /// Its name in the layout or archive.
        name: String,
    },
    /// A blob has another length than the descriptor that names it.
    #[error(
        "its {what} has {found} bytes instead of {expected}: the copy is damaged, make it anew"
    )]
    BlobSize {
        /// Which blob.
        what: String,
        /// Bytes by the descriptor.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A blob has another digest than its name says.
    #[error(
        "its {what} has the digest {found:?} instead of {expected:?}: it was damaged or changed"
    )]
    BlobDigest {
        /// Which blob.
        what: String,
        /// The digest it is known by.
        expected: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// A media type that is not that of an image, or not one msb knows.
    #[error(
        "its {what} is of the type \"{}\", which msb cannot use as one: if it is an image at all, push it again as an OCI or \
         docker image",
        shown_text(media_type)
    )]
    MediaType {
        /// Which blob.
        what: String,
        /// The type as given.
        media_type: String,
    },
    /// The image is for other machines only.
    #[error(
        "it is for {} and a sandbox is linux/amd64: choose an image that is built for that",
        if found.is_empty() { "no known platform".into() } else { list(found) }
    )]
    Platform {
        /// The platforms there are.
        found: Vec<String>,
    },
    /// More than one image would do.
    #[error("it holds several images: choose one with --ref: {}", list(found))]
    Ambiguous {
        /// Their references.
        found: Vec<String>,
    },
    /// No image of the reference asked for.
    #[error("it holds no image {reference:?}; there are: {}", list(found))]
    UnknownReference {
        /// As asked for.
        reference: String,
        /// Their references.
        found: Vec<String>,
    },
    /// A layer is refused.
    #[error("layer {number} of {of} ({})", shown_text(digest))]
    Layer {
        /// From 1, the lowest.
        number: usize,
        /// How many there are.
        of: usize,
        /// Its digest, or its name in a docker archive.
        digest: String,
        /// What is wrong with it.
        source: LayerError,
    },
    /// The image as a whole is more than the limits allow.
    #[error("it has too many layers: {found}, at most {limit} are taken")]
    Layers {
        /// How many.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// Its directories have more names than a disk can be made of in reasonable time.
    #[error(
        "its directories have too many names, most in {path} ({entries}), which takes hours to make a disk of: spread them \
         over several directories, or mount them with --volume"
    )]
    Crowded {
        /// The directory that has most, escaped.
        path: String,
        /// How many.
        entries: usize,
    },
    /// `mksquashfs` is not installed.
    #[error("mksquashfs cannot be run: install squashfs-tools (`cargo xtask setup` does)")]
    Tool(#[source] io::Error),
    /// `mksquashfs` failed.
    #[error("mksquashfs failed: {output}")]
    Pack {
        /// The last it said.
        output: String,
    },
    /// The file system of the store is full.
    #[error("no space is left")]
    NoSpace(#[source] io::Error),
    /// The disk cannot be written.
    #[error("the root disk cannot be written")]
    Write(#[source] io::Error),
    /// The image cannot be read.
    #[error("cannot read {what}")]
    Read {
        /// Which part.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
}

/// What is wrong with one layer. Names of files come from the layer and are shown escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The layer is not compressed as its media type says, or cut off, or damaged.
    #[error("it cannot be read as {expected}: {problem}")]
    Compression {
        /// What it should be.
        expected: &'static str,
        /// What the decoder says.
        problem: String,
    },
    /// The archive is cut off or no tar archive.
    #[error("its tar archive is wrong at byte {at}: {problem}")]
    Tar {
        /// Where, in unpacked bytes.
        at: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// An entry that must not or cannot be part of a root file system.
    #[error("the entry {path:?} {problem}")]
    Entry {
        /// The entry's path.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// More than an image may need.
    #[error("more than {limit} {what} with the layers below it: refused as a bomb")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// What it unpacks to has another digest than the image's configuration says.
    #[error("it unpacks to {found:?}, the image's configuration says {expected:?}")]
    DiffId {
        /// By the configuration.
        expected: Digest,
        /// As unpacked.
        found: Digest,
    },
    /// The layer changed while it was being read.
    #[error("it changed while it was being read")]
    Changed,
}

impl ImportError {
    /// A failure to write the disk.
    pub(super) fn writing(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(error),
            _ => Self::Write(error),
        }
    }
}

/// A text of an image's, in one line of bounded length that a terminal can show.
pub(crate) fn shown_text(text: &str) -> String {
    const MOST: usize = 200;
    let mut shown: String = text
        .chars()
        .take(MOST)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(MOST).is_some() {
        shown.push_str("...");
    }
    shown
}

/// The first of several such texts.
fn list(texts: &[String]) -> String {
    const MOST: usize = 20;
    let shown: Vec<_> = texts
        .iter()
        .take(MOST)
        .map(|text| shown_text(text))
        .collect();
    let rest = texts.len().saturating_sub(MOST);
    match rest {
        0 => shown.join(", "),
        rest => format!("{} and {rest} more", shown.join(", ")),
    }
}

/// The path of an entry as text that a terminal can show.
pub(super) fn shown(path: &[u8]) -> String {
    const MOST: usize = 200;
    let text = path[..path.len().min(MOST)].escape_ascii().to_string();
    if path.len() > MOST {
        text + "..."
    } else {
        text
    }
}

impl LayerError {
    pub(super) fn entry(path: &[u8], problem: impl Into<String>) -> Self {
        Self::Entry {
            path: shown(path),
            problem: problem.into(),
        }
    }
}
