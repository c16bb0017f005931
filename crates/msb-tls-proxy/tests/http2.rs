//! HTTP/2 on both sides: streams carried whole, each checked by itself, and what a hostile guest can do with frames.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::h2::Reason;
use bytes::Bytes;
use common::h2::raw::{self, CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM};
use common::h2::{Ends, ends, get, offer, origin, part, post, speaking, whole};
use common::{Bench, HOST, OTHER, PLACEHOLDER, VALUE, secrets_with, within};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use msb_testkit::{CertificateKind, Origin, RawOrigin};
use msb_tls_proxy::Event;

fn injecting() -> Bench {
    Bench::with(|config| {
        config.secrets = secrets_with(VALUE, |s| s.inject_query(true).inject_body(true));
    })
}

fn field<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    Some(headers.get(name)?.to_str().unwrap())
}

#[tokio::test]
async fn a_request_and_its_answer_are_rewritten() {
    let bench = injecting();
    let mut ends = ends(&bench, HOST).await;
    let body = format!("{{\"key\": \"{PLACEHOLDER}\"}}");
    let request = Request::post(format!("https://{HOST}/p?key={PLACEHOLDER}"))
        .header("authorization", format!("Bearer {PLACEHOLDER}"))
        .header("content-type", "application/json")
        .header("content-length", body.len())
        .header("te", "trailers")
        .header("expect", "100-continue")
        .body(());
    let (answer, mut sending) = ends.send(request.unwrap(), false).await;
    sending.send_data(body.into(), true).unwrap();

    let (mut request, mut respond) = ends.taken().await;
    assert_eq!(request.version(), Version::HTTP_2);
    assert_eq!(
        request.uri().to_string(),
        format!("https://{HOST}/p?key={VALUE}")
    );
    assert_eq!(
        field(request.headers(), "authorization"),
        Some(&*format!("Bearer {VALUE}"))
    );
    assert_eq!(field(request.headers(), "te"), Some("trailers"));
    assert_eq!(field(request.headers(), "host"), None);
    assert_eq!(field(request.headers(), "expect"), None);
    let written = format!("{{\"key\": \"{VALUE}\"}}");
    assert_eq!(
        field(request.headers(), "content-length"),
        Some(&*written.len().to_string())
    );
    assert_eq!(
        whole(request.body_mut()).await,
        (written.into_bytes(), None)
    );

    let response = Response::builder()
        .header("x-echo", VALUE)
        .header("content-type", "text/plain");
    let response = response
        .header("content-length", VALUE.len())
        .header("alt-svc", "h3=\":443\"");
    let mut sending = respond
        .send_response(response.body(()).unwrap(), false)
        .unwrap();
    sending.send_data(VALUE.into(), true).unwrap();
    let answer = within(answer).await.unwrap();
    assert_eq!(field(answer.headers(), "x-echo"), Some(PLACEHOLDER));
    assert_eq!(field(answer.headers(), "alt-svc"), None);
    assert_eq!(
        field(answer.headers(), "content-length"),
        Some(&*PLACEHOLDER.len().to_string())
    );
    assert_eq!(
        whole(&mut answer.into_body()).await.0,
        PLACEHOLDER.as_bytes()
    );
    let events = format!("{:?}", bench.events());
    assert!(
        events.contains("Substituted") && events.contains("Scrubbed") && !events.contains(VALUE)
    );
}

#[tokio::test]
async fn a_body_over_the_hold_limit_streams_without_its_length() {
    let bench = Bench::with(|config| {
        config.secrets = secrets_with(VALUE, |s| s.inject_body(true));
        config.limits.body_hold = 20;
    });
    let mut ends = ends(&bench, HOST).await;
    let body = format!("{} {PLACEHOLDER}.", "x".repeat(50));
    let mut request = post("/");
    request
        .headers_mut()
        .insert("content-length", body.len().into());
    let (_answer, mut sending) = ends.send(request, false).await;
    sending.send_data(body.clone().into(), true).unwrap();
    let (mut request, _respond) = ends.taken().await;
    assert_eq!(field(request.headers(), "content-length"), None);
    let (got, _) = whole(request.body_mut()).await;
    assert_eq!(got, body.replace(PLACEHOLDER, VALUE).into_bytes());
}

