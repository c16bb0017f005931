//! What is not HTTP inside intercepted TLS: told apart, relayed both ways, and searched.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use common::{Bench, HOST, OTHER, PLACEHOLDER, VALUE, broken, h2, read_until, within};
use msb_secrets::{Form, Location};
use msb_testkit::{CertificateKind, Origin, RawOrigin, client_config};
use msb_tls_proxy::{Event, NonHttp};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as Guest;
use tokio_rustls::server::TlsStream as Server;

/// A guest that offers `alpn` to the server of `name`, which has been dialled.
async fn guest(bench: &Bench, origin: &RawOrigin, name: &str, alpn: &[&[u8]]) -> Guest<TcpStream> {
    bench.pin(name, origin.address());
    let stream = bench.connect(origin.address()).await;
    let config = client_config(bench.proxy.ca().cert_der(), alpn);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let handshake = TlsConnector::from(config).connect(name, stream);
    within(handshake).await.unwrap()
}

/// Both ends of a connection for `name` through `bench`, without ALPN.
async fn ends(bench: &Bench, name: &str) -> (Guest<TcpStream>, Server<TcpStream>) {
    ends_with(bench, name, &[], &[]).await
}

async fn ends_with(
    bench: &Bench,
    name: &str,
    offered: &[&[u8]],
    spoken: &[&[u8]],
) -> (Guest<TcpStream>, Server<TcpStream>) {
    let config = bench.root.server(&[HOST, OTHER], CertificateKind::Good);
    let origin = RawOrigin::start(h2::speaking(&config, spoken)).await;
    tokio::join!(guest(bench, &origin, name, offered), origin.accept())
}

async fn send(stream: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
}

async fn expect(stream: &mut (impl tokio::io::AsyncRead + Unpin), expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    within(stream.read_exact(&mut got)).await.unwrap();
    assert_eq!(got, expected, "{}", String::from_utf8_lossy(&got));
}

/// Everything up to the end, however it comes.
async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = within(stream.read_to_end(&mut rest)).await;
    rest
}

async fn relayed(bench: &Bench) {
    let relayed = |event: &Event| matches!(event, Event::Relayed { .. }).then_some(());
    bench.event(relayed).await;
}

#[tokio::test]
async fn either_side_may_speak_first_and_both_may_end_first() {
    for (opening, answer) in [
        (&b"*1\r\n$4\r\nPING\r\n"[..], &b"+PONG\r\n"[..]),
        (b"\0\0\0\x09\0\x03\0\0\0", b"R\0\0\0\x08\0\0\0\0"),
        (b"0\x0c\x02\x01\x01`\x07\x02\x01\x03\x04\0\x80\0", b"0\x0c"),
        // Neither HTTP nor anything else yet, for all anybody knows.
        (b"hello", b"hi"),
        (b"EHLO a", b"?"),
    ] {
        let bench = Bench::new();
        let (mut guest, mut server) = ends(&bench, HOST).await;
        send(&mut guest, opening).await;
        expect(&mut server, opening).await;
        send(&mut server, answer).await;
        expect(&mut guest, answer).await;
        relayed(&bench).await;
        // Half-closed by the guest, then by the server.
        guest.shutdown().await.unwrap();
        assert_eq!(within(server.read(&mut [0])).await.unwrap(), 0);
        send(&mut server, b"bye").await;
        server.shutdown().await.unwrap();
        assert_eq!(rest(&mut guest).await, b"bye");
    }
    let bench = Bench::new();
    let (mut guest, mut server) = ends(&bench, HOST).await;
    send(&mut server, b"220 ready\r\n").await;
    expect(&mut guest, b"220 ready\r\n").await;
    send(&mut guest, b"EHLO a\r\n").await;
    expect(&mut server, b"EHLO a\r\n").await;
    server.shutdown().await.unwrap();
    assert_eq!(within(guest.read(&mut [0])).await.unwrap(), 0);
    send(&mut guest, b"QUIT\r\n").await;
    expect(&mut server, b"QUIT\r\n").await;
}

