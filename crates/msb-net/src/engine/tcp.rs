//! TCP flows of the gateway: opened when the host is connected, polled in turn, and forgotten when both ends are done.

use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::Arc;

use msb_policy::{Decision, Denial, Direction, Early, Protocol};
use smoltcp::time::{Duration, Instant};

use super::Engine;
use super::dns::DNS_PORT;
use crate::action::{Action, Announced, Names, Refusal};
use crate::event::Event;
use crate::packet::{self, Segment};
use crate::reply::{self, Unreachable};
use crate::stream::{FlowStream, SharedFlow};
use crate::table::{Ends, FlowId};
use crate::tcp::{FlowTcp, Progress, Stage};
use crate::timers::Timer;

/// Shortest wait for a flow that claims to have something to send and sends nothing.
const MIN_WAIT: Duration = Duration::from_millis(1);
/// How often all connections are asked whether they are idle, which takes hours, while places are wanted.
const SWEEP_INTERVAL: Duration = Duration::from_secs(300);

pub(super) struct Entry {
    pub(super) ends: Ends,
    /// Who has connected to a published port, where the gateway opens the connection.
    pub(super) client: Option<SocketAddr>,
    pub(super) to_host: bool,
    pub(super) names: Names,
    pub(super) timer: Timer,
    /// Whether the flow is in `Engine::work`.
    pub(super) queued: bool,
    pub(super) state: State,
}

pub(super) enum State {
    /// The guest's connection request waits for the host's own connect.
    Held { syn: Vec<u8> },
    /// Answered.
    Open {
        flow: Arc<SharedFlow>,
        announced: bool,
    },
}

impl Engine {
    /// The host is connected for flow `id`: answers the guest. `false`: the guest has given up.
    pub(crate) fn handle_connected(&mut self, now: Instant, id: FlowId) -> bool {
        let Some(State::Held { syn }) = self.flows.get_mut(id).map(|entry| &mut entry.state) else {
            return false;
        };
        let syn = std::mem::take(syn);
        self.answer(now, id, &syn);
        true
    }

    /// The host could not connect for flow `id`.
    pub(crate) fn handle_refused(&mut self, id: FlowId, refusal: Refusal, reason: &str) {
        let Some(Entry {
            ends,
            state: State::Held { syn },
            names,
            ..
        }) = self.flows.get_mut(id)
        else {
            return;
        };
        let (ends, syn, names) = (*ends, std::mem::take(syn), std::mem::take(names));
        self.flows.remove(ends, id);
        match refusal {
            Refusal::Reset | Refusal::Denied(_) => self.reset_syn(&syn),
            Refusal::Unreachable => {
                let from = self.config.addresses.gateway_like(ends.source.ip());
                self.refuse(from, &syn, Unreachable::Host);
            }
        }
        let (destination, reason, names) = (ends.destination, reason.to_owned(), names.told);
        self.emit(match refusal {
            Refusal::Denied(cause) => Event::Denied {
                protocol: Protocol::Tcp,
                destination,
                names,
                cause,
                reason,
            },
            _ => Event::ConnectFailed {
                protocol: Protocol::Tcp,
                destination,
                names,
                reason,
            },
        });
    }

    pub(super) fn handle_segment(&mut self, now: Instant, segment: &Segment<'_>) {
        let ends = Ends {
            source: segment.source,
            destination: segment.destination,
        };
        let Some(id) = self.flows.find(ends) else {
            if segment.opens {
                self.open(now, ends, segment);
            } else {
                reply::reset(&mut self.out, self.link, segment);
            }
            return;
        };
        match self.flows.get_mut(id).map(|entry| &entry.state) {
            Some(State::Open { flow, .. }) => {
                let flow = Arc::clone(flow);
                let mut tcp = flow.tcp();
                let was_open = tcp.stage() == Stage::Open;
                tcp.ingress(now, segment.packet, self.link, &mut self.out);
                if segment.reset && was_open && tcp.stage() == Stage::Closed {
                    flow.tell_broken();
                }
                drop(tcp);
                self.queue(id);
            }
            Some(State::Held { .. }) if segment.reset => {
                self.flows.remove(ends, id);
                self.actions.push_back(Action::Cancel(id));
            }
            // A repeated request: the first is still being worked on.
            Some(State::Held { .. }) | None => {}
        }
    }

