//! A differential test: the engine and a reference that tries every spelling at every position agree.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use proptest::prelude::*;

use super::super::hay::is_word;
use super::{Engine, find_all};

/// Every way to write a hexadecimal digit inside a percent sign's pair.
fn digit(nibble: u8) -> Vec<String> {
    let mut all = vec![format!("{nibble:x}"), format!("{nibble:X}")];
    for plain in all.clone() {
        all.push(format!("%{:x}", plain.as_bytes()[0]));
    }
    all
}

/// Every way to write a byte that the engine promises to know.
pub(super) fn spellings(byte: u8) -> Vec<Vec<u8>> {
    let mut all = vec![vec![byte]];
    for percent in ["%", "%25"] {
        for high in digit(byte >> 4) {
            all.extend(
                digit(byte & 15)
                    .iter()
                    .map(|low| format!("{percent}{high}{low}").into_bytes()),
            );
        }
    }
    for pair in [
        format!("{byte:02x}"),
        format!("{byte:02X}"),
        format!("{:x}{:X}", byte >> 4, byte & 15),
        format!("{:X}{:x}", byte >> 4, byte & 15),
    ] {
        all.push(format!("\\u00{pair}").into_bytes());
    }
    let short = b"//\"\"\\\\\nn\rr\tt\x08b\x0cf".chunks(2);
    all.extend(
        short
            .filter(|pair| pair[0] == byte)
            .map(|pair| vec![b'\\', pair[1]]),
    );
    if byte == b' ' {
        all.push(b"+".to_vec());
    }
    all
}

fn spelled(input: &[u8], at: usize, needle: &[u8]) -> Option<usize> {
    let Some((byte, rest)) = needle.split_first() else {
        return Some(at);
    };
    let fits = spellings(*byte)
        .into_iter()
        .filter(|spelling| input[at..].starts_with(spelling));
    fits.filter_map(|spelling| spelled(input, at + spelling.len(), rest))
        .max()
}

fn word_follows(input: &[u8], at: usize, escapes: bool) -> bool {
    (0..128u8).filter(|byte| is_word(*byte)).any(|byte| {
        let mut all = vec![vec![byte]];
        if escapes {
            let hex = [format!("{byte:02x}"), format!("{byte:02X}")];
            all.extend(hex.iter().flat_map(|pair| {
                ["%", "%25", "\\u00"].map(|prefix| format!("{prefix}{pair}").into_bytes())
            }));
        }
        all.iter().any(|spelling| input[at..].starts_with(spelling))
    })
}

/// The end of `needle` inside base64 whose first character of the needle's own stands at `at`.
fn in_base64(input: &[u8], at: usize, needle: &[u8]) -> Option<usize> {
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone);
    let codec = GeneralPurpose::new(&alphabet::STANDARD, config);
    let run_end = at
        + input[at..]
            .iter()
            .take_while(|b| b.is_ascii_alphanumeric() || b"+/-_".contains(b))
            .count();
    [(0, 0, ""), (1, 1, "A"), (2, 1, "AA")]
        .into_iter()
        .filter_map(|(position, lead, filler)| {
            let from = at.checked_sub(lead)?;
            let run: String = input[from..run_end]
                .iter()
                .map(|b| match b {
                    b'-' => '+',
                    b'_' => '/',
                    other => char::from(*other),
                })
                .collect();
            let mut text = format!("{filler}{run}");
            if text.len() % 4 == 1 {
                text.pop();
            }
            let decoded = codec.decode(text).ok()?;
            let own = decoded.get(position..)?;
            let whole = own.starts_with(needle)
                && !(is_word(*needle.last()?)
                    && own.get(needle.len()).copied().is_some_and(is_word));
            whole.then(|| from + (8 * (position + needle.len())).div_ceil(6) - filler.len())
        })
        .max()
}

/// Every match, left to right, the longest needle first. Needles begin with `$` and contain no `%` or `\`.
fn reference(needles: &[String], input: &[u8]) -> Vec<(usize, usize, usize)> {
    let mut by_length: Vec<usize> = (0..needles.len()).collect();
    by_length.sort_by_key(|i| std::cmp::Reverse(needles[*i].len()));
    let (mut all, mut at) = (Vec::new(), 0);
    while at < input.len() {
        let escaped = by_length.iter().find_map(|i| {
            let needle = needles[*i].as_bytes();
            let end = spelled(input, at, needle)?;
            let raw = &input[at..end] == needle;
            let whole = !is_word(*needle.last()?) || !word_follows(input, end, !raw);
            whole.then_some((*i, at, end))
        });
        let base64 = || {
            by_length
                .iter()
                .filter(|i| needles[**i].len() >= 4)
                .find_map(|i| Some((*i, at, in_base64(input, at, needles[*i].as_bytes())?)))
        };
        match escaped.or_else(base64) {
            Some(found) => {
                all.push(found);
                at = found.2;
            }
            None => at += 1,
        }
    }
    all
}

/// Needles over a tiny alphabet, so that they share prefixes and contain one another.
pub(super) fn needles() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::hash_set("\\$[AB_]{0,2}[$A /\"]?[AB-]{0,2}", 1..5).prop_map(|set| {
        let mut needles: Vec<String> = set.into_iter().collect();
        needles.sort();
        needles
    })
}

