//! Passing over what cannot begin a needle: by short literals that every form of every needle begins with, searched with
//! vector instructions, or by looking at some places only.

use std::collections::BTreeSet;

use aho_corasick::packed::{self, Searcher};

use super::base64::{Aligned, characters};
use super::escape::short_escape;
use super::key::Key;
use super::sampler::{Cursor, Sampler};

/// Above this the packed searcher's buckets fill up and verification eats its gain.
const MOST_PACKED: usize = 64;

/// What passes over bytes that no needle can begin with.
#[derive(Debug)]
pub(crate) enum Prefilter {
    Nothing,
    /// Few needles, or many with the same beginning.
    Packed {
        searcher: Searcher,
        longest_literal: usize,
    },
    Sampled(Box<Sampler>),
}

impl Prefilter {
    /// A filter for needles and their base64 forms.
    ///
    /// With `wipe` it keeps nothing of them but what is wiped when it is dropped.
    pub(crate) fn new<'a>(
        needles: impl Iterator<Item = &'a Key> + Clone,
        aligned: impl Iterator<Item = &'a Aligned> + Clone,
        wipe: bool,
    ) -> Self {
        if needles.clone().next().is_none() {
            return Self::Nothing;
        }
        let packed = if wipe {
            None
        } else {
            packed(needles.clone().map(|needle| &**needle), aligned.clone())
        };
        packed.unwrap_or_else(|| Self::Sampled(Box::new(Sampler::new(needles, aligned))))
    }

    /// How many bytes of a match have to be there for it to be seen.
    pub(crate) fn reach(&self) -> usize {
        match self {
            Self::Nothing => 1,
            Self::Packed {
                longest_literal, ..
            } => *longest_literal,
            Self::Sampled(sampler) => sampler.reach(),
        }
    }

    /// The first position from `from` on where a needle may begin. `cursor` belongs to this `data`.
    pub(crate) fn find(&self, data: &[u8], from: usize, cursor: &mut Cursor) -> Option<usize> {
        match self {
            Self::Nothing => None,
            Self::Packed { searcher, .. } => searcher
                .find_in(data, (from..data.len()).into())
                .map(|found| found.start()),
            Self::Sampled(sampler) => sampler.find(data, from, cursor),
        }
    }
}

fn packed<'a>(
    needles: impl Iterator<Item = &'a [u8]>,
    aligned: impl Iterator<Item = &'a Aligned>,
) -> Option<Prefilter> {
    let mut literals = BTreeSet::new();
    for needle in needles {
        add_escaped(needle, &mut literals);
    }
    for aligned in aligned {
        add_base64(aligned, &mut literals);
    }
    drop_covered(&mut literals);
    if literals.len() > MOST_PACKED {
        return None;
    }
    Some(Prefilter::Packed {
        searcher: packed::Config::new().builder().extend(&literals).build()?,
        longest_literal: literals.iter().map(Vec::len).max()?,
    })
}

/// Prefixes of the ways to write a needle with `escape`: as long as its first three bytes are literal those, else up to
/// where the escape shows.
fn add_escaped(needle: &[u8], literals: &mut BTreeSet<Vec<u8>>) {
    let mut prefix = Vec::new();
    for (i, byte) in needle.iter().take(3).enumerate() {
        let mut add = |escape: &[u8]| {
            literals.insert([prefix.as_slice(), escape].concat());
        };
        if i == 2 {
            // Two literal bytes before it are selective enough.
            add(b"%");
            add(b"\\");
        } else {
            add(b"%25");
            add(b"%%");
            for (high, low) in hex_spellings(*byte) {
                add(&[b'%', high, low]);
                add(&[b'%', high, b'%']);
                add(&[b'\\', b'u', b'0', b'0', high, low]);
            }
            if let Some(letter) = short_escape(*byte) {
                add(&[b'\\', letter]);
            }
        }
        if *byte == b' ' {
            add(b"+");
        }
        prefix.push(*byte);
    }
    literals.insert(prefix);
}

fn hex_spellings(byte: u8) -> impl Iterator<Item = (u8, u8)> {
    let spellings = |nibble: u8| {
        let digit = b"0123456789abcdef"[usize::from(nibble)];
        [digit, digit.to_ascii_uppercase()]
    };
    spellings(byte >> 4)
        .into_iter()
        .flat_map(move |high| spellings(byte & 15).map(|low| (high, low)))
}

/// The first four characters in each alphabet.
fn add_base64(aligned: &Aligned, literals: &mut BTreeSet<Vec<u8>>) {
    let mut prefixes = vec![Vec::new()];
    for sextet in aligned.sextets.iter().take(4) {
        prefixes = prefixes
            .iter()
            .flat_map(|prefix| {
                characters(*sextet)
                    .iter()
                    .map(move |c| [prefix.as_slice(), &[*c]].concat())
            })
            .collect();
    }
    literals.extend(prefixes);
}

/// A literal that begins with another is found by that one.
fn drop_covered(literals: &mut BTreeSet<Vec<u8>>) {
    let all = literals.clone();
    literals.retain(|literal| !(1..literal.len()).any(|len| all.contains(&literal[..len])));
}
