//! WebSocket on streams of HTTP/2 (RFC 8441): offered as the server offers it, messages both ways, and what ends it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;

use ::h2::client::ResponseFuture;
use ::h2::ext::Protocol;
use ::h2::{Reason, RecvStream, SendStream};
use bytes::Bytes;
use common::frames::{masked, plain};
use common::h2::raw::{self, HEADERS, RST_STREAM};
use common::h2::{Ends, ends, get, offer, part, socket_ends, speaking, whole};
use common::{Bench, HOST, OTHER, PLACEHOLDER, VALUE, secrets_with, within};
use http::{Method, Request, Response};
use msb_secrets::SecretSet;
use msb_testkit::{CertificateKind, RawOrigin};
use msb_tls_proxy::Event;
use tokio::io::AsyncWriteExt as _;

fn asking(host: &str, protocol: &'static str) -> Request<()> {
    Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://{host}/socket?key={PLACEHOLDER}"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-extensions", "permessage-deflate")
        .extension(Protocol::from_static(protocol))
        .body(())
        .unwrap()
}

fn plainly(host: &str) -> Request<()> {
    let mut request = asking(host, "websocket");
    *request.uri_mut() = format!("https://{host}/socket").parse().unwrap();
    request
}

/// Both ends of an open WebSocket.
struct Socket {
    to_server: SendStream<Bytes>,
    at_server: RecvStream,
    to_guest: SendStream<Bytes>,
    at_guest: RecvStream,
}

async fn open(ends: &mut Ends, request: Request<()>) -> (Socket, Request<()>) {
    let (answer, to_server) = ends.send(request, false).await;
    let (request, mut respond) = ends.taken().await;
    let (head, at_server) = request.into_parts();
    let to_guest = respond.send_response(Response::new(()), false).unwrap();
    let answer = within(answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    let socket = Socket {
        to_server,
        at_server,
        to_guest,
        at_guest: answer.into_body(),
    };
    (socket, Request::from_parts(head, ()))
}

async fn exactly(body: &mut RecvStream, expected: &[u8]) {
    let mut got = Vec::new();
    while got.len() < expected.len() {
        got.extend_from_slice(&part(body).await.unwrap().unwrap());
    }
    assert_eq!(got, expected);
}

async fn status(answer: ResponseFuture) -> u16 {
    within(answer).await.unwrap().status().as_u16()
}

fn injecting() -> Bench {
    Bench::with(|config| {
        config.secrets = secrets_with(VALUE, |s| s.inject_query(true).inject_body(true));
    })
}

#[tokio::test]
async fn messages_on_a_stream_are_rewritten_both_ways_as_they_come() {
    let bench = injecting();
    let mut ends = socket_ends(&bench, HOST).await;
    let (mut socket, request) = open(&mut ends, asking(HOST, "websocket")).await;
    assert_eq!(request.method(), Method::CONNECT);
    assert_eq!(
        request.uri().to_string(),
        format!("https://{HOST}/socket?key={VALUE}")
    );
    let protocol = request.extensions().get::<Protocol>().unwrap();
    assert_eq!(protocol.as_str(), "websocket");
    assert_eq!(request.headers()["sec-websocket-version"], "13");
    assert!(!request.headers().contains_key("sec-websocket-extensions"));
    for kind in [0x81, 0x82] {
        // Each is sent only when the one before has arrived; each ends like the start of a placeholder.
        let text = format!("{PLACEHOLDER} $MSB_");
        let frame = masked(kind, &text);
        let expected = masked(kind, &text.replace(PLACEHOLDER, VALUE));
        for cut in [1, 2, 9, frame.len() - 1] {
            // Of two DATA frames.
            let (first, second) = frame.split_at(cut);
            let mut send = |bytes: &[u8]| {
                let bytes = Bytes::copy_from_slice(bytes);
                socket.to_server.send_data(bytes, false).unwrap();
            };
            send(first);
            ends.round_trip().await;
            send(second);
            exactly(&mut socket.at_server, &expected).await;
        }
        let text = format!("{VALUE}!");
        let frame = plain(kind, &text);
        socket.to_guest.send_data(frame.into(), false).unwrap();
        let expected = match kind {
            0x81 => text.replace(VALUE, PLACEHOLDER),
            _ => text.replace(VALUE, &"*".repeat(VALUE.len())),
        };
        exactly(&mut socket.at_guest, &plain(kind, &expected)).await;
    }
    let events = format!("{:?}", bench.events());
    assert!(
        events.contains("Substituted") && events.contains("Scrubbed") && !events.contains(VALUE)
    );
}

#[tokio::test]
async fn a_socket_on_a_stream_ends_one_side_after_the_other() {
    let bench = Bench::new();
    let mut ends = socket_ends(&bench, HOST).await;
    let (mut socket, _) = open(&mut ends, plainly(HOST)).await;
    let close = masked(0x88, "\u{3}bye");
    socket
        .to_server
        .send_data(close.clone().into(), true)
        .unwrap();
    exactly(&mut socket.at_server, &close).await;
    assert_eq!(whole(&mut socket.at_server).await, (vec![], None));
    let close = plain(0x88, "\u{3}bye");
    socket
        .to_guest
        .send_data(close.clone().into(), true)
        .unwrap();
    exactly(&mut socket.at_guest, &close).await;
    assert_eq!(whole(&mut socket.at_guest).await, (vec![], None));
    ends.round_trip().await;
}

#[tokio::test]
async fn a_reset_socket_is_reset_with_the_same_code_and_no_other_stream() {
    let bench = Bench::new();
    let mut ends = socket_ends(&bench, HOST).await;
    for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR] {
        let (mut by_guest, _) = open(&mut ends, plainly(HOST)).await;
        by_guest.to_server.send_reset(reason);
        let error = part(&mut by_guest.at_server).await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(reason));
        let (mut by_server, _) = open(&mut ends, plainly(HOST)).await;
        by_server.to_guest.send_reset(reason);
        let error = part(&mut by_server.at_guest).await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(reason));
    }
    ends.round_trip().await;
}

