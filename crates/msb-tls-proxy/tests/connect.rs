//! CONNECT through an intercepted connection, to a server that is a proxy itself (SPEC T7).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;

use common::{Bench, HOST, OTHER, PLACEHOLDER, VALUE, broken, read_until, within};
use msb_testkit::{CertificateKind, RawOrigin, TestRoot};
use msb_tls_proxy::{Event, NonHttp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream as Guest;
use tokio_rustls::server::TlsStream as Server;

/// Where the tunnels lead.
const INNER: &str = "inner.example.test";

async fn ends(bench: &Bench, name: &str) -> (Guest<TcpStream>, Server<TcpStream>) {
    let config = bench.root.server(&[HOST, OTHER], CertificateKind::Good);
    let origin = RawOrigin::start(config).await;
    tokio::join!(bench.tls(origin.address(), name), origin.accept())
}

fn connect(fields: &str) -> String {
    format!("CONNECT {INNER}:443 HTTP/1.1\r\nHost: {INNER}:443\r\n{fields}\r\n")
}

/// A tunnel that `server` has opened: what it was asked, and both ends.
async fn tunnel(bench: &Bench, fields: &str) -> (String, Guest<TcpStream>, Server<TcpStream>) {
    let (mut guest, mut server) = ends(bench, HOST).await;
    guest.write_all(connect(fields).as_bytes()).await.unwrap();
    let asked = read_until(&mut server, "\r\n\r\n").await;
    let answer = b"HTTP/1.1 200 Connection established\r\nContent-Length: 5\r\n\r\n";
    server.write_all(answer).await.unwrap();
    let answer = read_until(&mut guest, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        !answer.to_lowercase().contains("content-length"),
        "{answer}"
    );
    (asked, guest, server)
}

#[tokio::test]
async fn a_tunnel_carries_tls_of_its_own_and_the_proxy_its_credentials() {
    let bench = Bench::new();
    let fields = format!("Proxy-Authorization: Bearer {PLACEHOLDER}\r\n");
    let (asked, guest, server) = tunnel(&bench, &fields).await;
    assert!(
        asked.starts_with(&format!("CONNECT {INNER}:443 HTTP/1.1\r\n")),
        "{asked}"
    );
    assert!(
        asked.contains(&format!("Proxy-Authorization: Bearer {VALUE}\r\n")),
        "{asked}"
    );
    // The inner server's own certificate, from an authority that the proxy knows nothing of.
    let root = TestRoot::new();
    let config = root.server(&[INNER], CertificateKind::Good);
    let authority = root.der();
    let (inner_guest, inner_server) = tokio::join!(
        common::handshake(guest, INNER, &authority),
        tokio_rustls::TlsAcceptor::from(config).accept(server),
    );
    let (mut inner_guest, mut inner_server) = (inner_guest.unwrap(), inner_server.unwrap());
    let secret_text = format!("not searched: {PLACEHOLDER}");
    inner_guest.write_all(secret_text.as_bytes()).await.unwrap();
    let mut got = vec![0; secret_text.len()];
    within(inner_server.read_exact(&mut got)).await.unwrap();
    assert_eq!(got, secret_text.as_bytes());
    let told = bench.event(|event| match event {
        Event::Request {
            method,
            path,
            status,
            ..
        } => Some((method.clone(), path.clone(), *status)),
        _ => None,
    });
    assert_eq!(
        told.await,
        ("CONNECT".to_owned(), format!("{INNER}:443"), 200)
    );
}

#[tokio::test]
async fn either_side_of_a_tunnel_may_speak_first_and_end_first() {
    let bench = Bench::new();
    let (_, mut guest, mut server) = tunnel(&bench, "").await;
    server.write_all(b"220 ready\r\n").await.unwrap();
    read_until(&mut guest, "220 ready\r\n").await;
    guest.write_all(b"EHLO a\r\n").await.unwrap();
    read_until(&mut server, "EHLO a\r\n").await;
    server.shutdown().await.unwrap();
    assert_eq!(within(guest.read(&mut [0])).await.unwrap(), 0);
    guest.write_all(b"bye").await.unwrap();
    guest.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within(server.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"bye");
}

/// A server that answers 200 to everything would read it as a request on its own connection.
#[tokio::test]
async fn a_request_in_a_tunnel_cuts_it_off() {
    let bench = Bench::new();
    let (_, mut guest, mut server) = tunnel(&bench, "").await;
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    guest.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
    let mut received = Vec::new();
    let _ = within(server.read_to_end(&mut received)).await;
    assert_eq!(received, b"");
}

#[tokio::test]
async fn a_proxy_that_opens_no_tunnel_is_heard_and_may_be_asked_again() {
    let bench = Bench::new();
    let (mut guest, mut server) = ends(&bench, HOST).await;
    for _ in 0..2 {
        guest.write_all(connect("").as_bytes()).await.unwrap();
        read_until(&mut server, "\r\n\r\n").await;
        let answer = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nno";
        server.write_all(answer).await.unwrap();
        let answer = read_until(&mut guest, "\r\n\r\nno").await;
        assert!(answer.starts_with("HTTP/1.1 407 "), "{answer}");
    }
}

#[tokio::test]
async fn a_placeholder_of_another_host_gets_neither_into_a_connect_nor_through_the_tunnel() {
    let bench = Bench::new();
    let (mut guest, mut server) = ends(&bench, OTHER).await;
    let fields = format!("Proxy-Authorization: Bearer {PLACEHOLDER}\r\n");
    guest.write_all(connect(&fields).as_bytes()).await.unwrap();
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
    let mut received = Vec::new();
    let _ = within(server.read_to_end(&mut received)).await;
    assert_eq!(received, b"");

    let bench = Bench::new();
    let (mut guest, mut server) = ends(&bench, OTHER).await;
    guest.write_all(connect("").as_bytes()).await.unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    read_until(&mut guest, "\r\n\r\n").await;
    guest
        .write_all(format!("key {PLACEHOLDER}\n").as_bytes())
        .await
        .unwrap();
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
    let _ = within(server.read_to_end(&mut received)).await;
    assert_eq!(received, b"");
    let violation = |event: &Event| matches!(event, Event::Violation { .. }).then_some(());
    bench.event(violation).await;
}

/// Its Host names where the tunnel leads, and a server may read the request by that: only what is for a proxy by
/// definition is for the host of the connection (SPEC S6).
#[tokio::test]
async fn a_value_gets_into_no_field_of_a_connect_but_the_proxys_credentials() {
    for field in ["X-Key", "Authorization"] {
        let bench = Bench::new();
        let (mut guest, mut server) = ends(&bench, HOST).await;
        let fields = format!("{field}: Bearer {PLACEHOLDER}\r\n");
        guest.write_all(connect(&fields).as_bytes()).await.unwrap();
        let mut received = Vec::new();
        let (ended, _) = tokio::join!(
            broken(&mut guest),
            within(server.read_to_end(&mut received))
        );
        assert_eq!(ended, ErrorKind::ConnectionReset, "{field}");
        assert_eq!(String::from_utf8_lossy(&received), "", "{field}");
        let violation = |event: &Event| matches!(event, Event::Violation { .. }).then_some(());
        bench.event(violation).await;
    }
}

#[tokio::test]
async fn connects_that_are_ambiguous_or_not_wanted_do_not_get_through() {
    for (request, non_http, expected) in [
        (connect(""), NonHttp::Refuse, "421"),
        (
            format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n"),
            NonHttp::Refuse,
            "501",
        ),
        (connect("Content-Length: 0\r\n"), NonHttp::Relay, "400"),
        (connect("Content-Length: 3\r\n"), NonHttp::Relay, "400"),
        (
            connect("Transfer-Encoding: chunked\r\n"),
            NonHttp::Relay,
            "400",
        ),
        (
            format!("CONNECT {INNER}:443 HTTP/1.1\r\nHost: {OTHER}\r\n\r\n"),
            NonHttp::Relay,
            "400",
        ),
        (
            format!("CONNECT {INNER} HTTP/1.1\r\nHost: {INNER}\r\n\r\n"),
            NonHttp::Relay,
            "400",
        ),
        (
            format!("CONNECT https://{INNER}/ HTTP/1.1\r\nHost: {INNER}\r\n\r\n"),
            NonHttp::Relay,
            "400",
        ),
        (
            format!("CONNECT / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            NonHttp::Relay,
            "400",
        ),
    ] {
        let bench = Bench::with(|config| config.non_http = non_http);
        let (mut guest, mut server) = ends(&bench, HOST).await;
        guest.write_all(request.as_bytes()).await.unwrap();
        let answer = read_until(&mut guest, "\r\n").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected} ")),
            "{request:?}: {answer}"
        );
        drop(guest);
        let mut received = Vec::new();
        let _ = within(server.read_to_end(&mut received)).await;
        assert_eq!(received, b"", "{request:?}");
    }
}
