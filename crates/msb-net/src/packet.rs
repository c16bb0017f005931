//! What a frame from the guest is: parsed once into a type the engine can match on. Nothing here
//! keeps state, and every frame gets an answer: one of the handled kinds, or why it is dropped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
};

use crate::counters::Dropped;
use crate::fragments::Fragment;

mod ip;
mod transport;

/// A frame from the guest, as far as the engine needs to know it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Inbound<'a> {
    /// ARP: who has `target`?
    ArpRequest {
        hardware: EthernetAddress,
        source: Ipv4Addr,
        target: Ipv4Addr,
    },
    /// NDP: who has `target`? (RFC 4861; `source` is unspecified while the guest checks an address of its own)
    NeighborSolicit { source: Ipv6Addr, target: Ipv6Addr },
    /// NDP: is there a router? (`source` is unspecified while the guest has no address)
    RouterSolicit,
    /// A DHCP message of a guest that has no address yet.
    Dhcp(&'a [u8]),
    /// An ICMP or ICMPv6 echo request.
    Echo(Echo<'a>),
    /// A TCP segment.
    Tcp(Segment<'a>),
    /// A UDP datagram whose checksum holds.
    Udp(Datagram<'a>),
    /// A piece of a packet, or a packet with extension headers, to be [parsed](parse) when it is whole without them.
    Fragment(Fragment<'a>),
    /// Nothing to answer.
    Drop(Dropped),
}

/// An echo request and the addresses it travelled between.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Echo<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ident: u16,
    pub(crate) seq_no: u16,
    pub(crate) data: &'a [u8],
    pub(crate) hop_limit: u8,
    /// The whole IP packet, to quote in an ICMP error.
    pub(crate) packet: &'a [u8],
}

/// A TCP segment. Its checksum has been checked only if it opens a connection; the flow's own
/// TCP checks the others.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Segment<'a> {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// SYN without ACK and RST: asks for a new connection.
    pub(crate) opens: bool,
    pub(crate) reset: bool,
    /// Sequence number of the first octet.
    pub(crate) seq: i32,
    /// The acknowledgement, if the segment has one.
    pub(crate) ack: Option<i32>,
    /// Sequence space taken: payload, SYN and FIN.
    pub(crate) len: usize,
    /// The IP packet, without Ethernet padding.
    pub(crate) packet: &'a [u8],
}

/// A UDP datagram.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Datagram<'a> {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) payload: &'a [u8],
    pub(crate) hop_limit: u8,
    /// The IP packet, to quote in an ICMP error.
    pub(crate) packet: &'a [u8],
}

/// The sender's hardware address, if the frame is long enough to have a plausible one.
pub(crate) fn sender(frame: &[u8]) -> Option<EthernetAddress> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    let sender = frame.src_addr();
    (sender.is_unicast() && sender.0 != [0; 6]).then_some(sender)
}

/// Parses a frame sent to the gateway with hardware address `gateway`.
pub(crate) fn classify(frame: &[u8], gateway: EthernetAddress) -> Inbound<'_> {
    let Ok(frame) = EthernetFrame::new_checked(frame) else {
        return Inbound::Drop(Dropped::Malformed);
    };
    if frame.dst_addr() != gateway
        && !frame.dst_addr().is_broadcast()
        && !frame.dst_addr().is_multicast()
    {
        return Inbound::Drop(Dropped::OtherStation);
    }
    let parsed = match frame.ethertype() {
        EthernetProtocol::Arp => parse_arp(frame.payload()),
        EthernetProtocol::Ipv4 => ip::parse_v4(frame.payload()),
        EthernetProtocol::Ipv6 => ip::parse_v6(frame.payload()),
        EthernetProtocol::Unknown(_) => Err(Dropped::Protocol),
    };
    parsed.unwrap_or_else(Inbound::Drop)
}

/// Parses an IP packet.
pub(crate) fn parse(packet: &[u8]) -> Inbound<'_> {
    let parsed = match packet.first().map(|first| first >> 4) {
        Some(4) => ip::parse_v4(packet),
        _ => ip::parse_v6(packet),
    };
    parsed.unwrap_or_else(Inbound::Drop)
}

/// The TCP segment in an IP packet that [`classify`] has let through before.
pub(crate) fn segment(packet: &[u8]) -> Option<Segment<'_>> {
    match parse(packet) {
        Inbound::Tcp(segment) => Some(segment),
        _ => None,
    }
}

