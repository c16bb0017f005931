//! Encoding, at the moderate levels that servers use for what they compress on the way.

use std::fmt;
use std::io::{self, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use super::{CodingError, ContentCoding};

/// As usual for content compressed on the way; the highest cost much time for little.
const BROTLI_QUALITY: u32 = 4;
/// 256 KiB: the encoder holds some times as much for each body.
const BROTLI_WINDOW_LOG: u32 = 18;
const BROTLI_BUFFER: usize = 16 << 10;
const ZSTD_LEVEL: i32 = 3;

/// Encodes one body. What goes in may hold values, and so may the encoder's own memory until it is used again.
pub struct Encoder {
    coding: ContentCoding,
    engine: Engine,
}

enum Engine {
    Identity(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Zlib(ZlibEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Ended(Vec<u8>),
}

impl Encoder {
    /// An encoder. `deflate` is written as zlib.
    ///
    /// # Errors
    /// [`CodingError::Setup`], if memory for it is refused.
    pub fn new(coding: ContentCoding) -> Result<Self, CodingError> {
        let engine = match coding {
            ContentCoding::Identity => Engine::Identity(Vec::new()),
            ContentCoding::Gzip => Engine::Gzip(GzEncoder::new(Vec::new(), Compression::default())),
            ContentCoding::Deflate => {
                Engine::Zlib(ZlibEncoder::new(Vec::new(), Compression::default()))
            }
            ContentCoding::Brotli => Engine::Brotli(Box::new(brotli::CompressorWriter::new(
                Vec::new(),
                BROTLI_BUFFER,
                BROTLI_QUALITY,
                BROTLI_WINDOW_LOG,
            ))),
            ContentCoding::Zstd => Engine::Zstd(
                zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)
                    .map_err(|error| setup(coding, &error))?,
            ),
        };
        Ok(Self { coding, engine })
    }

    /// Takes plain bytes.
    ///
    /// # Errors
    /// [`CodingError::Setup`], if memory is refused.
    pub fn push(&mut self, plain: &[u8]) -> Result<(), CodingError> {
        self.with_writer(|writer| writer.write_all(plain))
    }

    /// Makes what came in so far come out.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn flush(&mut self) -> Result<(), CodingError> {
        self.with_writer(|writer| writer.flush())
    }

    /// Ends the body; the rest comes out.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(&mut self) -> Result<(), CodingError> {
        let engine = std::mem::replace(&mut self.engine, Engine::Ended(Vec::new()));
        let rest = match engine {
            Engine::Identity(rest) | Engine::Ended(rest) => Ok(rest),
            Engine::Gzip(engine) => engine.finish(),
            Engine::Zlib(engine) => engine.finish(),
            Engine::Brotli(engine) => Ok(engine.into_inner()),
            Engine::Zstd(engine) => engine.finish(),
        };
        self.engine = Engine::Ended(rest.map_err(|error| setup(self.coding, &error))?);
        Ok(())
    }

    /// The encoded bytes so far; `None` if there are none.
    pub fn output(&mut self) -> Option<Bytes> {
        let output = match &mut self.engine {
            Engine::Identity(output) | Engine::Ended(output) => output,
            Engine::Gzip(engine) => engine.get_mut(),
            Engine::Zlib(engine) => engine.get_mut(),
            Engine::Brotli(engine) => engine.get_mut(),
            Engine::Zstd(engine) => engine.get_mut(),
        };
        let output = std::mem::take(output);
        (!output.is_empty()).then(|| output.into())
    }

    fn with_writer(
        &mut self,
        work: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), CodingError> {
        let writer: &mut dyn Write = match &mut self.engine {
            Engine::Identity(writer) | Engine::Ended(writer) => writer,
            Engine::Gzip(writer) => writer,
            Engine::Zlib(writer) => writer,
            Engine::Brotli(writer) => &mut **writer,
            Engine::Zstd(writer) => writer,
        };
        work(writer).map_err(|error| setup(self.coding, &error))
    }
}

fn setup(coding: ContentCoding, error: &io::Error) -> CodingError {
    CodingError::Setup {
        coding,
        reason: error.to_string(),
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("coding", &self.coding)
            .finish_non_exhaustive()
    }
}
