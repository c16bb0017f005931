//! Bodies on their way between the guest and the server, through what the session has decided for them.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use msb_secrets::{BodyScrubber, NoteKind, StreamRewriter};
use zeroize::Zeroizing;

use super::exchange::RequestContext;
use super::expect::Gate;
use super::incoming::{Broken, Incoming};
use crate::session::body::{Fault, Fields as _, Scan, Transform};

/// A request's body on its way to the server.
pub(crate) type RequestBody = RewrittenBody<StreamRewriter>;
/// A response's body on its way to the guest.
pub(crate) type ResponseBody = RewrittenBody<BodyScrubber>;

/// A body that fails, rather than ends, where it must not be sent on.
pub(crate) struct RewrittenBody<R: Scan> {
    /// None once it will not be read.
    incoming: Option<Incoming>,
    transform: Transform<R>,
    fields: R::Fields,
    gate: Option<Gate>,
    /// What was taken in before anything was sent, and how long it is if that is all.
    held: VecDeque<Bytes>,
    held_len: Option<u64>,
    trailers: Option<http::HeaderMap>,
    state: State,
    /// Whether something was written into it, or taken out.
    changed: bool,
    context: Arc<RequestContext>,
    on_fault: fn(&RequestContext, &BodyFault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was read: the end is that of the incoming body.
    Untouched,
    Streaming,
    /// The incoming body has ended; what is held or in the transform is all that is left.
    Finished,
    /// Everything is out, save for the trailers.
    Drained,
}

impl RequestBody {
    pub(crate) fn of_request(
        incoming: Incoming,
        transform: Transform<StreamRewriter>,
        fields: <StreamRewriter as Scan>::Fields,
        gate: Option<Gate>,
        context: Arc<RequestContext>,
    ) -> Self {
        let on_fault = RequestContext::request_fault;
        Self {
            gate,
            ..Self::new(incoming, transform, fields, context, on_fault)
        }
    }
}

impl ResponseBody {
    pub(crate) fn of_response(
        incoming: Incoming,
        transform: Transform<BodyScrubber>,
        fields: <BodyScrubber as Scan>::Fields,
        context: Arc<RequestContext>,
    ) -> Self {
        Self::new(incoming, transform, fields, context, |_, _| {})
    }

    /// From here on the guest has the head, and must not take what it gets of the body for the whole.
    pub(crate) fn is_streaming(&mut self) {
        self.on_fault = RequestContext::response_fault;
    }
}

impl<R: Scan> RewrittenBody<R> {
    fn new(
        incoming: Incoming,
        transform: Transform<R>,
        fields: R::Fields,
        context: Arc<RequestContext>,
        on_fault: fn(&RequestContext, &BodyFault),
    ) -> Self {
        Self {
            incoming: Some(incoming),
            transform,
            fields,
            gate: None,
            held: VecDeque::new(),
            held_len: None,
            trailers: None,
            state: State::Untouched,
            changed: false,
            context,
            on_fault,
        }
    }

    /// Takes in the whole body, if what comes of it is no longer than `limit`, and tells how long that is.
    ///
    /// Where nothing was written, the bytes are those that came in, in the coding they came in.
    pub(crate) async fn hold(&mut self, limit: u64) -> Result<Option<u64>, BodyFault> {
        let mut originals = self.transform.recodes().then(Held::default);
        let mut held = Held::default();
        while let Some(bytes) =
            poll_fn(|context| self.poll_bytes(context, originals.as_mut())).await?
        {
            held.push(bytes);
            if held.len > limit {
                self.held = held.into_pieces();
                return Ok(None);
            }
        }
        if let Some(originals) = originals
            && !self.changed
        {
            held = originals;
        }
        self.held_len = Some(held.len);
        self.held = held.into_pieces();
        Ok(self.held_len)
    }

    /// The request it belongs to.
    pub(crate) fn context(&self) -> &RequestContext {
        &self.context
    }

    /// Whether something was written into what has come out so far, or taken out of it.
    pub(crate) fn changed(&self) -> bool {
        self.changed
    }

