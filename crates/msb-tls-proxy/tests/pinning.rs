//! Guests that hang up without a word, as some clients do that pin another certificate (SPEC T12).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::{Bench, HOST, OTHER, within};
use msb_testkit::{CertificateKind, Origin, client_config};
use msb_tls_proxy::Event;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What a guest does with a connection.
#[derive(Clone, Copy, Debug)]
enum Guest {
    /// Ends it once it has seen the certificate.
    LeavesInHandshake,
    /// The same with a reset.
    ResetsInHandshake,
    /// Ends it after the handshake.
    LeavesAfterHandshake,
    /// Sends a request, and gets its answer.
    Asks,
}

async fn connect(bench: &Bench, origin: &Origin, name: &str, guest: Guest) {
    bench.pin(name, origin.address());
    if let Guest::LeavesAfterHandshake | Guest::Asks = guest {
        let mut stream = bench.tls(origin.address(), name).await;
        if let Guest::Asks = guest {
            let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
            within(msb_testkit::exchange(&mut stream, request.as_bytes())).await;
        }
        // Not before the proxy has seen the end of the handshake.
        let _ = stream.shutdown().await;
        let _ = within(stream.read_to_end(&mut Vec::new())).await;
        return;
    }
    let mut stream = bench.connect(origin.address()).await;
    let config = client_config(bench.proxy.ca().cert_der(), &[b"http/1.1"]);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut tls = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    stream.write_all(&hello).await.unwrap();
    // What follows is the certificate, which it has no need to read.
    within(stream.read_u8()).await.unwrap();
    if let Guest::ResetsInHandshake = guest {
        stream.set_zero_linger().unwrap();
        return;
    }
    stream.shutdown().await.unwrap();
    let _ = within(stream.read_to_end(&mut Vec::new())).await;
}

/// The hosts told of. With `expected`, it waits for the first.
async fn told(guests: &[(&str, Guest)], expected: bool) -> Vec<(String, String)> {
    let bench = Bench::new();
    let config = bench.root.server(&[HOST, OTHER], CertificateKind::Good);
    let origin = Origin::start(config).await;
    for (name, guest) in guests {
        connect(&bench, &origin, name, *guest).await;
    }
    if expected {
        let told = |event: &Event| matches!(event, Event::GuestHungUp { .. }).then_some(());
        bench.event(told).await;
    }
    let told = bench.events().into_iter().filter_map(|event| match event {
        Event::GuestHungUp { host, hint, .. } => Some((host.to_string(), hint)),
        _ => None,
    });
    told.collect()
}

#[tokio::test]
async fn hanging_up_three_times_in_a_row_is_told_in_cautious_words() {
    use Guest::{LeavesAfterHandshake, LeavesInHandshake, ResetsInHandshake};
    for guests in [
        [LeavesInHandshake; 3],
        [ResetsInHandshake; 3],
        [LeavesAfterHandshake; 3],
        [LeavesInHandshake, LeavesAfterHandshake, ResetsInHandshake],
    ] {
        let told = told(&guests.map(|guest| (HOST, guest)), true).await;
        let [(host, hint)] = &told[..] else {
            panic!("{guests:?}: {told:?}");
        };
        assert_eq!(host, HOST);
        assert!(hint.contains("if its client pins"), "{hint}");
        assert!(hint.contains("--tls-bypass api.example.test"), "{hint}");
    }
}

#[tokio::test]
async fn a_guest_that_was_interrupted_or_asks_in_between_is_not_told_of() {
    use Guest::{Asks, LeavesAfterHandshake, LeavesInHandshake};
    for guests in [
        &[(HOST, LeavesInHandshake), (HOST, LeavesAfterHandshake)][..],
        &[
            (HOST, LeavesInHandshake),
            (HOST, LeavesInHandshake),
            (HOST, Asks),
            (HOST, LeavesInHandshake),
            (HOST, LeavesInHandshake),
        ],
        &[
            (HOST, LeavesInHandshake),
            (OTHER, LeavesInHandshake),
            (HOST, LeavesInHandshake),
            (OTHER, LeavesInHandshake),
        ],
        &[(HOST, Asks), (HOST, Asks), (HOST, Asks)],
    ] {
        assert_eq!(told(guests, false).await, [], "{guests:?}");
    }
}
