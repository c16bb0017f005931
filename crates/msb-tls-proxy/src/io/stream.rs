//! Byte streams with something done to what is read from them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::session::framing::{Ambiguous, RequestFraming};

/// Gives back bytes that were read ahead before it goes on reading.
#[derive(Debug)]
pub(crate) struct Prefixed<S> {
    prefix: Bytes,
    inner: S,
}

impl<S> Prefixed<S> {
    pub(crate) fn new(prefix: impl Into<Bytes>, inner: S) -> Self {
        Self {
            prefix: prefix.into(),
            inner,
        }
    }

    pub(crate) fn has_unread(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// Has `bytes` read once more, before all others.
    pub(crate) fn unread(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.prefix = [bytes, &self.prefix].concat().into();
        }
    }
}

impl<S> From<S> for Prefixed<S> {
    fn from(inner: S) -> Self {
        Self::new(Bytes::new(), inner)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(context, buffer);
        }
        let len = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix[..len]);
        self.prefix.advance(len);
        Poll::Ready(Ok(()))
    }
}

/// Remembers whether anything was read before the other side ended, and when that was.
#[derive(Debug)]
pub(crate) struct Noticed<S> {
    inner: S,
    since: Instant,
    spoke: bool,
    ended: Option<Instant>,
}

impl<S> Noticed<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            since: Instant::now(),
            spoke: false,
            ended: None,
        }
    }

    /// Whether anything was read.
    pub(crate) fn spoke(&self) -> bool {
        self.spoke
    }

    /// Whether the other side ended it without a word, within this time.
    pub(crate) fn hung_up_within(&self, time: Duration) -> bool {
        let ended = self.ended.filter(|_| !self.spoke);
        ended.is_some_and(|at| at.duration_since(self.since) < time)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noticed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let has_room = buffer.remaining() > 0;
        let read = ready!(Pin::new(&mut self.inner).poll_read(context, buffer));
        if buffer.filled().len() > before {
            self.spoke = true;
        } else if has_room && self.ended.is_none() {
            self.ended = Some(Instant::now());
        }
        Poll::Ready(read)
    }
}

/// A guest's decrypted stream whose requests are checked for ambiguous framing.
///
/// Where one is found, the reader gets a byte that no request may hold, then the end: so the
/// HTTP library answers 400, in its turn after what was asked before, and reads no further.
pub(crate) struct Checked<S, F> {
    inner: S,
    framing: RequestFraming,
    /// Called once, with what is wrong.
    on_fault: Option<F>,
}

const NO_REQUEST_HAS_THIS: u8 = 0;

impl<S, F: FnOnce(&'static str)> Checked<S, F> {
    pub(crate) fn new(inner: S, max_head: usize, on_fault: F) -> Self {
        Self {
            inner,
            framing: RequestFraming::new(max_head),
            on_fault: Some(on_fault),
        }
    }

    /// The stream, unless there was a fault: then bytes are missing from it.
    pub(crate) fn into_inner(self) -> Option<S> {
        self.on_fault.is_some().then_some(self.inner)
    }
}

impl<S: AsyncRead + Unpin, F: FnOnce(&'static str) + Unpin> AsyncRead for Checked<S, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.on_fault.is_none() {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
        if let Err(Ambiguous { pass, reason }) = this.framing.inspect(&buffer.filled()[before..]) {
            buffer.set_filled(before + pass);
            buffer.put_slice(&[NO_REQUEST_HAS_THIS]);
            if let Some(on_fault) = this.on_fault.take() {
                on_fault(reason);
            }
        }
        Poll::Ready(Ok(()))
    }
}

macro_rules! write_to_inner {
    ($type:ident $(, $parameter:ident: $bound:path)?) => {
        impl<S: AsyncWrite + Unpin $(, $parameter: $bound)?> AsyncWrite for $type<S $(, $parameter)?> {
            fn poll_write(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.inner).poll_write(context, bytes)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
                slices: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.inner).poll_write_vectored(context, slices)
            }

            fn is_write_vectored(&self) -> bool {
                self.inner.is_write_vectored()
            }

            fn poll_flush(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.inner).poll_flush(context)
            }

            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.inner).poll_shutdown(context)
            }
        }
    };
}

write_to_inner!(Prefixed);
write_to_inner!(Noticed);
write_to_inner!(Checked, F: Unpin);
