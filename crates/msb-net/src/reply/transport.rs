//! Datagrams, and resets of TCP connections.

use std::net::SocketAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr};

use super::ip::{Head, Link, ip};
use crate::frame::FrameWriter;
use crate::packet::Segment;

const UDP_HEADER_LEN: usize = 8;

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
    let head = Head::new(source.ip(), destination.ip(), IpProtocol::Udp);
    ip(out, link, head, UDP_HEADER_LEN + payload.len(), |buffer| {
        repr.emit(
            &mut UdpPacket::new_unchecked(buffer),
            &source.ip().into(),
            &destination.ip().into(),
            payload.len(),
            |body| body.copy_from_slice(payload),
            &ChecksumCapabilities::default(),
        );
    });
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
    let head = Head::new(addresses.0, addresses.1, IpProtocol::Tcp);
    ip(out, link, head, repr.buffer_len(), |payload| {
        repr.emit(
            &mut TcpPacket::new_unchecked(payload),
            &addresses.0.into(),
            &addresses.1.into(),
            &ChecksumCapabilities::default(),
        );
    });
}
