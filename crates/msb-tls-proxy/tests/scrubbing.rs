//! Values that come back (attack 20): taken out of what the guest gets, and nothing else is changed or delayed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use common::codings::{CODINGS, chunked, content_encoding, decode, encode};
use common::{Bench, HOST, OTHER, PLACEHOLDER, VALUE, broken, read_until, secrets_with, within};
use http::Response;
use http_body_util::Full;
use msb_secrets::Location;
use msb_testkit::{CertificateKind, Origin, RawOrigin, RecordedRequest};
use msb_tls_proxy::Event;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

type Guest = tokio_rustls::client::TlsStream<TcpStream>;
type Server = tokio_rustls::server::TlsStream<TcpStream>;

async fn both_ends_of(bench: &Bench, host: &str) -> (Guest, Server) {
    let origin = RawOrigin::start(bench.root.server(&[HOST, OTHER], CertificateKind::Good)).await;
    tokio::join!(bench.tls(origin.address(), host), origin.accept())
}

async fn both_ends(bench: &Bench) -> (Guest, Server) {
    both_ends_of(bench, HOST).await
}

async fn ask(guest: &mut Guest, server: &mut Server, method: &str, fields: &str) -> String {
    let request = format!("{method} / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n");
    guest.write_all(request.as_bytes()).await.unwrap();
    read_until(server, "\r\n\r\n").await
}

/// Writes an answer in small pieces, and reads what the guest gets of it: head, and body without chunks.
async fn carried(guest: &mut Guest, server: &mut Server, wire: &[u8]) -> (String, Vec<u8>) {
    let write = async {
        for piece in wire.chunks(1000) {
            server.write_all(piece).await.unwrap();
            server.flush().await.unwrap();
        }
    };
    let read = async {
        let head = read_until(guest, "\r\n\r\n").await;
        let body = read_body(guest, &head).await;
        (head, body)
    };
    within(async { tokio::join!(write, read).1 }).await
}

async fn read_body(guest: &mut Guest, head: &str) -> Vec<u8> {
    let lower = head.to_ascii_lowercase();
    if let Some((_, rest)) = lower.split_once("content-length: ") {
        let len = rest.split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; len];
        guest.read_exact(&mut body).await.unwrap();
        return body;
    }
    assert!(lower.contains("transfer-encoding: chunked"), "{head}");
    let mut body = Vec::new();
    loop {
        let size = read_until(guest, "\r\n").await;
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        guest.read_exact(&mut chunk).await.unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&chunk[..size]);
    }
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[tokio::test]
async fn values_are_taken_out_of_bodies_in_every_form_coding_and_framing() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    let forms = [
        (VALUE.to_owned(), PLACEHOLDER.to_owned()),
        (percent(VALUE), "%24MSB_API_KEY".to_owned()),
        (format!("\\u0073{}", &VALUE[1..]), PLACEHOLDER.to_owned()),
        (format!("word{VALUE}word"), format!("word{PLACEHOLDER}word")),
    ];
    for (content_type, text) in [
        ("application/json", true),
        ("text/html", true),
        ("image/png", false),
    ] {
        for coding in CODINGS {
            for size in [None, Some(1), Some(5), Some(3000)] {
                for (written, replaced) in &forms {
                    let body = format!("[\"{}{written}\"]", "filler ".repeat(30));
                    let coded = encode(coding, body.as_bytes());
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{}",
                        content_encoding(coding)
                    );
                    let wire = match size {
                        None => [
                            format!("{head}Content-Length: {}\r\n\r\n", coded.len()).into_bytes(),
                            coded,
                        ]
                        .concat(),
                        Some(size) => [
                            format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes(),
                            chunked(&coded, size),
                        ]
                        .concat(),
                    };
                    ask(&mut guest, &mut server, "GET", "").await;
                    let (_, got) = carried(&mut guest, &mut server, &wire).await;
                    let got = String::from_utf8(decode(coding, &got)).unwrap();
                    let expected = if text {
                        body.replace(written, replaced)
                    } else {
                        body.replace(written, &written.replace(VALUE, &"*".repeat(VALUE.len())))
                    };
                    let case = format!("{content_type} {coding} {size:?} {written}");
                    if text || written.contains(VALUE) {
                        assert_eq!(got, expected, "{case}");
                    } else {
                        assert_eq!(got.len(), body.len(), "{case}");
                        assert!(
                            !got.contains(written) && got.contains("****"),
                            "{case}: {got}"
                        );
                    }
                }
            }
        }
    }
    let scrubbed = |event: &Event| {
        matches!(
            event,
            Event::Scrubbed {
                location: Location::ResponseBody,
                ..
            }
        )
        .then_some(())
    };
    bench.event(scrubbed).await;
}

