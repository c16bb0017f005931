//! Flows of datagrams, and of echo requests: opened by the first, each with a socket of the host's, and forgotten some
//! time after the last.

use std::net::IpAddr;

use msb_policy::{Decision, Direction, Protocol};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet};

use super::Engine;
use super::ingress::Client;
use super::recent::Recent;
use super::tcp::egress;
use crate::action::{Action, Carries, Names, Refusal};
use crate::counters::Dropped;
use crate::event::Event;
use crate::reply::{self, EchoReply, Quote, Unreachable};
use crate::table::{Ends, FlowId, FlowTable};
use crate::timers::{Timer, Timers};

/// How long a flow of datagrams lives after its last (RFC 4787, REQ-5: two minutes at least).
const DATAGRAM_LIMIT: Duration = Duration::from_secs(120);
/// How long a flow of echo requests does (RFC 5508, REQ-1: a minute at least).
const ECHO_LIMIT: Duration = Duration::from_secs(60);

/// All flows of datagrams and echo requests.
pub(super) struct Relays {
    pub(super) flows: FlowTable<Relay>,
    pub(super) timers: Timers,
    /// For each direction.
    limit_reported: [bool; 2],
    /// Whether it was reported that the host has no socket for echo requests.
    echoes_reported: bool,
    /// Destinations that were reported as denied or refused.
    pub(super) reported: Recent,
}

/// One flow.
pub(super) struct Relay {
    pub(super) ends: Ends,
    pub(super) carries: Carries,
    /// Who sends to a published port.
    pub(super) client: Option<Client>,
    pub(super) to_host: bool,
    pub(super) names: Names,
    /// The guest's last packet, to be quoted should an error come back.
    pub(super) quote: Option<Quote>,
    pub(super) timer: Timer,
}

/// Something of the guest's that is to be sent on.
pub(super) struct Outgoing<'a> {
    pub(super) carries: Carries,
    pub(super) ends: Ends,
    /// The whole IP packet.
    pub(super) packet: &'a [u8],
    /// What the host's socket is to send.
    pub(super) payload: Vec<u8>,
}

impl Relays {
    pub(super) fn new() -> Self {
        Self {
            flows: FlowTable::new(),
            timers: Timers::default(),
            limit_reported: [false; 2],
            echoes_reported: false,
            reported: Recent::default(),
        }
    }

    /// Notes that something was carried.
    fn touch(&mut self, now: Instant, id: FlowId) {
        if let Some(relay) = self.flows.get_mut(id) {
            let limit = match relay.carries {
                Carries::Datagrams => DATAGRAM_LIMIT,
                Carries::Echoes => ECHO_LIMIT,
            };
            self.timers.set(id, &mut relay.timer, Some(now + limit));
        }
    }
}

impl Engine {
    /// Something arrived at the socket of flow `id`: a datagram, or an ICMP message.
    pub(crate) fn handle_relayed(&mut self, now: Instant, id: FlowId, payload: &[u8]) {
        self.relays.touch(now, id);
        let Some(relay) = self.relays.flows.get_mut(id) else {
            return;
        };
        let Ends {
            source,
            destination,
        } = relay.ends;
        match relay.carries {
            Carries::Datagrams => {
                reply::datagram(&mut self.out, self.link, destination, source, payload);
            }
            Carries::Echoes => {
                if let Some((seq_no, data)) = parse_echo_reply(destination.ip(), payload) {
                    let reply = EchoReply {
                        from: destination.ip(),
                        to: source.ip(),
                        ident: source.port(),
                        seq_no,
                        data,
                    };
                    reply::echo_reply(&mut self.out, self.link, &reply);
                }
            }
        }
    }

    /// The socket of flow `id` is there.
    pub(crate) fn handle_relay_opened(&mut self, id: FlowId) {
        let Some(relay) = self.relays.flows.get_mut(id) else {
            return;
        };
        let event = Event::Connected {
            protocol: relay.carries.protocol(),
            destination: relay.ends.destination,
            names: relay.names.told.clone(),
            to_host: relay.to_host,
            cause: relay.names.cause.clone(),
        };
        self.emit(event);
    }

    /// There is no socket for flow `id`, and none will come.
    pub(crate) fn handle_relay_failed(
        &mut self,
        now: Instant,
        id: FlowId,
        refusal: Refusal,
        reason: &str,
    ) {
        let Some(relay) = self.relays.flows.get_mut(id) else {
            return;
        };
        let ends = relay.ends;
        let Some(relay) = self.relays.flows.remove(ends, id) else {
            return;
        };
        let (protocol, destination) = (relay.carries.protocol(), ends.destination);
        let (names, reason) = (relay.names.told, reason.to_owned());
        // A host that lets nobody send echo requests lets nobody send the next one either.
        let is_told = relay.carries == Carries::Echoes
            && refusal == Refusal::Reset
            && std::mem::replace(&mut self.relays.echoes_reported, true);
        let (unreachable, event) = match refusal {
            Refusal::Denied(cause) => (
                Unreachable::Prohibited,
                Event::Denied {
                    protocol,
                    destination,
                    names,
                    cause,
                    reason,
                },
            ),
            Refusal::Reset | Refusal::Unreachable => (
                match refusal {
                    Refusal::Unreachable => Unreachable::Host,
                    _ => Unreachable::Prohibited,
                },
                Event::ConnectFailed {
                    protocol,
                    destination,
                    names,
                    reason,
                },
            ),
        };
        let from = self.config.addresses.gateway_like(ends.source.ip());
        if let Some(quote) = &relay.quote {
            reply::unreachable(&mut self.out, self.link, from, quote, unreachable);
        }
        if !is_told && self.relays.reported.is_new(destination, now) {
            self.emit(event);
        }
    }

