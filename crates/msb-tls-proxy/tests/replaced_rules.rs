//! Rules about requests that are replaced while connections are open (SPEC P8).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};

use common::h2::{ends, offer, post, speaking};
use common::{Bench, HOST, OTHER, PINNED, Resettable, Told, broken, handshake, read_until, within};
use http::Response;
use msb_policy::HttpPolicy;
use msb_testkit::{CertificateKind, RawOrigin, TestRoot, tcp_pair};
use msb_tls_proxy::{
    Client, Connection, Dialled, Error, Event, InterceptScope, PlainConfig, Reset, relay_plain,
};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream as Guest;
use tokio_rustls::server::TlsStream as Server;

const POST: &str = "POST /v1/a HTTP/1.1\r\nHost: api.example.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";

fn policy(rule: &str) -> HttpPolicy {
    [rule.parse().unwrap()].into_iter().collect()
}

async fn both_ends(bench: &Bench, name: &str) -> (Guest<TcpStream>, Server<TcpStream>) {
    let config = bench.root.server(&[HOST, OTHER], CertificateKind::Good);
    let origin = RawOrigin::start(config).await;
    tokio::join!(bench.tls(origin.address(), name), origin.accept())
}

/// Reads until the end, however it ends.
async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let _ = within(stream.read_to_end(&mut Vec::new())).await;
}

/// The rules allow GET only from now on.
fn replace(bench: &Bench) {
    let rules = policy("allow GET api.example.test/v1/**");
    bench.proxy.replace_http_policy(rules).unwrap();
}

fn plain(bench: &Bench) -> PlainConfig {
    let secrets = bench.proxy.secrets();
    PlainConfig {
        secrets: Arc::new(move || secrets.load()),
        on_violation: Default::default(),
        events: bench.sink(),
        limits: Default::default(),
        drain: Default::default(),
        http_rules: bench.proxy.http_rules(),
    }
}

fn count(bench: &Bench, is_it: impl Fn(&Event) -> bool) -> usize {
    bench.events().iter().filter(|event| is_it(event)).count()
}

fn denied(bench: &Bench) -> usize {
    count(bench, |event| matches!(event, Event::RequestDenied { .. }))
}

#[tokio::test]
async fn a_request_under_way_that_is_denied_now_is_reset_and_others_go_on() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench, HOST).await;
    guest.write_all(POST.as_bytes()).await.unwrap();
    read_until(&mut server, "abc\r\n").await;
    let (mut reading, mut feeding) = both_ends(&bench, HOST).await;
    let get = format!("GET /v1/a HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    reading.write_all(get.as_bytes()).await.unwrap();
    read_until(&mut feeding, "\r\n\r\n").await;
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let first = format!("{head}3\r\n: a\r\n");
    feeding.write_all(first.as_bytes()).await.unwrap();
    read_until(&mut reading, ": a\r\n").await;
    let (mut other, mut elsewhere) = both_ends(&bench, OTHER).await;
    let upload = POST.replace(HOST, OTHER);
    other.write_all(upload.as_bytes()).await.unwrap();
    read_until(&mut elsewhere, "abc\r\n").await;

    replace(&bench);
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
    rest(&mut server).await;
    assert_eq!(denied(&bench), 1);
    feeding.write_all(b"3\r\n: b\r\n0\r\n\r\n").await.unwrap();
    read_until(&mut reading, ": b\r\n0\r\n\r\n").await;
    other.write_all(b"3\r\ndef\r\n").await.unwrap();
    read_until(&mut elsewhere, "def\r\n").await;
    // Between two requests a connection has nothing that could be denied; the next one has.
    reading.write_all(POST.as_bytes()).await.unwrap();
    let answer = read_until(&mut reading, "\r\n").await;
    assert_eq!(answer, "HTTP/1.1 403 Forbidden\r\n");
}

#[tokio::test]
async fn an_answer_under_way_is_reset_in_http2_too() {
    let bench = Bench::new();
    let mut ends = ends(&bench, HOST).await;
    let (answer, mut body) = ends.send(post("/v1/a"), false).await;
    body.send_data("abc".into(), true).unwrap();
    let (_request, mut respond) = ends.taken().await;
    let _endless = respond.send_response(Response::new(()), false).unwrap();
    let answer = within(answer).await.unwrap();
    replace(&bench);
    let mut body = answer.into_body();
    within(body.data()).await.unwrap().unwrap_err();
    assert_eq!(denied(&bench), 1);
}

