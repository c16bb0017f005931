//! What a frame from the guest is: parsed once into a type the engine can match on. Nothing here
//! keeps state, and every frame gets an answer: one of the handled kinds, or why it is dropped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DHCP_SERVER_PORT, EthernetAddress, EthernetFrame,
    EthernetProtocol, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet,
    Ipv6ExtHeader, Ipv6FragmentHeader, Ipv6Packet, NdiscRepr, TcpPacket, UdpPacket,
};

use crate::counters::Dropped;
use crate::fragments::{Fragment, Key};

/// Extension headers looked behind in one packet; nobody sends more than a few.
const MAX_EXTENSIONS: usize = 4;

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
        EthernetProtocol::Ipv4 => parse_ipv4(frame.payload()),
        EthernetProtocol::Ipv6 => parse_ipv6(frame.payload()),
        EthernetProtocol::Unknown(_) => Err(Dropped::Protocol),
    };
    parsed.unwrap_or_else(Inbound::Drop)
}

/// Parses an IP packet.
pub(crate) fn parse(packet: &[u8]) -> Inbound<'_> {
    let parsed = match packet.first().map(|first| first >> 4) {
        Some(4) => parse_ipv4(packet),
        _ => parse_ipv6(packet),
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

fn parse_ipv4(payload: &[u8]) -> Result<Inbound<'_>, Dropped> {
    let ip = Ipv4Packet::new_checked(payload).map_err(malformed)?;
    if ip.version() != 4 || !ip.verify_checksum() {
        return Err(Dropped::Malformed);
    }
    let (source, destination) = (ip.src_addr(), ip.dst_addr());
    let packet = payload
        .get(..usize::from(ip.total_len()))
        .ok_or(Dropped::Malformed)?;
    let (header, body) = packet
        .split_at_checked(usize::from(ip.header_len()))
        .ok_or(Dropped::Malformed)?;
    if destination.is_broadcast() && ip.next_header() == IpProtocol::Udp {
        return parse_dhcp(source.into(), destination.into(), body);
    }
    if source.is_unspecified()
        || source.is_multicast()
        || source.is_broadcast()
        || !is_unicast_v4(destination)
    {
        return Err(Dropped::Address);
    }
    if ip.more_frags() || ip.frag_offset() != 0 {
        return Ok(Inbound::Fragment(Fragment {
            key: Key {
                source: source.into(),
                destination: destination.into(),
                protocol: Some(ip.next_header()),
                ident: ip.ident().into(),
            },
            header,
            protocol: ip.next_header(),
            offset: usize::from(ip.frag_offset()),
            is_last: !ip.more_frags(),
            data: body,
        }));
    }
    match ip.next_header() {
        IpProtocol::Tcp => parse_tcp(source.into(), destination.into(), body, packet),
        IpProtocol::Udp => parse_udp(
            source.into(),
            destination.into(),
            ip.hop_limit(),
            body,
            packet,
        ),
        IpProtocol::Icmp => {
            let icmp = Icmpv4Packet::new_checked(body).map_err(malformed)?;
            match Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::default()).map_err(malformed)? {
                Icmpv4Repr::EchoRequest { ident, seq_no, .. } => Ok(Inbound::Echo(Echo {
                    source: source.into(),
                    destination: destination.into(),
                    ident,
                    seq_no,
                    data: body.get(icmp.header_len()..).unwrap_or_default(),
                    hop_limit: ip.hop_limit(),
                    packet,
                })),
                _ => Err(Dropped::Protocol),
            }
        }
        _ => Err(Dropped::Protocol),
    }
}

fn parse_ipv6(payload: &[u8]) -> Result<Inbound<'_>, Dropped> {
    let ip = Ipv6Packet::new_checked(payload).map_err(malformed)?;
    if ip.version() != 6 {
        return Err(Dropped::Malformed);
    }
    let (source, destination) = (ip.src_addr(), ip.dst_addr());
    let packet = payload.get(..ip.total_len()).ok_or(Dropped::Malformed)?;
    let body = packet.get(ip.header_len()..).ok_or(Dropped::Malformed)?;
    if source.is_multicast() {
        return Err(Dropped::Address);
    }
    if ip.next_header() == IpProtocol::Icmpv6 {
        return parse_icmpv6(source, destination, body, packet, ip.hop_limit());
    }
    if is_extension(ip.next_header()) {
        return parse_extensions(&ip, packet);
    }
    if source.is_unspecified() || destination.is_unspecified() || destination.is_multicast() {
        return Err(Dropped::Address);
    }
    match ip.next_header() {
        IpProtocol::Tcp => parse_tcp(source.into(), destination.into(), body, packet),
        IpProtocol::Udp => parse_udp(
            source.into(),
            destination.into(),
            ip.hop_limit(),
            body,
            packet,
        ),
        _ => Err(Dropped::Protocol),
    }
}

fn is_extension(protocol: IpProtocol) -> bool {
    let skipped = [IpProtocol::HopByHop, IpProtocol::Ipv6Opts];
    skipped.contains(&protocol) || protocol == IpProtocol::Ipv6Frag
}

