//! Connections that are not intercepted: relayed, but not with a placeholder in them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};

use common::{HOST, PLACEHOLDER, Resettable, VALUE, broken, read_until, within};
use msb_policy::PinTable;
use msb_secrets::{SecretBuilder, SecretSet, ViolationAction};
use msb_testkit::tcp_pair;
use msb_tls_proxy::{
    Connection, Drain, Event, HttpRules, Limits, PlainConfig, may_send, relay_plain,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The guest's end, the server's end, and what is told.
async fn relayed() -> (TcpStream, TcpStream, Arc<Mutex<Vec<Event>>>) {
    relayed_with(common::secrets()).await
}

async fn relayed_with(secrets: SecretSet) -> (TcpStream, TcpStream, Arc<Mutex<Vec<Event>>>) {
    let (near, guest) = tcp_pair().await;
    let (upstream, server) = tcp_pair().await;
    let (guest, reset) = Resettable::new(guest);
    let destination = server.local_addr().unwrap();
    let mut pins = PinTable::default();
    let name = HOST.parse().unwrap();
    let now = std::time::Instant::now();
    pins.insert(
        name,
        destination.ip(),
        std::time::Duration::from_secs(60),
        now,
    );
    let connection = Connection {
        guest,
        reset,
        upstream,
        destination,
        pins: Arc::new(Mutex::new(pins)),
    };
    let (config, events) = config_with(secrets);
    tokio::spawn(relay_plain(connection, config));
    (near, server, events)
}

fn config_with(secrets: SecretSet) -> (PlainConfig, Arc<Mutex<Vec<Event>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    let config = PlainConfig {
        secrets: Arc::new(move || secrets.clone()),
        on_violation: ViolationAction::BlockAndLog,
        events: Arc::new(move |event| sink.lock().unwrap().push(event)),
        limits: Limits::default(),
        drain: Drain::default(),
        http_rules: HttpRules::default(),
    };
    (config, events)
}

#[test]
fn a_datagram_with_a_placeholder_in_any_form_may_not_be_sent() {
    let (config, events) = config_with(common::secrets());
    let destination = "203.0.113.9:9999".parse().unwrap();
    let pins = Mutex::new(PinTable::default());
    let violations = || {
        let events = events.lock().unwrap();
        let of_datagram = events.iter().filter(|event| {
            matches!(
                event,
                Event::Violation {
                    port: 9999,
                    action: ViolationAction::BlockAndLog,
                    ..
                }
            )
        });
        of_datagram.count()
    };
    let stopped = [
        "$MSB_API_KEY",
        "a $MSB_API_KEY b",
        "%24MSB_API_KEY",
        "JE1TQl9BUElfS0VZ",
        "x\0$MSB_API_KEY",
    ];
    for (count, payload) in (1..).zip(stopped) {
        assert!(
            !may_send(payload.as_bytes(), destination, &pins, &config),
            "{payload}"
        );
        assert_eq!(violations(), count, "{payload}");
    }
    // Also half a placeholder, and a longer name that is none.
    for payload in ["", "hello", "$MSB_API_KE", "$MSB_API_KEYS"] {
        assert!(
            may_send(payload.as_bytes(), destination, &pins, &config),
            "{payload}"
        );
    }
    assert_eq!(violations(), stopped.len());
}

#[tokio::test]
async fn bytes_pass_both_ways_and_so_do_half_closes() {
    let (mut guest, mut server, events) = relayed().await;
    server.write_all(b"220 ready\r\n").await.unwrap();
    read_until(&mut guest, "220 ready\r\n").await;
    guest.write_all(b"EHLO $MSB\r\n").await.unwrap();
    read_until(&mut server, "EHLO $MSB\r\n").await;
    guest.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within(server.read_to_end(&mut rest)).await.unwrap();
    server.write_all(b"221 bye").await.unwrap();
    server.shutdown().await.unwrap();
    within(guest.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"221 bye");
    assert!(events.lock().unwrap().is_empty());
}

/// Even a host that may have the secret does not get it, for nobody knows who it is.
#[tokio::test]
async fn a_placeholder_resets_the_guest_and_does_not_arrive() {
    let (mut guest, mut server, events) = relayed().await;
    for byte in format!("AUTH {PLACEHOLDER}\r\n").bytes() {
        // The reset may come before the last byte is written.
        let _ = guest.write_all(&[byte]).await;
    }
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
    let mut received = Vec::new();
    let _ = within(server.read_to_end(&mut received)).await;
    assert!(b"AUTH ".starts_with(&received), "{received:?}");
    let events = events.lock().unwrap();
    assert!(
        matches!(&events[..], [Event::Violation { host, action: ViolationAction::BlockAndLog, .. }] if host.to_string() == HOST),
        "{events:?}"
    );
}

/// A secret that accepts plaintext HTTP (SPEC S6).
fn plaintext(change: impl FnOnce(SecretBuilder) -> SecretBuilder) -> SecretSet {
    common::secrets_with(VALUE, |secret| change(secret.require_tls_identity(false)))
}

async fn answer(server: &mut TcpStream, body: &str) {
    let len = body.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\n\r\n{body}"
    );
    server.write_all(answer.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn plaintext_requests_get_a_secret_that_says_so_and_give_it_back_to_nobody() {
    let (mut guest, mut server, events) = relayed_with(plaintext(|secret| secret)).await;
    for cut in [1, 3, 4, 30] {
        let request = format!("GET /v1 HTTP/1.1\r\nHost: {HOST}\r\nX-Key: {PLACEHOLDER}\r\n\r\n");
        let (first, second) = request.as_bytes().split_at(cut);
        guest.write_all(first).await.unwrap();
        tokio::task::yield_now().await;
        guest.write_all(second).await.unwrap();
        let received = read_until(&mut server, "\r\n\r\n").await;
        assert!(
            received.contains(&format!("X-Key: {VALUE}\r\n")),
            "{received}"
        );
        answer(&mut server, &format!("you sent {VALUE}!")).await;
        let answered = read_until(&mut guest, "!").await;
        assert!(
            answered.ends_with(&format!("you sent {PLACEHOLDER}!")),
            "{answered}"
        );
        assert!(!answered.contains(VALUE), "{answered}");
    }
    let events = events.lock().unwrap();
    assert!(
        matches!(&events[0], Event::Substituted { host, .. } if host.to_string() == HOST),
        "{events:?}"
    );
}

/// Each request is judged by its own authority, and by what was resolved to the address.
#[tokio::test]
async fn plaintext_requests_for_another_host_are_reset_and_do_not_arrive() {
    for (target, host) in [
        ("/", "evil.example.test"),
        ("/", "127.0.0.1"),
        ("http://evil.example.test/", "evil.example.test"),
    ] {
        let (mut guest, mut server, events) = relayed_with(plaintext(|secret| secret)).await;
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nX-Key: {PLACEHOLDER}\r\n\r\n");
        guest.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(
            broken(&mut guest).await,
            ErrorKind::ConnectionReset,
            "{host}"
        );
        let mut received = Vec::new();
        let _ = within(server.read_to_end(&mut received)).await;
        assert!(received.is_empty(), "{received:?}");
        let events = events.lock().unwrap();
        assert!(
            matches!(&events[..], [Event::Violation { host: told, .. }] if told.to_string() == host),
            "{events:?}"
        );
    }
    // The secret is for any host, but this sandbox's DNS gave the address for another.
    let any = plaintext(|secret| secret.allow_any_host_dangerous(true));
    let (mut guest, _server, _) = relayed_with(any).await;
    let request =
        format!("GET / HTTP/1.1\r\nHost: evil.example.test\r\nX-Key: {PLACEHOLDER}\r\n\r\n");
    guest.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_placeholder_may_be_seen_where_a_secret_says_so_without_tls_too() {
    let passing =
        common::secrets_with(VALUE, |secret| secret.passthrough_host("evil.example.test"));
    let (mut guest, mut server, _) = relayed_with(passing).await;
    let request =
        format!("GET / HTTP/1.1\r\nHost: evil.example.test\r\nX-Key: {PLACEHOLDER}\r\n\r\n");
    guest.write_all(request.as_bytes()).await.unwrap();
    let received = read_until(&mut server, "\r\n\r\n").await;
    assert!(received.contains(PLACEHOLDER), "{received}");
    answer(&mut server, "!").await;
    read_until(&mut guest, "!").await;
    // Its own host does not get the value without TLS.
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Key: {PLACEHOLDER}\r\n\r\n");
    guest.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);
}

/// Reading HTTP keeps nobody else from speaking, whichever side begins.
#[tokio::test]
async fn other_protocols_are_relayed_and_searched_as_ever_where_plaintext_is_read() {
    let (mut guest, mut server, _) = relayed_with(plaintext(|secret| secret)).await;
    server.write_all(b"220 ready\r\n").await.unwrap();
    read_until(&mut guest, "220 ready\r\n").await;
    guest.write_all(b"GET / no HTTP\r\n").await.unwrap();
    read_until(&mut server, "GET / no HTTP\r\n").await;
    guest
        .write_all(format!("{PLACEHOLDER}\r\n").as_bytes())
        .await
        .unwrap();
    assert_eq!(broken(&mut guest).await, ErrorKind::ConnectionReset);

    let (mut guest, mut server, _) = relayed_with(plaintext(|secret| secret)).await;
    guest.write_all(b"P").await.unwrap();
    read_until(&mut server, "P").await;
    server.write_all(b"Q").await.unwrap();
    read_until(&mut guest, "Q").await;
    guest.shutdown().await.unwrap();
    within(server.read_to_end(&mut Vec::new())).await.unwrap();
}
