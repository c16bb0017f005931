//! ClientHellos good and bad, servers that cannot be verified, guests that do not trust us.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::{Bench, HOST, broken, handshake, read_until, within};
use msb_testkit::{CertificateKind, Origin, RawOrigin, TestRoot, client_config};
use msb_tls_proxy::{Connection, Event, HelloFailure};
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n";

/// Expects 502 with a reason that contains `expected`, told to the guest and in an event.
async fn check_bad_gateway(bench: &Bench, origin: SocketAddr, expected: &str) {
    let answer = bench.exchange(origin, HOST, REQUEST).await;
    assert!(
        answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"),
        "{answer}"
    );
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    assert!(body.contains(expected), "{body:?} lacks {expected:?}");
    assert_eq!(body.matches('\n').count(), 1, "{body:?}");
    let reason = bench.event(|event| match event {
        Event::UpstreamFailed { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    assert!(reason.await.contains(expected));
}

#[tokio::test]
async fn a_server_that_cannot_be_verified_is_a_502_with_the_reason() {
    let good = [HOST];
    for (names, kind, expected) in [
        (&good[..], CertificateKind::Expired, "has expired"),
        (&good, CertificateKind::NotYetValid, "not valid yet"),
        (&good, CertificateKind::UnknownIssuer, "unknown authority"),
        (
            &good,
            CertificateKind::ForgedIssuer,
            "not signed by the authority",
        ),
        (&good, CertificateKind::SelfSigned, "unknown authority"),
        (
            &["wrong.example.test"],
            CertificateKind::Good,
            "not for api.example.test",
        ),
        (
            &["*.test"],
            CertificateKind::Good,
            "not for api.example.test",
        ),
    ] {
        let bench = Bench::new();
        let origin = Origin::start(bench.root.server(names, kind)).await;
        check_bad_gateway(&bench, origin.address(), expected).await;
        assert_eq!(origin.received(), b"", "{kind:?}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_is_a_502() {
    let bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = listener.local_addr().unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    check_bad_gateway(&bench, origin, "api.example.test").await;
}

#[tokio::test]
async fn a_server_without_tls_is_a_502() {
    let bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        read_until(&mut stream, "never").await;
    });
    check_bad_gateway(&bench, origin, "does not speak TLS").await;
}

#[tokio::test]
async fn a_silent_server_is_a_502_in_bounded_time() {
    let bench = Bench::with(|config| config.limits.handshake_timeout = Duration::from_millis(50));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    check_bad_gateway(&bench, listener.local_addr().unwrap(), "in time").await;
}

/// Every read of the proxy gives one byte, so the hello and all that follows is split everywhere.
#[tokio::test]
async fn a_connection_that_comes_byte_by_byte_is_intercepted() {
    let bench = Bench::new();
    let origin = Origin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    let (near, far) = msb_testkit::tcp_pair().await;
    bench.pin(HOST, origin.address());
    let connection = Connection {
        guest: common::ByteByByte(far),
        reset: Arc::new(common::Told::default()),
        upstream: TcpStream::connect(origin.address()).await.unwrap(),
        destination: origin.address(),
        pins: Arc::clone(&bench.pins),
    };
    let proxy = bench.proxy.clone();
    tokio::spawn(async move { proxy.serve(connection).await });
    let ca = bench.proxy.ca().cert_der().clone();
    let mut stream = handshake(near, HOST, &ca).await.unwrap();
    let answer = within(msb_testkit::exchange(&mut stream, REQUEST.as_bytes())).await;
    assert!(answer.ends_with(b"hello\n"));
}

async fn check_hello_failure(bench: &Bench, bytes: &[u8], expected: HelloFailure) {
    let origin = Origin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    let mut stream = bench.connect(origin.address()).await;
    stream.write_all(bytes).await.unwrap();
    assert_eq!(broken(&mut stream).await, ErrorKind::ConnectionReset);
    let failure = bench.event(|event| match event {
        Event::HelloFailed { failure, .. } => Some(failure.clone()),
        _ => None,
    });
    assert_eq!(failure.await, expected);
    assert_eq!(origin.handshakes(), 0);
}

#[tokio::test]
async fn what_is_not_tls_is_reset() {
    check_hello_failure(&Bench::new(), REQUEST.as_bytes(), HelloFailure::NotTls).await;
    check_hello_failure(&Bench::new(), b"SSH-2.0-x\r\n", HelloFailure::NotTls).await;
}

#[tokio::test]
async fn a_hello_that_does_not_end_is_reset_in_bounded_time() {
    let bench = Bench::with(|config| config.limits.hello_timeout = Duration::from_millis(50));
    check_hello_failure(&bench, &[22, 3, 1, 2, 0, 1], HelloFailure::TimedOut).await;
    let bench = Bench::with(|config| config.limits.hello_timeout = Duration::from_millis(50));
    check_hello_failure(&bench, b"", HelloFailure::TimedOut).await;
}

#[tokio::test]
async fn a_hello_over_the_limit_is_reset() {
    let bench = Bench::with(|config| config.limits.hello_len = 100);
    let mut bytes = vec![22, 3, 1, 0x20, 0, 1, 0, 0x1f, 0xfc];
    bytes.resize(200, 0);
    check_hello_failure(&bench, &bytes, HelloFailure::TooLarge).await;
}

#[tokio::test]
async fn a_malformed_hello_gets_an_alert() {
    use tokio::io::AsyncReadExt as _;
    let bench = Bench::new();
    let origin = Origin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    let mut stream = bench.connect(origin.address()).await;
    stream
        .write_all(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 0])
        .await
        .unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer[0], 21, "{answer:?}");
    bench
        .event(|event| match event {
            Event::HelloFailed {
                failure: HelloFailure::Malformed(_),
                ..
            } => Some(()),
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn without_a_server_name_the_pinned_name_counts() {
    let bench = Bench::new();
    let origin = Origin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    bench.pin(HOST, origin.address());
    let mut config = (*client_config(bench.proxy.ca().cert_der(), &[])).clone();
    config.enable_sni = false;
    let stream = bench.connect(origin.address()).await;
    let name = ServerName::try_from(HOST).unwrap();
    let mut stream = within(TlsConnector::from(Arc::new(config)).connect(name, stream))
        .await
        .unwrap();
    let answer = within(msb_testkit::exchange(&mut stream, REQUEST.as_bytes())).await;
    assert!(answer.ends_with(b"hello\n"));
}

#[tokio::test]
async fn without_a_server_name_and_without_one_pin_the_address_counts() {
    for pinned in [&[][..], &[HOST, "second.example.test"]] {
        let bench = Bench::new();
        let names = [HOST, "127.0.0.1"];
        let origin = Origin::start(bench.root.server(&names, CertificateKind::Good)).await;
        for name in pinned {
            bench.pin(name, origin.address());
        }
        let stream = bench.connect(origin.address()).await;
        let ca = bench.proxy.ca().cert_der().clone();
        let mut stream = handshake(stream, "127.0.0.1", &ca).await.unwrap();
        let request = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
        let answer = within(msb_testkit::exchange(&mut stream, request.as_bytes())).await;
        assert!(answer.ends_with(b"hello\n"));
    }
}

#[tokio::test]
async fn a_guest_that_rejects_the_leaf_is_named_with_the_remedy() {
    let bench = Bench::new();
    let origin = Origin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    let stream = bench.connect(origin.address()).await;
    let stranger = TestRoot::new();
    handshake(stream, HOST, &stranger.der()).await.unwrap_err();
    let hint = bench.event(|event| match event {
        Event::GuestRejectedLeaf { hint, .. } => Some(hint.clone()),
        _ => None,
    });
    assert!(hint.await.contains("--tls-bypass api.example.test"));
    assert_eq!(origin.received(), b"");
}

#[tokio::test]
async fn a_guest_that_offers_only_h2_gets_an_alert() {
    let bench = Bench::new();
    let origin = Origin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    let stream = bench.connect(origin.address()).await;
    let config = client_config(bench.proxy.ca().cert_der(), &[b"h2"]);
    let name = ServerName::try_from(HOST).unwrap();
    let error = within(TlsConnector::from(config).connect(name, stream))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("NoApplicationProtocol"),
        "{error}"
    );
}

#[tokio::test]
async fn sessions_are_resumed_with_the_guest() {
    let bench = Bench::new();
    let origin = Origin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    bench.pin(HOST, origin.address());
    let config = client_config(bench.proxy.ca().cert_der(), &[b"http/1.1"]);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let stream = bench.connect(origin.address()).await;
        let name = ServerName::try_from(HOST).unwrap();
        let mut stream = within(TlsConnector::from(Arc::clone(&config)).connect(name, stream))
            .await
            .unwrap();
        within(msb_testkit::exchange(&mut stream, REQUEST.as_bytes())).await;
        kinds.push(stream.get_ref().1.handshake_kind().unwrap());
    }
    assert_eq!(kinds[1], HandshakeKind::Resumed, "{kinds:?}");
}

#[tokio::test]
async fn sessions_are_resumed_with_the_server() {
    let bench = Bench::new();
    let origin = RawOrigin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (mut guest, mut server) =
            tokio::join!(bench.tls(origin.address(), HOST), origin.accept());
        guest.write_all(REQUEST.as_bytes()).await.unwrap();
        read_until(&mut server, "\r\n\r\n").await;
        server
            .write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        read_until(&mut guest, "\r\n\r\n").await;
        kinds.push(server.get_ref().1.handshake_kind().unwrap());
    }
    assert_eq!(kinds[1], HandshakeKind::Resumed, "{kinds:?}");
}

#[tokio::test]
async fn tls_1_2_works_on_both_sides() {
    let bench = Bench::new();
    let (chain, key) = bench.root.issue(&[HOST], CertificateKind::Good);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let origin = Origin::start(Arc::new(server)).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(bench.proxy.ca().cert_der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = bench.connect(origin.address()).await;
    let name = ServerName::try_from(HOST).unwrap();
    let mut stream = within(TlsConnector::from(Arc::new(client)).connect(name, stream))
        .await
        .unwrap();
    let answer = within(msb_testkit::exchange(&mut stream, REQUEST.as_bytes())).await;
    assert!(answer.ends_with(b"hello\n"));
}
