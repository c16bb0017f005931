//! Searching a stream into which nothing is written, without holding up what it carries.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::stream::Pieces;
use crate::{Note, StreamRewriter, Violation};

/// Searches a stream of bytes for placeholders, and hands every byte on as soon as it is known to complete none.
///
/// A [`StreamRewriter`] keeps back the beginning of a possible placeholder, which would stall a protocol whose sides take
/// turns: any byte of an encrypted packet may look like a beginning, and its answer may be what the sender waits for.
/// Here beginnings go on, and only what completes a placeholder does not: so no placeholder ever gets whole to the other
/// side. Like there, the outcome does not depend on how the input is cut.
#[derive(Debug)]
pub struct StreamWatcher {
    rewriter: StreamRewriter,
    /// How much of what the rewriter keeps back was handed on; at most all of it.
    ahead: usize,
}

impl StreamWatcher {
    pub(crate) fn new(rewriter: StreamRewriter) -> Self {
        Self { rewriter, ahead: 0 }
    }

    /// Takes a chunk; answers the bytes to hand on, possibly none.
    ///
    /// # Errors
    /// A violation: nothing of this chunk or of what was kept back may be handed on. Every later call answers the same.
    pub fn push(&mut self, chunk: Bytes) -> Result<Pieces, Violation> {
        let decided = self.rewriter.push(chunk)?;
        let mut out = self.unsent(decided);
        if !self.rewriter.holds_violation() {
            let held = self.rewriter.held_len();
            out.extend(self.rewriter.held_from(self.ahead));
            self.ahead = held;
        }
        Ok(Pieces::new(out))
    }

    /// Whether something is kept back: a placeholder, unless what follows makes it a part of a longer word. If nothing
    /// follows, [`finish`](Self::finish) says what it is.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.ahead < self.rewriter.held_len()
    }

    /// Ends the stream; answers what was kept back.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(&mut self) -> Result<Pieces, Violation> {
        let decided = self.rewriter.finish()?;
        Ok(Pieces::new(self.unsent(decided)))
    }

    /// Takes the notes made so far.
    pub fn take_notes(&mut self) -> Vec<Note> {
        self.rewriter.take_notes()
    }

    /// What of `decided` was not handed on before.
    fn unsent(&mut self, decided: Pieces) -> SmallVec<[Bytes; 4]> {
        let mut out = SmallVec::new();
        for mut piece in decided {
            let sent = self.ahead.min(piece.len());
            self.ahead -= sent;
            if sent < piece.len() {
                out.push(piece.split_off(sent));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests;
