//! How connections end when the proxy is to end, or the server ends first.

mod common;

use common::h2::speaking;
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
    let (answer, _) = requests.send_request(common::h2::get("/"), true).unwrap();
    within(answer).await.unwrap();
    let start = tokio::time::Instant::now();
    connection.abort();
    within(ends.proxy).await.unwrap();
    within(serving).await.unwrap();
    assert_eq!(start.elapsed(), std::time::Duration::ZERO);
}
