//! Where there is too little for all, everybody gets something, and nobody hears of it without end.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use msb_net::{Event, PublishedPort};
use msb_policy::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::guest::soon;
use crate::rig::{GATEWAY_V4, Rig, echo_service, gateway, ip, rules, serve};
use crate::robust::syn_frame;

const GUEST_PORT: u16 = 8080;

fn narrow(per_second: u64) -> Option<msb_net::Rate> {
    Some(msb_net::Rate {
        per_second: per_second.try_into().unwrap(),
        burst: 10_000.try_into().unwrap(),
    })
}

fn bind(protocol: Protocol) -> Arc<PublishedPort> {
    let address = "127.0.0.1:0".parse().unwrap();
    Arc::new(PublishedPort::bind(protocol, address, GUEST_PORT).unwrap())
}

/// A network whose guest may be sent little, with ports published in both protocols.
fn narrow_rig() -> (Rig, SocketAddr, SocketAddr) {
    let (tcp, udp) = (bind(Protocol::Tcp), bind(Protocol::Udp));
    let mut rig = Rig::with("host", |config| {
        config.ingress.bandwidth = narrow(2_000_000);
        config.published = vec![Arc::clone(&tcp), Arc::clone(&udp)];
    });
    rig.relay();
    (rig, tcp.address(), udp.address())
}

/// Everything that is not the bulk gets through in its time.
async fn use_all(rig: &Rig, tcp: SocketAddr, udp: SocketAddr) {
    let port = echo_service().await;
    let socket = rig.guest.connect(gateway(port)).await.unwrap();
    socket.write_all(b"ping").await.unwrap();
    assert_eq!(soon(socket.read_exact(4)).await.unwrap(), b"ping");

    let host = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let own = rig.guest.udp();
    own.send(gateway(host.local_addr().unwrap().port()), b"ask");
    let mut got = [0; 8];
    let (_, from) = soon(host.recv_from(&mut got)).await.unwrap();
    host.send_to(b"answer", from).await.unwrap();
    assert_eq!(soon(own.receive()).await.1, b"answer");

    let service = rig.guest.udp_at(GUEST_PORT);
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    client.send_to(b"hello", udp).await.unwrap();
    assert_eq!(soon(service.receive()).await.1, b"hello");

    let listening = rig.guest.listen(GUEST_PORT);
    let mut client = TcpStream::connect(tcp).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    listening.opened().await;
    assert_eq!(soon(listening.read_exact(5)).await.unwrap(), b"hello");
    listening.write_all(b"you").await.unwrap();
    let mut got = [0; 3];
    soon(client.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"you");
}

#[tokio::test]
async fn a_bulk_over_one_connection_leaves_room_for_all_else() {
    let (rig, tcp, udp) = narrow_rig();
    let endless =
        serve(|mut stream| async move { while stream.write_all(&[7; 65_536]).await.is_ok() {} })
            .await;
    let bulk = rig.guest.connect(gateway(endless)).await.unwrap();
    let read = async { while !bulk.read().await.unwrap().is_empty() {} };
    tokio::select! {
        () = read => panic!("the bulk has ended"),
        () = use_all(&rig, tcp, udp) => {}
    }
}

#[tokio::test]
async fn a_bulk_of_datagrams_leaves_room_for_all_else() {
    let (rig, tcp, udp) = narrow_rig();
    let host = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let asking = rig.guest.udp();
    asking.send(gateway(host.local_addr().unwrap().port()), b"more");
    let (_, from) = soon(host.recv_from(&mut [0; 8])).await.unwrap();
    let send = async {
        loop {
            // What the socket has no room for is lost.
            let _ = host.send_to(&[7; 8_000], from).await;
            // Four times what fits, and time for the network, which shares this thread.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = send => {}
        () = use_all(&rig, tcp, udp) => {}
    }
}

/// A guest must not be able to fill a disk with what it is refused, nor to hide among it what matters.
#[tokio::test]
async fn refusals_without_end_are_counted_and_leave_room_for_other_events() {
    const REFUSED: u64 = 20_000;
    let port = echo_service().await;
    let mut rig = Rig::with("none", |config| {
        config.policy = rules(&[&format!("allow@host:tcp:{port}")], "none");
    });
    for number in 0..REFUSED {
        let source = u16::try_from(number % 50_000).unwrap();
        rig.guest.send_frame(syn_frame(source + 1, 1));
    }
    rig.guest.ping(ip(GATEWAY_V4), b"behind them").await;
    let _socket = rig.guest.connect(gateway(port)).await.unwrap();
    let (mut told, mut omitted) = (0, 0);
    loop {
        match rig.event().await {
            Event::Denied { .. } => told += 1,
            Event::Omitted { count } => omitted += count,
            Event::Connected { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told + omitted, REFUSED);
    assert!(told < 5_000, "{told}");
}