/// Whether `text` gives the value away, raw or in an encoding.
fn gives_away(text: &[u8]) -> bool {
    let lossy = String::from_utf8_lossy(text).into_owned();
    let unescaped = lossy.replace("\\u002d", "-");
    let base64 = (0..3).any(|skip| {
        let encoded = STANDARD.encode([&vec![b'x'; skip][..], VALUE.as_bytes()].concat());
        lossy.contains(&encoded[4..encoded.len() - 4])
    });
    [VALUE.to_owned(), percent(VALUE)]
        .iter()
        .any(|form| unescaped.contains(form))
        || base64
}

/// Sends back everything it got, in the way that the path asks for.
fn echo(request: &RecordedRequest) -> Response<Full<Bytes>> {
    let mut all = request.target.clone().into_bytes();
    for (name, value) in &request.headers {
        all.extend_from_slice(format!("\n{name}: ").as_bytes());
        all.extend_from_slice(value);
    }
    all.extend_from_slice(b"\n\n");
    all.extend_from_slice(&request.body);
    let (_, way) = request.target.split('?').next().unwrap().split_at(1);
    let mut answer = Response::builder();
    let line = String::from_utf8_lossy(&all).replace(['\n', '\u{e9}'], " ");
    let body = match way {
        "base64" => STANDARD.encode(&all).into_bytes(),
        "percent" => percent(&String::from_utf8_lossy(&all)).into_bytes(),
        "json" => {
            answer = answer.header("content-type", "application/json");
            format!("\"{}\"", line.replace('"', "\\\"").replace('-', "\\u002d")).into_bytes()
        }
        "error" => {
            answer = answer.status(401).header("content-type", "text/plain");
            all
        }
        "location" => {
            answer = answer.status(302).header(
                "location",
                format!("https://{HOST}/?{}", line.replace(' ', "+")),
            );
            Vec::new()
        }
        "set-cookie" => {
            answer = answer.header("set-cookie", format!("all={line}"));
            Vec::new()
        }
        coding => {
            answer = answer.header("content-type", "text/plain");
            if !coding.is_empty() {
                answer = answer.header("content-encoding", coding);
            }
            encode(coding, &all)
        }
    };
    answer.body(Full::from(body)).unwrap()
}

/// Attack 20.
#[tokio::test]
async fn an_echo_gives_nothing_back_in_any_way() {
    let bench = Bench::with(|config| {
        config.secrets = secrets_with(VALUE, |s| s.inject_query(true).inject_body(true));
    });
    let config = bench.root.server(&[HOST], CertificateKind::Good);
    let origin = Origin::start_with(config, Arc::new(echo)).await;
    for way in [
        "",
        "gzip",
        "deflate",
        "br",
        "zstd",
        "base64",
        "percent",
        "json",
        "error",
        "location",
        "set-cookie",
    ] {
        let basic = STANDARD.encode(format!("user:{PLACEHOLDER}"));
        let request = format!(
            "POST /{way}?key={PLACEHOLDER} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: me/{PLACEHOLDER}\r\nOrigin: https://{PLACEHOLDER}\r\nAuthorization: Basic {basic}\r\nX-Key: {PLACEHOLDER}\r\nContent-Length: 12\r\nConnection: close\r\n\r\n{PLACEHOLDER}"
        );
        let mut guest = bench.tls(origin.address(), HOST).await;
        let answer = within(msb_testkit::exchange(&mut guest, request.as_bytes())).await;
        let received = origin.requests().pop().unwrap();
        let sent_back = [received.target.as_bytes(), &received.body].concat();
        assert!(
            gives_away(&sent_back),
            "the origin did not get the value: {way}"
        );
        let head_len = answer
            .windows(4)
            .position(|end| end == b"\r\n\r\n")
            .unwrap()
            + 4;
        let (head, body) = answer.split_at(head_len);
        let head = String::from_utf8_lossy(head);
        let coding = if CODINGS.contains(&way) { way } else { "" };
        let body = decode(coding, body);
        assert!(!gives_away(head.as_bytes()), "{way}: {head}");
        assert!(
            !gives_away(&body),
            "{way}: {}",
            String::from_utf8_lossy(&body)
        );
        assert!(
            head.contains("MSB_API_KEY") || body.len() > 100,
            "{way}: {head}"
        );
    }
}

#[tokio::test]
async fn a_value_stored_and_read_back_later_is_taken_out() {
    let bench = Bench::new();
    // Nothing was written on this connection.
    let (mut guest, mut server) = both_ends(&bench).await;
    ask(&mut guest, &mut server, "GET", "").await;
    let wire = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{VALUE}",
        VALUE.len()
    );
    let (_, body) = carried(&mut guest, &mut server, wire.as_bytes()).await;
    assert_eq!(body, PLACEHOLDER.as_bytes());
}

