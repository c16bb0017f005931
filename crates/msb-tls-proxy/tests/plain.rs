//! Connections that are not intercepted: relayed, but not with a placeholder in them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};

use common::{HOST, PLACEHOLDER, Resettable, broken, read_until, within};
use msb_policy::PinTable;
use msb_secrets::ViolationAction;
use msb_testkit::tcp_pair;
use msb_tls_proxy::{Connection, Event, relay_plain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The guest's end, the server's end, and what is told.
async fn relayed() -> (TcpStream, TcpStream, Arc<Mutex<Vec<Event>>>) {
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
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    tokio::spawn(relay_plain(
        connection,
        common::secrets(),
        ViolationAction::BlockAndLog,
        Arc::new(move |event| sink.lock().unwrap().push(event)),
    ));
    (near, server, events)
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
