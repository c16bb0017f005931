//! One flow against a guest's TCP (smoltcp's, too) over a wire of buffers that may lose, repeat and
//! reorder packets, on a clock that only the tests move.

use std::task::Waker;

use proptest::prelude::*;
use smoltcp::wire::{EthernetAddress, IpEndpoint};

use smoltcp::socket::tcp::SocketBuffer;

use super::*;
use crate::frame::{FrameReader, PREFIX_LEN};
use crate::pool::BUFFER_LEN;

const MTU: u16 = 65_520;
const LINK: Link = Link {
    local: EthernetAddress([2, 0, 0, 0, 0, 1]),
    remote: EthernetAddress([2, 0, 0, 0, 0, 2]),
    mtu: MTU,
};

/// What the wire does to packets, decided by a seeded generator.
struct Faults {
    state: u64,
    /// Of 256 packets, how many are lost, repeated, or swapped with the next.
    lost: u8,
    repeated: u8,
    swapped: u8,
}

impl Faults {
    const NONE: Self = Self {
        state: 1,
        lost: 0,
        repeated: 0,
        swapped: 0,
    };

    fn apply(&mut self, packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut out: Vec<Vec<u8>> = Vec::new();
        for packet in packets {
            if self.hits(self.lost) {
                continue;
            }
            if self.hits(self.repeated) {
                out.push(packet.clone());
            }
            out.push(packet);
            let len = out.len();
            if len > 1 && self.hits(self.swapped) {
                out.swap(len - 1, len - 2);
            }
        }
        out
    }

    /// Xorshift: seeded, so that a failure can be repeated.
    fn hits(&mut self, of_256: u8) -> bool {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.to_le_bytes()[0] < of_256
    }
}

/// A flow, its guest, and the wire between them.
struct Pair {
    now: Instant,
    flow: FlowTcp,
    guest: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    out: FrameWriter,
    faults: Faults,
}

impl Pair {
    /// A guest that has just asked for a connection. `buffer_len`: octets its socket holds each way.
    fn dial(buffer_len: usize, faults: Faults) -> Self {
        let now = Instant::from_secs(1);
        let mut guest = Interface::new(
            Config::new(HardwareAddress::Ip),
            &mut Wire { mtu: MTU }.attach(None, None),
            now,
        );
        guest.set_any_ip(true);
        let buffer = || SocketBuffer::new(vec![0; buffer_len]);
        let mut socket = Socket::new(buffer(), buffer());
        let local = IpEndpoint::new(IpAddress::v4(192, 0, 0, 2), 4_000);
        let remote = IpEndpoint::new(IpAddress::v4(1, 1, 1, 1), 443);
        socket.connect(guest.context(), remote, local).unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Self {
            now,
            flow: FlowTcp::new(MTU, 1, now),
            guest,
            sockets,
            handle,
            out: FrameWriter::new(),
            faults,
        }
    }

    /// The same with the handshake done, over a wire that then behaves as `faults` says.
    fn connected(buffer_len: usize, faults: Faults) -> Self {
        let mut pair = Self::dial(buffer_len, Faults::NONE);
        pair.accept();
        pair.settle();
        assert_eq!(pair.flow.stage(), Stage::Open);
        assert_eq!(pair.guest().state(), State::Established);
        pair.faults = faults;
        pair
    }

    fn accept(&mut self) {
        let syn = self.guest_output().remove(0);
        let local = "1.1.1.1:443".parse().unwrap();
        self.flow.accept(self.now, local, &syn, LINK, &mut self.out);
    }

