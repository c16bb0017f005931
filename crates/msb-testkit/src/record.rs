//! What an origin writes down.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One request as an origin received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedRequest {
    /// The method.
    pub method: String,
    /// The request target, as written.
    pub target: String,
    /// Name in lower case, and value, in the order received.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body, without transfer coding; what arrived of it if it broke off.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// Whether the body arrived to its end.
    pub complete: bool,
}

impl RecordedRequest {
    /// The values of the header `name` (in lower case), as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Vec<String> {
        self.headers
            .iter()
            .filter(|(candidate, _)| candidate == name)
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .collect()
    }

    /// The only value of the header `name` (in lower case), if there is exactly one.
    #[must_use]
    pub fn only_header(&self, name: &str) -> Option<String> {
        match self.header(name).as_slice() {
            [value] => Some(value.clone()),
            _ => None,
        }
    }
}

/// The bytes an origin's connections received after TLS, in the order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Received(Mutex<Vec<u8>>);

impl Received {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

/// A stream that notes what is read from it.
#[derive(Debug)]
pub(crate) struct Recording<S> {
    pub(crate) inner: S,
    pub(crate) received: Arc<Received>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Recording<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let new = &buffer.filled()[before..];
        self.received.0.lock().unwrap().extend_from_slice(new);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Recording<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