/// Attack 4.
#[tokio::test]
async fn each_stream_is_checked_for_its_authority() {
    let bench = Bench::new();
    let mut ends = ends(&bench, HOST).await;
    let to = |uri: &str| Request::get(uri.to_owned());
    let host = |request: http::request::Builder, host: &str| request.header("host", host);
    for (request, expected) in [
        (to(&format!("https://{OTHER}/")), 421),
        (to(&format!("https://www.{HOST}/")), 421),
        (to("https://127.0.0.1/"), 421),
        (host(to(&format!("https://{HOST}/")), OTHER), 400),
        (host(host(to(&format!("https://{HOST}/")), HOST), HOST), 400),
        (to(&format!("http://{HOST}/")), 400),
        (to(&format!("https://{}:443/", HOST.to_uppercase())), 200),
        (host(to(&format!("https://{HOST}/")), HOST), 200),
    ] {
        let (answer, _) = ends.send(request.body(()).unwrap(), true).await;
        if expected == 200 {
            let (_, mut respond) = ends.taken().await;
            respond.send_response(Response::new(()), true).unwrap();
        }
        assert_eq!(within(answer).await.unwrap().status(), expected);
    }
    assert!(ends.server.is_empty());
    let misdirected =
        |event: &Event| matches!(event, Event::RequestRefused { status: 421, .. }).then_some(());
    bench.event(misdirected).await;
}

#[tokio::test]
async fn a_placeholder_in_one_stream_resets_the_connection() {
    for (host, authority) in [(OTHER, OTHER), (HOST, OTHER)] {
        let bench = Bench::new();
        let mut ends = ends(&bench, host).await;
        let request = Request::get(format!("https://{authority}/")).header("x-key", PLACEHOLDER);
        let (answer, _) = ends.send(request.body(()).unwrap(), true).await;
        let error = within(answer).await.unwrap_err();
        assert_eq!(
            error.get_io().map(std::io::Error::kind),
            Some(ErrorKind::ConnectionReset)
        );
        assert!(within(ends.server.recv()).await.is_none());
        bench
            .event(|event| matches!(event, Event::Violation { .. }).then_some(()))
            .await;
    }
}

#[tokio::test]
async fn a_placeholder_in_a_streaming_body_resets_the_connection() {
    let bench = Bench::new();
    let mut ends = ends(&bench, OTHER).await;
    let request = Request::post(format!("https://{OTHER}/")).body(()).unwrap();
    let (answer, mut sending) = ends.send(request, false).await;
    sending.send_data("key=$MSB_".into(), false).unwrap();
    let (mut request, _respond) = ends.taken().await;
    assert_eq!(part(request.body_mut()).await.unwrap().unwrap(), "key=");
    sending.send_data("API_KEY".into(), true).unwrap();
    within(answer).await.unwrap_err();
    assert!(
        part(request.body_mut())
            .await
            .is_none_or(|part| part.is_err())
    );
}

/// Both ways at once, as gRPC does it: each part is sent only when the one before it has arrived.
#[tokio::test]
async fn streams_flow_both_ways_and_end_with_trailers() {
    let bench = Bench::new();
    let mut ends = ends(&bench, HOST).await;
    let mut request = post("/service/Method");
    request
        .headers_mut()
        .insert("content-type", "application/grpc".parse().unwrap());
    let (answer, mut sending) = ends.send(request, false).await;
    let (mut request, mut respond) = ends.taken().await;
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let mut responding = respond.send_response(response, false).unwrap();
    let mut answer = within(answer).await.unwrap().into_body();
    for index in 0..3_u8 {
        let message = Bytes::from(vec![0, 0, 0, 0, 1, index]);
        sending.send_data(message.clone(), false).unwrap();
        assert_eq!(part(request.body_mut()).await.unwrap().unwrap(), message);
        responding.send_data(message.clone(), false).unwrap();
        assert_eq!(part(&mut answer).await.unwrap().unwrap(), message);
    }
    let trailers =
        |value: &str| HeaderMap::from_iter([("x-key".parse().unwrap(), value.parse().unwrap())]);
    sending.send_trailers(trailers(PLACEHOLDER)).unwrap();
    assert_eq!(
        whole(request.body_mut()).await,
        (vec![], Some(trailers(VALUE)))
    );
    responding.send_trailers(trailers(VALUE)).unwrap();
    assert_eq!(
        whole(&mut answer).await,
        (vec![], Some(trailers(PLACEHOLDER)))
    );
}

