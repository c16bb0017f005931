//! The gateway's state, what each frame is handed to, and when which flow gets its turn.

use std::collections::VecDeque;
use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::Arc;

use smoltcp::time::Instant;
use smoltcp::wire::EthernetAddress;

use super::ingress::Clients;
use super::relay::Relays;
use super::tcp::{Entry, State};
use crate::action::Action;
use crate::config::{Config, MIN_MTU};
use crate::counters::{DropCounters, Dropped};
use crate::dns::Responder;
use crate::event::Event;
use crate::fragments::Reassembler;
use crate::frame::FrameWriter;
use crate::packet::{self, Inbound};
use crate::policy::PolicyCell;
use crate::rate::Shaper;
use crate::reply::{self, Link, Quote, Unreachable};
use crate::stream::{Clock, ReadyQueue};
use crate::table::{FlowId, FlowTable};
use crate::timers::Timers;

/// See the description of `engine`.
pub(crate) struct Engine {
    pub(super) config: Config,
    /// What the guest sends, and what it is sent.
    egress: Shaper,
    ingress: Shaper,
    pub(super) policy: PolicyCell,
    pub(super) responder: Responder,
    pub(super) clock: Clock,
    pub(super) link: Link,
    pub(super) out: FrameWriter,
    pub(super) counters: Arc<DropCounters>,
    fragments: Reassembler,
    /// When the guest is told again that there is a router; it has asked before.
    pub(super) advertise_at: Option<Instant>,
    pub(super) flows: FlowTable<Entry>,
    pub(super) timers: Timers,
    /// When connections may be asked again whether they are idle.
    pub(super) sweep_at: Instant,
    pub(super) relays: Relays,
    pub(super) clients: Clients,
    /// Flows to be polled.
    pub(super) work: VecDeque<FlowId>,
    pub(super) ready: Arc<ReadyQueue>,
    /// Buffer for the ready queue's content, kept for its memory.
    pub(super) ready_flows: Vec<FlowId>,
    pub(super) actions: VecDeque<Action>,
    pub(super) queries: usize,
    /// Whether it was told that no more connections may be open, for each direction.
    pub(super) limit_reported: [bool; 2],
    pub(super) seeds: RandomState,
}

impl Engine {
    pub(crate) fn new(mut config: Config, clock: Clock) -> Self {
        config.mtu = config.mtu.max(MIN_MTU);
        let addresses = config.addresses;
        let counters = Arc::<DropCounters>::default();
        let policy = PolicyCell::new(Arc::clone(&config.policy));
        let responder = Responder::new(
            std::mem::take(&mut config.hosts),
            addresses,
            policy.clone(),
            Arc::clone(&counters),
        )
        .rebind_protection(config.rebind_protection);
        Self {
            link: Link {
                local: EthernetAddress(addresses.gateway_mac),
                remote: EthernetAddress(addresses.guest_mac),
                mtu: config.mtu,
            },
            egress: Shaper::new(config.egress, clock.now()),
            ingress: Shaper::new(config.ingress, clock.now()),
            config,
            policy,
            responder,
            clock,
            out: FrameWriter::new(),
            counters,
            fragments: Reassembler::default(),
            advertise_at: None,
            flows: FlowTable::new(),
            timers: Timers::default(),
            sweep_at: clock.now(),
            relays: Relays::new(),
            clients: Clients::default(),
            work: VecDeque::new(),
            ready: Arc::default(),
            ready_flows: Vec::new(),
            actions: VecDeque::new(),
            queries: 0,
            limit_reported: [false; 2],
            seeds: RandomState::new(),
        }
    }

    pub(crate) fn responder(&self) -> &Responder {
        &self.responder
    }

    /// What decides, and may be replaced; [`ready`](Self::ready) is then to be woken.
    pub(crate) fn policy(&self) -> PolicyCell {
        self.policy.clone()
    }

