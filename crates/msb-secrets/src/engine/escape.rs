//! Matching a needle written with percent-encoding (once, twice, or partly) or JSON escapes, mixed at will.

use super::hay::{Hay, Peek, Step, hex_pair, hex_value, is_word};
use crate::Form;

/// The longest way to write one byte: `%25%32%34` for `$`.
pub(crate) const LONGEST_UNIT: usize = 9;

/// The most bytes behind a needle that decide whether its token ends: `\u0041`.
pub(crate) const LOOKAHEAD: usize = 6;

/// What stands at `at` and its length, read as a character of a needle that holds no `%`, `\\`, `+` or space: then an escape
/// can be read in one way only.
pub(crate) fn read_unit(hay: &Hay<'_>, at: usize) -> Step<(u8, usize, Form)> {
    match hay.peek(at) {
        Peek::More => Step::More,
        Peek::End => Step::Not,
        Peek::Byte(b'%') => read_percent(hay, at),
        Peek::Byte(b'\\') => read_json(hay, at),
        Peek::Byte(byte) => Step::Is((byte, 1, Form::Raw)),
    }
}

fn read_percent(hay: &Hay<'_>, at: usize) -> Step<(u8, usize, Form)> {
    let twice = literal_at(hay, at + 1, b"25");
    let digits = match twice {
        Step::More => return Step::More,
        Step::Is(()) => at + 3,
        Step::Not => at + 1,
    };
    read_digit(hay, digits).and_then(|(high, high_len)| {
        read_digit(hay, digits + high_len).and_then(|(low, low_len)| {
            let end = digits + high_len + low_len;
            let form = if end - at > 3 {
                Form::PercentTwice
            } else {
                Form::Percent
            };
            Step::Is((high << 4 | low, end - at, form))
        })
    })
}

/// A hexadecimal digit, itself percent-encoded or not, and its length.
fn read_digit(hay: &Hay<'_>, at: usize) -> Step<(u8, usize)> {
    match hay.peek(at) {
        Peek::Byte(b'%') => hex_pair_at(hay, at + 1).and_then(|byte| match hex_value(byte) {
            Some(nibble) => Step::Is((nibble, 3)),
            None => Step::Not,
        }),
        Peek::Byte(byte) => hex_value(byte).map_or(Step::Not, |nibble| Step::Is((nibble, 1))),
        Peek::End => Step::Not,
        Peek::More => Step::More,
    }
}

fn read_json(hay: &Hay<'_>, at: usize) -> Step<(u8, usize, Form)> {
    match hay.peek(at + 1) {
        Peek::More => Step::More,
        Peek::Byte(byte @ (b'"' | b'/')) => Step::Is((byte, 2, Form::Json)),
        Peek::Byte(b'n') => Step::Is((b'\n', 2, Form::Json)),
        Peek::Byte(b'r') => Step::Is((b'\r', 2, Form::Json)),
        Peek::Byte(b't') => Step::Is((b'\t', 2, Form::Json)),
        Peek::Byte(b'b') => Step::Is((0x08, 2, Form::Json)),
        Peek::Byte(b'f') => Step::Is((0x0c, 2, Form::Json)),
        Peek::Byte(b'u') => unicode_value(hay, at).and_then(|byte| {
            if byte.is_ascii() {
                Step::Is((byte, 6, Form::Json))
            } else {
                Step::Not
            }
        }),
        Peek::Byte(_) | Peek::End => Step::Not,
    }
}

/// Matches `needle` at `at` and answers its end and form.
///
/// Each byte may be literal, percent-encoded (the percent sign and the digits themselves too), or a JSON escape. Where
/// a `%` or `\` of the needle could be read in two ways, the all-literal reading is tried first, then the longest one of
/// each, then the shortest.
pub(crate) fn needle_at(
    hay: &Hay<'_>,
    at: usize,
    needle: &[u8],
    border: Border,
) -> Step<(usize, Form)> {
    if border == Border::Anywhere {
        // A backslash at the end of a value may be one of two that stand for it: neither must be left behind.
        return match escaped_forms_at(hay, at, needle, border) {
            Step::Not => literal_form_at(hay, at, needle, border),
            answer => answer,
        };
    }
    match literal_form_at(hay, at, needle, border) {
        Step::Not => escaped_forms_at(hay, at, needle, border),
        answer => answer,
    }
}

fn literal_form_at(hay: &Hay<'_>, at: usize, needle: &[u8], border: Border) -> Step<(usize, Form)> {
    let rest = &hay.data[at..];
    let common = rest.len().min(needle.len());
    if rest[..common] != needle[..common] {
        return Step::Not;
    }
    if common < needle.len() {
        return if hay.last { Step::Not } else { Step::More };
    }
    let end = at + common;
    token_ends(hay, end, needle, Form::Raw, border).and_then(|()| Step::Is((end, Form::Raw)))
}