#[tokio::test]
async fn an_error_in_trailers_alone_is_carried() {
    let bench = Bench::new();
    let mut ends = ends(&bench, HOST).await;
    let (answer, mut sending) = ends.send(post("/"), false).await;
    sending.send_data("x".into(), true).unwrap();
    let (_, mut respond) = ends.taken().await;
    let response = Response::builder()
        .header("grpc-status", "12")
        .header("content-type", "application/grpc");
    respond
        .send_response(response.body(()).unwrap(), true)
        .unwrap();
    let answer = within(answer).await.unwrap();
    assert_eq!(field(answer.headers(), "grpc-status"), Some("12"));
    assert!(answer.body().is_end_stream());
}

#[tokio::test]
async fn resets_are_passed_on_with_their_codes_and_end_one_stream_only() {
    let bench = Bench::new();
    let mut ends = ends(&bench, HOST).await;
    for reason in [
        Reason::CANCEL,
        Reason::INTERNAL_ERROR,
        Reason::ENHANCE_YOUR_CALM,
    ] {
        // Before an answer.
        let (answer, _) = ends.send(get("/"), true).await;
        let (_, mut respond) = ends.taken().await;
        respond.send_reset(reason);
        assert_eq!(within(answer).await.unwrap_err().reason(), Some(reason));
        // In the middle of one.
        let (answer, _) = ends.send(get("/"), true).await;
        let (_, mut respond) = ends.taken().await;
        let mut responding = respond.send_response(Response::new(()), false).unwrap();
        responding.send_data("part".into(), false).unwrap();
        let mut answer = within(answer).await.unwrap().into_body();
        assert_eq!(part(&mut answer).await.unwrap().unwrap(), "part");
        responding.send_reset(reason);
        assert_eq!(
            part(&mut answer).await.unwrap().unwrap_err().reason(),
            Some(reason)
        );
    }
    // By the guest: while it sends, and while it waits.
    let (_answer, mut sending) = ends.send(post("/"), false).await;
    let (mut request, _respond) = ends.taken().await;
    sending.send_reset(Reason::CANCEL);
    assert_eq!(
        part(request.body_mut())
            .await
            .unwrap()
            .unwrap_err()
            .reason(),
        Some(Reason::CANCEL)
    );
    let (answer, sending) = ends.send(get("/"), true).await;
    let (_, mut respond) = ends.taken().await;
    drop((answer, sending));
    let reset = within(std::future::poll_fn(|context| respond.poll_reset(context))).await;
    assert_eq!(reset.unwrap(), Reason::CANCEL);
    ends.round_trip().await;
}

#[tokio::test]
async fn a_server_that_does_not_read_holds_its_guest_back() {
    const ALL: usize = 64 << 20;
    let bench = Bench::new();
    let mut ends = ends(&bench, HOST).await;
    let (_answer, mut sending) = ends.send(post("/"), false).await;
    let (_unread, _respond) = ends.taken().await;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    tokio::spawn(async move {
        while count.load(Ordering::SeqCst) < ALL {
            sending.reserve_capacity(16 << 10);
            let Some(Ok(capacity)) =
                std::future::poll_fn(|context| sending.poll_capacity(context)).await
            else {
                return;
            };
            sending
                .send_data(vec![b'x'; capacity].into(), false)
                .unwrap();
            count.fetch_add(capacity, Ordering::SeqCst);
        }
    });
    // Until ten requests there and back have let no more of it through.
    let (mut before, mut still) = (0, 0);
    while still < 10 {
        ends.round_trip().await;
        let now = sent.load(Ordering::SeqCst);
        still = if now == before { still + 1 } else { 0 };
        before = now;
    }
    assert!(before < 8 << 20, "{before}");
}

#[tokio::test]
async fn a_guest_that_does_not_read_holds_its_server_back() {
    const ALL: usize = 64 << 20;
    let bench = Bench::new();
    let mut ends = ends(&bench, HOST).await;
    let (answer, _) = ends.send(get("/"), true).await;
    let (_, mut respond) = ends.taken().await;
    let mut responding = respond.send_response(Response::new(()), false).unwrap();
    let _unread = within(answer).await.unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    tokio::spawn(async move {
        while count.load(Ordering::SeqCst) < ALL {
            responding.reserve_capacity(16 << 10);
            let Some(Ok(capacity)) =
                std::future::poll_fn(|context| responding.poll_capacity(context)).await
            else {
                return;
            };
            responding
                .send_data(vec![b'x'; capacity].into(), false)
                .unwrap();
            count.fetch_add(capacity, Ordering::SeqCst);
        }
    });
    let (mut before, mut still) = (0, 0);
    while still < 10 {
        ends.round_trip().await;
        let now = sent.load(Ordering::SeqCst);
        still = if now == before { still + 1 } else { 0 };
        before = now;
    }
    assert!(before < 8 << 20, "{before}");
}

