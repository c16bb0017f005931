//! Bodies between the guest and the server: a request's is scanned as it streams, a response's is watched.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use msb_secrets::{RequestRewriter, StreamRewriter, Violation};

use super::bridge::RequestContext;
use super::expect::Gate;
use crate::session::head::{InjectFault, inject_trailers};

/// A body that fails, rather than ends, at a violation.
pub(crate) struct ScannedBody {
    /// None once it will not be read.
    incoming: Option<Incoming>,
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
            incoming: Some(incoming),
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
                // Now, not at the end: a body with a length is not asked for more once it has that.
                self.context.report(self.stream.take_notes());
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
            if !ready!(gate.as_mut().poll(context)) {
                this.incoming = None;
            }
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
            let Some(incoming) = &mut this.incoming else {
                // Neither an error nor an end: the answer to this request is still being read.
                return Poll::Pending;
            };
            let frame = ready!(Pin::new(incoming).poll_frame(context)).transpose();
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
            State::Untouched => self.incoming.as_ref().is_some_and(Body::is_end_stream),
            State::Streaming => false,
            State::Finished => self.ready.is_empty() && self.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.state {
            // Nothing is put into bodies, so they keep their length.
            State::Untouched => self
                .incoming
                .as_ref()
                .map_or_else(SizeHint::default, Body::size_hint),
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

/// A response's body on its way to the guest, which raises a flag if it breaks off.
pub(crate) struct WatchedBody {
    incoming: Incoming,
    broken: Arc<AtomicBool>,
}

impl WatchedBody {
    pub(crate) fn new(incoming: Incoming, broken: Arc<AtomicBool>) -> Self {
        Self { incoming, broken }
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(context));
        if let Some(Err(_)) = &frame {
            self.broken.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
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