#[tokio::test]
async fn a_placeholder_in_a_message_on_a_stream_to_another_host_is_a_reset() {
    for frame in [
        masked(0x81, PLACEHOLDER),
        masked(0x82, PLACEHOLDER),
        masked(0x89, PLACEHOLDER),
    ] {
        let bench = Bench::new();
        let mut ends = ends_for_other(&bench).await;
        let (mut socket, _) = open(&mut ends, plainly(OTHER)).await;
        let fine = masked(0x81, "fine");
        socket
            .to_server
            .send_data(fine.clone().into(), false)
            .unwrap();
        exactly(&mut socket.at_server, &fine).await;
        let (first, second) = frame.split_at(9);
        socket
            .to_server
            .send_data(Bytes::copy_from_slice(first), false)
            .unwrap();
        socket
            .to_server
            .send_data(Bytes::copy_from_slice(second), false)
            .unwrap();
        let error = part(&mut socket.at_guest).await.unwrap().unwrap_err();
        assert_eq!(
            error.get_io().map(std::io::Error::kind),
            Some(ErrorKind::ConnectionReset)
        );
        assert!(
            part(&mut socket.at_server)
                .await
                .is_none_or(|part| part.is_err())
        );
        bench
            .event(|event| matches!(event, Event::Violation { .. }).then_some(()))
            .await;
    }
}

async fn ends_for_other(bench: &Bench) -> Ends {
    let config = bench.root.server(&[OTHER], CertificateKind::Good);
    let origin = RawOrigin::start(speaking(&config, &[b"h2"])).await;
    common::h2::socket_ends_at(bench, OTHER, origin).await
}

