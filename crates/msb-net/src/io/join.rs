//! The guest's connection joined with the host's: octets go from one's buffers into the other's, with none between.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

use super::flow::Flow;
use crate::stream::FlowStream;

/// Octets moved at once: while they are, the network cannot work on this flow.
const MOVE_LEN: usize = 64 * 1024;
/// How long what a guest sent before it reset the connection may take to be delivered.
const AFTER_RESET: Duration = Duration::from_secs(2);

impl Flow {
    /// Joins both connections until each side has closed its half. A relay needs no memory beyond the buffers that the two
    /// have anyway, and copies once less than one that reads and writes.
    ///
    /// Dropping the future ends both connections; the host's is reset, so that its end does not take what it has for all.
    ///
    /// # Errors
    /// When one of the two breaks; the other is reset then, so that its end learns the same. What the guest sent before it
    /// reset the connection is delivered if that takes no longer than 2 s.
    pub async fn relay(self) -> io::Result<()> {
        join(self.guest, self.upstream).await
    }
}

/// As [`Flow::relay`] says.
pub(super) async fn join(mut guest: FlowStream, upstream: TcpStream) -> io::Result<()> {
    let reset = guest.reset_handle();
    let mut upstream = Upstream {
        stream: upstream,
        is_done: false,
    };
    let (mut from_guest, mut from_upstream) = (Way::Open, Way::Open);
    let join = poll_fn(|context| {
        let ways = [
            from_guest.poll(context, |context| {
                poll_from_guest(&mut guest, &mut upstream.stream, context)
            }),
            from_upstream.poll(context, |context| {
                poll_from_upstream(&mut guest, &upstream.stream, context)
            }),
        ];
        let mut all = Poll::Ready(Ok(()));
        for way in ways {
            match way {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => all = Poll::Pending,
            }
        }
        all
    });
    let over = async {
        reset.broken().await;
        tokio::time::sleep(AFTER_RESET).await;
    };
    let joined = tokio::select! {
        joined = join => joined,
        // Nobody looks at the guest while the other side takes no data.
        () = over => Err(io::ErrorKind::ConnectionReset.into()),
    };
    match &joined {
        Ok(()) => upstream.is_done = true,
        Err(_) => reset.reset(),
    }
    joined
}

/// The host's connection. Unless all was carried, dropping it resets it.
struct Upstream {
    stream: TcpStream,
    is_done: bool,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if !self.is_done {
            // Without effect on a socket that is broken itself.
            let _ = self.stream.set_zero_linger();
        }
    }
}

/// One direction.
enum Way {
    Open,
    Closed,
}

impl Way {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if let Self::Open = self {
            ready!(poll(context))?;
            *self = Self::Closed;
        }
        Poll::Ready(Ok(()))
    }
}

fn poll_from_guest(
    guest: &mut FlowStream,
    upstream: &mut TcpStream,
    context: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    loop {
        ready!(upstream.poll_write_ready(context))?;
        let moved = guest.poll_read_with(context, |data| {
            upstream.try_write(&data[..data.len().min(MOVE_LEN)])
        });
        match ready!(moved) {
            Ok(0) => return Pin::new(upstream).poll_shutdown(context),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

fn poll_from_upstream(
    guest: &mut FlowStream,
    upstream: &TcpStream,
    context: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    loop {
        ready!(upstream.poll_read_ready(context))?;
        let moved = guest.poll_write_with(context, |space| {
            let len = space.len().min(MOVE_LEN);
            upstream.try_read(&mut space[..len])
        });
        match ready!(moved) {
            Ok(0) => return Pin::new(guest).poll_shutdown(context),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}
