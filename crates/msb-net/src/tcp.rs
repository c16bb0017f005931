//! The gateway's end of one guest TCP connection: segments in, segments out, and the byte stream
//! between. Packets and the time are arguments; sockets and tasks are not known here.
//!
//! Each flow has a smoltcp interface of its own with one socket, so that a segment costs the same
//! however many flows are open (an interface looks through all its sockets). The interface speaks
//! plain IP and takes any address (`any_ip`), so it needs neither routes nor addresses: the flow
//! table has already found the connection by its 4-tuple.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::Socket as AnySocket;
use smoltcp::socket::tcp::{RecvError, Socket, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetFrame, EthernetProtocol, EthernetRepr, HardwareAddress, IpAddress};

use crate::frame::{ETHERNET_HEADER_LEN, FrameWriter};
use crate::pool;
use crate::reply::Link;
use crate::table::Ends;

/// How long the guest may take to finish a handshake that was answered.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(20);
/// How long the guest may keep its half open after this end is gone and all is delivered, or stay
/// silent while it is not (Linux's `tcp_fin_timeout`).
const LINGER_LIMIT: Duration = Duration::from_secs(60);
/// How often a guest that has closed its half is asked whether it is still there. Nothing else would tell that its
/// program has ended: a kernel forgets such a socket after a minute (Linux's `tcp_fin_timeout`), without a word.
const HALF_CLOSED_PROBE: Duration = Duration::from_secs(75);
/// How long a connection may carry nothing at all, not even a probe (RFC 5382, REQ-5: two hours and four minutes at least).
const IDLE_LIMIT: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
/// Segments sent in one go before other flows get their turn.
const BURST: usize = 8;

/// One guest connection.
pub(crate) struct FlowTcp {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    wire: Wire,
    end: End,
    /// When the connection is given up whatever its state.
    give_up_at: Option<Instant>,
    /// When it may be given up if nothing is carried until then.
    idle_at: Instant,
}

/// What this end has done with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// A stream reads and writes.
    Attached,
    /// The stream is gone; what it wrote is still delivered.
    Detached,
    /// Reset by this end.
    Aborted,
}

/// What is left to do for a flow after it was polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing until the deadline, a segment or the stream.
    Idle,
    /// More segments can go out as soon as there is room.
    More,
}

/// Where a connection stands, for the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The guest has not finished the handshake.
    Opening,
    /// Data may flow in one direction or both.
    Open,
    /// Nothing more is sent or expected.
    Closed,
}

