//! Chunks: the same output for every cut, the same bytes where nothing changes, and little held back.

use std::convert::Infallible;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::stream::Stream;
use super::reference::{input, needles};
use super::{Engine, engine, find_all};

/// Replaces the needles of even index by `<index>` and leaves the others.
fn replacement(needle: usize) -> Option<Bytes> {
    needle
        .is_multiple_of(2)
        .then(|| Bytes::from(format!("<{needle}>")))
}

fn at_once(engine: &Engine, input: &[u8]) -> Vec<u8> {
    let (mut output, mut copied) = (Vec::new(), 0);
    for found in find_all(engine, input) {
        if let Some(replacement) = replacement(found.needle) {
            output.extend_from_slice(&input[copied..found.start]);
            output.extend_from_slice(&replacement);
            copied = found.end;
        }
    }
    output.extend_from_slice(&input[copied..]);
    output
}

/// The output pieces for chunks, and the most bytes held between them.
fn streamed(engine: &Engine, chunks: impl IntoIterator<Item = Bytes>) -> (Vec<Bytes>, usize) {
    let (mut stream, mut pieces, mut most_held) = (Stream::default(), Vec::new(), 0);
    for chunk in chunks {
        let mut out = Default::default();
        let Ok(()) = stream.push(engine, chunk, &mut out, |found| {
            Ok::<_, Infallible>(replacement(found.needle))
        });
        most_held = most_held.max(stream.held_len());
        pieces.extend(out);
    }
    let mut out = Default::default();
    let Ok(()) = stream.finish(engine, &mut out, |found| {
        Ok::<_, Infallible>(replacement(found.needle))
    });
    pieces.extend(out);
    assert_eq!(stream.held_len(), 0);
    (pieces, most_held)
}

