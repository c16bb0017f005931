//! The last value that a limit lets through, whole steps, and heads that could be read in two ways.

use super::*;

/// What a decoder hands out at once at most.
const STEP: usize = 64 << 10;

fn allowed(coding: ContentCoding, body: &[u8], limits: DecodeLimits) -> bool {
    let mut decoder = Decoder::new(coding, limits).unwrap();
    decoder.push(Bytes::copy_from_slice(body));
    loop {
        match decoder.output() {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(error) => {
                assert!(matches!(error, CodingError::Bomb { .. }), "{error}");
                return false;
            }
        }
    }
}

#[test]
fn limits_let_through_what_is_as_large_as_they_are() {
    for coding in &ALL[1..] {
        let body = encoded(*coding, &[0; 1000]);
        for (len, expected) in [(999, false), (1000, true)] {
            let longest = DecodeLimits {
                max_len: len,
                ..DecodeLimits::default()
            };
            assert_eq!(
                allowed(*coding, &body, longest),
                expected,
                "{coding:?} {len}"
            );
            let free = DecodeLimits {
                free_len: len,
                max_ratio: 1,
                ..DecodeLimits::default()
            };
            assert_eq!(allowed(*coding, &body, free), expected, "{coding:?} {len}");
        }
    }
}

#[test]
fn a_ratio_lets_through_what_has_it() {
    let body = |len: usize| encoded(ContentCoding::Zstd, &vec![0; len]);
    let len = (20..1000).find(|len| body(*len).len() * 2 == *len).unwrap();
    for (max_ratio, expected) in [(1, false), (2, true)] {
        let limits = DecodeLimits {
            free_len: 0,
            max_ratio,
            ..DecodeLimits::default()
        };
        assert_eq!(
            allowed(ContentCoding::Zstd, &body(len), limits),
            expected,
            "{len}"
        );
    }
}

#[test]
fn whole_steps_are_read_to_their_end() {
    for len in [STEP - 1, STEP, STEP + 1, 2 * STEP, 2 * STEP + 1, 4 * STEP] {
        let plain: Vec<u8> = (b'a'..=b'z').cycle().take(len).collect();
        for coding in ALL {
            let body = Bytes::from(encoded(coding, &plain));
            let output = decoded(coding, [body.clone()]);
            assert!(
                output.is_ok_and(|output| output == plain),
                "{coding:?} {len}"
            );
            let (first, rest) = (body.slice(..1), body.slice(1..));
            let output = decoded(coding, [first, rest]);
            assert!(
                output.is_ok_and(|output| output == plain),
                "{coding:?} {len}"
            );
        }
    }
}

/// Only together the method and the sum make a zlib head; blocks without compression may begin with either alone.
#[test]
fn bare_deflate_that_half_looks_like_zlib_is_read() {
    let end: &[u8] = b"\x01\x00\x00\xff\xff";
    let like_the_method = [b"\x08\x03\x00\xfc\xffabc", end].concat();
    let text = [b'x'; 31];
    let like_the_sum = [b"\x00\x1f\x00\xe0\xff", &text[..], end].concat();
    for (body, expected) in [(like_the_method, &b"abc"[..]), (like_the_sum, &text)] {
        for cut in 0..body.len() {
            let chunks = [&body[..cut], &body[cut..]].map(Bytes::copy_from_slice);
            let output = decoded(ContentCoding::Deflate, chunks);
            assert_eq!(output.as_deref(), Ok(expected), "cut at {cut}");
        }
    }
}

/// A chunk may end with a block, while what was decoded of it is more than one step.
#[test]
fn what_was_flushed_comes_out_at_once_however_much_it_is() {
    let plain: Vec<u8> = (b'a'..=b'z').cycle().take(3 * STEP).collect();
    for coding in ALL {
        let mut encoder = Encoder::new(coding).unwrap();
        encoder.push(&plain).unwrap();
        encoder.flush().unwrap();
        let mut decoder = Decoder::new(coding, DecodeLimits::default()).unwrap();
        decoder.push(encoder.output().unwrap());
        let mut len = 0;
        while let Some(piece) = decoder.output().unwrap() {
            len += piece.len();
        }
        assert_eq!(len, plain.len(), "{coding:?}");
    }
}
