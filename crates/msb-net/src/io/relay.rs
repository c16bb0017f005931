//! The host's sockets for datagrams and echo requests, one for each flow. A socket is connected to where its flow goes, so
//! the kernel takes nothing from elsewhere, and tells the ICMP errors that come back.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};
use smoltcp::time::Instant;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::connect::{self, Denied};
use crate::action::Carries;
use crate::engine::Engine;
use crate::reply::Unreachable;
use crate::table::{Ends, FlowId};

/// Datagrams taken from one socket before others get their turn.
const BURST: usize = 16;
/// Longer than any datagram, and than any ICMP message.
const MAX_DATAGRAM_LEN: usize = 64 * 1024;
/// What a socket is watched for: datagrams, and errors of earlier ones.
const INPUT: Interest = Interest::READABLE.add(Interest::ERROR);

/// All sockets.
pub(super) struct Relays {
    sockets: HashMap<FlowId, Relay>,
    /// Takes the flows whose sockets have something to read.
    sender: mpsc::UnboundedSender<FlowId>,
    /// Each flow is in it once at most.
    readable: mpsc::UnboundedReceiver<FlowId>,
    buffer: Vec<u8>,
}

struct Relay {
    socket: Arc<UdpSocket>,
    /// Tells the task that watches the socket to go on.
    resume: Arc<Notify>,
    watch: AbortHandle,
    fallback: Option<Fallback>,
}

/// Where datagrams go if nothing listens where they went at first, and what was sent so far.
struct Fallback {
    target: SocketAddr,
    last: Vec<u8>,
}

impl Relays {
    pub(super) fn new() -> Self {
        let (sender, readable) = mpsc::unbounded_channel();
        Self {
            sockets: HashMap::new(),
            sender,
            readable,
            buffer: vec![0; MAX_DATAGRAM_LEN],
        }
    }

