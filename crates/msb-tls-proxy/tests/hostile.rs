//! Guests and servers that do not play by the rules, written by hand.

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::hello::hello_for;
use common::{Bench, HOST, OTHER, PLACEHOLDER, VALUE, broken, read_until, within};
use msb_testkit::{CertificateKind, Origin, RawOrigin};
use msb_tls_proxy::{Event, HelloFailure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Attack 5. A peer's process died of it.
#[tokio::test]
async fn odd_server_names_end_their_own_connection_only() {
    let bench = Bench::new();
    let origin = Origin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    let long = "a".repeat(300);
    let labels = vec!["abcdefghi"; 40].join(".");
    for name in [
        &b""[..],
        b"\xff\xfe.example.test",
        "bücher.example.test".as_bytes(),
        b"api.example.test\0.evil.test",
        b"api.example.test:443",
        b"a b",
        b"*.example.test",
        b"..",
        b"$MSB_API_KEY",
        long.as_bytes(),
        labels.as_bytes(),
    ] {
        let mut guest = bench.connect(origin.address()).await;
        guest.write_all(&hello_for(name)).await.unwrap();
        let mut answer = Vec::new();
        // An alert and the end, or a reset.
        let _ = within(guest.read_to_end(&mut answer)).await;
        assert!(answer.is_empty() || answer[0] == 21, "{name:?}: {answer:?}");
    }
    let malformed = |event: &Event| {
        matches!(
            event,
            Event::HelloFailed {
                failure: HelloFailure::Malformed(_),
                ..
            }
        )
    };
    let events = bench.events();
    assert!(events.iter().all(malformed), "{events:?}");
    assert_eq!(events.len(), 11);
    assert_eq!(origin.received(), b"");
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let answer = bench.exchange(origin.address(), HOST, &request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// Attack 5: an address is no name, and never gets a secret.
#[tokio::test]
async fn an_address_as_server_name_counts_as_none() {
    let bench = Bench::new();
    let origin = RawOrigin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    bench.pin(HOST, origin.address());
    let mut guest = bench.connect(origin.address()).await;
    guest.write_all(&hello_for(b"192.0.2.1")).await.unwrap();
    // The name pinned to the address stands for it.
    let server = origin.accept().await;
    assert_eq!(server.get_ref().1.server_name(), Some(HOST));
}

/// Attack 11: where the check of the framing leaves a head to the parser, the parser must refuse it.
#[tokio::test]
async fn no_length_of_a_head_escapes_the_check_of_its_framing() {
    const HEAD_LEN: usize = 8 * 1024;
    let bench = Bench::with(|config| config.limits.head_len = HEAD_LEN);
    let origin = Origin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    for lead in ["", "\r\n", "\r\n\r\n\r\n"] {
        for over in 0..12 {
            let start = format!(
                "{lead}POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nX: "
            );
            let len = HEAD_LEN + over - 6;
            let fill = "a".repeat(len - (start.len() - lead.len()) - 4);
            let request = format!("{start}{fill}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n");
            for cut in [0, HEAD_LEN - 7, HEAD_LEN - 1, HEAD_LEN, HEAD_LEN + 1] {
                let mut guest = bench.tls(origin.address(), HOST).await;
                let (first, second) = request.as_bytes().split_at(cut);
                // The answer may come before all is written.
                let _ = guest.write_all(first).await;
                let _ = guest.flush().await;
                let _ = guest.write_all(second).await;
                let _ = guest.flush().await;
                let mut answer = Vec::new();
                let _ = within(guest.read_to_end(&mut answer)).await;
                let answer = String::from_utf8_lossy(&answer);
                assert!(
                    answer.is_empty()
                        || answer.starts_with("HTTP/1.1 400 ")
                        || answer.starts_with("HTTP/1.1 431 "),
                    "{lead:?} {len} {cut}: {answer}"
                );
            }
        }
    }
    assert_eq!(origin.requests().len(), 0);
    assert_eq!(origin.received(), b"");
}

/// Attack 27: U+009B begins an escape sequence on some terminals, U+202E turns text around.
#[tokio::test]
async fn paths_in_events_cannot_drive_a_terminal() {
    let bench = Bench::new();
    let origin = Origin::start(bench.root.server(&[HOST, OTHER], CertificateKind::Good)).await;
    for (name, field) in [(HOST, ""), (OTHER, PLACEHOLDER)] {
        let mut guest = bench.tls(origin.address(), name).await;
        let request = format!(
            "GET /a\u{9b}31m\u{202e}b HTTP/1.1\r\nHost: {name}\r\nX: {field}\r\nConnection: close\r\n\r\n"
        );
        guest.write_all(request.as_bytes()).await.unwrap();
        let _ = within(guest.read_to_end(&mut Vec::new())).await;
    }
    let mut seen = 0;
    for event in bench.events() {
        let (Event::Request { path, .. }
        | Event::Violation {
            path: Some(path), ..
        }) = event
        else {
            continue;
        };
        assert_eq!(path, "/a%C2%9B31m%E2%80%AEb");
        seen += 1;
    }
    assert_eq!(seen, 2);
}

/// Attack 16: what the guest and the server see of a path is the placeholder; so do the events.
#[tokio::test]
async fn a_placeholder_where_nothing_is_replaced_never_becomes_the_value() {
    for request in [
        format!("GET /{PLACEHOLDER} HTTP/1.1\r\nHost: {HOST}\r\n"),
        format!("GET /?k={PLACEHOLDER} HTTP/1.1\r\nHost: {HOST}\r\n"),
        format!("GET https://{HOST}/{PLACEHOLDER} HTTP/1.1\r\nHost: {HOST}\r\n"),
        format!("{PLACEHOLDER} / HTTP/1.1\r\nHost: {HOST}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{PLACEHOLDER}: x\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: {PLACEHOLDER}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {PLACEHOLDER}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: {PLACEHOLDER}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nExpect: {PLACEHOLDER}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {PLACEHOLDER}@{HOST}\r\n"),
    ] {
        let bench = Bench::new();
        let origin = Origin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
        let mut guest = bench.tls(origin.address(), HOST).await;
        let bytes = format!("{request}Connection: close\r\n\r\n");
        guest.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = within(guest.read_to_end(&mut answer)).await;
        let seen = [
            String::from_utf8_lossy(&answer).into_owned(),
            String::from_utf8_lossy(&origin.received()).into_owned(),
            format!("{:?}", bench.events()),
        ];
        assert!(
            !seen.iter().any(|text| text.contains(VALUE)),
            "{request}: {seen:?}"
        );
    }
}

/// Attack 23: what a guest does not take, its server is not asked for.
#[tokio::test]
async fn a_guest_that_does_not_read_holds_its_server_back() {
    const MORE_THAN_ALL_BUFFERS: usize = 256 * 1024 * 1024;
    let bench = Bench::new();
    let origin = RawOrigin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    let (mut guest, mut server) = tokio::join!(bench.tls(origin.address(), HOST), origin.accept());
    guest
        .write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MORE_THAN_ALL_BUFFERS}\r\n\r\n");
    server.write_all(head.as_bytes()).await.unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let writing = tokio::spawn(async move {
        let chunk = vec![b'x'; 64 * 1024];
        while server.write_all(&chunk).await.is_ok() {
            counter.fetch_add(chunk.len(), Ordering::Relaxed);
        }
    });
    // Until nothing moves any more.
    let stalled = async {
        let mut before = usize::MAX;
        loop {
            let now = sent.load(Ordering::Relaxed);
            if now == before {
                return now;
            }
            before = now;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let stalled = within(stalled).await;
    // The kernel's buffers of two loopback connections are at most some MiB each.
    assert!(stalled < 64 * 1024 * 1024, "{stalled}");
    assert!(!writing.is_finished());
    drop(guest);
    within(writing).await.unwrap();
}

/// Attack 23: a server cannot make the proxy hoard, nor wait, before an answer begins.
#[tokio::test]
async fn a_server_with_an_endless_head_is_a_502() {
    let bench = Bench::new();
    let origin = RawOrigin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    let (mut guest, mut server) = tokio::join!(bench.tls(origin.address(), HOST), origin.accept());
    guest
        .write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    let writing = tokio::spawn(async move {
        let _ = server.write_all(b"HTTP/1.1 200 OK\r\nX: ").await;
        while server.write_all(&[b'a'; 4096]).await.is_ok() {}
    });
    read_until(&mut guest, "HTTP/1.1 502 ").await;
    within(writing).await.unwrap();
}

/// Attack 22: nothing of a request goes to a server that could not be verified, whatever it carries.
#[tokio::test]
async fn an_unverified_server_receives_no_byte_of_a_request() {
    let bench = Bench::new();
    for kind in [
        CertificateKind::Expired,
        CertificateKind::ForgedIssuer,
        CertificateKind::UnknownIssuer,
    ] {
        let origin = Origin::start(bench.root.server(&[HOST], kind)).await;
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {PLACEHOLDER}\r\nContent-Length: 1\r\n\r\nx"
        );
        let answer = bench.exchange(origin.address(), HOST, &request).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{kind:?}: {answer}");
        assert_eq!(origin.received(), b"", "{kind:?}");
        assert!(!answer.contains(VALUE));
    }
}

/// Attack 11: to HTTP/1.0 the end of the connection is the end of the body, so a cut must not look like one.
#[tokio::test]
async fn a_body_cut_short_is_a_reset_where_the_end_of_the_connection_ends_it() {
    for in_order in [true, false] {
        let bench = Bench::new();
        let origin = RawOrigin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
        let (mut guest, mut server) =
            tokio::join!(bench.tls(origin.address(), HOST), origin.accept());
        let request = format!("GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n");
        guest.write_all(request.as_bytes()).await.unwrap();
        read_until(&mut server, "\r\n\r\n").await;
        let answer = b"HTTP/1.0 200 OK\r\n\r\nrm -rf /tmp/x";
        server.write_all(answer).await.unwrap();
        server.flush().await.unwrap();
        read_until(&mut guest, "/tmp/x").await;
        if in_order {
            server.shutdown().await.unwrap();
            let rest = within(guest.read_to_end(&mut Vec::new())).await;
            assert_eq!(rest.unwrap(), 0);
        } else {
            drop(server);
            assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
        }
    }
}
