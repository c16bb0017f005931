//! Who has the gateway's addresses: answers by ARP and NDP.

use std::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, NdiscNeighborFlags, NdiscRepr,
};

use super::ip::{Head, Link, frame, ip};
use crate::frame::FrameWriter;

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
    // RFC 4861, 7.1.2: 255 shows that no router forwarded it.
    let head = Head {
        hop_limit: 255,
        ..Head::new(target.into(), destination.into(), IpProtocol::Icmpv6)
    };
    ip(out, link, head, repr.buffer_len(), |payload| {
        let checksums = ChecksumCapabilities::default();
        repr.emit(
            &target,
            &destination,
            &mut Icmpv6Packet::new_unchecked(payload),
            &checksums,
        );
    });
}
