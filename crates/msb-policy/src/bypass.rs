//! Hosts whose TLS is passed through untouched.

use msb_name::{HostName, HostPattern, HostPatternSet};

use crate::Error;

/// The hosts that are not intercepted: `a.b` or `*.a.b` (any depth, not the apex).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BypassList(HostPatternSet);

impl BypassList {
    /// Parses patterns.
    ///
    /// # Errors
    /// [`Error::Bypass`] with the first malformed pattern.
    pub fn parse<T: AsRef<str>>(patterns: impl IntoIterator<Item = T>) -> Result<Self, Error> {
        let patterns = patterns
            .into_iter()
            .map(|pattern| HostPattern::parse(pattern.as_ref()));
        patterns
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(Error::Bypass)
    }

    /// Whether TLS to `host` is passed through.
    #[must_use]
    pub fn covers(&self, host: &HostName) -> bool {
        self.0.matches(host)
    }

    /// Whether nothing is bypassed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The patterns, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = HostPattern> + '_ {
        self.0.iter()
    }
}

impl FromIterator<HostPattern> for BypassList {
    fn from_iter<I: IntoIterator<Item = HostPattern>>(patterns: I) -> Self {
        Self(patterns.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_pattern_is_an_error_that_names_it() {
        let error = BypassList::parse(["a.test", "*"]).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(
            source.starts_with("\"*\" is not a host pattern"),
            "{source}"
        );
    }

    #[test]
    fn names_are_covered_whatever_their_spelling() {
        let list = BypassList::parse(["Pinned.Example.test.", "*.bank.test"]).unwrap();
        for (name, expected) in [
            ("pinned.example.TEST", true),
            ("a.b.bank.test.", true),
            ("bank.test", false),
            ("evilbank.test", false),
        ] {
            assert_eq!(list.covers(&name.parse().unwrap()), expected, "{name}");
        }
    }
}
