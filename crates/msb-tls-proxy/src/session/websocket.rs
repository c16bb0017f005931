//! WebSocket messages (RFC 6455), searched and rewritten one by one: bytes in, bytes out.
//!
//! No extension is negotiated where messages are read (see [`head`](super::head)): a compressed message would have to be
//! undone with the state of all before it, and every server can do without. So the reserved bits are zero, frames may be
//! cut differently (section 5.4), and a message is what its frames hold.
//!
//! Nothing is kept back beyond the end of a message, and within one no more than a placeholder's beginning, so a message
//! never waits for the next one. A frame is read whole up to 64 KiB; a longer one is sent on in parts.

use bytes::{Buf as _, Bytes, BytesMut};
use msb_secrets::{
    BodyKind, BodyScrubber, Note, RequestRewriter, ResponseScrubber, StreamRewriter, Violation,
};

use super::body::Scan;

/// The longest part of a message that is sent as one frame.
const PART: usize = 64 << 10;
/// RFC 6455 section 5.5.
const MOST_CONTROL: usize = 125;

/// Why nothing more of a connection is sent on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Violation(#[from] Violation),
    /// A frame that RFC 6455 forbids, or that nobody agreed on.
    #[error("{0}")]
    Protocol(&'static str),
}

/// Who sends the messages, and what works on them.
pub(crate) trait Sender {
    type Rewriter: Scan;
    /// Whether its frames are masked (section 5.1).
    const MASKS: bool;
    /// For a message of this kind.
    fn message(&self, kind: BodyKind) -> Self::Rewriter;
    /// For what is in a control frame, whose length must not change.
    fn control(&self) -> Self::Rewriter;
}

/// The guest's side, on its way to the server.
pub(crate) struct Guest(pub(crate) RequestRewriter);

impl Sender for Guest {
    type Rewriter = StreamRewriter;
    const MASKS: bool = true;

    fn message(&self, kind: BodyKind) -> StreamRewriter {
        self.0.rewrite_body(kind)
    }

    fn control(&self) -> StreamRewriter {
        self.0.body()
    }
}

/// The server's side, on its way to the guest.
pub(crate) struct Server(pub(crate) ResponseScrubber);

impl Sender for Server {
    type Rewriter = BodyScrubber;
    const MASKS: bool = false;

    fn message(&self, kind: BodyKind) -> BodyScrubber {
        self.0.body(kind)
    }

    fn control(&self) -> BodyScrubber {
        self.0.body(BodyKind::Other)
    }
}

/// One direction of a connection, whoever sends it.
pub(crate) trait Frames: Send {
    /// Takes bytes; appends what is to be sent on to `out`.
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Fault>;
    /// Whether the connection may end here.
    fn is_between_frames(&self) -> bool;
    fn take_notes(&mut self) -> Vec<Note>;
}

impl<S> Frames for Messages<S>
where
    S: Sender + Send,
    S::Rewriter: Send,
{
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        self.push(bytes, out)
    }

    fn is_between_frames(&self) -> bool {
        self.is_between_frames()
    }

    fn take_notes(&mut self) -> Vec<Note> {
        self.take_notes()
    }
}

/// One direction of a connection.
pub(crate) struct Messages<S: Sender> {
    sender: S,
    input: BytesMut,
    frame: Option<Frame>,
    /// What was read of the frame and is not sent yet, without its mask.
    payload: Vec<u8>,
    message: Option<Message<S::Rewriter>>,
    notes: Vec<Note>,
}

#[derive(Clone, Copy)]
struct Frame {
    last: bool,
    opcode: u8,
    mask: [u8; 4],
    /// How much of it was read.
    read: u64,
    left: u64,
}

impl Frame {
    fn is_control(self) -> bool {
        self.opcode >= 8
    }
}

/// A message of which a part has come.
struct Message<R> {
    rewriter: R,
    /// Of the next frame sent: that of the message, then 0.
    opcode: u8,
}

impl<S: Sender> Messages<S> {
    pub(crate) fn new(sender: S) -> Self {
        Self {
            sender,
            input: BytesMut::new(),
            frame: None,
            payload: Vec::new(),
            message: None,
            notes: Vec::new(),
        }
    }

