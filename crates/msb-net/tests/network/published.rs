//! Ports of the host that lead to the guest (SPEC V8).

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use msb_net::{Config, Event, PublishedPort};
use msb_policy::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, UnixStream};

use crate::guest::{Guest, soon};
use crate::rig::{GATEWAY_V4, GATEWAY_V6, Rig, ip, pattern, rules};

const GUEST_PORT: u16 = 8080;

/// A port of the host's loopback interface that leads to [`GUEST_PORT`].
fn bind(protocol: Protocol, host: &str) -> Arc<PublishedPort> {
    let address = SocketAddr::new(host.parse().unwrap(), 0);
    Arc::new(PublishedPort::bind(protocol, address, GUEST_PORT).unwrap())
}

/// A network with one published port, rules for ingress, and where the port is.
fn published(port: &Arc<PublishedPort>, ingress: &[&str]) -> (Rig, SocketAddr) {
    let rig = Rig::with("public", |config| {
        config.policy = rules(ingress, "public");
        config.published = vec![Arc::clone(port)];
    });
    (rig, port.address())
}

fn gateway(host: &str) -> IpAddr {
    ip(match host {
        "::1" => GATEWAY_V6,
        _ => GATEWAY_V4,
    })
}

#[tokio::test]
async fn connections_reach_the_guest_and_carry_both_ways_with_half_closes() {
    for host in ["127.0.0.1", "::1"] {
        let (mut rig, address) = published(&bind(Protocol::Tcp, host), &[]);
        let listening = rig.guest.listen(GUEST_PORT);
        let mut client = TcpStream::connect(address).await.unwrap();
        let from = listening.opened().await;
        assert_eq!(from.ip(), gateway(host));
        assert!(from.port() >= 49_152, "{from}");
        let data = pattern(300_000);
        let (mut read, mut write) = client.split();
        let sent = async {
            write.write_all(&data).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let ((), got) = soon(async { tokio::join!(sent, listening.read_to_end()) }).await;
        assert!(got.unwrap() == data);
        // The guest's half is open still.
        listening.write_all(&data).await.unwrap();
        listening.close();
        let mut got = Vec::new();
        soon(read.read_to_end(&mut got)).await.unwrap();
        assert!(got == data);
        let event = rig.event().await;
        let client = client.local_addr().unwrap();
        assert_eq!(
            event,
            Event::ClientConnected {
                protocol: Protocol::Tcp,
                client,
                guest_port: GUEST_PORT
            }
        );
    }
}

/// As `msb run -p` has it while the guest boots.
#[tokio::test]
async fn a_client_that_comes_before_the_guest_is_up_waits_for_it() {
    let port = bind(Protocol::Tcp, "127.0.0.1");
    let (guest_link, link) = UnixStream::pair().unwrap();
    let mut config = Config::new(rules(&[], "public"));
    config.published = vec![Arc::clone(&port)];
    let _network = msb_net::start(link, config);
    let mut client = TcpStream::connect(port.address()).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    // The request is on the link, and nobody is there to answer.
    soon(guest_link.readable()).await.unwrap();
    let guest = Guest::start(guest_link);
    let listening = guest.listen(GUEST_PORT);
    listening.opened().await;
    assert_eq!(soon(listening.read_exact(5)).await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_client_is_reset_where_the_guest_refuses() {
    let (mut rig, address) = published(&bind(Protocol::Tcp, "127.0.0.1"), &[]);
    let mut client = TcpStream::connect(address).await.unwrap();
    let error = soon(client.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let client = client.local_addr().unwrap();
    let expected = Event::ClientRefused {
        client,
        guest_port: GUEST_PORT,
    };
    assert_eq!(rig.event().await, expected);
}

#[tokio::test]
async fn a_reset_on_either_side_is_one_on_the_other() {
    for by_guest in [true, false] {
        let (rig, address) = published(&bind(Protocol::Tcp, "127.0.0.1"), &[]);
        let listening = rig.guest.listen(GUEST_PORT);
        let mut client = TcpStream::connect(address).await.unwrap();
        listening.opened().await;
        client.write_all(b"hello").await.unwrap();
        assert_eq!(listening.read_exact(5).await.unwrap(), b"hello");
        let error = if by_guest {
            listening.abort();
            soon(client.read(&mut [0])).await.unwrap_err()
        } else {
            client.set_zero_linger().unwrap();
            drop(client);
            soon(listening.read()).await.unwrap_err()
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{by_guest}");
    }
}

#[tokio::test]
async fn rules_for_ingress_decide_who_gets_in() {
    for (rules, allowed) in [
        (&["deny:ingress@loopback"][..], false),
        (&["deny:ingress@any:tcp:8081"], true),
        (&["deny:any@any:tcp:8080"], false),
        (
            &["allow:ingress@loopback:tcp:8080", "deny:ingress@any"],
            true,
        ),
        (&["deny:egress@any"], true),
    ] {
        let (mut rig, address) = published(&bind(Protocol::Tcp, "127.0.0.1"), rules);
        let listening = rig.guest.listen(GUEST_PORT);
        let mut client = TcpStream::connect(address).await.unwrap();
        if allowed {
            listening.opened().await;
            continue;
        }
        let error = soon(client.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{rules:?}");
        match rig.event().await {
            Event::ClientDenied { cause, .. } => {
                assert_eq!(cause.to_string(), format!("rule 1 ({})", rules[0]));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// SPEC P8.
#[tokio::test]
async fn a_new_policy_ends_what_it_does_not_let_in() {
    let tcp = bind(Protocol::Tcp, "127.0.0.1");
    let udp = bind(Protocol::Udp, "127.0.0.1");
    let mut rig = Rig::with("public", |config| {
        config.published = vec![Arc::clone(&tcp), Arc::clone(&udp)];
    });
    let listening = rig.guest.listen(GUEST_PORT);
    let mut client = TcpStream::connect(tcp.address()).await.unwrap();
    listening.opened().await;
    rig.event().await;
    let service = rig.guest.udp_at(GUEST_PORT);
    let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    datagrams.send_to(b"one", udp.address()).await.unwrap();
    let (from, _) = soon(service.receive()).await;

    let denied = ["deny:ingress@loopback:tcp", "deny:ingress@loopback:udp"];
    rig.network.replace_policy(rules(&denied, "public"));
    let error = soon(client.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    for rule in ["rule 1", "rule 2"] {
        match rig.event().await {
            Event::ClientDenied { cause, .. } => assert!(cause.to_string().starts_with(rule)),
            other => panic!("{other:?}"),
        }
    }
    // An answer that comes too late goes nowhere: what it was for is forgotten.
    service.send(from, b"late");
    rig.network.replace_policy(rules(&[], "public"));
    datagrams.send_to(b"two", udp.address()).await.unwrap();
    let (again, payload) = soon(service.receive()).await;
    assert_eq!(payload, b"two");
    assert_ne!(again, from);
    service.send(again, b"answer");
    let mut got = [0; 9];
    let (len, _) = soon(datagrams.recv_from(&mut got)).await.unwrap();
    assert_eq!(&got[..len], b"answer");
}

#[tokio::test]
async fn datagrams_of_each_client_are_answered_to_that_client() {
    for host in ["127.0.0.1", "::1"] {
        let (rig, address) = published(&bind(Protocol::Udp, host), &[]);
        let service = rig.guest.udp_at(GUEST_PORT);
        let client = || UdpSocket::bind((host.parse::<IpAddr>().unwrap(), 0));
        let clients = [client().await.unwrap(), client().await.unwrap()];
        let mut sources = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            for text in ["one", "two"] {
                let text = format!("{number} {text}");
                client.send_to(text.as_bytes(), address).await.unwrap();
                let (from, payload) = soon(service.receive()).await;
                assert_eq!(payload, text.as_bytes());
                assert_eq!(from.ip(), gateway(host));
                sources.push(from);
            }
        }
        assert_eq!((sources[0], sources[2]), (sources[1], sources[3]));
        assert_ne!(sources[0], sources[2]);
        // In the other order, and as long as datagrams get.
        for (number, client) in clients.iter().enumerate().rev() {
            let long = vec![u8::try_from(number).unwrap(); 60_000];
            service.send(sources[number * 2], &long);
            let mut got = vec![0; 65_536];
            let (len, from) = soon(client.recv_from(&mut got)).await.unwrap();
            assert!(got[..len] == long);
            assert_eq!(from, address);
        }
    }
}

#[tokio::test]
async fn a_datagram_that_no_rule_lets_in_is_dropped_and_told_once() {
    let rule = "deny:ingress@any:udp";
    let (mut rig, address) = published(&bind(Protocol::Udp, "127.0.0.1"), &[rule]);
    let service = rig.guest.udp_at(GUEST_PORT);
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..3 {
        client.send_to(b"hello", address).await.unwrap();
    }
    match rig.event().await {
        Event::ClientDenied { client: from, .. } => assert_eq!(from, client.local_addr().unwrap()),
        other => panic!("{other:?}"),
    }
    // The gateway has answered by then, and so has been through all that came before.
    rig.guest.ping(ip(GATEWAY_V4), b"").await;
    assert_eq!(rig.events(), []);
    assert!(service.is_empty());
}

#[test]
fn a_port_that_is_taken_or_makes_no_sense_is_an_error() {
    let port = bind(Protocol::Tcp, "127.0.0.1");
    let again = PublishedPort::bind(Protocol::Tcp, port.address(), 1).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AddrInUse);
    let icmp = PublishedPort::bind(Protocol::Icmp, port.address(), 1).unwrap_err();
    assert_eq!(icmp.kind(), ErrorKind::Unsupported);
    // The same number for another protocol is another port.
    PublishedPort::bind(Protocol::Udp, port.address(), 1).unwrap();
}

/// The listener ends with the network, whoever holds what was published.
#[tokio::test]
async fn a_port_is_closed_with_its_network() {
    let (rig, address) = {
        let port = bind(Protocol::Tcp, "127.0.0.1");
        published(&port, &[])
    };
    let mut client = TcpStream::connect(address).await.unwrap();
    drop(rig);
    // Reset at once, or closed if it had not been looked at.
    assert!(matches!(soon(client.read(&mut [0])).await, Ok(0) | Err(_)));
    soon(async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}
