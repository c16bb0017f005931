//! The gateway: frames, finished connects and resolved names go in; frames, actions and a wake-up
//! time come out. It opens no sockets and waits for nothing; `io::drive` does that.
//!
//! Order of calls: any number of `handle_*`, then [`poll`](Engine::poll), then write
//! [`out`](Engine::out) and carry out [`poll_action`](Engine::poll_action); call `poll` again at
//! [`poll_timeout`](Engine::poll_timeout), when the [`ReadyQueue`] changes, or after writing.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use msb_policy::{Decision, Denial, Early, Protocol};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::EthernetAddress;

use crate::action::{Action, Announced, Asker, Names, Refusal};
use crate::config::{Config, MIN_MTU};
use crate::dns::{Answer, Plan, Responder, Transport};
use crate::event::Event;
use crate::frame::FrameWriter;
use crate::packet::{self, Datagram, Echo, Inbound, Segment};
use crate::reply::{self, Link, Unreachable};
use crate::stream::{Clock, FlowStream, ReadyQueue, SharedFlow};
use crate::table::{Ends, FlowId, FlowTable};
use crate::tcp::{FlowTcp, Progress, Stage};
use crate::timers::{Timer, Timers};

/// Where names are asked for.
const DNS_PORT: u16 = 53;
/// Queries that may wait for upstream at once; more are answered with SERVFAIL.
const MAX_QUERIES: usize = 512;
/// Shortest wait for a flow that claims to have something to send and sends nothing.
const MIN_WAIT: Duration = Duration::from_millis(1);

struct Entry {
    ends: Ends,
    to_host: bool,
    names: Names,
    timer: Timer,
    /// Whether the flow is in `Engine::work`.
    queued: bool,
    state: State,
}

enum State {
    /// The guest's connection request waits for the host's own connect.
    Held { syn: Vec<u8> },
    /// Answered.
    Open {
        flow: Arc<SharedFlow>,
        announced: bool,
    },
}

/// See the module's description.
pub(crate) struct Engine {
    config: Config,
    responder: Responder,
    clock: Clock,
    link: Link,
    out: FrameWriter,
    flows: FlowTable<Entry>,
    timers: Timers,
    /// Flows to be polled.
    work: VecDeque<FlowId>,
    ready: Arc<ReadyQueue>,
    /// Buffer for the ready queue's content, kept for its memory.
    ready_flows: Vec<FlowId>,
    actions: VecDeque<Action>,
    queries: usize,
    limit_reported: bool,
    seeds: RandomState,
}

impl Engine {
    pub(crate) fn new(mut config: Config, clock: Clock) -> Self {
        config.mtu = config.mtu.max(MIN_MTU);
        let addresses = config.addresses;
        let responder = Responder::new(
            std::mem::take(&mut config.hosts),
            addresses,
            Arc::clone(&config.policy),
        );
        Self {
            link: Link {
                local: EthernetAddress(addresses.gateway_mac),
                remote: EthernetAddress(addresses.guest_mac),
            },
            config,
            responder,
            clock,
            out: FrameWriter::new(),
            flows: FlowTable::new(),
            timers: Timers::default(),
            work: VecDeque::new(),
            ready: Arc::default(),
            ready_flows: Vec::new(),
            actions: VecDeque::new(),
            queries: 0,
            limit_reported: false,
            seeds: RandomState::new(),
        }
    }

    pub(crate) fn responder(&self) -> &Responder {
        &self.responder
    }

    /// Tells when streams want [`poll`](Self::poll) to be called.
    pub(crate) fn ready(&self) -> Arc<ReadyQueue> {
        Arc::clone(&self.ready)
    }