fn escaped_forms_at(
    hay: &Hay<'_>,
    at: usize,
    needle: &[u8],
    border: Border,
) -> Step<(usize, Form)> {
    match escaped_at(hay, at, needle, Reading::Longest, border) {
        Step::Not if needle.contains(&b'%') => {
            escaped_at(hay, at, needle, Reading::Shortest, border)
        }
        answer => answer,
    }
}

/// Where a needle counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Border {
    /// As a whole token only.
    Token,
    /// Inside a word as well.
    Anywhere,
}

/// How to read the percent sign of a needle where `%2525` could be one written twice-encoded, or `%25` and more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Longest,
    Shortest,
}

fn escaped_at(
    hay: &Hay<'_>,
    at: usize,
    needle: &[u8],
    reading: Reading,
    border: Border,
) -> Step<(usize, Form)> {
    let (mut end, mut form) = (at, Form::Raw);
    for byte in needle {
        match unit_at(hay, end, *byte, reading) {
            Step::Is((len, unit)) => (end, form) = (end + len, form.max(unit)),
            Step::Not => return Step::Not,
            Step::More => return Step::More,
        }
    }
    token_ends(hay, end, needle, form, border).and_then(|()| Step::Is((end, form)))
}

/// Matches one written form of `byte` and answers its length.
fn unit_at(hay: &Hay<'_>, at: usize, byte: u8, reading: Reading) -> Step<(usize, Form)> {
    let escaped = match hay.peek(at) {
        Peek::More => return Step::More,
        Peek::Byte(b'%') if byte == b'%' && reading == Reading::Shortest => once_at(hay, at, byte),
        Peek::Byte(b'%') => percent_at(hay, at, byte),
        Peek::Byte(b'\\') => json_at(hay, at, byte),
        Peek::Byte(b'+') if byte == b' ' => return Step::Is((1, Form::Percent)),
        Peek::Byte(_) | Peek::End => Step::Not,
    };
    match escaped {
        Step::Not if hay.peek(at) == Peek::Byte(byte) => Step::Is((1, Form::Raw)),
        answer => answer,
    }
}

/// `%HH`, with `%25` for the percent sign and `%3h`, `%4h`, `%6h` for a digit.
fn percent_at(hay: &Hay<'_>, at: usize, byte: u8) -> Step<(usize, Form)> {
    let twice = literal_at(hay, at + 1, b"25").and_then(|()| digits_at(hay, at + 3, byte));
    match twice {
        Step::Is(len) => Step::Is((3 + len, Form::PercentTwice)),
        Step::More => Step::More,
        Step::Not => once_at(hay, at, byte),
    }
}

/// `%HH`, whose digits may be encoded themselves.
fn once_at(hay: &Hay<'_>, at: usize, byte: u8) -> Step<(usize, Form)> {
    let form = |len| {
        if len > 2 {
            Form::PercentTwice
        } else {
            Form::Percent
        }
    };
    digits_at(hay, at + 1, byte).and_then(|len| Step::Is((1 + len, form(len))))
}

fn digits_at(hay: &Hay<'_>, at: usize, byte: u8) -> Step<usize> {
    let high = digit_at(hay, at, byte >> 4);
    high.and_then(|high| digit_at(hay, at + high, byte & 15).and_then(|low| Step::Is(high + low)))
}

/// One hexadecimal digit, itself percent-encoded or not.
fn digit_at(hay: &Hay<'_>, at: usize, nibble: u8) -> Step<usize> {
    match hay.peek(at) {
        Peek::More => Step::More,
        Peek::Byte(byte) if hex_value(byte) == Some(nibble) => Step::Is(1),
        Peek::Byte(b'%') => {
            let is_high = |byte| {
                if nibble < 10 {
                    byte == b'3'
                } else {
                    byte == b'4' || byte == b'6'
                }
            };
            let low = if nibble < 10 { nibble } else { nibble - 9 };
            one_at(hay, at + 1, is_high)
                .and_then(|()| one_at(hay, at + 2, |byte| hex_value(byte) == Some(low)))
                .and_then(|()| Step::Is(3))
        }
        Peek::Byte(_) | Peek::End => Step::Not,
    }
}

/// What follows the backslash where JSON has a short escape for a byte (RFC 8259, section 7).
pub(crate) fn short_escape(byte: u8) -> Option<u8> {
    match byte {
        b'"' | b'\\' | b'/' => Some(byte),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        b'\t' => Some(b't'),
        0x08 => Some(b'b'),
        0x0c => Some(b'f'),
        _ => None,
    }
}

