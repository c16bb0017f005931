//! Datagrams and echo requests through the gateway.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use msb_net::Event;
use msb_policy::{Direction, Protocol};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use crate::guest::soon;
use crate::rig::{GATEWAY_V4, GATEWAY_V6, Rig, gateway, gateway_v6, ip, pattern, rules};

/// A service on the host's IPv4 loopback that sends back what it gets; returns its port.
async fn echo_service() -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..len], from).await;
        }
    });
    port
}

/// A port on the host's IPv4 loopback where nothing listens, kept from others while the socket lives: it hears one peer
/// only, which is itself.
fn closed_port() -> (std::net::UdpSocket, u16) {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(socket.local_addr().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// A guest that knows its gateways' hardware addresses, and the frames it gets from now on.
async fn warm(rig: &Rig) -> mpsc::UnboundedReceiver<Vec<u8>> {
    for gateway in [GATEWAY_V4, GATEWAY_V6] {
        rig.guest.ping(ip(gateway), b"warm").await;
    }
    rig.guest.tap()
}

/// Type, code and sender of an ICMP error, and the destination that it quotes.
#[track_caller]
fn icmp_error(frame: &[u8]) -> (u8, u8, IpAddr, IpAddr) {
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
    match frame[14] >> 4 {
        4 => {
            assert_eq!(frame[23], 1, "not ICMP: {frame:?}");
            (frame[34], frame[35], v4(26), v4(34 + 8 + 16))
        }
        _ => {
            assert_eq!(frame[20], 58, "not ICMPv6: {frame:?}");
            (frame[54], frame[55], v6(22), v6(54 + 8 + 24))
        }
    }
}

const PORT_UNREACHABLE: [(u8, u8); 2] = [(3, 3), (1, 4)];
const PROHIBITED: [(u8, u8); 2] = [(3, 13), (1, 1)];

/// The next frame is an ICMP error of one of these kinds (for IPv4 and IPv6) about a packet to `destination`.
#[track_caller]
fn is_refusal(frame: &[u8], kinds: [(u8, u8); 2], destination: SocketAddr) {
    let kind = kinds[usize::from(destination.is_ipv6())];
    let (kind_got, code, _, quoted) = icmp_error(frame);
    assert_eq!(
        ((kind_got, code), quoted),
        (kind, destination.ip()),
        "{destination}"
    );
}

#[tokio::test]
async fn a_datagram_that_the_filter_stops_is_dropped_and_counted() {
    let port = echo_service().await;
    let rig = Rig::with("host", |config| {
        config.datagram_filter = Some(std::sync::Arc::new(move |destination, payload| {
            assert_eq!(destination, gateway(port));
            payload != b"stop"
        }));
    });
    let socket = rig.guest.udp();
    for payload in ["stop", "go", "stop", "on"] {
        socket.send(gateway(port), payload.as_bytes());
    }
    for expected in ["go", "on"] {
        assert_eq!(socket.receive().await.1, expected.as_bytes());
    }
    assert_eq!(rig.network.counters().filter, 2);
}

/// Services on 127.0.0.1 only are found through the IPv6 gateway as well, as for TCP.
#[tokio::test]
async fn datagrams_of_all_lengths_are_echoed_in_both_families() {
    let mut rig = Rig::new("host");
    let port = echo_service().await;
    for destination in [gateway(port), gateway_v6(port)] {
        for len in [0, 1, 1_472, 9_000, 60_000] {
            let data = pattern(len);
            assert!(
                rig.guest.ask(destination, &data).await == data,
                "{destination} {len}"
            );
        }
    }
    match &rig.events()[..] {
        [
            Event::Connected {
                protocol: Protocol::Udp,
                to_host: true,
                ..
            },
            ..,
        ] => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn one_socket_of_the_guest_talks_to_many_and_hears_who_answers() {
    let rig = Rig::new("host");
    let ports = [
        echo_service().await,
        echo_service().await,
        echo_service().await,
    ];
    let socket = rig.guest.udp();
    for round in 0..20_u8 {
        let mut expected = Vec::new();
        for port in ports {
            let payload = [&port.to_be_bytes()[..], &[round]].concat();
            socket.send(gateway(port), &payload);
            expected.push((gateway(port), payload));
        }
        let mut received = Vec::new();
        for _ in ports {
            received.push(soon(socket.receive()).await);
        }
        received.sort();
        expected.sort();
        assert_eq!(received, expected);
    }
}

#[tokio::test]
async fn only_who_was_asked_may_answer() {
    let rig = Rig::new("host");
    let service = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let socket = rig.guest.udp();
    socket.send(gateway(service.local_addr().unwrap().port()), b"hello");
    let mut buffer = [0; 16];
    let (_, from) = soon(service.recv_from(&mut buffer)).await.unwrap();
    // Refused by the kernel, or lost: either way not what arrives.
    let _ = other.send_to(b"forged", from).await;
    service.send_to(b"true", from).await.unwrap();
    assert_eq!(soon(socket.receive()).await.1, b"true");
}

#[tokio::test]
async fn a_closed_port_of_the_host_is_told_by_icmp() {
    let rig = Rig::new("host");
    let (_kept, port) = closed_port();
    let mut frames = warm(&rig).await;
    for destination in [gateway(port), gateway_v6(port)] {
        let socket = rig.guest.udp();
        for _ in 0..3 {
            socket.send(destination, b"anyone?");
            is_refusal(
                &soon(frames.recv()).await.unwrap(),
                PORT_UNREACHABLE,
                destination,
            );
        }
    }
}

#[tokio::test]
async fn a_denied_datagram_is_answered_by_icmp_and_reported_once() {
    let mut rig = Rig::new("public");
    let mut frames = warm(&rig).await;
    for destination in [
        gateway(1000),
        gateway_v6(1000),
        "10.1.2.3:4500".parse().unwrap(),
        "127.0.0.1:4500".parse().unwrap(),
        "[fd12::1]:4500".parse().unwrap(),
        "169.254.169.254:80".parse().unwrap(),
    ] {
        let socket = rig.guest.udp();
        for _ in 0..3 {
            socket.send(destination, b"let me through");
            is_refusal(&soon(frames.recv()).await.unwrap(), PROHIBITED, destination);
        }
        match &rig.events()[..] {
            [
                Event::Denied {
                    protocol: Protocol::Udp,
                    destination: denied,
                    ..
                },
            ] => {
                assert_eq!(*denied, destination);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Rules are about protocols: who may send datagrams may not open connections, nor the other way round.
#[tokio::test]
async fn a_rule_for_udp_opens_udp_alone() {
    let port = echo_service().await;
    let mut rig = Rig::with("none", |config| {
        config.policy = rules(&[&format!("allow@host:udp:{port}")], "none");
    });
    assert_eq!(rig.guest.ask(gateway(port), b"ping").await, b"ping");
    rig.guest.connect(gateway(port)).await.err().unwrap();
    let denied = |event: &Event| {
        matches!(
            event,
            Event::Denied {
                protocol: Protocol::Tcp,
                ..
            }
        )
    };
    assert!(rig.events().iter().any(denied));
}

#[tokio::test]
async fn quic_and_other_name_services_are_refused_whatever_the_policy_says() {
    let mut rig = Rig::with("all", |config| config.refused_udp_ports = vec![443, 8443]);
    let mut frames = warm(&rig).await;
    for port in [443, 8443, 853, 5353, 5355, 137, 138] {
        for destination in [gateway(port), SocketAddr::new(ip("2001:db8::1"), port)] {
            let socket = rig.guest.udp();
            socket.send(destination, b"\xc0quic?");
            is_refusal(
                &soon(frames.recv()).await.unwrap(),
                PORT_UNREACHABLE,
                destination,
            );
            match &rig.events()[..] {
                [
                    Event::DatagramRefused {
                        destination: refused,
                        ..
                    },
                ] => {
                    assert_eq!(*refused, destination);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn flows_over_the_limit_are_refused_and_the_old_ones_go_on() {
    let mut rig = Rig::with("host", |config| config.max_udp_flows = 3);
    let port = echo_service().await;
    let mut frames = warm(&rig).await;
    let sockets: Vec<_> = (0..3).map(|_| rig.guest.udp()).collect();
    for socket in &sockets {
        socket.send(gateway(port), b"first");
        assert_eq!(soon(socket.receive()).await.1, b"first");
        soon(frames.recv()).await.unwrap();
    }
    for _ in 0..5 {
        let socket = rig.guest.udp();
        socket.send(gateway(port), b"too many");
        is_refusal(
            &soon(frames.recv()).await.unwrap(),
            PROHIBITED,
            gateway(port),
        );
    }
    for socket in &sockets {
        socket.send(gateway(port), b"second");
        assert_eq!(soon(socket.receive()).await.1, b"second");
    }
    let is_limit = |event: &Event| {
        matches!(
            event,
            Event::FlowLimit {
                protocol: Protocol::Udp,
                direction: Direction::Egress,
                max_flows: 3
            }
        )
    };
    assert_eq!(
        rig.events().iter().filter(|event| is_limit(event)).count(),
        1
    );
}

#[tokio::test]
async fn probes_that_are_to_die_on_their_way_are_prohibited_by_the_gateway() {
    let rig = Rig::new("all");
    let mut frames = warm(&rig).await;
    for (destination, gateway) in [
        ("8.8.8.8:33434", GATEWAY_V4),
        ("[2001:db8::1]:33434", GATEWAY_V6),
    ] {
        let destination = destination.parse().unwrap();
        for hops in [1, 2, 30] {
            let socket = rig.guest.udp();
            socket.send_with(destination, b"where?", Some(hops));
            let frame = soon(frames.recv()).await.unwrap();
            is_refusal(&frame, PROHIBITED, destination);
            assert_eq!(icmp_error(&frame).2, ip(gateway), "{hops}");
        }
    }
}

/// Whether this host lets us send echo requests (`net.ipv4.ping_group_range`).
fn has_ping_sockets() -> bool {
    use rustix::net::{AddressFamily, SocketType, ipproto};
    rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP)).is_ok()
}

#[tokio::test]
async fn echo_requests_to_other_hosts_are_relayed() {
    if !has_ping_sockets() {
        eprintln!("skipped: net.ipv4.ping_group_range lets nobody send echo requests");
        return;
    }
    let mut rig = Rig::with("none", |config| {
        config.policy = rules(&["allow@127.0.0.1:icmp", "allow@host:icmp"], "none");
    });
    for len in [0, 56, 1_500, 60_000] {
        let data = pattern(len);
        assert!(
            rig.guest.ping(ip("127.0.0.1"), &data).await == data,
            "{len}"
        );
    }
    assert!(matches!(
        rig.events()[..],
        [Event::Connected {
            protocol: Protocol::Icmp,
            ..
        }]
    ));
}

#[tokio::test]
async fn an_echo_request_that_is_denied_or_cannot_be_sent_is_answered_by_icmp() {
    let can_ping = has_ping_sockets();
    for (policy, is_denied) in [("none", true), ("all", false)] {
        if can_ping && !is_denied {
            continue;
        }
        let mut rig = Rig::new(policy);
        let mut frames = warm(&rig).await;
        tokio::select! {
            frame = soon(frames.recv()) => {
                is_refusal(&frame.unwrap(), PROHIBITED, "8.8.8.8:0".parse().unwrap());
            }
            _ = rig.guest.ping(ip("8.8.8.8"), b"") => panic!("answered"),
        }
        match &rig.events()[..] {
            [
                Event::Denied {
                    protocol: Protocol::Icmp,
                    ..
                },
            ] if is_denied => {}
            [
                Event::ConnectFailed {
                    protocol: Protocol::Icmp,
                    reason,
                    ..
                },
            ] if !is_denied => {
                assert!(reason.contains("ping_group_range"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}
