//! Looking at every n-th place only, for needles too many or too different to be searched with vector instructions.
//!
//! A needle longer than a gram and a stride holds a whole gram at one of the places looked at, wherever it stands. Needles
//! written with escapes need not hold one; they hold an escape where that gram would be, and escapes are rare.

use std::collections::BTreeSet;

use aho_corasick::packed::{self, Searcher};
use zeroize::Zeroizing;

use super::base64::{Aligned, characters};
use super::escape::{read_unit, short_escape};
use super::hay::{Hay, Step};
use super::key::Key;
use super::sorted::Sorted;

/// The bytes looked at in one place, unless a form is shorter.
const GRAM: usize = 4;

/// Longer strides gain little and need more grams.
const MOST_STRIDE: usize = 32;

/// Bits in the table of hashes: 32 KiB, so that few places need a closer look even with 64 needles.
const HASH_BITS: u32 = 18;
const WORDS: usize = 1 << (HASH_BITS - 6);

/// Finds where a needle may begin. Its memory is wiped when it is dropped.
#[derive(Debug)]
pub(crate) struct Sampler {
    gram: usize,
    stride: usize,
    mask: u32,
    /// Whether a gram with this hash is in `grams`, or a needle begins so; most places are settled by this.
    hashes: Box<Zeroizing<[u64; WORDS]>>,
    /// Each gram and how far behind a needle's beginning it stands, as `gram << 8 | offset`, in order.
    grams: Zeroizing<Vec<u64>>,
    needles: Sorted<()>,
    /// What escapes of needles begin with. It tells no more of them than that.
    escapes: Escapes,
    /// Whether a needle holds `%` or `\`, so that escapes cannot be read without it.
    ambiguous: bool,
}

/// What is known about the places ahead of a search, so that none is looked at twice.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    gram: Option<usize>,
    escape: Option<usize>,
}

/// The longest of the literals in [`Escapes`].
const LONGEST_ESCAPE: usize = 4;

/// Nothing more to come.
const NOWHERE: usize = usize::MAX;

