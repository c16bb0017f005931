//! Servers that the host dials itself: by the name the client asks for, and by no other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::SocketAddr;

use common::{
    Bench, HOST, OTHER, PINNED, PLACEHOLDER, Resettable, VALUE, broken, handshake, within,
};
use msb_name::HostName;
use msb_testkit::{CertificateKind, Origin};
use msb_tls_proxy::{Client, DialError, Dialled, Event, HelloFailure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A client's end of a connection for which the host dials what `dial` says.
async fn connect<D>(
    bench: &Bench,
    dial: impl FnOnce(Option<HostName>) -> D + Send + 'static,
) -> TcpStream
where
    D: Future<Output = Result<Dialled<TcpStream>, DialError>> + Send + 'static,
{
    let (near, far) = msb_testkit::tcp_pair().await;
    let destination = far.local_addr().unwrap();
    let (guest, reset) = Resettable::new(far);
    let client = Client {
        guest,
        reset,
        destination,
    };
    let proxy = bench.proxy.clone();
    tokio::spawn(async move { proxy.serve_dialling(client, dial).await });
    near
}

async fn dialled(host: &str, address: SocketAddr) -> Result<Dialled<TcpStream>, DialError> {
    Ok(Dialled {
        upstream: TcpStream::connect(address).await.unwrap(),
        address,
        host: host.parse().unwrap(),
    })
}

async fn origin(bench: &Bench) -> Origin {
    let names = [HOST, OTHER, PINNED];
    Origin::start(bench.root.server(&names, CertificateKind::Good)).await
}

fn request(host: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {PLACEHOLDER}\r\nConnection: close\r\n\r\n"
    )
}

/// What a client that names `named` gets for a request with a placeholder where `dial` was dialled.
async fn answer(
    bench: &Bench,
    named: &str,
    dial: &str,
    origin: &Origin,
) -> Result<String, std::io::Error> {
    let (dial, address) = (dial.to_owned(), origin.address());
    let stream = connect(bench, move |_| async move { dialled(&dial, address).await }).await;
    let mut stream = handshake(stream, named, bench.proxy.ca().cert_der()).await?;
    let host = if named.parse::<std::net::IpAddr>().is_ok() {
        HOST
    } else {
        named
    };
    stream.write_all(request(host).as_bytes()).await?;
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await?;
    Ok(String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn a_host_dialled_by_name_gets_its_secret() {
    let bench = Bench::new();
    let origin = origin(&bench).await;
    let answer = answer(&bench, HOST, HOST, &origin).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let requests = origin.wait_for(1).await;
    assert_eq!(
        requests[0].only_header("authorization"),
        Some(format!("Bearer {VALUE}"))
    );
}

#[tokio::test]
async fn an_address_the_client_chose_gets_no_secret() {
    let bench = Bench::new();
    let origin = origin(&bench).await;
    let error = answer(&bench, HOST, "127.0.0.1", &origin)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let refusal = bench
        .event(|event| match event {
            Event::Violation { violation, .. } => Some(violation.refusal().to_string()),
            _ => None,
        })
        .await;
    assert!(refusal.contains("was not resolved from"), "{refusal}");
    assert!(origin.requests().is_empty());
}

/// Attack 3, for an intercepted host and for one on the bypass list.
#[tokio::test]
async fn a_server_name_other_than_what_was_dialled_ends_in_an_alert() {
    for (named, dial) in [(HOST, OTHER), (OTHER, HOST), (PINNED, HOST), (HOST, PINNED)] {
        let bench = Bench::new();
        let origin = origin(&bench).await;
        let error = answer(&bench, named, dial, &origin).await.unwrap_err();
        assert!(error.to_string().contains("UnrecognisedName"), "{error}");
        let failure = bench
            .event(|event| match event {
                Event::HelloFailed { failure, .. } => Some(failure.clone()),
                _ => None,
            })
            .await;
        let expected = HelloFailure::OtherServerName {
            named: named.parse().unwrap(),
            dialled: dial.parse().unwrap(),
        };
        assert_eq!(failure, expected);
        assert_eq!(origin.handshakes(), 0, "{named} in {dial}");
    }
}

#[tokio::test]
async fn without_a_server_name_what_was_dialled_counts() {
    let bench = Bench::new();
    let origin = origin(&bench).await;
    let address = origin.address();
    let stream = connect(&bench, move |named| {
        assert_eq!(named, None);
        dialled(HOST, address)
    })
    .await;
    // A client that names an address sends no server name, and is shown the certificate of what was dialled.
    let error = handshake(stream, "192.0.2.1", bench.proxy.ca().cert_der())
        .await
        .unwrap_err();
    assert!(error.to_string().contains(HOST), "{error}");
}

#[track_caller]
fn check_told(answer: &str, status: &str) {
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
        "{answer}"
    );
    assert!(answer.ends_with("msb: the reason\n"), "{answer}");
}

#[tokio::test]
async fn why_nothing_was_dialled_is_told_in_http() {
    for (error, status) in [
        (DialError::Failed("the\nreason".into()), "502 Bad Gateway"),
        (DialError::Denied("the reason".into()), "403 Forbidden"),
    ] {
        let bench = Bench::new();
        let stream = connect(&bench, |_| std::future::ready(Err(error))).await;
        let mut stream = handshake(stream, HOST, bench.proxy.ca().cert_der())
            .await
            .unwrap();
        let answer = within(msb_testkit::exchange(&mut stream, request(HOST).as_bytes())).await;
        check_told(&String::from_utf8(answer).unwrap(), status);
    }
}

#[tokio::test]
async fn without_a_server_name_and_without_a_server_there_is_an_alert() {
    let bench = Bench::new();
    let refused = DialError::Failed("nothing to go by".into());
    let stream = connect(&bench, |_| std::future::ready(Err(refused))).await;
    let error = handshake(stream, "192.0.2.1", bench.proxy.ca().cert_der())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
}

#[tokio::test]
async fn a_bypassed_host_is_dialled_and_spliced() {
    let bench = Bench::new();
    let origin = origin(&bench).await;
    let address = origin.address();
    let stream = connect(&bench, move |_| dialled(PINNED, address)).await;
    let mut stream = handshake(stream, PINNED, &bench.root.der()).await.unwrap();
    let answer = within(msb_testkit::exchange(
        &mut stream,
        request(PINNED).as_bytes(),
    ))
    .await;
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_bypassed_host_that_cannot_be_dialled_is_a_reset() {
    let bench = Bench::new();
    let refused = DialError::Failed("nobody answers".into());
    let mut stream = connect(&bench, |_| std::future::ready(Err(refused))).await;
    let hello = handshake(&mut stream, PINNED, &bench.root.der()).await;
    let kind = match hello {
        Err(error) => error.kind(),
        Ok(_) => broken(&mut stream).await,
    };
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
}