    /// Opens a socket for flow `id`.
    ///
    /// # Errors
    /// The operating system's, or [`Denied`] where the destination is an address of the host's own.
    pub(super) fn open(
        &mut self,
        id: FlowId,
        carries: Carries,
        ends: Ends,
        to_host: bool,
        if_own: Result<(), msb_policy::Denial>,
    ) -> io::Result<()> {
        if let (false, Err(denial)) = (to_host, if_own)
            && connect::is_own_address(ends.destination.ip())?
        {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                Denied(denial),
            ));
        }
        let mut targets = connect::targets(ends.destination, to_host).into_iter();
        let target = targets.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut relay = self.watch(id, carries, target)?;
        relay.fallback = targets.next().map(|target| Fallback {
            target,
            last: Vec::new(),
        });
        self.sockets.insert(id, relay);
        Ok(())
    }

    pub(super) fn close(&mut self, id: FlowId) {
        self.sockets.remove(&id);
    }

    /// Sends something of the guest's. What the kernel has no room for is lost, as on any link.
    pub(super) fn send(&mut self, engine: &mut Engine, id: FlowId, payload: Vec<u8>) {
        let Some(relay) = self.sockets.get(&id) else {
            return;
        };
        let mut sent = send(&relay.socket, &payload);
        if let Err(error @ Errno::CONNREFUSED) = sent {
            // That is the end of an earlier datagram; this one was not sent.
            self.fail(engine, id, error);
            let Some(relay) = self.sockets.get(&id) else {
                return;
            };
            sent = send(&relay.socket, &payload);
        }
        match sent {
            Ok(()) => {}
            Err(error) => self.fail(engine, id, error),
        }
        if let Some(relay) = self.sockets.get_mut(&id)
            && let Some(fallback) = &mut relay.fallback
        {
            fallback.last = payload;
        }
    }

    /// Resolves to a flow for [`receive`](Self::receive). Cancel-safe.
    pub(super) async fn readable(&mut self) -> FlowId {
        match self.readable.recv().await {
            Some(id) => id,
            // A sender is kept here.
            None => std::future::pending().await,
        }
    }

    /// Takes what has arrived for any flow, while there is room for it.
    pub(super) fn receive_all(&mut self, engine: &mut Engine, now: Instant) {
        while engine.out().has_room()
            && let Ok(id) = self.readable.try_recv()
        {
            self.receive(engine, now, id);
        }
    }

    /// Takes what has arrived for flow `id`.
    pub(super) fn receive(&mut self, engine: &mut Engine, now: Instant, id: FlowId) {
        for _ in 0..BURST {
            let Some(relay) = self.sockets.get_mut(&id) else {
                return;
            };
            match receive(&relay.socket, &mut self.buffer) {
                Ok(len) => {
                    relay.fallback = None;
                    engine.handle_relayed(now, id, &self.buffer[..len]);
                }
                Err(Errno::WOULDBLOCK) => break,
                Err(error) => self.fail(engine, id, error),
            }
            if !engine.out().has_room() {
                break;
            }
        }
        if let Some(relay) = self.sockets.get(&id) {
            relay.resume.notify_one();
        }
    }

    /// Tells the guest of an error, or tries the other address of the host's loopback interface.
    fn fail(&mut self, engine: &mut Engine, id: FlowId, error: Errno) {
        let relay = self.sockets.get_mut(&id);
        let fallback = relay.and_then(|relay| relay.fallback.take());
        if error == Errno::CONNREFUSED
            && let Some(Fallback { target, last }) = fallback
            && let Ok(relay) = self.watch(id, Carries::Datagrams, target)
        {
            // Should nothing listen there either, that is told later.
            let _ = send(&relay.socket, &last);
            self.sockets.insert(id, relay);
            return;
        }
        if let Some(reason) = unreachable(error) {
            engine.handle_relay_error(id, reason);
        }
    }

    /// A socket connected to `target`, and a task that tells when there is something to read.
    fn watch(&self, id: FlowId, carries: Carries, target: SocketAddr) -> io::Result<Relay> {
        let socket = Arc::new(UdpSocket::from_std(connected(carries, target)?)?);
        let resume = Arc::new(Notify::new());
        let watch = {
            let (socket, resume) = (Arc::clone(&socket), Arc::clone(&resume));
            let sender = self.sender.clone();
            tokio::spawn(async move {
                while socket.ready(INPUT).await.is_ok() && sender.send(id).is_ok() {
                    resume.notified().await;
                }
            })
        };
        Ok(Relay {
            socket,
            resume,
            watch: watch.abort_handle(),
            fallback: None,
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Not through the runtime, which learns only some time after a socket was opened that it can be written to.
fn send(socket: &UdpSocket, payload: &[u8]) -> Result<(), Errno> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::net::send(socket, payload, flags) {
        // What is lost for want of room is lost as on any link; so is what is longer than the path takes.
        Ok(_) | Err(Errno::WOULDBLOCK | Errno::NOBUFS | Errno::MSGSIZE) => Ok(()),
        Err(error) => Err(error),
    }
}

/// An error of an earlier datagram is no input to the runtime, but another kind of event.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut receive_if = |interest| {
        socket.try_io(interest, || {
            let (len, _) = rustix::net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT)?;
            Ok(len)
        })
    };
    let mut received = receive_if(Interest::READABLE);
    if matches!(&received, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
        received = receive_if(Interest::ERROR);
    }
    received.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Errno::WOULDBLOCK,
        _ => Errno::from_io_error(&error).unwrap_or(Errno::IO),
    })
}

/// What the guest is told of an error; `None`: nothing.
fn unreachable(error: Errno) -> Option<Unreachable> {
    match error {
        Errno::CONNREFUSED => Some(Unreachable::Port),
        Errno::ACCESS | Errno::PERM => Some(Unreachable::Prohibited),
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN => {
            Some(Unreachable::Host)
        }
        _ => None,
    }
}

/// A socket that does not wait, connected to `target`.
fn connected(carries: Carries, target: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let family = match target {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let protocol = match (carries, target) {
        (Carries::Datagrams, _) => ipproto::UDP,
        (Carries::Echoes, SocketAddr::V4(_)) => ipproto::ICMP,
        (Carries::Echoes, SocketAddr::V6(_)) => ipproto::ICMPV6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(protocol))
        .map_err(|error| explain(carries, error))?;
    rustix::net::connect(&socket, &target)?;
    Ok(socket.into())
}

/// Few know the setting that keeps a program from having a socket for echo requests.
fn explain(carries: Carries, error: Errno) -> io::Error {
    match (carries, error) {
        (Carries::Echoes, Errno::ACCESS | Errno::PERM) => io::Error::other(
            "this host does not let msb send echo requests: net.ipv4.ping_group_range has none of its groups",
        ),
        _ => error.into(),
    }
}
