//! Entries for the fuzz targets; no part of the interface.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Waker};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;
use msb_policy::{Group, NetworkPolicy, classify};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv6Packet, IpAddress, IpProtocol, Ipv4Packet,
    Ipv6Packet, TcpPacket, UdpPacket,
};

use crate::action::{Action, Refusal};
use crate::config::{Addresses, Config};
use crate::dns::{Plan, Responder, Transport, Upstream};
use crate::engine::Engine;
use crate::policy::PolicyCell;
use crate::stream::{Clock, FlowStream};
use crate::table::FlowId;

const MAX_FLOWS: usize = 4;
const MTU: u16 = 1_500;

/// An engine whose other side does what the operations say.
pub struct Gateway {
    engine: Engine,
    now: Instant,
    connecting: Vec<FlowId>,
    relays: Vec<FlowId>,
    streams: Vec<FlowStream>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

impl Default for Gateway {
    fn default() -> Self {
        let mut config = Config::new(policy("all"));
        config.mtu = MTU;
        config.max_flows = MAX_FLOWS;
        config.max_udp_flows = MAX_FLOWS;
        Self {
            engine: Engine::new(config, Clock::start()),
            now: Instant::from_secs(10),
            connecting: Vec::new(),
            relays: Vec::new(),
            streams: Vec::new(),
        }
    }
}

fn policy(profiles: &str) -> Arc<NetworkPolicy> {
    Arc::new(NetworkPolicy::parse(profiles).unwrap_or_else(NetworkPolicy::invalid))
}

impl Gateway {
    /// A frame of the guest.
    pub fn frame(&mut self, frame: &[u8]) {
        self.engine.handle_frame(self.now, frame);
        self.settle();
    }

    /// The same to the gateway, with the checksums that its packets should have.
    pub fn mended_frame(&mut self, frame: &[u8]) {
        let mut frame = frame.to_vec();
        if frame.len() >= 14 {
            frame[..6].copy_from_slice(&Addresses::default().gateway_mac);
            checksums(&mut frame, true);
        }
        self.frame(&frame);
    }

    /// Time passes.
    pub fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.settle();
    }

    /// The oldest connect succeeds, or does not.
    pub fn connected(&mut self, succeeds: bool) {
        if self.connecting.is_empty() {
            return;
        }
        let id = self.connecting.remove(0);
        if succeeds {
            self.engine.handle_connected(self.now, id);
        } else {
            self.engine.handle_refused(id, Refusal::Unreachable, "no");
        }
        self.settle();
    }

    /// Something arrives for the newest flow of datagrams.
    pub fn relayed(&mut self, payload: &[u8]) {
        if let Some(id) = self.relays.last() {
            self.engine.handle_relayed(self.now, *id, payload);
        }
        self.settle();
    }

    /// The newest stream writes.
    pub fn write(&mut self, bytes: &[u8]) {
        if let Some(stream) = self.streams.last_mut() {
            let mut context = Context::from_waker(Waker::noop());
            let stream = std::pin::Pin::new(stream);
            let _ = tokio::io::AsyncWrite::poll_write(stream, &mut context, bytes);
        }
        self.settle();
    }

    /// The oldest stream is dropped.
    pub fn drop_stream(&mut self) {
        if !self.streams.is_empty() {
            self.streams.remove(0);
        }
        self.settle();
    }

    /// The policy is replaced by one that denies everything, or nothing but metadata.
    pub fn replace(&mut self, denies: bool) {
        let profiles = if denies { "none" } else { "all" };
        self.engine.policy().replace(policy(profiles));
        self.settle();
    }

    /// Whether an echo request to the gateway is still answered.
    pub fn answers_ping(&mut self) -> bool {
        const REQUEST: [u8; 42] = [
            2, 0x6d, 0x73, 0x62, 0, 1, 2, 0x6d, 0x73, 0x62, 0, 2, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0,
            64, 1, 0, 0, 192, 0, 0, 2, 192, 0, 0, 1, 8, 0, 0, 0, 0, 1, 0, 1,
        ];
        let mut request = REQUEST;
        checksums(&mut request, true);
        self.settle();
        self.engine.handle_frame(self.now, &request);
        let answer = self.engine.out().next_frame();
        answer.is_some_and(|frame| {
            frame.get(34) == Some(&0) && frame.get(26..30) == Some(&[192, 0, 0, 1])
        })
    }

