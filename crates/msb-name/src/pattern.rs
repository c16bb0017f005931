//! Patterns over host names: `a.b` and `*.a.b`, and sets of them.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use crate::{Error, HostName};

/// One host, or every host below a domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// `a.b`: exactly this name.
    Exact(HostName),
    /// `*.a.b`: every name below, at any depth, but not `a.b` itself.
    Suffix(HostName),
}

impl HostPattern {
    /// Parses `a.b` or `*.a.b`; names are brought to their canonical form.
    ///
    /// # Errors
    /// [`Error::Pattern`] or [`Error::Name`] for everything else: `*` alone, `a.*`, `*a.b`, `*.*.a`, addresses.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text == "*" || text == "*." {
            return Err(Error::pattern(
                text,
                "expected a domain after `*`, as in `*.example.com`",
            ));
        }
        let (domain, pattern): (_, fn(HostName) -> Self) = match text.strip_prefix("*.") {
            Some(domain) => (domain, Self::Suffix),
            None => (text, Self::Exact),
        };
        if domain.contains('*') {
            return Err(Error::pattern(
                text,
                "expected `*` only as the whole first label, as in `*.example.com`",
            ));
        }
        let name =
            HostName::parse(domain).map_err(|error| Error::pattern(text, error.expected()))?;
        // The longest name still needs room for one more label and its dot.
        if matches!(pattern(name.clone()), Self::Suffix(_))
            && name.as_str().len() + 2 > crate::MAX_NAME_LEN
        {
            return Err(Error::pattern(
                text,
                "expected a domain short enough to have names below it",
            ));
        }
        Ok(pattern(name))
    }

    /// Whether `name` is covered.
    #[must_use]
    pub fn matches(&self, name: &HostName) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Suffix(domain) => name != domain && name.is_within(domain),
        }
    }

    /// Whether some name is covered by both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(name), pattern) | (pattern, Self::Exact(name)) => pattern.matches(name),
            (Self::Suffix(a), Self::Suffix(b)) => a.is_within(b) || b.is_within(a),
        }
    }

    /// The name in the pattern: the host itself, or the domain after `*.`.
    #[must_use]
    pub fn domain(&self) -> &HostName {
        match self {
            Self::Exact(name) | Self::Suffix(name) => name,
        }
    }
}

impl FromStr for HostPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl From<HostName> for HostPattern {
    fn from(name: HostName) -> Self {
        Self::Exact(name)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Suffix(domain) => write!(f, "*.{domain}"),
        }
    }
}

/// A set of patterns, asked in one pass over the labels of a name.
///
/// The cost of [`matches`](Self::matches) is one hash lookup per label (at most 127), however many patterns there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPatternSet {
    exact: HashSet<HostName>,
    suffixes: HashSet<HostName>,
}

impl HostPatternSet {
    /// Whether any pattern covers `name`.
    #[must_use]
    pub fn matches(&self, name: &HostName) -> bool {
        if self.exact.contains(name) {
            return true;
        }
        if self.suffixes.is_empty() {
            return false;
        }
        let mut rest = name.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            if self.suffixes.contains(parent) {
                return true;
            }
            rest = parent;
        }
        false
    }

    /// Adds one pattern; adding it again changes nothing.
    pub fn insert(&mut self, pattern: HostPattern) {
        match pattern {
            HostPattern::Exact(name) => self.exact.insert(name),
            HostPattern::Suffix(domain) => self.suffixes.insert(domain),
        };
    }

    /// The number of patterns.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exact.len() + self.suffixes.len()
    }

    /// Whether there is no pattern, so that nothing matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The patterns, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = HostPattern> + '_ {
        let exact = self.exact.iter().cloned().map(HostPattern::Exact);
        exact.chain(self.suffixes.iter().cloned().map(HostPattern::Suffix))
    }
}

impl FromIterator<HostPattern> for HostPatternSet {
    fn from_iter<I: IntoIterator<Item = HostPattern>>(patterns: I) -> Self {
        let mut set = Self::default();
        set.extend(patterns);
        set
    }
}

