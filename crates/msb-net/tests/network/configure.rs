//! A guest that asks for its configuration.

use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv6Packet, Icmpv6Repr, Ipv6Packet, NdiscPrefixInfoFlags, NdiscRepr};

use crate::guest::soon;
use crate::rig::{GATEWAY_V4, GATEWAY_V6, Rig, ip};

const ROUTER_SOLICIT: [u8; 8] = [133, 0, 0, 0, 0, 0, 0, 0];

/// smoltcp's client: discover, offer, request, acknowledgement.
#[tokio::test]
async fn a_dhcp_client_gets_the_guests_address_router_and_name_server() {
    let rig = Rig::new("none");
    let mut frames = rig.guest.tap();
    let lease = rig.guest.lease().await;
    assert_eq!(lease.address.to_string(), "192.0.0.2/29");
    assert_eq!(lease.router, Some(Ipv4Addr::new(192, 0, 0, 1)));
    assert_eq!(lease.dns_servers[..], [Ipv4Addr::new(192, 0, 0, 1)]);
    let mut offers = 0;
    while let Ok(frame) = frames.try_recv() {
        // Option 26 with the link's MTU.
        if frame.windows(4).any(|option| option == [26, 2, 0xff, 0xf0]) {
            offers += 1;
        }
    }
    assert_eq!(offers, 2, "an offer and an acknowledgement");
}

#[tokio::test]
async fn a_router_solicitation_is_answered_with_prefix_mtu_and_name_server() {
    let rig = Rig::new("none");
    let mut frames = rig.guest.tap();
    let source = "fe80::1".parse().unwrap();
    let all_routers = "ff02::2".parse().unwrap();
    let mut message = ROUTER_SOLICIT;
    Icmpv6Packet::new_unchecked(&mut message).fill_checksum(&source, &all_routers);
    let mut frame = vec![
        0x33, 0x33, 0, 0, 0, 2, 2, 0x6d, 0x73, 0x62, 0, 2, 0x86, 0xdd,
    ];
    frame.extend([0x60, 0, 0, 0, 0, 8, 58, 255]);
    frame.extend(source.octets());
    frame.extend(all_routers.octets());
    frame.extend(message);
    // One from beyond a router is not for us (RFC 4861, 6.1.1).
    let mut forwarded = frame.clone();
    forwarded[21] = 254;
    rig.guest.send_frame(forwarded);
    rig.guest.send_frame(frame);
    let advert = soon(frames.recv()).await.unwrap();
    let packet = Ipv6Packet::new_checked(&advert[14..]).unwrap();
    assert_eq!(packet.hop_limit(), 255);
    let icmp = Icmpv6Packet::new_checked(packet.payload()).unwrap();
    let checksums = ChecksumCapabilities::default();
    let repr = Icmpv6Repr::parse(&packet.src_addr(), &packet.dst_addr(), &icmp, &checksums);
    let Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert {
        mtu,
        prefix_info,
        router_lifetime,
        ..
    }) = repr.unwrap()
    else {
        panic!("{repr:?}");
    };
    assert_eq!(mtu, Some(65_520));
    assert_eq!(router_lifetime.secs(), 9_000);
    let prefix = prefix_info.unwrap();
    assert_eq!(
        (prefix.prefix, prefix.prefix_len),
        ("fd00:6d:7362::".parse().unwrap(), 64)
    );
    assert!(prefix.flags.contains(NdiscPrefixInfoFlags::ADDRCONF));
    // RFC 8106: option 25, three units of 8 octets, for ever, the gateway.
    let gateway: std::net::Ipv6Addr = GATEWAY_V6.parse().unwrap();
    let rdnss = [
        &[25, 3, 0, 0, 0xff, 0xff, 0xff, 0xff][..],
        &gateway.octets(),
    ]
    .concat();
    assert_eq!(advert[advert.len() - rdnss.len()..], rdnss);
}

#[tokio::test]
async fn what_is_dropped_is_counted_by_reason() {
    let rig = Rig::new("none");
    rig.guest.ping(ip(GATEWAY_V4), b"warm").await;
    let before = rig.network.counters();
    let header = [2, 0x6d, 0x73, 0x62, 0, 1, 2, 0x6d, 0x73, 0x62, 0, 2];
    let mut to_another = header;
    to_another[5] = 9;
    let truncated = [&header[..], &[8, 0, 0x45, 0, 0, 20]].concat();
    let unknown = [&header[..], &[0x88, 0xcc, 0]].concat();
    for _ in 0..3 {
        rig.guest.send_frame([&to_another[..], &[8, 0]].concat());
    }
    for _ in 0..2 {
        rig.guest.send_frame(truncated.clone());
    }
    rig.guest.send_frame(unknown);
    let response = [0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let socket = rig.guest.udp();
    socket.send(crate::rig::gateway(53), &response);
    rig.guest.ping(ip(GATEWAY_V4), b"behind them").await;
    let counted = rig.network.counters();
    assert_eq!(counted.other_station - before.other_station, 3);
    assert_eq!(counted.malformed - before.malformed, 2);
    assert_eq!(counted.protocol - before.protocol, 1);
    assert_eq!(counted.query - before.query, 1);
}
