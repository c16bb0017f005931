//! A body on its way into a stream, as fast as the other side takes it.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

/// Sends a body. A body that breaks off resets the stream with the code it broke off with; a stream that is reset ends
/// the reading of the body.
pub(crate) struct Pipe<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// Read, and waiting for the other side's window; and whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

/// The stream is gone.
struct Gone;

impl From<h2::Error> for Gone {
    fn from(_: h2::Error) -> Self {
        Self
    }
}

impl<B> Pipe<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    pub(crate) fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self {
            body,
            stream,
            waiting: None,
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        loop {
            // Asked every time, so that a reset is noticed while this waits for something else.
            if self.stream.poll_reset(context)?.is_ready() {
                return Poll::Ready(Err(Gone));
            }
            if self.waiting.is_some() {
                while self.stream.capacity() == 0 {
                    match ready!(self.stream.poll_capacity(context)) {
                        Some(capacity) => _ = capacity?,
                        None => return Poll::Ready(Err(Gone)),
                    }
                }
            }
            if let Some((bytes, last)) = self.waiting.take() {
                self.stream.send_data(bytes, last)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => return Poll::Ready(Ok(self.stream.send_data(Bytes::new(), true)?)),
                Some(Err(error)) => {
                    self.stream.send_reset(reason(&*error.into()));
                    return Poll::Ready(Err(Gone));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => {
                        let last = self.body.is_end_stream();
                        if bytes.is_empty() {
                            self.stream.send_data(bytes, last)?;
                            if last {
                                return Poll::Ready(Ok(()));
                            }
                            continue;
                        }
                        // Not more, and not before there is something to send: what one stream has reserved of the
                        // connection's window the others cannot have.
                        self.stream.reserve_capacity(1);
                        self.waiting = Some((bytes, last));
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.stream.reserve_capacity(0);
                            self.stream.send_trailers(trailers)?;
                            return Poll::Ready(Ok(()));
                        }
                    }
                },
            }
        }
    }
}

impl<B> Future for Pipe<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.poll_send(context).map(|_| ())
    }
}

/// The code that something on the other side ended with, if it did.
fn reason(error: &(dyn StdError + 'static)) -> Reason {
    std::iter::successors(Some(error), |&cause| cause.source())
        .filter_map(|cause| cause.downcast_ref::<h2::Error>())
        .find_map(h2::Error::reason)
        .unwrap_or(Reason::INTERNAL_ERROR)
}
