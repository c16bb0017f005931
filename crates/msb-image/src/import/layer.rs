//! One layer: from its blob to entries, checked against what the image says of it.

use std::cell::RefCell;
use std::io::{self, BufReader, Read};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::bufread::MultiGzDecoder;

use super::entries::{Entries, Entry, Fault};
use super::error::{ImportError, LayerError};
use super::limits::ReadBudget;
use super::source::{Source, Stamp, check_digest};
use crate::content::{Digest, Hasher};

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
pub(crate) struct Layer {
    /// From 1, the lowest.
    pub(crate) number: usize,
    pub(crate) of: usize,
    /// For people.
    pub(crate) label: String,
    /// In its source.
    pub(super) name: String,
    /// Digest and size of its blob, where something says them that is still to be checked.
    pub(crate) blob: Option<(Digest, u64)>,
    /// By its media type; None where nothing says it.
    pub(super) compression: Option<Compression>,
    /// Of what it unpacks to.
    pub(super) diff_id: Digest,
}

/// A layer being read.
pub(super) struct Open<'a> {
    entries: Entries<Plain<'a>>,
    compression: Compression,
    unpacked_limit: u64,
}

/// The two ways of reading a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// All of it, to know what it is.
    Checked,
    /// After that, for the data of some files.
    Trusted,
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
            // A frame to be passed over, as some compressors begin with (RFC 8878, 3.1.2).
            [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Self::Zstd,
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

    /// What it is called in errors.
    pub(crate) fn what(&self) -> String {
        format!("layer {} of {}", self.number, self.of)
    }

    /// Which file it is in, and when that was changed last.
    pub(super) fn stamp(&self, source: &Source) -> Result<Stamp, ImportError> {
        source.stamp(&self.what(), &self.name)
    }

    /// Reads it whole, checks sizes and digests, and gives its entries; None if `stop` ended that.
    pub(super) fn scan(
        &self,
        source: &Source,
        budget: &ReadBudget,
        stop: &AtomicBool,
    ) -> Result<Option<Vec<Entry>>, ImportError> {
        let what = self.what();
        let (blob, found) = source.open(&what, &self.name)?;
        if let Some((_, expected)) = self.blob
            && found != expected
        {
            return Err(ImportError::BlobSize {
                what,
                expected,
                found,
            });
        }
        let blob = Rc::new(RefCell::new(Blob {
            from: blob,
            hasher: self.blob.map(|_| Hasher::new()),
        }));
        let entries = self
            .decode(Box::new(Shared(Rc::clone(&blob))), budget, Reading::Checked)
            .and_then(|open| {
                let entries = open.read_all(self.diff_id, budget, stop);
                entries.map_err(|error| self.refuse(error))
            });
        if let (Some((expected, _)), false) = (self.blob, matches!(entries, Ok(None))) {
            // That a blob is damaged comes first, whatever it looks like.
            let rest = io::copy(&mut *blob.borrow_mut(), &mut io::sink());
            let what = self.what();
            rest.map_err(|source| ImportError::Read { what, source })?;
            let hasher = blob.borrow_mut().hasher.take();
            if let Some(hasher) = hasher {
                check_digest(&self.what(), expected, hasher.finish())?;
            }
        }
        entries
    }

    /// Opens it again after it was scanned.
    pub(super) fn reopen(
        &self,
        source: &Source,
        budget: &ReadBudget,
    ) -> Result<Open<'static>, ImportError> {
        let (blob, _) = source.open(&self.what(), &self.name)?;
        self.decode(blob, budget, Reading::Trusted)
    }

    fn decode<'a>(
        &self,
        mut blob: Box<dyn Read + 'a>,
        budget: &ReadBudget,
        reading: Reading,
    ) -> Result<Open<'a>, ImportError> {
        let mut head = Vec::new();
        let peeked = (&mut blob).take(4).read_to_end(&mut head);
        peeked.map_err(|source| ImportError::Read {
            what: self.what(),
            source,
        })?;
        let found = Compression::of_head(&head);
        let compression = self.compression.unwrap_or(found);
        if compression != found {
            return Err(self.refuse(LayerError::Compression {
                expected: compression.name(),
                problem: format!("it is {}", found.name()),
            }));
        }
        let blob = BufReader::with_capacity(BUFFER, io::Cursor::new(head).chain(blob));
        let reader: Box<dyn Read + 'a> = match compression {
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
            hasher: (reading == Reading::Checked).then(Hasher::new),
            budget: budget.clone(),
        };
        Ok(Open {
            entries: Entries::new(plain),
            compression,
            unpacked_limit: budget.limits().unpacked_bytes,
        })
    }
}

impl Open<'_> {
    pub(super) fn next(&mut self) -> Result<Option<Entry>, LayerError> {
        let next = self.entries.next();
        next.map_err(|fault| explain(fault, self.compression, self.unpacked_limit))
    }

    /// The current entry's data.
    pub(super) fn data(&mut self) -> &mut impl Read {
        &mut self.entries
    }

    /// Its entries, if all of it is what the image says; None if `stop` ended that.
    fn read_all(
        mut self,
        diff_id: Digest,
        budget: &ReadBudget,
        stop: &AtomicBool,
    ) -> Result<Option<Vec<Entry>>, LayerError> {
        let mut entries = Vec::new();
        while let Some(entry) = self.next()? {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            budget.entry(&entry)?;
            entries.push(entry);
        }
        let (compression, limit) = (self.compression, self.unpacked_limit);
        let mut plain = self.entries.into_inner();
        io::copy(&mut plain, &mut io::sink())
            .map_err(|error| explain(error.into(), compression, limit))?;
        let found = plain.hasher.map(Hasher::finish);
        match found {
            Some(found) if found != diff_id => Err(LayerError::DiffId {
                expected: diff_id,
                found,
            }),
            _ => Ok(Some(entries)),
        }
    }
}

fn explain(fault: Fault, compression: Compression, limit: u64) -> LayerError {
    match fault {
        Fault::Layer(error) => error,
        Fault::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<Bomb>()) => {
            LayerError::Limit {
                what: "unpacked bytes",
                limit,
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

/// The bytes as they are stored, hashed.
struct Blob {
    from: Box<dyn Read>,
    hasher: Option<Hasher>,
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        Ok(read)
    }
}

/// A blob that is read by a decoder, and to its end afterwards.
struct Shared(Rc<RefCell<Blob>>);

impl Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(buffer)
    }
}

/// The unpacked bytes: hashed, and no more than are left.
struct Plain<'a> {
    from: BufReader<Box<dyn Read + 'a>>,
    hasher: Option<Hasher>,
    budget: ReadBudget,
}

#[derive(Debug, thiserror::Error)]
#[error("it unpacks to more than is allowed")]
struct Bomb;

impl Read for Plain<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        if !self.budget.unpacked(read) {
            return Err(io::Error::other(Bomb));
        }
        Ok(read)
    }
}
