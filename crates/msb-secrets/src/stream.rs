//! Searching a body or a connection as it streams by.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::engine::{Found, Stream};
use crate::judge::Judge;
use crate::{Location, Note, Violation};

/// Searches a stream of bytes for placeholders. Nothing is written into it yet: what goes in comes out, or a violation.
///
/// Call [`push`](Self::push) for each chunk, then [`finish`](Self::finish). Bytes that cannot belong to a placeholder
/// come out at once, as the very same [`Bytes`]; the beginning of a possible placeholder is kept back, at most 9 times
/// the longest placeholder and 6 bytes (held in more than 16 pieces, it is copied together). The output does not depend
/// on how the input is cut. A chunk without a match allocates nothing.
#[derive(Debug)]
pub struct StreamRewriter {
    judge: Judge,
    location: Location,
    stream: Stream,
    violation: Option<Violation>,
}

impl StreamRewriter {
    pub(crate) fn new(judge: Judge, location: Location) -> Self {
        Self {
            judge,
            location,
            stream: Stream::default(),
            violation: None,
        }
    }

    /// Takes a chunk; answers the bytes to hand on, possibly none.
    ///
    /// # Errors
    /// A violation: nothing of this chunk or of what was kept back may be handed on. Every later call answers the same.
    pub fn push(&mut self, chunk: Bytes) -> Result<Pieces, Violation> {
        self.step(Some(chunk))
    }

    /// Ends the stream; answers what was kept back.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(&mut self) -> Result<Pieces, Violation> {
        self.step(None)
    }

    /// Takes the notes made so far.
    pub fn take_notes(&mut self) -> Vec<Note> {
        self.judge.take_notes()
    }

    fn step(&mut self, chunk: Option<Bytes>) -> Result<Pieces, Violation> {
        if let Some(violation) = &self.violation {
            return Err(violation.clone());
        }
        let mut out = SmallVec::new();
        let Self {
            judge,
            location,
            stream,
            ..
        } = self;
        let set = Arc::clone(&judge.set);
        let mut leave = |found: &Found| {
            judge
                .judge(found, found.form, location, |_| false)
                .map(|_| None)
        };
        let answer = match chunk {
            Some(chunk) => stream.push(&set.engine, chunk, &mut out, &mut leave),
            None => stream.finish(&set.engine, &mut out, &mut leave),
        };
        match answer {
            Ok(()) => Ok(Pieces(out.into_iter())),
            Err(violation) => Err(self.violation.insert(violation).clone()),
        }
    }
}

/// Bytes to hand on, in order; no piece is empty.
pub struct Pieces(smallvec::IntoIter<[Bytes; 4]>);

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Pieces {}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces")
            .field("count", &self.0.len())
            .finish()
    }
}
