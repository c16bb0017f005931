//! The engine on a clock that only the tests move, without sockets.

use std::sync::{Arc, Mutex};

use msb_policy::NetworkPolicy;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::EthernetAddress;

use super::Engine;
use crate::action::{Action, Refusal};
use crate::config::Config;
use crate::event::Event;
use crate::frame::{FrameReader, FrameWriter};
use crate::reply::{self, Link};
use crate::stream::Clock;

/// An engine and what it reported.
pub(super) struct Bench {
    pub(super) engine: Engine,
    pub(super) now: Instant,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Bench {
    pub(super) fn new(policy: &str, configure: impl FnOnce(&mut Config)) -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let mut config = Config::new(Arc::new(NetworkPolicy::parse(policy).unwrap()));
        let sink = Arc::clone(&events);
        config.events = Arc::new(move |event| sink.lock().unwrap().push(event));
        configure(&mut config);
        Self {
            engine: Engine::new(config, Clock::start()),
            now: Instant::from_secs(1_000),
            events,
        }
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.engine.poll(self.now);
    }

    pub(super) fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.engine.poll_action()).collect()
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap())
    }

    /// Sends a datagram of the guest's, in packets of `mtu` at most.
    pub(super) fn send(&mut self, source: &str, destination: &str, payload: &[u8], mtu: u16) {
        for frame in datagram(source, destination, payload, mtu) {
            self.engine.handle_frame(self.now, &frame);
        }
    }
}

/// The frames of a datagram of the guest's.
pub(super) fn datagram(source: &str, destination: &str, payload: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    let link = Link {
        local: EthernetAddress([2, 0x6d, 0x73, 0x62, 0, 2]),
        remote: EthernetAddress([2, 0x6d, 0x73, 0x62, 0, 1]),
        mtu,
    };
    let mut out = FrameWriter::new();
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    reply::datagram(&mut out, link, source, destination, payload);
    frames(&mut out)
}

/// Takes all frames out.
pub(super) fn frames(out: &mut FrameWriter) -> Vec<Vec<u8>> {
    let mut reader = FrameReader::new();
    let mut frames = Vec::new();
    while !out.is_empty() {
        let space = reader.space();
        let len = space.len().min(out.pending().len());
        space[..len].copy_from_slice(&out.pending()[..len]);
        reader.filled(len);
        out.written(len);
        while let Some(frame) = reader.next_frame() {
            frames.push(frame.to_vec());
        }
    }
    frames
}

/// RFC 4787, REQ-5: two minutes, counted from the last datagram of either side.
#[test]
fn a_flow_of_datagrams_is_kept_for_two_minutes_after_the_last() {
    let mut bench = Bench::new("public", |_| {});
    bench.send("192.0.0.2:5000", "8.8.8.8:123", b"time?", 65_520);
    let actions = bench.actions();
    let [Action::OpenRelay { id, .. }, Action::Relay { payload, .. }] = &actions[..] else {
        panic!("{actions:?}");
    };
    let id = *id;
    assert_eq!(payload, b"time?");
    bench.pass(119);
    assert_eq!(bench.actions().len(), 0);
    bench.engine.handle_relayed(bench.now, id, b"noon");
    assert_eq!(frames(bench.engine.out()).len(), 1);
    bench.pass(119);
    bench.send("192.0.0.2:5000", "8.8.8.8:123", b"again?", 65_520);
    let actions = bench.actions();
    assert!(
        matches!(&actions[..], [Action::Relay { id: same, .. }] if *same == id),
        "{actions:?}"
    );
    bench.pass(119);
    assert_eq!(bench.actions().len(), 0);
    bench.pass(1);
    let actions = bench.actions();
    assert!(
        matches!(&actions[..], [Action::CloseRelay(closed)] if *closed == id),
        "{actions:?}"
    );
    // What comes too late finds nobody.
    bench.engine.handle_relayed(bench.now, id, b"late");
    assert!(bench.engine.out().is_empty());
}

#[test]
fn a_place_that_has_become_free_is_given_to_the_next_flow() {
    let mut bench = Bench::new("public", |config| config.max_udp_flows = 2);
    for round in 0..3_u16 {
        for port in 1..=4 {
            let source = format!("192.0.0.2:{}", 5000 + port + 10 * round);
            bench.send(&source, "8.8.8.8:123", b"time?", 65_520);
        }
        let opened = bench
            .actions()
            .into_iter()
            .filter(|action| matches!(action, Action::OpenRelay { .. }));
        assert_eq!(opened.count(), 2);
        let limits = bench
            .events()
            .into_iter()
            .filter(|event| matches!(event, Event::FlowLimit { .. }));
        assert_eq!(limits.count(), 1, "once per burst");
        bench.pass(121);
        bench.actions();
    }
}

/// Nothing is cheaper to provoke: a datagram to where the host has no route.
#[test]
fn flows_that_fail_at_once_leave_nothing_behind() {
    let mut bench = Bench::new("public", |_| {});
    for port in 1..=10_000 {
        let source = format!("192.0.0.2:{port}");
        bench.send(&source, "8.8.8.8:123", b"time?", 65_520);
        for action in bench.actions() {
            if let Action::OpenRelay { id, .. } = action {
                let engine = &mut bench.engine;
                engine.handle_relay_failed(bench.now, id, Refusal::Unreachable, "no route");
            }
        }
        frames(bench.engine.out());
        bench.pass(0);
    }
    let left = bench.engine.relays.timers.len();
    assert!(left < 100, "{left}");
}