/// Looks behind extension headers (RFC 8200, 4). What options say is for routers and receivers, of which the gateway is
/// neither; routing headers and the rest are not carried.
fn parse_extensions<'a>(
    ip: &Ipv6Packet<&'a [u8]>,
    packet: &'a [u8],
) -> Result<Inbound<'a>, Dropped> {
    let (header, mut rest) = packet
        .split_at_checked(ip.header_len())
        .ok_or(Dropped::Malformed)?;
    let mut fragment = Fragment {
        key: Key {
            source: ip.src_addr().into(),
            destination: ip.dst_addr().into(),
            protocol: None,
            ident: 0,
        },
        header,
        protocol: ip.next_header(),
        offset: 0,
        is_last: true,
        data: rest,
    };
    for _ in 0..MAX_EXTENSIONS {
        let is_fragment = fragment.protocol == IpProtocol::Ipv6Frag;
        if !is_extension(fragment.protocol) {
            return Ok(Inbound::Fragment(fragment));
        }
        let extension = Ipv6ExtHeader::new_checked(rest).map_err(malformed)?;
        let len = match is_fragment {
            // Its length field is reserved.
            true => 8,
            false => 8 * (1 + usize::from(extension.header_len())),
        };
        fragment.protocol = extension.next_header();
        let (header, behind) = rest.split_at_checked(len).ok_or(Dropped::Malformed)?;
        fragment.data = behind;
        rest = behind;
        if is_fragment {
            let fields = Ipv6FragmentHeader::new_checked(&header[2..]).map_err(malformed)?;
            fragment.key.ident = fields.ident();
            fragment.offset = 8 * usize::from(fields.frag_offset());
            fragment.is_last = !fields.more_frags();
            // What else there is before the payload is in the first fragment only, so it is looked at in the whole.
            return Ok(Inbound::Fragment(fragment));
        }
    }
    Err(Dropped::Protocol)
}

/// A broadcast: only the search for a DHCP server is for the gateway.
fn parse_dhcp(source: IpAddr, destination: IpAddr, body: &[u8]) -> Result<Inbound<'_>, Dropped> {
    let udp = UdpPacket::new_checked(body).map_err(malformed)?;
    if udp.dst_port() != DHCP_SERVER_PORT {
        return Err(Dropped::Address);
    }
    if !udp.verify_checksum(&source.into(), &destination.into()) {
        return Err(Dropped::Malformed);
    }
    let message = body.get(8..usize::from(udp.len()));
    message.map(Inbound::Dhcp).ok_or(Dropped::Malformed)
}

fn parse_icmpv6<'a>(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    body: &'a [u8],
    packet: &'a [u8],
    hop_limit: u8,
) -> Result<Inbound<'a>, Dropped> {
    let icmp = Icmpv6Packet::new_checked(body).map_err(malformed)?;
    match Icmpv6Repr::parse(
        &source,
        &destination,
        &icmp,
        &ChecksumCapabilities::default(),
    )
    .map_err(malformed)?
    {
        Icmpv6Repr::EchoRequest { ident, seq_no, .. }
            if !source.is_unspecified() && !destination.is_multicast() =>
        {
            Ok(Inbound::Echo(Echo {
                source: source.into(),
                destination: destination.into(),
                ident,
                seq_no,
                data: body.get(icmp.header_len()..).unwrap_or_default(),
                hop_limit,
                packet,
            }))
        }
        Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { .. }) if hop_limit == 255 => {
            Ok(Inbound::RouterSolicit)
        }
        // RFC 4861, 7.1.1: a hop limit of 255 shows that no router forwarded it.
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. }) if hop_limit == 255 => {
            Ok(Inbound::NeighborSolicit {
                source,
                target: target_addr,
            })
        }
        _ => Err(Dropped::Protocol),
    }
}

fn parse_tcp<'a>(
    source: IpAddr,
    destination: IpAddr,
    body: &'a [u8],
    packet: &'a [u8],
) -> Result<Inbound<'a>, Dropped> {
    let tcp = TcpPacket::new_checked(body).map_err(malformed)?;
    let opens = tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin();
    if tcp.src_port() == 0 || tcp.dst_port() == 0 {
        return Err(Dropped::Malformed);
    }
    if opens && !tcp.verify_checksum(&source.into(), &destination.into()) {
        return Err(Dropped::Malformed);
    }
    Ok(Inbound::Tcp(Segment {
        source: SocketAddr::new(source, tcp.src_port()),
        destination: SocketAddr::new(destination, tcp.dst_port()),
        opens,
        reset: tcp.rst(),
        seq: tcp.seq_number().0,
        ack: tcp.ack().then(|| tcp.ack_number().0),
        len: tcp.segment_len(),
        packet,
    }))
}

fn parse_udp<'a>(
    source: IpAddr,
    destination: IpAddr,
    hop_limit: u8,
    body: &'a [u8],
    packet: &'a [u8],
) -> Result<Inbound<'a>, Dropped> {
    let udp = UdpPacket::new_checked(body).map_err(malformed)?;
    if udp.src_port() == 0
        || udp.dst_port() == 0
        || !udp.verify_checksum(&source.into(), &destination.into())
    {
        return Err(Dropped::Malformed);
    }
    Ok(Inbound::Udp(Datagram {
        source: SocketAddr::new(source, udp.src_port()),
        destination: SocketAddr::new(destination, udp.dst_port()),
        payload: body
            .get(8..usize::from(udp.len()))
            .ok_or(Dropped::Malformed)?,
        hop_limit,
        packet,
    }))
}

fn is_unicast_v4(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast()
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
