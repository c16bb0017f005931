//! Attack 22: every server certificate that must not be accepted, and what the guest is told of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::h2::{get, speaking, whole};
use common::memory::Tee;
use common::{Bench, HOST, PLACEHOLDER, within};
use msb_testkit::CertificateKind::{self, Good};
use msb_testkit::client_config;
use msb_tls_proxy::{Event, UpstreamTls};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

/// What a server presents.
struct Row {
    what: &'static str,
    config: Arc<ServerConfig>,
    /// The host asked for.
    host: &'static str,
    /// What the reason says; `None` where the certificate is good.
    reason: Option<&'static str>,
}

fn weak(file: &str) -> std::path::PathBuf {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/weak");
    testdata.join(file)
}

/// A server with the certificates in `files`, which were made for [`HOST`].
fn fixture(files: &[&str]) -> Arc<ServerConfig> {
    let chain = files
        .iter()
        .map(|file| CertificateDer::from_pem_file(weak(file)).unwrap());
    let key = PrivateKeyDer::from_pem_file(weak("leaf.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.collect(), key);
    Arc::new(config.unwrap())
}

fn rows(bench: &Bench) -> Vec<Row> {
    let made = |names: &[&str], kind| bench.root.server(names, kind);
    let row = |what, config, host, reason| Row {
        what,
        config,
        host,
        reason,
    };
    let of_kind = |what, kind, reason| row(what, made(&[HOST], kind), HOST, Some(reason));
    let wrong = Some("is not for");
    let mut rows = vec![
        row("good", made(&[HOST], Good), HOST, None),
        of_kind("expired", CertificateKind::Expired, "has expired"),
        of_kind(
            "not yet valid",
            CertificateKind::NotYetValid,
            "is not valid yet",
        ),
        of_kind(
            "unknown issuer",
            CertificateKind::UnknownIssuer,
            "signed by an unknown authority",
        ),
        of_kind(
            "forged issuer",
            CertificateKind::ForgedIssuer,
            "not signed by the authority it names",
        ),
        of_kind(
            "self-signed",
            CertificateKind::SelfSigned,
            "signed by an unknown authority",
        ),
        of_kind(
            "outside of its issuer's name constraints",
            CertificateKind::OutsideConstraints,
            "names that its authority may not certify",
        ),
        of_kind(
            "issued by a server's certificate",
            CertificateKind::IssuedByServer,
            "signed by a certificate that is no authority's",
        ),
        of_kind(
            "for clients",
            CertificateKind::ForClients,
            "is not for servers",
        ),
        of_kind(
            "a common name alone",
            CertificateKind::CommonNameOnly,
            "is not for",
        ),
        row("wrong name", made(&["wrong.test"], Good), HOST, wrong),
        row(
            "an authority with a weak key",
            fixture(&["leaf-of-1024.pem", "issuer-1024.pem"]),
            HOST,
            Some("too weak a key"),
        ),
        row(
            "signed by SHA-1",
            fixture(&["leaf-sha1.pem"]),
            HOST,
            Some("signed in a way that is too weak"),
        ),
    ];
    // One label, leftmost, whole (RFC 9525 section 6.3).
    for (name, host, reason) in [
        ("*.example.test", "api.example.test", None),
        ("*.example.test", "example.test", wrong),
        ("*.example.test", "a.b.example.test", wrong),
        ("*.example.test", "badexample.test", wrong),
        ("api.example.test", "v1.api.example.test", wrong),
        ("*.api.example.test", "api.example.test", wrong),
        ("192.0.2.1", "api.example.test", wrong),
    ] {
        rows.push(row(name, made(&[name], Good), host, reason));
    }
    rows
}

/// What the guest was answered.
struct Answer {
    status: u16,
    body: String,
}

/// A request with a placeholder, and what the server received of it.
async fn ask(bench: &Bench, row: &Row, http2: bool) -> (Answer, Vec<u8>) {
    let protocol: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
    bench.pin(row.host, common::memory::ADDRESS.parse().unwrap());
    let ends = bench.in_memory(Arc::clone(&bench.pins));
    let server = speaking(&row.config, &[protocol]);
    let serving = tokio::spawn(serve(ends.server, server, http2));
    let name = ServerName::try_from(row.host).unwrap();
    let guest = client_config(bench.proxy.ca().cert_der(), &[protocol]);
    let guest = TlsConnector::from(guest).connect(name, ends.guest);
    let guest = within(guest).await.unwrap();
    let answer = if http2 {
        ask_http2(guest, row.host).await
    } else {
        ask_http1(guest, row.host).await
    };
    within(ends.proxy).await.unwrap();
    (answer, within(serving).await.unwrap())
}

/// Answers a request, and gives all that came after the handshake.
async fn serve(stream: DuplexStream, config: Arc<ServerConfig>, http2: bool) -> Vec<u8> {
    let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else {
        return Vec::new();
    };
    let (mut stream, received) = Tee::new(stream);
    if http2 {
        if let Ok(mut connection) = ::h2::server::handshake(stream).await {
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond
                    .send_response(http::Response::new(()), true)
                    .unwrap();
            }
        }
    } else {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(answer).await;
        let _ = stream.shutdown().await;
    }
    let received = received.lock().unwrap();
    received.clone()
}

async fn ask_http1(mut guest: client::TlsStream<DuplexStream>, host: &str) -> Answer {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nAuthorization: {PLACEHOLDER}\r\n\r\n");
    guest.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(guest.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head[9..12].parse().unwrap(),
        body: body.to_owned(),
    }
}

async fn ask_http2(guest: client::TlsStream<DuplexStream>, host: &str) -> Answer {
    let (requests, connection) = within(::h2::client::handshake(guest)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut requests = within(requests.ready()).await.unwrap();
    let mut request = get("/");
    *request.uri_mut() = format!("https://{host}/").parse().unwrap();
    let placeholder = PLACEHOLDER.parse().unwrap();
    request.headers_mut().insert("authorization", placeholder);
    let (answer, _) = requests.send_request(request, true).unwrap();
    let answer = within(answer).await.unwrap();
    let status = answer.status().as_u16();
    let (body, _) = whole(&mut answer.into_body()).await;
    connection.abort();
    Answer {
        status,
        body: String::from_utf8(body).unwrap(),
    }
}

#[tokio::test]
async fn every_certificate_that_does_not_prove_its_server_is_a_502_that_says_why() {
    // The roots of the fixtures are trusted, so that nothing but their weakness is in the way.
    let root = msb_testkit::TestRoot::new();
    let upstream = UpstreamTls::builder()
        .without_system_roots()
        .ca_pem(root.pem())
        .ca_file(weak("root.pem"))
        .ca_file(weak("sha1-root.pem"));
    let mut bench = Bench::with(|config| {
        config.upstream = upstream.build().unwrap();
        // Some of the good ones are not the secret's.
        config.secrets = msb_secrets::SecretSet::default();
    });
    bench.root = root;
    let (mut good, mut bad) = (0, 0);
    for row in rows(&bench) {
        for http2 in [false, true] {
            let before = bench.events().len();
            let (answer, received) = ask(&bench, &row, http2).await;
            let what = format!(
                "{} for {}, http2 {http2}: {}",
                row.what, row.host, answer.body
            );
            let told = bench.events().split_off(before).into_iter();
            let told: Vec<_> = told
                .filter_map(|event| match event {
                    Event::UpstreamFailed { reason, .. } => Some(reason),
                    _ => None,
                })
                .collect();
            let Some(reason) = row.reason else {
                assert_eq!((answer.status, told.len()), (200, 0), "{what}");
                assert!(!received.is_empty(), "{what}");
                good += 1;
                continue;
            };
            assert_eq!(answer.status, 502, "{what}");
            assert!(answer.body.contains(reason), "{what}");
            assert_eq!(answer.body.lines().count(), 1, "{what}");
            assert!(
                matches!(&told[..], [told] if told.contains(reason)),
                "{what}"
            );
            assert_eq!(received, b"", "{what}");
            bad += 1;
        }
    }
    assert_eq!((good, bad), (4, 36));
}
