//! Names whose answers are many, long, late, or in the way of a policy.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{RData, RecordType};
use msb_net::Event;
use tokio::net::UdpSocket;

use crate::dns::{ask, query, upstream, upstream_answer};
use crate::guest::soon;
use crate::rig::{Rig, gateway, ip, rules};

/// As long as a message can be.
fn long(_: &str, _: RecordType) -> Option<Vec<RData>> {
    Some(vec![RData::TXT(TXT::new(vec!["x".repeat(250); 240]))])
}

fn short(_: &str, kind: RecordType) -> Option<Vec<RData>> {
    Some(vec![match kind {
        RecordType::TXT => RData::TXT(TXT::new(vec!["x".into()])),
        _ => RData::A(Ipv4Addr::new(8, 8, 8, 8).into()),
    }])
}

/// Whoever runs a zone decides how long its answers are and for how long they hold; a guest can ask for thousands.
#[tokio::test]
async fn long_answers_are_not_hoarded() {
    for (records, is_kept) in [
        (short as fn(&str, RecordType) -> Option<Vec<RData>>, true),
        (long, false),
    ] {
        let (server, asked) = upstream(records).await;
        let rig = Rig::with("public", |config| config.nameservers = Some(vec![server]));
        const NAMES: usize = 40;
        for round in [1, 2] {
            for number in 0..NAMES {
                let query = query(&format!("n{number}.example.org."), RecordType::TXT);
                let answer = ask(&rig, "9.9.9.9:53", &query).await;
                assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            }
            let expected = if is_kept { NAMES } else { round * NAMES };
            assert_eq!(asked.load(Ordering::Relaxed), expected);
        }
    }
}

/// They all go over the one connection to the name server that long answers need.
#[tokio::test]
async fn many_long_answers_at_once_all_arrive() {
    let (server, _) = upstream(long).await;
    let rig = Rig::with("public", |config| config.nameservers = Some(vec![server]));
    // A socket holds 64 answers.
    let sockets: Vec<_> = (0..4).map(|_| rig.guest.udp()).collect();
    for number in 0..200 {
        let (socket, name) = (&sockets[number / 50], format!("n{number}.example.org."));
        let query = query(&name, RecordType::TXT).to_vec().unwrap();
        socket.send(gateway(53), &query);
        // Nor can it have more than 64 to send.
        if number % 50 == 49 {
            rig.guest.ping(ip("192.0.0.1"), b"").await;
        }
    }
    for socket in sockets.iter().flat_map(|socket| [socket; 50]) {
        let (_, answer) = soon(socket.receive()).await;
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    }
}

/// Each lookup under way takes sockets of the host's.
#[tokio::test]
async fn lookups_under_way_are_bounded() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let rig = Rig::with("public", |config| {
        config.nameservers = Some(vec![silent.local_addr().unwrap()]);
        config.query_timeout = Duration::from_secs(1);
    });
    let socket = rig.guest.udp();
    for number in 0..300 {
        let query = query(&format!("n{number}.example.org."), RecordType::A);
        socket.send(gateway(53), &query.to_vec().unwrap());
        if number % 32 == 31 {
            rig.guest.ping(ip("192.0.0.1"), b"").await;
        }
    }
    let (mut names, mut buffer) = (HashSet::new(), [0; 512]);
    let answer = soon(async {
        loop {
            tokio::select! {
                (_, answer) = socket.receive() => break answer,
                received = silent.recv_from(&mut buffer) => {
                    let query = Message::from_vec(&buffer[..received.unwrap().0]).unwrap();
                    names.insert(query.queries[0].name().clone());
                }
            }
        }
    })
    .await;
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    // Those that came first, and what has begun since one of them was given up.
    assert!(names.len() <= 2 * 64, "{}", names.len());
}

