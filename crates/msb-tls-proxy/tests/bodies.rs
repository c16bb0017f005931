//! Values written into queries and bodies: every type, coding and framing, and the length that goes with it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;
use std::time::Duration;

use common::codings::{CODINGS, chunked, content_encoding, decode, encode};
use common::{Bench, HOST, OTHER, PLACEHOLDER, VALUE, broken, read_until, secrets_with, within};
use msb_secrets::{Form, Location};
use msb_testkit::{CertificateKind, Origin, RawOrigin, RecordedRequest};
use msb_tls_proxy::{Config, Event};
use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

type Guest = tokio_rustls::client::TlsStream<TcpStream>;
type Server = tokio_rustls::server::TlsStream<TcpStream>;

/// What has to be escaped somewhere.
const AWKWARD: &str = "v\"a&l=u e\\+\u{e9}";

fn injecting(value: &str) -> impl FnOnce(&mut Config) {
    let secrets = secrets_with(value, |secret| {
        secret
            .inject_headers(false)
            .inject_query(true)
            .inject_body(true)
    });
    |config| config.secrets = secrets
}

async fn recording(bench: &Bench) -> Origin {
    Origin::start(bench.root.server(&[HOST, OTHER], CertificateKind::Good)).await
}

async fn both_ends(bench: &Bench) -> (Guest, Server) {
    let origin = RawOrigin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    tokio::join!(bench.tls(origin.address(), HOST), origin.accept())
}

/// How a body is sent.
#[derive(Clone, Copy, Debug)]
enum Framing {
    Length,
    /// In chunks of so many bytes.
    Chunks(usize),
}

/// A request with `body`; what is sent after the head comes in `pieces`.
fn post(host: &str, fields: &str, body: &[u8], framing: Framing) -> Vec<u8> {
    let (declared, body) = match framing {
        Framing::Length => (format!("Content-Length: {}", body.len()), body.to_vec()),
        Framing::Chunks(size) => ("Transfer-Encoding: chunked".to_owned(), chunked(body, size)),
    };
    let head = format!("POST /p HTTP/1.1\r\nHost: {host}\r\n{fields}{declared}\r\n\r\n");
    [head.as_bytes(), &body].concat()
}

async fn send_in_pieces(guest: &mut Guest, wire: &[u8], size: usize) {
    for piece in wire.chunks(size) {
        guest.write_all(piece).await.unwrap();
        guest.flush().await.unwrap();
    }
}

/// The next request that `origin` records, sent on a connection that is kept.
async fn sent(guest: &mut Guest, origin: &Origin, wire: &[u8], size: usize) -> RecordedRequest {
    let before = origin.requests().len();
    send_in_pieces(guest, wire, size).await;
    read_until(guest, "hello\n").await;
    let requests = origin.requests();
    assert_eq!(requests.len(), before + 1);
    requests[before].clone()
}

#[track_caller]
fn check_framing(request: &RecordedRequest, framing: Framing) {
    let length = match framing {
        Framing::Length => vec![request.body.len().to_string()],
        Framing::Chunks(_) => vec![],
    };
    assert_eq!(request.header("content-length"), length);
    assert!(request.complete);
}

#[tokio::test]
async fn values_are_written_into_bodies_of_every_type_coding_and_framing() {
    let bench = Bench::with(injecting(AWKWARD));
    let origin = recording(&bench).await;
    let mut guest = bench.tls(origin.address(), HOST).await;
    let raw = AWKWARD.to_owned();
    for (content_type, body, expected) in [
        (
            "application/json",
            format!("{{\"key\": \"{PLACEHOLDER}\", \"n\": 1}}"),
            "{\"key\": \"v\\\"a&l=u e\\\\+\u{e9}\", \"n\": 1}".to_owned(),
        ),
        (
            "application/x-www-form-urlencoded",
            "a=1&key=%24MSB_API_KEY&other=$MSB_API_KEY".to_owned(),
            "a=1&key=v%22a%26l%3Du%20e%5C%2B%C3%A9&other=v%22a%26l%3Du%20e%5C%2B%C3%A9".to_owned(),
        ),
        (
            "multipart/form-data; boundary=b",
            format!(
                "--b\r\nContent-Disposition: form-data; name=\"k\"\r\n\r\n{PLACEHOLDER}\r\n--b--\r\n"
            ),
            format!("--b\r\nContent-Disposition: form-data; name=\"k\"\r\n\r\n{raw}\r\n--b--\r\n"),
        ),
        ("text/plain", format!("a {PLACEHOLDER}"), format!("a {raw}")),
        (
            "application/x-unheard-of",
            format!("\0{PLACEHOLDER}\0"),
            format!("\0{raw}\0"),
        ),
    ] {
        for coding in CODINGS {
            for framing in [
                Framing::Length,
                Framing::Chunks(1),
                Framing::Chunks(7),
                Framing::Chunks(4096),
            ] {
                for piece in [9, 4096] {
                    let fields = format!(
                        "Content-Type: {content_type}\r\n{}",
                        content_encoding(coding)
                    );
                    let wire = post(HOST, &fields, &encode(coding, body.as_bytes()), framing);
                    let request = sent(&mut guest, &origin, &wire, piece).await;
                    let got = String::from_utf8(decode(coding, &request.body)).unwrap();
                    assert_eq!(got, expected, "{content_type} {coding} {framing:?} {piece}");
                    check_framing(&request, framing);
                }
            }
        }
    }
    let told = bench.events().into_iter().any(|event| {
        matches!(
            event,
            Event::Substituted {
                location: Location::Body,
                form: Form::Percent,
                ..
            }
        )
    });
    assert!(told);
}

