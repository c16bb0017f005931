//! Paths in one spelling, and the refusal of those that two parsers could read as two.

use std::fmt;

const ENCODED_STAR: &str = "%2A";

/// A path in canonical form: what may stand in a path as it is does (`%40` is `@`), for that is how servers read it, and
/// the rest is encoded in upper case. `*` alone is encoded always, so that none is taken for a glob's. It begins with `/`,
/// has no empty segment but perhaps the last, and no dot segment.
///
/// Only a path that leaves no doubt has one; see [`AmbiguousPath`]. The query is no part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CanonicalPath(String);

/// Why a path has no canonical form: two parsers on its way could take it for two different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum AmbiguousPath {
    /// It does not begin with a slash: `*`, an absolute URI, or nothing.
    #[error("it does not begin with `/`")]
    NoSlash,
    /// `//`, which some servers take for one slash.
    #[error("it has an empty segment (`//`)")]
    EmptySegment,
    /// `.` or `..`, which somebody may resolve before or after us.
    #[error("it has a dot segment (`.` or `..`)")]
    DotSegment,
    /// `%2e`, which may be a dot segment to some.
    #[error("it has an encoded dot (`%2e`)")]
    EncodedDot,
    /// `%2f` or `%5c`, a separator to some.
    #[error("it has an encoded slash or backslash (`%2f`, `%5c`)")]
    EncodedSlash,
    /// `\`, a separator to some.
    #[error("it has a backslash")]
    Backslash,
    /// `;`, raw or encoded, behind which some servers ignore the segment.
    #[error("it has a parameter (`;`)")]
    Parameter,
    /// `%25` before two hexadecimal digits: whoever decodes twice reads another path.
    #[error("it is encoded twice (`%25` before two hexadecimal digits)")]
    EncodedTwice,
    /// `%` without two hexadecimal digits.
    #[error("it has a `%` without two hexadecimal digits")]
    BadEncoding,
    /// A control character, raw or encoded, at which some parsers end.
    #[error("it has a control character")]
    Control,
    /// Bytes that are not UTF-8, such as overlong forms of `/` and `.`.
    #[error("it has bytes that are not UTF-8")]
    NotUtf8,
    /// A character that has to be encoded in a path, `#` among them.
    #[error("it has a character that a path has encoded only")]
    BadCharacter,
}

impl CanonicalPath {
    /// Brings the path of a request to its canonical form. A query behind `?` is left out.
    ///
    /// # Errors
    /// What makes it ambiguous.
    pub fn parse(path_and_query: &str) -> Result<Self, AmbiguousPath> {
        Self::spell(path_and_query, ENCODED_STAR)
    }

    /// The path of a glob: its stars stay what they are, and an encoded one is a character.
    pub(super) fn parse_glob(glob: &str) -> Result<Self, AmbiguousPath> {
        Self::spell(glob, "*")
    }

    fn spell(path_and_query: &str, star: &str) -> Result<Self, AmbiguousPath> {
        let path = match path_and_query.split_once('?') {
            Some((path, _)) => path,
            None => path_and_query,
        };
        let Some(rest) = path.strip_prefix('/') else {
            return Err(AmbiguousPath::NoSlash);
        };
        let canonical = decode(path, star)?;
        if encoded_twice(&canonical) {
            return Err(AmbiguousPath::EncodedTwice);
        }
        let segments = rest.split('/').rev();
        // The last may be empty: that is a path with a slash at its end.
        let mut before = segments.skip(1);
        if before.any(str::is_empty) {
            return Err(AmbiguousPath::EmptySegment);
        }
        let mut all = canonical[1..].split('/');
        if all.any(|segment| segment == "." || segment == "..") {
            return Err(AmbiguousPath::DotSegment);
        }
        Ok(Self(canonical))
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, at least one; only the last may be empty.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0[1..].split('/')
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The path with its escapes made canonical, and checked byte by byte; `star` stands for one that is not encoded.
fn decode(path: &str, star: &str) -> Result<String, AmbiguousPath> {
    let mut canonical = String::with_capacity(path.len());
    // Without escapes, to see whether it is UTF-8.
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            check_raw(byte)?;
            match byte {
                b'*' => canonical.push_str(star),
                _ => canonical.push(char::from(byte)),
            }
            plain.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(AmbiguousPath::BadEncoding);
        };
        let decoded = u8::try_from(high * 16 + low).unwrap_or_default();
        check_encoded(decoded)?;
        plain.push(decoded);
        if decoded != b'*' && check_raw(decoded).is_ok() {
            canonical.push(char::from(decoded));
        } else {
            canonical.push_str(&format!("%{decoded:02X}"));
        }
    }
    match std::str::from_utf8(&plain) {
        Ok(text) if text.chars().any(char::is_control) => Err(AmbiguousPath::Control),
        Ok(_) => Ok(canonical),
        Err(_) => Err(AmbiguousPath::NotUtf8),
    }
}

fn check_raw(byte: u8) -> Result<(), AmbiguousPath> {
    match byte {
        b'\\' => Err(AmbiguousPath::Backslash),
        b';' => Err(AmbiguousPath::Parameter),
        0..=0x1f | 0x7f => Err(AmbiguousPath::Control),
        b'/' | b'!' | b'$' | b'&'..=b',' | b':' | b'=' | b'@' => Ok(()),
        _ if is_unreserved(byte) => Ok(()),
        _ => Err(AmbiguousPath::BadCharacter),
    }
}

fn check_encoded(byte: u8) -> Result<(), AmbiguousPath> {
    match byte {
        b'.' => Err(AmbiguousPath::EncodedDot),
        b'/' | b'\\' => Err(AmbiguousPath::EncodedSlash),
        b';' => Err(AmbiguousPath::Parameter),
        0..=0x1f | 0x7f => Err(AmbiguousPath::Control),
        _ => Ok(()),
    }
}

/// RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn encoded_twice(canonical: &str) -> bool {
    let mut places = canonical.match_indices("%25");
    places.any(|(at, _)| {
        let digits = canonical.as_bytes().get(at + 3..at + 5);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}
