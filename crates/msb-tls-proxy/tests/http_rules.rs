//! Rules about requests (SPEC P5, P6): what they deny never leaves, however it is carried.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use ::h2::Reason;
use common::h2::{ends, get, offer, socket_ends, speaking};
use common::{
    Bench, HOST, OTHER, PINNED, PLACEHOLDER, Resettable, broken, config, handshake, read_until,
    within,
};
use http::{Method, Request, Response};
use msb_policy::{BypassList, HttpPolicy};
use msb_secrets::SecretSet;
use msb_testkit::{CertificateKind, Origin, RawOrigin, TestRoot, tcp_pair};
use msb_tls_proxy::{
    Client, Config, DeniedRequests, Dialled, Error, Event, InterceptScope, PlainConfig, TlsProxy,
    relay_plain,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

fn policy(rules: &[&str]) -> HttpPolicy {
    let rules = rules.iter().map(|rule| rule.parse());
    rules.collect::<Result<_, _>>().unwrap()
}

/// Rules for [`HOST`].
fn rules() -> HttpPolicy {
    policy(&[
        "deny * api.example.test/v1/admin/**",
        "allow GET,HEAD api.example.test/v1/**",
        "allow POST api.example.test/v1/items",
    ])
}

fn ruled(change: impl FnOnce(&mut Config)) -> Bench {
    Bench::with(|config| {
        config.http_policy = rules();
        config.bypass = BypassList::default();
        change(config);
    })
}

/// Method, target, and what denies it.
const REQUESTS: [(&str, &str, Option<&str>); 14] = [
    ("GET", "/v1/items?page=2", None),
    ("HEAD", "/v1/items", None),
    ("POST", "/v1/items", None),
    ("POST", "/v1/other", Some("default")),
    ("DELETE", "/v1/items", Some("default")),
    ("GET", "/v2", Some("default")),
    ("GET", "/", Some("default")),
    (
        "GET",
        "/v1/admin/users",
        Some("HTTP rule 1 (deny * api.example.test/v1/admin/**)"),
    ),
    ("GET", "/v1/x/%2e%2e/admin/users", Some("ambiguous path")),
    ("GET", "/v1/x/..%2fadmin/users", Some("ambiguous path")),
    ("GET", "//v1/items", Some("ambiguous path")),
    ("GET", "/v1/items;x=/../admin", Some("ambiguous path")),
    ("OPTIONS", "*", Some("ambiguous path")),
    ("get", "/v1/items", Some("ambiguous method")),
];

/// How requests get to the proxy.
#[derive(Clone, Copy, Debug)]
enum Way {
    Tls,
    Plaintext,
    Forward,
}

/// The guest's end of a connection for [`HOST`], and the server's.
async fn connect(bench: &Bench, way: Way) -> (Box<dyn Stream>, Box<dyn Stream>) {
    if let Way::Tls = way {
        let config = bench.root.server(&[HOST], CertificateKind::Good);
        let origin = RawOrigin::start(config).await;
        let (guest, server) = tokio::join!(bench.tls(origin.address(), HOST), origin.accept());
        return (Box::new(guest), Box::new(server));
    }
    let (near, far) = tcp_pair().await;
    let (upstream, server) = tcp_pair().await;
    let address = server.local_addr().unwrap();
    let (guest, reset) = Resettable::new(far);
    if let Way::Plaintext = way {
        bench.pin(HOST, address);
        let connection = msb_tls_proxy::Connection {
            guest,
            reset,
            upstream,
            destination: address,
            pins: Arc::clone(&bench.pins),
        };
        tokio::spawn(relay_plain(connection, plain(bench)));
    } else {
        let (proxy, upstream) = (bench.proxy.clone(), Mutex::new(Some(upstream)));
        tokio::spawn(async move {
            let client = Client {
                guest,
                reset,
                destination: address,
            };
            let dial = |host, _| {
                let upstream = upstream.lock().unwrap().take().unwrap();
                std::future::ready(Ok(Dialled {
                    upstream,
                    address,
                    host,
                }))
            };
            proxy.serve_forward(client, dial).await;
        });
    }
    (Box::new(near), Box::new(server))
}

fn plain(bench: &Bench) -> PlainConfig {
    let (secrets, events) = (bench.proxy.secrets(), bench.sink());
    PlainConfig {
        secrets: Arc::new(move || secrets.load()),
        on_violation: Default::default(),
        events,
        limits: Default::default(),
        drain: Default::default(),
        http_rules: bench.proxy.http_rules(),
    }
}

/// Answers whatever comes with `200`; everything that came, once the connection has ended.
async fn answer_all(mut server: Box<dyn Stream>) -> String {
    let mut received = Vec::new();
    loop {
        match server.read_buf(&mut received).await {
            Ok(0) | Err(_) => return String::from_utf8(received).unwrap(),
            Ok(_) if received.ends_with(b"\r\n\r\n") => {
                let _ = server
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    .await;
            }
            Ok(_) => {}
        }
    }
}

/// The denied requests that were told: method, path, cause.
fn denied(bench: &Bench) -> Vec<(String, String, String)> {
    let told = bench.events().into_iter().filter_map(|event| match event {
        Event::RequestDenied {
            method,
            path,
            decision,
            ..
        } => Some((method, path, decision.cause().to_string())),
        _ => None,
    });
    told.collect()
}

#[tokio::test]
async fn what_a_rule_denies_is_answered_403_and_never_sent() {
    for way in [Way::Tls, Way::Plaintext, Way::Forward] {
        for (method, target, cause) in REQUESTS {
            match (way, method, target) {
                // The library that reads the target would make a path of it.
                (Way::Forward, _, "*") => continue,
                // Not taken for HTTP, and reset as such.
                (Way::Plaintext, "get", _) => continue,
                _ => {}
            }
            let bench = ruled(|config| config.secrets = SecretSet::default());
            let (mut guest, server) = connect(&bench, way).await;
            let server = tokio::spawn(answer_all(server));
            let written = match (way, target) {
                (Way::Forward, target) => format!("http://{HOST}{target}"),
                (_, target) => target.to_owned(),
            };
            let head =
                format!("{method} {written} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
            let answer = within(msb_testkit::exchange(&mut guest, head.as_bytes())).await;
            drop(guest);
            let answer = String::from_utf8(answer).unwrap();
            let received = within(server).await.unwrap();
            let row = format!("{way:?} {method} {target}: {answer:?} {received:?}");
            let Some(cause) = cause else {
                assert!(answer.starts_with("HTTP/1.1 200 "), "{row}");
                let line = format!("{method} {target} HTTP/1.1\r\n");
                assert!(received.starts_with(&line), "{row}");
                assert_eq!(denied(&bench), [], "{row}");
                continue;
            };
            assert!(answer.starts_with("HTTP/1.1 403 "), "{row}");
            assert!(answer.contains("msb: the request is denied"), "{row}");
            assert_eq!(received, "", "{row}");
            let [(told, path, by)] = &denied(&bench)[..] else {
                panic!("{row}");
            };
            assert_eq!(told, method, "{row}");
            let path_told = target.split('?').next().unwrap();
            assert_eq!((path.as_str(), by.as_str()), (path_told, cause), "{row}");
        }
    }
}

#[tokio::test]
async fn what_a_rule_denies_is_answered_403_on_its_stream_of_http2() {
    let bench = ruled(|_| {});
    let config = bench.root.server(&[HOST], CertificateKind::Good);
    let origin = Origin::start(speaking(&config, &[b"h2"])).await;
    let guest = offer(&bench, origin.address(), HOST, &[b"h2"]).await;
    let (guest, connection) = within(::h2::client::handshake(guest.unwrap()))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut expected = Vec::new();
    for (method, target, cause) in REQUESTS {
        if target == "*" {
            continue;
        }
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{HOST}{target}"));
        let mut guest = within(guest.clone().ready()).await.unwrap();
        let (answer, _) = guest.send_request(request.body(()).unwrap(), true).unwrap();
        let answer = within(answer).await.unwrap();
        let path = target.split('?').next().unwrap();
        match cause {
            None => assert_eq!(answer.status(), 200, "{method} {target}"),
            Some(cause) => {
                assert_eq!(answer.status(), 403, "{method} {target}");
                expected.push((method.to_owned(), path.to_owned(), cause.to_owned()));
            }
        }
    }
    assert_eq!(denied(&bench), expected);
    let arrived = origin.requests();
    let arrived = arrived.iter().map(|request| {
        let target = request.target.strip_prefix(&format!("https://{HOST}"));
        (request.method.as_str(), target.unwrap_or(&request.target))
    });
    let allowed = REQUESTS.iter().filter(|(.., cause)| cause.is_none());
    assert!(arrived.eq(allowed.map(|(method, target, _)| (*method, *target))));
}

/// The guest does not learn from a denial that anything was replaced, for nothing was.
#[tokio::test]
async fn no_value_is_put_into_a_denied_request_and_a_violation_comes_first() {
    let bench = ruled(|_| {});
    let (mut guest, server) = connect(&bench, Way::Tls).await;
    let server = tokio::spawn(answer_all(server));
    let head = format!(
        "POST /v2 HTTP/1.1\r\nHost: {HOST}\r\nX-Key: {PLACEHOLDER}\r\nContent-Length: 3\r\n\r\nabc"
    );
    let answer = within(msb_testkit::exchange(&mut guest, head.as_bytes())).await;
    assert!(answer.starts_with(b"HTTP/1.1 403 "));
    drop(guest);
    assert_eq!(within(server).await.unwrap(), "");
    let substituted = |event: &Event| matches!(event, Event::Substituted { .. });
    assert!(!bench.events().iter().any(substituted));

    let bench = ruled(|config| config.http_policy = policy(&["deny * *"]));
    let config = bench.root.server(&[OTHER], CertificateKind::Good);
    let origin = Origin::start(config).await;
    let mut guest = bench.tls(origin.address(), OTHER).await;
    let head = format!("GET / HTTP/1.1\r\nHost: {OTHER}\r\nX-Key: {PLACEHOLDER}\r\n\r\n");
    guest.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
    let violation = |event: &Event| matches!(event, Event::Violation { .. });
    assert!(bench.events().iter().any(violation));
    assert_eq!(denied(&bench), []);
}

#[tokio::test]
async fn a_denied_request_is_reset_where_that_is_asked_for() {
    let reset = |config: &mut Config| config.denied_requests = DeniedRequests::Reset;
    for way in [Way::Tls, Way::Plaintext, Way::Forward] {
        let bench = ruled(reset);
        let (mut guest, server) = connect(&bench, way).await;
        let server = tokio::spawn(answer_all(server));
        let target = match way {
            Way::Forward => format!("http://{HOST}/v2"),
            _ => "/v2".to_owned(),
        };
        let head = format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        guest.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
        assert_eq!(within(server).await.unwrap(), "", "{way:?}");
        assert_eq!(denied(&bench).len(), 1);
    }
    let bench = ruled(reset);
    let mut ends = ends(&bench, HOST).await;
    let (before, _) = ends.send(get("/v1/a"), true).await;
    let (_, mut respond) = ends.taken().await;
    let (answer, _) = ends.send(get("/v2"), true).await;
    let error = within(answer).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    // The stream that was open goes on.
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(within(before).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_websocket_is_asked_for_by_get_whatever_carries_it() {
    let asking = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    for (path, allowed) in [("/v1/socket", true), ("/v2/socket", false)] {
        let bench = ruled(|_| {});
        let (mut guest, mut server) = connect(&bench, Way::Tls).await;
        guest.write_all(asking(path).as_bytes()).await.unwrap();
        if allowed {
            let asked = read_until(&mut server, "\r\n\r\n").await;
            assert!(asked.starts_with("GET /v1/socket "), "{asked}");
        } else {
            let answer = read_until(&mut guest, "\r\n").await;
            assert_eq!(answer, "HTTP/1.1 403 Forbidden\r\n");
        }
    }
    let bench = ruled(|config| {
        config.http_policy = policy(&[
            "allow GET api.example.test",
            "allow GET api.example.test/v1/**",
        ]);
    });
    let mut ends = socket_ends(&bench, HOST).await;
    for (path, allowed) in [("/v1/socket", true), ("/v2//socket", false)] {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(format!("https://{HOST}{path}"))
            .header("sec-websocket-version", "13")
            .extension(::h2::ext::Protocol::from_static("websocket"));
        let (answer, _stream) = ends.send(request.body(()).unwrap(), false).await;
        if allowed {
            let (_, mut respond) = ends.taken().await;
            let _open = respond.send_response(Response::new(()), false).unwrap();
            assert_eq!(within(answer).await.unwrap().status(), 200);
        } else {
            assert_eq!(within(answer).await.unwrap().status(), 403);
        }
    }
}

/// What it holds could not be read.
#[tokio::test]
async fn no_tunnel_leads_to_or_through_a_governed_host() {
    for (sni, target, status) in [
        (HOST, "inner.example.test", "501"),
        (HOST, HOST, "501"),
        (OTHER, HOST, "403"),
    ] {
        let bench = ruled(|_| {});
        let config = bench.root.server(&[HOST, OTHER], CertificateKind::Good);
        let origin = Origin::start(config).await;
        let head = format!("CONNECT {target}:443 HTTP/1.1\r\nHost: {target}:443\r\n\r\n");
        let answer = bench.exchange(origin.address(), sni, &head).await;
        let expected = match status {
            // Judged as any request for the host of the connection.
            "501" if target != sni => "HTTP/1.1 421 ".to_owned(),
            status => format!("HTTP/1.1 {status} "),
        };
        assert!(answer.starts_with(&expected), "{sni} {target}: {answer}");
        assert_eq!(origin.received(), b"", "{sni} {target}");
    }
}

#[tokio::test]
async fn only_http_goes_to_a_governed_host_inside_tls() {
    let bench = ruled(|_| {});
    let config = bench.root.server(&[HOST, OTHER], CertificateKind::Good);
    let origin = RawOrigin::start(speaking(&config, &[])).await;
    for (name, governed) in [(HOST, true), (OTHER, false)] {
        let guest = offer(&bench, origin.address(), name, &[]);
        let (guest, server) = tokio::join!(guest, origin.accept());
        let (mut guest, mut server) = (guest.unwrap(), server);
        guest.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
        if governed {
            let answer = read_until(&mut guest, "\r\n").await;
            assert_eq!(answer, "HTTP/1.1 400 Bad Request\r\n");
            drop(guest);
            let mut rest = Vec::new();
            let _ = within(server.read_to_end(&mut rest)).await;
            assert_eq!(rest, b"");
        } else {
            assert_eq!(read_until(&mut server, "PING\r\n").await.len(), 14);
        }
    }
}

fn refusals(bench: &Bench) -> Vec<(String, String)> {
    let told = bench.events().into_iter().filter_map(|event| match event {
        Event::RelayRefused { host, reason, .. } => Some((host.to_string(), reason)),
        _ => None,
    });
    told.collect()
}

/// The ClientHello of a client that wants `name`.
fn hello(name: &str, bench: &Bench) -> Vec<u8> {
    let config = msb_testkit::client_config(&bench.root.der(), &[]);
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Without interception: what may be relayed, by what the address was resolved for and what is said first.
#[tokio::test]
async fn what_cannot_be_read_is_not_relayed_to_a_host_that_rules_name() {
    let (first, both, other): (&[&str], &[&str], &[&str]) = (&[HOST], &[HOST, OTHER], &[OTHER]);
    let ssh = || b"SSH-2.0-test\r\n".to_vec();
    let odd = || b"get /v1/items HTTP/1.1\r\n".to_vec();
    let bench = ruled(|_| {});
    let to = |name| hello(name, &bench);
    let table: Vec<(&[&str], Vec<u8>, Option<&str>)> = vec![
        (first, ssh(), Some(HOST)),
        (both, ssh(), Some(HOST)),
        (first, odd(), Some(HOST)),
        (other, ssh(), None),
        (&[], ssh(), None),
        (first, to(HOST), Some(HOST)),
        (&[], to(HOST), Some(HOST)),
        (other, to(HOST), Some(HOST)),
        // Resolved for both, and the claim is for the other.
        (both, to(OTHER), None),
        // A claim that nothing supports.
        (first, to(OTHER), Some(HOST)),
        (&[], to(OTHER), None),
        // No name in it.
        (first, to("192.0.2.1"), Some(HOST)),
        (other, to("192.0.2.1"), None),
    ];
    for (at, (names, bytes, refused)) in table.into_iter().enumerate() {
        let bench = ruled(|_| {});
        let (mut guest, mut server, address) = relayed(&bench, names).await;
        guest.write_all(&bytes).await.unwrap();
        let Some(host) = refused else {
            let mut got = vec![0; bytes.len()];
            within(server.read_exact(&mut got)).await.unwrap();
            assert_eq!(got, bytes, "row {at}");
            continue;
        };
        assert_eq!(
            broken(&mut guest).await,
            ErrorKind::ConnectionReset,
            "row {at}"
        );
        let mut got = Vec::new();
        let _ = within(server.read_to_end(&mut got)).await;
        assert_eq!(got, b"", "row {at}");
        let told = refusals(&bench);
        assert_eq!(told.len(), 1, "row {at}");
        assert_eq!(told[0].0, host, "row {at}");
        let hint = match bytes[0] {
            22 => format!("--tls-intercept-port {}", address.port()),
            _ => "by HTTP only".to_owned(),
        };
        assert!(told[0].1.contains(&hint), "row {at}: {told:?}");
    }
}

/// Both ends of a connection that is not intercepted, to an address that was resolved for `names`.
async fn relayed(bench: &Bench, names: &[&str]) -> (TcpStream, TcpStream, SocketAddr) {
    let (near, far) = tcp_pair().await;
    let (upstream, server) = tcp_pair().await;
    let destination = server.local_addr().unwrap();
    for name in names {
        bench.pin(name, destination);
    }
    let (guest, reset) = Resettable::new(far);
    let connection = msb_tls_proxy::Connection {
        guest,
        reset,
        upstream,
        destination,
        pins: Arc::clone(&bench.pins),
    };
    tokio::spawn(relay_plain(connection, plain(bench)));
    (near, server, destination)
}

/// Without TLS a request may name any host, whoever is at the other end.
#[tokio::test]
async fn a_host_that_the_address_is_not_of_does_not_get_around_the_rules_of_the_one_it_is_of() {
    let (first, both, other): (&[&str], &[&str], &[&str]) = (&[HOST], &[HOST, OTHER], &[OTHER]);
    for (names, host, line, denied_for) in [
        (first, OTHER, "DELETE /v1/items", Some(HOST)),
        (first, "192.0.2.1", "GET /v1/admin/x", Some(HOST)),
        (first, OTHER, "GET /v1/items", None),
        (both, OTHER, "DELETE /v1/items", None),
        (other, OTHER, "DELETE /v1/items", None),
        (other, HOST, "DELETE /v1/items", Some(HOST)),
        (&[], OTHER, "DELETE /v1/items", None),
        (&[], HOST, "DELETE /v1/items", Some(HOST)),
    ] {
        let bench = ruled(|_| {});
        let (mut guest, server, _) = relayed(&bench, names).await;
        let server = tokio::spawn(answer_all(Box::new(server)));
        let head = format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        guest.write_all(head.as_bytes()).await.unwrap();
        let answer = read_until(&mut guest, "\r\n").await;
        drop(guest);
        let received = within(server).await.unwrap();
        let row = format!("{names:?} {host} {line}: {answer}");
        let told = bench.events().into_iter().find_map(|event| match event {
            Event::RequestDenied { host, .. } => Some(host.to_string()),
            _ => None,
        });
        assert_eq!(told.as_deref(), denied_for, "{row}");
        let status = if denied_for.is_some() { "403" } else { "200" };
        assert!(answer.contains(status), "{row}");
        assert_eq!(received.is_empty(), denied_for.is_some(), "{row}");
    }
}

/// A lenient server may read them, whatever address it has.
#[tokio::test]
async fn odd_requests_do_not_get_around_the_rules_of_the_host_that_they_name() {
    for (first, line, host, arrives) in [
        (None, "PURGE /v1/items", HOST, false),
        (None, "\r\nDELETE /v1/items", HOST, false),
        (Some("\r\n"), "DELETE /v1/items", HOST, false),
        (None, "purge\t/v1/items", HOST, false),
        (None, "PURGE /v1/items", OTHER, true),
        (None, "CONNECT other.example.test:443", OTHER, true),
    ] {
        let bench = ruled(|_| {});
        let (mut guest, mut server, _) = relayed(&bench, &[OTHER]).await;
        if let Some(piece) = first {
            guest.write_all(piece.as_bytes()).await.unwrap();
            read_until(&mut server, piece).await;
        }
        let server = tokio::spawn(answer_all(Box::new(server)));
        let head = format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        guest.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        let answered = within(guest.read_exact(&mut answer)).await.is_ok();
        drop(guest);
        let received = within(server).await.unwrap();
        let row = format!("{line:?} {host}: {received:?}");
        assert_eq!(received.ends_with("\r\n\r\n"), arrives, "{row}");
        assert_eq!(answered && answer.ends_with(b"200"), arrives, "{row}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_first_does_not_make_a_governed_connection_unread() {
    for (names, refused) in [(&[HOST][..], true), (&[OTHER], false)] {
        let bench = ruled(|_| {});
        let (mut guest, mut server, _) = relayed(&bench, names).await;
        server.write_all(b"220 ready\r\n").await.unwrap();
        if refused {
            assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
        } else {
            assert_eq!(read_until(&mut guest, "\r\n").await, "220 ready\r\n");
        }
    }
}

/// Half a method is no other protocol, however long the rest takes.
#[tokio::test(start_paused = true)]
async fn a_request_that_comes_slowly_is_still_a_request() {
    let bench = ruled(|_| {});
    let (mut guest, server, _) = relayed(&bench, &[OTHER]).await;
    let server = tokio::spawn(answer_all(Box::new(server)));
    guest.write_all(b"POS").await.unwrap();
    // Longer than a guest is waited for that may speak something else.
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    let rest = format!("T /v2 HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    guest.write_all(rest.as_bytes()).await.unwrap();
    let answer = read_until(&mut guest, "\r\n").await;
    assert_eq!(answer, "HTTP/1.1 403 Forbidden\r\n");
    drop(guest);
    assert_eq!(within(server).await.unwrap(), "");
}

#[test]
fn a_bypass_of_a_governed_host_is_refused() {
    for (bypass, rule, refused) in [
        (HOST, "allow GET api.example.test", true),
        ("*.example.test", "allow GET api.example.test", true),
        (HOST, "allow GET *.example.test", true),
        (PINNED, "deny * *", true),
        (PINNED, "allow GET api.example.test", false),
        ("example.test", "allow GET *.example.test", false),
    ] {
        let mut config = config(&TestRoot::new(), Arc::new(|_| {}));
        config.bypass = BypassList::parse([bypass]).unwrap();
        config.http_policy = policy(&[rule]);
        match TlsProxy::new(config) {
            Err(Error::GovernedBypass { .. }) => assert!(refused, "{bypass} {rule}"),
            Err(other) => panic!("{other}"),
            Ok(_) => assert!(!refused, "{bypass} {rule}"),
        }
    }
}

/// A name in a ClientHello is a claim: behind the address may be a host that the rules are about.
#[tokio::test]
async fn where_there_are_rules_an_unread_connection_needs_an_address_of_its_name() {
    for (scope, name) in [
        (InterceptScope::All, PINNED),
        (InterceptScope::NamedHosts, OTHER),
    ] {
        for (pinned, has_rules) in [(true, true), (false, true), (false, false)] {
            let bench = Bench::with(|config| {
                config.scope = scope;
                if has_rules {
                    config.http_policy = rules();
                }
            });
            let config = bench
                .root
                .server(&[HOST, OTHER, PINNED], CertificateKind::Good);
            let origin = Origin::start(config).await;
            bench.pin(HOST, origin.address());
            if pinned {
                bench.pin(name, origin.address());
            }
            let stream = bench.connect(origin.address()).await;
            let spliced = handshake(stream, name, &bench.root.der()).await.is_ok();
            assert_eq!(spliced, pinned || !has_rules, "{name} {pinned} {has_rules}");
            assert_eq!(refusals(&bench).len(), usize::from(!spliced));
            // Governed, so it is read, whatever the scope.
            let answer = bench
                .exchange(
                    origin.address(),
                    HOST,
                    &format!("GET /v2 HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nX: {PLACEHOLDER}\r\n\r\n"),
                )
                .await;
            let status = if has_rules { "403" } else { "200" };
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
        }
    }
}

/// What servers make of a path: decoded up to twice, with and without each other liberty that some of them take.
fn readings(path: &str) -> Vec<String> {
    let decode = |text: &str| {
        let mut pieces = text.split('%');
        let mut out = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            match piece.get(..2).map(|digits| u8::from_str_radix(digits, 16)) {
                Some(Ok(byte)) => out = out + &char::from(byte).to_string() + &piece[2..],
                _ => out = out + "%" + piece,
            }
        }
        out
    };
    let mut all = Vec::new();
    for (times, liberties) in (0..3).flat_map(|times| (0..16).map(move |bits| (times, bits))) {
        let takes = |bit: u8| liberties & (1 << bit) != 0;
        let mut text = path.to_owned();
        for _ in 0..times {
            text = decode(&text);
        }
        if takes(0) {
            text = text.replace('\\', "/");
        }
        let mut segments = Vec::new();
        for segment in text.split('/').skip(1) {
            let segment = match segment.split_once(';') {
                Some((segment, _)) if takes(1) => segment,
                _ => segment,
            };
            match segment {
                "" if takes(2) => {}
                "." if takes(3) => {}
                ".." if takes(3) => drop(segments.pop()),
                segment => segments.push(segment),
            }
        }
        all.push(format!("/{}", segments.join("/")));
    }
    all
}

/// Attack 15: whatever a server reads in a path that it gets, it is not what is denied.
#[tokio::test]
async fn no_spelling_of_a_denied_path_arrives() {
    let bench = ruled(|config| config.secrets = SecretSet::default());
    let config = bench.root.server(&[HOST], CertificateKind::Good);
    let origin = Origin::start(config).await;
    let (mut denied, mut arrived) = (0, 0);
    for before in ["/v1/x/", "/v1/", "/", "//", "/v1/%78/"] {
        for climb in [
            "",
            "../",
            "%2e%2e/",
            ".%2E/",
            "%252e%252e/",
            "..%2f",
            "..;/",
            "..%5c",
            "..\\",
            "./",
            "x;/../",
            "..%c0%af",
            "%00/",
            "b/../",
        ] {
            for rest in [
                "admin/users",
                "%61dmin/users",
                "v1/admin/users",
                "admin;x/users",
                "admin%2fusers",
                "/admin//users",
                "admin\\users",
                "%2561dmin/users",
                "adm\u{131}n/users",
                "safe",
            ] {
                let path = format!("{before}{climb}{rest}");
                let head =
                    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
                let answer = bench.exchange(origin.address(), HOST, &head).await;
                if answer.starts_with("HTTP/1.1 200 ") {
                    arrived += 1;
                } else {
                    assert!(answer.starts_with("HTTP/1.1 40"), "{path}: {answer}");
                    denied += 1;
                }
            }
        }
    }
    let requests = origin.requests();
    assert_eq!(requests.len(), arrived);
    for request in requests {
        let read = readings(&request.target);
        let is_denied = |path: &String| path.starts_with("/v1/admin/") || !path.starts_with("/v1/");
        assert!(
            !read.iter().any(is_denied),
            "{} is read as {read:?}",
            request.target
        );
    }
    // `safe` below `/v1/`, plainly or with an escape that changes nothing, and other names below it.
    assert!(arrived >= 3 && denied > 600, "{arrived} {denied}");
}

#[tokio::test]
async fn hosts_that_no_rule_names_are_left_alone() {
    let bench = ruled(|_| {});
    let config = bench.root.server(&[OTHER], CertificateKind::Good);
    let origin = Origin::start(config).await;
    let head = format!("DELETE //x;y HTTP/1.1\r\nHost: {OTHER}\r\nConnection: close\r\n\r\n");
    let answer = bench.exchange(origin.address(), OTHER, &head).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// A proxy that the guest uses without TLS needs to be told where each request is to go.
#[tokio::test]
async fn a_target_in_absolute_form_arrives_as_it_is_where_there_is_no_tls() {
    let bench = ruled(|_| {});
    for target in ["http://shop.example.org/a?b=c", "/a?b=c"] {
        let (mut guest, mut server, _) = relayed(&bench, &["proxy.example.org"]).await;
        let head = format!("GET {target} HTTP/1.1\r\nHost: shop.example.org\r\n\r\n");
        guest.write_all(head.as_bytes()).await.unwrap();
        let received = read_until(&mut server, "\r\n\r\n").await;
        let line = format!("GET {target} HTTP/1.1\r\n");
        assert!(received.starts_with(&line), "{received}");
    }
}
