//! Packets the gateway makes itself: ARP and NDP answers, echo replies, ICMP errors, datagrams and
//! resets. Each function appends one whole frame to a [`FrameWriter`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable,
    Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, IpRepr, Ipv4Packet, Ipv4Repr, Ipv6Packet,
    Ipv6Repr, NdiscNeighborFlags, NdiscRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
    UdpPacket, UdpRepr,
};

use crate::frame::{ETHERNET_HEADER_LEN, FrameWriter};
use crate::packet::{Echo, Segment};

/// Octets of a refused packet that an error quotes after the IP header: enough for a TCP or UDP
/// header, within RFC 1812's 576 and RFC 4443's 1280 octets.
const QUOTED_LEN: usize = 128;
/// Hop limit of what the gateway sends (IANA's default TTL).
const HOP_LIMIT: u8 = 64;
const UDP_HEADER_LEN: usize = 8;

/// The two hardware addresses of the guest's link, seen from the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) local: EthernetAddress,
    pub(crate) remote: EthernetAddress,
}

/// Why a packet is answered with an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// Nothing listens on that port.
    Port,
    /// The host cannot be reached.
    Host,
    /// Policy forbids it.
    Prohibited,
}

/// Answers an ARP request: `local` has `target`.
pub(crate) fn arp(
    out: &mut FrameWriter,
    link: Link,
    requester: (EthernetAddress, Ipv4Addr),
    target: Ipv4Addr,
) {
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: link.local,
        source_protocol_addr: target,
        target_hardware_addr: requester.0,
        target_protocol_addr: requester.1,
    };
    frame(
        out,
        link,
        EthernetProtocol::Arp,
        repr.buffer_len(),
        |payload| {
            repr.emit(&mut ArpPacket::new_unchecked(payload));
        },
    );
}

/// Answers a neighbour solicitation: `local` has `target`. An unspecified `requester` is checking
/// the address for itself, and told through all-nodes (RFC 4861, 7.2.4).
pub(crate) fn neighbor_advert(
    out: &mut FrameWriter,
    link: Link,
    requester: Ipv6Addr,
    target: Ipv6Addr,
) {
    let solicited = !requester.is_unspecified();
    let destination = if solicited {
        requester
    } else {
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)
    };
    let mut flags = NdiscNeighborFlags::OVERRIDE | NdiscNeighborFlags::ROUTER;
    flags.set(NdiscNeighborFlags::SOLICITED, solicited);
    let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags,
        target_addr: target,
        lladdr: Some(link.local.into()),
    });
    let addresses = (target.into(), destination.into());
    ip(
        out,
        link,
        addresses,
        IpProtocol::Icmpv6,
        255,
        repr.buffer_len(),
        |payload| {
            let checksums = ChecksumCapabilities::default();
            repr.emit(
                &target,
                &destination,
                &mut Icmpv6Packet::new_unchecked(payload),
                &checksums,
            );
        },
    );
}

/// Answers an echo request.
pub(crate) fn echo(out: &mut FrameWriter, link: Link, request: &Echo<'_>) {
    let (ident, seq_no, data) = (request.ident, request.seq_no, request.data);
    let checksums = ChecksumCapabilities::default();
    let addresses = (request.destination, request.source);
    match addresses {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let repr = Icmpv6Repr::EchoReply {
                ident,
                seq_no,
                data,
            };
            ip(
                out,
                link,
                addresses,
                IpProtocol::Icmpv6,
                HOP_LIMIT,
                repr.buffer_len(),
                |payload| {
                    repr.emit(
                        &source,
                        &destination,
                        &mut Icmpv6Packet::new_unchecked(payload),
                        &checksums,
                    );
                },
            );
        }
        _ => {
            let repr = Icmpv4Repr::EchoReply {
                ident,
                seq_no,
                data,
            };
            ip(
                out,
                link,
                addresses,
                IpProtocol::Icmp,
                HOP_LIMIT,
                repr.buffer_len(),
                |payload| {
                    repr.emit(&mut Icmpv4Packet::new_unchecked(payload), &checksums);
                },
            );
        }
    }
}

/// Answers `packet`, a whole and checked IP packet, with an ICMP error from `from`.
pub(crate) fn unreachable(
    out: &mut FrameWriter,
    link: Link,
    from: IpAddr,
    packet: &[u8],
    reason: Unreachable,
) {
    let checksums = ChecksumCapabilities::default();
    match from {
        IpAddr::V4(from) => {
            let Some((header, data)) = quote_v4(packet) else {
                return;
            };
            let reason = match reason {
                Unreachable::Port => Icmpv4DstUnreachable::PortUnreachable,
                Unreachable::Host => Icmpv4DstUnreachable::HostUnreachable,
                Unreachable::Prohibited => Icmpv4DstUnreachable::CommProhibited,
            };
            let addresses = (from.into(), header.src_addr.into());
            let repr = Icmpv4Repr::DstUnreachable {
                reason,
                header,
                data,
            };
            ip(
                out,
                link,
                addresses,
                IpProtocol::Icmp,
                HOP_LIMIT,
                repr.buffer_len(),
                |payload| {
                    repr.emit(&mut Icmpv4Packet::new_unchecked(payload), &checksums);
                },
            );
        }
        IpAddr::V6(from) => {
            let Some((header, data)) = quote_v6(packet) else {
                return;
            };
            let reason = match reason {
                Unreachable::Port => Icmpv6DstUnreachable::PortUnreachable,
                Unreachable::Host => Icmpv6DstUnreachable::AddrUnreachable,
                Unreachable::Prohibited => Icmpv6DstUnreachable::AdminProhibit,
            };
            let destination = header.src_addr;
            let repr = Icmpv6Repr::DstUnreachable {
                reason,
                header,
                data,
            };
            let addresses = (from.into(), destination.into());
            ip(
                out,
                link,
                addresses,
                IpProtocol::Icmpv6,
                HOP_LIMIT,
                repr.buffer_len(),
                |payload| {
                    repr.emit(
                        &from,
                        &destination,
                        &mut Icmpv6Packet::new_unchecked(payload),
                        &checksums,
                    );
                },
            );
        }
    }
}

