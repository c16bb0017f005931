//! Informational answers on their way to the guest (RFC 9110 section 15.2).
//!
//! In HTTP/1.1 the library writes none but `100 Continue`. So they are written around it, at a moment when it has
//! nothing unwritten: then all before is out, and what comes next begins the answer that they belong to. One that comes
//! at any other moment is dropped, as every intermediary may do.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use http::{HeaderMap, Response, StatusCode};
use msb_secrets::ResponseScrubber;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::bridge::lock;
use super::exchange::RequestContext;
use crate::session::response as answered;

/// How many of one request's are passed on.
const MOST: usize = 16;

/// Where those of one request go; it is with the request's extensions.
#[derive(Clone)]
pub(crate) struct Interim(Arc<dyn Fn(Response<()>) + Send + Sync>);

impl Interim {
    pub(crate) fn new(send: impl Fn(Response<()>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(send))
    }
}

/// Passes on those of one request, with values taken out.
#[derive(Clone)]
pub(crate) struct Informing(Arc<Inner>);

struct Inner {
    to: Interim,
    scrubber: Option<Mutex<ResponseScrubber>>,
    passed: AtomicUsize,
    passed_len: AtomicUsize,
    context: Arc<RequestContext>,
}

impl Informing {
    pub(crate) fn new(
        to: Interim,
        scrubber: Option<ResponseScrubber>,
        context: Arc<RequestContext>,
    ) -> Self {
        Self(Arc::new(Inner {
            to,
            scrubber: scrubber.map(Mutex::new),
            passed: AtomicUsize::new(0),
            passed_len: AtomicUsize::new(0),
            context,
        }))
    }

    /// Passes on one, if it is one that the guest may see. `100 Continue` is between each side and the proxy.
    pub(crate) fn pass(&self, status: StatusCode, headers: &HeaderMap) {
        let Inner {
            to,
            scrubber,
            passed,
            passed_len,
            context,
        } = &*self.0;
        let limits = context.limits();
        if [StatusCode::CONTINUE, StatusCode::SWITCHING_PROTOCOLS].contains(&status)
            || passed.fetch_add(1, Ordering::Relaxed) >= MOST
            || headers.len() > limits.header_count
        {
            return;
        }
        // They wait, all of them, for a guest that does not read.
        let len = head_len(headers);
        if passed_len.fetch_add(len, Ordering::Relaxed) + len > limits.head_len {
            return;
        }
        let (mut head, ()) = Response::new(()).into_parts();
        head.status = status;
        head.headers = headers.clone();
        answered::inform(&mut head);
        if let Some(scrubber) = scrubber {
            let mut scrubber = lock(scrubber);
            answered::scrub(&mut head, &mut scrubber);
            context.report(scrubber.take_notes());
        }
        (to.0)(Response::from_parts(head, ()));
    }
}

/// As RFC 9113 section 10.5.1 counts it.
fn head_len(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    fields
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}

/// Heads that wait to be written to a guest in HTTP/1.1.
#[derive(Clone, Default)]
pub(crate) struct Waiting(Arc<Mutex<BytesMut>>);

impl Waiting {
    pub(crate) fn interim(&self) -> Interim {
        let waiting = Arc::clone(&self.0);
        Interim::new(move |response| {
            let mut waiting = lock(&waiting);
            let status = response.status();
            waiting.extend_from_slice(format!("HTTP/1.1 {status}\r\n").as_bytes());
            for (name, value) in response.headers() {
                for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                    waiting.extend_from_slice(part);
                }
            }
            waiting.extend_from_slice(b"\r\n");
        })
    }

    fn take(&self) -> BytesMut {
        std::mem::take(&mut *lock(&self.0))
    }
}

/// A guest's stream into which informational answers are written between what its user writes.
///
/// Its user flushes when, and only when, it has nothing left to write.
pub(crate) struct Informed<S> {
    inner: S,
    waiting: Waiting,
    /// Begun, so that nothing else may come before the rest of it.
    writing: BytesMut,
    /// The last that its user did was to flush.
    between: bool,
}

impl<S> Informed<S> {
    pub(crate) fn new(inner: S, waiting: Waiting) -> Self {
        Self {
            inner,
            waiting,
            writing: BytesMut::new(),
            between: true,
        }
    }

    pub(crate) fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: AsyncWrite + Unpin> Informed<S> {
    fn poll_inform(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let waiting = self.waiting.take();
        if self.between {
            self.writing.unsplit(waiting);
        }
        while !self.writing.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(context, &self.writing))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.writing.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Informed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Informed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_inform(context))?;
        self.between = false;
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_inform(context))?;
        self.between = false;
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.between = true;
        ready!(self.poll_inform(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_inform(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn hint(waiting: &Waiting) {
        let response = Response::builder().status(103).header("link", "</a>");
        (waiting.interim().0)(response.body(()).unwrap());
    }

    const HINT: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";

    #[tokio::test]
    async fn nothing_is_written_into_the_middle_of_what_its_user_writes() {
        // Smaller than what is written, so that all of it comes in pieces.
        let (near, mut far) = tokio::io::duplex(5);
        let waiting = Waiting::default();
        let mut stream = Informed::new(near, waiting.clone());
        let reader = tokio::spawn(async move {
            let mut text = String::new();
            far.read_to_string(&mut text).await.unwrap();
            text
        });
        hint(&waiting);
        stream.write_all(b"first half, ").await.unwrap();
        hint(&waiting);
        stream.write_all(b"second half. ").await.unwrap();
        stream.flush().await.unwrap();
        hint(&waiting);
        stream.flush().await.unwrap();
        hint(&waiting);
        stream.write_all(b"next").await.unwrap();
        hint(&waiting);
        stream.shutdown().await.unwrap();
        drop(stream);
        let expected = format!("{HINT}first half, second half. {HINT}{HINT}next");
        assert_eq!(reader.await.unwrap(), expected);
    }
}
