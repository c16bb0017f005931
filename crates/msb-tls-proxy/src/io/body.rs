//! A request's body between the guest and the server, scanned as it streams.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use msb_secrets::{RequestRewriter, StreamRewriter, Violation};
use tokio::sync::Notify;

use super::bridge::RequestContext;
use crate::session::head::{InjectFault, inject_trailers};

/// A wait before the first byte of a body is asked for.
pub(crate) type Gate = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Waits until `opened`, at most for `wait`. Until then the guest gets no 100 (Continue), because
/// the HTTP library sends one as soon as the body is asked for.
pub(crate) fn gate(opened: Arc<Notify>, wait: Duration) -> Gate {
    Box::pin(async move {
        // Whether the server answered or kept silent, the body goes out (RFC 9110 section 10.1.1).
        let _ = tokio::time::timeout(wait, opened.notified()).await;
    })
}

/// A body that fails, rather than ends, at a violation.
pub(crate) struct ScannedBody {
    incoming: Incoming,
    stream: StreamRewriter,
    request: RequestRewriter,
    gate: Option<Gate>,
    ready: VecDeque<Bytes>,
    trailers: Option<http::HeaderMap>,
    state: State,
    context: RequestContext,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was read: length and end are those of the guest's body.
    Untouched,
    Streaming,
    /// The guest's body has ended; what is ready is all that is left.
    Finished,
}

impl ScannedBody {
    pub(crate) fn new(
        incoming: Incoming,
        request: RequestRewriter,
        gate: Option<Gate>,
        context: RequestContext,
    ) -> Self {
        Self {
            incoming,
            stream: request.body(),
            request,
            gate,
            ready: VecDeque::new(),
            trailers: None,
            state: State::Untouched,
            context,
        }
    }

    fn violation(&self, violation: Violation) -> BodyFault {
        self.context.violation(violation);
        BodyFault::Violation
    }

    fn take_frame(&mut self, frame: Option<Frame<Bytes>>) -> Result<(), BodyFault> {
        self.state = State::Streaming;
        let trailers = match frame.map(Frame::into_data) {
            Some(Ok(data)) => {
                let pieces = self.stream.push(data);
                self.ready
                    .extend(pieces.map_err(|found| self.violation(found))?);
                return Ok(());
            }
            Some(Err(other)) => other.into_trailers().ok(),
            None => None,
        };
        self.state = State::Finished;
        let pieces = self.stream.finish();
        self.ready
            .extend(pieces.map_err(|found| self.violation(found))?);
        self.context.report(self.stream.take_notes());
        if let Some(mut trailers) = trailers {
            inject_trailers(&mut trailers, &mut self.request).map_err(|fault| match fault {
                InjectFault::Violation(found) => self.violation(found),
                InjectFault::Unwritable => BodyFault::Unwritable,
            })?;
            self.context.report(self.request.take_notes());
            self.trailers = Some(trailers);
        }
        Ok(())
    }
}

impl Body for ScannedBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        if let Some(gate) = &mut this.gate {
            ready!(gate.as_mut().poll(context));
            this.gate = None;
        }
        loop {
            if let Some(bytes) = this.ready.pop_front() {
                if bytes.is_empty() {
                    continue;
                }
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if this.state == State::Finished {
                return Poll::Ready(
                    this.trailers
                        .take()
                        .map(|trailers| Ok(Frame::trailers(trailers))),
                );
            }
            let frame = ready!(Pin::new(&mut this.incoming).poll_frame(context)).transpose();
            let taken = frame
                .map_err(BodyFault::Guest)
                .and_then(|frame| this.take_frame(frame));
            if let Err(fault) = taken {
                return Poll::Ready(Some(Err(fault)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.state {
            State::Untouched => self.incoming.is_end_stream(),
            State::Streaming => false,
            State::Finished => self.ready.is_empty() && self.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.state {
            // Nothing is put into bodies, so they keep their length.
            State::Untouched => self.incoming.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

impl fmt::Debug for ScannedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScannedBody")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyFault {
    #[error("the guest's body broke off")]
    Guest(#[source] hyper::Error),
    #[error("a placeholder was on its way to a host that its secret is not allowed for")]
    Violation,
    #[error("a secret's value cannot stand in a trailer")]
    Unwritable,
}