#[tokio::test]
async fn values_are_written_into_queries_percent_encoded_and_never_into_paths() {
    let bench = Bench::with(injecting(AWKWARD));
    let origin = recording(&bench).await;
    let written = "v%22a%26l%3Du%20e%5C%2B%C3%A9";
    for (target, expected) in [
        ("/p?key=$MSB_API_KEY&b=1", format!("/p?key={written}&b=1")),
        ("/p?key=%24MSB_API_KEY", format!("/p?key={written}")),
        (
            "/$MSB_API_KEY?key=%24MSB%5FAPI_KEY",
            format!("/$MSB_API_KEY?key={written}"),
        ),
        (
            "https://api.example.test/?$MSB_API_KEY",
            format!("/?{written}"),
        ),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        bench.exchange(origin.address(), HOST, &request).await;
        assert_eq!(origin.requests().pop().unwrap().target, expected);
    }
    assert!(!format!("{:?}", bench.events()).contains("v%22"));
}

/// Bodies of pieces that are placeholders, parts of one, or neither.
fn bodies() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(PLACEHOLDER.to_owned()),
        Just("$MSB_API".to_owned()),
        "[a-z$_ ]{0,12}",
    ];
    proptest::collection::vec(piece.prop_map(|piece| piece + "."), 0..12)
        .prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_declared_length_is_that_of_the_bytes_sent(
        body in bodies(),
        value in "[a-z]{1,40}",
        coding in proptest::sample::select(&CODINGS[..]),
        hold in proptest::sample::select(&[0, 40, 1 << 20][..]),
        piece in 1..64_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::with(|config| {
                injecting(&value)(config);
                config.limits.body_hold = hold;
            });
            let origin = recording(&bench).await;
            let mut guest = bench.tls(origin.address(), HOST).await;
            let coded = encode(coding, body.as_bytes());
            let wire = post(HOST, &content_encoding(coding), &coded, Framing::Length);
            // Twice, so that a byte too many or too few of the first breaks the second.
            for _ in 0..2 {
                let request = sent(&mut guest, &origin, &wire, piece).await;
                let got = String::from_utf8(decode(coding, &request.body)).unwrap();
                assert_eq!(got, body.replace(PLACEHOLDER, &value));
                let declared = request.only_header("content-length");
                let chunked = request.only_header("transfer-encoding");
                match declared {
                    Some(declared) => assert_eq!(declared, request.body.len().to_string()),
                    None => assert_eq!(chunked.as_deref(), Some("chunked")),
                }
            }
        });
    }
}

#[tokio::test]
async fn a_body_over_the_hold_limit_streams_without_its_length() {
    let bench = Bench::with(|config| {
        injecting(VALUE)(config);
        config.limits.body_hold = 20;
    });
    let (mut guest, mut server) = both_ends(&bench).await;
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 34\r\n\r\n");
    guest.write_all(head.as_bytes()).await.unwrap();
    let head = read_until(&mut server, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    assert!(!head.contains("content-length"), "{head}");
    guest.write_all(b"0123456789 first").await.unwrap();
    // The rest is sent only when this has arrived, so a proxy that holds it is stuck.
    read_until(&mut server, "first\r\n").await;
    guest
        .write_all(format!(" and {PLACEHOLDER}.").as_bytes())
        .await
        .unwrap();
    let rest = read_until(&mut server, "0\r\n\r\n").await;
    assert!(rest.contains(VALUE), "{rest}");
}

#[tokio::test]
async fn a_value_as_long_as_its_placeholder_streams_in_place() {
    let same = "s-equal-size";
    assert_eq!(same.len(), PLACEHOLDER.len());
    let bench = Bench::with(injecting(same));
    let (mut guest, mut server) = both_ends(&bench).await;
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 24\r\n\r\n");
    guest.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_until(&mut server, "\r\n\r\n").await, head);
    guest.write_all(b"first part ").await.unwrap();
    read_until(&mut server, "first part ").await;
    guest
        .write_all(format!("{PLACEHOLDER}.").as_bytes())
        .await
        .unwrap();
    assert_eq!(read_until(&mut server, ".").await, format!("{same}."));
}

