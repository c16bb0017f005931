//! What is to happen, said slowly: decode, look at every place, replace.

use crate::TOKENS;

/// A decoded byte, and whether it was written as an escape.
pub type Read = (u8, bool);

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The longest placeholder at `at`, as a whole token, and its value.
fn token(text: &[Read], at: usize) -> Option<(usize, &'static str)> {
    let fits = |placeholder: &&(&str, &str)| {
        let own = text.get(at..at + placeholder.0.len())?;
        let same = own.iter().map(|(byte, _)| *byte).eq(placeholder.0.bytes());
        let escaped = own.iter().any(|(_, escaped)| *escaped);
        // Behind one that is written as it is, an escape is not taken for the character it stands for.
        let next = text.get(at + own.len());
        let whole = next.is_none_or(|next| !is_word(next.0) || next.1 && !escaped);
        Some(same && whole)
    };
    let mut tokens = TOKENS;
    tokens.sort_by_key(|(placeholder, _)| std::cmp::Reverse(placeholder.len()));
    let found = tokens
        .iter()
        .find(|placeholder| fits(placeholder).unwrap_or(false))?;
    Some((found.0.len(), found.1))
}

/// The text with the value for each placeholder.
pub fn replaced(text: &[Read]) -> Vec<u8> {
    let (mut output, mut at) = (Vec::new(), 0);
    while at < text.len() {
        if let Some((len, value)) = token(text, at) {
            output.extend_from_slice(value.as_bytes());
            at += len;
        } else {
            output.push(text[at].0);
            at += 1;
        }
    }
    output
}

/// Whether it holds a placeholder, with nothing behind it that might be more of a token once it is decoded.
pub fn holds_token(text: &[u8]) -> bool {
    let text = raw(text);
    let ends = |next: Option<&Read>| next.is_none_or(|next| !b"%\\".contains(&next.0));
    (0..text.len()).any(|at| token(&text, at).is_some_and(|(len, _)| ends(text.get(at + len))))
}

/// Each byte as it is.
pub fn raw(text: &[u8]) -> Vec<Read> {
    text.iter().map(|byte| (*byte, false)).collect()
}

/// Just the bytes.
pub fn bytes(text: &[Read]) -> Vec<u8> {
    text.iter().map(|(byte, _)| *byte).collect()
}

/// RFC 3986, section 2.1; what is no escape is as it is.
pub fn percent(text: &[u8]) -> Vec<Read> {
    let digit = |at: usize| {
        let digit = char::from(*text.get(at)?).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    let (mut output, mut at) = (Vec::new(), 0);
    while at < text.len() {
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                output.push((high << 4 | low, true));
                at += 3;
            }
            (byte, ..) => {
                output.push((byte, false));
                at += 1;
            }
        }
    }
    output
}

/// The names and values of a form (`application/x-www-form-urlencoded`), one after the other.
pub fn form(text: &[u8]) -> Vec<Vec<Read>> {
    let parts = text.split(|byte| *byte == b'&').flat_map(|field| {
        let mut parts = field.splitn(2, |byte| *byte == b'=');
        [parts.next(), parts.next()].map(Option::unwrap_or_default)
    });
    let read = |part: &[u8]| {
        let plus = |read: Read| {
            if read == (b'+', false) {
                (b' ', true)
            } else {
                read
            }
        };
        percent(part).into_iter().map(plus).collect()
    };
    parts.map(read).collect()
}

/// The inside of a JSON string that is known to be one.
pub fn json(text: &str) -> Vec<Read> {
    let (mut output, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let len = match (first, rest.as_bytes().get(1)) {
            ('\\', Some(b'u')) if is_high_surrogate(&rest[2..6]) => 12,
            ('\\', Some(b'u')) => 6,
            ('\\', _) => 2,
            _ => first.len_utf8(),
        };
        let (unit, behind) = rest.split_at(len);
        let read: String = serde_json::from_str(&format!("\"{unit}\"")).expect("a JSON string");
        output.extend(read.bytes().map(|byte| (byte, first == '\\')));
        rest = behind;
    }
    output
}

fn is_high_surrogate(digits: &str) -> bool {
    u16::from_str_radix(digits, 16).is_ok_and(|unit| (0xd800..0xdc00).contains(&unit))
}
