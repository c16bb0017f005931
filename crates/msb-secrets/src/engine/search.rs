//! Finding needles in a buffer: whole tokens, the longest match, every form.

use super::base64::{Aligned, SHORTEST, sextet};
use super::escape::{LONGEST_UNIT, LOOKAHEAD, needle_at, token_starts};
use super::hay::{Hay, Step};
use super::prefilter::{LONGEST_LITERAL, Prefilter};
use crate::Form;

/// A needle in the hay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its index in the list that the engine was made from.
    pub(crate) needle: usize,
    pub(crate) form: Form,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Search {
    Found(Found),
    /// Nothing before this position; whether something begins there depends on bytes to come.
    More(usize),
    End,
}

/// All needles in all forms. Immutable; searching allocates nothing.
#[derive(Debug)]
pub(crate) struct Engine {
    needles: Vec<Needle>,
    /// By first byte as it stands in the hay, indexes into `needles`, longest needle first.
    by_byte: Vec<Vec<usize>>,
    /// By first whole sextet, longest needle first.
    by_sextet: Vec<Vec<(usize, Aligned)>>,
    prefilter: Prefilter,
    longest_form: usize,
}

#[derive(Debug)]
struct Needle {
    index: usize,
    bytes: Box<[u8]>,
}

impl Engine {
    /// An engine for distinct, non-empty needles.
    pub(crate) fn new<'a>(needles: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let needles = needles.into_iter().enumerate();
        let mut needles: Vec<_> = needles
            .map(|(index, bytes)| Needle {
                index,
                bytes: bytes.into(),
            })
            .collect();
        needles.sort_by_key(|needle| std::cmp::Reverse(needle.bytes.len()));

        let mut by_byte = vec![Vec::new(); 256];
        let mut by_sextet: Vec<Vec<_>> = (0..64).map(|_| Vec::new()).collect();
        for (i, needle) in needles.iter().enumerate() {
            let mut first_bytes = vec![needle.bytes[0], b'%', b'\\'];
            if needle.bytes[0] == b' ' {
                first_bytes.push(b'+');
            }
            first_bytes.sort_unstable();
            first_bytes.dedup();
            for byte in first_bytes {
                by_byte[usize::from(byte)].push(i);
            }
            if needle.bytes.len() >= SHORTEST {
                for aligned in (0..3).map(|position| Aligned::new(&needle.bytes, position)) {
                    by_sextet[usize::from(aligned.sextets[0])].push((i, aligned));
                }
            }
        }
        let aligned = by_sextet.iter().flatten().map(|(_, aligned)| aligned);
        let prefilter = Prefilter::new(needles.iter().map(|needle| &*needle.bytes), aligned);
        let longest_form = needles
            .first()
            .map_or(0, |needle| LONGEST_UNIT * needle.bytes.len());
        Self {
            needles,
            by_byte,
            by_sextet,
            prefilter,
            longest_form,
        }
    }

    /// With this many bytes from a position on, what begins there is always decided.
    pub(crate) fn window(&self) -> usize {
        self.longest_form + LOOKAHEAD
    }

    /// The first needle that starts at or after `from`; the longest one there.
    pub(crate) fn find(&self, hay: &Hay<'_>, from: usize) -> Search {
        let mut from = from;
        loop {
            let candidate = self.prefilter.find(hay.data, from);
            // The last positions may begin a literal that is cut off by the end of the data.
            let cut = if hay.last {
                hay.data.len()
            } else {
                hay.data.len().saturating_sub(LONGEST_LITERAL - 1)
            };
            for at in from.max(cut)..candidate.unwrap_or(hay.data.len()) {
                match self.find_at(hay, at) {
                    Step::Is(found) => return Search::Found(found),
                    Step::More => return Search::More(at),
                    Step::Not => {}
                }
            }
            let Some(at) = candidate else {
                return Search::End;
            };
            match self.find_at(hay, at) {
                Step::Is(found) => return Search::Found(found),
                Step::More => return Search::More(at),
                Step::Not => from = at + 1,
            }
        }
    }

    /// The longest needle that starts at `at`, which lies inside the data.
    pub(crate) fn find_at(&self, hay: &Hay<'_>, at: usize) -> Step<Found> {
        let byte = hay.data[at];
        for i in &self.by_byte[usize::from(byte)] {
            let needle = &self.needles[*i];
            match needle_at(hay, at, &needle.bytes) {
                Step::Is((end, form)) if token_starts(hay, at, &needle.bytes) => {
                    return Step::Is(Found {
                        needle: needle.index,
                        form,
                        start: at,
                        end,
                    });
                }
                Step::Is(_) | Step::Not => {}
                Step::More if token_starts(hay, at, &needle.bytes) => return Step::More,
                Step::More => {}
            }
        }
        let Some(sextet) = sextet(byte) else {
            return Step::Not;
        };
        for (i, aligned) in &self.by_sextet[usize::from(sextet)] {
            match aligned.matches(hay, at) {
                Step::Is(end) => {
                    return Step::Is(Found {
                        needle: self.needles[*i].index,
                        form: Form::Base64,
                        start: at,
                        end,
                    });
                }
                Step::More => return Step::More,
                Step::Not => {}
            }
        }
        Step::Not
    }
}