/// What cannot be read is not passed on, and ends its own stream only.
#[tokio::test]
async fn frames_on_a_stream_that_the_protocol_forbids_reset_it_and_are_told() {
    let bench = Bench::new();
    let mut ends = socket_ends(&bench, HOST).await;
    for frame in [masked(0xc1, "compressed"), plain(0x81, "unmasked")] {
        let (mut socket, _) = open(&mut ends, plainly(HOST)).await;
        socket.to_server.send_data(frame.into(), false).unwrap();
        part(&mut socket.at_server).await.unwrap().unwrap_err();
        part(&mut socket.at_guest).await.unwrap().unwrap_err();
    }
    let (mut socket, _) = open(&mut ends, plainly(HOST)).await;
    socket
        .to_server
        .send_data(masked(0x81, "cut short")[..9].to_vec().into(), true)
        .unwrap();
    part(&mut socket.at_server).await.unwrap().unwrap_err();
    bench
        .event(|event| matches!(event, Event::RequestRefused { status: 400, .. }).then_some(()))
        .await;
    for frame in [plain(0xc1, "compressed"), masked(0x81, "masked")] {
        let (mut socket, _) = open(&mut ends, plainly(HOST)).await;
        socket.to_guest.send_data(frame.into(), false).unwrap();
        part(&mut socket.at_guest).await.unwrap().unwrap_err();
        part(&mut socket.at_server).await.unwrap().unwrap_err();
    }
    bench
        .event(|event| matches!(event, Event::ResponseRefused { .. }).then_some(()))
        .await;
    ends.round_trip().await;
}

#[tokio::test]
async fn an_extension_that_was_not_offered_is_a_502_on_a_stream() {
    let bench = Bench::new();
    let mut ends = socket_ends(&bench, HOST).await;
    let (answer, _sending) = ends.send(plainly(HOST), false).await;
    let (_, mut respond) = ends.taken().await;
    let response = Response::builder().header("sec-websocket-extensions", "permessage-deflate");
    let _responding = respond
        .send_response(response.body(()).unwrap(), false)
        .unwrap();
    assert_eq!(status(answer).await, 502);
    ends.round_trip().await;
}

#[tokio::test]
async fn without_secrets_streams_are_not_read_and_extensions_are_negotiated() {
    let bench = Bench::with(|config| config.secrets = SecretSet::default());
    let mut ends = socket_ends(&bench, HOST).await;
    let (mut socket, request) = open(&mut ends, plainly(HOST)).await;
    assert_eq!(
        request.headers()["sec-websocket-extensions"],
        "permessage-deflate"
    );
    socket
        .to_server
        .send_data("\u{1}anything".into(), true)
        .unwrap();
    exactly(&mut socket.at_server, b"\x01anything").await;
    socket
        .to_guest
        .send_data("\u{1}at all".into(), true)
        .unwrap();
    exactly(&mut socket.at_guest, b"\x01at all").await;
}

#[tokio::test]
async fn an_answer_that_opens_no_socket_is_an_answer() {
    let bench = Bench::new();
    let mut ends = socket_ends(&bench, HOST).await;
    let (answer, _sending) = ends.send(plainly(HOST), false).await;
    let (_, mut respond) = ends.taken().await;
    let response = Response::builder().status(403).body(()).unwrap();
    let mut responding = respond.send_response(response, false).unwrap();
    responding.send_data(VALUE.into(), true).unwrap();
    let answer = within(answer).await.unwrap();
    assert_eq!(answer.status(), 403);
    exactly(&mut answer.into_body(), "*".repeat(VALUE.len()).as_bytes()).await;
}

/// SPEC S6: the identity of each stream.
#[tokio::test]
async fn each_socket_is_checked_for_its_authority_and_protocol() {
    let bench = Bench::new();
    let mut ends = socket_ends(&bench, HOST).await;
    let length = |value: &str| {
        let mut request = plainly(HOST);
        let value = value.parse().unwrap();
        request.headers_mut().insert("content-length", value);
        request
    };
    let host = |value: &str| {
        let mut request = plainly(HOST);
        request.headers_mut().insert("host", value.parse().unwrap());
        request
    };
    for (request, expected) in [
        (plainly(OTHER), 421),
        (host(OTHER), 400),
        (host(&format!("{HOST}:444")), 400),
        (length("3"), 501),
        (asking(HOST, "connect-udp"), 501),
        (asking(HOST, "WebSocket"), 501),
    ] {
        let request = {
            let (mut head, ()) = request.into_parts();
            let path = format!("https://{}/socket", head.uri.authority().unwrap());
            head.uri = path.parse().unwrap();
            Request::from_parts(head, ())
        };
        let what = format!("{request:?}");
        let (answer, _sending) = ends.send(request, false).await;
        assert_eq!(status(answer).await, expected, "{what}");
    }
    assert!(ends.server.is_empty());
    let (answer, _sending) = ends.send(asking(OTHER, "websocket"), false).await;
    let error = within(answer).await.unwrap_err();
    assert_eq!(
        error.get_io().map(std::io::Error::kind),
        Some(ErrorKind::ConnectionReset)
    );
}