    /// Whether one more connection may be open of those that the guest, or clients, open; that none may is told.
    pub(super) fn has_room(&mut self, now: Instant, direction: Direction) -> bool {
        if self.is_at_limit(direction) {
            self.sweep(now);
            // Streams may have been dropped since the last poll.
            self.poll(now);
        }
        let is_at_limit = self.is_at_limit(direction);
        let reported = &mut self.limit_reported[direction as usize];
        if !std::mem::replace(reported, is_at_limit) && is_at_limit {
            self.emit(Event::FlowLimit {
                protocol: Protocol::Tcp,
                direction,
                max_flows: self.config.max_flows,
            });
        }
        !is_at_limit
    }

    fn open(&mut self, now: Instant, ends: Ends, segment: &Segment<'_>) {
        if !self.has_room(now, Direction::Egress) {
            return reply::reset(&mut self.out, self.link, segment);
        }
        let to_host = self.config.addresses.is_gateway(ends.destination.ip());
        if self.serves_names(ends.destination.port()) {
            let id = self.insert(ends, to_host, Names::default(), Vec::new());
            self.answer(now, id, segment.packet);
            return;
        }
        let mut names = self.names(now, ends.destination);
        let flow = egress(Protocol::Tcp, ends.destination, to_host, &names);
        let policy = self.policy.get();
        let decided = if self.config.reads_server_names {
            policy.decide_early(&flow)
        } else {
            Early::Decided(policy.decide(&flow))
        };
        let if_own = match policy.decide(&flow.to_host(true)) {
            Decision::Permit(_) => Ok(()),
            Decision::Deny(denial) => Err(denial),
        };
        names.cause = match decided {
            Early::Decided(Decision::Deny(denial)) => {
                return self.deny(ends, names, segment, &denial);
            }
            Early::Decided(decision) => Some(decision.grounds().cause().clone()),
            Early::NeedsName => None,
        };
        let id = self.insert(ends, to_host, names, segment.packet.to_vec());
        self.actions.push_back(Action::Connect {
            id,
            ends,
            to_host,
            if_own,
        });
    }

    fn deny(&mut self, ends: Ends, names: Names, segment: &Segment<'_>, denial: &Denial) {
        reply::reset(&mut self.out, self.link, segment);
        self.tell_denied(Protocol::Tcp, ends, names, denial);
    }

    /// A connection that is over while its stream lives on takes no place among the open ones, or a guest that
    /// opens and closes in turn would be refused for the host's slowness; but it has no more than as many again.
    fn is_at_limit(&self, direction: Direction) -> bool {
        let (count, max_flows) = (self.flows.count(direction), self.config.max_flows);
        count.connected >= max_flows || count.all >= max_flows.saturating_mul(2)
    }

    fn insert(&mut self, ends: Ends, to_host: bool, names: Names, syn: Vec<u8>) -> FlowId {
        let entry = Entry {
            ends,
            client: None,
            to_host,
            names,
            timer: Timer::default(),
            queued: false,
            state: State::Held { syn },
        };
        self.flows.insert(ends, Direction::Egress, entry)
    }

    /// Accepts the guest's connection.
    fn answer(&mut self, now: Instant, id: FlowId, syn: &[u8]) {
        let Some(entry) = self.flows.get_mut(id) else {
            return;
        };
        let mut tcp = FlowTcp::new(self.config.mtu, self.seeds.hash_one(id), now);
        tcp.accept(now, entry.ends.destination, syn, self.link, &mut self.out);
        entry.state = State::Open {
            flow: SharedFlow::new(id, tcp, Arc::clone(&self.ready), self.clock),
            announced: false,
        };
        self.queue(id);
    }

