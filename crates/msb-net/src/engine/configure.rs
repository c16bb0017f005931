//! The guest's address, for guests that ask for one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpOpCode, DhcpPacket, DhcpRepr,
    EthernetAddress,
};

use super::Engine;
use crate::counters::Dropped;
use crate::reply;

/// How long the address is lent, in seconds. It is nobody else's, but a guest that was paused has to find out some time
/// that it woke up on another link.
const LEASE: u32 = 86_400;
/// How often a guest that asked for routers is told again (RFC 4861, 6.2.1: MaxRtrAdvInterval).
const ADVERT_INTERVAL: Duration = Duration::from_secs(600);

impl Engine {
    /// Tells the guest of its router now, and again before it forgets.
    pub(super) fn advertise(&mut self, now: Instant) {
        reply::router_advert(&mut self.out, self.link, &self.config.addresses);
        self.advertise_at = Some(now + ADVERT_INTERVAL);
    }

    pub(super) fn handle_dhcp(&mut self, message: &[u8]) {
        let Ok(packet) = DhcpPacket::new_checked(message) else {
            return self.counters.count(Dropped::Malformed);
        };
        let Ok(request) = DhcpRepr::parse(&packet) else {
            return self.counters.count(Dropped::Malformed);
        };
        if packet.opcode() != DhcpOpCode::Request {
            return self.counters.count(Dropped::Protocol);
        }
        let addresses = self.config.addresses;
        let is_for_us = request
            .server_identifier
            .is_none_or(|server| server == addresses.gateway_v4);
        let wanted = request.requested_ip.unwrap_or(request.client_ip);
        let kind = match request.message_type {
            _ if !is_for_us => return,
            DhcpMessageType::Discover => DhcpMessageType::Offer,
            DhcpMessageType::Request if wanted == addresses.guest_v4 => DhcpMessageType::Ack,
            DhcpMessageType::Request => DhcpMessageType::Nak,
            DhcpMessageType::Inform => DhcpMessageType::Ack,
            // Release and decline: there is nothing to take back.
            _ => return,
        };
        let is_inform = request.message_type == DhcpMessageType::Inform;
        self.send_lease(&request, kind, is_inform);
    }

    fn send_lease(&mut self, request: &DhcpRepr<'_>, kind: DhcpMessageType, is_inform: bool) {
        let addresses = self.config.addresses;
        let is_nak = kind == DhcpMessageType::Nak;
        let lends = !is_nak && !is_inform;
        let mask = u32::MAX
            .checked_shl(32 - u32::from(addresses.prefix_len_v4.min(32)))
            .unwrap_or(0);
        let reply = DhcpRepr {
            message_type: kind,
            transaction_id: request.transaction_id,
            secs: 0,
            client_hardware_address: request.client_hardware_address,
            client_ip: request.client_ip,
            your_ip: match lends {
                true => addresses.guest_v4,
                false => Ipv4Addr::UNSPECIFIED,
            },
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: (!is_nak).then_some(addresses.gateway_v4),
            subnet_mask: (!is_nak).then(|| Ipv4Addr::from(mask)),
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: request.broadcast,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(addresses.gateway_v4),
            parameter_request_list: None,
            dns_servers: (!is_nak).then(|| [addresses.gateway_v4].into_iter().collect()),
            max_size: None,
            lease_duration: lends.then_some(LEASE),
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let Some(message) = reply::dhcp_message(&reply, self.config.mtu) else {
            return;
        };
        // RFC 2131, 4.1: to the address that the guest has or is to have, unless it cannot take that yet.
        let has_address = !request.client_ip.is_unspecified();
        let to = match () {
            () if is_nak || (request.broadcast && !has_address) => Ipv4Addr::BROADCAST,
            () if has_address => request.client_ip,
            () => addresses.guest_v4,
        };
        let mut link = self.link;
        if to.is_broadcast() {
            link.remote = EthernetAddress::BROADCAST;
        }
        let at = |address: Ipv4Addr, port| SocketAddr::new(IpAddr::V4(address), port);
        let (source, destination) = (
            at(addresses.gateway_v4, DHCP_SERVER_PORT),
            at(to, DHCP_CLIENT_PORT),
        );
        reply::datagram(&mut self.out, link, source, destination, &message);
    }
}
