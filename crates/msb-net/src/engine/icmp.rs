//! Echo requests of the guest: the gateway answers those to itself and relays the others.

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Instant;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr};

use super::Engine;
use super::relay::Outgoing;
use super::udp::MIN_HOPS;
use crate::action::Carries;
use crate::packet::Echo;
use crate::reply::{self, EchoReply, Unreachable};
use crate::table::Ends;

impl Engine {
    pub(super) fn handle_echo(&mut self, now: Instant, echo: &Echo<'_>) {
        let addresses = self.config.addresses;
        let is_link_local = echo.destination == addresses.gateway_link_local();
        if addresses.is_gateway(echo.destination) || is_link_local {
            let reply = EchoReply {
                from: echo.destination,
                to: echo.source,
                ident: echo.ident,
                seq_no: echo.seq_no,
                data: echo.data,
            };
            return reply::echo_reply(&mut self.out, self.link, &reply);
        }
        if echo.hop_limit < MIN_HOPS {
            let from = addresses.gateway_like(echo.source);
            return self.refuse(from, echo.packet, Unreachable::Prohibited);
        }
        let outgoing = Outgoing {
            carries: Carries::Echoes,
            ends: Ends {
                source: SocketAddr::new(echo.source, echo.ident),
                destination: SocketAddr::new(echo.destination, 0),
            },
            packet: echo.packet,
            payload: request(echo),
        };
        self.relay(now, outgoing);
    }
}

/// The request as a ping socket takes it: identifier and checksum are the kernel's.
fn request(echo: &Echo<'_>) -> Vec<u8> {
    let (ident, seq_no, data) = (0, echo.seq_no, echo.data);
    let checksums = ChecksumCapabilities::ignored();
    match (echo.source, echo.destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let repr = Icmpv6Repr::EchoRequest {
                ident,
                seq_no,
                data,
            };
            let mut message = vec![0; repr.buffer_len()];
            let mut packet = Icmpv6Packet::new_unchecked(&mut message);
            repr.emit(&source, &destination, &mut packet, &checksums);
            message
        }
        _ => {
            let repr = Icmpv4Repr::EchoRequest {
                ident,
                seq_no,
                data,
            };
            let mut message = vec![0; repr.buffer_len()];
            repr.emit(&mut Icmpv4Packet::new_unchecked(&mut message), &checksums);
            message
        }
    }
}