    fn poll_bytes(
        &mut self,
        context: &mut Context<'_>,
        mut originals: Option<&mut Held>,
    ) -> Poll<Result<Option<Bytes>, BodyFault>> {
        if let Some(gate) = &mut self.gate {
            if !ready!(gate.as_mut().poll(context)) {
                self.incoming = None;
            }
            self.gate = None;
        }
        loop {
            if let Some(bytes) = self.checked(|body| Ok(body.transform.next()?))? {
                return Poll::Ready(Ok(Some(bytes)));
            }
            if matches!(self.state, State::Finished | State::Drained) {
                self.state = State::Drained;
                return Poll::Ready(Ok(None));
            }
            let Some(incoming) = &mut self.incoming else {
                // Neither an error nor an end: the answer to this request is still being read.
                return Poll::Pending;
            };
            let Poll::Ready(frame) = Pin::new(incoming).poll_frame(context) else {
                let flushed = self.checked(|body| Ok(body.transform.flush()?))?;
                return flushed.map_or(Poll::Pending, |bytes| Poll::Ready(Ok(Some(bytes))));
            };
            let frame = frame.transpose().map_err(BodyFault::Broken);
            self.checked(|body| body.take_frame(frame?, originals.as_deref_mut()))?;
        }
    }

    fn take_frame(
        &mut self,
        frame: Option<Frame<Bytes>>,
        originals: Option<&mut Held>,
    ) -> Result<(), BodyFault> {
        self.state = State::Streaming;
        let trailers = match frame.map(Frame::into_data) {
            Some(Ok(data)) => {
                if let Some(originals) = originals {
                    originals.push(data.clone());
                }
                self.transform.push(data)?;
                // Now, if it can be told: who gets a body with a length does not ask for more once it has that.
                if !self.incoming.as_ref().is_some_and(Body::is_end_stream) {
                    return Ok(());
                }
                None
            }
            Some(Err(other)) => other.into_trailers().ok(),
            None => None,
        };
        self.state = State::Finished;
        self.transform.finish()?;
        if let Some(mut trailers) = trailers {
            self.fields.rewrite(&mut trailers)?;
            self.trailers = Some(trailers);
        }
        Ok(())
    }

    /// Does a step and tells what came of it.
    fn checked<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<T, BodyFault>,
    ) -> Result<T, BodyFault> {
        let done = step(self);
        let mut notes = self.transform.take_notes();
        notes.extend(self.fields.take_notes());
        self.changed |= notes.iter().any(|note| note.kind() != NoteKind::LeftAlone);
        self.context.report(notes);
        done.inspect_err(|fault| (self.on_fault)(&self.context, fault))
    }
}

impl<R> Body for RewrittenBody<R>
where
    R: Scan + Unpin,
    R::Fields: Unpin,
{
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        if let Some(bytes) = this.held.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if this.state != State::Drained {
            match ready!(this.poll_bytes(context, None)) {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(None) => {}
                Err(fault) => return Poll::Ready(Some(Err(fault))),
            }
        }
        let trailers = this.trailers.take();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        match self.state {
            State::Untouched => self.incoming.as_ref().is_some_and(Body::is_end_stream),
            State::Streaming | State::Finished => false,
            State::Drained => self.held.is_empty() && self.trailers.is_none(),
        }
    }

    /// Known of a body that was held. What streams has the length that its head declares, or none.
    fn size_hint(&self) -> SizeHint {
        match self.held_len {
            Some(_) => SizeHint::with_exact(self.held.iter().map(|b| b.len() as u64).sum()),
            None => SizeHint::default(),
        }
    }
}

impl<R: Scan> fmt::Debug for RewrittenBody<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RewrittenBody")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Bytes taken in. Small pieces are joined, lest a sender of single bytes pins a buffer with each.
#[derive(Default)]
struct Held {
    pieces: VecDeque<Bytes>,
    /// Small pieces, to go behind the others; never grown beyond its capacity, which would leave copies of values behind.
    joined: Zeroizing<Vec<u8>>,
    len: u64,
}

impl Held {
    /// Shorter pieces are joined.
    const SMALL: usize = 1 << 10;
    /// How long what they are joined to may get.
    const JOINED: usize = 16 << 10;

    fn push(&mut self, bytes: Bytes) {
        self.len += bytes.len() as u64;
        if bytes.len() >= Self::SMALL || self.joined.len() + bytes.len() > Self::JOINED {
            self.settle();
        }
        if bytes.len() >= Self::SMALL {
            self.pieces.push_back(bytes);
            return;
        }
        if self.joined.capacity() == 0 {
            self.joined.reserve_exact(Self::JOINED);
        }
        self.joined.extend_from_slice(&bytes);
    }

    fn settle(&mut self) {
        if !self.joined.is_empty() {
            let joined = Wiped(std::mem::take(&mut self.joined));
            self.pieces.push_back(Bytes::from_owner(joined));
        }
    }

    fn into_pieces(mut self) -> VecDeque<Bytes> {
        self.settle();
        self.pieces
    }
}

struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyFault {
    #[error("the body broke off")]
    Broken(#[source] Broken),
    #[error(transparent)]
    Refused(#[from] Fault),
}
