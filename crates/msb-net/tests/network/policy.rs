//! Server names that decide, and policies that come while flows are open.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use msb_name::HostName;
use msb_net::{Config, Event, Flow, HostEntry};
use msb_policy::NetworkPolicy;
use tokio::io::AsyncReadExt as _;
use tokio::net::UdpSocket;

use crate::guest::{GuestTcp, soon};
use crate::rig::{GATEWAY_V4, Rig, echo_service, gateway, ip, rules};

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

/// A network on which the gateway is known by these names, added to the configuration and told to the guest.
fn named(rules_in_force: &[&str], names: &[&str]) -> Rig {
    let rig = Rig::with("none", |config: &mut Config| {
        config.policy = rules(rules_in_force, "none");
        config.reads_server_names = true;
        let hosts = names
            .iter()
            .map(|text| (name(text), HostEntry::HostGateway));
        config.hosts = hosts.collect();
    });
    for text in names {
        let pinned = Duration::from_secs(60);
        rig.pins()
            .insert(name(text), ip(GATEWAY_V4), pinned, Instant::now());
    }
    rig
}

async fn open(rig: &mut Rig, port: u16) -> (GuestTcp, Flow) {
    let socket = rig.guest.connect(gateway(port)).await.unwrap();
    let flow = soon(rig.flows.recv()).await.unwrap();
    assert!(matches!(rig.event().await, Event::Connected { .. }));
    (socket, flow)
}