impl FlowTcp {
    /// A connection on a link of `mtu` octets (the IP packet's). `seed` chooses its sequence numbers.
    pub(crate) fn new(mtu: u16, seed: u64, now: Instant) -> Self {
        let wire = Wire { mtu };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire.attach(None, None), now);
        interface.set_any_ip(true);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(pool::take());
        Self {
            interface,
            sockets,
            handle,
            wire,
            end: End::Attached,
            give_up_at: None,
            idle_at: now + IDLE_LIMIT,
        }
    }

    /// Whether it has carried nothing for so long that it may be given up. No timer is kept for that, which each segment
    /// would have to move.
    pub(crate) fn is_idle(&mut self, now: Instant) -> bool {
        self.idle_at <= now && self.stage() == Stage::Open
    }

    /// Answers the connection request `syn`, a whole IP packet sent to `local`.
    pub(crate) fn accept(
        &mut self,
        now: Instant,
        local: SocketAddr,
        syn: &[u8],
        link: Link,
        out: &mut FrameWriter,
    ) {
        let endpoint = (IpAddress::from(local.ip()), local.port());
        let socket = self.socket();
        socket.abort();
        socket.set_keep_alive(None);
        if socket.listen(endpoint).is_err() {
            return;
        }
        self.end = End::Attached;
        self.give_up_at = Some(now + HANDSHAKE_LIMIT);
        self.ingress(now, syn, link, out);
        self.egress(now, link, out);
    }

    /// Asks the guest for a connection from `ends.destination`, an address of the gateway.
    pub(crate) fn connect(&mut self, now: Instant, ends: Ends, link: Link, out: &mut FrameWriter) {
        let endpoint = |end: SocketAddr| (IpAddress::from(end.ip()), end.port());
        let (local, remote) = (endpoint(ends.destination), endpoint(ends.source));
        let Self {
            interface,
            sockets,
            handle,
            ..
        } = self;
        let socket = sockets.get_mut::<Socket<'_>>(*handle);
        socket.abort();
        socket.set_keep_alive(None);
        // It fails only for ends without a port, and then the connection is closed, which is an answer as well.
        let _ = socket.connect(interface.context(), remote, local);
        self.end = End::Attached;
        self.give_up_at = Some(now + HANDSHAKE_LIMIT);
        self.egress(now, link, out);
    }

    /// Takes a segment (a whole IP packet) of this connection. Call [`egress`](Self::egress) after
    /// the last one of a batch.
    pub(crate) fn ingress(
        &mut self,
        now: Instant,
        packet: &[u8],
        link: Link,
        out: &mut FrameWriter,
    ) {
        self.idle_at = now + IDLE_LIMIT;
        let mut device = self.wire.attach(Some(packet), Some((link, out)));
        let (interface, sockets) = (&mut self.interface, &mut self.sockets);
        let polled = contain(|| interface.poll_ingress_single(now, &mut device, sockets));
        if polled.is_none() {
            self.fail();
        }
        match self.stage() {
            Stage::Opening => {}
            Stage::Open if self.end == End::Detached => {
                // Nobody is left to read it: say so, as a kernel does for a closed socket.
                if self.socket().can_recv() {
                    self.abort();
                } else if self.socket().send_queue() > 0 {
                    self.give_up_at = Some(now + LINGER_LIMIT);
                }
            }
            Stage::Open | Stage::Closed => self.give_up_at = None,
        }
        let socket = self.socket();
        if socket.state() == State::CloseWait {
            socket.set_keep_alive(Some(HALF_CLOSED_PROBE));
        }
    }

    /// Sends what can be sent now, up to a burst.
    pub(crate) fn egress(&mut self, now: Instant, link: Link, out: &mut FrameWriter) -> Progress {
        if self.give_up_at.is_some_and(|at| at <= now) {
            self.give_up_at = None;
            self.abort();
        }
        for _ in 0..BURST {
            if !out.has_room() {
                return Progress::More;
            }
            let mut device = self.wire.attach(None, Some((link, &mut *out)));
            let (interface, sockets) = (&mut self.interface, &mut self.sockets);
            match contain(|| interface.poll_egress(now, &mut device, sockets)) {
                Some(PollResult::SocketStateChanged) => self.idle_at = now + IDLE_LIMIT,
                Some(PollResult::None) => return Progress::Idle,
                None => {
                    self.fail();
                    return Progress::Idle;
                }
            }
        }
        Progress::More
    }

    /// When [`egress`](Self::egress) has something to do without a segment or the stream.
    pub(crate) fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        let (interface, sockets) = (&mut self.interface, &self.sockets);
        let protocol = contain(|| interface.poll_at(now, sockets)).flatten();
        match (protocol, self.give_up_at) {
            (Some(protocol), Some(own)) => Some(protocol.min(own)),
            (protocol, own) => protocol.or(own),
        }
    }

    /// Whether [`egress`](Self::egress) would send something right away.
    pub(crate) fn has_output(&mut self, now: Instant) -> bool {
        self.poll_timeout(now).is_some_and(|at| at <= now)
    }

    pub(crate) fn stage(&mut self) -> Stage {
        match self.socket().state() {
            State::Listen | State::SynSent | State::SynReceived => Stage::Opening,
            // The guest's FIN was the last word; its retransmission would be answered by a reset,
            // which a socket in LAST-ACK takes for an end like any other. So no 2 MSL here.
            State::Closed | State::TimeWait => Stage::Closed,
            _ => Stage::Open,
        }
    }

    /// Whether the stream is gone.
    pub(crate) fn is_detached(&self) -> bool {
        self.end == End::Detached
    }

    /// Whether a reset is waiting to be sent.
    pub(crate) fn owes_reset(&mut self) -> bool {
        let socket = self.socket();
        socket.state() == State::Closed && socket.remote_endpoint().is_some()
    }

    /// Resets the connection: the guest gets RST with the next [`egress`](Self::egress).
    pub(crate) fn abort(&mut self) {
        if self.end != End::Detached {
            self.end = End::Aborted;
        }
        self.socket().abort();
    }

    /// The stream is gone: unread data resets the connection, otherwise the rest is sent and then FIN.
    pub(crate) fn detach(&mut self, now: Instant) {
        self.end = End::Detached;
        self.give_up_at = Some(now + LINGER_LIMIT);
        let socket = self.socket();
        if socket.can_recv() {
            socket.abort();
        } else {
            socket.close();
        }
    }

    /// Lends the first part of what the guest sent to `take`, which says how much of it it took. `Ok(0)`: the guest has
    /// closed its half.
    pub(crate) fn poll_read_with(
        &mut self,
        context: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.end == End::Aborted {
            return Poll::Ready(Err(aborted()));
        }
        let socket = self.socket();
        let taken = socket.recv(|data| match data {
            [] => (0, None),
            data => match take(data) {
                Ok(len) => (len, Some(Ok(len))),
                Err(error) => (0, Some(Err(error))),
            },
        });
        match taken {
            Ok(Some(taken)) => Poll::Ready(taken),
            Ok(None) => {
                socket.register_recv_waker(context.waker());
                Poll::Pending
            }
            Err(RecvError::Finished) => Poll::Ready(Ok(0)),
            Err(RecvError::InvalidState) => Poll::Ready(Err(reset())),
        }
    }

    /// Lends room for octets for the guest to `fill`, which says how much of it it filled.
    pub(crate) fn poll_write_with(
        &mut self,
        context: &mut Context<'_>,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.end == End::Aborted {
            return Poll::Ready(Err(aborted()));
        }
        let socket = self.socket();
        let filled = socket.send(|space| match space {
            [] => (0, None),
            space => match fill(space) {
                Ok(len) => (len, Some(Ok(len))),
                Err(error) => (0, Some(Err(error))),
            },
        });
        match filled {
            Ok(Some(filled)) => Poll::Ready(filled),
            Ok(None) => {
                socket.register_send_waker(context.waker());
                Poll::Pending
            }
            Err(_) if socket.state() == State::Closed => Poll::Ready(Err(reset())),
            Err(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Closes this end's half once everything queued is sent.
    pub(crate) fn shutdown(&mut self) {
        self.socket().close();
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// smoltcp has panicked: its state cannot be trusted, so nothing more is asked of it.
    fn fail(&mut self) {
        tracing::error!("the TCP of one flow has panicked; the flow is dropped");
        let mut fresh = Self::new(self.wire.mtu, 0, Instant::ZERO);
        fresh.end = match self.end {
            End::Detached => End::Detached,
            End::Attached | End::Aborted => End::Aborted,
        };
        // Dropping the old socket wakes the stream, which would otherwise wait for ever.
        *self = fresh;
    }
}

impl Drop for FlowTcp {
    #[allow(
        irrefutable_let_patterns,
        reason = "other kinds of socket exist when another crate asks smoltcp for them"
    )]
    fn drop(&mut self) {
        if let AnySocket::Tcp(socket) = self.sockets.remove(self.handle) {
            pool::give_back(socket);
        }
    }
}