    fn guest(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn guest_output(&mut self) -> Vec<Vec<u8>> {
        let mut out = FrameWriter::new();
        let mut device = Wire { mtu: MTU }.attach(None, Some((LINK, &mut out)));
        while self
            .guest
            .poll_egress(self.now, &mut device, &mut self.sockets)
            != PollResult::None
        {}
        packets(&mut out)
    }

    /// Carries what there is to carry, once in each direction; `false`: there was nothing.
    fn exchange(&mut self) -> bool {
        let up = self.guest_output();
        let mut active = !up.is_empty();
        for packet in self.faults.apply(up) {
            self.flow.ingress(self.now, &packet, LINK, &mut self.out);
        }
        active |= self.flow.egress(self.now, LINK, &mut self.out) == Progress::More;
        let down = packets(&mut self.out);
        active |= !down.is_empty();
        for packet in self.faults.apply(down) {
            let mut replies = FrameWriter::new();
            let mut device = Wire { mtu: MTU }.attach(Some(&packet), Some((LINK, &mut replies)));
            self.guest
                .poll_ingress_single(self.now, &mut device, &mut self.sockets);
            for packet in packets(&mut replies) {
                self.flow.ingress(self.now, &packet, LINK, &mut self.out);
            }
        }
        active
    }

    /// Carries packets until both ends are quiet.
    fn settle(&mut self) {
        while self.exchange() {}
    }

    /// Moves the clock to the next timer of either end.
    fn wait(&mut self) {
        let flow = self.flow.poll_timeout(self.now);
        let guest = self.guest.poll_at(self.now, &self.sockets);
        let next = flow.into_iter().chain(guest).min();
        let soonest = self.now + Duration::from_millis(1);
        self.now = next.map_or(soonest, |at| at.max(soonest));
    }

    fn read(&mut self) -> Poll<io::Result<Vec<u8>>> {
        let mut buffer = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        self.flow
            .poll_read_with(&mut context, |data| {
                buffer.extend(data);
                Ok(data.len())
            })
            .map_ok(|_| buffer)
    }

    fn write(&mut self, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut context = Context::from_waker(Waker::noop());
        self.flow.poll_write_with(&mut context, |space| {
            let len = space.len().min(data.len());
            space[..len].copy_from_slice(&data[..len]);
            Ok(len)
        })
    }
}

/// The IP packets queued in `out`.
fn packets(out: &mut FrameWriter) -> Vec<Vec<u8>> {
    let mut reader = FrameReader::new();
    let mut packets = Vec::new();
    while !out.is_empty() {
        let space = reader.space();
        let len = space.len().min(out.pending().len());
        space[..len].copy_from_slice(&out.pending()[..len]);
        out.written(len);
        reader.filled(len);
        while let Some(frame) = reader.next_frame() {
            assert!(frame.len() > PREFIX_LEN + ETHERNET_HEADER_LEN);
            packets.push(frame[ETHERNET_HEADER_LEN..].to_vec());
        }
    }
    packets
}

fn pattern(len: usize) -> Vec<u8> {
    let words = (0_u32..).flat_map(|index| index.wrapping_mul(0x9e37_79b1).to_le_bytes());
    words.take(len).collect()
}

/// Sends `len` octets each way at once and checks both ends.
fn transfer(mut pair: Pair, len: usize) {
    let data = pattern(len);
    let (mut up_sent, mut down_sent) = (0, 0);
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let limit = pair.now + Duration::from_secs(24 * 3600);
    while up.len() < len || down.len() < len {
        assert!(
            pair.now < limit,
            "stuck at {} up, {} down",
            up.len(),
            down.len()
        );
        up_sent += pair.guest().send_slice(&data[up_sent..]).unwrap();
        if let Poll::Ready(written) = pair.write(&data[down_sent..]) {
            down_sent += written.unwrap();
        }
        let active = pair.exchange();
        let mut progress = false;
        while let Poll::Ready(read) = pair.read() {
            up.extend(read.unwrap());
            progress = true;
        }
        pair.guest()
            .recv(|received| {
                progress |= !received.is_empty();
                down.extend_from_slice(received);
                (received.len(), ())
            })
            .unwrap();
        if !active && !progress {
            pair.wait();
        }
    }
    assert!(up == data && down == data, "the data differs");
}

#[test]
fn megabytes_pass_both_ways_at_once() {
    transfer(Pair::connected(300_000, Faults::NONE), 4_000_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn data_survives_loss_repetition_and_reordering(
        state in 1_u64..,
        lost in 0_u8..40,
        repeated in 0_u8..40,
        swapped in 0_u8..80,
        buffer_len in 2_000_usize..200_000,
    ) {
        let faults = Faults { state, lost, repeated, swapped };
        transfer(Pair::connected(buffer_len, faults), 300_000);
    }
}

#[test]
fn a_handshake_that_is_not_finished_is_reset_after_its_limit() {
    let mut pair = Pair::dial(1_000, Faults::NONE);
    pair.accept();
    let started = pair.now;
    // The guest hears nothing of the answers.
    while pair.flow.stage() != Stage::Closed {
        packets(&mut pair.out);
        pair.now = pair.flow.poll_timeout(pair.now).unwrap();
        pair.flow.egress(pair.now, LINK, &mut pair.out);
    }
    assert_eq!(pair.now, started + HANDSHAKE_LIMIT);
}

#[test]
fn an_idle_connection_has_no_timer_and_lives_on() {
    let mut pair = Pair::connected(1_000, Faults::NONE);
    assert_eq!(pair.flow.poll_timeout(pair.now), None);
    pair.now += Duration::from_secs(7 * 24 * 3600);
    pair.settle();
    pair.guest().send_slice(b"still here").unwrap();
    pair.settle();
    assert!(matches!(pair.read(), Poll::Ready(Ok(data)) if data == b"still here"));
}

/// RFC 5382, REQ-5. Data of either side counts, and so do probes.
#[test]
fn a_connection_is_idle_two_hours_and_four_minutes_after_the_last_segment() {
    let mut pair = Pair::connected(1_000, Faults::NONE);
    for from_guest in [true, false] {
        pair.now += IDLE_LIMIT - Duration::from_secs(1);
        assert!(!pair.flow.is_idle(pair.now));
        if from_guest {
            pair.guest().send_slice(b"a").unwrap();
        } else {
            assert!(matches!(pair.write(b"b"), Poll::Ready(Ok(1))));
        }
        pair.settle();
    }
    pair.now += IDLE_LIMIT - Duration::from_secs(1);
    assert!(!pair.flow.is_idle(pair.now));
    pair.now += Duration::from_secs(1);
    assert!(pair.flow.is_idle(pair.now));
}

/// A client that gave up waiting for its answer must not keep its connection for as long as the server likes.
#[test]
fn a_half_closed_guest_is_asked_whether_it_is_still_there() {
    let mut pair = Pair::connected(1_000, Faults::NONE);
    pair.guest().close();
    pair.settle();
    assert!(matches!(pair.read(), Poll::Ready(Ok(data)) if data.is_empty()));
    for _ in 0..10 {
        pair.now += HALF_CLOSED_PROBE;
        pair.settle();
        assert_eq!(pair.flow.stage(), Stage::Open, "it waits for its answer");
    }
    // Its kernel has forgotten the socket.
    pair.sockets.remove(pair.handle);
    pair.now += HALF_CLOSED_PROBE;
    pair.settle();
    assert_eq!(pair.flow.stage(), Stage::Closed);
}

#[test]
fn a_guest_that_keeps_its_half_open_is_reset_after_the_stream_is_gone() {
    let mut pair = Pair::connected(1_000, Faults::NONE);
    pair.flow.detach(pair.now);
    pair.settle();
    assert_eq!(pair.guest().state(), State::CloseWait);
    pair.now = pair.flow.poll_timeout(pair.now).unwrap();
    pair.settle();
    assert_eq!(pair.guest().state(), State::Closed);
    assert_eq!(pair.flow.stage(), Stage::Closed);
}

#[test]
fn a_slow_guest_gets_all_that_was_written_before_the_stream_was_dropped() {
    let mut pair = Pair::connected(1_000, Faults::NONE);
    let data = pattern(10_000);
    assert!(matches!(pair.write(&data), Poll::Ready(Ok(10_000))));
    pair.flow.detach(pair.now);
    let (started, mut received) = (pair.now, Vec::new());
    while received.len() < data.len() {
        // Reads a little every 50 s, ten times as long in all as a silent guest may take.
        pair.now += Duration::from_secs(50);
        pair.settle();
        pair.guest()
            .recv(|bytes| {
                received.extend_from_slice(bytes);
                (bytes.len(), ())
            })
            .unwrap();
        pair.settle();
    }
    assert!(pair.now - started > LINGER_LIMIT);
    assert!(received == data, "the data differs");
}

#[test]
fn a_closed_window_is_probed_and_writing_waits() {
    let mut pair = Pair::connected(1_000, Faults::NONE);
    let data = pattern(2 * BUFFER_LEN);
    let Poll::Ready(Ok(written)) = pair.write(&data) else {
        panic!("an empty buffer takes something");
    };
    assert_eq!(written, BUFFER_LEN);
    assert!(pair.write(&data).is_pending());
    pair.settle();
    for _ in 0..20 {
        assert!(
            pair.flow.poll_timeout(pair.now).is_some(),
            "the window is not probed"
        );
        pair.wait();
        pair.settle();
    }
    assert_eq!(pair.flow.stage(), Stage::Open);
}

#[test]
fn a_used_socket_serves_the_next_guest() {
    let mut pair = Pair::connected(1_000, Faults::NONE);
    pair.guest().send_slice(b"secret of the first").unwrap();
    pair.settle();
    pair.guest().abort();
    pair.settle();
    drop(pair);

    // The pool is last in, first out.
    let mut next = Pair::dial(1_000, Faults::NONE);
    next.accept();
    next.settle();
    assert_eq!(next.guest().state(), State::Established);
    assert!(next.read().is_pending(), "nothing of the first is left");
    next.guest().send_slice(b"hello").unwrap();
    next.settle();
    assert!(matches!(next.read(), Poll::Ready(Ok(data)) if data == b"hello"));
}
