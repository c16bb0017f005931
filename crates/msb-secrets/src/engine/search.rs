//! Finding needles in a buffer: whole tokens, the longest match, every form.

use zeroize::Zeroizing;

use super::base64::{Aligned, SHORTEST, characters, sextet};
use super::escape::{
    Border, LONGEST_UNIT, LOOKAHEAD, needle_at, read_unit, token_ends, token_starts,
};
use super::hay::{Hay, Peek, Step};
use super::json::Escape;
use super::key::Key;
use super::prefilter::Prefilter;
use super::sampler::Cursor;
use super::sorted::{Sorted, Walk};
use crate::Form;

/// A needle in the hay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its index in the list that the engine was made from.
    pub(crate) needle: usize,
    pub(crate) form: Form,
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// The JSON escape that its first characters belong to. Told by [`Stream`](super::Stream) only.
    pub(crate) escape: Escape,
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
    /// Longest first; a needle's place in this order is its rank.
    needles: Vec<Needle>,
    /// Ranks by needle, of those in which every escape reads in one way.
    plain: Sorted<usize>,
    /// Ranks of the others, which are tried one by one.
    ambiguous: Vec<usize>,
    /// By position in a base64 triple, ranks and forms by whole sextets.
    aligned: [Sorted<(usize, Aligned)>; 3],
    prefilter: Prefilter,
    /// One bit for each byte that a form of a needle may begin with.
    beginnings: Zeroizing<[u64; 4]>,
    border: Border,
    longest_form: usize,
}

#[derive(Debug)]
struct Needle {
    index: usize,
    bytes: Key,
}

/// An answer for the needle of a rank; of several the lowest rank counts.
type Ranked<T> = Option<(usize, Step<T>)>;

impl Engine {
    /// An engine for distinct, non-empty placeholders.
    pub(crate) fn new(needles: impl IntoIterator<Item: Into<Key>>) -> Self {
        Self::with_border(needles, Border::Token)
    }

    /// An engine for distinct, non-empty needles that are found inside words too, and wiped when it is dropped.
    pub(crate) fn for_values(needles: impl IntoIterator<Item: Into<Key>>) -> Self {
        Self::with_border(needles, Border::Anywhere)
    }

    fn with_border(needles: impl IntoIterator<Item: Into<Key>>, border: Border) -> Self {
        let needles = needles.into_iter().enumerate();
        let mut needles: Vec<_> = needles
            .map(|(index, bytes)| Needle {
                index,
                bytes: bytes.into(),
            })
            .collect();
        needles.sort_by_key(|needle| std::cmp::Reverse(needle.bytes.len()));
        let (ambiguous, plain): (Vec<_>, Vec<_>) = (0..needles.len())
            .partition(|rank| needles[*rank].bytes.iter().any(|b| b"%\\+ ".contains(b)));
        let plain = Sorted::new(
            plain
                .into_iter()
                .map(|rank| (needles[rank].bytes.clone(), rank)),
        );
        let aligned = [0, 1, 2].map(|position| {
            let long = needles
                .iter()
                .enumerate()
                .filter(|(_, needle)| needle.bytes.len() >= SHORTEST);
            Sorted::new(long.map(|(rank, needle)| {
                let aligned = Aligned::new(&needle.bytes, position, border);
                (Key::from(&**aligned.sextets), (rank, aligned))
            }))
        });
        let prefilter = Prefilter::new(
            needles.iter().map(|needle| &needle.bytes),
            aligned
                .iter()
                .flat_map(|sorted| sorted.rest(&sorted.walk()))
                .map(|(_, aligned)| aligned),
            border == Border::Anywhere,
        );
        let beginnings = beginnings(
            needles.iter().map(|needle| needle.bytes[0]),
            aligned
                .iter()
                .flat_map(|sorted| sorted.rest(&sorted.walk()))
                .map(|(_, aligned)| aligned.sextets[0]),
        );
        let longest_form = needles
            .first()
            .map_or(0, |needle| LONGEST_UNIT * needle.bytes.len());
        Self {
            needles,
            plain,
            ambiguous,
            aligned,
            prefilter,
            beginnings,
            border,
            longest_form,
        }
    }

    /// With this many bytes from a position on, what begins there is always decided.
    pub(crate) fn window(&self) -> usize {
        self.longest_form + LOOKAHEAD
    }

