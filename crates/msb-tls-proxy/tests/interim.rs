//! Informational answers (RFC 9110 section 15.2): passed on before the answer they belong to, in either protocol.

mod common;

use common::h2::{ends, get};
use common::{Bench, HOST, PLACEHOLDER, VALUE, read_until, within};
use http::{Response, StatusCode};
use msb_testkit::{CertificateKind, RawOrigin};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

type Guest = tokio_rustls::client::TlsStream<TcpStream>;
type Server = tokio_rustls::server::TlsStream<TcpStream>;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn both_ends(bench: &Bench) -> (Guest, Server) {
    let origin = RawOrigin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    tokio::join!(bench.tls(origin.address(), HOST), origin.accept())
}

fn hints(link: &str) -> String {
    format!("HTTP/1.1 103 Early Hints\r\nlink: <{link}>; rel=preload\r\n\r\n")
}

fn request(version: &str) -> String {
    format!("GET / {version}\r\nHost: {HOST}\r\nConnection: keep-alive\r\n\r\n")
}

#[tokio::test]
async fn hints_come_before_the_answer_and_without_waiting_for_it() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    for _ in 0..2 {
        guest
            .write_all(request("HTTP/1.1").as_bytes())
            .await
            .unwrap();
        read_until(&mut server, "\r\n\r\n").await;
        for link in ["/a.css", "/b.js"] {
            server.write_all(hints(link).as_bytes()).await.unwrap();
            assert_eq!(read_until(&mut guest, "\r\n\r\n").await, hints(link));
        }
        server
            .write_all(b"HTTP/1.1 102 Processing\r\n\r\n")
            .await
            .unwrap();
        let other = read_until(&mut guest, "\r\n\r\n").await;
        assert_eq!(other, "HTTP/1.1 102 Processing\r\n\r\n");
        server.write_all(OK.as_bytes()).await.unwrap();
        let answer = read_until(&mut guest, "ok").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[tokio::test]
async fn hints_and_the_answer_in_one_piece_arrive_in_their_order() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    // The second request is there before the first is answered.
    let twice = request("HTTP/1.1").repeat(2);
    guest.write_all(twice.as_bytes()).await.unwrap();
    for link in ["/first", "/second"] {
        read_until(&mut server, "\r\n\r\n").await;
        let piece = hints(link) + OK;
        server.write_all(piece.as_bytes()).await.unwrap();
        let answer = read_until(&mut guest, "ok").await;
        assert!(answer.starts_with(&hints(link)), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{answer}");
    }
}

#[tokio::test]
async fn hints_are_scrubbed_and_stripped_like_answers() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    guest
        .write_all(request("HTTP/1.1").as_bytes())
        .await
        .unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    let told = format!(
        "HTTP/1.1 103 Early Hints\r\nlink: </{VALUE}>\r\nAlt-Svc: h3=\":443\"\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n"
    );
    server.write_all(told.as_bytes()).await.unwrap();
    let got = read_until(&mut guest, "\r\n\r\n").await;
    assert_eq!(
        got,
        format!("HTTP/1.1 103 Early Hints\r\nlink: </{PLACEHOLDER}>\r\n\r\n")
    );
}

/// What they are for is nothing that has to arrive; that the answer does is.
#[tokio::test]
async fn more_hints_than_anybody_needs_are_not_passed_on() {
    let long = "l".repeat(20 << 10);
    let table = [
        (
            "count",
            (0..100).map(|n| hints(&n.to_string())).collect(),
            16,
        ),
        // 64 KiB in all.
        ("length", hints(&long).repeat(9), 3),
    ];
    for (what, all, passed) in table {
        let bench = Bench::new();
        let (mut guest, mut server) = both_ends(&bench).await;
        let request = request("HTTP/1.1");
        guest.write_all(request.as_bytes()).await.unwrap();
        read_until(&mut server, "\r\n\r\n").await;
        server.write_all((all + OK).as_bytes()).await.unwrap();
        let answer = read_until(&mut guest, "\r\n\r\nok").await;
        assert_eq!(answer.matches(" 103 ").count(), passed, "{what}");
    }
}

#[tokio::test]
async fn a_guest_of_http_1_0_gets_no_hints() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    guest
        .write_all(request("HTTP/1.0").as_bytes())
        .await
        .unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    server
        .write_all((hints("/a") + OK).as_bytes())
        .await
        .unwrap();
    let answer = read_until(&mut guest, "ok").await;
    assert!(!answer.contains("103"), "{answer}");
    assert!(answer.contains(" 200 OK\r\n"), "{answer}");
}

/// An end of a connection's HTTP that nobody asked for is none.
#[tokio::test]
async fn a_switch_among_informational_answers_is_none() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench).await;
    guest
        .write_all(request("HTTP/1.1").as_bytes())
        .await
        .unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    server
        .write_all((hints("/a") + switch).as_bytes())
        .await
        .unwrap();
    assert_eq!(read_until(&mut guest, "\r\n\r\n").await, hints("/a"));
    let answer = read_until(&mut guest, "\r\n").await;
    assert_eq!(answer, "HTTP/1.1 502 Bad Gateway\r\n");
}

#[tokio::test]
async fn hints_are_passed_on_and_scrubbed_in_http2() {
    let bench = Bench::new();
    let mut ends = ends(&bench, HOST).await;
    let (mut answer, _) = ends.send(get("/"), true).await;
    let (_, mut respond) = ends.taken().await;
    for link in ["/a.css", VALUE] {
        let interim = Response::builder().status(103).header("link", link);
        let interim = interim.header("alt-svc", "h3=\":443\"").body(()).unwrap();
        respond.send_informational(interim).unwrap();
        let interim = std::future::poll_fn(|context| answer.poll_informational(context));
        let interim = within(interim).await.unwrap().unwrap();
        assert_eq!(interim.status(), StatusCode::EARLY_HINTS);
        assert_eq!(interim.headers()["link"], link.replace(VALUE, PLACEHOLDER));
        assert_eq!(interim.headers().len(), 1);
    }
    // One of more fields than an answer may have.
    let mut crowded = Response::builder().status(103);
    for _ in 0..=100 {
        crowded = crowded.header("x", "y");
    }
    respond
        .send_informational(crowded.body(()).unwrap())
        .unwrap();
    // What concerns the proxy and the server only.
    let interim = Response::builder().status(100).body(()).unwrap();
    respond.send_informational(interim).unwrap();
    respond.send_response(Response::new(()), true).unwrap();
    let interim = std::future::poll_fn(|context| answer.poll_informational(context));
    assert!(within(interim).await.is_none());
    assert_eq!(within(answer).await.unwrap().status(), 200);
}