/// `\u00HH`, or a short escape.
fn json_at(hay: &Hay<'_>, at: usize, byte: u8) -> Step<(usize, Form)> {
    if !byte.is_ascii() {
        return Step::Not;
    }
    if let Some(letter) = short_escape(byte) {
        match one_at(hay, at + 1, |next| next == letter) {
            Step::Is(()) => return Step::Is((2, Form::Json)),
            Step::More => return Step::More,
            Step::Not => {}
        }
    }
    literal_at(hay, at + 1, b"u00")
        .and_then(|()| one_at(hay, at + 4, |digit| hex_value(digit) == Some(byte >> 4)))
        .and_then(|()| one_at(hay, at + 5, |digit| hex_value(digit) == Some(byte & 15)))
        .and_then(|()| Step::Is((6, Form::Json)))
}

fn one_at(hay: &Hay<'_>, at: usize, fits: impl Fn(u8) -> bool) -> Step<()> {
    match hay.peek(at) {
        Peek::More => Step::More,
        Peek::Byte(byte) if fits(byte) => Step::Is(()),
        Peek::Byte(_) | Peek::End => Step::Not,
    }
}

fn literal_at(hay: &Hay<'_>, at: usize, literal: &[u8]) -> Step<()> {
    for (i, expected) in literal.iter().enumerate() {
        match one_at(hay, at + i, |byte| byte == *expected) {
            Step::Is(()) => {}
            answer => return answer,
        }
    }
    Step::Is(())
}

/// Whether no token character follows. After an escaped needle an escaped token character counts as well.
pub(crate) fn token_ends(
    hay: &Hay<'_>,
    end: usize,
    needle: &[u8],
    form: Form,
    border: Border,
) -> Step<()> {
    if border == Border::Anywhere || !needle.last().copied().is_some_and(is_word) {
        return Step::Is(());
    }
    let next = match hay.peek(end) {
        Peek::Byte(b'%') if form != Form::Raw => percent_value(hay, end),
        Peek::Byte(b'\\') if form != Form::Raw => unicode_value(hay, end),
        Peek::Byte(byte) => Step::Is(byte),
        Peek::End => Step::Not,
        Peek::More => Step::More,
    };
    match next {
        Step::Is(byte) if is_word(byte) => Step::Not,
        Step::Is(_) | Step::Not => Step::Is(()),
        Step::More => Step::More,
    }
}

/// The byte that `%HH` or `%25HH` stands for.
fn percent_value(hay: &Hay<'_>, at: usize) -> Step<u8> {
    hex_pair_at(hay, at + 1).and_then(|byte| match byte {
        b'%' => match hex_pair_at(hay, at + 3) {
            Step::Not => Step::Is(b'%'),
            answer => answer,
        },
        byte => Step::Is(byte),
    })
}

/// The byte that `\u00HH` stands for.
fn unicode_value(hay: &Hay<'_>, at: usize) -> Step<u8> {
    literal_at(hay, at + 1, b"u00").and_then(|()| hex_pair_at(hay, at + 4))
}

fn hex_pair_at(hay: &Hay<'_>, at: usize) -> Step<u8> {
    let digit = |at| match hay.peek(at) {
        Peek::More => Step::More,
        Peek::Byte(byte) => hex_value(byte).map_or(Step::Not, Step::Is),
        Peek::End => Step::Not,
    };
    digit(at).and_then(|high| digit(at + 1).and_then(|low| Step::Is(high << 4 | low)))
}

/// Whether no token character stands before `at`. An escape before it counts as the character it stands for.
pub(crate) fn token_starts(hay: &Hay<'_>, at: usize, first: u8, border: Border) -> bool {
    if border == Border::Anywhere || !is_word(first) {
        return true;
    }
    let Some(previous) = hay.before(at, 1) else {
        return true;
    };
    if !is_word(previous) {
        return true;
    }
    let back = |n| hay.before(at, n).unwrap_or(0);
    let escaped = match (back(6), back(5), back(4), back(3), back(2)) {
        (_, _, _, _, b'\\') if matches!(previous, b'b' | b'f' | b'n' | b'r' | b't') => return true,
        (_, _, _, b'%', high) => hex_pair(high, previous),
        (_, b'%', b'2', b'5', high) => hex_pair(high, previous),
        (b'\\', b'u', b'0', b'0', high) => hex_pair(high, previous),
        _ => None,
    };
    escaped.is_some_and(|byte| !is_word(byte))
}

impl<T> Step<T> {
    pub(crate) fn and_then<U>(self, next: impl FnOnce(T) -> Step<U>) -> Step<U> {
        match self {
            Self::Is(value) => next(value),
            Self::Not => Step::Not,
            Self::More => Step::More,
        }
    }
}