#[tokio::test]
async fn no_more_streams_than_the_limit_are_open_at_once() {
    let bench = Bench::with(|config| config.limits.streams = 3);
    let mut ends = ends(&bench, HOST).await;
    ends.round_trip().await;
    assert_eq!(ends.guest.current_max_send_streams(), 3);
    // Who does not keep to it is refused.
    let origin = origin(&bench).await;
    let guest = offer(&bench, origin.address(), HOST, &[b"h2"]);
    let (guest, _server) = tokio::join!(guest, origin.accept());
    let mut guest = guest.unwrap();
    raw::open(&mut guest).await;
    let fields = raw::fields(&[
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", HOST.as_bytes()),
        (b":path", b"/"),
    ]);
    use tokio::io::AsyncWriteExt as _;
    for stream in [1, 3, 5, 7] {
        guest
            .write_all(&raw::frame(HEADERS, END_HEADERS, stream, &fields))
            .await
            .unwrap();
    }
    let (_, stream, code) = raw::next(&mut guest, &[RST_STREAM]).await.unwrap();
    assert_eq!((stream, &code[..]), (7, &7_u32.to_be_bytes()[..]));
}

/// What a guest gets that sends `frames` by hand; the server must get no request.
async fn refused(bench: &Bench, frames: &[u8], kinds: &[u8]) -> Option<u8> {
    use tokio::io::AsyncWriteExt as _;
    let origin = origin(bench).await;
    let guest = offer(bench, origin.address(), HOST, &[b"h2"]);
    let (guest, server) = tokio::join!(guest, origin.accept());
    let mut guest = guest.unwrap();
    let (requests, taken) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut server = ::h2::server::handshake(server).await.unwrap();
        while let Some(Ok(request)) = server.accept().await {
            requests.send(request).unwrap();
        }
    });
    raw::open(&mut guest).await;
    // A connection that is ended in the middle of this is an answer as well.
    let _ = guest.write_all(frames).await;
    let _ = guest.flush().await;
    let answer = raw::next(&mut guest, kinds).await;
    assert!(taken.is_empty(), "the server got a request");
    answer.map(|(kind, ..)| kind)
}

