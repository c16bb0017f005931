//! What an ICMP error quotes of the packet it is about, and why it is sent.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv6DstUnreachable, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr,
};

/// Octets quoted after the IP header: enough for a TCP or UDP header, within RFC 1812's 576 and RFC 4443's 1280
/// octets.
const QUOTED_LEN: usize = 128;

/// Why a packet is answered with an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// Nothing listens on that port.
    Port,
    /// The host cannot be reached.
    Host,
    /// Policy forbids it. RFC 1812, 5.2.7.1 and RFC 4443, 3.1 have a code for that, and a guest's kernel reports it as
    /// another error than a closed port, so nobody looks for the fault at the server.
    Prohibited,
}

impl Unreachable {
    pub(super) fn v4(self) -> Icmpv4DstUnreachable {
        match self {
            Self::Port => Icmpv4DstUnreachable::PortUnreachable,
            Self::Host => Icmpv4DstUnreachable::HostUnreachable,
            Self::Prohibited => Icmpv4DstUnreachable::CommProhibited,
        }
    }

    pub(super) fn v6(self) -> Icmpv6DstUnreachable {
        match self {
            Self::Port => Icmpv6DstUnreachable::PortUnreachable,
            Self::Host => Icmpv6DstUnreachable::AddrUnreachable,
            Self::Prohibited => Icmpv6DstUnreachable::AdminProhibit,
        }
    }
}

/// The start of a packet, kept to be quoted when an error comes back for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quote {
    pub(super) header: Header,
    data: [u8; QUOTED_LEN],
    len: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Header {
    V4(Ipv4Repr),
    V6(Ipv6Repr),
}

impl Quote {
    /// The start of `packet`, a whole and checked IP packet.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        let (header, body) = match packet.first()? >> 4 {
            4 => {
                let ip = Ipv4Packet::new_checked(packet).ok()?;
                let repr = Ipv4Repr::parse(&ip, &ChecksumCapabilities::ignored()).ok()?;
                let body = packet.get(usize::from(ip.header_len())..)?;
                (Header::V4(repr), body)
            }
            _ => {
                let ip = Ipv6Packet::new_checked(packet).ok()?;
                let repr = Ipv6Repr::parse(&ip).ok()?;
                (Header::V6(repr), packet.get(ip.header_len()..)?)
            }
        };
        let len = body.len().min(QUOTED_LEN);
        let mut data = [0; QUOTED_LEN];
        data[..len].copy_from_slice(&body[..len]);
        Some(Self { header, data, len })
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.data[..self.len]
    }
}
