//! Names of content-addressed files: SHA-256 in lowercase hexadecimal.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The SHA-256 of a file's bytes; also its name in the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// A text that is not 64 lowercase hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a SHA-256 in lowercase hexadecimal")]
pub struct InvalidDigest(String);

/// A file of the store: which, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// SHA-256 of the bytes.
    pub sha256: Digest,
    /// Length in bytes.
    pub bytes: u64,
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// A digest of bytes that come one after another.
#[derive(Clone)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn new() -> Self {
        Self(Sha256::new())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// Copies `from` into `to` and returns what was copied.
///
/// # Errors
///
/// Whatever reading or writing returns; `to` then holds a part.
pub(crate) fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<Content> {
    let mut hasher = Hasher::new();
    let mut bytes = 0_u64;
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let filled = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(filled) => filled,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..filled]);
        to.write_all(&buffer[..filled])?;
        bytes += filled as u64;
    }
    Ok(Content {
        sha256: hasher.finish(),
        bytes,
    })
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let nibble = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let parse = || {
            let mut digest = [0; 32];
            let (pairs, rest) = text.as_bytes().as_chunks::<2>();
            if pairs.len() != digest.len() || !rest.is_empty() {
                return None;
            }
            for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
                *byte = nibble(*high)? << 4 | nibble(*low)?;
            }
            Some(Self(digest))
        };
        parse().ok_or_else(|| InvalidDigest(text.to_owned()))
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_agrees_with_the_published_vector_and_reads_back() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::of(b"")));
    }

    #[test]
    fn anything_but_64_lowercase_digits_is_refused() {
        for text in [
            "",
            "e3",
            &EMPTY.to_uppercase(),
            &EMPTY[1..],
            &format!("{EMPTY}0"),
            "../x",
        ] {
            assert_eq!(
                text.parse::<Digest>(),
                Err(InvalidDigest(text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn copy_counts_and_hashes_what_it_copies() {
        let bytes = vec![7_u8; 300_000];
        let mut out = Vec::new();
        let content = copy(&mut bytes.as_slice(), &mut out).unwrap();
        assert_eq!(out, bytes);
        assert_eq!(content.bytes, 300_000);
        assert_eq!(content.sha256, Digest::of(&bytes));
    }
}
