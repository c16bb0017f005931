//! IP packets in Ethernet frames, in fragments where they are longer than the link takes.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, IpRepr,
    Ipv4Packet, Ipv6ExtHeader, Ipv6FragmentHeader, Ipv6FragmentRepr,
};

use crate::frame::{ETHERNET_HEADER_LEN, FrameWriter};

/// Hop limit of what the gateway sends (IANA's default TTL).
const HOP_LIMIT: u8 = 64;
const IPV6_HEADER_LEN: usize = 40;
/// The fragment header of IPv6: two octets as in every extension header, then its own fields.
const FRAGMENT_HEADER_LEN: usize = 8;
const FRAGMENT_FIELDS: Range<usize> = IPV6_HEADER_LEN + 2..IPV6_HEADER_LEN + FRAGMENT_HEADER_LEN;

/// The guest's link, seen from the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) local: EthernetAddress,
    pub(crate) remote: EthernetAddress,
    /// Largest IP packet, in octets; longer datagrams are sent in fragments.
    pub(crate) mtu: u16,
}

/// What an IP header says besides its payload's length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: IpProtocol,
    pub(super) hop_limit: u8,
}

impl Head {
    pub(super) fn new(source: IpAddr, destination: IpAddr, protocol: IpProtocol) -> Self {
        Self {
            source,
            destination,
            protocol,
            hop_limit: HOP_LIMIT,
        }
    }
}

/// Appends an IP packet with `len` octets of payload that `fill` writes, cut to the link's MTU. Nothing is sent between
/// addresses of two families, or if no IP packet could be so long.
pub(super) fn ip(
    out: &mut FrameWriter,
    link: Link,
    head: Head,
    len: usize,
    fill: impl FnOnce(&mut [u8]),
) {
    let (source, destination) = (
        IpAddress::from(head.source),
        IpAddress::from(head.destination),
    );
    if source.version() != destination.version() {
        return;
    }
    let repr = IpRepr::new(source, destination, head.protocol, len, head.hop_limit);
    let longest = match repr {
        IpRepr::Ipv4(_) => usize::from(u16::MAX),
        IpRepr::Ipv6(_) => repr.header_len() + usize::from(u16::MAX),
    };
    let packet_len = repr.buffer_len();
    if packet_len > longest {
        return;
    }
    if packet_len > usize::from(link.mtu) {
        let mut payload = vec![0; len];
        fill(&mut payload);
        return fragments(out, link, &repr, &payload);
    }
    frame(out, link, ethertype(&repr), packet_len, |packet| {
        repr.emit(&mut *packet, &ChecksumCapabilities::default());
        fill(&mut packet[repr.header_len()..]);
    });
}

/// Sends `payload` in as few packets as the link allows (RFC 791, 3.2; RFC 8200, 4.5).
fn fragments(out: &mut FrameWriter, link: Link, repr: &IpRepr, payload: &[u8]) {
    /// Tells datagrams apart; only that few in a row have the same matters.
    static NEXT_IDENT: AtomicU32 = AtomicU32::new(1);
    let ident = NEXT_IDENT.fetch_add(1, Ordering::Relaxed);
    let extra = match repr {
        IpRepr::Ipv4(_) => 0,
        IpRepr::Ipv6(_) => FRAGMENT_HEADER_LEN,
    };
    let header_len = repr.header_len() + extra;
    // All but the last are multiples of 8 octets.
    let longest = (usize::from(link.mtu) - header_len) & !7;
    let mut offset: u16 = 0;
    let mut pieces = payload.chunks(longest).peekable();
    while let Some(piece) = pieces.next() {
        let more = pieces.peek().is_some();
        let len = header_len + piece.len();
        frame(out, link, ethertype(repr), len, |packet| {
            let mut repr = repr.clone();
            repr.set_payload_len(extra + piece.len());
            let protocol = repr.next_header();
            if let IpRepr::Ipv6(repr) = &mut repr {
                repr.next_header = IpProtocol::Ipv6Frag;
            }
            repr.emit(&mut *packet, &ChecksumCapabilities::default());
            if let IpRepr::Ipv6(_) = repr {
                let mut extension = Ipv6ExtHeader::new_unchecked(&mut packet[repr.header_len()..]);
                extension.set_next_header(protocol);
                let repr = Ipv6FragmentRepr {
                    frag_offset: offset / 8,
                    more_frags: more,
                    ident,
                };
                repr.emit(&mut Ipv6FragmentHeader::new_unchecked(
                    &mut packet[FRAGMENT_FIELDS],
                ));
            } else {
                let mut ip = Ipv4Packet::new_unchecked(&mut *packet);
                ip.set_ident(u16::try_from(ident & 0xffff).unwrap_or_default());
                ip.set_dont_frag(false);
                ip.set_more_frags(more);
                ip.set_frag_offset(offset);
                ip.fill_checksum();
            }
            packet[header_len..].copy_from_slice(piece);
        });
        offset = offset.saturating_add(u16::try_from(piece.len()).unwrap_or(u16::MAX));
    }
}

fn ethertype(repr: &IpRepr) -> EthernetProtocol {
    match repr {
        IpRepr::Ipv4(_) => EthernetProtocol::Ipv4,
        IpRepr::Ipv6(_) => EthernetProtocol::Ipv6,
    }
}

pub(super) fn frame(
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
