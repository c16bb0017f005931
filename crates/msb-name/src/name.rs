//! One host name in canonical form. Not an address, not a pattern, no port.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use crate::Error;

/// The longest name, in bytes of its ASCII form without the trailing dot (RFC 1035, section 2.3.4: 255 octets on the
/// wire, of which the first length octet and the root take two).
pub const MAX_NAME_LEN: usize = 253;

/// The longest label in bytes (RFC 1035, section 2.3.4).
const MAX_LABEL_LEN: usize = 63;

/// A host name: lower case, A-labels (IDNA, UTS 46 non-transitional), no trailing dot, 1 to [`MAX_NAME_LEN`] bytes.
///
/// Labels hold `a-z`, `0-9`, `-` and `_` (which real names carry although RFC 952 does not allow it). A name whose
/// last label is a number is refused: parsers disagree on whether `1.2.3` or `0x7f.1` is an address.
/// Cloning copies a pointer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

impl HostName {
    /// Parses a name in any spelling: upper case, one trailing dot and U-labels are brought to the canonical form.
    ///
    /// # Errors
    /// [`Error::Name`] for everything that is not a host name, IP addresses, `host:port` and patterns included.
    pub fn parse(text: &str) -> Result<Self, Error> {
        // An upper bound before any work: a U-label never gets shorter than a fifth of its bytes.
        if text.len() > 8 * MAX_NAME_LEN {
            return Err(Error::name(text, "expected at most 253 bytes"));
        }
        let ascii = if is_plain(text) {
            text.to_ascii_lowercase()
        } else {
            Uts46::new()
                .to_ascii(
                    text.as_bytes(),
                    AsciiDenyList::URL,
                    Hyphens::Allow,
                    DnsLength::Ignore,
                )
                .map_err(|_| {
                    Error::name(
                        text,
                        "expected letters, digits, `-`, `_` and `.`, or a valid IDNA name",
                    )
                })?
                .into_owned()
        };
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        check(name).map_err(|expected| Error::name(text, expected))?;
        Ok(Self(name.into()))
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels, leftmost first; at least one.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether the name is `domain` or lies below it, on a label border.
    #[must_use]
    pub fn is_within(&self, domain: &Self) -> bool {
        match self.0.strip_suffix(domain.as_str()) {
            Some(rest) => rest.is_empty() || rest.ends_with('.'),
            None => false,
        }
    }
}

/// Whether lower-casing is all there is to do: ASCII without `xn--`, whose labels IDNA has to check.
fn is_plain(text: &str) -> bool {
    text.is_ascii()
        && !text
            .as_bytes()
            .windows(4)
            .any(|window| window.eq_ignore_ascii_case(b"xn--"))
}

fn check(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("expected at least one label");
    }
    if name.len() > MAX_NAME_LEN {
        return Err("expected at most 253 bytes");
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err("expected no empty label");
        }
        if label.len() > MAX_LABEL_LEN {
            return Err("expected labels of at most 63 bytes");
        }
        if !label
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        {
            return Err("expected letters, digits, `-`, `_` and `.`");
        }
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if is_number(last) {
        return Err("expected a last label that is not a number (an IP address is not a name)");
    }
    Ok(())
}

/// The "ends in a number" rule of the WHATWG URL standard, section 3.5.
fn is_number(label: &str) -> bool {
    let hex = label
        .strip_prefix("0x")
        .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    hex || label.bytes().all(|b| b.is_ascii_digit())
}

impl FromStr for HostName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl AsRef<str> for HostName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// `str` hashes and orders as the name does, so that a set of names can be asked with a slice of another name.
impl Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(
            HostName::parse(text).ok().as_ref().map(HostName::as_str),
            expected,
            "{text:?}"
        );
    }

    #[test]
    fn spellings_of_one_name_are_one_value() {
        check("example.com", Some("example.com"));
        check("EXAMPLE.com.", Some("example.com"));
        check("localhost", Some("localhost"));
        check("bücher.example", Some("xn--bcher-kva.example"));
        check("BÜCHER.example", Some("xn--bcher-kva.example"));
        check("XN--BCHER-KVA.example", Some("xn--bcher-kva.example"));
        check("faß.de", Some("xn--fa-hia.de"));
        check("example。com", Some("example.com"));
        check("ⓔxample.com", Some("example.com"));
        check(
            "_acme-challenge.example.com",
            Some("_acme-challenge.example.com"),
        );
        check(
            "r3---sn-4g5e6nez.googlevideo.com",
            Some("r3---sn-4g5e6nez.googlevideo.com"),
        );
        check("1.2.3.4.example", Some("1.2.3.4.example"));
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a.b..",
            " a",
            "a ",
            "a b",
            "a\0b",
            "a\tb",
            "a\r\n",
            "user@a",
            "a:443",
            "a/b",
            "a%2eb",
            "*.a",
            "*",
            "[::1]",
            "::1",
            "127.0.0.1",
            "1",
            "1.2.3",
            "0x7f.1",
            "0x7f",
            "a.0x",
            "127.0.0.1.",
            "a\\b",
            "a#b",
            "a?b",
            "a,b",
            "xn--",
            "xn--\u{7f}",
            "xn--a-.com",
            "\u{200d}.com",
            "\u{ad}",
            "１２７.0.0.1",
            "\u{202e}a.com",
            "a'b",
            "$a",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let label = "a".repeat(63);
        check(&label, Some(&label));
        check(&"a".repeat(64), None);
        let longest = [label.as_str(), &label, &label, &"a".repeat(61)].join(".");
        assert_eq!(longest.len(), MAX_NAME_LEN);
        check(&longest, Some(&longest));
        check(&format!("{longest}."), Some(&longest));
        check(&format!("{longest}a"), None);
        check(&"ü".repeat(1_000_000), None);
    }

    #[test]
    fn within_respects_label_borders() {
        let name = |text: &str| text.parse::<HostName>().unwrap();
        assert!(name("a.example.com").is_within(&name("example.com")));
        assert!(name("example.com").is_within(&name("example.com")));
        assert!(!name("evilexample.com").is_within(&name("example.com")));
        assert!(!name("com").is_within(&name("example.com")));
    }

    #[test]
    fn errors_carry_the_text_in_one_safe_line() {
        let error = HostName::parse("a\u{1b}[31m\n").unwrap_err().to_string();
        assert_eq!(
            error,
            r#""a\u{1b}[31m\n" is not a host name: expected letters, digits, `-`, `_` and `.`"#
        );
        assert!(
            HostName::parse(&"x".repeat(9000))
                .unwrap_err()
                .to_string()
                .len()
                < 400
        );
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent(text in "[a-zA-Zäß0-9._。-]{0,20}|\\PC{0,12}") {
            if let Ok(name) = HostName::parse(&text) {
                prop_assert_eq!(HostName::parse(name.as_str()).unwrap(), name.clone());
                prop_assert!(name.as_str().len() <= MAX_NAME_LEN);
                prop_assert_eq!(name.labels().collect::<Vec<_>>().join("."), name.as_str());
            }
        }
    }
}
