//! IP packets: their headers, and which of them are in pieces.

use std::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6ExtHeader, Ipv6FragmentHeader, Ipv6Packet};

use super::transport::{parse_dhcp, parse_icmpv6, parse_transport};
use super::{Inbound, malformed};
use crate::counters::Dropped;
use crate::fragments::{Fragment, Key};

/// Extension headers looked behind in one packet; nobody sends more than a few.
const MAX_EXTENSIONS: usize = 4;

/// A packet that is whole, and what its header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: IpProtocol,
    pub(super) hop_limit: u8,
    /// What follows the header.
    pub(super) body: &'a [u8],
    /// With its header, and without what an Ethernet frame was filled up with.
    pub(super) whole: &'a [u8],
}

pub(super) fn parse_v4(payload: &[u8]) -> Result<Inbound<'_>, Dropped> {
    let ip = Ipv4Packet::new_checked(payload).map_err(malformed)?;
    if ip.version() != 4 || !ip.verify_checksum() {
        return Err(Dropped::Malformed);
    }
    let (source, destination) = (ip.src_addr(), ip.dst_addr());
    let whole = payload
        .get(..usize::from(ip.total_len()))
        .ok_or(Dropped::Malformed)?;
    let (header, body) = whole
        .split_at_checked(usize::from(ip.header_len()))
        .ok_or(Dropped::Malformed)?;
    let packet = Packet {
        source: source.into(),
        destination: destination.into(),
        protocol: ip.next_header(),
        hop_limit: ip.hop_limit(),
        body,
        whole,
    };
    if destination.is_broadcast() && packet.protocol == IpProtocol::Udp {
        return parse_dhcp(&packet);
    }
    if !is_unicast(source) || !is_unicast(destination) {
        return Err(Dropped::Address);
    }
    if ip.more_frags() || ip.frag_offset() != 0 {
        return Ok(Inbound::Fragment(Fragment {
            key: Key {
                source: packet.source,
                destination: packet.destination,
                protocol: Some(packet.protocol),
                ident: ip.ident().into(),
            },
            header,
            protocol: packet.protocol,
            offset: usize::from(ip.frag_offset()),
            is_last: !ip.more_frags(),
            data: body,
        }));
    }
    parse_transport(&packet)
}

fn is_unicast(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast()
}

pub(super) fn parse_v6(payload: &[u8]) -> Result<Inbound<'_>, Dropped> {
    let ip = Ipv6Packet::new_checked(payload).map_err(malformed)?;
    if ip.version() != 6 {
        return Err(Dropped::Malformed);
    }
    let (source, destination) = (ip.src_addr(), ip.dst_addr());
    let whole = payload.get(..ip.total_len()).ok_or(Dropped::Malformed)?;
    let packet = Packet {
        source: source.into(),
        destination: destination.into(),
        protocol: ip.next_header(),
        hop_limit: ip.hop_limit(),
        body: whole.get(ip.header_len()..).ok_or(Dropped::Malformed)?,
        whole,
    };
    if source.is_multicast() {
        return Err(Dropped::Address);
    }
    // Of its messages some come from no address yet, or go to all there are.
    if packet.protocol == IpProtocol::Icmpv6 {
        return parse_icmpv6(source, destination, &packet);
    }
    if is_extension(packet.protocol) {
        return parse_extensions(&ip, whole);
    }
    let inner = destination.to_ipv4_mapped();
    if source.is_unspecified()
        || destination.is_unspecified()
        || destination.is_multicast()
        || inner.is_some_and(|inner| !is_unicast(inner))
    {
        return Err(Dropped::Address);
    }
    parse_transport(&packet)
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
            // What else there may be before the payload is part of what is put together; such packets are not carried.
            return Ok(Inbound::Fragment(fragment));
        }
    }
    Err(Dropped::Protocol)
}
