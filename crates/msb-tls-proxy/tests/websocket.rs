//! WebSocket through the proxy: the switch, messages both ways, and what ends it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;

use common::frames::{masked, plain};
use common::{Bench, HOST, OTHER, PLACEHOLDER, VALUE, broken, read_until, secrets_with, within};
use msb_secrets::SecretSet;
use msb_testkit::{CertificateKind, RawOrigin};
use msb_tls_proxy::Event;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

type Guest = tokio_rustls::client::TlsStream<TcpStream>;
type Server = tokio_rustls::server::TlsStream<TcpStream>;

async fn both_ends(bench: &Bench, host: &str) -> (Guest, Server) {
    let origin = RawOrigin::start(bench.root.server(&[HOST, OTHER], CertificateKind::Good)).await;
    tokio::join!(bench.tls(origin.address(), host), origin.accept())
}

fn asking(host: &str, more: &str) -> String {
    format!(
        "GET /socket HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n{more}\r\n"
    )
}

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A connection that has switched, and the request that the server got.
async fn switched(bench: &Bench, host: &str) -> (Guest, Server, String) {
    let (mut guest, mut server) = both_ends(bench, host).await;
    guest.write_all(asking(host, "").as_bytes()).await.unwrap();
    let request = read_until(&mut server, "\r\n\r\n").await;
    server.write_all(SWITCH.as_bytes()).await.unwrap();
    let answer = read_until(&mut guest, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    for line in [
        "http/1.1 101 ",
        "upgrade: websocket\r\n",
        "connection: upgrade\r\n",
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n",
    ] {
        assert!(answer.contains(line), "{answer}");
    }
    (guest, server, request)
}

async fn exactly(stream: &mut (impl tokio::io::AsyncRead + Unpin), expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    within(stream.read_exact(&mut got)).await.unwrap();
    assert_eq!(got, expected);
}

#[tokio::test]
async fn messages_are_rewritten_both_ways_as_they_come() {
    let bench = Bench::with(|config| {
        config.secrets = secrets_with(VALUE, |secret| secret.inject_body(true));
    });
    let (mut guest, mut server, request) = switched(&bench, HOST).await;
    assert!(request.contains("Upgrade: websocket\r\n"), "{request}");
    assert!(
        !request.to_ascii_lowercase().contains("extensions"),
        "{request}"
    );
    for index in 0..3 {
        // Each is sent only when the one before has arrived; each ends like the start of a placeholder.
        let text = format!("{index} {PLACEHOLDER} $MSB_");
        guest.write_all(&masked(0x81, &text)).await.unwrap();
        exactly(
            &mut server,
            &masked(0x81, &text.replace(PLACEHOLDER, VALUE)),
        )
        .await;
        let text = format!("{index} {VALUE} sk-");
        server.write_all(&plain(0x81, &text)).await.unwrap();
        exactly(&mut guest, &plain(0x81, &text.replace(VALUE, PLACEHOLDER))).await;
    }
    guest.write_all(&masked(0x89, "ping")).await.unwrap();
    exactly(&mut server, &masked(0x89, "ping")).await;
    server.write_all(&plain(0x8a, "ping")).await.unwrap();
    exactly(&mut guest, &plain(0x8a, "ping")).await;
    // The end, one side after the other.
    guest.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within(server.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"");
    server.write_all(&plain(0x88, "\u{3}bye")).await.unwrap();
    server.shutdown().await.unwrap();
    within(guest.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, plain(0x88, "\u{3}bye"));
    let events = format!("{:?}", bench.events());
    assert!(
        events.contains("Substituted") && events.contains("Scrubbed") && !events.contains(VALUE)
    );
    assert!(
        bench
            .events()
            .iter()
            .any(|event| matches!(event, Event::Request { status: 101, .. }))
    );
}

/// Attack 12: the switch and the first frames in one piece.
#[tokio::test]
async fn frames_that_come_with_the_switch_are_read() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench, HOST).await;
    guest.write_all(asking(HOST, "").as_bytes()).await.unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    let piece = [SWITCH.as_bytes(), &plain(0x81, VALUE)].concat();
    server.write_all(&piece).await.unwrap();
    read_until(&mut guest, "\r\n\r\n").await;
    exactly(&mut guest, &plain(0x81, PLACEHOLDER)).await;
}

