//! Kinds of links, ARP, neighbour discovery, and ping of the gateway.

use msb_net::Event;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixDatagram, UnixStream};

use crate::guest::soon;
use crate::rig::{GATEWAY_V4, GATEWAY_V6, Rig, count_service, echo_service, gateway, ip, pattern};

/// Longer than any frame may be.
const TOO_LONG: usize = 65_600;

/// Joins a link of one frame a datagram with the guest's, on which lengths stand before frames.
async fn join(datagrams: UnixDatagram, mut guest: UnixStream) {
    let mut datagram = vec![0; 70_000];
    let mut input = Vec::new();
    loop {
        tokio::select! {
            received = datagrams.recv(&mut datagram) => {
                let len = received.unwrap();
                let prefix = u32::try_from(len).unwrap().to_be_bytes();
                if guest.write_all(&[&prefix, &datagram[..len]].concat()).await.is_err() {
                    return;
                }
            }
            read = guest.read_buf(&mut input) => {
                if !matches!(read, Ok(1..)) {
                    return;
                }
            }
        }
        while let Some((prefix, rest)) = input.split_first_chunk::<4>()
            && let Some(frame) = rest.get(..u32::from_be_bytes(*prefix) as usize)
        {
            datagrams.send(frame).await.unwrap();
            input.drain(..4 + frame.len());
        }
    }
}

#[tokio::test]
async fn connections_work_with_one_frame_a_datagram() {
    let (link, other) = UnixDatagram::pair().unwrap();
    let (guest_link, guest) = UnixStream::pair().unwrap();
    // None of these is a frame to be answered.
    for len in [0, 1, 13, TOO_LONG] {
        other.send(&vec![0xff; len]).await.unwrap();
    }
    let joined = tokio::spawn(join(other, guest));
    let mut rig = Rig::over(link, guest_link, "host", |_| {});
    rig.relay();
    let socket = rig
        .guest
        .connect(gateway(echo_service().await))
        .await
        .unwrap();
    let data = pattern(200_000);
    socket.write_all(&data).await.unwrap();
    assert!(soon(socket.read_exact(data.len())).await.unwrap() == data);
    let count = rig
        .guest
        .connect(gateway(count_service().await))
        .await
        .unwrap();
    count.write_all(&pattern(3_000_000)).await.unwrap();
    count.close();
    assert_eq!(soon(count.read_to_end()).await.unwrap(), b"3000000");
    assert!(!joined.is_finished());
}

#[tokio::test]
async fn a_datagram_link_whose_peer_is_gone_ends_with_the_next_frame() {
    let (link, other) = UnixDatagram::pair().unwrap();
    let (guest_link, guest) = UnixStream::pair().unwrap();
    let joined = tokio::spawn(join(other, guest));
    let mut rig = Rig::over(link, guest_link, "host", |_| {});
    rig.relay();
    let port = crate::rig::serve(|mut stream| async move {
        let _ = stream.read_u8().await;
        while stream.write_all(b"still here?").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let socket = rig.guest.connect(gateway(port)).await.unwrap();
    socket.write_all(b"!").await.unwrap();
    soon(socket.read()).await.unwrap();
    joined.abort();
    soon(rig.network.closed()).await;
}

/// The guest resolves the gateway's hardware address (ARP, NDP) before its first packet.
#[tokio::test]
async fn the_gateway_answers_ping_in_both_families() {
    let rig = Rig::new("none");
    for gateway in [GATEWAY_V4, GATEWAY_V6] {
        for len in [0, 56, 1_500, 60_000] {
            let data = vec![9; len];
            assert!(
                rig.guest.ping(ip(gateway), &data).await == data,
                "{gateway} {len}"
            );
        }
    }
}

#[tokio::test]
async fn neighbours_other_than_the_gateway_do_not_exist() {
    let rig = Rig::new("none");
    rig.guest.ping(ip(GATEWAY_V4), b"warm").await;
    let mut frames = rig.guest.tap();
    let mut request = vec![0xff; 6];
    request.extend([
        2, 0x6d, 0x73, 0x62, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0x6d, 0x73, 0x62, 0, 2, 192, 0,
        0, 2,
    ]);
    request.extend([0, 0, 0, 0, 0, 0, 192, 0, 0, 3]);
    rig.guest.send_frame(request.clone());
    // Answers come in order: had the first request been answered, this one's would be second.
    *request.last_mut().unwrap() = 1;
    rig.guest.send_frame(request);
    let answer = soon(frames.recv()).await.unwrap();
    assert_eq!(&answer[20..22], [0, 2], "an ARP reply");
    assert_eq!(&answer[28..32], [192, 0, 0, 1]);
}

#[tokio::test]
async fn an_ended_link_is_reported() {
    let (guest, link) = UnixStream::pair().unwrap();
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let mut config = msb_net::Config::new(std::sync::Arc::default());
    config.nameservers = Some(Vec::new());
    config.events = std::sync::Arc::new(move |event| {
        let _ = sender.send(event);
    });
    let (mut network, _flows) = msb_net::start(link, config);
    drop(guest);
    soon(network.closed()).await;
    assert!(matches!(
        events.recv().await,
        Some(Event::LinkClosed { .. })
    ));
    soon(network.closed()).await;
}
