//! What IP packets carry: segments, datagrams and ICMP messages.

use std::net::{Ipv6Addr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    DHCP_SERVER_PORT, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, NdiscRepr,
    TcpPacket, UdpPacket,
};

use super::ip::Packet;
use super::{Datagram, Echo, Inbound, Segment, malformed};
use crate::counters::Dropped;

/// A packet between two unicast addresses. ICMPv6 is [elsewhere](parse_icmpv6).
pub(super) fn parse_transport<'a>(packet: &Packet<'a>) -> Result<Inbound<'a>, Dropped> {
    match packet.protocol {
        IpProtocol::Tcp => parse_tcp(packet),
        IpProtocol::Udp => parse_udp(packet),
        IpProtocol::Icmp if packet.source.is_ipv4() => parse_icmpv4(packet),
        _ => Err(Dropped::Protocol),
    }
}

/// A broadcast: only the search for a DHCP server is for the gateway.
pub(super) fn parse_dhcp<'a>(packet: &Packet<'a>) -> Result<Inbound<'a>, Dropped> {
    let (udp, payload) = datagram(packet)?;
    match udp.dst_port() {
        DHCP_SERVER_PORT => Ok(Inbound::Dhcp(payload)),
        _ => Err(Dropped::Address),
    }
}

fn parse_icmpv4<'a>(packet: &Packet<'a>) -> Result<Inbound<'a>, Dropped> {
    let icmp = Icmpv4Packet::new_checked(packet.body).map_err(malformed)?;
    match Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::default()).map_err(malformed)? {
        Icmpv4Repr::EchoRequest { ident, seq_no, .. } => {
            Ok(echo(packet, ident, seq_no, icmp.header_len()))
        }
        _ => Err(Dropped::Protocol),
    }
}

/// Whatever its addresses are; they are those of `packet`.
pub(super) fn parse_icmpv6<'a>(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    packet: &Packet<'a>,
) -> Result<Inbound<'a>, Dropped> {
    let icmp = Icmpv6Packet::new_checked(packet.body).map_err(malformed)?;
    let checksums = ChecksumCapabilities::default();
    let message = Icmpv6Repr::parse(&source, &destination, &icmp, &checksums);
    // RFC 4861, 7.1.1: a hop limit of 255 shows that no router forwarded it.
    let is_near = packet.hop_limit == 255;
    match message.map_err(malformed)? {
        Icmpv6Repr::EchoRequest { ident, seq_no, .. }
            if !source.is_unspecified() && !destination.is_multicast() =>
        {
            Ok(echo(packet, ident, seq_no, icmp.header_len()))
        }
        Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { .. }) if is_near => Ok(Inbound::RouterSolicit),
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. }) if is_near => {
            Ok(Inbound::NeighborSolicit {
                source,
                target: target_addr,
            })
        }
        _ => Err(Dropped::Protocol),
    }
}

fn echo<'a>(packet: &Packet<'a>, ident: u16, seq_no: u16, header_len: usize) -> Inbound<'a> {
    Inbound::Echo(Echo {
        source: packet.source,
        destination: packet.destination,
        ident,
        seq_no,
        data: packet.body.get(header_len..).unwrap_or_default(),
        hop_limit: packet.hop_limit,
        packet: packet.whole,
    })
}

fn parse_tcp<'a>(packet: &Packet<'a>) -> Result<Inbound<'a>, Dropped> {
    let (source, destination) = (packet.source, packet.destination);
    let tcp = TcpPacket::new_checked(packet.body).map_err(malformed)?;
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
        packet: packet.whole,
    }))
}

fn parse_udp<'a>(packet: &Packet<'a>) -> Result<Inbound<'a>, Dropped> {
    let (udp, payload) = datagram(packet)?;
    if udp.src_port() == 0 || udp.dst_port() == 0 {
        return Err(Dropped::Malformed);
    }
    Ok(Inbound::Udp(Datagram {
        source: SocketAddr::new(packet.source, udp.src_port()),
        destination: SocketAddr::new(packet.destination, udp.dst_port()),
        payload,
        hop_limit: packet.hop_limit,
        packet: packet.whole,
    }))
}

/// The datagram in a packet, whose checksum holds, and its payload.
fn datagram<'a>(packet: &Packet<'a>) -> Result<(UdpPacket<&'a [u8]>, &'a [u8]), Dropped> {
    let udp = UdpPacket::new_checked(packet.body).map_err(malformed)?;
    if !udp.verify_checksum(&packet.source.into(), &packet.destination.into()) {
        return Err(Dropped::Malformed);
    }
    let payload = packet.body.get(8..usize::from(udp.len()));
    Ok((udp, payload.ok_or(Dropped::Malformed)?))
}
