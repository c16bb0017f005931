//! One layer: from its blob to entries, checked against what the image says of it.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::entries::{Entries, Entry, Fault};
use super::error::{ImportError, LayerError};
use super::limits::Budget;
use super::source::Source;
use crate::content::Digest;

const BUFFER: usize = 128 * 1024;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A layer of an image.
#[derive(Debug)]
pub(super) struct Layer {
    /// From 1, the lowest.
    pub(super) number: usize,
    pub(super) of: usize,
    /// For people.
    pub(super) label: String,
    /// In its source.
    pub(super) name: String,
    /// By its media type; None where nothing says it.
    pub(super) compression: Option<Compression>,
    /// Of what it unpacks to.
    pub(super) diff_id: Digest,
}

/// A layer being read.
pub(super) struct Open {
    entries: Entries<Plain>,
    compression: Compression,
}

impl Compression {
    pub(super) fn of_media_type(text: &str) -> Option<Self> {
        let oci = text.strip_prefix("application/vnd.oci.image.layer.");
        let oci = oci.map(|rest| rest.strip_prefix("nondistributable.").unwrap_or(rest));
        let docker = text.strip_prefix("application/vnd.docker.image.rootfs.");
        match (oci, docker) {
            (Some("v1.tar"), _) | (_, Some("diff.tar")) => Some(Self::None),
            (Some("v1.tar+gzip"), _) | (_, Some("diff.tar.gzip" | "foreign.diff.tar.gzip")) => {
                Some(Self::Gzip)
            }
            (Some("v1.tar+zstd"), _) | (_, Some("diff.tar.zstd")) => Some(Self::Zstd),
            _ => None,
        }
    }

    fn of_head(head: &[u8]) -> Self {
        match head {
            _ if head.starts_with(GZIP) => Self::Gzip,
            _ if head.starts_with(ZSTD) => Self::Zstd,
            _ => Self::None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::None => "an uncompressed tar archive",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

impl Layer {
    pub(super) fn refuse(&self, source: LayerError) -> ImportError {
        ImportError::Layer {
            number: self.number,
            of: self.of,
            digest: self.label.clone(),
            source,
        }
    }

    /// Opens it to be read once.
    pub(super) fn open(&self, source: &Source, budget: &Budget) -> Result<Open, ImportError> {
        let what = format!("layer {} of {}", self.number, self.of);
        let (mut blob, _) = source.open(&what, &self.name)?;
        let mut head = Vec::new();
        let unreadable = |source| ImportError::Read { what, source };
        let peeked = (&mut blob).take(4).read_to_end(&mut head);
        peeked.map_err(unreadable)?;
        let found = Compression::of_head(&head);
        let compression = self.compression.unwrap_or(found);
        if compression != found {
            return Err(self.refuse(LayerError::Compression {
                expected: compression.name(),
                problem: format!("it is {}", found.name()),
            }));
        }
        let blob = BufReader::with_capacity(BUFFER, io::Cursor::new(head).chain(blob));
        let reader: Box<dyn Read> = match compression {
            Compression::None => Box::new(blob),
            Compression::Gzip => Box::new(MultiGzDecoder::new(blob)),
            Compression::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(blob);
                let decoder = decoder.map_err(|error| self.refuse(damaged(compression, &error)))?;
                Box::new(decoder)
            }
        };
        let plain = Plain {
            from: BufReader::with_capacity(BUFFER, reader),
            hasher: Sha256::new(),
            left: budget.unpacked_left(),
            read: 0,
        };
        Ok(Open {
            entries: Entries::new(plain),
            compression,
        })
    }
}

impl Open {
    pub(super) fn next(&mut self, budget: &Budget) -> Result<Option<Entry>, LayerError> {
        let next = self.entries.next();
        next.map_err(|fault| self.explain(fault, budget))
    }

    /// The current entry's data.
    pub(super) fn data(&mut self) -> &mut impl Read {
        &mut self.entries
    }

    /// Reads to the end, counts what was unpacked, and compares it with what the image says.
    pub(super) fn finish(mut self, diff_id: Digest, budget: &mut Budget) -> Result<(), LayerError> {
        if let Err(error) = io::copy(&mut self.entries, &mut io::sink()) {
            return Err(self.explain(error.into(), budget));
        }
        let compression = self.compression;
        let mut plain = self.entries.into_inner();
        if let Err(error) = io::copy(&mut plain, &mut io::sink()) {
            return Err(explain(error.into(), compression, budget));
        }
        budget.unpacked(plain.read);
        let found = Digest::from_bytes(plain.hasher.finalize().into());
        if found != diff_id {
            return Err(LayerError::DiffId {
                expected: diff_id,
                found,
            });
        }
        Ok(())
    }

    pub(super) fn explain(&self, fault: Fault, budget: &Budget) -> LayerError {
        explain(fault, self.compression, budget)
    }
}

fn explain(fault: Fault, compression: Compression, budget: &Budget) -> LayerError {
    match fault {
        Fault::Layer(error) => error,
        Fault::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<Bomb>()) => {
            LayerError::Limit {
                what: "unpacked bytes",
                limit: budget.unpacked_limit(),
            }
        }
        Fault::Io(error) => damaged(compression, &error),
    }
}

fn damaged(compression: Compression, error: &io::Error) -> LayerError {
    LayerError::Compression {
        expected: compression.name(),
        problem: match error.kind() {
            io::ErrorKind::UnexpectedEof => "it is cut off".into(),
            _ => error.to_string(),
        },
    }
}

/// The unpacked bytes: hashed, and no more than are left.
struct Plain {
    from: BufReader<Box<dyn Read>>,
    hasher: Sha256,
    left: u64,
    read: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("it unpacks to more than is allowed")]
struct Bomb;

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.read += read as u64;
        if self.read > self.left {
            return Err(io::Error::other(Bomb));
        }
        Ok(read)
    }
}