    /// Takes bytes; appends what is to be sent on to `out`.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        self.input.extend_from_slice(bytes);
        loop {
            let Some(mut frame) = self.frame else {
                match parse::<S>(&mut self.input, self.message.is_some())? {
                    Some(frame) => self.frame = Some(frame),
                    None => return Ok(()),
                }
                continue;
            };
            let room = PART - self.payload.len();
            let len = usize::try_from(frame.left).map_or(room, |left| left.min(room));
            let len = len.min(self.input.len());
            let at = frame.read;
            for (byte, index) in self.input[..len].iter().zip(at..) {
                let mask = frame.mask[usize::try_from(index % 4).unwrap_or(0)];
                self.payload.push(byte ^ mask);
            }
            self.input.advance(len);
            frame.read += len as u64;
            frame.left -= len as u64;
            let whole = frame.left == 0;
            self.frame = (!whole).then_some(frame);
            if whole || self.payload.len() == PART {
                self.send(frame, whole, out)?;
            } else {
                return Ok(());
            }
        }
    }

    /// Whether the connection may end here.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.frame.is_none() && self.input.is_empty()
    }

    pub(crate) fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Sends on what was read of `frame`; `whole` says that this is the last of it.
    fn send(&mut self, frame: Frame, whole: bool, out: &mut Vec<u8>) -> Result<(), Fault> {
        let payload = Bytes::from(std::mem::take(&mut self.payload));
        if frame.is_control() {
            let mut rewriter = self.sender.control();
            let rewritten = rewrite(&mut rewriter, payload, true);
            self.notes.extend(rewriter.take_notes());
            emit::<S>(out, true, frame, frame.opcode, &rewritten?);
            return Ok(());
        }
        let mut message = self.message.take().unwrap_or_else(|| Message {
            rewriter: self.sender.message(kind(frame.opcode, &payload)),
            opcode: frame.opcode,
        });
        let last = whole && frame.last;
        let rewritten = rewrite(&mut message.rewriter, payload, last);
        self.notes.extend(message.rewriter.take_notes());
        let rewritten = rewritten?;
        if last || !rewritten.is_empty() {
            emit::<S>(out, last, frame, message.opcode, &rewritten);
            message.opcode = 0;
        }
        self.message = (!last).then_some(message);
        Ok(())
    }
}

fn rewrite<R: Scan>(rewriter: &mut R, payload: Bytes, last: bool) -> Result<Vec<u8>, Violation> {
    let mut rewritten = Vec::with_capacity(payload.len());
    for piece in rewriter.push(payload)? {
        rewritten.extend_from_slice(&piece);
    }
    if last {
        for piece in rewriter.finish()? {
            rewritten.extend_from_slice(&piece);
        }
    }
    Ok(rewritten)
}

/// There is no content type, so a text that begins like a JSON object, array or string is taken for JSON.
fn kind(opcode: u8, payload: &[u8]) -> BodyKind {
    if opcode != 1 {
        return BodyKind::Other;
    }
    match payload.trim_ascii_start().first() {
        Some(b'{' | b'[' | b'"') => BodyKind::Json,
        _ => BodyKind::Text,
    }
}

/// Takes the head of a frame, if it is whole (section 5.2). `within` says that a message is not finished.
fn parse<S: Sender>(input: &mut BytesMut, within: bool) -> Result<Option<Frame>, Fault> {
    let [first, second, ..] = input[..] else {
        return Ok(None);
    };
    let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
    let fault = match (second & 0x80 != 0, opcode) {
        _ if first & 0x70 != 0 => Some("a reserved bit is set, though no extension was agreed on"),
        (masked, _) if masked != S::MASKS => Some("a frame is masked, or not, against the rules"),
        (_, 0) if !within => Some("a continuation of no message"),
        (_, 1 | 2) if within => Some("a message within a message"),
        (_, 3..=7 | 11..) => Some("a frame of a kind that does not exist"),
        (_, 8..) if !last || usize::from(second & 0x7f) > MOST_CONTROL => {
            Some("a control frame that is cut or too long")
        }
        _ => None,
    };
    if let Some(fault) = fault {
        return Err(Fault::Protocol(fault));
    }
    let length_bytes = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask_bytes = if S::MASKS { 4 } else { 0 };
    if input.len() < 2 + length_bytes + mask_bytes {
        return Ok(None);
    }
    input.advance(2);
    let left = match length_bytes {
        2 => u64::from(input.get_u16()),
        8 => input.get_u64(),
        _ => u64::from(second & 0x7f),
    };
    if left > u64::MAX >> 1 {
        return Err(Fault::Protocol("a frame that is longer than any can be"));
    }
    let mut mask = [0; 4];
    input.copy_to_slice(&mut mask[..mask_bytes]);
    Ok(Some(Frame {
        last,
        opcode,
        mask,
        read: 0,
        left,
    }))
}

/// Appends a frame, masked as `like` was: its key is as hard to foresee for who made the payload as it was there.
fn emit<S: Sender>(out: &mut Vec<u8>, last: bool, like: Frame, opcode: u8, payload: &[u8]) {
    out.push(if last { 0x80 } else { 0 } | opcode);
    let masked = if S::MASKS { 0x80 } else { 0 };
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(len @ ..126), _) => out.push(masked | len),
        (_, Ok(len)) => {
            out.push(masked | 126);
            out.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    if S::MASKS {
        out.extend_from_slice(&like.mask);
    }
    let masked = payload.iter().zip(like.mask.iter().cycle());
    out.extend(masked.map(|(byte, mask)| byte ^ mask));
}

#[cfg(test)]
mod tests;