    /// What was dropped.
    pub(crate) fn counters(&self) -> Arc<DropCounters> {
        Arc::clone(&self.counters)
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

    /// Whether the guest may send another frame, as far as the bounds on what it sends go.
    pub(crate) fn takes_frames(&mut self, now: Instant) -> bool {
        self.egress.ready_at(now).is_none()
    }

    /// Takes a frame from the guest.
    pub(crate) fn handle_frame(&mut self, now: Instant, frame: &[u8]) {
        self.egress.take(i64::try_from(frame.len()).unwrap_or(0), 1);
        if let Some(sender) = packet::sender(frame) {
            self.link.remote = sender;
        }
        match packet::classify(frame, self.link.local) {
            Inbound::Fragment(fragment) => match self.fragments.insert(now, &fragment) {
                Ok(None) => {}
                Ok(Some(packet)) => self.handle(now, packet::parse(&packet)),
                Err(reason) => self.counters.count(reason),
            },
            inbound => self.handle(now, inbound),
        }
    }

    /// Whether flows wait for their turn, for which there was no room.
    pub(crate) fn has_waiting_flows(&self) -> bool {
        !self.work.is_empty()
    }

    /// Counts what was sent to the guest, and says how much more may be.
    pub(crate) fn pace(&mut self, now: Instant) {
        let (octets, frames) = self.out.appended();
        self.ingress.take(octets, frames);
        self.out.allow(self.ingress.available(now));
    }

    fn handle(&mut self, now: Instant, inbound: Inbound<'_>) {
        let addresses = self.config.addresses;
        match inbound {
            Inbound::Tcp(segment) => self.handle_segment(now, &segment),
            Inbound::Udp(datagram) => self.handle_datagram(now, &datagram),
            Inbound::Echo(echo) => self.handle_echo(now, &echo),
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
            Inbound::RouterSolicit => self.advertise(now),
            Inbound::Dhcp(message) => self.handle_dhcp(message),
            // Once put together a packet is in no more pieces, or somebody plays.
            Inbound::Fragment(_) => self.counters.count(Dropped::Protocol),
            Inbound::Drop(reason) => self.counters.count(reason),
        }
    }

    /// Sends what flows have to send, until the output is full.
    pub(crate) fn poll(&mut self, now: Instant) {
        self.pace(now);
        if self.policy.take_new() {
            self.review(now);
        }
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
        self.expire_relays(now);
        self.clear_timers();
        if self.advertise_at.is_some_and(|at| at <= now) {
            self.advertise(now);
        }
        while self.out.has_room()
            && let Some(id) = self.work.pop_front()
        {
            self.poll_flow(now, id);
        }
    }

    fn clear_timers(&mut self) {
        if self.timers.is_crowded(self.flows.len()) {
            let flows = self.flows.iter_mut();
            self.timers
                .rebuild(flows.map(|(id, entry)| (id, &mut entry.timer)));
        }
        let Relays { flows, timers, .. } = &mut self.relays;
        if timers.is_crowded(flows.len()) {
            let flows = flows.iter_mut();
            timers.rebuild(flows.map(|(id, relay)| (id, &mut relay.timer)));
        }
    }

    /// When to call [`poll`](Self::poll) next if nothing else happens; in the past: at once.
    pub(crate) fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        self.pace(now);
        if !self.work.is_empty() && self.out.has_room() {
            return Some(now);
        }
        let deadlines = [
            self.timers.next(),
            self.relays.timers.next(),
            self.advertise_at,
            self.egress.ready_at(now),
            self.ingress.ready_at(now),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Answers `packet`, a whole and checked IP packet of the guest, with an ICMP error.
    pub(super) fn refuse(&mut self, from: IpAddr, packet: &[u8], reason: Unreachable) {
        if let Some(quote) = Quote::of(packet) {
            reply::unreachable(&mut self.out, self.link, from, &quote, reason);
        }
    }

    pub(super) fn emit(&self, event: Event) {
        (self.config.events)(event);
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