    /// The first needle that starts at or after `from`; the longest one there. `cursor` is a new one for each hay.
    pub(crate) fn find(&self, hay: &Hay<'_>, from: usize, cursor: &mut Cursor) -> Search {
        // The last positions may begin what the end of the data cuts off before it is seen.
        let cut = if hay.last {
            hay.data.len()
        } else {
            hay.data.len().saturating_sub(self.prefilter.reach() - 1)
        };
        let mut from = from;
        loop {
            let candidate = self.prefilter.find(hay.data, from, cursor);
            for at in from.max(cut)..candidate.unwrap_or(hay.data.len()) {
                if !self.may_begin(hay.data[at]) {
                    continue;
                }
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

    fn may_begin(&self, byte: u8) -> bool {
        self.beginnings[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }

    /// The longest needle that starts at `at`, which lies inside the data.
    pub(crate) fn find_at(&self, hay: &Hay<'_>, at: usize) -> Step<Found> {
        let escaped = first(self.plain_at(hay, at), self.ambiguous_at(hay, at));
        let answer = escaped.or_else(|| {
            sextet(hay.data[at])?;
            let aligned = self.aligned.iter().map(|sorted| base64_at(sorted, hay, at));
            aligned.fold(None, first)
        });
        let Some((rank, step)) = answer else {
            return Step::Not;
        };
        step.and_then(|(end, form)| {
            Step::Is(Found {
                needle: self.needles[rank].index,
                form,
                start: at,
                end,
                escape: Escape::Closed,
            })
        })
    }

    fn plain_at(&self, hay: &Hay<'_>, at: usize) -> Ranked<(usize, Form)> {
        let (mut walk, mut end, mut form) = (self.plain.walk(), at, Form::Raw);
        // The longest so far: each one is longer than those before it.
        let mut longest = None;
        loop {
            while let Some(rank) = self.plain.ended(&mut walk) {
                let needle = &self.needles[*rank].bytes;
                match token_ends(hay, end, needle, form, self.border) {
                    Step::Is(()) => longest = Some((*rank, Step::Is((end, form)))),
                    Step::More => longest = Some((*rank, Step::More)),
                    Step::Not => {}
                }
            }
            if walk.is_over() {
                break;
            }
            match read_unit(hay, end) {
                Step::Is((byte, len, unit)) => {
                    self.plain.step(&mut walk, byte);
                    (end, form) = (end + len, form.max(unit));
                }
                Step::Not => break,
                Step::More => {
                    longest = self.cut_off(hay, at, &walk).or(longest);
                    break;
                }
            }
        }
        let (rank, _) = longest?;
        let starts = token_starts(hay, at, self.needles[rank].bytes[0], self.border);
        longest.filter(|_| starts)
    }

    /// The longest of the needles that may go on behind the end of the data.
    fn cut_off(&self, hay: &Hay<'_>, at: usize, walk: &Walk) -> Ranked<(usize, Form)> {
        let open = self.plain.rest(walk).iter().filter(|rank| {
            needle_at(hay, at, &self.needles[**rank].bytes, self.border) == Step::More
        });
        open.min().map(|rank| (*rank, Step::More))
    }

    fn ambiguous_at(&self, hay: &Hay<'_>, at: usize) -> Ranked<(usize, Form)> {
        self.ambiguous.iter().find_map(|rank| {
            let needle = &self.needles[*rank].bytes;
            match needle_at(hay, at, needle, self.border) {
                Step::Not => None,
                step => token_starts(hay, at, needle[0], self.border).then_some((*rank, step)),
            }
        })
    }
}

/// What needles with these first bytes, and these first whole sextets in base64, may begin with: as they are, or escaped.
fn beginnings(
    bytes: impl Iterator<Item = u8>,
    sextets: impl Iterator<Item = u8>,
) -> Zeroizing<[u64; 4]> {
    let mut bits = Zeroizing::new([0; 4]);
    let all = bytes
        .chain(sextets.flat_map(|sextet| characters(sextet).iter().copied()))
        .chain(*b"%\\+");
    for byte in all {
        bits[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }
    bits
}

fn base64_at(sorted: &Sorted<(usize, Aligned)>, hay: &Hay<'_>, at: usize) -> Ranked<(usize, Form)> {
    let (mut walk, mut end, mut best) = (sorted.walk(), at, None);
    let matched = |(rank, aligned): &(usize, Aligned)| match aligned.matches(hay, at) {
        Step::Is(end) => Some((*rank, Step::Is((end, Form::Base64)))),
        Step::More => Some((*rank, Step::More)),
        Step::Not => None,
    };
    loop {
        while let Some(entry) = sorted.ended(&mut walk) {
            best = first(best, matched(entry));
        }
        if walk.is_over() {
            return best;
        }
        match hay.peek(end) {
            Peek::Byte(byte) => match sextet(byte) {
                Some(sextet) => sorted.step(&mut walk, sextet),
                None => return best,
            },
            Peek::End => return best,
            Peek::More => return sorted.rest(&walk).iter().map(matched).fold(best, first),
        }
        end += 1;
    }
}

fn first<T>(a: Ranked<T>, b: Ranked<T>) -> Ranked<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.0 < a.0 { b } else { a }),
        (a, b) => a.or(b),
    }
}