fn parse_arp(payload: &[u8]) -> Result<Inbound<'_>, Dropped> {
    let packet = ArpPacket::new_checked(payload).map_err(malformed)?;
    match ArpRepr::parse(&packet).map_err(malformed)? {
        ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } => Ok(Inbound::ArpRequest {
            hardware: source_hardware_addr,
            source: source_protocol_addr,
            target: target_protocol_addr,
        }),
        _ => Err(Dropped::Protocol),
    }
}

fn malformed(_: smoltcp::wire::Error) -> Dropped {
    Dropped::Malformed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{FrameReader, FrameWriter};
    use crate::reply::{self, Link};

    const GATEWAY: EthernetAddress = EthernetAddress([2, 0x6d, 0x73, 0x62, 0, 1]);

    /// A datagram frame towards the gateway.
    fn udp_frame(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
        let link = Link {
            local: EthernetAddress([2, 0, 0, 0, 0, 9]),
            remote: GATEWAY,
            mtu: 65_520,
        };
        let mut out = FrameWriter::new();
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        reply::datagram(&mut out, link, source, destination, payload);
        let mut reader = FrameReader::new();
        let bytes = out.pending();
        reader.space()[..bytes.len()].copy_from_slice(bytes);
        reader.filled(bytes.len());
        reader.next_frame().unwrap().to_vec()
    }

    #[test]
    fn a_datagram_is_read_back_as_it_was_written() {
        for (source, destination) in [
            ("192.0.0.2:4000", "8.8.8.8:53"),
            ("[fd00::2]:4000", "[2001:db8::1]:9"),
        ] {
            let frame = udp_frame(source, destination, b"abc");
            let Inbound::Udp(datagram) = classify(&frame, GATEWAY) else {
                panic!("not a datagram: {frame:?}");
            };
            assert_eq!(datagram.source.to_string(), source);
            assert_eq!(datagram.destination.to_string(), destination);
            assert_eq!(datagram.payload, b"abc");
        }
    }

    #[test]
    fn every_truncation_of_a_datagram_is_dropped() {
        for (source, destination) in [
            ("192.0.0.2:4000", "8.8.8.8:53"),
            ("[fd00::2]:4000", "[2001:db8::1]:9"),
        ] {
            let frame = udp_frame(source, destination, b"abc");
            for len in 0..frame.len() {
                let inbound = classify(&frame[..len], GATEWAY);
                assert!(matches!(inbound, Inbound::Drop(_)), "{len}: {inbound:?}");
            }
        }
    }

    /// Multicast is not carried, and a host takes the inner address of such a packet for its destination.
    #[test]
    fn what_goes_to_more_than_one_is_dropped_inside_of_other_addresses_too() {
        for destination in ["239.255.255.250", "255.255.255.255", "0.0.0.0"] {
            for destination in [
                format!("{destination}:1900"),
                format!("[::ffff:{destination}]:1900"),
            ] {
                let source = match destination.contains('[') {
                    true => "[fd00::2]:4000",
                    false => "192.0.0.2:4000",
                };
                let frame = udp_frame(source, &destination, b"abc");
                let inbound = classify(&frame, GATEWAY);
                assert_eq!(inbound, Inbound::Drop(Dropped::Address), "{destination}");
            }
        }
    }

    #[test]
    fn a_frame_for_another_station_is_dropped() {
        let mut frame = udp_frame("192.0.0.2:4000", "8.8.8.8:53", b"abc");
        frame[5] ^= 0x10;
        assert_eq!(
            classify(&frame, GATEWAY),
            Inbound::Drop(Dropped::OtherStation)
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            mut frame in proptest::collection::vec(any::<u8>(), 0..200),
            ethertype in proptest::sample::select(vec![0x0800_u16, 0x0806, 0x86dd]),
            version in proptest::sample::select(vec![0x45_u8, 0x46, 0x60]),
        ) {
            if frame.len() > 15 {
                frame[..6].copy_from_slice(&GATEWAY.0);
                frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
                frame[14] = version;
            }
            classify(&frame, GATEWAY);
            sender(&frame);
        }

        #[test]
        fn a_damaged_datagram_is_never_taken_for_another(
            flip in 0_usize..400,
        ) {
            let mut frame = udp_frame("192.0.0.2:4000", "8.8.8.8:53", b"a payload of some bytes");
            let bit = flip % (frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
            if let Inbound::Udp(datagram) = classify(&frame, GATEWAY) {
                // Only bits that no checksum covers may change unnoticed: the Ethernet header's.
                prop_assert!(bit / 8 < 14, "{datagram:?}");
            }
        }
    }
}
