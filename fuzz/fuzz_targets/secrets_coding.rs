//! Decoders: no panic, small steps, and what is decoded encodes and decodes again.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use msb_secrets::{ContentCoding, DecodeLimits, Decoder, Encoder};

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let coding = [
        ContentCoding::Gzip,
        ContentCoding::Deflate,
        ContentCoding::Brotli,
        ContentCoding::Zstd,
    ][usize::from(first % 4)];
    let limits = DecodeLimits {
        max_len: 8 << 20,
        ..DecodeLimits::default()
    };
    let decode = |input: &[u8]| {
        let mut decoder = Decoder::new(coding, limits).expect("there is memory");
        let mut plain = Vec::new();
        for chunk in input.chunks(64) {
            decoder.push(Bytes::copy_from_slice(chunk));
            while let Some(piece) = decoder.output().ok()? {
                assert!(piece.len() <= 2 << 20);
                plain.extend_from_slice(&piece);
            }
        }
        decoder.finish().ok().map(|()| plain)
    };
    if let Some(plain) = decode(rest) {
        let mut encoder = Encoder::new(coding).expect("there is memory");
        encoder.push(&plain).expect("there is memory");
        encoder.finish().expect("there is memory");
        let coded = encoder.output().unwrap_or_default();
        assert_eq!(decode(&coded), Some(plain));
    }
});
