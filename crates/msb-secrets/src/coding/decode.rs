//! Decoding in steps, so that what is held does not grow with what comes out.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;

use brotli::enc::StandardAlloc;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};
use bytes::{Bytes, BytesMut};
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use zstd::stream::raw::{DParameter, Operation};

use super::{CodingError, ContentCoding};

/// The most put out in one step, where the decoder lets one choose.
const STEP: usize = 64 << 10;

/// What is given to a deflate decoder at once: it makes at most 1032 times as much of it.
const DEFLATE_STEP: usize = 1 << 10;

/// RFC 9659, section 3.
const ZSTD_WINDOW_LOG: u32 = 23;

/// How far a body may grow when it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// The most decoded bytes in all.
    pub max_len: u64,
    /// The most decoded bytes per encoded one.
    pub max_ratio: u64,
    /// Up to this many decoded bytes the ratio does not count.
    pub free_len: u64,
}

impl Default for DecodeLimits {
    /// No limit in all; 1000 times the input, from 16 MiB on.
    fn default() -> Self {
        Self {
            max_len: u64::MAX,
            max_ratio: 1000,
            free_len: 16 << 20,
        }
    }
}

/// Decodes one body.
///
/// [`push`](Self::push) takes input, [`output`](Self::output) answers a piece at a time, [`finish`](Self::finish) tells
/// whether the body is whole.
pub struct Decoder {
    coding: ContentCoding,
    engine: Engine,
    input: VecDeque<Bytes>,
    consumed: u64,
    produced: u64,
    limits: DecodeLimits,
}

enum Engine {
    Identity,
    Gzip(MultiGzDecoder<Vec<u8>>),
    /// The first two bytes tell zlib from bare deflate.
    Unknown(Vec<u8>),
    Zlib(ZlibDecoder<Vec<u8>>),
    Deflate(DeflateDecoder<Vec<u8>>),
    Brotli(Box<Brotli>),
    Zstd(Zstd),
}

struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    /// More may come out without more input.
    full: bool,
    done: bool,
}

struct Zstd {
    raw: zstd::stream::raw::Decoder<'static>,
    full: bool,
    /// Inside a frame, which the end of the body would cut off.
    inside: bool,
}

impl Decoder {
    /// A decoder.
    ///
    /// # Errors
    /// [`CodingError::Setup`], if memory for it is refused.
    pub fn new(coding: ContentCoding, limits: DecodeLimits) -> Result<Self, CodingError> {
        let engine = match coding {
            ContentCoding::Identity => Engine::Identity,
            ContentCoding::Gzip => Engine::Gzip(MultiGzDecoder::new(Vec::new())),
            ContentCoding::Deflate => Engine::Unknown(Vec::new()),
            ContentCoding::Brotli => {
                let alloc = StandardAlloc::default;
                Engine::Brotli(Box::new(Brotli {
                    state: BrotliState::new(alloc(), alloc(), alloc()),
                    full: false,
                    done: false,
                }))
            }
            ContentCoding::Zstd => {
                let raw = zstd::stream::raw::Decoder::new().and_then(|mut raw| {
                    raw.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))?;
                    Ok(raw)
                });
                let raw = raw.map_err(|error| CodingError::Setup {
                    coding,
                    reason: error.to_string(),
                })?;
                Engine::Zstd(Zstd {
                    raw,
                    full: false,
                    inside: false,
                })
            }
        };
        Ok(Self {
            coding,
            engine,
            input: VecDeque::new(),
            consumed: 0,
            produced: 0,
            limits,
        })
    }

    /// Takes encoded bytes. Take all [`output`](Self::output) before the next ones, so that they do not pile up.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.input.push_back(chunk);
        }
    }

    /// The next decoded bytes, at most about 1 MiB; `None` if more input is needed.
    ///
    /// # Errors
    /// [`CodingError::Malformed`], [`CodingError::Bomb`]. There is nothing more to be had then.
    pub fn output(&mut self) -> Result<Option<Bytes>, CodingError> {
        loop {
            let pending = self.is_full();
            if self.input.is_empty() && !pending {
                return Ok(None);
            }
            let mut chunk = self.input.pop_front().unwrap_or_default();
            let before = chunk.len();
            let output = self.engine.step(&mut chunk);
            self.consumed += (before - chunk.len()) as u64;
            let output = output.map_err(|reason| self.malformed(reason))?;
            if !chunk.is_empty() {
                self.input.push_front(chunk);
            }
            if output.is_empty() {
                continue;
            }
            self.produced += output.len() as u64;
            self.check_limits()?;
            return Ok(Some(output));
        }
    }

    /// Ends the input.
    ///
    /// # Errors
    /// [`CodingError::Malformed`], if the body is not whole.
    pub fn finish(&mut self) -> Result<(), CodingError> {
        let empty = self.consumed == 0;
        let ended = match &mut self.engine {
            // An empty body is one that was never encoded, whatever its head says.
            _ if empty => Ok(()),
            Engine::Identity => Ok(()),
            Engine::Gzip(engine) => engine.try_finish().map_err(|error| error.to_string()),
            Engine::Zlib(engine) => engine.try_finish().map_err(|error| error.to_string()),
            Engine::Deflate(engine) => engine.try_finish().map_err(|error| error.to_string()),
            Engine::Brotli(engine) if engine.done => Ok(()),
            Engine::Zstd(engine) if !engine.inside => Ok(()),
            Engine::Unknown(_) | Engine::Brotli(_) | Engine::Zstd(_) => {
                Err("it ends too early".to_owned())
            }
        };
        ended.map_err(|reason| self.malformed(reason))
    }

    fn is_full(&self) -> bool {
        match &self.engine {
            Engine::Brotli(engine) => engine.full,
            Engine::Zstd(engine) => engine.full,
            _ => false,
        }
    }

    fn check_limits(&self) -> Result<(), CodingError> {
        let Self {
            consumed,
            produced,
            limits,
            ..
        } = *self;
        let grown =
            produced > limits.free_len && produced > consumed.saturating_mul(limits.max_ratio);
        if self.coding != ContentCoding::Identity && (grown || produced > limits.max_len) {
            return Err(CodingError::Bomb { consumed, produced });
        }
        Ok(())
    }

    fn malformed(&self, reason: String) -> CodingError {
        CodingError::Malformed {
            coding: self.coding,
            reason,
        }
    }
}