/// SPEC P8, D2.
#[tokio::test]
async fn a_name_that_is_denied_while_it_is_asked_for_is_not_told() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut rig = Rig::with("public", |config| {
        config.nameservers = Some(vec![server.local_addr().unwrap()]);
    });
    let socket = rig.guest.udp();
    let query = query("www.example.org.", RecordType::A);
    socket.send(gateway(53), &query.to_vec().unwrap());
    let mut buffer = [0; 512];
    let (len, from) = soon(server.recv_from(&mut buffer)).await.unwrap();
    rig.network
        .replace_policy(rules(&["deny@*.example.org"], "public"));
    let answer = upstream_answer(&buffer[..len], short).to_vec().unwrap();
    server.send_to(&answer, from).await.unwrap();
    let (_, answer) = soon(socket.receive()).await;
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert!(rig.pins().is_empty());
    assert!(matches!(rig.event().await, Event::NameDenied { .. }));
}

/// Attack 9: what is denied is denied in every form, by every way.
#[tokio::test]
async fn addresses_inside_of_addresses_are_denied_on_every_way() {
    fn forms(name: &str, kind: RecordType) -> Option<Vec<RData>> {
        let form = name.strip_suffix("x.forms.test.")?.strip_prefix('x')?;
        let form = form.replace('-', ":");
        let address: Ipv6Addr = form.parse().ok()?;
        Some(match kind {
            RecordType::AAAA => vec![RData::AAAA(address.into())],
            _ => Vec::new(),
        })
    }
    let (server, _) = upstream(forms).await;
    let mut rig = Rig::with("public", |config| {
        config.nameservers = Some(vec![server]);
        config.policy = rules(&["deny@1.1.1.1", "deny@loopback"], "public");
    });
    // 10.0.0.1, 127.0.0.1, 169.254.169.254, 0.0.0.0, 192.0.0.1 and 224.0.0.1 inside of others.
    let inner = ["a00:1", "7f00:1", "a9fe:a9fe", "0:0", "c000:1", "e000:1"];
    let mut forms: Vec<(String, bool)> = Vec::new();
    for inner in inner {
        let (high, low) = inner.split_once(':').unwrap();
        // Mapped, those that are no unicast address are dropped without a word.
        let is_unicast = !["0:0", "e000:1"].contains(&inner);
        forms.extend(is_unicast.then(|| (format!("::ffff:{inner}"), true)));
        forms.extend([
            (format!("64:ff9b::{inner}"), true),
            (format!("64:ff9b:1::{inner}"), true),
            (format!("2002:{high}:{low}::1"), true),
            (format!("2001:0:{high}:{low}::"), true),
            (format!("::ffff:0:{inner}"), true),
        ]);
    }
    // Of a single public address that is denied by a rule, DNS tells all the same.
    forms.push(("::ffff:101:101".to_owned(), false));
    forms.push(("64:ff9b::101:101".to_owned(), false));
    for (form, is_withheld) in forms {
        let address: Ipv6Addr = form.parse().unwrap();
        let destination = SocketAddr::new(address.into(), 80);
        let denied = |event: &Event| matches!(event, Event::Denied { destination: to, .. } if to.ip() == destination.ip());
        rig.guest.connect(destination).await.err().unwrap();
        assert!(rig.events().iter().any(denied), "{form} by TCP");
        let datagrams = rig.guest.udp();
        datagrams.send(destination, b"out");
        rig.guest.ping(ip("192.0.0.1"), b"behind").await;
        assert!(rig.events().iter().any(denied), "{form} by UDP");
        let guest = rig.guest.clone();
        tokio::select! {
            _ = guest.ping(address.into(), b"out") => panic!("{form} answers"),
            event = rig.event() => assert!(denied(&event), "{form} by ICMP: {event:?}"),
        }
        let name = format!("x{}x.forms.test.", form.replace(':', "-"));
        let answer = ask(&rig, "9.9.9.9:53", &query(&name, RecordType::AAAA)).await;
        let code = answer.metadata.response_code;
        assert_eq!(
            code == ResponseCode::NXDomain,
            is_withheld,
            "{form}: {code}"
        );
        let pinned = !rig.pins().names(address.into(), Instant::now()).is_empty();
        assert_eq!(pinned, !is_withheld, "{form}");
        rig.events();
    }
}