#[tokio::test]
async fn a_protocol_that_the_server_takes_by_its_name_is_relayed() {
    for (offered, spoken, agreed) in [
        (
            &[&b"postgresql"[..]][..],
            &[&b"postgresql"[..]][..],
            Some(&b"postgresql"[..]),
        ),
        (&[b"h2", b"mqtt"], &[b"mqtt"], Some(b"mqtt")),
        // A server that knows of no ALPN.
        (&[b"mqtt"], &[], None),
    ] {
        let bench = Bench::new();
        let (mut guest, mut server) = ends_with(&bench, HOST, offered, spoken).await;
        assert_eq!(guest.get_ref().1.alpn_protocol(), agreed);
        assert_eq!(server.get_ref().1.alpn_protocol(), agreed);
        send(&mut guest, b"\x10\x02\0\0").await;
        expect(&mut server, b"\x10\x02\0\0").await;
        relayed(&bench).await;
    }
}

/// Else it would all be kept until it is known what it belongs to.
#[tokio::test]
async fn white_space_without_end_is_refused() {
    for space in [" ", "\n", "\r\n"] {
        let bench = Bench::new();
        let guest = client_config(bench.proxy.ca().cert_der(), &[]);
        let config = bench.root.server(&[HOST], CertificateKind::Good);
        let mut ends = bench.tls_in_memory(HOST, guest, config).await;
        let flood = space.repeat(80 * 1024 / space.len());
        send(&mut ends.guest, flood.as_bytes()).await;
        let answer = read_until(&mut ends.guest, "\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{space:?}: {answer}");
        drop(ends.guest);
        assert_eq!(rest(&mut ends.server).await, b"", "{space:?}");
    }
}

/// Requests go on as requests, with their secrets, whether the guest has heard of ALPN or not.
#[tokio::test]
async fn http_without_alpn_is_still_http() {
    for alpn in [&[][..], &[&b"imap"[..]]] {
        let bench = Bench::new();
        let config = bench.root.server(&[HOST], CertificateKind::Good);
        let origin = Origin::start(h2::speaking(&config, &[])).await;
        bench.pin(HOST, origin.address());
        let stream = bench.connect(origin.address()).await;
        let config = client_config(bench.proxy.ca().cert_der(), alpn);
        let name = ServerName::try_from(HOST).unwrap();
        let connect = TlsConnector::from(config).connect(name, stream);
        let mut guest = within(connect).await.unwrap();
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Key: {PLACEHOLDER}\r\nConnection: close\r\n\r\n"
        );
        for byte in request.as_bytes() {
            send(&mut guest, &[*byte]).await;
        }
        assert!(rest(&mut guest).await.ends_with(b"hello\n"), "{alpn:?}");
        let requests = origin.requests();
        assert_eq!(requests[0].only_header("x-key").unwrap(), VALUE);
    }
}

/// Attack 14: what a server may read as HTTP is refused as HTTP, and reaches nobody.
#[tokio::test]
async fn malformed_requests_do_not_get_around_the_checks_by_being_relayed() {
    for request in [
        " GET / HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
        "\n\nGET / HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
        "GET / HTTP/1.1\nHost: api.example.test\n\n\r\n\r\n",
        "get / HTTP/1.1\r\n\r\n",
        "GET\t/\tHTTP/1.1\r\nHost: api.example.test\r\n\r\n",
        "GET /\r\n\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: other.example.test\r\n\r\n",
    ] {
        let bench = Bench::new();
        let (mut guest, mut server) = ends(&bench, HOST).await;
        send(&mut guest, request.as_bytes()).await;
        let answer = read_until(&mut guest, "\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{request:?}: {answer}");
        drop(guest);
        assert_eq!(rest(&mut server).await, b"", "{request:?}");
        let relayed = |event: &Event| matches!(event, Event::Relayed { .. });
        assert!(!bench.events().iter().any(relayed), "{request:?}");
    }
}

