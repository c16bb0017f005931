//! Every byte in every spelling, and the search against one that looks at every place.

use super::super::escape::Border;
use super::super::hay::{BEHIND, Step};
use super::reference::spellings;
use super::{Engine, Hay, Search, find_all};
use crate::Form;

fn form_of(spelling: &[u8]) -> Form {
    match spelling {
        [_] => Form::Raw,
        [b'\\', ..] => Form::Json,
        [b'%', _, _] => Form::Percent,
        _ => Form::PercentTwice,
    }
}

/// The text between `{` and `}`, alone and with a space, which makes a needle of which not every escape reads in one way.
fn framed(byte: &[u8]) -> [Vec<u8>; 2] {
    [[b"{", byte, b"}"].concat(), [b"{", byte, b" }"].concat()]
}

#[test]
fn every_byte_is_found_in_all_its_spellings_and_in_no_other() {
    for byte in 0..=255u8 {
        let needles = framed(&[byte]);
        for (needle, which) in needles.iter().zip(0..) {
            let engines = [
                Engine::new([&needle[..]]),
                Engine::for_values([&needle[..]]),
            ];
            let found = |input: &[u8]| {
                engines.each_ref().map(|engine| {
                    let found = find_all(engine, input);
                    let ends = found
                        .iter()
                        .map(|found| (found.start, found.end, found.form));
                    ends.collect::<Vec<_>>()
                })
            };
            for spelling in spellings(byte) {
                let is_unicode = spelling.starts_with(b"\\u");
                if is_unicode && !byte.is_ascii() {
                    continue;
                }
                let input = [b". ", &framed(&spelling)[which][..], b" ."].concat();
                let form = if (byte, &spelling[..]) == (b' ', b"+") {
                    Form::Percent
                } else {
                    form_of(&spelling)
                };
                let expected = vec![(2, input.len() - 2, form)];
                let text = String::from_utf8_lossy(&input);
                assert_eq!(
                    found(&input),
                    [expected.clone(), expected],
                    "{byte}: {text}"
                );
            }
            for bit in 0..8 {
                for spelling in spellings(byte ^ (1 << bit)) {
                    let input = &framed(&spelling)[which];
                    let text = String::from_utf8_lossy(input);
                    assert_eq!(found(input), [vec![], vec![]], "{byte}: {text}");
                }
            }
        }
    }
}

/// The first place where something begins or may begin, by looking at each.
fn by_hand(engine: &Engine, hay: &Hay<'_>, from: usize) -> Search {
    for at in from..hay.data.len() {
        match engine.find_at(hay, at) {
            Step::Is(found) => return Search::Found(found),
            Step::More => return Search::More(at),
            Step::Not => {}
        }
    }
    Search::End
}

/// Ways to write a byte that differ in how they begin, and in how long they are.
fn typical(byte: u8) -> Vec<Vec<u8>> {
    let mut all = vec![
        format!("%{byte:02X}").into_bytes(),
        format!("%{byte:02x}").into_bytes(),
        format!("%25{byte:02x}").into_bytes(),
        format!("%%3{:x}{:x}", byte >> 4, byte & 15).into_bytes(),
        format!("\\u00{byte:02x}").into_bytes(),
    ];
    all.retain(|_| byte >> 4 < 10);
    all.extend(spellings(byte).into_iter().filter(|text| text.len() <= 2));
    all
}

/// The needle, with each of its bytes escaped in turn.
fn written(needle: &[u8]) -> Vec<Vec<u8>> {
    let bytes = needle.iter().enumerate();
    let written = bytes.flat_map(|(i, byte)| {
        let escaped = typical(*byte).into_iter();
        escaped.map(move |text| [&needle[..i], &text, &needle[i + 1..]].concat())
    });
    written.collect()
}

/// At the end of the input and cut off anywhere, whatever stands before.
#[track_caller]
fn check(engine: &Engine, input: &[u8]) {
    for end in 0..=input.len() {
        for last in [false, true] {
            let hay = Hay {
                behind: &[],
                data: &input[..end],
                last,
            };
            for from in [0, 3] {
                let found = engine.find(&hay, from.min(end), &mut super::super::Cursor::default());
                let expected = by_hand(engine, &hay, from.min(end));
                let text = String::from_utf8_lossy(hay.data);
                assert_eq!(found, expected, "{text:?} from {from}, ends: {last}");
            }
        }
    }
}

/// 50 needles of six bytes and more that begin differently, too many for the packed searcher.
fn strangers() -> Vec<Vec<u8>> {
    let stranger = |i: u8| [b'!' + i % 10, b'G' + i / 10, b'~', b'~', b'~', b'~'].to_vec();
    (0..50).map(stranger).collect()
}

