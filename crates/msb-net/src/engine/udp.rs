//! Datagrams of the guest: queries are answered here, some services are always refused, the rest is relayed.

use smoltcp::time::Instant;
use smoltcp::wire::DHCP_SERVER_PORT;

use super::Engine;
use super::dns::DNS_PORT;
use super::relay::Outgoing;
use crate::action::Carries;
use crate::event::Event;
use crate::packet::Datagram;
use crate::reply::Unreachable;
use crate::table::Ends;

/// Hops that a packet of the guest must have left. Systems start with 64 or more, and the gateway is the first hop: one
/// with less wants to be told where it dies (traceroute), which a relay cannot do for it.
pub(super) const MIN_HOPS: u8 = 32;

/// Name services that would pass by the gateway's (SPEC D5), or reach for neighbours that do not exist.
const REFUSED: [(u16, &str); 5] = [
    (853, "DNS over QUIC is not carried"),
    (5353, "multicast DNS is not carried"),
    (5355, "LLMNR is not carried"),
    (137, "NetBIOS is not carried"),
    (138, "NetBIOS is not carried"),
];
const QUIC: &str = "TLS on this port is intercepted, so QUIC is not carried";

impl Engine {
    pub(super) fn handle_datagram(&mut self, now: Instant, datagram: &Datagram<'_>) {
        let ends = Ends {
            source: datagram.source,
            destination: datagram.destination,
        };
        let port = ends.destination.port();
        if port == DNS_PORT {
            return self.handle_query(ends, datagram.payload);
        }
        if port == DHCP_SERVER_PORT && self.config.addresses.is_gateway(ends.destination.ip()) {
            return self.handle_dhcp(datagram.payload);
        }
        if let Some(reason) = self.refused(port) {
            self.refuse(ends.destination.ip(), datagram.packet, Unreachable::Port);
            if self.relays.reported.is_new(ends.destination, now) {
                self.emit(Event::DatagramRefused {
                    destination: ends.destination,
                    reason,
                });
            }
            return;
        }
        if datagram.hop_limit < MIN_HOPS {
            let from = self.config.addresses.gateway_like(ends.source.ip());
            return self.refuse(from, datagram.packet, Unreachable::Prohibited);
        }
        let outgoing = Outgoing {
            carries: Carries::Datagrams,
            ends,
            packet: datagram.packet,
            payload: datagram.payload.to_vec(),
        };
        self.relay(now, outgoing);
    }

    /// Why datagrams of the guest to `port` are refused, if they are.
    pub(super) fn refused(&self, port: u16) -> Option<&'static str> {
        if self.config.refused_udp_ports.contains(&port) {
            return Some(QUIC);
        }
        let refused = REFUSED.iter().find(|(refused, _)| *refused == port);
        refused.map(|(_, reason)| *reason)
    }
}