#[tokio::test]
async fn values_are_taken_out_of_trailers() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    ask(
        &mut guest,
        &mut server,
        "GET",
        "TE: trailers\r\nConnection: TE\r\n",
    )
    .await;
    let wire = format!(
        "HTTP/1.1 200 OK\r\nTrailer: X-Key\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Key: {VALUE}\r\n\r\n"
    );
    server.write_all(wire.as_bytes()).await.unwrap();
    read_until(&mut guest, "\r\n\r\n").await;
    let rest = read_until(&mut guest, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    assert_eq!(
        rest,
        format!(
            "1\r\na\r\n0\r\nx-key: {}\r\n\r\n",
            PLACEHOLDER.to_ascii_lowercase()
        )
    );
}

#[tokio::test]
async fn answers_without_a_value_arrive_byte_for_byte() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    let text = "sk-real-value, but not of the key\n".repeat(200);
    for coding in CODINGS {
        let body = match coding {
            "zstd" => zstd::encode_all(text.as_bytes(), 19).unwrap(),
            coding => encode(coding, text.as_bytes()),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{}ETag: \"e\"\r\nContent-MD5: x\r\nContent-Length: {}\r\n\r\n",
            content_encoding(coding),
            body.len()
        );
        ask(&mut guest, &mut server, "GET", "").await;
        let wire = [head.as_bytes(), &body].concat();
        let (got_head, got) = carried(&mut guest, &mut server, &wire).await;
        assert_eq!(got_head, head);
        assert_eq!(got, body, "{coding}");
    }
}

#[tokio::test]
async fn the_length_and_the_digests_of_a_scrubbed_answer_are_put_right() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    ask(&mut guest, &mut server, "GET", "").await;
    let body = format!("{{\"key\":\"{VALUE}\"}}");
    let wire = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-MD5: x\r\nETag: \"e\"\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (head, got) = carried(&mut guest, &mut server, wire.as_bytes()).await;
    let expected = format!("{{\"key\":\"{PLACEHOLDER}\"}}");
    assert_eq!(got, expected.as_bytes());
    let len = expected.len();
    let fields = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: \"e\"\r\nContent-Length: {len}\r\n\r\n"
    );
    let sorted = |head: &str| {
        let mut lines: Vec<_> = head.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&head), sorted(&fields));
}

#[tokio::test]
async fn answers_without_a_body_keep_their_fields() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    for (method, status) in [
        ("HEAD", "200 OK"),
        ("GET", "204 No Content"),
        ("GET", "304 Not Modified"),
    ] {
        let length = if method == "GET" {
            ""
        } else {
            "Content-Length: 1234\r\n"
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n{length}\r\n"
        );
        ask(&mut guest, &mut server, method, "").await;
        server.write_all(answer.as_bytes()).await.unwrap();
        assert_eq!(read_until(&mut guest, "\r\n\r\n").await, answer);
    }
}

#[tokio::test]
async fn parts_of_a_representation_keep_their_length() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    ask(&mut guest, &mut server, "GET", "Range: bytes=0-33\r\n").await;
    let wire = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-33/99\r\nContent-Length: 34\r\n\r\nbefore {VALUE}end"
    );
    let (head, body) = carried(&mut guest, &mut server, wire.as_bytes()).await;
    assert!(wire.starts_with(&head), "{head}");
    assert_eq!(
        body,
        format!("before {}end", "*".repeat(VALUE.len())).as_bytes()
    );
}

#[tokio::test]
async fn events_are_scrubbed_and_never_waited_for() {
    let bench = Bench::new();
    for (coding, length) in [("", ""), ("", "Content-Length: 1000000\r\n"), ("gzip", "")] {
        let (mut guest, mut server) = both_ends(&bench).await;
        ask(
            &mut guest,
            &mut server,
            "GET",
            "Accept: text/event-stream\r\n",
        )
        .await;
        let encoding = content_encoding(coding);
        let framing = if length.is_empty() {
            "Transfer-Encoding: chunked\r\n"
        } else {
            length
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{encoding}{framing}\r\n"
        );
        server.write_all(head.as_bytes()).await.unwrap();
        let head = read_until(&mut guest, "\r\n\r\n")
            .await
            .to_ascii_lowercase();
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        let mut decoder = flate2::write::GzDecoder::new(Vec::new());
        for index in 0..3 {
            let event = format!("data: {index} {VALUE}\n\n");
            let mut part = event.into_bytes();
            if coding == "gzip" {
                encoder.write_all(&part).unwrap();
                encoder.flush().unwrap();
                part = std::mem::take(encoder.get_mut());
            }
            if length.is_empty() {
                part = [format!("{:x}\r\n", part.len()).as_bytes(), &part, b"\r\n"].concat();
            }
            // The next is sent only when this one has arrived, so a proxy that waits is stuck.
            server.write_all(&part).await.unwrap();
            let expected = format!("data: {index} {PLACEHOLDER}\n\n");
            let mut got = Vec::new();
            while !String::from_utf8_lossy(&got).ends_with(&expected) {
                let size = read_until(&mut guest, "\r\n").await;
                let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
                let mut chunk = vec![0; size + 2];
                within(guest.read_exact(&mut chunk)).await.unwrap();
                if coding == "gzip" {
                    decoder.write_all(&chunk[..size]).unwrap();
                    decoder.flush().unwrap();
                    got.append(decoder.get_mut());
                } else {
                    got.extend_from_slice(&chunk[..size]);
                }
            }
        }
    }
}