#[test]
fn no_needle_is_passed_over() {
    let needles: [&[u8]; 9] = [
        b"$",
        b"$K",
        b"$Ke",
        b"$Key",
        b"$Keys",
        b"$Key-0123",
        b"a b+c/d",
        b"50%ab\\",
        b">>>???>>>???",
    ];
    for needle in needles {
        let many = || {
            strangers()
                .into_iter()
                .chain([needle.to_vec()])
                .collect::<Vec<_>>()
        };
        let many: Vec<Vec<u8>> = many();
        let engines = [
            Engine::new([needle]),
            Engine::new(many.iter().map(Vec::as_slice)),
            Engine::for_values([needle]),
        ];
        for text in written(needle) {
            for noise in [&b""[..], b"%20% 100%2", b"\\n\\u004\\u\\"] {
                let input = [noise, &text, b".%24 \\"].concat();
                for engine in &engines {
                    check(engine, &input);
                }
            }
        }
    }
}

#[test]
fn base64_of_either_alphabet_is_not_passed_over() {
    use base64::Engine as _;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};

    let needles: [&[u8]; 3] = [
        b"$Key",
        b">>>???>>>???",
        b"\xfb\xff\xbf\xfb\xff\xbf\xfb\xff\xbf",
    ];
    for needle in needles {
        let many: Vec<Vec<u8>> = strangers().into_iter().chain([needle.to_vec()]).collect();
        let engines = [
            Engine::new([needle]),
            Engine::new(many.iter().map(Vec::as_slice)),
            Engine::for_values([needle]),
        ];
        for (engine, index) in engines.iter().zip([0, 50, 0]) {
            for before in ["", "u", "us", "use"] {
                let text = [before.as_bytes(), needle, b":"].concat();
                for encoded in [BASE64_STANDARD.encode(&text), BASE64_URL_SAFE.encode(&text)] {
                    let input = [encoded.as_bytes(), b" ", encoded.as_bytes()].concat();
                    let found = find_all(engine, &input);
                    let forms: Vec<_> = found.iter().map(|it| (it.needle, it.form)).collect();
                    assert_eq!(forms, [(index, Form::Base64); 2], "{encoded}");
                    check(engine, &input);
                }
            }
        }
    }
}

/// The character before holds the first bits of the needle, and the one behind it the last.
#[test]
fn in_base64_the_shared_characters_count() {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;

    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let needle = b"$Key$";
    for before in ["", "u", "us"] {
        let text = [before.as_bytes(), needle, b"::::"].concat();
        let encoded = BASE64_STANDARD.encode(&text).into_bytes();
        let engine = Engine::new([&needle[..]]);
        let found = find_all(&engine, &encoded);
        let [found] = found[..] else {
            panic!("{found:?}")
        };
        let own = 8 * before.len()..8 * (before.len() + needle.len());
        for at in found.start.saturating_sub(1)..found.end {
            for character in ALPHABET {
                let mut other = encoded.clone();
                other[at] = *character;
                let decoded = BASE64_STANDARD.decode(&other).unwrap();
                let same = decoded[own.start / 8..own.end / 8] == *needle;
                assert_eq!(!find_all(&engine, &other).is_empty(), same, "{before} {at}");
            }
        }
    }
}

#[test]
fn a_backslash_at_the_end_takes_its_twin_along_only_in_values() {
    let needle = b"a\\ b\\".as_slice();
    let input = br"a\ b\\.";
    let ends = |engine: Engine| {
        find_all(&engine, input)
            .iter()
            .map(|it| it.end)
            .collect::<Vec<_>>()
    };
    assert_eq!(ends(Engine::new([needle])), [5]);
    assert_eq!(ends(Engine::for_values([needle])), [6]);
}

#[test]
fn what_stands_before_the_data_is_read_backwards() {
    let hay = Hay {
        behind: b"abcdef",
        data: b"xyz",
        last: false,
    };
    assert_eq!(hay.behind.len(), BEHIND);
    for (at, back, expected) in [
        (1, 1, Some(b'x')),
        (3, 1, Some(b'z')),
        (3, 3, Some(b'x')),
        (0, 1, Some(b'f')),
        (0, 6, Some(b'a')),
        (1, 2, Some(b'f')),
        (1, 3, Some(b'e')),
        (2, 5, Some(b'd')),
        (1, 8, None),
        (0, 7, None),
    ] {
        assert_eq!(hay.before(at, back), expected, "{back} before {at}");
    }
}

/// Without a border nothing beside a needle matters.
#[test]
fn a_border_is_asked_for_where_there_is_one() {
    for (border, expected) in [(Border::Token, 0), (Border::Anywhere, 1)] {
        let engine = match border {
            Border::Token => Engine::new([&b"KEY"[..]]),
            Border::Anywhere => Engine::for_values([&b"KEY"[..]]),
        };
        for input in ["aKEY", "KEYa", "%41KEY", r"\aKEY", r"\uKEY"] {
            let found = find_all(&engine, input.as_bytes());
            assert_eq!(found.len(), expected, "{input} {border:?}");
        }
    }
}

/// The searcher with vector instructions is not wiped when it is dropped, so it may know no values.
#[test]
fn values_are_looked_for_with_what_is_wiped() {
    let shown = |engine: Engine| format!("{engine:?}");
    assert!(shown(Engine::new([&b"$Key"[..]])).contains("prefilter: Packed"));
    assert!(shown(Engine::for_values([&b"$Key"[..]])).contains("prefilter: Sampled"));
    let many = strangers();
    assert!(shown(Engine::new(many.iter().map(Vec::as_slice))).contains("prefilter: Sampled"));
}
