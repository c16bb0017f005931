//! What becomes of a body: searched, rewritten, decoded and encoded again; chunks in, chunks out.
//!
//! | body of a request | treatment |
//! |---|---|
//! | not coded | searched, and rewritten where a secret is injected in bodies |
//! | coded, and a secret may be injected | decoded, rewritten, encoded as it was |
//! | coded, nothing is injected | the guest's own bytes, each sent on once what it decodes to is searched |
//! | coded in a way that is not known, or several times | searched as it is: a guest that wants to hide a placeholder can always make up a coding, and `aws-chunked` is one that is in use |
//! | not what its coding says | refused: a server that is more forgiving would read something that was not searched |
//!
//! Bodies of gRPC messages carry their own lengths, so nothing is written into them that would change one.
//!
//! Responses are scrubbed: see [`for_response`].

use std::collections::VecDeque;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode};
use msb_secrets::{
    BodyKind, BodyScrubber, CodedBody, CodedError, CodingError, ContentCoding, DecodeLimits,
    Decoder, LengthChange, LengthPlan, Note, RequestRewriter, ResponseScrubber, Rewrite,
    StreamRewriter, Violation,
};

use super::head::{InjectFault, inject_trailers};
use super::websocket::{self, Frames};

/// Fields that tell a digest of the body (RFC 1864, 3230 and 9530).
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// Coded bytes that wait for what they decode to; parts without any content could else go on for ever.
const MOST_WAITING: usize = 1 << 20;

/// Why a body cannot be sent on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// A placeholder on its way to where it must not go.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// It is not what its `Content-Encoding` says.
    #[error(transparent)]
    Coding(#[from] CodingError),
    /// Too much of it decodes to nothing.
    #[error("the body's coding holds back more than {MOST_WAITING} bytes")]
    Withheld,
    /// The value holds a control character.
    #[error("a secret's value cannot stand in a trailer")]
    Unwritable,
    /// The body is a WebSocket, and breaks its protocol.
    #[error("{0}")]
    Frames(&'static str),
}

impl From<websocket::Fault> for Fault {
    fn from(fault: websocket::Fault) -> Self {
        match fault {
            websocket::Fault::Violation(violation) => Self::Violation(violation),
            websocket::Fault::Protocol(fault) => Self::Frames(fault),
        }
    }
}

impl From<CodedError> for Fault {
    fn from(error: CodedError) -> Self {
        match error {
            CodedError::Violation(violation) => Self::Violation(violation),
            CodedError::Coding(error) => Self::Coding(error),
            _ => Self::Withheld,
        }
    }
}

/// A message's other part that may hold what its body may: the trailers.
pub(crate) trait Fields {
    /// Rewrites trailers in place.
    fn rewrite(&mut self, trailers: &mut HeaderMap) -> Result<(), Fault>;
    /// What became of them.
    fn take_notes(&mut self) -> Vec<Note>;
}

/// One direction: what works on its bodies, and what on its trailers.
pub(crate) trait Scan: Rewrite {
    type Fields: Fields;
    fn take_notes(&mut self) -> Vec<Note>;
}

impl Scan for StreamRewriter {
    type Fields = RequestRewriter;

    fn take_notes(&mut self) -> Vec<Note> {
        self.take_notes()
    }
}

impl Fields for RequestRewriter {
    fn rewrite(&mut self, trailers: &mut HeaderMap) -> Result<(), Fault> {
        inject_trailers(trailers, self).map_err(|fault| match fault {
            InjectFault::Violation(violation) => Fault::Violation(violation),
            InjectFault::Unwritable | InjectFault::TooLong => Fault::Unwritable,
        })
    }

    fn take_notes(&mut self) -> Vec<Note> {
        self.take_notes()
    }
}

impl Scan for BodyScrubber {
    type Fields = Option<ResponseScrubber>;

    fn take_notes(&mut self) -> Vec<Note> {
        self.take_notes()
    }
}

impl Fields for Option<ResponseScrubber> {
    fn rewrite(&mut self, trailers: &mut HeaderMap) -> Result<(), Fault> {
        if let Some(scrubber) = self {
            super::response::scrub_trailers(trailers, scrubber);
        }
        Ok(())
    }

    fn take_notes(&mut self) -> Vec<Note> {
        self.as_mut()
            .map_or_else(Vec::new, ResponseScrubber::take_notes)
    }
}

/// How one body is treated, and what that means for its length.
pub(crate) struct Treatment<R> {
    pub(crate) transform: Transform<R>,
    pub(crate) length: LengthPlan,
}

impl<R: Scan> Treatment<R> {
    /// Leaves everything as it is.
    pub(crate) fn none() -> Self {
        Self {
            transform: Transform::new(Engine::Pass),
            length: LengthPlan::StreamInPlace,
        }
    }
}

/// The treatment of a request's body.
pub(crate) fn for_request(
    headers: &HeaderMap,
    request: &RequestRewriter,
    hold: u64,
) -> Result<Treatment<StreamRewriter>, CodingError> {
    // Whatever is written into JSON counts as a change of length, so this tells whether anything is written at all.
    let injects = request.rewrite_body(BodyKind::Json).length_change() == LengthChange::Possible;
    let rewriter = rewriter(headers, request);
    let (engine, change) = match coding(headers) {
        Some(ContentCoding::Identity) => {
            let change = rewriter.length_change();
            (Engine::Plain(rewriter), change)
        }
        Some(coding) if injects => {
            let coded = CodedBody::new(coding, rewriter, coding, DecodeLimits::default())?;
            (Engine::Coded(Box::new(coded)), LengthChange::Possible)
        }
        Some(coding) => {
            let beside = Beside::new(coding, request.body())?;
            (Engine::Beside(Box::new(beside)), LengthChange::Never)
        }
        None => (Engine::Plain(request.body()), LengthChange::Never),
    };
    Ok(Treatment {
        transform: Transform::new(engine),
        length: LengthPlan::decide(declared(headers), change, hold),
    })
}

fn rewriter(headers: &HeaderMap, request: &RequestRewriter) -> StreamRewriter {
    let content_type = content_type(headers);
    let rewriter = request.rewrite_body(BodyKind::of_content_type(content_type));
    let framed = content_type
        .get(..16)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"application/grpc"));
    if framed && rewriter.length_change() == LengthChange::Possible {
        return request.body();
    }
    rewriter
}

