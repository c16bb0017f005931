//! A connection between two requests, with nothing left of it but its two streams.
//!
//! The buffers of both sides in HTTP/1.1 are more than half of what a connection takes, and most connections do nothing
//! most of the time. So they are given back after a while, and made anew when either side has something to say.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{sleep, timeout};

use super::bridge::{FAREWELL, Session};
use super::stream::Prefixed;

/// No reason to look more often than this.
const OFTEN_ENOUGH: Duration = Duration::from_millis(10);

impl Session {
    /// Waits until no request has been open for a while, and nothing is unwritten on the streams. If one has `begun`, it
    /// has to have come whole first.
    pub(super) async fn resting(&self, streams: [&Settled; 2], begun: bool) {
        let first = self.opened.load(Ordering::Relaxed);
        loop {
            let before = self.opened.load(Ordering::Relaxed);
            sleep(self.limits.rest_after.max(OFTEN_ENOUGH)).await;
            let now = self.opened.load(Ordering::Relaxed);
            if *self.open.borrow() == 0
                && now == before
                && !(begun && now == first)
                && streams.into_iter().all(Settled::is_settled)
            {
                return;
            }
        }
    }

    /// Waits until either side says something, or has ended. False if the connection has been ended instead, because it
    /// has been idle for too long or is to end.
    pub(super) async fn rest<G, U>(
        &self,
        guest: &mut Prefixed<G>,
        upstream: &mut Prefixed<U>,
    ) -> bool
    where
        G: AsyncRead + AsyncWrite + Unpin,
        U: AsyncRead + AsyncWrite + Unpin,
    {
        tokio::select! {
            // What the reader comes upon, an end or an error, the next reader comes upon as well.
            () = guest.look_ahead() => return true,
            () = upstream.look_ahead() => return true,
            () = self.stop.raised() => {}
            () = self.draining() => {}
            () = sleep(self.limits.idle_timeout) => {}
        }
        // Who does not take it is gone.
        let _ = timeout(FAREWELL, async {
            let _ = guest.shutdown().await;
            upstream.shutdown().await
        })
        .await;
        false
    }
}

impl<S: AsyncRead + Unpin> Prefixed<S> {
    /// Waits until there is something to read.
    async fn look_ahead(&mut self) {
        let mut first = [0];
        if let Ok(1..) = self.read(&mut first).await {
            self.unread(&first);
        }
    }
}

/// Whether all that was written to a stream is out.
#[derive(Clone, Default)]
pub(super) struct Settled(Arc<AtomicBool>);

impl Settled {
    fn is_settled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// A stream that this is told about. Its user has to flush it when it has nothing left to write.
    pub(super) fn watch<S>(&self, inner: S) -> Settling<S> {
        let settled = self.clone();
        settled.0.store(true, Ordering::Relaxed);
        Settling { inner, settled }
    }
}

/// A stream that tells whether all that was written to it is out.
pub(super) struct Settling<S> {
    inner: S,
    settled: Settled,
}

impl<S> Settling<S> {
    pub(super) fn into_inner(self) -> S {
        self.inner
    }

    fn unsettle(&self) {
        self.settled.0.store(false, Ordering::Relaxed);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Settling<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Settling<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.unsettle();
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.unsettle();
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(context))?;
        self.settled.0.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unsettle();
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
