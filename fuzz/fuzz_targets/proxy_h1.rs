//! Both sides of an HTTP/1.1 connection: no value goes astray, what arrives reads strictly, and nothing hangs.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use msb_fuzz::proxy::{HOST, Line, OTHER, VALUE, holds, operations, run, settle, take_events};
use msb_fuzz::strict::{self, Message};
use msb_tls_proxy::Event;

async fn connection(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let host = if first % 2 == 0 { HOST } else { OTHER };
    let mut line = Line::new(host, false);
    let (mut sent, mut from_server) = (Vec::new(), Vec::new());
    for (operation, bytes) in operations(rest) {
        match operation {
            b'g' => {
                sent.extend_from_slice(bytes);
                line.guest.write(bytes).await;
            }
            b's' => {
                from_server.extend_from_slice(bytes);
                line.server.write(bytes).await;
            }
            b'G' => line.guest.shut().await,
            b'S' => line.server.shut().await,
            b't' => {
                let seconds = bytes.first().copied().unwrap_or_default();
                tokio::time::sleep(Duration::from_secs(seconds.into())).await;
            }
            _ => {}
        }
        settle().await;
    }
    let (guest, server) = line.end().await;
    judge(host, &sent, &from_server, &guest, &server);
}

fn judge(host: &str, sent: &[u8], from_server: &[u8], guest: &[u8], server: &[u8]) {
    let events = take_events();
    if host == OTHER && !holds(sent, VALUE) {
        assert!(!holds(server, VALUE), "the value went to another host");
    }
    if host == HOST && !holds(sent, VALUE) && !holds(from_server, VALUE) {
        assert!(!holds(guest, VALUE), "the guest got the value");
    }
    let reading = strict::requests(server, false);
    let switches =
        |message: &Message| !message.all("upgrade").is_empty() || message.line[0] == "CONNECT";
    if reading.whole.iter().any(switches) {
        // What follows is of another protocol.
        return;
    }
    let cut_off = [
        None,
        Some("a head that breaks off"),
        Some("a body that breaks off"),
    ];
    assert!(cut_off.contains(&reading.fault), "{:?}", reading.fault);
    let arrived: Vec<_> = reading.whole.iter().chain(&reading.broken).collect();
    for request in &arrived {
        let named = request.all("host");
        let named = String::from_utf8_lossy(named[0]).to_ascii_lowercase();
        let named = named.split(':').next().unwrap_or_default();
        assert_eq!(named.strip_suffix('.').unwrap_or(named), host);
    }
    // What was passed on is what was sent, in its order.
    let sent = strict::requests(sent, true);
    let expected: Vec<_> = sent.whole.iter().chain(&sent.broken).collect();
    assert!(
        arrived.len() <= expected.len(),
        "more arrived than was sent"
    );
    for (arrived, sent) in arrived.iter().zip(expected) {
        assert_eq!(arrived.line[0], sent.line[0]);
    }
    let answered = events
        .iter()
        .filter(|event| matches!(event, Event::Request { .. }));
    assert!(
        answered.count() <= arrived.len(),
        "policy saw more than arrived"
    );
}

fuzz_target!(|data: &[u8]| run(connection(data)));
