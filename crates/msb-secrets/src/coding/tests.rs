//! Codings: what other implementations' tools wrote is read, what is written reads back, and bombs stay small.

mod edges;

use bytes::Bytes;
use msb_name::HostName;
use msb_policy::{Destination, InterceptedConnection, UpstreamTrust};
use proptest::prelude::*;

use super::*;
use crate::{BodyKind, RequestRewriter, SecretBuilder, SecretSet};

const ALL: [ContentCoding; 5] = [
    ContentCoding::Identity,
    ContentCoding::Gzip,
    ContentCoding::Deflate,
    ContentCoding::Brotli,
    ContentCoding::Zstd,
];

fn encoded(coding: ContentCoding, plain: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(coding).unwrap();
    encoder.push(plain).unwrap();
    encoder.finish().unwrap();
    encoder
        .output()
        .map(|bytes| bytes.to_vec())
        .unwrap_or_default()
}

fn decoded(
    coding: ContentCoding,
    chunks: impl IntoIterator<Item = Bytes>,
) -> Result<Vec<u8>, CodingError> {
    let mut decoder = Decoder::new(coding, DecodeLimits::default())?;
    let mut output = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        while let Some(piece) = decoder.output()? {
            output.extend_from_slice(&piece);
        }
    }
    decoder.finish()?;
    Ok(output)
}

#[test]
fn codings_are_read_from_their_header() {
    for (text, expected) in [
        ("gzip", Some(ContentCoding::Gzip)),
        (" X-GZIP", Some(ContentCoding::Gzip)),
        ("br", Some(ContentCoding::Brotli)),
        ("zstd", Some(ContentCoding::Zstd)),
        ("deflate", Some(ContentCoding::Deflate)),
        ("identity", Some(ContentCoding::Identity)),
        ("", Some(ContentCoding::Identity)),
        ("gzip, br", None),
        ("compress", None),
    ] {
        assert_eq!(ContentCoding::parse(text.as_bytes()), expected, "{text}");
    }
}

/// The gzip and zstd commands' output for `hello hello hello`; for brotli an uncompressed block (RFC 7932, section 9.2).
#[test]
fn what_other_tools_write_is_read() {
    let raw_deflate = {
        let zlib = encoded(ContentCoding::Deflate, b"hello hello hello");
        zlib[2..zlib.len() - 4].to_vec()
    };
    for (coding, bytes) in [
        (ContentCoding::Deflate, raw_deflate.as_slice()),
        (
            ContentCoding::Gzip,
            b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xcb\x48\xcd\xc9\xc9\x57\xc8\x40\x90\x00\x80\x88\xf9\xe5\x11\x00\x00\x00",
        ),
        (
            ContentCoding::Zstd,
            b"\x28\xb5\x2f\xfd\x04\x58\x65\x00\x00\x30\x68\x65\x6c\x6c\x6f\x20\x01\x00\x31\x4a\x11\xa2\xed\x1e\x0c",
        ),
        (ContentCoding::Brotli, b"\x0b\x08\x80hello hello hello\x03"),
    ] {
        let output = decoded(coding, [Bytes::copy_from_slice(bytes)]);
        assert_eq!(output.as_deref(), Ok(&b"hello hello hello"[..]), "{coding:?}");
    }
}

#[test]
fn bodies_that_end_early_or_are_something_else_are_malformed() {
    for coding in &ALL[1..] {
        let whole = encoded(*coding, &b"some text that is long enough ".repeat(20));
        for len in 1..whole.len() {
            let error = decoded(*coding, [Bytes::copy_from_slice(&whole[..len])]).unwrap_err();
            assert!(
                matches!(error, CodingError::Malformed { .. }),
                "{coding:?} {len} {error}"
            );
        }
        decoded(
            *coding,
            [Bytes::from_static(
                b"\xff\xfe\xfd\xfc not compressed at all",
            )],
        )
        .unwrap_err();
        assert_eq!(decoded(*coding, []), Ok(Vec::new()), "{coding:?}");
    }
}

/// Attack 23.
#[test]
fn bombs_are_stopped_in_small_steps() {
    for coding in &ALL[1..] {
        let zeros = vec![0; 1 << 20];
        let mut encoder = Encoder::new(*coding).unwrap();
        for _ in 0..40 {
            encoder.push(&zeros).unwrap();
        }
        encoder.finish().unwrap();
        let bomb = encoder.output().unwrap();
        let limits = DecodeLimits {
            max_ratio: 100,
            free_len: 4 << 20,
            ..DecodeLimits::default()
        };
        let mut decoder = Decoder::new(*coding, limits).unwrap();
        decoder.push(bomb);
        let mut produced = 0;
        let error = loop {
            match decoder.output() {
                Ok(piece) => {
                    let len = piece.expect("it is stopped before its end").len();
                    assert!(len <= 2 << 20, "{coding:?} {len}");
                    produced += len;
                }
                Err(error) => break error,
            }
        };
        assert!(matches!(error, CodingError::Bomb { .. }), "{error}");
        assert!(produced <= 6 << 20, "{coding:?} {produced}");
        let limits = DecodeLimits {
            max_len: 1000,
            ..DecodeLimits::default()
        };
        let mut decoder = Decoder::new(*coding, limits).unwrap();
        decoder.push(encoded(*coding, &[0; 1001]).into());
        assert!(matches!(
            decoder.output().unwrap_err(),
            CodingError::Bomb { .. }
        ));
    }
}