    /// Gives up the connections that are idle, for others that want their places. As long as nobody does, they are kept: a
    /// guest that was paused for long must find them again.
    fn sweep(&mut self, now: Instant) {
        if self.sweep_at > now {
            return;
        }
        self.sweep_at = now + SWEEP_INTERVAL;
        for id in self.flows.ids() {
            if let Some(State::Open { flow, .. }) = self.flows.get_mut(id).map(|entry| &entry.state)
            {
                let mut tcp = flow.tcp();
                if !tcp.is_idle(now) {
                    continue;
                }
                tcp.abort();
                drop(tcp);
                flow.tell_broken();
                self.queue(id);
            }
        }
    }

    pub(super) fn queue(&mut self, id: FlowId) {
        if let Some(entry) = self.flows.get_mut(id)
            && !std::mem::replace(&mut entry.queued, true)
        {
            self.work.push_back(id);
        }
    }

    pub(super) fn poll_flow(&mut self, now: Instant, id: FlowId) {
        let Some(entry) = self.flows.get_mut(id) else {
            return;
        };
        entry.queued = false;
        let State::Open { flow, announced } = &mut entry.state else {
            return;
        };
        let flow = Arc::clone(flow);
        let mut tcp = flow.tcp();
        let progress = tcp.egress(now, self.link, &mut self.out);
        let (stage, owes_reset, detached) = (tcp.stage(), tcp.owes_reset(), tcp.is_detached());
        let deadline = match progress {
            Progress::More => None,
            Progress::Idle => tcp.poll_timeout(now).map(|at| at.max(now + MIN_WAIT)),
        };
        drop(tcp);
        self.timers.set(id, &mut entry.timer, deadline);
        let newly_open = stage == Stage::Open
            && !std::mem::replace(announced, *announced || stage == Stage::Open);
        let announced = *announced;
        let (ends, client) = (entry.ends, entry.client);
        if progress == Progress::More || owes_reset {
            self.queue(id);
        } else if stage == Stage::Closed {
            self.flows.disconnect(ends, id);
            if !announced {
                self.flows.remove(ends, id);
                self.actions.push_back(Action::Cancel(id));
                if let Some(client) = client {
                    self.emit(Event::ClientRefused {
                        client,
                        guest_port: ends.source.port(),
                    });
                }
            } else if detached {
                self.flows.remove(ends, id);
            }
        }
        if newly_open {
            self.announce(id, &flow);
        }
    }

    fn announce(&mut self, id: FlowId, flow: &Arc<SharedFlow>) {
        let Some(entry) = self.flows.get_mut(id) else {
            return;
        };
        let stream = FlowStream::new(Arc::clone(flow));
        if let Some(client) = entry.client {
            let guest_port = entry.ends.source.port();
            self.actions.push_back(Action::Welcome { id, stream });
            return self.emit(Event::ClientConnected {
                protocol: Protocol::Tcp,
                client,
                guest_port,
            });
        }
        let destination = entry.ends.destination;
        if self.serves_names(destination.port()) {
            return self.actions.push_back(match destination.port() {
                DNS_PORT => Action::ServeNames(stream),
                _ => Action::ServeSecureNames {
                    destination,
                    stream,
                },
            });
        }
        let Some(entry) = self.flows.get_mut(id) else {
            return;
        };
        let announced = Announced {
            id,
            ends: entry.ends,
            to_host: entry.to_host,
            names: entry.names.clone(),
            stream,
        };
        let event = Event::Connected {
            protocol: Protocol::Tcp,
            destination: announced.ends.destination,
            names: announced.names.told.clone(),
            to_host: announced.to_host,
            cause: announced.names.cause.clone(),
        };
        self.actions.push_back(Action::Announce(announced));
        self.emit(event);
    }

    pub(super) fn reset_syn(&mut self, syn: &[u8]) {
        if let Some(segment) = packet::segment(syn) {
            reply::reset(&mut self.out, self.link, &segment);
        }
    }
}

/// What the policy is asked about a flow of the guest.
pub(super) fn egress(
    protocol: Protocol,
    destination: SocketAddr,
    to_host: bool,
    names: &Names,
) -> msb_policy::Flow<'_> {
    msb_policy::Flow::egress(protocol, destination)
        .to_host(to_host)
        .resolved(&names.told)
        .configured(&names.configured)
}
