//! Nothing a guest puts on the link stops its other connections.

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::guest::soon;
use crate::rig::{GATEWAY_V4, Rig, echo_service, gateway, ip};

const HEADER: [u8; 12] = [2, 0x6d, 0x73, 0x62, 0, 1, 2, 0x6d, 0x73, 0x62, 0, 2];

/// Frames that get past the first checks more often than random ones.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let ethertype = prop_oneof![
        Just([8_u8, 0]),
        Just([8, 6]),
        Just([0x86, 0xdd]),
        any::<[u8; 2]>()
    ];
    let body = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..100),
        (ipv4_header(), proptest::collection::vec(any::<u8>(), 0..80)).prop_map(
            |(mut header, body)| {
                let len = u16::try_from(20 + body.len()).unwrap();
                header[2..4].copy_from_slice(&len.to_be_bytes());
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                [header, body].concat()
            }
        ),
    ];
    (ethertype, body).prop_map(|(ethertype, body)| [&HEADER[..], &ethertype, &body].concat())
}

fn ipv4_header() -> impl Strategy<Value = Vec<u8>> {
    let protocol = prop_oneof![Just(6_u8), Just(17), Just(1), any::<u8>()];
    (protocol, any::<u16>()).prop_map(|(protocol, fragment)| {
        let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        if fragment < 1000 {
            header[6..8].copy_from_slice(&fragment.to_be_bytes());
        }
        header.extend([192, 0, 0, 2, 192, 0, 0, 1]);
        header
    })
}

fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

#[test]
fn garbage_frames_leave_other_flows_working() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (mut rig, socket) = runtime.block_on(async {
        let rig = Rig::new("host");
        let socket = rig
            .guest
            .connect(gateway(echo_service().await))
            .await
            .unwrap();
        (rig, socket)
    });
    runtime.block_on(async { rig.relay() });
    let config = ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(garbage in proptest::collection::vec(frames(), 1..60))| {
        runtime.block_on(async {
            for frame in garbage {
                rig.guest.send_frame(frame);
            }
            socket.write_all(b"ping").await.unwrap();
            assert_eq!(soon(socket.read_exact(4)).await.unwrap(), b"ping");
        });
    });
}

/// Segments of a live flow with every kind of nonsense in their TCP header, checksums right.
#[test]
fn wrong_segments_of_one_flow_leave_other_flows_working() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (rig, socket) = runtime.block_on(async {
        let mut rig = Rig::new("host");
        let port = echo_service().await;
        rig.relay();
        let socket = rig.guest.connect(gateway(port)).await.unwrap();
        (rig, (socket, port))
    });
    let (socket, port) = socket;
    let segment = (
        any::<u16>(),
        any::<[u8; 8]>(),
        any::<u8>(),
        any::<u16>(),
        proptest::collection::vec(any::<u8>(), 0..40),
    );
    let config = ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(segments in proptest::collection::vec(segment, 1..40))| {
        runtime.block_on(async {
            for (source_port, numbers, flags, window, payload) in segments {
                // A few ports only, so that flows are opened and then hit again.
                let source_port = 1 + source_port % 4;
                rig.guest.send_frame(tcp_frame(source_port, port, numbers, flags, window, &payload));
            }
            socket.write_all(b"ping").await.unwrap();
            assert_eq!(soon(socket.read_exact(4)).await.unwrap(), b"ping");
        });
    });
}

#[tokio::test]
async fn a_syn_flood_leaves_other_flows_working() {
    let mut rig = Rig::new("host");
    rig.relay();
    let port = echo_service().await;
    let socket = rig.guest.connect(gateway(port)).await.unwrap();
    for source_port in 1..=5_000 {
        rig.guest
            .send_frame(tcp_frame(source_port, port, [0; 8], 2, 1_000, &[]));
    }
    socket.write_all(b"ping").await.unwrap();
    assert_eq!(soon(socket.read_exact(4)).await.unwrap(), b"ping");
    rig.guest.ping(ip(GATEWAY_V4), b"alive").await;
}

/// Asks the gateway for a connection.
pub(crate) fn syn_frame(source: u16, destination: u16) -> Vec<u8> {
    tcp_frame(source, destination, [0; 8], 2, 1_000, &[])
}

