//! How connections end when the proxy is to end, or the server ends first.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::h2::{get, offer, origin, speaking, whole};
use common::{Bench, HOST, read_until, within};
use msb_testkit::{CertificateKind, RawOrigin};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn a_drained_proxy_ends_idle_connections_and_finishes_open_requests() {
    let bench = Bench::new();
    let origin = RawOrigin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    let (mut idle, _idle_upstream) =
        tokio::join!(bench.tls(origin.address(), HOST), origin.accept());
    let (mut busy, mut upstream) = tokio::join!(bench.tls(origin.address(), HOST), origin.accept());
    busy.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    read_until(&mut upstream, "\r\n\r\n").await;
    bench.proxy.drain();
    let mut rest = Vec::new();
    within(idle.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
    upstream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await
        .unwrap();
    within(busy.read_to_end(&mut rest)).await.unwrap();
    let text = String::from_utf8(rest).unwrap();
    assert!(text.ends_with("\r\n\r\nok"), "{text}");
}

/// SPEC T6: never a bare end.
#[tokio::test]
async fn a_server_that_ends_before_the_first_request_is_a_502() {
    let bench = Bench::new();
    let origin = RawOrigin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    let (mut guest, mut upstream) =
        tokio::join!(bench.tls(origin.address(), HOST), origin.accept());
    upstream.shutdown().await.unwrap();
    // Whether the proxy has seen it when the request comes or not.
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let answer = within(msb_testkit::exchange(&mut guest, request.as_bytes())).await;
    let text = String::from_utf8(answer).unwrap();
    assert!(text.starts_with("HTTP/1.1 502 "), "{text}");
}

/// On a clock that stands still, so that what waits for a limit is seen to wait.
#[tokio::test(start_paused = true)]
async fn an_http2_connection_ends_with_its_guest_and_waits_for_nothing() {
    let bench = Bench::new();
    let server = bench.root.server(&[HOST], CertificateKind::Good);
    let guest = msb_testkit::client_config(bench.proxy.ca().cert_der(), &[b"h2"]);
    let ends = bench
        .tls_in_memory(HOST, guest, speaking(&server, &[b"h2"]))
        .await;
    let serving = tokio::spawn(async move {
        let mut connection = ::h2::server::handshake(ends.server).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        respond
            .send_response(http::Response::new(()), true)
            .unwrap();
        let _ = connection.accept().await;
    });
    let (mut requests, connection) = ::h2::client::handshake(ends.guest).await.unwrap();
    let connection = tokio::spawn(connection);
    let (answer, _) = requests.send_request(get("/"), true).unwrap();
    within(answer).await.unwrap();
    let start = tokio::time::Instant::now();
    connection.abort();
    within(ends.proxy).await.unwrap();
    within(serving).await.unwrap();
    assert_eq!(start.elapsed(), std::time::Duration::ZERO);
}

/// How a server ends before it has answered anything.
#[derive(Clone, Copy, Debug)]
enum Ending {
    AtOnce,
    SayingGoodbye,
    WithTheRequest,
    SayingGoodbyeToTheRequest,
}

#[tokio::test]
async fn a_server_that_ends_before_its_first_answer_in_http2_is_a_502() {
    for ending in [
        Ending::AtOnce,
        Ending::SayingGoodbye,
        Ending::WithTheRequest,
        Ending::SayingGoodbyeToTheRequest,
    ] {
        let bench = Bench::new();
        let origin = origin(&bench).await;
        let guest = offer(&bench, origin.address(), HOST, &[b"h2"]);
        let (guest, server) = tokio::join!(guest, origin.accept());
        let server = tokio::spawn(end(server, ending));
        if matches!(ending, Ending::AtOnce | Ending::SayingGoodbye) {
            // The proxy may have seen it by now, or not.
            within(server).await.unwrap();
        }
        let handshake = within(::h2::client::handshake(guest.unwrap())).await;
        let (mut guest, connection) = handshake.unwrap();
        let ended = tokio::spawn(connection);
        let ready = within(std::future::poll_fn(|context| guest.poll_ready(context))).await;
        ready.unwrap();
        let (answer, _) = guest.send_request(get("/"), true).unwrap();
        let answer = within(answer).await.unwrap();
        assert_eq!(answer.status(), 502, "{ending:?}");
        let (reason, _) = whole(&mut answer.into_body()).await;
        let reason = String::from_utf8(reason).unwrap();
        assert!(reason.starts_with(&format!("msb: {HOST} ")), "{reason}");
        // There is no use in asking again.
        drop(guest);
        within(ended).await.unwrap().unwrap();
    }
}

async fn end(mut server: tokio_rustls::server::TlsStream<tokio::net::TcpStream>, ending: Ending) {
    if matches!(ending, Ending::AtOnce) {
        let _ = server.shutdown().await;
        return;
    }
    let mut server = ::h2::server::handshake(server).await.unwrap();
    if matches!(
        ending,
        Ending::WithTheRequest | Ending::SayingGoodbyeToTheRequest
    ) {
        server.accept().await.unwrap().unwrap();
    }
    if matches!(
        ending,
        Ending::SayingGoodbye | Ending::SayingGoodbyeToTheRequest
    ) {
        server.abrupt_shutdown(::h2::Reason::ENHANCE_YOUR_CALM);
        let _ = std::future::poll_fn(|context| server.poll_closed(context)).await;
    }
}

/// On a clock that stands still, so that the limit costs nothing.
#[tokio::test(start_paused = true)]
async fn an_idle_http1_connection_is_ended_before_and_after_a_request() {
    let bench = Bench::new();
    let limit = msb_tls_proxy::Limits::default().idle_timeout;
    let server = bench.root.server(&[HOST], CertificateKind::Good);
    let guest = msb_testkit::client_config(bench.proxy.ca().cert_der(), &[b"http/1.1"]);
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    // Nothing at all; the beginning of a head; a request that was answered.
    for (sent, whole) in [("", false), (&request[..20], false), (&request, true)] {
        let (guest, server) = (guest.clone(), server.clone());
        let mut ends = bench.tls_in_memory(HOST, guest, server).await;
        ends.guest.write_all(sent.as_bytes()).await.unwrap();
        if whole {
            // A server may take as long as it likes: that is not idle.
            read_until(&mut ends.server, "\r\n\r\n").await;
            tokio::time::advance(2 * limit).await;
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            ends.server.write_all(answer).await.unwrap();
            read_until(&mut ends.guest, "ok").await;
        }
        let start = tokio::time::Instant::now();
        let mut rest = Vec::new();
        let _ = ends.guest.read_to_end(&mut rest).await;
        let waited = start.elapsed();
        assert!(waited >= limit && waited < 2 * limit, "{sent}: {waited:?}");
        ends.proxy.await.unwrap();
    }
}

/// Found by the fuzz target of HTTP/1.1: the connection stayed for ever, as did the one to the server.
#[tokio::test(start_paused = true)]
async fn a_guest_that_ends_inside_a_body_that_is_held_takes_its_connection_with_it() {
    for injects in [true, false] {
        let bench = Bench::with(|config| {
            config.secrets = common::secrets_with(common::VALUE, |it| it.inject_body(injects));
        });
        let server = bench.root.server(&[HOST], CertificateKind::Good);
        let guest = msb_testkit::client_config(bench.proxy.ca().cert_der(), &[b"http/1.1"]);
        let mut ends = bench.tls_in_memory(HOST, guest, server).await;
        let request = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\nx");
        ends.guest.write_all(request.as_bytes()).await.unwrap();
        ends.guest.shutdown().await.unwrap();
        within(ends.proxy).await.unwrap();
    }
}

/// Found by the fuzz target of HTTP/1.1.
#[tokio::test(start_paused = true)]
async fn a_server_that_ends_inside_a_request_does_not_keep_its_guest() {
    let bench = Bench::new();
    let server = bench.root.server(&[HOST], CertificateKind::Good);
    let guest = msb_testkit::client_config(bench.proxy.ca().cert_der(), &[b"http/1.1"]);
    let mut ends = bench.tls_in_memory(HOST, guest, server).await;
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let request = head + "5\r\nhello\r\n";
    ends.guest.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut ends.server, "hello\r\n").await;
    ends.server.shutdown().await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    // It goes on sending, as long as it can, and does not end what it sends.
    for _ in 0..3 {
        let _ = ends.guest.write_all(b"3\r\nabc\r\n").await;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    read_until(&mut ends.guest, "HTTP/1.1 502 ").await;
    let _ = ends.guest.shutdown().await;
    within(ends.proxy).await.unwrap();
}

/// What panics is the receiver of events; it stands for a fault anywhere on the connection's way.
#[tokio::test]
async fn a_panic_ends_its_own_connection_only() {
    let bench = Bench::with(|config| {
        config.events = std::sync::Arc::new(|event| {
            let text = format!("{event:?}");
            assert!(!text.contains("/panic"), "as asked for");
        });
    });
    for protocol in [&b"http/1.1"[..], b"h2"] {
        let server = speaking(
            &bench.root.server(&[HOST], CertificateKind::Good),
            &[protocol],
        );
        let guest = msb_testkit::client_config(bench.proxy.ca().cert_der(), &[protocol]);
        let connect = || bench.tls_in_memory(HOST, guest.clone(), server.clone());
        let (mut neighbour, doomed) = (connect().await, connect().await);
        check_panic(doomed, protocol == b"h2").await;
        if protocol == b"h2" {
            continue;
        }
        let request = format!("GET /well HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        neighbour.guest.write_all(request.as_bytes()).await.unwrap();
        read_until(&mut neighbour.server, "\r\n\r\n").await;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        neighbour.server.write_all(answer).await.unwrap();
        read_until(&mut neighbour.guest, "ok").await;
        common::memory::still_works(&bench, &guest, &server).await;
    }
}

/// Provokes a panic on `ends`, and sees them end.
async fn check_panic(mut ends: common::memory::TlsEnds, http2: bool) {
    if http2 {
        let serving = tokio::spawn(async move {
            let mut connection = ::h2::server::handshake(ends.server).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let _ = respond.send_response(http::Response::new(()), true);
            }
        });
        let (mut requests, connection) = ::h2::client::handshake(ends.guest).await.unwrap();
        let connection = tokio::spawn(connection);
        let (answer, _) = requests.send_request(get("/panic"), true).unwrap();
        within(answer).await.unwrap_err();
        drop(requests);
        connection.abort();
        within(ends.proxy).await.unwrap();
        within(serving).await.unwrap();
        return;
    }
    let request = format!("GET /panic HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    ends.guest.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut ends.server, "\r\n\r\n").await;
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    ends.server.write_all(answer).await.unwrap();
    let mut rest = Vec::new();
    let _ = within(ends.guest.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
    within(ends.proxy).await.unwrap();
}
