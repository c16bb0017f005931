//! What comes from outside to the guest's published ports: connections that the gateway opens to the guest, and datagrams.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use msb_policy::{Decision, Denial, Direction, NetworkPolicy, Protocol};
use smoltcp::time::Instant;

use super::Engine;
use super::relay::Relay;
use super::tcp::{Entry, State};
use crate::action::{Carries, Names};
use crate::event::Event;
use crate::stream::SharedFlow;
use crate::table::{Ends, FlowId};
use crate::tcp::FlowTcp;
use crate::timers::Timer;

/// The gateway's ports that stand for clients (RFC 6335 section 6: the dynamic ones).
const PORTS: RangeInclusive<u16> = 49_152..=65_535;

/// Somebody outside, at one of the published ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    /// Which of the published ports.
    pub(crate) published: usize,
    pub(crate) address: SocketAddr,
}

/// The clients that datagrams are carried for, and which port to try next.
#[derive(Debug)]
pub(super) struct Clients {
    flows: HashMap<Client, FlowId>,
    next_port: u16,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            flows: HashMap::new(),
            next_port: *PORTS.start(),
        }
    }
}

impl Clients {
    pub(super) fn forget(&mut self, client: Client) {
        self.flows.remove(&client);
    }

    fn port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = match port {
            last if last == *PORTS.end() => *PORTS.start(),
            port => port + 1,
        };
        port
    }
}

impl Engine {
    /// A client has connected to a published port: opens a connection to `guest_port`, in the family of `published`.
    /// `Action::Welcome` follows when the guest has taken it, `Action::Cancel` if it does not. `None`: it is refused.
    pub(crate) fn handle_accepted(
        &mut self,
        now: Instant,
        client: SocketAddr,
        published: SocketAddr,
        guest_port: u16,
    ) -> Option<FlowId> {
        if !self.admits(now, Protocol::Tcp, client, guest_port)
            || !self.has_room(now, Direction::Ingress)
        {
            return None;
        }
        let guest = self.guest(published.ip(), guest_port);
        let ends = self.free(guest, |engine, ends| engine.flows.find(ends).is_none())?;
        let entry = Entry {
            ends,
            client: Some(client),
            to_host: false,
            names: Names::default(),
            timer: Timer::default(),
            queued: false,
            state: State::Held { syn: Vec::new() },
        };
        let id = self.flows.insert(ends, Direction::Ingress, entry);
        let mut tcp = FlowTcp::new(self.config.mtu, self.seeds.hash_one(id), now);
        tcp.connect(now, ends, self.link, &mut self.out);
        let flow = SharedFlow::new(id, tcp, Arc::clone(&self.ready), self.clock);
        if let Some(entry) = self.flows.get_mut(id) {
            entry.state = State::Open {
                flow,
                announced: false,
            };
        }
        self.queue(id);
        Some(id)
    }

    /// A datagram of a client has come to a published port. The id names the flow by which the guest answers; it is of no
    /// use after `Action::CloseRelay`. `None`: it is refused.
    pub(crate) fn handle_client_datagram(
        &mut self,
        now: Instant,
        client: Client,
        published: SocketAddr,
        guest_port: u16,
        payload: &[u8],
    ) -> Option<FlowId> {
        let id = match self.clients.flows.get(&client) {
            Some(id) => *id,
            None => self.open_client(now, client, published, guest_port)?,
        };
        self.handle_relayed(now, id, payload);
        Some(id)
    }

    fn open_client(
        &mut self,
        now: Instant,
        client: Client,
        published: SocketAddr,
        guest_port: u16,
    ) -> Option<FlowId> {
        if !self.admits(now, Protocol::Udp, client.address, guest_port)
            || !self.has_relay_room(Direction::Ingress)
        {
            return None;
        }
        let guest = self.guest(published.ip(), guest_port);
        let ends = self.free(guest, |engine, ends| {
            let is_refused = engine.refused(ends.destination.port()).is_some();
            !is_refused && engine.relays.flows.find(ends).is_none()
        })?;
        let relay = Relay {
            ends,
            carries: Carries::Datagrams,
            client: Some(client),
            to_host: false,
            names: Names::default(),
            quote: None,
            timer: Timer::default(),
        };
        let id = self.relays.flows.insert(ends, Direction::Ingress, relay);
        self.clients.flows.insert(client, id);
        Some(id)
    }

    /// Whether the policy lets `client` in; a refusal is told.
    fn admits(
        &mut self,
        now: Instant,
        protocol: Protocol,
        client: SocketAddr,
        guest_port: u16,
    ) -> bool {
        match admitted(&self.policy.get(), protocol, client, guest_port) {
            Ok(()) => true,
            Err(denial) => {
                // Clients of datagrams send them without end.
                if self.relays.reported.is_new(client, now) {
                    self.tell_shut_out(protocol, client, guest_port, &denial);
                }
                false
            }
        }
    }

    pub(super) fn tell_shut_out(
        &self,
        protocol: Protocol,
        client: SocketAddr,
        guest_port: u16,
        denial: &Denial,
    ) {
        self.emit(Event::ClientDenied {
            protocol,
            client,
            guest_port,
            cause: denial.grounds().cause().clone(),
            reason: denial.to_string(),
        });
    }

    /// The guest's `port`, in the family of `like`.
    fn guest(&self, like: IpAddr, port: u16) -> SocketAddr {
        let addresses = self.config.addresses;
        match like {
            IpAddr::V4(_) => (addresses.guest_v4, port).into(),
            IpAddr::V6(_) => (addresses.guest_v6, port).into(),
        }
    }

    /// Ends that no flow has; `None` if all are taken.
    fn free(&mut self, guest: SocketAddr, is_free: impl Fn(&Self, Ends) -> bool) -> Option<Ends> {
        let gateway = self.config.addresses.gateway_like(guest.ip());
        for _ in PORTS {
            let ends = Ends {
                source: guest,
                destination: SocketAddr::new(gateway, self.clients.port()),
            };
            if is_free(self, ends) {
                return Some(ends);
            }
        }
        None
    }
}

/// Whether `policy` lets `client` reach the guest's `port`.
pub(super) fn admitted(
    policy: &NetworkPolicy,
    protocol: Protocol,
    client: SocketAddr,
    port: u16,
) -> Result<(), Denial> {
    let flow = msb_policy::Flow::ingress(protocol, client.ip(), port);
    match policy.decide(&flow) {
        Decision::Permit(_) => Ok(()),
        Decision::Deny(denial) => Err(denial),
    }
}