/// A request that pretends to be something else by a pause, or that a server's own words seem to make something else.
#[tokio::test]
async fn a_request_that_shows_only_later_cuts_the_connection_off() {
    let bench = Bench::with(|config| config.limits.continue_wait = Duration::from_millis(20));
    let (mut guest, mut server) = ends(&bench, HOST).await;
    send(&mut guest, b"FETCH x HTT").await;
    // The pause is over when it arrives.
    expect(&mut server, b"FETCH x HTT").await;
    let _ = guest
        .write_all(b"P/1.1\r\nHost: api.example.test\r\n\r\n")
        .await;
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
    assert_eq!(rest(&mut server).await, b"");

    let bench = Bench::new();
    let (mut guest, mut server) = ends(&bench, HOST).await;
    send(&mut server, b"220 ready\r\n").await;
    expect(&mut guest, b"220 ready\r\n").await;
    send(&mut guest, b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
    assert_eq!(rest(&mut server).await, b"");
    let refused = |event: &Event| match event {
        Event::RelayRefused { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    assert!(bench.event(refused).await.contains("HTTP request"));
}

#[tokio::test]
async fn a_placeholder_for_another_host_is_a_violation_however_it_is_written_and_cut() {
    for (text, form) in [
        (PLACEHOLDER, Form::Raw),
        ("%24MSB_API_KEY", Form::Percent),
        ("\\u0024MSB_API_KEY", Form::Json),
        ("JE1TQl9BUElfS0VZ", Form::Base64),
    ] {
        for cut in [0, 1, text.len() / 2, text.len() - 1, text.len()] {
            let bench = Bench::new();
            let (mut guest, mut server) = ends(&bench, OTHER).await;
            send(&mut guest, b"AUTH \0").await;
            expect(&mut server, b"AUTH \0").await;
            let (head, tail) = text.split_at(cut);
            send(&mut guest, head.as_bytes()).await;
            if cut < text.len() {
                // Not held up by what it may become.
                expect(&mut server, head.as_bytes()).await;
            }
            let _ = guest.write_all(format!("{tail}\r\n").as_bytes()).await;
            assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
            assert_eq!(rest(&mut server).await, b"", "{text} cut at {cut}");
            let violation = bench.event(|event| match event {
                Event::Violation {
                    host, violation, ..
                } => Some((host.clone(), violation.clone())),
                _ => None,
            });
            let (host, violation) = violation.await;
            assert_eq!(host.to_string(), OTHER);
            assert_eq!(violation.form(), form, "{text}");
            assert_eq!(*violation.location(), Location::Payload);
        }
    }
}

/// It may become a longer word for a while only.
#[tokio::test]
async fn a_placeholder_at_the_end_of_what_is_said_is_a_violation_too() {
    let bench = Bench::with(|config| config.limits.continue_wait = Duration::from_millis(20));
    let (mut guest, mut server) = ends(&bench, OTHER).await;
    send(&mut guest, format!("\0{PLACEHOLDER}").as_bytes()).await;
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
    assert_eq!(rest(&mut server).await, b"\0");
}

/// SPEC S4 has no place for it, so S7's last sentence holds.
#[tokio::test]
async fn the_secrets_own_host_gets_the_placeholder_as_it_is_and_that_is_told() {
    let bench = Bench::new();
    let (mut guest, mut server) = ends(&bench, HOST).await;
    let line = format!("AUTH {PLACEHOLDER}");
    send(&mut server, b"+\n").await;
    expect(&mut guest, b"+\n").await;
    send(&mut guest, line.as_bytes()).await;
    expect(&mut server, line.as_bytes()).await;
    let left_alone = bench.event(|event| match event {
        Event::LeftAlone {
            location, secret, ..
        } => Some((location.clone(), secret.clone())),
        _ => None,
    });
    send(&mut guest, b"\n").await;
    assert_eq!(left_alone.await, (Location::Payload, "API_KEY".to_owned()));
}

#[tokio::test]
async fn a_host_that_may_see_the_placeholder_gets_it() {
    let bench = Bench::with(|config| {
        config.secrets = common::secrets_with(VALUE, |secret| secret.passthrough_host(OTHER));
    });
    let (mut guest, mut server) = ends(&bench, OTHER).await;
    let line = format!("\0{PLACEHOLDER}");
    send(&mut guest, line.as_bytes()).await;
    expect(&mut server, line.as_bytes()).await;
}

/// Attack 20, in a protocol of which nothing is known: the lengths stay.
#[tokio::test]
async fn values_that_come_back_are_covered_at_the_same_length() {
    let bench = Bench::new();
    let (mut guest, mut server) = ends(&bench, HOST).await;
    send(&mut server, format!("\0{VALUE}\x01").as_bytes()).await;
    let covered = format!("\0{}\x01", "*".repeat(VALUE.len()));
    expect(&mut guest, covered.as_bytes()).await;
    let scrubbed = |event: &Event| matches!(event, Event::Scrubbed { .. }).then_some(());
    bench.event(scrubbed).await;
    // What only begins like one arrives although nothing follows.
    send(&mut server, &VALUE.as_bytes()[..3]).await;
    expect(&mut guest, &VALUE.as_bytes()[..3]).await;
    // Another host knows of no value, so nothing is changed.
    let bench = Bench::new();
    let (mut guest, mut server) = ends(&bench, OTHER).await;
    send(&mut server, VALUE.as_bytes()).await;
    expect(&mut guest, VALUE.as_bytes()).await;
}

/// It is not taken for an end in order, nor is what came before it lost.
#[tokio::test]
async fn an_end_that_is_not_announced_is_passed_on_as_one() {
    let bench = Bench::new();
    let (mut guest, mut server) = ends(&bench, HOST).await;
    send(&mut server, b"+OK\r\n").await;
    drop(server.into_inner().0);
    let mut got = Vec::new();
    let error = within(guest.read_to_end(&mut got)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(got, b"+OK\r\n");
}

#[tokio::test]
async fn a_side_that_does_not_read_holds_the_other_back() {
    let bench = Bench::new();
    let (mut guest, mut server) = ends(&bench, HOST).await;
    send(&mut guest, b"\0").await;
    expect(&mut server, b"\0").await;
    let chunk = vec![0; 1 << 20];
    let mut sent = 0_usize;
    // Buffers of four sockets and of TLS lie in between; a proxy that hoards takes everything.
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(500), guest.write(&chunk)).await
    {
        sent += written.unwrap();
        assert!(sent < 256 << 20, "taken without being read");
    }
    drop(server);
}

/// A guest that speaks no HTTP is not kept waiting for ever, nor told nothing.
#[tokio::test]
async fn without_relaying_everything_is_taken_for_http() {
    let refuse = |config: &mut msb_tls_proxy::Config| config.non_http = NonHttp::Refuse;
    let bench = Bench::with(refuse);
    let (mut guest, mut server) = ends(&bench, HOST).await;
    send(&mut guest, b"EHLO a\r\n").await;
    let answer = read_until(&mut guest, "\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    drop(guest);
    assert_eq!(rest(&mut server).await, b"");

    let bench = Bench::with(refuse);
    let origin = RawOrigin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    let stream = bench.connect(origin.address()).await;
    let config = client_config(bench.proxy.ca().cert_der(), &[b"postgresql"]);
    let name = ServerName::try_from(HOST).unwrap();
    let error = within(TlsConnector::from(Arc::clone(&config)).connect(name, stream)).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
}

#[tokio::test]
async fn a_connection_on_which_nobody_speaks_ends_at_the_idle_limit() {
    let bench = Bench::with(|config| config.limits.idle_timeout = Duration::from_millis(50));
    let (mut guest, _server) = ends(&bench, HOST).await;
    assert_eq!(rest(&mut guest).await, b"");
}

#[tokio::test]
async fn without_a_server_who_asks_is_answered_and_who_speaks_no_http_is_reset() {
    for (said, expected) in [
        (
            "GET / HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
            Some("HTTP/1.1 502 "),
        ),
        ("EHLO a\r\n", None),
        ("", None),
    ] {
        let bench = Bench::with(|config| config.limits.handshake_timeout = Duration::from_secs(1));
        let origin = RawOrigin::start(bench.root.server(&[OTHER], CertificateKind::Good)).await;
        let connecting = guest(&bench, &origin, HOST, &[]);
        let (mut guest, server) = tokio::join!(connecting, origin.accept_tcp());
        drop(server);
        send(&mut guest, said.as_bytes()).await;
        match expected {
            Some(expected) => {
                let answer = read_until(&mut guest, "\r\n").await;
                assert!(answer.starts_with(expected), "{answer}");
            }
            None => assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset),
        }
    }
}

/// SPEC T6: never a bare end where the guest may be told more.
#[tokio::test]
async fn a_server_that_ends_at_once_is_a_502_for_who_asks_and_an_end_for_who_waits() {
    let bench = Bench::new();
    let (mut guest, mut server) = ends(&bench, HOST).await;
    server.shutdown().await.unwrap();
    send(
        &mut guest,
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes(),
    )
    .await;
    let answer = read_until(&mut guest, "\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");

    let bench = Bench::with(|config| config.limits.continue_wait = Duration::from_millis(20));
    let (mut guest, mut server) = ends(&bench, HOST).await;
    server.shutdown().await.unwrap();
    assert_eq!(within(guest.read(&mut [0])).await.unwrap(), 0);
}