    /// Carries out actions and checks frames until nothing is left to do.
    ///
    /// # Panics
    /// Where a promise does not hold.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            self.engine.poll(self.now);
            self.check_output();
            let mut acted = false;
            while let Some(action) = self.engine.poll_action() {
                self.act(action);
                acted = true;
            }
            assert!(self.relays.len() <= MAX_FLOWS, "too many sockets");
            assert!(self.connecting.len() <= 2 * MAX_FLOWS, "too many connects");
            let is_due = self
                .engine
                .poll_timeout(self.now)
                .is_some_and(|at| at <= self.now);
            if !acted && !is_due && self.engine.out().is_empty() {
                return;
            }
        }
        panic!("there is always something to do");
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Connect { id, .. } => self.connecting.push(id),
            Action::Cancel(id) => self.connecting.retain(|known| *known != id),
            Action::OpenRelay { id, .. } => {
                self.relays.push(id);
                self.engine.handle_relay_opened(id);
            }
            Action::CloseRelay(id) => self.relays.retain(|known| *known != id),
            Action::Announce(announced) => self.streams.push(announced.stream),
            Action::ServeNames(stream)
            | Action::ServeSecureNames { stream, .. }
            | Action::Welcome { stream, .. } => self.streams.push(stream),
            Action::Resolve { question, asker } => {
                self.engine
                    .handle_resolved(asker, &Responder::failure(&question));
            }
            Action::Relay { .. } | Action::CheckOwn { .. } => {}
        }
    }

    /// Every frame is one that a kernel would take.
    fn check_output(&mut self) {
        while let Some(frame) = self.engine.out().next_frame().map(<[u8]>::to_vec) {
            assert!(
                frame.len() <= 14 + usize::from(MTU),
                "longer than the link takes"
            );
            let mut right = frame.clone();
            assert!(checksums(&mut right, false), "not a packet: {frame:?}");
            assert_eq!(right, frame, "wrong checksums");
            self.engine.out().written_frame();
        }
    }
}

/// Fills in the checksums of what the frame holds; in fragments, the header's only. Returns whether it is well-formed. A
/// frame from the guest needs not be `whole`.
fn checksums(frame: &mut [u8], whole: bool) -> bool {
    let Ok(mut ethernet) = EthernetFrame::new_checked(frame) else {
        return false;
    };
    let ethertype = ethernet.ethertype();
    let payload = ethernet.payload_mut();
    match ethertype {
        EthernetProtocol::Ipv4 => {
            let Ok(mut ip) = Ipv4Packet::new_checked(&mut *payload) else {
                return false;
            };
            ip.fill_checksum();
            let (source, destination) = (ip.src_addr().into(), ip.dst_addr().into());
            let is_fragment = ip.more_frags() || ip.frag_offset() != 0;
            let protocol = ip.next_header();
            is_fragment || transport(protocol, source, destination, ip.payload_mut())
        }
        EthernetProtocol::Ipv6 => {
            let Ok(mut ip) = Ipv6Packet::new_checked(&mut *payload) else {
                return false;
            };
            let (source, destination) = (ip.src_addr().into(), ip.dst_addr().into());
            let protocol = ip.next_header();
            transport(protocol, source, destination, ip.payload_mut())
        }
        EthernetProtocol::Arp => payload.len() >= 28,
        EthernetProtocol::Unknown(_) => whole,
    }
}

fn transport(protocol: IpProtocol, from: IpAddress, to: IpAddress, payload: &mut [u8]) -> bool {
    match (protocol, from, to) {
        (IpProtocol::Tcp, ..) => TcpPacket::new_checked(payload)
            .map(|mut tcp| tcp.fill_checksum(&from, &to))
            .is_ok(),
        (IpProtocol::Udp, ..) => UdpPacket::new_checked(payload)
            .map(|mut udp| udp.fill_checksum(&from, &to))
            .is_ok(),
        (IpProtocol::Icmp, ..) => Icmpv4Packet::new_checked(payload)
            .map(|mut icmp| icmp.fill_checksum())
            .is_ok(),
        (IpProtocol::Icmpv6, IpAddress::Ipv6(from), IpAddress::Ipv6(to)) => {
            Icmpv6Packet::new_checked(payload)
                .map(|mut icmp| icmp.fill_checksum(&from, &to))
                .is_ok()
        }
        (IpProtocol::Ipv6Frag, ..) => payload.len() > 8,
        _ => false,
    }
}

/// Has a query answered, from what upstream is to have said, under the policy `public`; the answer may be none.
///
/// # Panics
/// Where a promise does not hold.
pub fn names(query: &[u8], upstream: &[u8], over_tcp: bool) {
    let cell = PolicyCell::new(policy("public"));
    let addresses = Addresses::default();
    let responder = Responder::new([], addresses, cell, Arc::default());
    let transport = match over_tcp {
        true => Transport::Tcp,
        false => Transport::Udp,
    };
    let answer = match responder.plan(query, transport) {
        Plan::Ignore => return,
        Plan::Reply(answer) => answer,
        Plan::Ask(question) => {
            let Ok(said) = Message::from_vec(upstream) else {
                return;
            };
            let upstream = Upstream {
                code: ResponseCode::NoError,
                answers: said.answers,
                soa: None,
            };
            responder.answer(&question, upstream)
        }
    };
    assert_eq!(answer.message[..2], query[..2], "another query's answer");
    assert!(answer.message[2] & 0x80 != 0, "not an answer");
    assert!(
        over_tcp || answer.message.len() <= 4_096,
        "longer than may be"
    );
    let Ok(parsed) = Message::from_vec(&answer.message) else {
        panic!("cannot be read: {:?}", answer.message);
    };
    for record in &parsed.answers {
        let address: IpAddr = match &record.data {
            RData::A(address) => address.0.into(),
            RData::AAAA(address) => address.0.into(),
            _ => continue,
        };
        assert_eq!(classify(address), Group::Public, "rebinding");
        let is_pinned = answer.pins.iter().any(|(_, pinned, _)| *pinned == address);
        let is_host = msb_name::HostName::parse(&parsed.queries[0].name().to_ascii()).is_ok();
        assert!(
            is_pinned || !is_host,
            "an address that no flow can go to by name"
        );
    }
}
