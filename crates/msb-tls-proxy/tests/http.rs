//! HTTP/1.1 carried whole: streaming, connections kept and ended, framing, what is removed on the way.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Bench, HOST, OTHER, PLACEHOLDER, VALUE, broken, read_until, within};
use http::Response;
use http_body_util::Full;
use msb_secrets::Location;
use msb_testkit::{CertificateKind, Origin, RawOrigin};
use msb_tls_proxy::Event;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

type Guest = tokio_rustls::client::TlsStream<TcpStream>;
type Server = tokio_rustls::server::TlsStream<TcpStream>;

async fn recording(bench: &Bench) -> Origin {
    Origin::start(bench.root.server(&[HOST, OTHER], CertificateKind::Good)).await
}

/// A guest and an origin of which the test holds both ends.
async fn both_ends(bench: &Bench) -> (Guest, Server) {
    let origin = RawOrigin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    tokio::join!(bench.tls(origin.address(), HOST), origin.accept())
}

async fn send(stream: &mut (impl tokio::io::AsyncWrite + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let bench = Bench::new();
    let origin = recording(&bench).await;
    let mut guest = bench.tls(origin.address(), HOST).await;
    for index in 0..3 {
        send(
            &mut guest,
            &format!("POST /{index} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\n\r\nabc"),
        )
        .await;
        read_until(&mut guest, "hello\n").await;
    }
    assert_eq!(origin.connections(), 1);
    assert_eq!(origin.requests()[2].body, b"abc");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let bench = Bench::new();
    let origin = recording(&bench).await;
    let post = |body: &str, end: &str| {
        format!(
            "POST /echo HTTP/1.1\r\nHost: {HOST}\r\n{end}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let requests = [
        post("first", ""),
        post("second", ""),
        post("third", "Connection: close\r\n"),
    ]
    .concat();
    let answer = bench.exchange(origin.address(), HOST, &requests).await;
    let bodies: Vec<_> = ["first", "second", "third"]
        .iter()
        .map(|body| answer.find(body).unwrap())
        .collect();
    assert!(bodies.is_sorted(), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3);
}

#[tokio::test]
async fn answers_without_a_body_end_where_they_should() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    for (method, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\nx: y\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\netag: \"e\"\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    ] {
        send(
            &mut guest,
            &format!("{method} / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        )
        .await;
        read_until(&mut server, "\r\n\r\n").await;
        send(&mut server, answer).await;
        assert_eq!(read_until(&mut guest, "\r\n\r\n").await, answer);
    }
}

#[tokio::test]
async fn names_are_sent_in_the_case_they_came_in() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    send(
        &mut guest,
        &format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-aPI-Key: a\r\n\r\n"),
    )
    .await;
    let request = read_until(&mut server, "\r\n\r\n").await;
    assert_eq!(
        request,
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-aPI-Key: a\r\n\r\n")
    );
    send(
        &mut server,
        "HTTP/1.1 200 Fine\r\nX-Case: b\r\ncontent-LENGTH: 0\r\n\r\n",
    )
    .await;
    let answer = read_until(&mut guest, "\r\n\r\n").await;
    assert_eq!(
        answer,
        "HTTP/1.1 200 Fine\r\nX-Case: b\r\ncontent-LENGTH: 0\r\n\r\n"
    );
}

#[tokio::test]
async fn bytes_beyond_ascii_in_headers_are_left_as_they_are() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    guest
        .write_all(b"GET / HTTP/1.1\r\nHost: api.example.test\r\nX: caf\xe9 $MSB_API_KEY\r\n\r\n")
        .await
        .unwrap();
    let mut request = vec![0; 80];
    let len = within(server.read(&mut request)).await.unwrap();
    let expected = [&b"X: caf\xe9 "[..], VALUE.as_bytes(), b"\r\n\r\n"].concat();
    assert!(
        request[..len].ends_with(&expected),
        "{:?}",
        request[..len].escape_ascii().to_string()
    );
}

#[tokio::test]
async fn events_of_a_stream_arrive_as_they_are_sent() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    send(
        &mut guest,
        &format!("GET /events HTTP/1.1\r\nHost: {HOST}\r\nAccept: text/event-stream\r\n\r\n"),
    )
    .await;
    read_until(&mut server, "\r\n\r\n").await;
    send(
        &mut server,
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    .await;
    read_until(&mut guest, "\r\n\r\n").await;
    for index in 0..3 {
        // The next is sent only when this one has arrived, so a proxy that waits is stuck.
        send(&mut server, &format!("9\r\ndata: {index}\n\n\r\n")).await;
        read_until(&mut guest, &format!("data: {index}\n\n\r\n")).await;
    }
}

#[tokio::test]
async fn a_body_is_sent_on_before_it_is_whole() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    send(
        &mut guest,
        &format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n"),
    )
    .await;
    for part in ["first", "second"] {
        send(&mut guest, &format!("{:x}\r\n{part}\r\n", part.len())).await;
        read_until(&mut server, &format!("{part}\r\n")).await;
    }
    send(&mut guest, "0\r\n\r\n").await;
    read_until(&mut server, "0\r\n\r\n").await;
}