impl Extend<HostPattern> for HostPatternSet {
    fn extend<I: IntoIterator<Item = HostPattern>>(&mut self, patterns: I) {
        for pattern in patterns {
            self.insert(pattern);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(pattern: &str, name: &str, expected: bool) {
        let (pattern, name) = (
            pattern.parse::<HostPattern>().unwrap(),
            name.parse().unwrap(),
        );
        assert_eq!(pattern.matches(&name), expected, "{pattern} on {name}");
        assert_eq!(
            HostPatternSet::from_iter([pattern]).matches(&name),
            expected,
            "as a set"
        );
    }

    #[test]
    fn suffixes_cover_any_depth_but_not_the_apex() {
        check("*.example.com", "a.example.com", true);
        check("*.example.com", "c.b.a.EXAMPLE.com.", true);
        check("*.example.com", "example.com", false);
        check("*.example.com", "evilexample.com", false);
        check("*.example.com", "example.com.evil", false);
        check("*.Bücher.example.", "a.xn--bcher-kva.example", true);
        check("*.test", "a.test", true);
        check("*.test", "test", false);
    }

    #[test]
    fn exact_patterns_cover_one_name() {
        check("Example.com.", "example.com", true);
        check("example.com", "a.example.com", false);
        check("example.com", "www.example.com", false);
    }

    #[test]
    fn malformed_patterns_are_refused_with_what_was_expected() {
        for (text, expected) in [
            ("*", "after `*`"),
            ("*.", "after `*`"),
            ("*example.com", "whole first label"),
            ("a.*.com", "whole first label"),
            ("*.*.com", "whole first label"),
            ("**.com", "whole first label"),
            ("", "at least one label"),
            ("*..com", "no empty label"),
            ("*.1.2.3.4", "not a number"),
            ("*.com:443", "letters, digits"),
            ("10.0.0.0/8", "letters, digits"),
            ("a b", "letters, digits"),
        ] {
            let error = HostPattern::parse(text).unwrap_err().to_string();
            assert!(
                error.contains(expected) && error.starts_with(&format!("{text:?}")),
                "{text:?}: {error}"
            );
        }
        let long = [
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(61),
        ]
        .join(".");
        assert!(HostPattern::parse(&long).is_ok_and(|pattern| pattern.to_string() == long));
        let error = HostPattern::parse(&format!("*.{long}")).unwrap_err();
        assert!(error.to_string().contains("short enough"), "{error}");
    }

    fn name() -> impl Strategy<Value = String> {
        proptest::collection::vec("[ab]{1,2}", 1..5).prop_map(|labels| labels.join("."))
    }

    /// Against every name of up to three labels of a small alphabet: where two patterns overlap, one of them shows it.
    #[test]
    fn patterns_overlap_if_some_name_is_covered_by_both() {
        let labels = ["a", "b", "xa"];
        let below = |names: &[String]| -> Vec<String> {
            let below = |name: &String| labels.map(|label| format!("{label}.{name}"));
            names.iter().flat_map(below).collect()
        };
        let one: Vec<String> = labels.map(str::to_owned).to_vec();
        let two = below(&one);
        let mut names = [one.clone(), two.clone(), below(&two)].concat();
        let patterns = names
            .iter()
            .flat_map(|name| [name.clone(), format!("*.{name}")]);
        let patterns: Vec<HostPattern> = patterns.map(|text| text.parse().unwrap()).collect();
        names.extend(below(&below(&two)));
        let names: Vec<HostName> = names.iter().map(|name| name.parse().unwrap()).collect();
        for a in &patterns {
            for b in &patterns {
                let both = names.iter().any(|name| a.matches(name) && b.matches(name));
                assert_eq!(a.overlaps(b), both, "{a} {b}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_set_matches_when_one_of_its_patterns_does(
            patterns in proptest::collection::vec((any::<bool>(), name()), 0..8),
            host in name(),
        ) {
            let patterns: Vec<HostPattern> = patterns
                .into_iter()
                .map(|(wild, name)| if wild { format!("*.{name}") } else { name }.parse().unwrap())
                .collect();
            let host: HostName = host.parse().unwrap();
            let set: HostPatternSet = patterns.iter().cloned().collect();
            prop_assert_eq!(set.matches(&host), patterns.iter().any(|pattern| pattern.matches(&host)));
            prop_assert_eq!(set.iter().collect::<HostPatternSet>(), set);
        }
    }
}
