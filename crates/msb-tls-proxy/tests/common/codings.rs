//! Content codings by the libraries themselves, as programs on either side of a proxy use them.

use std::io::{Read as _, Write as _};

/// The codings that a proxy can undo; the first is none.
pub const CODINGS: [&str; 5] = ["", "gzip", "deflate", "br", "zstd"];

pub fn encode(coding: &str, plain: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::default();
    match coding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        "br" => {
            let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 20);
            encoder.write_all(plain).unwrap();
            encoder.into_inner()
        }
        "zstd" => zstd::encode_all(plain, 3).unwrap(),
        _ => plain.to_vec(),
    }
}

pub fn decode(coding: &str, coded: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match coding {
        "gzip" => flate2::read::GzDecoder::new(coded).read_to_end(&mut plain),
        "deflate" => flate2::read::ZlibDecoder::new(coded).read_to_end(&mut plain),
        "br" => brotli::Decompressor::new(coded, 4096).read_to_end(&mut plain),
        "zstd" => zstd::Decoder::new(coded).unwrap().read_to_end(&mut plain),
        _ => {
            plain = coded.to_vec();
            Ok(plain.len())
        }
    }
    .unwrap();
    plain
}

/// A `Content-Encoding` line, or nothing.
pub fn content_encoding(coding: &str) -> String {
    match coding {
        "" => String::new(),
        coding => format!("Content-Encoding: {coding}\r\n"),
    }
}

/// `body` as chunks of `size` bytes, the last one included.
pub fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    for chunk in body.chunks(size.max(1)) {
        wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    wire
}