#[tokio::test]
async fn an_answer_over_the_hold_limit_streams_without_its_length() {
    let bench = Bench::with(|config| config.limits.body_hold = 100);
    let (mut guest, mut server) = both_ends(&bench).await;
    for coding in ["", "gzip"] {
        let body = format!(
            "{}{VALUE}",
            (0..200).map(|n| format!("{n} ")).collect::<String>()
        );
        let coded = encode(coding, body.as_bytes());
        let encoding = content_encoding(coding);
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{encoding}Content-Length: {}\r\n\r\n",
            coded.len()
        );
        ask(&mut guest, &mut server, "GET", "").await;
        let wire = [head.as_bytes(), &coded].concat();
        let (head, got) = carried(&mut guest, &mut server, &wire).await;
        assert!(
            !head.to_ascii_lowercase().contains("content-length"),
            "{head}"
        );
        assert_eq!(
            decode(coding, &got),
            body.replace(VALUE, PLACEHOLDER).as_bytes()
        );
    }
}

#[tokio::test]
async fn identity_is_asked_for_where_a_value_may_come_back() {
    for (host, scrubs, expected) in [
        (HOST, true, "identity"),
        (HOST, false, "gzip, br"),
        (OTHER, true, "gzip, br"),
    ] {
        let bench = Bench::with(|config| {
            config.secrets = secrets_with(VALUE, |secret| secret.scrub_responses(scrubs));
        });
        let config = bench.root.server(&[HOST, OTHER], CertificateKind::Good);
        let origin = Origin::start(config).await;
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: gzip, br\r\nConnection: close\r\n\r\n"
        );
        bench.exchange(origin.address(), host, &request).await;
        let asked = origin.requests()[0].only_header("accept-encoding");
        assert_eq!(asked.as_deref(), Some(expected), "{host} {scrubs}");
    }
}

#[tokio::test]
async fn a_secret_with_the_switch_off_comes_back_as_it_is() {
    let bench = Bench::with(|config| {
        config.secrets = secrets_with(VALUE, |secret| secret.scrub_responses(false));
    });
    let (mut guest, mut server) = both_ends(&bench).await;
    ask(&mut guest, &mut server, "GET", "").await;
    let wire = format!(
        "HTTP/1.1 200 OK\r\nX-Echo: {VALUE}\r\nContent-Length: {}\r\n\r\n{VALUE}",
        VALUE.len()
    );
    let (head, body) = carried(&mut guest, &mut server, wire.as_bytes()).await;
    assert!(head.contains(VALUE) && body == VALUE.as_bytes());
}

#[tokio::test]
async fn an_answer_that_is_not_what_its_coding_says_is_never_taken_for_whole() {
    let bench = Bench::new();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n";
    let bomb = encode("gzip", &vec![0; 64 << 20]);
    for body in [b"not gzip at all".to_vec(), bomb] {
        let (mut guest, mut server) = both_ends(&bench).await;
        ask(&mut guest, &mut server, "GET", "").await;
        let declared = format!("{head}Content-Length: {}\r\n\r\n", body.len());
        let wire = [declared.as_bytes(), &body].concat();
        let _ = server.write_all(&wire).await;
        // Held to be counted, so nothing of it has been sent.
        let answer = read_until(&mut guest, "\r\n").await;
        assert_eq!(answer, "HTTP/1.1 502 Bad Gateway\r\n");

        let (mut guest, mut server) = both_ends(&bench).await;
        ask(&mut guest, &mut server, "GET", "").await;
        let wire = [
            format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes(),
            &chunked(&body, 4096),
        ]
        .concat();
        let _ = server.write_all(&wire).await;
        broken(&mut guest).await;
        bench
            .event(|event| matches!(event, Event::ResponseRefused { .. }).then_some(()))
            .await;
    }
}