#[tokio::test]
async fn a_placeholder_in_a_message_to_another_host_is_a_reset() {
    let bench = Bench::new();
    let (mut guest, mut server, _) = switched(&bench, OTHER).await;
    guest.write_all(&masked(0x81, "fine")).await.unwrap();
    exactly(&mut server, &masked(0x81, "fine")).await;
    guest.write_all(&masked(0x82, PLACEHOLDER)).await.unwrap();
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
    let mut rest = Vec::new();
    let _ = within(server.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
    bench
        .event(|event| matches!(event, Event::Violation { .. }).then_some(()))
        .await;
}

#[tokio::test]
async fn a_secret_revoked_while_a_socket_is_open_is_gone_at_once() {
    let bench = Bench::with(|config| {
        config.secrets = secrets_with(VALUE, |secret| secret.inject_body(true));
    });
    let (mut guest, mut server, _) = switched(&bench, HOST).await;
    guest.write_all(&masked(0x81, PLACEHOLDER)).await.unwrap();
    exactly(&mut server, &masked(0x81, VALUE)).await;
    bench.proxy.secrets().revoke("API_KEY").unwrap();
    guest.write_all(&masked(0x81, PLACEHOLDER)).await.unwrap();
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn frames_that_the_protocol_forbids_are_a_reset_and_told() {
    let bench = Bench::new();
    let (mut guest, _server, _) = switched(&bench, HOST).await;
    guest.write_all(&masked(0xc1, "compressed")).await.unwrap();
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
    bench
        .event(|event| matches!(event, Event::RequestRefused { .. }).then_some(()))
        .await;

    let (mut guest, mut server, _) = switched(&bench, HOST).await;
    server.write_all(&plain(0xc1, "compressed")).await.unwrap();
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
    bench
        .event(|event| matches!(event, Event::ResponseRefused { .. }).then_some(()))
        .await;
}

#[tokio::test]
async fn without_secrets_nothing_is_read_and_extensions_are_negotiated() {
    let bench = Bench::with(|config| config.secrets = SecretSet::default());
    let (mut guest, mut server, request) = switched(&bench, HOST).await;
    assert!(
        request.contains("Sec-WebSocket-Extensions: permessage-deflate\r\n"),
        "{request}"
    );
    guest.write_all(b"\xc1 anything").await.unwrap();
    exactly(&mut server, b"\xc1 anything").await;
    server.write_all(b"\xc1 at all").await.unwrap();
    exactly(&mut guest, b"\xc1 at all").await;
}

#[tokio::test]
async fn an_answer_that_does_not_switch_is_an_answer() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench, HOST).await;
    for _ in 0..2 {
        guest.write_all(asking(HOST, "").as_bytes()).await.unwrap();
        read_until(&mut server, "\r\n\r\n").await;
        server
            .write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
            .await
            .unwrap();
        let answer = read_until(&mut guest, "no").await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
}

#[tokio::test]
async fn switches_that_were_not_asked_for_are_a_502() {
    let bench = Bench::new();
    for (request, answer) in [
        (asking(HOST, ""), SWITCH.replace("websocket", "h2c")),
        (
            asking(HOST, ""),
            SWITCH.replace(
                "Connection",
                "Sec-WebSocket-Extensions: permessage-deflate\r\nConnection",
            ),
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            SWITCH.to_owned(),
        ),
    ] {
        let (mut guest, mut server) = both_ends(&bench, HOST).await;
        guest.write_all(request.as_bytes()).await.unwrap();
        read_until(&mut server, "\r\n\r\n").await;
        server.write_all(answer.as_bytes()).await.unwrap();
        let status = read_until(&mut guest, "\r\n").await;
        assert_eq!(status, "HTTP/1.1 502 Bad Gateway\r\n", "{answer}");
    }
}

#[tokio::test]
async fn odd_requests_for_a_switch_are_refused() {
    let asked = asking(HOST, "");
    for request in [
        asked.replace("GET", "POST"),
        asked.replace("Upgrade: websocket", "Upgrade: websocket, irc"),
        asked.replace(
            "Upgrade: websocket",
            "Upgrade: websocket\r\nUpgrade: websocket",
        ),
        asking(HOST, "Content-Length: 3\r\n") + "abc",
        asking(HOST, "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n",
    ] {
        let bench = Bench::new();
        let (mut guest, _server) = both_ends(&bench, HOST).await;
        guest.write_all(request.as_bytes()).await.unwrap();
        let status = read_until(&mut guest, "\r\n").await;
        assert_eq!(status, "HTTP/1.1 501 Not Implemented\r\n", "{request}");
    }
}

#[tokio::test]
async fn frames_sent_before_the_switch_are_not_a_tunnel() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench, OTHER).await;
    let early = [asking(OTHER, "").as_bytes(), &masked(0x81, PLACEHOLDER)].concat();
    guest.write_all(&early).await.unwrap();
    let request = read_until(&mut server, "\r\n\r\n").await;
    assert!(request.starts_with("GET /socket "), "{request}");
    server.write_all(SWITCH.as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    let _ = within(server.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
}