fn request(set: &SecretSet) -> RequestRewriter {
    let name: HostName = "a.test".parse().unwrap();
    let connection = InterceptedConnection::new(
        name.clone(),
        Destination::DialledByName(name.clone()),
        UpstreamTrust::Verified(name.into()),
    );
    set.request(&connection, &"a.test".parse().unwrap())
}

fn set() -> SecretSet {
    let secret = |env: &str, host: &str| {
        SecretBuilder::new()
            .env(env)
            .value("sk-\"123")
            .allow_host(host)
            .inject_body(true)
    };
    SecretSet::new(vec![
        secret("A", "a.test").build().unwrap(),
        secret("B", "b.test").build().unwrap(),
    ])
    .unwrap()
}

fn through<R: Rewrite>(
    body: &mut CodedBody<R>,
    chunks: impl IntoIterator<Item = Bytes>,
) -> Result<Vec<u8>, CodedError> {
    let mut output = Vec::new();
    for chunk in chunks {
        body.push(chunk);
        while let Some(piece) = body.output()? {
            output.extend_from_slice(&piece);
        }
    }
    body.finish();
    while let Some(piece) = body.output()? {
        output.extend_from_slice(&piece);
    }
    Ok(output)
}

#[test]
fn values_go_in_and_come_out_of_coded_bodies() {
    for coding in ALL {
        let set = set();
        let plain = format!("{{\"k\":\"{}$MSB_A\"}}", "x".repeat(100_000));
        let coded = Bytes::from(encoded(coding, plain.as_bytes()));
        let chunks: Vec<_> = (0..coded.len())
            .step_by(7)
            .map(|at| coded.slice(at..coded.len().min(at + 7)))
            .collect();
        let rewriter = request(&set).rewrite_body(BodyKind::Json);
        let mut body = CodedBody::new(coding, rewriter, coding, DecodeLimits::default()).unwrap();
        let sent = through(&mut body, chunks).unwrap();
        assert_eq!(body.rewriter().take_notes().len(), 1);
        let received = decoded(coding, [Bytes::from(sent.clone())]).unwrap();
        assert!(received.ends_with(br#"xsk-\"123"}"#), "{coding:?}");
        let scrubber = set.response().body(BodyKind::Json);
        let mut back = CodedBody::new(
            coding,
            scrubber,
            ContentCoding::Identity,
            DecodeLimits::default(),
        )
        .unwrap();
        assert_eq!(
            through(&mut back, [Bytes::from(sent)]).unwrap(),
            plain.as_bytes()
        );
    }
}

#[test]
fn violations_are_found_in_coded_bodies() {
    for coding in ALL {
        let set = set();
        let coded = encoded(coding, b"secret: %24MSB_B ");
        let rewriter = request(&set).body();
        let mut body = CodedBody::new(coding, rewriter, coding, DecodeLimits::default()).unwrap();
        let error = through(&mut body, [Bytes::from(coded)]).unwrap_err();
        assert!(
            matches!(error, CodedError::Violation(_)),
            "{coding:?}: {error}"
        );
    }
}

#[test]
fn a_flush_hands_on_all_that_came() {
    for coding in ALL {
        let set = set();
        let rewriter = request(&set).rewrite_body(BodyKind::Text);
        let mut body = CodedBody::new(
            ContentCoding::Identity,
            rewriter,
            coding,
            DecodeLimits::default(),
        )
        .unwrap();
        body.push(Bytes::from_static(b"one event\n\n"));
        let mut sent = Vec::new();
        while let Some(piece) = body.output().unwrap() {
            sent.extend_from_slice(&piece);
        }
        sent.extend(body.flush().unwrap().into_iter().flatten());
        let mut decoder = Decoder::new(coding, DecodeLimits::default()).unwrap();
        decoder.push(sent.into());
        let mut received = Vec::new();
        while let Some(piece) = decoder.output().unwrap() {
            received.extend_from_slice(&piece);
        }
        assert_eq!(received, b"one event\n\n", "{coding:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn encoding_and_decoding_gives_back_the_original(plain in proptest::collection::vec(any::<u8>(), 0..4000), repeat in 1..40usize, step in 1..500usize) {
        let plain = plain.repeat(repeat);
        for coding in ALL {
            let coded = Bytes::from(encoded(coding, &plain));
            let chunks = (0..coded.len()).step_by(step).map(|at| coded.slice(at..coded.len().min(at + step)));
            prop_assert_eq!(&decoded(coding, chunks).unwrap(), &plain);
        }
    }

    #[test]
    fn garbage_never_panics(garbage in proptest::collection::vec(any::<u8>(), 0..300), coding in prop::sample::select(ALL.to_vec())) {
        let _ = decoded(coding, [Bytes::from(garbage)]);
    }
}