/// The treatment of a response's body with values taken out.
///
/// A stream of events is never held, whatever length it declares. A part of a representation (206) keeps its length, so
/// that the ranges it names stay true, and cannot be decoded: a value that a range cuts in two is not found. What is
/// coded in a way that is not known is searched as it is.
pub(crate) fn for_response(
    status: StatusCode,
    headers: &HeaderMap,
    scrubber: &ResponseScrubber,
    hold: u64,
) -> Result<Treatment<BodyScrubber>, CodingError> {
    let content_type = content_type(headers);
    let kind = BodyKind::of_content_type(content_type);
    let (engine, change) = match coding(headers) {
        _ if status == StatusCode::PARTIAL_CONTENT => {
            let body = scrubber.body(BodyKind::Other);
            (Engine::Plain(body), LengthChange::Never)
        }
        Some(ContentCoding::Identity) => {
            let body = scrubber.body(kind);
            let change = body.length_change();
            (Engine::Plain(body), change)
        }
        Some(coding) => {
            let body = scrubber.body(kind);
            let coded = CodedBody::new(coding, body, coding, DecodeLimits::default())?;
            (Engine::Coded(Box::new(coded)), LengthChange::Possible)
        }
        None => {
            let body = scrubber.body(BodyKind::Other);
            (Engine::Plain(body), LengthChange::Never)
        }
    };
    let events = content_type
        .get(..17)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"));
    let length = match LengthPlan::decide(declared(headers), change, hold) {
        LengthPlan::HoldAndCount if events => LengthPlan::DropLength,
        length => length,
    };
    Ok(Treatment {
        transform: Transform::new(engine),
        length,
    })
}

/// Whether an answer with this status to this method has no body, whatever its fields say (RFC 9112 section 6.3).
pub(crate) fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Makes the fields fit a body that was held and came out `len` bytes long. Digests of what it was before are removed
/// if it `changed`.
pub(crate) fn declare(headers: &mut HeaderMap, len: u64, changed: bool) {
    headers.insert(header::CONTENT_LENGTH, len.into());
    if changed {
        for name in DIGESTS {
            headers.remove(name);
        }
    }
}

/// The one coding of the body; `None` for one that is not known, or several.
fn coding(headers: &HeaderMap) -> Option<ContentCoding> {
    let mut lines = headers.get_all(header::CONTENT_ENCODING).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Some(ContentCoding::Identity),
        (Some(line), None) => ContentCoding::parse(line.as_bytes()),
        (Some(_), Some(_)) => None,
    }
}

/// The content type; empty if there is none, or several.
fn content_type(headers: &HeaderMap) -> &[u8] {
    let mut lines = headers.get_all(header::CONTENT_TYPE).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => line.as_bytes(),
        _ => b"",
    }
}

fn declared(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.trim().parse().ok()
}

/// A body's way through what is done to it.
///
/// After each [`push`](Self::push), and after [`finish`](Self::finish), call [`next`](Self::next) until it answers
/// `None`: a chunk may become much more than it was, and comes out in pieces of bounded size.
pub(crate) struct Transform<R> {
    engine: Engine<R>,
    ready: VecDeque<Bytes>,
    /// Something came in since the encoder was last made to give all it has.
    unflushed: bool,
}