#[tokio::test]
async fn an_open_websocket_is_judged_by_what_asked_for_it() {
    for (path, goes_on) in [("/v1/socket", true), ("/v2/socket", false)] {
        let bench = Bench::new();
        let (mut guest, mut server) = both_ends(&bench, HOST).await;
        let asking = format!(
            "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        guest.write_all(asking.as_bytes()).await.unwrap();
        read_until(&mut server, "\r\n\r\n").await;
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        server.write_all(switch.as_bytes()).await.unwrap();
        read_until(&mut guest, "\r\n\r\n").await;
        // So that the relay of messages has begun.
        server.write_all(b"\x81\x01a").await.unwrap();
        let mut message = [0; 3];
        within(guest.read_exact(&mut message)).await.unwrap();
        replace(&bench);
        if goes_on {
            server.write_all(b"\x81\x01b").await.unwrap();
            within(guest.read_exact(&mut message)).await.unwrap();
        } else {
            assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
        }
        assert_eq!(denied(&bench), usize::from(!goes_on));
    }
}

/// One word each way, then new rules: whether the connection is reset.
async fn check_unread<G, S>(bench: &Bench, mut guest: G, mut server: S, host: &str)
where
    G: tokio::io::AsyncRead + AsyncWrite + Unpin,
    S: tokio::io::AsyncRead + AsyncWrite + Unpin,
{
    server.write_all(b"hello ").await.unwrap();
    read_until(&mut guest, "hello ").await;
    replace(bench);
    if host == HOST {
        assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
        rest(&mut server).await;
    } else {
        guest.write_all(b"goes on ").await.unwrap();
        read_until(&mut server, "goes on ").await;
    }
    let told = count(bench, |event| matches!(event, Event::RelayRefused { .. }));
    assert_eq!(told, usize::from(host == HOST));
}

#[tokio::test]
async fn what_is_not_http_is_reset_once_rules_name_its_host() {
    for host in [HOST, OTHER] {
        let bench = Bench::new();
        let config = bench.root.server(&[HOST, OTHER], CertificateKind::Good);
        let origin = RawOrigin::start(speaking(&config, &[])).await;
        let guest = offer(&bench, origin.address(), host, &[]);
        let (guest, server) = tokio::join!(guest, origin.accept());
        check_unread(&bench, guest.unwrap(), server, host).await;
    }
}

#[tokio::test]
async fn what_is_left_alone_is_reset_once_rules_name_its_host() {
    // The second has an address that nothing was resolved to.
    for (host, pinned, ends_as) in [
        (HOST, true, HOST),
        (OTHER, true, OTHER),
        (OTHER, false, HOST),
    ] {
        let bench = Bench::with(|config| {
            config.scope = InterceptScope::NamedHosts;
            config.secrets = msb_secrets::SecretSet::default();
        });
        let config = bench.root.server(&[HOST, OTHER], CertificateKind::Good);
        let origin = RawOrigin::start(config).await;
        if pinned {
            bench.pin(host, origin.address());
        }
        let stream = bench.connect(origin.address()).await;
        let root = bench.root.der();
        let (guest, server) = tokio::join!(handshake(stream, host, &root), origin.accept());
        check_unread(&bench, guest.unwrap(), server, ends_as).await;
    }
}

#[tokio::test]
async fn what_is_relayed_without_tls_is_reset_once_rules_name_its_host() {
    for host in [HOST, OTHER] {
        let bench = Bench::new();
        let (near, far) = tcp_pair().await;
        let (upstream, server) = tcp_pair().await;
        let destination = server.local_addr().unwrap();
        bench.pin(host, destination);
        let (guest, reset) = Resettable::new(far);
        let connection = Connection {
            guest,
            reset,
            upstream,
            destination,
            pins: Arc::clone(&bench.pins),
        };
        tokio::spawn(relay_plain(connection, plain(&bench)));
        check_unread(&bench, near, server, host).await;
    }
}

/// Rules can be about a host although its name has expired, and about what was heard before there were any.
#[tokio::test]
async fn what_was_relayed_before_there_were_rules_is_judged_by_what_was_known_then() {
    let request = |host| format!("GET /v2 HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
    let table = [
        (Some(HOST), b"PING\r\n".to_vec(), true),
        (Some(OTHER), b"PING\r\n".to_vec(), false),
        (Some(OTHER), request(HOST), true),
        (None, hello(HOST), true),
        (None, hello(OTHER), false),
    ];
    for (at, (name, bytes, ends)) in table.into_iter().enumerate() {
        let bench = Bench::new();
        let (mut near, far) = tcp_pair().await;
        let (upstream, mut server) = tcp_pair().await;
        let destination = server.local_addr().unwrap();
        if let Some(name) = name {
            bench.pin(name, destination);
        }
        let (guest, reset) = Resettable::new(far);
        let connection = Connection {
            guest,
            reset,
            upstream,
            destination,
            pins: Arc::clone(&bench.pins),
        };
        tokio::spawn(relay_plain(connection, plain(&bench)));
        near.write_all(&bytes).await.unwrap();
        let mut got = vec![0; bytes.len()];
        within(server.read_exact(&mut got)).await.unwrap();
        *bench.pins.lock().unwrap() = Default::default();
        replace(&bench);
        if ends {
            assert_eq!(
                broken(&mut near).await,
                ErrorKind::ConnectionReset,
                "row {at}"
            );
            rest(&mut server).await;
        } else {
            near.write_all(b"goes on ").await.unwrap();
            read_until(&mut server, "goes on ").await;
        }
        let told = count(&bench, |event| matches!(event, Event::RelayRefused { .. }));
        assert_eq!(told, usize::from(ends), "row {at}");
    }
}

/// The ClientHello of a client that wants `name`.
fn hello(name: &str) -> Vec<u8> {
    let config = msb_testkit::client_config(&TestRoot::new().der(), &[]);
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_tunnel_is_reset_once_rules_name_where_it_leads() {
    for target in [HOST, "inner.example.test"] {
        let bench = Bench::new();
        let (mut guest, mut server) = both_ends(&bench, OTHER).await;
        let connect = format!("CONNECT {target}:443 HTTP/1.1\r\nHost: {target}:443\r\n\r\n");
        guest.write_all(connect.as_bytes()).await.unwrap();
        read_until(&mut server, "\r\n\r\n").await;
        server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        read_until(&mut guest, "\r\n\r\n").await;
        check_unread(&bench, guest, server, target).await;
    }
}

/// On a connection that was open before there were rules for its host.
#[tokio::test]
async fn no_tunnel_is_asked_for_through_a_host_that_rules_name_now() {
    let bench = Bench::new();
    let (mut guest, mut server) = both_ends(&bench, HOST).await;
    guest.write_all(POST.as_bytes()).await.unwrap();
    guest.write_all(b"0\r\n\r\n").await.unwrap();
    read_until(&mut server, "\r\n0\r\n\r\n").await;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    server.write_all(answer.as_bytes()).await.unwrap();
    read_until(&mut guest, "\r\n\r\n").await;
    replace(&bench);
    let connect = "CONNECT inner.test:443 HTTP/1.1\r\nHost: inner.test:443\r\n\r\n";
    guest.write_all(connect.as_bytes()).await.unwrap();
    let answer = read_until(&mut guest, "\r\n").await;
    assert_eq!(answer, "HTTP/1.1 421 Misdirected Request\r\n");
    drop(guest);
    let mut received = Vec::new();
    let _ = within(server.read_to_end(&mut received)).await;
    assert_eq!(String::from_utf8_lossy(&received), "");
}

/// Not between the answer and the first message either, however long the guest takes to read the answer.
#[tokio::test]
async fn rules_that_come_while_a_websocket_opens_count() {
    let bench = Bench::new();
    let rules = policy("allow GET other.test");
    bench.proxy.replace_http_policy(rules).unwrap();
    // Smaller than the answer.
    let (mut near, guest) = tokio::io::duplex(16);
    let (upstream, mut server) = tcp_pair().await;
    let destination = server.local_addr().unwrap();
    bench.pin(HOST, destination);
    let told = Arc::new(Told::default());
    let connection = Connection {
        guest,
        reset: Arc::clone(&told) as Arc<dyn Reset>,
        upstream,
        destination,
        pins: Arc::clone(&bench.pins),
    };
    tokio::spawn(relay_plain(connection, plain(&bench)));
    let asking = format!(
        "GET /v2/socket HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    near.write_all(asking.as_bytes()).await.unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    server.write_all(switch.as_bytes()).await.unwrap();
    near.read_u8().await.unwrap();
    replace(&bench);
    rest(&mut near).await;
    rest(&mut server).await;
    assert_eq!(denied(&bench), 1);
    assert!(told.was_told());
}

/// The one that the request goes to, not the one that the proxy listens on.
#[tokio::test]
async fn a_denied_request_is_told_with_the_port_of_its_server() {
    let bench = Bench::new();
    let (mut guest, far) = tcp_pair().await;
    let (upstream, mut server) = tcp_pair().await;
    let destination = far.local_addr().unwrap();
    let address = server.local_addr().unwrap();
    let (near, reset) = Resettable::new(far);
    let (proxy, upstream) = (bench.proxy.clone(), Mutex::new(Some(upstream)));
    tokio::spawn(async move {
        let client = Client {
            guest: near,
            reset,
            destination,
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
    let post = POST.replace(" /", &format!(" http://{HOST}/"));
    guest.write_all(post.as_bytes()).await.unwrap();
    read_until(&mut server, "abc\r\n").await;
    replace(&bench);
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
    let told = bench.events().into_iter().find_map(|event| match event {
        Event::RequestDenied { port, .. } => Some(port),
        _ => None,
    });
    assert_eq!(told, Some(address.port()));
}

#[tokio::test]
async fn rules_for_a_bypassed_host_are_refused_and_the_former_stay() {
    let bench = Bench::new();
    replace(&bench);
    let error = bench
        .proxy
        .replace_http_policy(policy(&format!("allow * {PINNED}")));
    assert!(matches!(error, Err(Error::GovernedBypass { .. })));
    let (mut guest, _server) = both_ends(&bench, HOST).await;
    guest.write_all(POST.as_bytes()).await.unwrap();
    let answer = read_until(&mut guest, "\r\n").await;
    assert_eq!(answer, "HTTP/1.1 403 Forbidden\r\n");
}