#[tokio::test]
async fn a_guest_is_told_to_continue_before_its_body_is_held() {
    let bench = Bench::with(|config| {
        injecting(VALUE)(config);
        config.limits.continue_wait = Duration::from_secs(3600);
    });
    let (mut guest, mut server) = both_ends(&bench).await;
    for waits in [true, false] {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 13\r\n\r\n"
        );
        guest.write_all(head.as_bytes()).await.unwrap();
        let body = format!("{PLACEHOLDER}.");
        if !waits {
            guest.write_all(body.as_bytes()).await.unwrap();
        }
        // The server has got nothing yet: how long the body will be is not known.
        if waits {
            let told = read_until(&mut guest, "\r\n\r\n").await;
            assert_eq!(told, "HTTP/1.1 100 Continue\r\n\r\n");
            guest.write_all(body.as_bytes()).await.unwrap();
        }
        let request = read_until(&mut server, &format!("{VALUE}.")).await;
        assert!(!request.contains("Expect"), "{request}");
        assert!(
            request.contains(&format!("Content-Length: {}\r\n", VALUE.len() + 1)),
            "{request}"
        );
        server
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await
            .unwrap();
        read_until(&mut guest, "ok").await;
    }
}

#[tokio::test]
async fn coded_bodies_without_a_placeholder_keep_every_byte() {
    let text = "nothing to replace: $MSB_API, $MSB\n".repeat(400);
    for injects in [true, false] {
        let bench = Bench::with(|config| {
            if injects {
                injecting(VALUE)(config);
            }
        });
        let origin = recording(&bench).await;
        let mut guest = bench.tls(origin.address(), HOST).await;
        for coding in CODINGS {
            // At a strength of its own, which the proxy's encoder would not meet.
            let coded = match coding {
                "zstd" => zstd::encode_all(text.as_bytes(), 19).unwrap(),
                coding => encode(coding, text.as_bytes()),
            };
            let fields = format!("Content-MD5: x\r\n{}", content_encoding(coding));
            let wire = post(HOST, &fields, &coded, Framing::Length);
            let request = sent(&mut guest, &origin, &wire, 100).await;
            assert_eq!(request.body, coded, "{coding} {injects}");
            assert_eq!(request.only_header("content-md5").as_deref(), Some("x"));
            check_framing(&request, Framing::Length);
        }
        for coding in CODINGS.into_iter().filter(|_| !injects) {
            let coded = encode(coding, text.as_bytes());
            let wire = post(HOST, &content_encoding(coding), &coded, Framing::Chunks(11));
            let request = sent(&mut guest, &origin, &wire, 100).await;
            assert_eq!(request.body, coded, "{coding}");
        }
    }
}

#[tokio::test]
async fn digests_of_a_body_that_is_written_into_are_removed() {
    let bench = Bench::with(injecting(VALUE));
    let origin = recording(&bench).await;
    let mut guest = bench.tls(origin.address(), HOST).await;
    let fields =
        "Content-MD5: a\r\nDigest: b\r\nContent-Digest: c\r\nRepr-Digest: d\r\nX-Kept: e\r\n";
    let wire = post(HOST, fields, PLACEHOLDER.as_bytes(), Framing::Length);
    let request = sent(&mut guest, &origin, &wire, 4096).await;
    let names: Vec<_> = request
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["host", "content-length", "x-kept"]);
}

#[tokio::test]
async fn messages_that_carry_their_own_length_are_not_written_into() {
    let bench = Bench::with(injecting(VALUE));
    let origin = recording(&bench).await;
    let mut guest = bench.tls(origin.address(), HOST).await;
    let message = [&[0, 0, 0, 0, 12][..], PLACEHOLDER.as_bytes()].concat();
    let wire = post(
        HOST,
        "Content-Type: application/grpc+proto\r\n",
        &message,
        Framing::Length,
    );
    let request = sent(&mut guest, &origin, &wire, 4096).await;
    assert_eq!(request.body, message);
    let left = |event: &Event| {
        matches!(
            event,
            Event::LeftAlone {
                location: Location::Body,
                ..
            }
        )
        .then_some(())
    };
    bench.event(left).await;
}