/// SPEC P4. The events say what was decided by.
#[tokio::test]
async fn the_server_name_decides_where_rules_are_about_names() {
    let port = echo_service().await;
    let allowed = format!("allow@api.test:tcp:{port}");
    let mut rig = named(
        &[&allowed, "deny@*.evil.test", "allow@*.test"],
        &["api.test", "cdn.test"],
    );
    for (claimed, expected) in [
        (Some("api.test"), None),
        (None, None),
        (Some("cdn.test"), None),
        (Some("other.test"), Some("default")),
        (Some("other.example"), Some("default")),
        (Some("x.evil.test"), Some("rule 2 (deny@*.evil.test)")),
    ] {
        let (_socket, flow) = open(&mut rig, port).await;
        assert!(flow.needs_name);
        let reset = flow.guest.reset_handle();
        let passes = flow.judge().decide(claimed.map(name).as_ref());
        assert_eq!(passes, expected.is_none(), "{claimed:?}");
        assert_eq!(reset.is_broken(), expected.is_some(), "{claimed:?}");
        if let Some(expected) = expected {
            match rig.event().await {
                Event::Denied { cause, .. } => assert_eq!(cause.to_string(), expected),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Each flow is asked about again with the name that it claimed, not with all its address is known for.
#[tokio::test]
async fn a_new_policy_ends_the_flows_that_it_denies_and_no_others() {
    let port = echo_service().await;
    let mut rig = named(&["allow@*.test"], &["a.test", "b.test"]);
    let mut flows = Vec::new();
    for claimed in [Some("a.test"), Some("b.test"), None] {
        let (socket, flow) = open(&mut rig, port).await;
        assert!(flow.judge().decide(claimed.map(name).as_ref()));
        flows.push((socket, flow));
    }
    // Of this one nothing was read yet.
    let (_silent, silent) = open(&mut rig, port).await;
    rig.network
        .replace_policy(rules(&["deny@b.test", "allow@*.test"], "none"));
    soon(flows[1].1.guest.reset_handle().broken()).await;
    // Without a claim, the names of its address count, and one of them is denied.
    soon(flows[2].1.guest.reset_handle().broken()).await;
    assert!(matches!(rig.event().await, Event::Denied { .. }));
    assert!(matches!(rig.event().await, Event::Denied { .. }));
    assert!(!flows[0].1.guest.reset_handle().is_broken());
    assert!(!silent.guest.reset_handle().is_broken());
    assert!(
        !silent.judge().decide(Some(&name("b.test"))),
        "by the policy of now"
    );
    // The guest's end was told, and the other goes on.
    soon(flows[1].0.read()).await.unwrap_err();
    flows[0].0.write_all(b"still here").await.unwrap();
    let mut read = [0; 10];
    soon(flows[0].1.guest.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"still here");
}

#[tokio::test]
async fn an_invalid_policy_refuses_what_is_open_and_what_comes() {
    let port = echo_service().await;
    let service = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let udp_port = service.local_addr().unwrap().port();
    let mut rig = Rig::new("host");
    let (socket, flow) = open(&mut rig, port).await;
    let datagrams = rig.guest.udp();
    datagrams.send(gateway(udp_port), b"ping");
    let mut buffer = [0; 16];
    let (_, relayed) = soon(service.recv_from(&mut buffer)).await.unwrap();
    assert!(matches!(rig.event().await, Event::Connected { .. }));
    let mut frames = rig.guest.tap();

    let invalid = NetworkPolicy::invalid("the file is gone");
    rig.network.replace_policy(Arc::new(invalid));
    soon(flow.guest.reset_handle().broken()).await;
    soon(socket.read()).await.unwrap_err();
    // An ICMP error about what was sent last, and a closed port on the host.
    let is_prohibited = |frame: &[u8]| (frame[23], frame[34], frame[35]) == (1, 3, 13);
    while !is_prohibited(&soon(frames.recv()).await.unwrap()) {}
    for _ in 0..2 {
        let Event::Denied { reason, .. } = rig.event().await else {
            panic!("not told");
        };
        assert!(reason.contains("the file is gone"), "{reason}");
    }
    let closed = UdpSocket::bind(relayed).await;
    assert!(
        closed.is_ok(),
        "the socket of the host's is closed: {closed:?}"
    );
    rig.guest.connect(gateway(port)).await.err().unwrap();
    datagrams.send(gateway(udp_port), b"again");
    while !is_prohibited(&soon(frames.recv()).await.unwrap()) {}
}

#[tokio::test]
async fn a_connection_that_is_being_made_is_asked_about_as_well() {
    // A listener whose queue is full answers nobody.
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let port = listener.local_addr().unwrap().port();
    let _queued: Vec<_> = (0..3)
        .map(|_| {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            tokio::spawn(socket.connect(address))
        })
        .collect();
    tokio::task::yield_now().await;
    let mut rig = Rig::new("host");
    let dialled = rig.guest.dial(gateway(port));
    // The answer comes behind the connection request.
    rig.guest.ping(ip(GATEWAY_V4), b"behind").await;
    rig.network
        .replace_policy(Arc::new(NetworkPolicy::parse("none").unwrap()));
    dialled.closed().await;
    assert!(matches!(rig.event().await, Event::Denied { .. }));
}

#[tokio::test]
async fn names_are_answered_by_the_policy_of_now() {
    let mut rig = Rig::new("host");
    let query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x04host\x03msb\x08internal\0\0\x01\0\x01";
    let answer = rig.guest.ask(gateway(53), query).await;
    assert_eq!(answer[3] & 15, 0, "NOERROR");
    rig.network
        .replace_policy(Arc::new(NetworkPolicy::parse("public").unwrap()));
    let answer = rig.guest.ask(gateway(53), query).await;
    assert_eq!(answer[3] & 15, 3, "NXDOMAIN");
    assert!(matches!(rig.event().await, Event::NameDenied { .. }));
}

/// What was no matter when the connection was opened may be one when it speaks.
#[tokio::test]
async fn what_can_be_read_in_two_ways_is_decided_by_the_policy_of_now() {
    let port = echo_service().await;
    for (rules_of_now, passes) in [(&["allow@host"][..], true), (&["allow@a.test"], false)] {
        let mut rig = named(&["allow@host"], &["a.test"]);
        let (_socket, flow) = open(&mut rig, port).await;
        assert!(!flow.needs_name);
        rig.network.replace_policy(rules(rules_of_now, "none"));
        let reset = flow.guest.reset_handle();
        assert_eq!(flow.judge().decide_ambiguous(), passes);
        assert_eq!(reset.is_broken(), !passes);
    }
}