/// Runs smoltcp so that a panic in it ends one flow only: its sequence arithmetic asserts.
fn contain<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).ok()
}

fn reset() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionReset,
        "the guest reset the connection",
    )
}

fn aborted() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the connection to the guest was reset by the host",
    )
}

/// The link as smoltcp sees it.
#[derive(Clone, Copy, Debug)]
struct Wire {
    mtu: u16,
}

impl Wire {
    fn attach<'a>(
        self,
        input: Option<&'a [u8]>,
        output: Option<(Link, &'a mut FrameWriter)>,
    ) -> WireDevice<'a> {
        WireDevice {
            wire: self,
            input,
            output,
        }
    }
}

/// One packet in, any number of frames out.
struct WireDevice<'a> {
    wire: Wire,
    input: Option<&'a [u8]>,
    output: Option<(Link, &'a mut FrameWriter)>,
}

struct Received<'a>(&'a [u8]);

struct Transmit<'a>(Link, &'a mut FrameWriter);

impl Device for WireDevice<'_> {
    type RxToken<'t>
        = Received<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Transmit<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Transmit<'_>)> {
        let (link, out) = self.output.as_mut()?;
        Some((Received(self.input.take()?), Transmit(*link, out)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Transmit<'_>> {
        let (link, out) = self.output.as_mut()?;
        out.has_room().then_some(Transmit(*link, out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(self.wire.mtu);
        capabilities
    }
}

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Transmit<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let Self(link, out) = self;
        out.push(ETHERNET_HEADER_LEN + len, |frame| {
            let result = f(&mut frame[ETHERNET_HEADER_LEN..]);
            let is_v6 = frame[ETHERNET_HEADER_LEN] >> 4 == 6;
            let repr = EthernetRepr {
                src_addr: link.local,
                dst_addr: link.remote,
                ethertype: if is_v6 {
                    EthernetProtocol::Ipv6
                } else {
                    EthernetProtocol::Ipv4
                },
            };
            repr.emit(&mut EthernetFrame::new_unchecked(frame));
            result
        })
    }
}

impl std::fmt::Debug for FlowTcp {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let socket: &Socket<'_> = self.sockets.get(self.handle);
        formatter
            .debug_struct("FlowTcp")
            .field("state", &socket.state())
            .field("end", &self.end)
            .field("give_up_at", &self.give_up_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