    /// Frames for the guest.
    pub(crate) fn out(&mut self) -> &mut FrameWriter {
        &mut self.out
    }

    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Takes a frame from the guest.
    pub(crate) fn handle_frame(&mut self, now: Instant, frame: &[u8]) {
        if let Some(sender) = packet::sender(frame) {
            self.link.remote = sender;
        }
        let addresses = self.config.addresses;
        match packet::classify(frame, self.link.local) {
            Inbound::Tcp(segment) => self.handle_segment(now, &segment),
            Inbound::Udp(datagram) => self.handle_datagram(&datagram),
            Inbound::Echo(echo) => self.handle_echo(&echo),
            Inbound::ArpRequest {
                hardware,
                source,
                target,
            } => {
                if target == addresses.gateway_v4 {
                    reply::arp(&mut self.out, self.link, (hardware, source), target);
                }
            }
            Inbound::NeighborSolicit { source, target } => {
                if target == addresses.gateway_v6 || target == addresses.gateway_link_local() {
                    reply::neighbor_advert(&mut self.out, self.link, source, target);
                }
            }
            Inbound::Drop(reason) => tracing::trace!(?reason, len = frame.len(), "frame dropped"),
        }
    }

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
                reply::unreachable(&mut self.out, self.link, from, &syn, Unreachable::Host);
            }
        }
        let (destination, reason, names) = (ends.destination, reason.to_owned(), names.told);
        self.emit(match refusal {
            Refusal::Denied(cause) => Event::Denied {
                destination,
                names,
                cause,
                reason,
            },
            _ => Event::ConnectFailed {
                destination,
                names,
                reason,
            },
        });
    }

    /// A query that went upstream has its answer.
    pub(crate) fn handle_resolved(&mut self, asker: Asker, answer: &Answer) {
        self.queries = self.queries.saturating_sub(1);
        self.send_answer(asker.ends, answer);
    }

    /// Sends what flows have to send, until the output is full.
    pub(crate) fn poll(&mut self, now: Instant) {
        self.ready.take(&mut self.ready_flows);
        let mut ready = std::mem::take(&mut self.ready_flows);
        for id in ready.drain(..) {
            if let Some(State::Open { flow, .. }) = self.flows.get_mut(id).map(|entry| &entry.state)
            {
                flow.clear_queued();
                self.queue(id);
            }
        }
        self.ready_flows = ready;
        while let Some(id) = self.timers.expired(now) {
            if let Some(entry) = self.flows.get_mut(id)
                && entry.timer.fire(&mut self.timers, id, now)
            {
                self.queue(id);
            }
        }
        while !self.out.is_full()
            && let Some(id) = self.work.pop_front()
        {
            self.poll_flow(now, id);
        }
    }

    /// When to call [`poll`](Self::poll) next if nothing else happens; in the past: at once.
    pub(crate) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if !self.work.is_empty() && !self.out.is_full() {
            return Some(now);
        }
        self.timers.next()
    }

    fn handle_segment(&mut self, now: Instant, segment: &Segment<'_>) {
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

    fn open(&mut self, now: Instant, ends: Ends, segment: &Segment<'_>) {
        if self.is_at_limit() {
            // Streams may have been dropped since the last poll.
            self.poll(now);
        }
        if self.is_at_limit() {
            reply::reset(&mut self.out, self.link, segment);
            if !std::mem::replace(&mut self.limit_reported, true) {
                self.emit(Event::FlowLimit {
                    max_flows: self.config.max_flows,
                });
            }
            return;
        }
        self.limit_reported = false;
        let to_host = self.config.addresses.is_gateway(ends.destination.ip());
        if ends.destination.port() == DNS_PORT {
            let id = self.insert(ends, to_host, Names::default(), Vec::new());
            self.answer(now, id, segment.packet);
            return;
        }
        let mut names = self.names(now, ends.destination);
        let flow = egress(ends.destination, to_host, &names);
        let policy = &self.config.policy;
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
        self.emit(Event::Denied {
            destination: ends.destination,
            names: names.told,
            cause: denial.grounds().cause().clone(),
            reason: denial.to_string(),
        });
    }

    /// A connection that is over while its stream lives on takes no place among the open ones, or a guest that
    /// opens and closes in turn would be refused for the host's slowness; but it has no more than as many again.
    fn is_at_limit(&self) -> bool {
        let max_flows = self.config.max_flows;
        self.flows.connected() >= max_flows || self.flows.len() >= max_flows.saturating_mul(2)
    }

    fn insert(&mut self, ends: Ends, to_host: bool, names: Names, syn: Vec<u8>) -> FlowId {
        self.flows.insert(ends, |_| Entry {
            ends,
            to_host,
            names,
            timer: Timer::default(),
            queued: false,
            state: State::Held { syn },
        })
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

    fn queue(&mut self, id: FlowId) {
        if let Some(entry) = self.flows.get_mut(id)
            && !std::mem::replace(&mut entry.queued, true)
        {
            self.work.push_back(id);
        }
    }

    fn poll_flow(&mut self, now: Instant, id: FlowId) {
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
        let ends = entry.ends;
        if progress == Progress::More || owes_reset {
            self.queue(id);
        } else if stage == Stage::Closed {
            self.flows.disconnect(ends, id);
            if !announced {
                self.flows.remove(ends, id);
                self.actions.push_back(Action::Cancel(id));
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
        if entry.ends.destination.port() == DNS_PORT {
            self.actions.push_back(Action::ServeNames(stream));
            return;
        }
        let announced = Announced {
            id,
            ends: entry.ends,
            to_host: entry.to_host,
            names: std::mem::take(&mut entry.names),
            stream,
        };
        let event = Event::Connected {
            destination: announced.ends.destination,
            names: announced.names.told.clone(),
            to_host: announced.to_host,
            cause: announced.names.cause.clone(),
        };
        self.actions.push_back(Action::Announce(announced));
        self.emit(event);
    }

    fn handle_datagram(&mut self, datagram: &Datagram<'_>) {
        let ends = Ends {
            source: datagram.source,
            destination: datagram.destination,
        };
        if ends.destination.port() != DNS_PORT {
            let from = ends.destination.ip();
            reply::unreachable(
                &mut self.out,
                self.link,
                from,
                datagram.packet,
                Unreachable::Port,
            );
            return;
        }
        match self.responder.plan(datagram.payload, Transport::Udp) {
            Plan::Ignore => {}
            Plan::Reply(answer) => self.send_answer(ends, &answer),
            Plan::Ask(question) if self.queries >= MAX_QUERIES => {
                self.send_answer(ends, &Responder::failure(&question));
            }
            Plan::Ask(question) => {
                self.queries += 1;
                self.actions.push_back(Action::Resolve {
                    question,
                    asker: Asker { ends },
                });
            }
        }
    }

    fn handle_echo(&mut self, echo: &Echo<'_>) {
        let addresses = self.config.addresses;
        let is_link_local = echo.destination == addresses.gateway_link_local();
        if addresses.is_gateway(echo.destination) || is_link_local {
            reply::echo(&mut self.out, self.link, echo);
        } else {
            let from = addresses.gateway_like(echo.source);
            reply::unreachable(
                &mut self.out,
                self.link,
                from,
                echo.packet,
                Unreachable::Prohibited,
            );
        }
    }

    fn send_answer(&mut self, ends: Ends, answer: &Answer) {
        record(&self.config, answer);
        reply::datagram(
            &mut self.out,
            self.link,
            ends.destination,
            ends.source,
            &answer.message,
        );
    }

    fn reset_syn(&mut self, syn: &[u8]) {
        if let Some(segment) = packet::segment(syn) {
            reply::reset(&mut self.out, self.link, &segment);
        }
    }

    fn names(&self, now: Instant, destination: SocketAddr) -> Names {
        let pins = self
            .config
            .pins
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let address = destination.ip();
        let told = pins.names(address, self.clock.to_std(now));
        drop(pins);
        let configured = told
            .iter()
            .filter(|name| self.responder.leads(name, address));
        Names {
            configured: configured.cloned().collect(),
            told,
            cause: None,
        }
    }

    fn emit(&self, event: Event) {
        (self.config.events)(event);
    }
}

/// What the policy is asked about a connection of the guest.
pub(crate) fn egress(
    destination: SocketAddr,
    to_host: bool,
    names: &Names,
) -> msb_policy::Flow<'_> {
    msb_policy::Flow::egress(Protocol::Tcp, destination)
        .to_host(to_host)
        .resolved(&names.told)
        .configured(&names.configured)
}

/// Pins what `answer` tells the guest and reports what it withholds. To be called before sending it.
pub(crate) fn record(config: &Config, answer: &Answer) {
    if !answer.pins.is_empty() {
        let now = std::time::Instant::now();
        let mut pins = config.pins.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, address, ttl) in &answer.pins {
            pins.insert(name.clone(), *address, *ttl, now);
        }
    }
    if let Some(event) = &answer.denied {
        (config.events)(event.clone());
    }
}

impl Drop for Engine {
    /// Streams that live on must not wait for a guest that nobody carries frames to.
    fn drop(&mut self) {
        for entry in self.flows.values() {
            if let State::Open { flow, .. } = &entry.state {
                flow.tcp().abort();
                flow.tell_broken();
            }
        }
    }
}
