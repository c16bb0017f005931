//! Searching and rewriting a body or a connection as it streams by.

use std::fmt;

use bytes::Bytes;
use msb_policy::InjectGrant;
use smallvec::SmallVec;

use crate::content::Style;
use crate::engine::{Escape, Found, Stream};
use crate::judge::Judge;
use crate::set::Entry;
use crate::{Form, LengthChange, Location, Note, Rewritten, StreamWatcher, Violation};

/// Searches a stream of bytes for placeholders, and replaces those that are to be.
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
    /// How values are written; `None` if they are not.
    style: Option<Style>,
    answers: Answers,
    violation: Option<Violation>,
}

impl StreamRewriter {
    pub(crate) fn new(judge: Judge, location: Location, style: Option<Style>) -> Self {
        Self {
            judge,
            location,
            stream: Stream::default(),
            style,
            answers: Answers::default(),
            violation: None,
        }
    }

    /// How the length of the stream may change by what is written into it; for a [`LengthPlan`](crate::LengthPlan).
    #[must_use]
    pub fn length_change(&self) -> LengthChange {
        let Some(style) = self.style else {
            return LengthChange::Never;
        };
        let changes = |(secret, grant): (&Entry, InjectGrant)| {
            let same = style == Style::Raw
                && self.judge.set.value(&grant).len() == secret.placeholder.len();
            secret.scopes.body && !same
        };
        if self.judge.granted().any(changes) {
            LengthChange::Possible
        } else {
            LengthChange::Never
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

    /// Whether a value was written so far.
    #[must_use]
    pub fn wrote_secret(&self) -> bool {
        self.judge.wrote()
    }

    /// Takes the notes made so far.
    pub fn take_notes(&mut self) -> Vec<Note> {
        self.judge.take_notes()
    }

    /// The same search, with nothing written and nothing held up.
    #[must_use]
    pub fn watching(mut self) -> StreamWatcher {
        self.style = None;
        StreamWatcher::new(self)
    }

    /// How many bytes are kept back.
    pub(crate) fn held_len(&self) -> usize {
        self.stream.held_len()
    }

    /// What is kept back, without its first `skip` bytes.
    pub(crate) fn held_from(&self, skip: usize) -> impl Iterator<Item = Bytes> {
        self.stream.held_from(skip)
    }

    /// Whether what is kept back would be a violation if nothing followed.
    pub(crate) fn holds_violation(&mut self) -> bool {
        let Judge { set, docket } = &self.judge;
        self.stream.would_match(&set.engine, |found| {
            !docket.permits(&set.secrets[found.needle])
        })
    }

    fn step(&mut self, chunk: Option<Bytes>) -> Result<Pieces, Violation> {
        if let Some(violation) = &self.violation {
            return Err(violation.clone());
        }
        let mut out = SmallVec::new();
        let Self {
            judge: Judge { set, docket },
            location,
            stream,
            style,
            answers,
            ..
        } = self;
        let mut judge = |found: &Found| {
            if let Some(known) = answers.get(found)
                && !set.secrets[found.needle].is_revoked()
            {
                return Ok(known);
            }
            let injects = |secret: &Entry| {
                secret.scopes.body
                    && style.is_some_and(|style| style.reads(found, &secret.placeholder))
            };
            let grant = docket.judge(set, found, found.form, || location.clone(), injects)?;
            let written = grant
                .zip(*style)
                .map(|(grant, style)| Rewritten::new(style.write(set.value(&grant))).into_bytes());
            Ok(answers.put(found, written))
        };
        let answer = match chunk {
            Some(chunk) => stream.push(&set.engine, chunk, &mut out, &mut judge),
            None => stream.finish(&set.engine, &mut out, &mut judge),
        };
        match answer {
            Ok(()) => Ok(Pieces::new(out)),
            Err(violation) => Err(self.violation.insert(violation).clone()),
        }
    }
}

/// What was decided, which stays the same for the whole stream unless the secret is revoked: by needle, form and the
/// escape it stands in, the replacement if there is one.
#[derive(Default)]
struct Answers(Vec<(Written, Option<Bytes>)>);

type Written = (usize, Form, Escape);

fn written(found: &Found) -> Written {
    (found.needle, found.form, found.escape)
}

impl Answers {
    fn get(&self, found: &Found) -> Option<Option<Bytes>> {
        let mut known = self.0.iter();
        known
            .find(|(known, _)| *known == written(found))
            .map(|(_, replacement)| replacement.clone())
    }

    fn put(&mut self, found: &Found, replacement: Option<Bytes>) -> Option<Bytes> {
        self.0.push((written(found), replacement.clone()));
        replacement
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers")
            .field("count", &self.0.len())
            .finish()
    }
}

/// Bytes to hand on, in order; no piece is empty.
pub struct Pieces(smallvec::IntoIter<[Bytes; 4]>);

impl Pieces {
    pub(crate) fn new(pieces: SmallVec<[Bytes; 4]>) -> Self {
        Self(pieces.into_iter())
    }
}

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

#[cfg(test)]
mod tests;