/// Attack 13.
#[tokio::test]
async fn malformed_requests_are_refused_and_never_reach_the_server() {
    let bench = Bench::new();
    let good: [(&'static [u8], &'static [u8]); 4] = [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", HOST.as_bytes()),
        (b":path", b"/"),
    ];
    let with = |more: &[(&'static [u8], &'static [u8])]| [&good[..], more].concat();
    let cases = vec![
        ("connection", with(&[(b"connection", b"close")])),
        (
            "transfer-encoding",
            with(&[(b"transfer-encoding", b"chunked")]),
        ),
        ("upgrade", with(&[(b"upgrade", b"websocket")])),
        ("keep-alive", with(&[(b"keep-alive", b"1")])),
        ("proxy-connection", with(&[(b"proxy-connection", b"close")])),
        ("te", with(&[(b"te", b"gzip")])),
        ("upper case", with(&[(b"X-Name", b"a")])),
        ("line feed", with(&[(b"x-name", b"a\nb: c")])),
        ("carriage return", with(&[(b"x-name", b"a\rb")])),
        ("nul", with(&[(b"x-name", b"a\0b")])),
        ("line feed in a name", with(&[(b"x\nname", b"a")])),
        ("space in a name", with(&[(b"x name", b"a")])),
        (
            "line feed in the path",
            [&good[..3], &[(b":path", b"/ HTTP/1.1\r\nx: y")]].concat(),
        ),
        ("no path", good[..3].to_vec()),
        ("no method", good[1..].to_vec()),
        ("two paths", with(&[(b":path", b"/b")])),
        (
            "two authorities",
            with(&[(b":authority", OTHER.as_bytes())]),
        ),
        ("unknown pseudo-field", with(&[(b":protocol-x", b"a")])),
        (
            "pseudo-field last",
            [&[(&b"x"[..], &b"y"[..])], &good[..]].concat(),
        ),
        (
            "extended CONNECT that was not offered",
            [
                &[(&b":method"[..], &b"CONNECT"[..])],
                &good[1..],
                &[(&b":protocol"[..], &b"websocket"[..])],
            ]
            .concat(),
        ),
    ];
    for (what, fields) in cases {
        let frame = raw::frame(HEADERS, END_HEADERS | END_STREAM, 1, &raw::fields(&fields));
        let answer = refused(&bench, &frame, &[HEADERS, RST_STREAM, GOAWAY]).await;
        assert_ne!(answer, Some(HEADERS), "{what}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_declared_does_not_arrive_whole() {
    use tokio::io::AsyncWriteExt as _;
    for (declared, sent) in [("3", "abcd"), ("3", "ab")] {
        let bench = Bench::new();
        let origin = origin(&bench).await;
        let guest = offer(&bench, origin.address(), HOST, &[b"h2"]);
        let (guest, server) = tokio::join!(guest, origin.accept());
        let mut guest = guest.unwrap();
        raw::open(&mut guest).await;
        let fields = raw::fields(&[
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", HOST.as_bytes()),
            (b":path", b"/"),
            (b"content-length", declared.as_bytes()),
        ]);
        guest
            .write_all(&raw::frame(HEADERS, END_HEADERS, 1, &fields))
            .await
            .unwrap();
        guest
            .write_all(&raw::frame(0, END_STREAM, 1, sent.as_bytes()))
            .await
            .unwrap();
        let server = tokio::spawn(async move {
            let mut server = ::h2::server::handshake(server).await.unwrap();
            let mut ends = Vec::new();
            while let Some(Ok((mut request, _respond))) = server.accept().await {
                ends.push(tokio::spawn(async move {
                    let mut whole = Vec::new();
                    while let Some(part) = request.body_mut().data().await {
                        match part {
                            Ok(part) => whole.extend_from_slice(&part),
                            Err(_) => return None,
                        }
                    }
                    Some(whole)
                }));
            }
            ends
        });
        let (kind, _, _) = raw::next(&mut guest, &[RST_STREAM, GOAWAY]).await.unwrap();
        assert!([RST_STREAM, GOAWAY].contains(&kind));
        drop(guest);
        for body in within(server).await.unwrap() {
            assert_eq!(within(body).await.unwrap(), None, "{declared} {sent}");
        }
    }
}

#[tokio::test]
async fn heads_over_the_limits_are_refused() {
    let bench = Bench::with(|config| config.limits.header_list_len = 10_000);
    let mut ends = ends(&bench, HOST).await;
    let mut long = get("/");
    long.headers_mut()
        .insert("x", "a".repeat(11_000).parse().unwrap());
    let mut many = get("/");
    for index in 0..201 {
        many.headers_mut().insert(
            http::HeaderName::try_from(format!("x{index}")).unwrap(),
            "a".parse().unwrap(),
        );
    }
    for request in [long, many] {
        let (answer, _) = ends.send(request, true).await;
        assert_eq!(
            within(answer).await.unwrap().status(),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        );
    }
    assert!(ends.server.is_empty());
    ends.round_trip().await;
}

/// Attack 13: rapid reset, CONTINUATION without end, settings and pings without end.
#[tokio::test]
async fn floods_of_frames_end_the_connection() {
    let bench = Bench::with(|config| config.limits.pending_resets = 5);
    let good = raw::fields(&[
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", OTHER.as_bytes()),
        (b":path", b"/"),
    ]);
    let rapid: Vec<_> = (0..500)
        .flat_map(|index| {
            let stream = 2 * index + 1;
            [
                raw::frame(HEADERS, END_HEADERS | END_STREAM, stream, &good),
                raw::frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
            ]
        })
        .collect();
    let mut endless = vec![raw::frame(HEADERS, 0, 1, &good)];
    endless.extend(
        (0..2000).map(|_| raw::frame(CONTINUATION, 0, 1, &raw::fields(&[(b"x", &[b'a'; 100])]))),
    );
    let bomb = {
        // One entry of the table, then thousands of references to it (HPACK bomb).
        let mut block = good.clone();
        block.extend_from_slice(&[0x40, 1, b'x', 126]);
        block.extend_from_slice(&[b'a'; 126]);
        let mut frames = vec![raw::frame(HEADERS, 0, 1, &block)];
        frames.extend((0..40).map(|_| raw::frame(CONTINUATION, 0, 1, &[0xbe; 16_000])));
        frames
    };
    for frames in [rapid, endless, bomb] {
        // Not until it is ended is there an answer here.
        let _ = refused(&bench, &frames.concat(), &[GOAWAY]).await;
    }
}

#[tokio::test]
async fn the_guest_gets_the_protocol_that_the_server_chose() {
    let bench = Bench::new();
    let config = bench.root.server(&[HOST], CertificateKind::Good);
    let (h2, h1): (&[u8], &[u8]) = (b"h2", b"http/1.1");
    for (server, guest, expected) in [
        (&[h2, h1][..], &[h2, h1][..], Some(h2)),
        (&[h1], &[h2, h1], Some(h1)),
        (&[h2, h1], &[h1], Some(h1)),
        (&[h2], &[h1, h2], Some(h2)),
        (&[], &[h2, h1], None),
    ] {
        let origin = RawOrigin::start(speaking(&config, server)).await;
        let (guest, _server) = tokio::join!(
            offer(&bench, origin.address(), HOST, guest),
            origin.accept()
        );
        assert_eq!(guest.unwrap().get_ref().1.alpn_protocol(), expected);
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_verified_is_a_502_in_http2() {
    let bench = Bench::new();
    let config = bench.root.server(&[HOST], CertificateKind::Expired);
    let origin = Origin::start(speaking(&config, &[b"h2"])).await;
    let guest = offer(&bench, origin.address(), HOST, &[b"h2"]).await;
    let handshake = within(::h2::client::handshake(guest.unwrap())).await;
    let (mut guest, connection) = handshake.unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        within(std::future::poll_fn(|context| guest.poll_ready(context)))
            .await
            .unwrap();
        let (answer, _) = guest.send_request(get("/"), true).unwrap();
        let answer = within(answer).await.unwrap();
        assert_eq!(answer.status(), 502);
        let (reason, _) = whole(&mut answer.into_body()).await;
        assert!(String::from_utf8(reason).unwrap().contains("expired"));
    }
}

#[tokio::test]
async fn a_server_that_says_goodbye_lets_open_streams_end() {
    let bench = Bench::new();
    let mut ends = ends(&bench, HOST).await;
    let (answer, _) = ends.send(get("/"), true).await;
    let (_, mut respond) = ends.taken().await;
    let mut responding = respond.send_response(Response::new(()), false).unwrap();
    let mut answer = within(answer).await.unwrap().into_body();
    let Ends { ended, closing, .. } = ends;
    drop(closing);
    responding.send_data("the rest".into(), true).unwrap();
    assert_eq!(whole(&mut answer).await.0, b"the rest");
    drop(answer);
    within(ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_ended_and_one_with_an_open_stream_is_not() {
    let bench = Bench::with(|config| config.limits.idle_timeout = Duration::from_millis(50));
    let mut busy = ends(&bench, HOST).await;
    let (answer, _) = busy.send(get("/"), true).await;
    let (_, mut respond) = busy.taken().await;
    let idle = ends(&bench, HOST).await;
    within(idle.ended).await.unwrap().unwrap();
    // By now this one has been open for longer than that.
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(within(answer).await.unwrap().status(), 200);
    within(busy.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_guest_that_goes_away_takes_the_upstream_connection_with_it() {
    let bench = Bench::new();
    let mut ends = ends(&bench, HOST).await;
    let (_answer, _sending) = ends.send(post("/"), false).await;
    let (mut request, _respond) = ends.taken().await;
    ends.ended.abort();
    drop(ends.guest);
    while let Some(Ok(_)) = part(request.body_mut()).await {}
    assert!(within(ends.server.recv()).await.is_none());
}

#[tokio::test]
async fn connect_is_not_implemented() {
    let bench = Bench::new();
    let mut ends = ends(&bench, HOST).await;
    let request = Request::connect(format!("{HOST}:443")).body(()).unwrap();
    let (answer, _sending) = ends.send(request, false).await;
    assert_eq!(within(answer).await.unwrap().status(), 501);
    ends.round_trip().await;
}

#[tokio::test]
async fn what_is_not_http2_after_agreeing_on_it_ends_the_connection() {
    use tokio::io::AsyncWriteExt as _;
    let bench = Bench::new();
    let origin = origin(&bench).await;
    let guest = offer(&bench, origin.address(), HOST, &[b"h2"]);
    let (guest, _server) = tokio::join!(guest, origin.accept());
    let mut guest = guest.unwrap();
    guest
        .write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    assert_eq!(raw::next(&mut guest, &[HEADERS, 0]).await, None);
}