#[tokio::test]
async fn placeholders_for_another_host_are_found_in_every_coding() {
    for coding in CODINGS {
        for framing in [Framing::Length, Framing::Chunks(5)] {
            let bench = Bench::new();
            let origin = recording(&bench).await;
            let mut guest = bench.tls(origin.address(), OTHER).await;
            let body = encode(
                coding,
                format!("a lot of text before {PLACEHOLDER}").as_bytes(),
            );
            let wire = post(OTHER, &content_encoding(coding), &body, framing);
            let _ = guest.write_all(&wire).await;
            assert_eq!(
                broken(&mut guest).await,
                ErrorKind::ConnectionReset,
                "{coding} {framing:?}"
            );
            let whole = origin
                .received()
                .windows(body.len())
                .any(|window| window == body);
            assert!(!whole, "{coding} {framing:?}");
            bench
                .event(|event| matches!(event, Event::Violation { .. }).then_some(()))
                .await;
        }
    }
}

#[tokio::test]
async fn codings_that_are_not_known_are_passed_on_as_they_are() {
    let bench = Bench::with(injecting(VALUE));
    let origin = recording(&bench).await;
    let mut guest = bench.tls(origin.address(), HOST).await;
    for fields in [
        "Content-Encoding: aws-chunked\r\n",
        "Content-Encoding: gzip, br\r\n",
        "Content-Encoding: gzip\r\nContent-Encoding: br\r\n",
    ] {
        let body = format!("c;x=1 {PLACEHOLDER} ");
        let wire = post(HOST, fields, body.as_bytes(), Framing::Length);
        let request = sent(&mut guest, &origin, &wire, 4096).await;
        assert_eq!(request.body, body.as_bytes(), "{fields}");
    }
}

#[tokio::test]
async fn bodies_that_are_not_what_their_coding_says_are_refused() {
    let good = encode("gzip", &[b'a'; 100]);
    let bomb = encode("gzip", &vec![0; 17 << 20]);
    for injects in [true, false] {
        for (what, body) in [
            ("plain", b"this is plain".to_vec()),
            ("cut short", good[..good.len() - 9].to_vec()),
            ("with more behind", [&good[..], b"more"].concat()),
            ("bomb", bomb.clone()),
        ] {
            for framing in [Framing::Length, Framing::Chunks(4096)] {
                let bench = Bench::with(|config| {
                    if injects {
                        injecting(VALUE)(config);
                    }
                });
                let origin = recording(&bench).await;
                let mut guest = bench.tls(origin.address(), HOST).await;
                let wire = post(HOST, &content_encoding("gzip"), &body, framing);
                let answer = within(msb_testkit::exchange(&mut guest, &wire)).await;
                let answer = String::from_utf8(answer).unwrap();
                assert!(
                    answer.starts_with("HTTP/1.1 400 "),
                    "{what} {injects} {framing:?}: {answer}"
                );
                assert!(
                    origin.requests().iter().all(|request| !request.complete),
                    "{what}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_secret_revoked_while_a_body_streams_is_gone_at_once() {
    let bench = Bench::with(injecting(VALUE));
    let (mut guest, mut server) = both_ends(&bench).await;
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
    guest.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("d\r\n{PLACEHOLDER}.\r\n");
    guest.write_all(chunk.as_bytes()).await.unwrap();
    read_until(&mut server, VALUE).await;
    bench.proxy.secrets().revoke("API_KEY").unwrap();
    guest.write_all(chunk.as_bytes()).await.unwrap();
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_secret_that_is_replaced_by_none_is_gone_at_once() {
    let bench = Bench::with(injecting(VALUE));
    let (mut guest, mut server) = both_ends(&bench).await;
    let head =
        format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na.\r\n");
    guest.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut server, "a.\r\n").await;
    bench
        .proxy
        .replace_secrets(msb_secrets::SecretSet::default());
    guest
        .write_all(format!("d\r\n{PLACEHOLDER}.\r\n").as_bytes())
        .await
        .unwrap();
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
}

/// Attack 18; that it takes time in proportion is for the benchmark of the engine.
#[tokio::test]
async fn a_value_for_each_of_thousands_of_placeholders_arrives_in_its_place() {
    const LEN: usize = 15 << 20;
    let bench = Bench::with(injecting(VALUE));
    let origin = recording(&bench).await;
    let piece = format!("{PLACEHOLDER}.{}", "x".repeat(4096 - 13));
    let body = piece.repeat(LEN / 4096);
    let mut guest = bench.tls(origin.address(), HOST).await;
    let wire = post(HOST, "", body.as_bytes(), Framing::Length);
    guest.write_all(&wire).await.unwrap();
    read_until(&mut guest, "hello\n").await;
    let got = origin.requests().pop().unwrap().body;
    assert!(got == body.replace(PLACEHOLDER, VALUE).into_bytes());
}