impl Engine {
    /// Decodes some of `chunk`, and takes it from there.
    fn step(&mut self, chunk: &mut Bytes) -> Result<Bytes, String> {
        match self {
            Self::Identity => Ok(std::mem::take(chunk)),
            Self::Gzip(engine) => {
                write_some(engine, chunk)?;
                Ok(std::mem::take(engine.get_mut()).into())
            }
            Self::Zlib(engine) => {
                write_some(engine, chunk)?;
                Ok(std::mem::take(engine.get_mut()).into())
            }
            Self::Deflate(engine) => {
                write_some(engine, chunk)?;
                Ok(std::mem::take(engine.get_mut()).into())
            }
            Self::Unknown(first) => {
                let missing = 2 - first.len();
                first.extend_from_slice(&chunk.split_to(chunk.len().min(missing)));
                let [method, flags] = first[..] else {
                    return Ok(Bytes::new());
                };
                // RFC 1950, section 2.2: method 8, and the two bytes a multiple of 31.
                let is_zlib =
                    method & 15 == 8 && u16::from_be_bytes([method, flags]).is_multiple_of(31);
                let mut seen = Bytes::from(std::mem::take(first));
                *self = if is_zlib {
                    Self::Zlib(ZlibDecoder::new(Vec::new()))
                } else {
                    Self::Deflate(DeflateDecoder::new(Vec::new()))
                };
                self.step(&mut seen)
            }
            Self::Brotli(engine) => engine.step(chunk),
            Self::Zstd(engine) => engine.step(chunk),
        }
    }
}

fn write_some(engine: &mut impl Write, chunk: &mut Bytes) -> Result<(), String> {
    let some = chunk.split_to(chunk.len().min(DEFLATE_STEP));
    let written = engine.write_all(&some).and_then(|()| engine.flush());
    written.map_err(|error| error.to_string())
}

impl Brotli {
    fn step(&mut self, chunk: &mut Bytes) -> Result<Bytes, String> {
        if self.done {
            return Err("bytes follow its end".to_owned());
        }
        let mut output = BytesMut::zeroed(STEP);
        let (mut input_left, mut taken, mut output_left, mut len) = (chunk.len(), 0, STEP, 0);
        let result = BrotliDecompressStream(
            &mut input_left,
            &mut taken,
            chunk,
            &mut output_left,
            &mut len,
            &mut output,
            &mut 0,
            &mut self.state,
        );
        let _ = chunk.split_to(taken);
        self.done = matches!(result, BrotliResult::ResultSuccess);
        // It may ask for input although there is more output than one step has room for.
        self.full = len == STEP && !self.done;
        if matches!(result, BrotliResult::ResultFailure) {
            return Err("the decoder gives up".to_owned());
        }
        output.truncate(len);
        Ok(output.freeze())
    }
}

impl Zstd {
    fn step(&mut self, chunk: &mut Bytes) -> Result<Bytes, String> {
        let mut output = BytesMut::zeroed(STEP);
        let status = self
            .raw
            .run_on_buffers(chunk, &mut output)
            .map_err(|error| error.to_string())?;
        let _ = chunk.split_to(status.bytes_read);
        self.full = status.bytes_written == STEP;
        if status.bytes_read + status.bytes_written > 0 {
            self.inside = status.remaining != 0;
        }
        output.truncate(status.bytes_written);
        Ok(output.freeze())
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("coding", &self.coding)
            .field("consumed", &self.consumed)
            .field("produced", &self.produced)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