#[tokio::test]
async fn trailers_are_carried_both_ways_and_rewritten() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    send(&mut guest, &format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nTrailer: X-Key\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Key: {PLACEHOLDER}\r\n\r\n")).await;
    let head = read_until(&mut server, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    assert!(head.contains("te: trailers\r\n"), "{head}");
    assert!(head.contains("connection: te\r\n"), "{head}");
    let rest = read_until(&mut server, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    assert_eq!(rest, format!("1\r\na\r\n0\r\nx-key: {VALUE}\r\n\r\n"));
    send(&mut server, "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\nX-Sum: 7\r\n\r\n").await;
    read_until(&mut guest, "\r\n\r\n").await;
    let rest = read_until(&mut guest, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    assert_eq!(rest, "1\r\nb\r\n0\r\nx-sum: 7\r\n\r\n");
}

const EXPECTING: &str = "POST / HTTP/1.1\r\nHost: api.example.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";

#[tokio::test]
async fn a_guest_is_told_to_continue_when_the_server_says_so() {
    let bench = Bench::with(|config| config.limits.continue_wait = Duration::from_secs(3600));
    let (mut guest, mut server) = both_ends(&bench).await;
    send(&mut guest, EXPECTING).await;
    let head = read_until(&mut server, "\r\n\r\n").await;
    assert!(head.contains("Expect: 100-continue\r\n"), "{head}");
    send(&mut server, "HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(
        read_until(&mut guest, "\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    send(&mut guest, "body").await;
    read_until(&mut server, "body").await;
    send(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    read_until(&mut guest, "\r\n\r\n").await;
}

#[tokio::test]
async fn a_server_that_never_says_continue_gets_the_body_all_the_same() {
    let bench = Bench::with(|config| config.limits.continue_wait = Duration::from_millis(20));
    let (mut guest, mut server) = both_ends(&bench).await;
    send(&mut guest, EXPECTING).await;
    assert_eq!(
        read_until(&mut guest, "\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    send(&mut guest, "body").await;
    read_until(&mut server, "body").await;
}

#[tokio::test]
async fn a_guest_that_does_not_wait_for_continue_is_served() {
    let bench = Bench::with(|config| config.limits.continue_wait = Duration::from_millis(20));
    let origin = recording(&bench).await;
    let request = EXPECTING.replace("Content-Length", "Connection: close\r\nContent-Length");
    let answer = bench
        .exchange(origin.address(), HOST, &format!("{request}body"))
        .await;
    assert!(answer.ends_with("hello\n"), "{answer}");
    assert_eq!(origin.requests()[0].body, b"body");
}

#[tokio::test]
async fn a_final_answer_in_place_of_continue_ends_the_connection() {
    let bench = Bench::with(|config| config.limits.continue_wait = Duration::from_secs(3600));
    let (mut guest, mut server) = both_ends(&bench).await;
    send(&mut guest, EXPECTING).await;
    read_until(&mut server, "\r\n\r\n").await;
    send(
        &mut server,
        "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let answer = read_until(&mut guest, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    let mut rest = Vec::new();
    within(guest.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn other_expectations_are_refused() {
    let bench = Bench::new();
    let origin = recording(&bench).await;
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nExpect: tea\r\n\r\n");
    let answer = bench.exchange(origin.address(), HOST, &request).await;
    assert!(answer.starts_with("HTTP/1.1 417 "), "{answer}");
}

#[tokio::test]
async fn fields_of_one_connection_stay_on_it() {
    let bench = Bench::new();
    let origin = recording(&bench).await;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close, X-Hop, Upgrade, HTTP2-Settings\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: a\r\nTE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nX-End: 2\r\n\r\n"
    );
    let answer = bench.exchange(origin.address(), HOST, &request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let names: Vec<_> = origin.requests()[0]
        .headers
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(names, ["host", "x-end"]);
}

#[tokio::test]
async fn offers_of_other_protocols_do_not_reach_the_guest() {
    let bench = Bench::new();
    let handler = |_: &msb_testkit::RecordedRequest| {
        let answer = Response::builder().header("alt-svc", "h3=\":443\"; ma=86400");
        answer.body(Full::new(Bytes::from_static(b"x"))).unwrap()
    };
    let config = bench.root.server(&[HOST], CertificateKind::Good);
    let origin = Origin::start_with(config, Arc::new(handler)).await;
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let answer = bench.exchange(origin.address(), HOST, &request).await;
    assert!(!answer.to_ascii_lowercase().contains("alt-svc"), "{answer}");
}

#[tokio::test]
async fn other_upgrades_are_not_implemented() {
    let asking = |upgrade: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n"
        )
    };
    for head in [
        asking("irc"),
        asking("tcp"),
        asking("SPDY/3.1"),
        asking("h2c, tcp"),
    ] {
        let bench = Bench::new();
        let origin = recording(&bench).await;
        let answer = bench.exchange(origin.address(), HOST, &head).await;
        assert!(
            answer.starts_with("HTTP/1.1 501 Not Implemented\r\n"),
            "{answer}"
        );
        assert!(answer.contains("supported"), "{answer}");
        assert_eq!(origin.received(), b"");
    }
}

/// RFC 9110 section 7.8: who offers these goes on without them.
#[tokio::test]
async fn offers_to_switch_that_a_server_may_ignore_are_ignored() {
    for (version, fields) in [
        (
            "1.1",
            "Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAA\r\n",
        ),
        (
            "1.1",
            "Connection: close, upgrade\r\nUpgrade: TLS/1.2, HTTP/2.0\r\n",
        ),
        ("1.1", "Connection: close\r\nUpgrade: irc\r\n"),
        ("1.0", "Connection: Upgrade\r\nUpgrade: irc\r\n"),
        ("1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    ] {
        let bench = Bench::new();
        let origin = recording(&bench).await;
        let request = format!("GET / HTTP/{version}\r\nHost: {HOST}\r\n{fields}\r\n");
        let answer = bench.exchange(origin.address(), HOST, &request).await;
        assert!(answer.contains(" 200 OK\r\n"), "{answer}");
        let received = String::from_utf8(origin.received()).unwrap().to_lowercase();
        assert!(!received.contains("upgrade"), "{received}");
        assert!(!received.contains("http2-settings"), "{received}");
    }
}

/// Attack 11.
#[tokio::test]
async fn ambiguous_requests_are_refused_before_anything_is_sent() {
    for request in [
        "POST / HTTP/1.1\r\nHost: api.example.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: api.example.test\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: api.example.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\nHost: api.example.test\n\n\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: api.example.test\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: api.example.test\r\nConnection: host\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let bench = Bench::new();
        let origin = recording(&bench).await;
        let answer = bench.exchange(origin.address(), HOST, request).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
            "{request:?}: {answer}"
        );
        assert_eq!(origin.received(), b"", "{request:?}");
        bench
            .event(|event| matches!(event, Event::RequestRefused { status: 400, .. }).then_some(()))
            .await;
    }
}

#[tokio::test]
async fn a_request_smuggled_behind_another_is_refused_in_its_turn() {
    let bench = Bench::new();
    let origin = recording(&bench).await;
    let requests = format!(
        "GET /good HTTP/1.1\r\nHost: {HOST}\r\n\r\nPOST /bad HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    );
    let answer = bench.exchange(origin.address(), HOST, &requests).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("hello\nHTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn heads_over_the_limits_are_refused() {
    let bench = Bench::new();
    let origin = recording(&bench).await;
    for field in [
        format!("X: {}\r\n", "a".repeat(64 * 1024)),
        "X: a\r\n".repeat(200),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{field}\r\n");
        let answer = bench.exchange(origin.address(), HOST, &request).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let fits = format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nX: {}\r\n\r\n",
        "a".repeat(60 * 1024)
    );
    let answer = bench.exchange(origin.address(), HOST, &fits).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn a_placeholder_in_a_body_breaks_the_request_off() {
    let bench = Bench::new();
    let origin = recording(&bench).await;
    let mut guest = bench.tls(origin.address(), OTHER).await;
    // Split in the middle of the placeholder.
    send(&mut guest, &format!("POST / HTTP/1.1\r\nHost: {OTHER}\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nkey=$MSB_\r\n")).await;
    send(&mut guest, "7\r\nAPI_KEY\r\n0\r\n\r\n").await;
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
    let request = &within(origin.wait_for(1)).await[0];
    assert!(!request.complete);
    assert_eq!(request.body, b"key=");
    let location = bench.event(|event| match event {
        Event::Violation { violation, .. } => Some(violation.location().clone()),
        _ => None,
    });
    assert_eq!(location.await, Location::Body);
}

#[tokio::test]
async fn a_placeholder_in_a_body_for_its_host_is_sent_and_told() {
    let bench = Bench::new();
    let origin = recording(&bench).await;
    let body = format!("{{\"key\": \"{PLACEHOLDER}\"}}");
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    bench.exchange(origin.address(), HOST, &request).await;
    assert_eq!(origin.requests()[0].body, body.as_bytes());
    bench
        .event(|event| {
            matches!(
                event,
                Event::LeftAlone {
                    location: Location::Body,
                    ..
                }
            )
            .then_some(())
        })
        .await;
}

#[tokio::test]
async fn large_bodies_arrive_unchanged() {
    let bench = Bench::new();
    let origin = recording(&bench).await;
    let body: String = (0..100_000)
        .map(|index| format!("{index:08} $MSB\n"))
        .collect();
    let request = format!(
        "POST /echo HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut guest = bench.tls(origin.address(), HOST).await;
    let (mut reader, mut writer) = tokio::io::split(&mut guest);
    let mut answer = Vec::new();
    let (sent, read) = within(async {
        tokio::join!(
            writer.write_all(request.as_bytes()),
            reader.read_to_end(&mut answer)
        )
    })
    .await;
    sent.unwrap();
    read.unwrap();
    assert!(answer.ends_with(body.as_bytes()));
    assert_eq!(origin.requests()[0].body.len(), body.len());
}

#[tokio::test]
async fn a_server_that_ends_an_idle_connection_ends_the_guests() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    send(
        &mut guest,
        &format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
    )
    .await;
    read_until(&mut server, "\r\n\r\n").await;
    send(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    read_until(&mut guest, "\r\n\r\n").await;
    server.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within(guest.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn a_server_that_ends_without_an_answer_is_a_502() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    send(
        &mut guest,
        &format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
    )
    .await;
    read_until(&mut server, "\r\n\r\n").await;
    drop(server);
    let answer = read_until(&mut guest, "\n").await;
    assert_eq!(answer, "HTTP/1.1 502 Bad Gateway\r\n");
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_a_502() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    send(
        &mut guest,
        &format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
    )
    .await;
    read_until(&mut server, "\r\n\r\n").await;
    send(&mut server, "220 smtp.example.test ESMTP\r\n").await;
    let answer = read_until(&mut guest, "\n").await;
    assert_eq!(answer, "HTTP/1.1 502 Bad Gateway\r\n");
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_is_carried() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    send(
        &mut guest,
        &format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
    )
    .await;
    read_until(&mut server, "\r\n\r\n").await;
    send(&mut server, "HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
    server.shutdown().await.unwrap();
    let mut answer = String::new();
    within(guest.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(answer.contains("until the end"), "{answer}");
    assert!(answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_body_cut_short_is_not_taken_for_a_whole_one() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    send(
        &mut guest,
        &format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
    )
    .await;
    read_until(&mut server, "\r\n\r\n").await;
    send(
        &mut server,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    )
    .await;
    read_until(&mut guest, "hello\r\n").await;
    drop(server);
    let mut rest = String::new();
    // Whether in order or not, the stream ends without the last chunk.
    let _ = within(guest.read_to_string(&mut rest)).await;
    assert_eq!(rest, "");
}

#[tokio::test]
async fn a_guest_that_goes_away_takes_the_upstream_connection_with_it() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    send(
        &mut guest,
        &format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
    )
    .await;
    read_until(&mut server, "\r\n\r\n").await;
    send(
        &mut server,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    .await;
    read_until(&mut guest, "\r\n\r\n").await;
    drop(guest);
    let mut rest = Vec::new();
    within(async {
        // A stream without end, until the proxy notices that nobody reads it.
        while server.write_all(b"1\r\nx\r\n").await.is_ok() && server.flush().await.is_ok() {
            tokio::task::yield_now().await;
        }
        let _ = server.read_to_end(&mut rest).await;
    })
    .await;
}

#[tokio::test]
async fn a_half_closed_guest_still_gets_its_answer() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    send(
        &mut guest,
        &format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
    )
    .await;
    guest.shutdown().await.unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    send(
        &mut server,
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    assert!(
        read_until(&mut guest, "ok")
            .await
            .starts_with("HTTP/1.1 200 OK")
    );
}