    /// What the guest sent last on flow `id` has come back as an error. The flow goes on.
    pub(crate) fn handle_relay_error(&mut self, id: FlowId, reason: Unreachable) {
        let Some(relay) = self.relays.flows.get_mut(id) else {
            return;
        };
        let destination = relay.ends.destination.ip();
        let from = match reason {
            Unreachable::Port => destination,
            Unreachable::Host | Unreachable::Prohibited => {
                self.config.addresses.gateway_like(destination)
            }
        };
        if let Some(quote) = &relay.quote {
            reply::unreachable(&mut self.out, self.link, from, quote, reason);
        }
    }

    /// Sends on what the guest sends, if its flow is open or may be opened.
    pub(super) fn relay(&mut self, now: Instant, outgoing: Outgoing<'_>) {
        let Some(quote) = Quote::of(outgoing.packet) else {
            return;
        };
        let id = match self.relays.flows.find(outgoing.ends) {
            Some(id) => id,
            None => match self.open_relay(now, &outgoing, quote) {
                Some(id) => id,
                None => return,
            },
        };
        let Some(relay) = self.relays.flows.get_mut(id) else {
            return;
        };
        relay.quote = Some(quote);
        let is_asked_about = outgoing.carries == Carries::Datagrams && relay.client.is_none();
        self.relays.touch(now, id);
        let payload = outgoing.payload;
        if let Some(may_pass) = self
            .config
            .datagram_filter
            .as_ref()
            .filter(|_| is_asked_about)
            && !may_pass(outgoing.ends.destination, &payload)
        {
            return self.counters.count(Dropped::Filter);
        }
        self.actions.push_back(Action::Relay { id, payload });
    }

    /// Whether one more flow may be open of those that the guest, or clients, open; that none may is told.
    pub(super) fn has_relay_room(&mut self, direction: Direction) -> bool {
        let max_flows = self.config.max_udp_flows;
        let has_room = self.relays.flows.count(direction).all < max_flows;
        let reported = &mut self.relays.limit_reported[direction as usize];
        if !std::mem::replace(reported, !has_room) && !has_room {
            self.emit(Event::FlowLimit {
                protocol: Protocol::Udp,
                direction,
                max_flows,
            });
        }
        has_room
    }

    fn open_relay(
        &mut self,
        now: Instant,
        outgoing: &Outgoing<'_>,
        quote: Quote,
    ) -> Option<FlowId> {
        let Outgoing { carries, ends, .. } = *outgoing;
        let protocol = carries.protocol();
        let prohibited = Unreachable::Prohibited;
        let from = self.config.addresses.gateway_like(ends.source.ip());
        if !self.has_relay_room(Direction::Egress) {
            reply::unreachable(&mut self.out, self.link, from, &quote, prohibited);
            return None;
        }
        let to_host = self.config.addresses.is_gateway(ends.destination.ip());
        let mut names = self.names(now, ends.destination);
        let flow = egress(protocol, ends.destination, to_host, &names);
        let policy = self.policy.get();
        let if_own = match policy.decide(&flow.to_host(true)) {
            Decision::Permit(_) => Ok(()),
            Decision::Deny(denial) => Err(denial),
        };
        match policy.decide(&flow) {
            Decision::Deny(denial) => {
                reply::unreachable(&mut self.out, self.link, from, &quote, prohibited);
                if self.relays.reported.is_new(ends.destination, now) {
                    self.tell_denied(protocol, ends, names, &denial);
                }
                return None;
            }
            Decision::Permit(permit) => names.cause = Some(permit.grounds().cause().clone()),
        }
        let relay = Relay {
            ends,
            carries,
            client: None,
            to_host,
            names,
            quote: Some(quote),
            timer: Timer::default(),
        };
        let id = self.relays.flows.insert(ends, Direction::Egress, relay);
        self.actions.push_back(Action::OpenRelay {
            id,
            carries,
            ends,
            to_host,
            if_own,
        });
        Some(id)
    }

    /// Forgets the flows that have carried nothing for too long.
    pub(super) fn expire_relays(&mut self, now: Instant) {
        while let Some(id) = self.relays.timers.expired(now) {
            if let Some(relay) = self.relays.flows.get_mut(id)
                && relay.timer.fire(&mut self.relays.timers, id, now)
            {
                let (ends, client) = (relay.ends, relay.client);
                self.relays.flows.remove(ends, id);
                if let Some(client) = client {
                    self.clients.forget(client);
                }
                self.actions.push_back(Action::CloseRelay(id));
            }
        }
    }
}

impl Carries {
    pub(super) fn protocol(self) -> Protocol {
        match self {
            Self::Datagrams => Protocol::Udp,
            Self::Echoes => Protocol::Icmp,
        }
    }
}

/// Sequence number and data of an echo reply, an ICMP message. The host's kernel has checked it.
fn parse_echo_reply(from: IpAddr, message: &[u8]) -> Option<(u16, &[u8])> {
    let (seq_no, header_len) = match from {
        IpAddr::V4(_) => {
            let icmp = Icmpv4Packet::new_checked(message).ok()?;
            let is_reply = icmp.msg_type() == Icmpv4Message::EchoReply;
            is_reply.then(|| (icmp.echo_seq_no(), icmp.header_len()))?
        }
        IpAddr::V6(_) => {
            let icmp = Icmpv6Packet::new_checked(message).ok()?;
            let is_reply = icmp.msg_type() == Icmpv6Message::EchoReply;
            is_reply.then(|| (icmp.echo_seq_no(), icmp.header_len()))?
        }
    };
    Some((seq_no, message.get(header_len..)?))
}