impl Sampler {
    pub(crate) fn new<'a>(
        keys: impl Iterator<Item = &'a Key> + Clone,
        aligned: impl Iterator<Item = &'a Aligned> + Clone,
    ) -> Self {
        let needles = keys.clone().map(|key| &**key);
        let lens = needles.clone().map(<[u8]>::len);
        let shortest = lens
            .chain(aligned.clone().map(|aligned| aligned.sextets.len()))
            .min()
            .unwrap_or(GRAM);
        let gram = shortest.min(GRAM);
        let stride = (shortest - gram + 1).min(MOST_STRIDE);
        let mut sampler = Self {
            gram,
            stride,
            mask: u32::MAX >> (8 * (GRAM - gram)),
            hashes: Box::new(Zeroizing::new([0; WORDS])),
            grams: Zeroizing::default(),
            needles: Sorted::new(keys.map(|key| (key.clone(), ()))),
            escapes: Escapes::new(needles.clone()),
            ambiguous: needles
                .clone()
                .any(|n| n.iter().any(|b| b"%\\".contains(b))),
        };
        // In one piece from the start: a growing list would leave copies behind.
        sampler.grams.reserve_exact(
            stride * (needles.clone().count() + (1 << GRAM) * aligned.clone().count()),
        );
        for needle in needles {
            for (len, next) in needle.iter().enumerate().take(GRAM) {
                let hash = beginning(&needle[..len], *next);
                sampler.hashes[hash / 64] |= 1 << (hash % 64);
            }
            for offset in 0..stride {
                sampler.add(word(&needle[offset..offset + gram]), offset);
            }
        }
        for aligned in aligned {
            for offset in 0..stride {
                let sextets = &aligned.sextets[offset..offset + gram];
                for choice in 0..1usize << gram {
                    sampler.add_base64(sextets, choice, offset);
                }
            }
        }
        sampler.grams.sort_unstable();
        sampler.grams.dedup();
        sampler
    }

    /// How many bytes of a match have to be there for it to be seen.
    pub(crate) fn reach(&self) -> usize {
        self.span() + LONGEST_ESCAPE - 1
    }

    /// A match has a gram or begins an escape within this many bytes.
    fn span(&self) -> usize {
        self.gram + self.stride - 1
    }

    /// The first place from `from` on where a needle may begin, if `reach` bytes follow it.
    pub(crate) fn find(&self, data: &[u8], from: usize, cursor: &mut Cursor) -> Option<usize> {
        let gram = match cursor.gram {
            Some(known) if known >= from => known,
            _ => *cursor.gram.insert(self.next_gram(data, from)),
        };
        let escape = match cursor.escape {
            Some(known) if known >= from => known,
            _ => *cursor.escape.insert(self.next_escape(data, from)),
        };
        Some(gram.min(escape)).filter(|at| *at != NOWHERE)
    }

    /// Adds the base64 gram that uses the second alphabet where `choice` has a bit.
    fn add_base64(&mut self, sextets: &[u8], choice: usize, offset: usize) {
        let mut gram = Zeroizing::new([0; GRAM]);
        for (i, sextet) in sextets.iter().enumerate() {
            match characters(*sextet).get(choice >> i & 1) {
                Some(character) => gram[i] = *character,
                None => return,
            }
        }
        self.add(word(&gram[..sextets.len()]), offset);
    }

    fn add(&mut self, gram: u32, offset: usize) {
        let hash = hash(gram);
        self.hashes[hash / 64] |= 1 << (hash % 64);
        self.grams.push(u64::from(gram) << 8 | offset as u64);
    }

    fn next_gram(&self, data: &[u8], from: usize) -> usize {
        let seen = |gram: u32| {
            let hash = hash(gram);
            self.hashes[hash / 64] >> (hash % 64) & 1 == 1
        };
        let mut at = from;
        while let Some(gram) = self.gram_at(data, at) {
            if seen(gram)
                && let Some(start) = self.start(gram, at, from)
            {
                return start;
            }
            at += self.stride;
        }
        NOWHERE
    }

    #[inline]
    fn gram_at(&self, data: &[u8], at: usize) -> Option<u32> {
        if let Some(bytes) = data.get(at..at + GRAM) {
            let bytes = bytes.try_into().expect("a slice of this length");
            return Some(u32::from_le_bytes(bytes) & self.mask);
        }
        data.get(at..at + self.gram).map(word)
    }

    /// The earliest place, not before `from`, where a needle with this gram at `at` begins.
    fn start(&self, gram: u32, at: usize, from: usize) -> Option<usize> {
        let gram = u64::from(gram);
        let begin = self.grams.partition_point(|entry| entry >> 8 < gram);
        let same = self.grams[begin..]
            .iter()
            .take_while(|entry| **entry >> 8 == gram);
        same.filter_map(|entry| at.checked_sub(usize::from((entry & 255) as u8)))
            .filter(|start| *start >= from)
            .min()
    }

    fn next_escape(&self, data: &[u8], from: usize) -> usize {
        let mut at = from;
        while let Some(escape) = self.escapes.find(data, at) {
            if let Some(start) = self.escaped_start(data, from, escape) {
                return start;
            }
            at = escape + 1;
        }
        NOWHERE
    }

    /// The earliest place, not before `from`, where a needle begins whose first escape is the one at `at`.
    fn escaped_start(&self, data: &[u8], from: usize, at: usize) -> Option<usize> {
        let earliest = from.max((at + 1).saturating_sub(self.span()));
        let hay = Hay {
            behind: &[],
            data,
            last: false,
        };
        let unit = match data[at] {
            b'+' => Step::Is(b' '),
            _ => read_unit(&hay, at).and_then(|(byte, ..)| Step::Is(byte)),
        };
        let byte = match unit {
            Step::Is(byte) if !self.ambiguous => byte,
            Step::Not if !self.ambiguous => return None,
            _ => return (earliest..=at).find(|start| self.needles.begins(&data[*start..at])),
        };
        let whole = at
            .checked_sub(GRAM)
            .filter(|gram| self.gram == GRAM && *gram >= from);
        let long = whole.and_then(|gram| self.start(word(&data[gram..at]), gram, from));
        long.or_else(|| {
            let shorts = earliest.max((at + 1).saturating_sub(GRAM))..=at;
            shorts.into_iter().find(|start| {
                let hash = beginning(&data[*start..at], byte);
                self.hashes[hash / 64] >> (hash % 64) & 1 == 1
            })
        })
    }
}

/// Finds what escapes of needles begin with, and little else.
#[derive(Debug)]
struct Escapes(Result<Searcher, Vec<Vec<u8>>>);

impl Escapes {
    fn new<'a>(needles: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut literals = BTreeSet::from([b"%%".to_vec(), b"%25".to_vec(), b"\\u00".to_vec()]);
        for byte in needles.flatten() {
            let high = b"0123456789abcdef"[usize::from(byte >> 4)];
            literals.insert(vec![b'%', high]);
            literals.insert(vec![b'%', high.to_ascii_uppercase()]);
            if let Some(letter) = short_escape(*byte) {
                literals.insert(vec![b'\\', letter]);
            }
            match byte {
                b' ' => literals.insert(vec![b'+']),
                b'%' => literals.insert(vec![b'%']),
                b'\\' => literals.insert(vec![b'\\']),
                _ => false,
            };
        }
        let literals: Vec<_> = literals.into_iter().collect();
        let searcher = packed::Config::new().builder().extend(&literals).build();
        Self(searcher.ok_or(literals))
    }

    fn find(&self, data: &[u8], from: usize) -> Option<usize> {
        match &self.0 {
            Ok(searcher) => searcher
                .find_in(data, (from..data.len()).into())
                .map(|found| found.start()),
            // Where there are no vector instructions to use.
            Err(literals) => (from..data.len()).find(|at| {
                literals
                    .iter()
                    .any(|literal| data[*at..].starts_with(literal))
            }),
        }
    }
}

/// The place in the table for needles that begin with less than [`GRAM`] bytes and one more.
fn beginning(bytes: &[u8], next: u8) -> usize {
    hash((word(bytes) << 8 | u32::from(next)).wrapping_add(0x5851_f42d << bytes.len()))
}

fn word(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// Multiplicative hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4).
#[inline]
fn hash(gram: u32) -> usize {
    (gram.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize
}