#[tokio::test]
async fn a_server_that_takes_no_sockets_on_streams_is_not_asked() {
    let bench = Bench::new();
    let mut ends = ends(&bench, HOST).await;
    ends.round_trip().await;
    assert!(!ends.guest.is_extended_connect_protocol_enabled());
    // Who asks all the same gets an answer of the protocol's own (RFC 8441 section 4).
    let config = bench.root.server(&[HOST], CertificateKind::Good);
    let origin = RawOrigin::start(speaking(&config, &[b"h2"])).await;
    let guest = offer(&bench, origin.address(), HOST, &[b"h2"]);
    let (guest, _server) = tokio::join!(guest, origin.accept());
    let mut guest = guest.unwrap();
    raw::open(&mut guest).await;
    let fields = raw::fields(&[
        (b":method", b"CONNECT"),
        (b":scheme", b"https"),
        (b":authority", HOST.as_bytes()),
        (b":path", b"/"),
        (b":protocol", b"websocket"),
    ]);
    let frame = raw::frame(HEADERS, raw::END_HEADERS, 1, &fields);
    guest.write_all(&frame).await.unwrap();
    let (kind, stream, _) = raw::next(&mut guest, &[HEADERS, RST_STREAM]).await.unwrap();
    assert_eq!((kind, stream), (RST_STREAM, 1));
}

/// A guest that waits for the first settings finds the offer in them; one that asks at once is not made to wait, and
/// finds it in the next.
#[tokio::test]
async fn the_offer_comes_when_the_servers_has_come() {
    for waits in [true, false] {
        let bench = Bench::new();
        let config = bench.root.server(&[HOST], CertificateKind::Good);
        let origin = RawOrigin::start(speaking(&config, &[b"h2"])).await;
        let guest = offer(&bench, origin.address(), HOST, &[b"h2"]);
        let (guest, server) = tokio::join!(guest, origin.accept());
        let mut guest = guest.unwrap();
        raw::open(&mut guest).await;
        if !waits {
            let fields = raw::fields(&[
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", OTHER.as_bytes()),
                (b":path", b"/"),
            ]);
            let flags = raw::END_HEADERS | raw::END_STREAM;
            let frame = raw::frame(HEADERS, flags, 1, &fields);
            guest.write_all(&frame).await.unwrap();
            // The answer is the proxy's own, so that it has spoken before the server does.
            raw::next(&mut guest, &[HEADERS]).await.unwrap();
            // The acknowledgement of the first settings.
            guest.write_all(&raw::frame(4, 1, 0, &[])).await.unwrap();
        }
        let server = tokio::spawn(async move {
            let mut builder = ::h2::server::Builder::new();
            builder.enable_connect_protocol();
            let mut server = builder.handshake::<_, Bytes>(server).await.unwrap();
            server.accept().await.map(drop)
        });
        let offered = |payload: &[u8]| payload.chunks(6).any(|one| one == [0, 8, 0, 0, 0, 1]);
        let (.., mut settings) = raw::next(&mut guest, &[4]).await.unwrap();
        while settings.is_empty() {
            // Acknowledgements.
            settings = raw::next(&mut guest, &[4]).await.unwrap().2;
        }
        assert!(offered(&settings), "{waits} {settings:?}");
        drop(guest);
        within(server).await.unwrap();
    }
}

#[tokio::test]
async fn other_streams_go_on_beside_a_socket() {
    let bench = Bench::new();
    let mut ends = socket_ends(&bench, HOST).await;
    let (mut socket, _) = open(&mut ends, plainly(HOST)).await;
    for index in 0..3 {
        let (answer, _) = ends.send(get("/"), true).await;
        let (_, mut respond) = ends.taken().await;
        let frame = masked(0x81, &format!("{index}"));
        socket
            .to_server
            .send_data(frame.clone().into(), false)
            .unwrap();
        exactly(&mut socket.at_server, &frame).await;
        respond.send_response(Response::new(()), true).unwrap();
        assert_eq!(status(answer).await, 200);
    }
}
