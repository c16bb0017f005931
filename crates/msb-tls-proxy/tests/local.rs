//! Connections whose server is the caller itself: only the guest's TLS is ended.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io;
use std::sync::Arc;

use common::{Bench, HOST, PINNED, PLACEHOLDER, Resettable, broken, within};
use msb_tls_proxy::{Client, Event, HelloFailure};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const PROTOCOL: &[u8] = b"dot";

/// A client's end of a connection in which every byte comes back.
async fn connect(bench: &Bench) -> TcpStream {
    let (near, far) = msb_testkit::tcp_pair().await;
    let destination = far.local_addr().unwrap();
    let (guest, reset) = Resettable::new(far);
    let client = Client {
        guest,
        reset,
        destination,
    };
    let proxy = bench.proxy.clone();
    tokio::spawn(async move {
        let echo = |stream| async move {
            let (mut read, mut write) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        };
        proxy.serve_locally(client, PROTOCOL, echo).await;
    });
    near
}

async fn handshake(bench: &Bench, name: &str, alpn: &[&[u8]]) -> io::Result<TlsStream<TcpStream>> {
    let config = msb_testkit::client_config(bench.proxy.ca().cert_der(), alpn);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    within(TlsConnector::from(Arc::clone(&config)).connect(name, connect(bench).await)).await
}

/// What is inside passes both ways and is not searched: `name` gets a certificate, and `agreed` is spoken.
async fn check(name: &str, offered: &[&[u8]], agreed: Option<&[u8]>) {
    let bench = Bench::new();
    let mut stream = handshake(&bench, name, offered).await.unwrap();
    assert_eq!(
        stream.get_ref().1.alpn_protocol(),
        agreed,
        "{name} {offered:?}"
    );
    stream.write_all(PLACEHOLDER.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, PLACEHOLDER, "{name}");
    let told = bench.event(|event| match event {
        Event::ServedLocally { host, .. } => Some(host.to_string()),
        _ => None,
    });
    assert_eq!(told.await, name);
}

#[tokio::test]
async fn every_name_and_address_has_a_certificate_and_the_protocol_is_taken_if_offered() {
    check(HOST, &[PROTOCOL], Some(PROTOCOL)).await;
    check(HOST, &[b"h2", PROTOCOL], Some(PROTOCOL)).await;
    check(HOST, &[b"h2"], None).await;
    check(HOST, &[], None).await;
    // There is no server to be left alone with.
    check(PINNED, &[PROTOCOL], Some(PROTOCOL)).await;
    // A client that knows an address only claims no name.
    check("127.0.0.1", &[PROTOCOL], Some(PROTOCOL)).await;
}

#[tokio::test]
async fn what_is_not_tls_is_reset() {
    let bench = Bench::new();
    let mut stream = connect(&bench).await;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(broken(&mut stream).await, io::ErrorKind::ConnectionReset);
    let failure = bench.event(|event| match event {
        Event::HelloFailed { failure, .. } => Some(failure.clone()),
        _ => None,
    });
    assert!(matches!(failure.await, HelloFailure::NotTls));
}

#[tokio::test]
async fn a_client_that_trusts_another_root_is_told_of_and_not_to_be_bypassed() {
    let bench = Bench::new();
    let config = msb_testkit::client_config(&bench.root.der(), &[PROTOCOL]);
    let name = ServerName::try_from(HOST).unwrap();
    let stream = connect(&bench).await;
    let handshake = TlsConnector::from(config).connect(name, stream);
    within(handshake).await.unwrap_err();
    let told = bench.event(|event| match event {
        Event::GuestRejectedLeaf { host, hint, .. } => Some((host.to_string(), hint.clone())),
        _ => None,
    });
    let (host, hint) = told.await;
    assert_eq!(host, HOST);
    // A bypass would have no effect: nobody else is there to answer.
    assert!(
        hint.contains("resolv.conf") && !hint.contains("bypass"),
        "{hint}"
    );
}
