//! The engine over chunks: what cannot belong to a match goes on at once, as the same bytes.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::hay::{BEHIND, Hay, Step};
use super::json::Escape;
use super::sampler::Cursor;
use super::search::{Engine, Found, Search};

/// Output of one step; a chunk without a match is one piece.
pub(crate) type Pieces = SmallVec<[Bytes; 4]>;

/// Held pieces are joined when there are more, so that a sender of single bytes cannot pin a buffer for each.
const MOST_HELD_PIECES: usize = 16;

/// The state between chunks.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// Begins a possible match; shorter than [`Engine::window`].
    held: VecDeque<Bytes>,
    /// The sum of the lengths in `held`.
    held_len: usize,
    /// The last bytes before `held`, at most [`BEHIND`].
    behind: SmallVec<[u8; 2 * BEHIND]>,
    /// What is open behind the bytes before `held`.
    escape: Escape,
    /// `held` and the beginning of the next chunk in one piece; kept for its capacity.
    seam: Vec<u8>,
}

impl Stream {
    /// Bytes kept back.
    pub(crate) fn held_len(&self) -> usize {
        self.held_len
    }

    /// What is kept back, without its first `skip` bytes.
    pub(crate) fn held_from(&self, skip: usize) -> impl Iterator<Item = Bytes> {
        let mut skip = skip;
        self.held.iter().filter_map(move |piece| {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            (skipped < piece.len()).then(|| piece.slice(skipped..))
        })
    }

    /// Whether what is kept back would hold a match that `counts` if the input ended here.
    pub(crate) fn would_match(
        &mut self,
        engine: &Engine,
        mut counts: impl FnMut(&Found) -> bool,
    ) -> bool {
        self.seam.clear();
        for piece in &self.held {
            self.seam.extend_from_slice(piece);
        }
        let hay = Hay {
            behind: &self.behind,
            data: &self.seam,
            last: true,
        };
        (0..self.held_len).any(|at| match engine.find_at(&hay, at) {
            Step::Is(found) => counts(&found),
            Step::Not | Step::More => false,
        })
    }

    /// Takes a chunk and puts out what is decided. `judge` answers each match with its replacement, or `None` to leave
    /// it as it is.
    pub(crate) fn push<E>(
        &mut self,
        engine: &Engine,
        chunk: Bytes,
        out: &mut Pieces,
        mut judge: impl FnMut(&Found) -> Result<Option<Bytes>, E>,
    ) -> Result<(), E> {
        let mut chunk = chunk;
        self.settle(engine, &mut chunk, false, out, &mut judge)?;
        if chunk.is_empty() {
            return Ok(());
        }
        self.scan(engine, chunk, out, &mut judge)
    }

    /// Ends the input and puts out what was kept back.
    pub(crate) fn finish<E>(
        &mut self,
        engine: &Engine,
        out: &mut Pieces,
        mut judge: impl FnMut(&Found) -> Result<Option<Bytes>, E>,
    ) -> Result<(), E> {
        self.settle(engine, &mut Bytes::new(), true, out, &mut judge)
    }

    /// Decides what is held, with the help of `chunk`, and takes from `chunk` what belongs to it.
    fn settle<E>(
        &mut self,
        engine: &Engine,
        chunk: &mut Bytes,
        last: bool,
        out: &mut Pieces,
        judge: &mut impl FnMut(&Found) -> Result<Option<Bytes>, E>,
    ) -> Result<(), E> {
        while self.held_len > 0 {
            self.seam.clear();
            for piece in &self.held {
                self.seam.extend_from_slice(piece);
            }
            self.seam
                .extend_from_slice(&chunk[..chunk.len().min(engine.window())]);
            let hay = Hay {
                behind: &self.behind,
                data: &self.seam,
                last,
            };
            let mut answers = (0..self.held_len).map(|at| (at, engine.find_at(&hay, at)));
            match answers.find(|(_, step)| *step != Step::Not) {
                Some((at, Step::More)) => {
                    self.release(at, out);
                    self.hold(std::mem::take(chunk));
                    return Ok(());
                }
                Some((at, Step::Is(found))) => {
                    self.release(at, out);
                    let replacement = judge(&Found {
                        escape: self.escape,
                        ..found
                    })?;
                    let mut matched = Pieces::new();
                    let from_held = (found.end - at).min(self.held_len);
                    let from_chunk = found.end - at - from_held;
                    self.release(from_held, &mut matched);
                    if from_chunk > 0 {
                        let piece = chunk.split_to(from_chunk);
                        self.remember(&piece);
                        matched.push(piece);
                    }
                    match replacement {
                        Some(replacement) => out.push(replacement),
                        None => out.extend(matched),
                    }
                }
                Some((_, Step::Not)) | None => self.release(self.held_len, out),
            }
        }
        Ok(())
    }

    /// Searches a chunk while nothing is held.
    fn scan<E>(
        &mut self,
        engine: &Engine,
        chunk: Bytes,
        out: &mut Pieces,
        judge: &mut impl FnMut(&Found) -> Result<Option<Bytes>, E>,
    ) -> Result<(), E> {
        let behind = std::mem::take(&mut self.behind);
        let hay = Hay {
            behind: &behind,
            data: &chunk,
            last: false,
        };
        let (mut put_out, mut from, mut cursor) = (0, 0, Cursor::default());
        let mut escape = self.escape;
        let decided = loop {
            match engine.find(&hay, from, &mut cursor) {
                Search::Found(mut found) => {
                    found.escape = escape.behind(&chunk[from..found.start]);
                    escape = found.escape.behind(&chunk[found.start..found.end]);
                    if let Some(replacement) = judge(&found)? {
                        push_piece(out, chunk.slice(put_out..found.start));
                        out.push(replacement);
                        put_out = found.end;
                    }
                    from = found.end;
                }
                Search::More(at) => break at,
                Search::End => break chunk.len(),
            }
        };
        self.behind = behind;
        self.remember(&chunk[..decided]);
        if put_out == 0 && decided == chunk.len() {
            out.push(chunk);
            return Ok(());
        }
        push_piece(out, chunk.slice(put_out..decided));
        self.hold(chunk.slice(decided..));
        Ok(())
    }

    fn hold(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.held_len += piece.len();
        self.held.push_back(piece);
        if self.held.len() > MOST_HELD_PIECES {
            let mut joined = BytesMut::with_capacity(self.held_len);
            for piece in self.held.drain(..) {
                joined.extend_from_slice(&piece);
            }
            self.held.push_back(joined.freeze());
        }
    }

    /// Moves the first `len` held bytes to `out`.
    fn release(&mut self, len: usize, out: &mut Pieces) {
        let mut left = len;
        while left > 0 {
            let Some(mut piece) = self.held.pop_front() else {
                return;
            };
            let taken = if piece.len() > left {
                let taken = piece.split_to(left);
                self.held.push_front(piece);
                taken
            } else {
                piece
            };
            left -= taken.len();
            self.held_len -= taken.len();
            self.remember(&taken);
            out.push(taken);
        }
    }

    fn remember(&mut self, passed: &[u8]) {
        self.escape = self.escape.behind(passed);
        self.behind
            .extend_from_slice(&passed[passed.len().saturating_sub(BEHIND)..]);
        let surplus = self.behind.len().saturating_sub(BEHIND);
        self.behind.drain(..surplus);
    }
}

fn push_piece(out: &mut Pieces, piece: Bytes) {
    if !piece.is_empty() {
        out.push(piece);
    }
}