enum Engine<R> {
    Pass,
    Plain(R),
    Coded(Box<CodedBody<R>>),
    Beside(Box<Beside<R>>),
    Frames(Box<dyn Frames>),
}

impl<R: Scan> Transform<R> {
    fn new(engine: Engine<R>) -> Self {
        Self {
            engine,
            ready: VecDeque::new(),
            unflushed: false,
        }
    }

    /// For a WebSocket on a stream, whose frames are the body (RFC 8441 section 5); `None` if nothing is read.
    pub(crate) fn websocket(frames: Option<Box<dyn Frames>>) -> Self {
        Self::new(frames.map_or(Engine::Pass, Engine::Frames))
    }

    /// Whether what comes out differs from what came in even where nothing was written.
    pub(crate) fn recodes(&self) -> bool {
        matches!(self.engine, Engine::Coded(_))
    }

    pub(crate) fn push(&mut self, chunk: Bytes) -> Result<(), Fault> {
        match &mut self.engine {
            Engine::Pass => self.ready.push_back(chunk),
            Engine::Plain(rewriter) => self.ready.extend(rewriter.push(chunk)?),
            Engine::Beside(beside) => beside.push(chunk, &mut self.ready)?,
            Engine::Coded(coded) => {
                coded.push(chunk);
                self.unflushed = true;
            }
            Engine::Frames(frames) => {
                let mut out = Vec::with_capacity(chunk.len());
                frames.push(&chunk, &mut out)?;
                self.ready.push_back(out.into());
            }
        }
        Ok(())
    }

    /// Says that there are no more chunks.
    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        self.unflushed = false;
        match &mut self.engine {
            Engine::Pass => {}
            Engine::Plain(rewriter) => self.ready.extend(rewriter.finish()?),
            Engine::Beside(beside) => beside.finish(&mut self.ready)?,
            Engine::Coded(coded) => coded.finish(),
            Engine::Frames(frames) if frames.is_between_frames() => {}
            Engine::Frames(_) => return Err(Fault::Frames("it ends within a frame")),
        }
        Ok(())
    }

    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        while let Some(bytes) = self.ready.pop_front() {
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
        match &mut self.engine {
            Engine::Coded(coded) => Ok(coded.output()?),
            _ => Ok(None),
        }
    }

    /// What an encoder keeps for the sake of compression, when no more comes in for now.
    pub(crate) fn flush(&mut self) -> Result<Option<Bytes>, Fault> {
        match &mut self.engine {
            Engine::Coded(coded) if std::mem::take(&mut self.unflushed) => Ok(coded.flush()?),
            _ => Ok(None),
        }
    }

    pub(crate) fn take_notes(&mut self) -> Vec<Note> {
        match &mut self.engine {
            Engine::Pass => Vec::new(),
            Engine::Plain(rewriter) => rewriter.take_notes(),
            Engine::Coded(coded) => coded.rewriter().take_notes(),
            Engine::Beside(beside) => beside.rewriter.take_notes(),
            Engine::Frames(frames) => frames.take_notes(),
        }
    }
}

/// A coded body that is sent as it is, while what it decodes to is searched.
struct Beside<R> {
    decoder: Decoder,
    rewriter: R,
    /// Coded bytes whose content is not decided yet.
    waiting: VecDeque<Bytes>,
    waiting_len: usize,
    /// Decoded bytes that the rewriter keeps back. It replaces nothing, so they are what it was given and has not
    /// given back.
    undecided: usize,
}

impl<R: Rewrite> Beside<R> {
    fn new(coding: ContentCoding, rewriter: R) -> Result<Self, CodingError> {
        Ok(Self {
            decoder: Decoder::new(coding, DecodeLimits::default())?,
            rewriter,
            waiting: VecDeque::new(),
            waiting_len: 0,
            undecided: 0,
        })
    }

    fn push(&mut self, chunk: Bytes, ready: &mut VecDeque<Bytes>) -> Result<(), Fault> {
        self.waiting_len += chunk.len();
        self.waiting.push_back(chunk.clone());
        self.decoder.push(chunk);
        while let Some(plain) = self.decoder.output()? {
            self.undecided += plain.len();
            let decided: usize = self.rewriter.push(plain)?.map(|piece| piece.len()).sum();
            self.undecided -= decided;
        }
        if self.undecided == 0 {
            self.release(ready);
        } else if self.waiting_len > MOST_WAITING {
            return Err(Fault::Withheld);
        }
        Ok(())
    }

    fn finish(&mut self, ready: &mut VecDeque<Bytes>) -> Result<(), Fault> {
        self.decoder.finish()?;
        self.rewriter.finish()?;
        self.release(ready);
        Ok(())
    }

    fn release(&mut self, ready: &mut VecDeque<Bytes>) {
        ready.append(&mut self.waiting);
        self.waiting_len = 0;
    }
}
