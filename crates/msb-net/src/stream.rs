//! The host's handle on a guest connection: an async byte stream, and a way to reset it from
//! elsewhere. Both work directly on the flow's TCP; the engine is told when there is something to send.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use msb_name::HostName;
use smoltcp::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};

use crate::table::FlowId;
use crate::tcp::FlowTcp;

/// Time since the engine started, in the form the TCP wants it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    base: std::time::Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            base: std::time::Instant::now(),
        }
    }

    /// Never zero, which the TCP uses for "at once".
    pub(crate) fn now(self) -> Instant {
        let micros = self.base.elapsed().as_micros();
        Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX - 1) + 1)
    }

    /// The moment `at` as the runtime's timers count.
    pub(crate) fn to_std(self, at: Instant) -> std::time::Instant {
        let micros = u64::try_from(at.total_micros() - 1).unwrap_or(0);
        self.base + std::time::Duration::from_micros(micros)
    }
}

/// Flows whose streams want the engine's attention.
#[derive(Debug, Default)]
pub(crate) struct ReadyQueue {
    flows: Mutex<Vec<FlowId>>,
    notify: Notify,
}

impl ReadyQueue {
    /// Moves the waiting flows to `into`, which is empty.
    pub(crate) fn take(&self, into: &mut Vec<FlowId>) {
        std::mem::swap(&mut *lock(&self.flows), into);
    }

    /// Resolves once a flow has been added since the last call.
    pub(crate) async fn changed(&self) {
        self.notify.notified().await;
    }

    /// Lets [`changed`](Self::changed) resolve.
    pub(crate) fn wake(&self) {
        self.notify.notify_one();
    }

    fn add(&self, id: FlowId) {
        lock(&self.flows).push(id);
        self.wake();
    }
}

/// A flow as its stream and the engine share it.
#[derive(Debug)]
pub(crate) struct SharedFlow {
    id: FlowId,
    tcp: Mutex<FlowTcp>,
    /// Whether the flow is in the ready queue.
    queued: AtomicBool,
    ready: Arc<ReadyQueue>,
    /// Whether the connection was reset, by either side.
    broken: watch::Sender<bool>,
    clock: Clock,
    claim: Mutex<Claim>,
}

/// The server name that the guest claims in a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nobody has read it yet.
    #[default]
    Pending,
    /// This one, or none.
    Known(Option<HostName>),
}

impl SharedFlow {
    pub(crate) fn new(id: FlowId, tcp: FlowTcp, ready: Arc<ReadyQueue>, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            id,
            tcp: Mutex::new(tcp),
            queued: AtomicBool::new(false),
            ready,
            broken: watch::Sender::new(false),
            clock,
            claim: Mutex::default(),
        })
    }

    pub(crate) fn claim(&self) -> Claim {
        lock(&self.claim).clone()
    }

    pub(crate) fn set_claim(&self, name: Option<HostName>) {
        *lock(&self.claim) = Claim::Known(name);
    }

    /// Tells whom it concerns that the connection was reset.
    pub(crate) fn tell_broken(&self) {
        self.broken.send_replace(true);
    }

    pub(crate) fn tcp(&self) -> MutexGuard<'_, FlowTcp> {
        lock(&self.tcp)
    }

    /// The engine is about to look at the flow: later changes queue it again.
    pub(crate) fn clear_queued(&self) {
        self.queued.store(false, Ordering::Release);
    }

    fn queue(&self) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.add(self.id);
        }
    }
}

/// The guest's connection as an async byte stream.
///
/// Reading yields what the guest sent, and end of file once it closed its half. Writing fills the
/// connection's send buffer and waits while the guest does not read. `shutdown` closes this half
/// (FIN) and leaves the other open. Dropping the stream delivers what was written and closes both;
/// with unread input it resets the connection, as a kernel does.
///
/// # Errors
/// [`io::ErrorKind::ConnectionReset`] when the guest has reset the connection (input that arrived
/// before is still read first), [`io::ErrorKind::ConnectionAborted`] after [`FlowReset::reset`] or
/// when the network has ended, [`io::ErrorKind::BrokenPipe`] when writing after `shutdown`.
///
/// Every operation is cancel-safe: nothing is read or written before it is ready.
#[derive(Debug)]
pub struct FlowStream {
    flow: Arc<SharedFlow>,
}

/// Resets a guest connection; usable while the stream is in use elsewhere.
#[derive(Clone, Debug)]
pub struct FlowReset {
    flow: Arc<SharedFlow>,
}

impl FlowStream {
    pub(crate) fn new(flow: Arc<SharedFlow>) -> Self {
        Self { flow }
    }

    pub(crate) fn shared(&self) -> Arc<SharedFlow> {
        Arc::clone(&self.flow)
    }

    /// A handle that can reset the connection while this stream is in use elsewhere.
    pub fn reset_handle(&self) -> FlowReset {
        FlowReset {
            flow: Arc::clone(&self.flow),
        }
    }
}

impl FlowStream {
    /// Reads by lending the input's first part to `take`, which says how much of it it took. `Ok(0)`: end of file.
    pub(crate) fn poll_read_with(
        &self,
        context: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let mut tcp = self.flow.tcp();
        let polled = tcp.poll_read_with(context, take);
        if let Poll::Ready(Ok(1..)) = polled
            && tcp.has_output(self.flow.clock.now())
        {
            self.flow.queue();
        }
        polled
    }

    /// Writes by lending room to `fill`, which says how much of it it filled.
    pub(crate) fn poll_write_with(
        &self,
        context: &mut Context<'_>,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let polled = self.flow.tcp().poll_write_with(context, fill);
        if let Poll::Ready(Ok(1..)) = polled {
            self.flow.queue();
        }
        polled
    }
}

impl FlowReset {
    /// Resets the connection: the guest gets RST, unsent output is dropped, and the stream fails
    /// from now on. Without effect once the connection is closed.
    pub fn reset(&self) {
        self.flow.tcp().abort();
        self.flow.tell_broken();
        self.flow.queue();
    }

    /// Whether the connection was reset by the guest or the host, or its network has ended. Not when both sides have
    /// closed it in order.
    pub fn is_broken(&self) -> bool {
        *self.flow.broken.borrow()
    }

    /// Waits until [`is_broken`](Self::is_broken). The stream tells it only to who reads or writes it, which a relay
    /// that waits for its other side does not. Cancel-safe.
    pub async fn broken(&self) {
        // The sender lives as long as `self`.
        let _ = self
            .flow
            .broken
            .subscribe()
            .wait_for(|broken| *broken)
            .await;
    }
}

impl AsyncRead for FlowStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.poll_read_with(context, |data| {
            let len = data.len().min(buffer.remaining());
            buffer.put_slice(&data[..len]);
            Ok(len)
        })
        .map_ok(|_| ())
    }
}

impl AsyncWrite for FlowStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.poll_write_with(context, |space| {
            let len = space.len().min(buffer.len());
            space[..len].copy_from_slice(&buffer[..len]);
            Ok(len)
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flow.tcp().shutdown();
        self.flow.queue();
        Poll::Ready(Ok(()))
    }
}

impl Drop for FlowStream {
    fn drop(&mut self) {
        self.flow.tcp().detach(self.flow.clock.now());
        self.flow.queue();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