fn cut(input: &[u8], cuts: &[prop::sample::Index]) -> Vec<Bytes> {
    let mut places: Vec<usize> = cuts
        .iter()
        .map(|cut| cut.index(input.len() + 1))
        .chain([0, input.len()])
        .collect();
    places.sort_unstable();
    let whole = Bytes::copy_from_slice(input);
    places
        .windows(2)
        .map(|pair| whole.slice(pair[0]..pair[1]))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn cutting_never_changes_the_output(needles in needles(), input in input(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let engine = Engine::new(needles.iter().map(|needle| needle.as_bytes()));
        let (pieces, most_held) = streamed(&engine, cut(&input, &cuts));
        prop_assert_eq!(pieces.concat(), at_once(&engine, &input));
        prop_assert!(most_held < engine.window());
        prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
    }

    #[test]
    fn single_bytes_give_the_same_output(needles in needles(), input in input()) {
        let engine = Engine::new(needles.iter().map(|needle| needle.as_bytes()));
        let bytes = input.iter().map(|byte| Bytes::copy_from_slice(&[*byte]));
        prop_assert_eq!(streamed(&engine, bytes).0.concat(), at_once(&engine, &input));
    }

    #[test]
    fn unchanged_bytes_are_the_same_bytes(input in input(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        // Index 1 is left alone, and index 0 cannot occur: everything comes out as it went in.
        let engine = engine(&["{not in the input}", "$A"]);
        let chunks = cut(&input, &cuts);
        let addresses = |pieces: &[Bytes]| -> Vec<usize> { pieces.iter().flat_map(|piece| (0..piece.len()).map(|i| piece.as_ptr().addr() + i)).collect() };
        let expected = addresses(&chunks);
        prop_assert_eq!(addresses(&streamed(&engine, chunks).0), expected);
    }
}

/// The ways to write one byte; those that are longest show latest where they are cut.
fn escapes(byte: u8) -> [String; 6] {
    let (high, low) = (byte >> 4, byte & 15);
    [
        format!("%{byte:02X}"),
        format!("%25{byte:02x}"),
        format!("%%3{high}{low:x}"),
        format!(
            "%{high}%{:02x}",
            char::from_digit(low.into(), 16).map_or(0, u32::from)
        ),
        format!("%25%3{high}{low:X}"),
        format!("\\u{byte:04x}"),
    ]
}

/// Whatever an escape's place in the needle and wherever it is cut, and whichever way the engine looks for it.
#[test]
fn every_cut_of_every_escape_gives_one_output() {
    let many: Vec<String> = (0..20u8)
        .map(|i| format!("{}{i}-needle", char::from(b'g' + i)))
        .collect();
    let sets = [
        vec!["$MSB_KEY"],
        vec!["$MSB_KEY", "x", "$MSB_KEY2"],
        vec!["K9"],
        ["$MSB_KEY"]
            .into_iter()
            .chain(many.iter().map(String::as_str))
            .collect(),
    ];
    for needles in sets {
        let engine = engine(&needles);
        for (i, byte) in needles[0].bytes().enumerate() {
            for escape in escapes(byte) {
                let (before, after) = (&needles[0][..i], &needles[0][i + 1..]);
                let input = Bytes::from(format!("..{before}{escape}{after}.."));
                assert_eq!(
                    at_once(&engine, &input),
                    b"..<0>..",
                    "{needles:?} in {input:?}"
                );
                for at in 0..=input.len() {
                    let chunks = [input.slice(..at), input.slice(at..)];
                    let output = streamed(&engine, chunks).0.concat();
                    assert_eq!(output, b"..<0>..", "{needles:?} in {input:?} cut at {at}");
                }
            }
        }
    }
}

#[test]
fn every_cut_of_every_form_gives_one_output() {
    let engine = engine(&["$MSB_KEY", "$MSB_KEY-LONG"]);
    for form in [
        "$MSB_KEY",
        "%24MSB%5fKEY",
        "%2524MSB_KEY",
        "\\u0024MSB_KEY",
        "eDokTVNCX0tFWTo=",
        "$MSB_KEY-LONG",
        "$MSB_KEY-LON",
        "$MSB_KEY-LONGER",
    ] {
        let input = Bytes::from(format!("..{form}..{form}"));
        let expected = at_once(&engine, &input);
        for first in 0..=input.len() {
            for second in first..=input.len() {
                let chunks = [
                    input.slice(..first),
                    input.slice(first..second),
                    input.slice(second..),
                ];
                assert_eq!(
                    streamed(&engine, chunks).0.concat(),
                    expected,
                    "{form} cut at {first} and {second}"
                );
            }
        }
    }
}

#[test]
fn what_cannot_begin_a_match_goes_on_at_once() {
    let engine = engine(&["$MSB_KEY"]);
    for (chunk, held) in [
        ("plain text", 0),
        ("price in $", 1),
        ("price in $ ", 0),
        ("$MSB_KE", 7),
        ("$MSB_KEY", 8),
        ("$MSB_KEX", 0),
        ("%24", 3),
        ("%23", 0),
        ("%2", 2),
        ("100%", 1),
        ("100%.", 0),
        ("\\", 1),
        ("\\n", 0),
        ("\\u00", 4),
        ("JE1TQ", 5),
        ("JE1Tx", 0),
    ] {
        let mut stream = Stream::default();
        let mut out = Default::default();
        let Ok(()) = stream.push(&engine, Bytes::from(chunk), &mut out, |_| {
            Ok::<_, Infallible>(None)
        });
        assert_eq!(stream.held_len(), held, "{chunk:?}");
    }
}

#[test]
fn an_endless_beginning_is_not_hoarded() {
    let engine = engine(&["$MSB_KEY"]);
    let (pieces, most_held) = streamed(&engine, (0..10_000).map(|_| Bytes::from_static(b"%25")));
    assert_eq!(pieces.concat().len(), 30_000);
    assert!(most_held < engine.window(), "{most_held}");
}

/// What is held for a longer needle may turn out to hold a shorter one, and more behind it.
#[test]
fn a_needle_inside_the_beginning_of_another_is_found_at_every_cut() {
    let engine = engine(&["$A", "!$A-long"]);
    for text in ["!$A-lox", "!$A-long", "..!$A-lo", "!!$A-l!$A-long$A"] {
        let input = Bytes::from(text);
        let expected = at_once(&engine, &input);
        for first in 0..=input.len() {
            for second in first..=input.len() {
                let cut = [
                    input.slice(..first),
                    input.slice(first..second),
                    input.slice(second..),
                ];
                assert_eq!(
                    streamed(&engine, cut).0.concat(),
                    expected,
                    "{text} {first} {second}"
                );
            }
        }
    }
}
