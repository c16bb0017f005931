//! Content codings (RFC 9110, section 8.4.1) around the rewriters: bytes in, bytes out, in bounded memory.

use std::fmt;

use bytes::Bytes;

mod decode;
mod encode;

pub use decode::{DecodeLimits, Decoder};
pub use encode::Encoder;

use crate::{BodyScrubber, Pieces, StreamRewriter, Violation};

/// One content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContentCoding {
    /// None.
    Identity,
    /// `gzip` (RFC 1952), also as `x-gzip`.
    Gzip,
    /// `deflate`: zlib (RFC 1950), or the bare deflate that some send under that name.
    Deflate,
    /// `br` (RFC 7932).
    Brotli,
    /// `zstd` (RFC 8878), with windows of at most 8 MiB (RFC 9659).
    Zstd,
}

impl ContentCoding {
    /// The coding for the value of a `Content-Encoding` header; `None` for one that is not known, or several.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let value = value.trim_ascii();
        let is = |name: &str| value.eq_ignore_ascii_case(name.as_bytes());
        [
            ("", Self::Identity),
            ("identity", Self::Identity),
            ("gzip", Self::Gzip),
            ("x-gzip", Self::Gzip),
            ("deflate", Self::Deflate),
            ("br", Self::Brotli),
            ("zstd", Self::Zstd),
        ]
        .into_iter()
        .find_map(|(name, coding)| is(name).then_some(coding))
    }
}

/// Why a coded body cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodingError {
    /// The bytes are not what the coding says, or end too early.
    #[error("the body is not whole {coding:?}: {reason}")]
    Malformed {
        /// The coding.
        coding: ContentCoding,
        /// What the decoder says of it.
        reason: String,
    },
    /// So little makes so much that it must be meant to exhaust who reads it.
    #[error(
        "the body grows from {consumed} to more than {produced} bytes, which is over the limit"
    )]
    Bomb {
        /// Bytes taken in.
        consumed: u64,
        /// Bytes put out.
        produced: u64,
    },
    /// A decoder or encoder could not be set up.
    #[error("{coding:?} cannot be set up: {reason}")]
    Setup {
        /// The coding.
        coding: ContentCoding,
        /// What it says.
        reason: String,
    },
}

/// Why a coded body is not sent on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodedError {
    /// A placeholder on its way to where it must not go.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The body cannot be read or written.
    #[error(transparent)]
    Coding(#[from] CodingError),
}

/// What stands between decoding and encoding.
pub trait Rewrite {
    /// As [`StreamRewriter::push`].
    ///
    /// # Errors
    /// A violation.
    fn push(&mut self, chunk: Bytes) -> Result<Pieces, Violation>;

    /// As [`StreamRewriter::finish`].
    ///
    /// # Errors
    /// A violation.
    fn finish(&mut self) -> Result<Pieces, Violation>;
}

impl Rewrite for StreamRewriter {
    fn push(&mut self, chunk: Bytes) -> Result<Pieces, Violation> {
        self.push(chunk)
    }

    fn finish(&mut self) -> Result<Pieces, Violation> {
        self.finish()
    }
}

impl Rewrite for BodyScrubber {
    fn push(&mut self, chunk: Bytes) -> Result<Pieces, Violation> {
        Ok(self.push(chunk))
    }

    fn finish(&mut self) -> Result<Pieces, Violation> {
        Ok(self.finish())
    }
}

/// A rewriter around which a body is decoded and encoded again.
///
/// Call [`push`](Self::push) for each chunk and then [`output`](Self::output) until it answers `None`; after the last
/// chunk [`finish`](Self::finish) and `output` again. Each answer is at most about 1 MiB, however much the input grows.
pub struct CodedBody<R> {
    decoder: Decoder,
    rewriter: R,
    encoder: Encoder,
    ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// More input may come.
    Open,
    /// No more comes; what there is has to be put out.
    Last,
    Done,
}

impl<R: Rewrite> CodedBody<R> {
    /// Decodes `from`, has it rewritten, and encodes it as `to`.
    ///
    /// # Errors
    /// A decoder or encoder that cannot be set up.
    pub fn new(
        from: ContentCoding,
        rewriter: R,
        to: ContentCoding,
        limits: DecodeLimits,
    ) -> Result<Self, CodingError> {
        Ok(Self {
            decoder: Decoder::new(from, limits)?,
            rewriter,
            encoder: Encoder::new(to)?,
            ending: Ending::Open,
        })
    }

    /// Takes a chunk.
    pub fn push(&mut self, chunk: Bytes) {
        self.decoder.push(chunk);
    }

    /// Says that there are no more chunks.
    pub fn finish(&mut self) {
        if self.ending == Ending::Open {
            self.ending = Ending::Last;
        }
    }

    /// The next bytes to hand on; `None` if there are none before more comes in, or ever.
    ///
    /// # Errors
    /// A violation, a malformed body or one that grows beyond the limits. Nothing more is to be sent then.
    pub fn output(&mut self) -> Result<Option<Bytes>, CodedError> {
        while let Some(plain) = self.decoder.output()? {
            for piece in self.rewriter.push(plain)? {
                self.encoder.push(&piece)?;
            }
            if let Some(bytes) = self.encoder.output() {
                return Ok(Some(bytes));
            }
        }
        if self.ending != Ending::Last {
            return Ok(None);
        }
        self.ending = Ending::Done;
        self.decoder.finish()?;
        for piece in self.rewriter.finish()? {
            self.encoder.push(&piece)?;
        }
        self.encoder.finish()?;
        Ok(self.encoder.output())
    }

    /// Makes all that came in so far go out, for streams whose parts are waited for; costs some compression.
    ///
    /// # Errors
    /// The encoder's.
    pub fn flush(&mut self) -> Result<Option<Bytes>, CodedError> {
        self.encoder.flush()?;
        Ok(self.encoder.output())
    }

    /// The rewriter, for its notes.
    pub fn rewriter(&mut self) -> &mut R {
        &mut self.rewriter
    }
}

impl<R> fmt::Debug for CodedBody<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodedBody")
            .field("decoder", &self.decoder)
            .field("encoder", &self.encoder)
            .field("ending", &self.ending)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