/// Sends a datagram; one longer than an IP packet can carry is dropped.
pub(crate) fn datagram(
    out: &mut FrameWriter,
    link: Link,
    source: SocketAddr,
    destination: SocketAddr,
    payload: &[u8],
) {
    let repr = UdpRepr {
        src_port: source.port(),
        dst_port: destination.port(),
    };
    let addresses = (source.ip(), destination.ip());
    ip(
        out,
        link,
        addresses,
        IpProtocol::Udp,
        HOP_LIMIT,
        UDP_HEADER_LEN + payload.len(),
        |buffer| {
            repr.emit(
                &mut UdpPacket::new_unchecked(buffer),
                &source.ip().into(),
                &destination.ip().into(),
                payload.len(),
                |body| body.copy_from_slice(payload),
                &ChecksumCapabilities::default(),
            );
        },
    );
}

/// Resets the connection `segment` belongs to, or asks for (RFC 9293, 3.10.7.1).
pub(crate) fn reset(out: &mut FrameWriter, link: Link, segment: &Segment<'_>) {
    if segment.reset {
        return;
    }
    let (seq, ack) = match segment.ack {
        Some(ack) => (TcpSeqNumber(ack), None),
        None => (
            TcpSeqNumber(0),
            Some(TcpSeqNumber(segment.seq) + segment.len),
        ),
    };
    let repr = TcpRepr {
        src_port: segment.destination.port(),
        dst_port: segment.source.port(),
        control: TcpControl::Rst,
        seq_number: seq,
        ack_number: ack,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let addresses = (segment.destination.ip(), segment.source.ip());
    ip(
        out,
        link,
        addresses,
        IpProtocol::Tcp,
        HOP_LIMIT,
        repr.buffer_len(),
        |payload| {
            repr.emit(
                &mut TcpPacket::new_unchecked(payload),
                &addresses.0.into(),
                &addresses.1.into(),
                &ChecksumCapabilities::default(),
            );
        },
    );
}

fn quote_v4(packet: &[u8]) -> Option<(Ipv4Repr, &[u8])> {
    let header = Ipv4Packet::new_checked(packet).ok()?;
    let repr = Ipv4Repr::parse(&header, &ChecksumCapabilities::ignored()).ok()?;
    let body = packet.get(usize::from(header.header_len())..)?;
    Some((repr, &body[..body.len().min(QUOTED_LEN)]))
}

fn quote_v6(packet: &[u8]) -> Option<(Ipv6Repr, &[u8])> {
    let header = Ipv6Packet::new_checked(packet).ok()?;
    let repr = Ipv6Repr::parse(&header).ok()?;
    let body = packet.get(header.header_len()..)?;
    Some((repr, &body[..body.len().min(QUOTED_LEN)]))
}

/// Appends an IP packet from `addresses.0` to `addresses.1` (of one family) with `len` octets of payload.
fn ip(
    out: &mut FrameWriter,
    link: Link,
    addresses: (IpAddr, IpAddr),
    protocol: IpProtocol,
    hop_limit: u8,
    len: usize,
    fill: impl FnOnce(&mut [u8]),
) {
    let (source, destination) = (IpAddress::from(addresses.0), IpAddress::from(addresses.1));
    if source.version() != destination.version() {
        return;
    }
    let repr = IpRepr::new(source, destination, protocol, len, hop_limit);
    let (ethertype, packet_len) = match repr {
        IpRepr::Ipv4(_) => (EthernetProtocol::Ipv4, repr.buffer_len()),
        IpRepr::Ipv6(_) => (EthernetProtocol::Ipv6, repr.buffer_len()),
    };
    if packet_len > usize::from(u16::MAX) {
        return;
    }
    frame(out, link, ethertype, packet_len, |packet| {
        repr.emit(&mut *packet, &ChecksumCapabilities::default());
        fill(&mut packet[repr.header_len()..]);
    });
}

fn frame(
    out: &mut FrameWriter,
    link: Link,
    ethertype: EthernetProtocol,
    len: usize,
    fill: impl FnOnce(&mut [u8]),
) {
    let repr = EthernetRepr {
        src_addr: link.local,
        dst_addr: link.remote,
        ethertype,
    };
    out.push(ETHERNET_HEADER_LEN + len, |bytes| {
        // The emitters leave reserved fields alone, and the writer's buffer holds old frames.
        bytes.fill(0);
        repr.emit(&mut EthernetFrame::new_unchecked(&mut *bytes));
        fill(&mut bytes[ETHERNET_HEADER_LEN..]);
    });
}
