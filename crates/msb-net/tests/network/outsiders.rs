//! What outsiders at published ports cannot do to the guest, and to each other.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};

use msb_net::{Config, Event, PublishedPort};
use msb_policy::Protocol;
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket, UnixStream};

use crate::guest::soon;
use crate::rig::{GATEWAY_V4, Rig, echo_service, gateway, ip, rules};

const GUEST_PORT: u16 = 8080;

fn bind(protocol: Protocol) -> Arc<PublishedPort> {
    let address = "127.0.0.1:0".parse().unwrap();
    Arc::new(PublishedPort::bind(protocol, address, GUEST_PORT).unwrap())
}

/// Else it would keep its place for as long as it likes.
#[tokio::test]
async fn a_client_that_does_not_read_is_reset_all_the_same() {
    let port = bind(Protocol::Tcp);
    let rig = Rig::with("public", |config| {
        config.published = vec![Arc::clone(&port)];
    });
    let listening = rig.guest.listen(GUEST_PORT);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let client = socket.connect(port.address()).await.unwrap();
    listening.opened().await;
    // No buffers on the way take so much; it stops when all are full.
    let endless = vec![7; 32 << 20];
    let write = listening.write_all(&endless);
    let stalled = async {
        let mut before = None;
        while before.replace(listening.unsent()) != Some(listening.unsent()) {
            for _ in 0..50 {
                rig.guest.ping(ip(GATEWAY_V4), b"").await;
            }
        }
    };
    tokio::select! {
        _ = write => panic!("all was taken"),
        () = stalled => {}
    }
    rig.network
        .replace_policy(rules(&["deny:ingress@any"], "public"));
    let ready = soon(client.ready(Interest::ERROR)).await.unwrap();
    assert!(ready.is_error());
}

/// What a guest had to say before its machine was killed must not pass for all of it.
#[tokio::test]
async fn connections_that_end_with_their_network_are_reset() {
    for by_guest in [true, false] {
        let port = bind(Protocol::Tcp);
        let mut rig = Rig::with("host", |config| {
            config.published = vec![Arc::clone(&port)];
        });
        rig.relay();
        let (mut far, near) = if by_guest {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let service = gateway(listener.local_addr().unwrap().port());
            let near = rig.guest.connect(service).await.unwrap();
            (soon(listener.accept()).await.unwrap().0, near)
        } else {
            let near = rig.guest.listen(GUEST_PORT);
            let far = TcpStream::connect(port.address()).await.unwrap();
            near.opened().await;
            (far, near)
        };
        near.write_all(b"half a s").await.unwrap();
        let mut got = [0; 8];
        soon(far.read_exact(&mut got)).await.unwrap();
        drop(rig);
        let error = soon(far.read(&mut got)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{by_guest}");
    }
}

#[tokio::test]
async fn clients_and_the_guests_own_connections_take_no_places_of_each_other() {
    for clients_first in [true, false] {
        let port = bind(Protocol::Tcp);
        let mut rig = Rig::with("host", |config| {
            config.published = vec![Arc::clone(&port)];
            config.max_flows = 2;
        });
        rig.relay();
        let service = echo_service().await;
        let (mut clients, mut own) = (Vec::new(), Vec::new());
        for of_clients in [clients_first, !clients_first] {
            for _ in 0..2 {
                if of_clients {
                    let listening = rig.guest.listen(GUEST_PORT);
                    let client = TcpStream::connect(port.address()).await.unwrap();
                    listening.opened().await;
                    clients.push((listening, client));
                } else {
                    own.push(rig.guest.connect(gateway(service)).await.unwrap());
                }
            }
        }
        rig.guest.connect(gateway(service)).await.err().unwrap();
        let mut refused = TcpStream::connect(port.address()).await.unwrap();
        let error = soon(refused.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let limits = |event: &Event| matches!(event, Event::FlowLimit { .. });
        let limits = rig.events().into_iter().filter(limits);
        assert_eq!(limits.count(), 2, "one for each side");
    }
}

#[tokio::test]
async fn datagrams_of_clients_take_no_places_of_the_guests_own() {
    let port = bind(Protocol::Udp);
    let mut rig = Rig::with("host", |config| {
        config.published = vec![Arc::clone(&port)];
        config.max_udp_flows = 2;
    });
    let service = rig.guest.udp_at(GUEST_PORT);
    let mut clients = Vec::new();
    for _ in 0..4 {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(b"hello", port.address()).await.unwrap();
        clients.push(client);
    }
    for _ in 0..2 {
        assert_eq!(soon(service.receive()).await.1, b"hello");
    }
    let host = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let own = rig.guest.udp();
    own.send(gateway(host.local_addr().unwrap().port()), b"out");
    let mut got = [0; 8];
    let (len, _) = soon(host.recv_from(&mut got)).await.unwrap();
    assert_eq!(&got[..len], b"out");
    let limits = |event: &Event| matches!(event, Event::FlowLimit { .. });
    assert_eq!(rig.events().iter().filter(|event| limits(event)).count(), 1);
}

/// The gateway's port that stands for a client may be one on which TLS is intercepted.
#[tokio::test]
async fn answers_to_clients_are_never_taken_for_quic() {
    let port = bind(Protocol::Udp);
    let rig = Rig::with("public", |config| {
        config.published = vec![Arc::clone(&port)];
        config.refused_udp_ports = (49_152..49_160).collect();
    });
    let service = rig.guest.udp_at(GUEST_PORT);
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.send_to(b"hello", port.address()).await.unwrap();
    let (from, _) = soon(service.receive()).await;
    service.send(from, b"answer");
    let mut got = [0; 8];
    let (len, _) = soon(client.recv_from(&mut got)).await.unwrap();
    assert_eq!(&got[..len], b"answer");
}

/// Who is shut out by a policy was not refused by the guest as well.
#[tokio::test]
async fn a_client_that_a_policy_ends_is_told_of_once() {
    let port = bind(Protocol::Tcp);
    let (guest_link, link) = UnixStream::pair().unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let mut config = Config::new(rules(&[], "public"));
    config.published = vec![Arc::clone(&port)];
    let sink = Arc::clone(&events);
    config.events = Arc::new(move |event| sink.lock().unwrap().push(event));
    let (network, _flows) = msb_net::start(link, config);
    let mut client = TcpStream::connect(port.address()).await.unwrap();
    // Nobody is there to answer, so the connection is still being made.
    soon(guest_link.readable()).await.unwrap();
    network.replace_policy(rules(&["deny:ingress@any"], "public"));
    let error = soon(client.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let events = events.lock().unwrap();
    assert!(
        matches!(events[..], [Event::ClientDenied { .. }]),
        "{events:?}"
    );
}