fn written(text: Vec<(u8, prop::sample::Index)>) -> Vec<u8> {
    text.into_iter()
        .flat_map(|(byte, choice)| choice.get(&spellings(byte)).clone())
        .collect()
}

/// Input made of needles' characters in random spellings, of base64 of them, and of pieces of escapes.
pub(super) fn input() -> impl Strategy<Value = Vec<u8>> {
    let character = prop::sample::select(b"$$$AAB_- /\"x".to_vec());
    let raw = proptest::collection::vec(character.clone(), 0..12);
    let escaped = proptest::collection::vec((character, any::<prop::sample::Index>()), 0..8)
        .prop_map(written);
    let base64 = raw
        .clone()
        .prop_map(|text| base64::prelude::BASE64_STANDARD.encode(text).into_bytes());
    let debris = "[%2-5AaFfu\\\\0+=]{0,6}".prop_map(String::into_bytes);
    proptest::collection::vec(
        prop_oneof![3 => raw, 3 => escaped, 2 => base64, 1 => debris],
        0..6,
    )
    .prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_engine_finds_what_the_reference_finds(needles in needles(), input in input()) {
        let engine = Engine::new(needles.iter().map(|needle| needle.as_bytes()));
        let found: Vec<_> = find_all(&engine, &input).into_iter().map(|found| (found.needle, found.start, found.end)).collect();
        let expected = reference(&needles, &input);
        prop_assert_eq!(&found, &expected, "in {}", String::from_utf8_lossy(&input));
    }
}

proptest! {
    // Few cases: an automaton is built for each.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn many_needles_find_what_the_reference_finds(needles in needles(), inputs in proptest::collection::vec(input(), 16)) {
        // Needles that do not occur push the prefilter over to its automaton.
        let strangers: Vec<String> = (0..40u8).map(|i| format!("{}{}~~~~", char::from(b'C' + i % 20), char::from(b'p' + i / 20))).collect();
        let engine = Engine::new(needles.iter().chain(&strangers).map(|needle| needle.as_bytes()));
        for input in inputs {
            let found: Vec<_> = find_all(&engine, &input).into_iter().map(|found| (found.needle, found.start, found.end)).collect();
            prop_assert_eq!(found, reference(&needles, &input), "in {}", String::from_utf8_lossy(&input));
        }
    }
}

/// Needles long enough to be looked for at some places only, and inputs that hold parts of them.
fn long() -> impl Strategy<Value = (Vec<String>, Vec<Vec<u8>>)> {
    let needles = proptest::collection::btree_set("\\$[a-e]{3}[ab_$/\" -]{6,14}[ab]", 1..4);
    needles.prop_flat_map(|needles| {
        let needles: Vec<String> = needles.into_iter().collect();
        let part = (
            prop::sample::select(needles.clone()),
            0..4usize,
            0..4usize,
            0..4u8,
            proptest::collection::vec(any::<prop::sample::Index>(), 24),
            0..4u8,
        );
        let part = part.prop_map(|(needle, before, after, cut, choices, style)| {
            let whole = match cut {
                0 => needle[..needle.len() - after].to_owned(),
                1 => format!("{}{needle}", &needle[..before]),
                _ => needle,
            };
            match style {
                0 => base64::prelude::BASE64_STANDARD
                    .encode(format!("{}{whole}", "x".repeat(before)))
                    .into_bytes(),
                1 => whole.into_bytes(),
                _ => {
                    let mut spelled = Vec::new();
                    for (byte, choice) in whole.bytes().zip(&choices) {
                        // Mostly as it is, so that escapes come late too.
                        if choice.index(8) == 0 {
                            spelled.extend(choice.get(&spellings(byte)));
                        } else {
                            spelled.push(byte);
                        }
                    }
                    spelled
                }
            }
        });
        let inputs = proptest::collection::vec(proptest::collection::vec(part, 0..4), 16);
        let inputs =
            inputs.prop_map(|inputs| inputs.iter().map(|parts| parts.join(&b"."[..])).collect());
        (Just(needles), inputs)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn long_needles_find_what_the_reference_finds((needles, inputs) in long()) {
        let strangers: Vec<String> = (0..40u8).map(|i| format!("{}{}~~~~~~~~", char::from(b'C' + i % 20), char::from(b'p' + i / 20))).collect();
        let engine = Engine::new(needles.iter().chain(&strangers).map(|needle| needle.as_bytes()));
        for input in inputs {
            let found: Vec<_> = find_all(&engine, &input).into_iter().map(|found| (found.needle, found.start, found.end)).collect();
            // The reference takes needles that begin with `$`; here a word before one makes it none.
            let expected: Vec<_> = reference(&needles, &input).into_iter().collect();
            prop_assert_eq!(found, expected, "in {}", String::from_utf8_lossy(&input));
        }
    }
}

#[test]
fn the_reference_is_not_vacuous() {
    let needles = ["$A".to_owned(), "$A_B".to_owned()];
    assert_eq!(
        reference(&needles, b"$A_B %24A $A_"),
        [(1, 0, 4), (0, 5, 9)]
    );
    assert_eq!(reference(&needles, b"xCRBX0I="), [(1, 2, 7)]);
    assert_eq!(reference(&needles, b"JEFfQg=="), [(1, 0, 6)]);
}
