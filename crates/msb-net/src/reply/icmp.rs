//! Echo replies and ICMP errors.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol};

use super::ip::{Head, Link, ip};
use super::quote::{Header, Quote, Unreachable};
use crate::frame::FrameWriter;

/// An echo reply and the addresses it travels between.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EchoReply<'a> {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) ident: u16,
    pub(crate) seq_no: u16,
    pub(crate) data: &'a [u8],
}

/// Answers an echo request, as `from`.
pub(crate) fn echo_reply(out: &mut FrameWriter, link: Link, reply: &EchoReply<'_>) {
    let EchoReply {
        from,
        to,
        ident,
        seq_no,
        data,
    } = *reply;
    match (from, to) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let repr = Icmpv6Repr::EchoReply {
                ident,
                seq_no,
                data,
            };
            emit_v6(out, link, (from, to), &repr);
        }
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let repr = Icmpv4Repr::EchoReply {
                ident,
                seq_no,
                data,
            };
            emit_v4(out, link, (from, to), &repr);
        }
        _ => {}
    }
}

/// Answers the packet that `quote` is of with an ICMP error from `from`, an address of its family.
pub(crate) fn unreachable(
    out: &mut FrameWriter,
    link: Link,
    from: IpAddr,
    quote: &Quote,
    reason: Unreachable,
) {
    let data = quote.data();
    match (from, quote.header) {
        (IpAddr::V4(from), Header::V4(header)) => {
            let reason = reason.v4();
            let repr = Icmpv4Repr::DstUnreachable {
                reason,
                header,
                data,
            };
            emit_v4(out, link, (from, header.src_addr), &repr);
        }
        (IpAddr::V6(from), Header::V6(header)) => {
            let reason = reason.v6();
            let repr = Icmpv6Repr::DstUnreachable {
                reason,
                header,
                data,
            };
            emit_v6(out, link, (from, header.src_addr), &repr);
        }
        _ => {}
    }
}

fn emit_v4(
    out: &mut FrameWriter,
    link: Link,
    (from, to): (Ipv4Addr, Ipv4Addr),
    repr: &Icmpv4Repr<'_>,
) {
    let head = Head::new(from.into(), to.into(), IpProtocol::Icmp);
    ip(out, link, head, repr.buffer_len(), |payload| {
        repr.emit(
            &mut Icmpv4Packet::new_unchecked(payload),
            &ChecksumCapabilities::default(),
        );
    });
}

fn emit_v6(
    out: &mut FrameWriter,
    link: Link,
    (from, to): (Ipv6Addr, Ipv6Addr),
    repr: &Icmpv6Repr<'_>,
) {
    let head = Head::new(from.into(), to.into(), IpProtocol::Icmpv6);
    ip(out, link, head, repr.buffer_len(), |payload| {
        repr.emit(
            &from,
            &to,
            &mut Icmpv6Packet::new_unchecked(payload),
            &ChecksumCapabilities::default(),
        );
    });
}