fn tcp_frame(
    source: u16,
    destination: u16,
    numbers: [u8; 8],
    flags: u8,
    window: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut tcp = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    tcp.extend(numbers);
    tcp.extend([0x50, flags]);
    tcp.extend(window.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend(payload);
    let len = u16::try_from(tcp.len()).unwrap();
    let mut pseudo = vec![192, 0, 0, 2, 192, 0, 0, 1, 0, 6];
    pseudo.extend(len.to_be_bytes());
    pseudo.extend(&tcp);
    if pseudo.len() % 2 == 1 {
        pseudo.push(0);
    }
    let sum = checksum(&pseudo);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut ip = vec![0x45, 0];
    ip.extend((len + 20).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 0, 2, 192, 0, 0, 1]);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    [&HEADER[..], &[8, 0], &ip, &tcp].concat()
}

/// Only a least time is asserted, which a token bucket must keep however busy the machine is.
#[tokio::test]
async fn what_is_over_a_rate_waits_and_is_not_lost() {
    const LEN: usize = 600_000;
    let rate = |per_second: u64| {
        Some(msb_net::Rate {
            per_second: per_second.try_into().unwrap(),
            burst: 100_000.try_into().unwrap(),
        })
    };
    for (egress, ingress) in [(1_000_000, u64::MAX / 2), (u64::MAX / 2, 1_000_000)] {
        let mut rig = Rig::with("host", |config| {
            config.egress.bandwidth = rate(egress);
            config.ingress.bandwidth = rate(ingress);
        });
        rig.relay();
        let socket = rig
            .guest
            .connect(gateway(echo_service().await))
            .await
            .unwrap();
        let started = std::time::Instant::now();
        let data = crate::rig::pattern(LEN);
        let write = async {
            socket.write_all(&data).await.unwrap();
            socket.close();
        };
        let (received, ()) = soon(async { tokio::join!(socket.read_to_end(), write) }).await;
        assert!(received.unwrap() == data);
        // All but the burst and one frame, at 1 MB/s.
        let least = Duration::from_millis(600 - 100 - 66);
        assert!(started.elapsed() >= least, "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_bound_on_frames_counts_frames() {
    let rate = |per_second: u64, burst: u64| {
        Some(msb_net::Rate {
            per_second: per_second.try_into().unwrap(),
            burst: burst.try_into().unwrap(),
        })
    };
    let rig = Rig::with("none", |config| config.egress.ops = rate(100, 5));
    rig.guest.ping(ip(GATEWAY_V4), b"warm").await;
    let started = std::time::Instant::now();
    let mut frames = rig.guest.tap();
    for _ in 0..40 {
        rig.guest.send_frame(ping_frame(8));
    }
    for _ in 0..40 {
        soon(frames.recv()).await.unwrap();
    }
    assert!(started.elapsed() >= Duration::from_millis(10 * (40 - 5 - 1)));
}

/// "No bound" is written so by some.
#[tokio::test]
async fn the_largest_settings_are_no_bounds() {
    let most = Some(msb_net::Rate::per_second(std::num::NonZeroU64::MAX));
    let rig = Rig::with("public", |config| {
        config.max_flows = usize::MAX;
        config.max_udp_flows = usize::MAX;
        config.query_timeout = Duration::MAX;
        config.mtu = u16::MAX;
        for rates in [&mut config.egress, &mut config.ingress] {
            (rates.bandwidth, rates.ops) = (most, most);
        }
    });
    assert_eq!(rig.guest.ping(ip(GATEWAY_V4), b"alive").await, b"alive");
}

#[tokio::test]
async fn a_guest_that_does_not_read_its_link_is_not_read_either() {
    let (mut guest, link) = UnixStream::pair().unwrap();
    let mut config = msb_net::Config::new(std::sync::Arc::default());
    config.nameservers = Some(Vec::new());
    let (_network, _flows) = msb_net::start(link, config);
    let request = ping_frame(60_000);
    let mut framed = u32::try_from(request.len()).unwrap().to_be_bytes().to_vec();
    framed.extend(&request);

    let mut sent = 0;
    while let Ok(written) = timeout(Duration::from_millis(500), guest.write_all(&framed)).await {
        written.unwrap();
        sent += 1;
        assert!(
            sent < 1_000,
            "60 MB of answers are kept for a guest that does not read"
        );
    }
    // What the last write left behind is finished as soon as there is room again.
    let (mut read, mut answers) = (vec![0; framed.len()], 0);
    while answers < sent {
        soon(guest.read_exact(&mut read)).await.unwrap();
        assert_eq!(&read[..4], &framed[..4]);
        answers += 1;
    }
}

fn ping_frame(len: usize) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 0, 1, 0, 1];
    icmp.resize(8 + len, 0x5a);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let total = u16::try_from(20 + icmp.len()).unwrap();
    let mut ip = vec![0x45, 0];
    ip.extend(total.to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 0, 2, 192, 0, 0, 1]);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    [&HEADER[..], &[8, 0], &ip, &icmp].concat()
}
