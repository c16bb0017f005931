//! Matching a needle inside base64 text (RFC 4648, either alphabet) whatever stands before it in the encoded data.

use zeroize::Zeroizing;

use super::escape::Border;
use super::hay::{Hay, Peek, Step, is_word};

/// Shorter needles have too few characters of their own in base64 to be told from chance.
pub(crate) const SHORTEST: usize = 4;

/// One needle at one of the three positions it can have in a base64 triple.
///
/// Its bits fall apart in a lead (the low bits of a character shared with what stands before), whole characters, and a
/// tail (the high bits of a character shared with what follows).
#[derive(Debug)]
pub(crate) struct Aligned {
    lead_bits: usize,
    lead: u8,
    pub(crate) sextets: Zeroizing<Box<[u8]>>,
    tail_bits: usize,
    tail: u8,
    ends_in_word: bool,
}

impl Aligned {
    /// `position`: 0, 1 or 2, the needle's first byte in its triple. `needle` has at least [`SHORTEST`] bytes.
    pub(crate) fn new(needle: &[u8], position: usize, border: Border) -> Self {
        let lead_bits: usize = [0, 4, 2][position];
        let bits = |from: usize, count: usize| {
            (from..from + count).fold(0u8, |value, i| {
                value << 1 | (needle[i / 8] >> (7 - i % 8) & 1)
            })
        };
        let whole = (8 * needle.len() - lead_bits) / 6;
        let tail_from = lead_bits + 6 * whole;
        let tail_bits = 8 * needle.len() - tail_from;
        Self {
            lead_bits,
            lead: bits(0, lead_bits),
            sextets: Zeroizing::new((0..whole).map(|i| bits(lead_bits + 6 * i, 6)).collect()),
            tail_bits,
            tail: bits(tail_from, tail_bits),
            ends_in_word: border == Border::Token && needle.last().copied().is_some_and(is_word),
        }
    }

    /// Matches the whole characters at `at`, the lead before and the tail behind, and answers the end.
    pub(crate) fn matches(&self, hay: &Hay<'_>, at: usize) -> Step<usize> {
        if self.lead_bits > 0 {
            let mask = (1 << self.lead_bits) - 1;
            if hay
                .before(at, 1)
                .and_then(sextet)
                .is_none_or(|value| value & mask != self.lead)
            {
                return Step::Not;
            }
        }
        for (i, expected) in self.sextets.iter().enumerate() {
            match sextet_at(hay, at + i) {
                Step::Is(value) if value == *expected => {}
                Step::Is(_) | Step::Not => return Step::Not,
                Step::More => return Step::More,
            }
        }
        let end = at + self.sextets.len();
        if self.tail_bits == 0 {
            return self.ends(hay, end, 0);
        }
        match sextet_at(hay, end) {
            Step::Is(value) if value >> (6 - self.tail_bits) == self.tail => {
                self.ends(hay, end + 1, value)
            }
            Step::Is(_) | Step::Not => Step::Not,
            Step::More => Step::More,
        }
    }

    /// `shared`: the character that holds the tail; its other bits begin the next encoded byte.
    fn ends(&self, hay: &Hay<'_>, end: usize, shared: u8) -> Step<usize> {
        if !self.ends_in_word {
            return Step::Is(end);
        }
        let next = sextet_at(hay, end).and_then(|first| match self.tail_bits {
            2 => Step::Is((shared & 15) << 4 | first >> 2),
            4 => Step::Is((shared & 3) << 6 | first),
            _ => sextet_at(hay, end + 1).and_then(|second| Step::Is(first << 2 | second >> 4)),
        });
        match next {
            Step::Is(byte) if is_word(byte) => Step::Not,
            Step::Is(_) | Step::Not => Step::Is(end),
            Step::More => Step::More,
        }
    }
}

fn sextet_at(hay: &Hay<'_>, at: usize) -> Step<u8> {
    match hay.peek(at) {
        Peek::Byte(byte) => sextet(byte).map_or(Step::Not, Step::Is),
        Peek::End => Step::Not,
        Peek::More => Step::More,
    }
}

/// The six bits of a character of either alphabet.
pub(crate) fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

/// The characters for six bits: one, or one per alphabet.
pub(crate) fn characters(sextet: u8) -> &'static [u8] {
    const SAME: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    match sextet {
        62 => b"+-",
        63 => b"/_",
        same => &SAME[usize::from(same)..=usize::from(same)],
    }
}
