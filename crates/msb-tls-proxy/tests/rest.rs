//! Connections that idle: what they give back, and that nobody notices. The clock moves only while all wait.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use allocation_counter::measure;
use common::memory::TlsEnds;
use common::{Bench, HOST, PLACEHOLDER, VALUE, read_until, within};
use msb_testkit::CertificateKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

/// Longer than it takes until a connection rests.
const A_WHILE: Duration = Duration::from_secs(5);

async fn ends(bench: &Bench) -> TlsEnds {
    let guest = msb_testkit::client_config(bench.proxy.ca().cert_der(), &[b"http/1.1"]);
    let server = bench.root.server(&[HOST], CertificateKind::Good);
    bench.tls_in_memory(HOST, guest, server).await
}

/// A request with a placeholder, and the answer to it.
async fn exchange(ends: &mut TlsEnds) {
    ends.guest.write_all(request().as_bytes()).await.unwrap();
    answer(ends).await;
}

fn request() -> String {
    format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {PLACEHOLDER}\r\n\r\n")
}

async fn answer(ends: &mut TlsEnds) {
    let head = read_until(&mut ends.server, "\r\n\r\n").await;
    assert!(head.contains(VALUE), "{head}");
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    ends.server.write_all(answer.as_bytes()).await.unwrap();
    let answer = read_until(&mut ends.guest, "ok").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[test]
fn a_connection_that_idles_gives_its_buffers_back() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let (_bench, _ends) = runtime.block_on(async {
        let bench = Bench::new();
        let mut ends = ends(&bench).await;
        exchange(&mut ends).await;
        (bench, ends)
    });
    let rested = measure(|| runtime.block_on(async { sleep(A_WHILE).await }));
    assert!(rested.bytes_current < -32 * 1024, "{rested:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_goes_on_after_every_rest() {
    let bench = Bench::new();
    let mut ends = ends(&bench).await;
    for rest in [0, 5, 1, 5, 250, 5] {
        sleep(Duration::from_secs(rest)).await;
        exchange(&mut ends).await;
    }
    assert!(!ends.proxy.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_in_pieces_with_rests_between_is_served() {
    let bench = Bench::new();
    let mut ends = ends(&bench).await;
    for _ in 0..2 {
        for piece in request().as_bytes().chunks(30) {
            ends.guest.write_all(piece).await.unwrap();
            ends.guest.flush().await.unwrap();
            sleep(A_WHILE).await;
        }
        answer(&mut ends).await;
        sleep(A_WHILE).await;
    }
}

/// What happens to a connection that rests.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Guest,
    Server,
    Drained,
    IdleForTooLong,
    /// A request begins and goes no further.
    Begun,
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_rests_ends_like_any_other() {
    let limit = msb_tls_proxy::Limits::default().idle_timeout;
    for ending in [
        Ending::Guest,
        Ending::Server,
        Ending::Drained,
        Ending::IdleForTooLong,
        Ending::Begun,
    ] {
        let bench = Bench::new();
        let mut ends = ends(&bench).await;
        exchange(&mut ends).await;
        sleep(A_WHILE).await;
        let start = Instant::now();
        match ending {
            Ending::Guest => ends.guest.shutdown().await.unwrap(),
            Ending::Server => ends.server.shutdown().await.unwrap(),
            Ending::Drained => bench.proxy.drain(),
            Ending::IdleForTooLong => {}
            Ending::Begun => ends.guest.write_all(b"GET / HT").await.unwrap(),
        }
        let (mut to_guest, mut to_server) = (Vec::new(), Vec::new());
        let both = async {
            let _ = tokio::join!(
                ends.guest.read_to_end(&mut to_guest),
                ends.server.read_to_end(&mut to_server)
            );
        };
        tokio::time::timeout(2 * limit, both).await.unwrap();
        tokio::time::timeout(2 * limit, ends.proxy)
            .await
            .unwrap()
            .unwrap();
        assert!(to_server.is_empty(), "{ending:?}: {to_server:?}");
        assert!(to_guest.is_empty(), "{ending:?}: {to_guest:?}");
        let expected = match ending {
            Ending::IdleForTooLong | Ending::Begun => limit,
            _ => Duration::ZERO,
        };
        let took = start.elapsed();
        assert!(took <= expected + A_WHILE, "{ending:?}: {took:?}");
        assert!(took + A_WHILE >= expected, "{ending:?}: {took:?}");
    }
}

/// SPEC T6: never a bare end.
#[tokio::test(start_paused = true)]
async fn a_server_that_ends_while_its_first_request_is_awaited_is_a_502() {
    let bench = Bench::new();
    let mut ends = ends(&bench).await;
    sleep(A_WHILE).await;
    ends.server.shutdown().await.unwrap();
    sleep(A_WHILE).await;
    let answer = within(msb_testkit::exchange(&mut ends.guest, request().as_bytes())).await;
    let text = String::from_utf8(answer).unwrap();
    assert!(text.starts_with("HTTP/1.1 502 "), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_a_guest_is_slow_to_read_is_all_there_after_a_while() {
    const LEN: usize = 4 << 20;
    let bench = Bench::new();
    let mut ends = ends(&bench).await;
    let (mut server, mut guest) = (ends.server, ends.guest);
    let serving = tokio::spawn(async move {
        read_until(&mut server, "\r\n\r\n").await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n");
        server.write_all(head.as_bytes()).await.unwrap();
        server.write_all(&vec![b'.'; LEN]).await.unwrap();
        server.flush().await.unwrap();
        server
    });
    guest.write_all(request().as_bytes()).await.unwrap();
    let mut body = vec![0; LEN];
    read_until(&mut guest, "\r\n\r\n").await;
    for piece in body.chunks_mut(LEN / 4) {
        sleep(A_WHILE).await;
        within(guest.read_exact(piece)).await.unwrap();
    }
    assert!(body.iter().all(|byte| *byte == b'.'));
    (ends.server, ends.guest) = (serving.await.unwrap(), guest);
    sleep(A_WHILE).await;
    exchange(&mut ends).await;
}
