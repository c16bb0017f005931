//! Names of sandboxes, which are names of directories too.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// A sandbox's name: 1 to 63 of `a-z`, `0-9` and inner hyphens, so that it can be a host name, and never leads to another
/// directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Names further away than this are not what was meant.
const NEAR: usize = 2;

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Those of `names` that differ little from this, the nearest first, three at most.
    pub(crate) fn nearest(&self, names: impl IntoIterator<Item = Self>) -> Vec<String> {
        let far = |name: Self| (distance(self.as_str(), name.as_str()), name.0);
        let mut near: Vec<_> = names.into_iter().map(far).collect();
        near.retain(|(distance, name)| {
            // One of three letters has nothing in common with others two steps away.
            *distance <= NEAR.min(self.0.len() / 2) || name.starts_with(self.as_str())
        });
        near.sort();
        near.truncate(3);
        near.into_iter().map(|(_, name)| name).collect()
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let good = (1..=63).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        match good {
            true => Ok(Self(text.to_owned())),
            false => Err(Error::BadName(text.chars().take(80).collect())),
        }
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many letters have to be put in, taken out, exchanged or swapped with the next. Both are ASCII of bounded length.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let exchanged = rows[i][j] + usize::from(x != y);
            let mut least = exchanged.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && x == &b[j - 1] && y == &a[i - 1] {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_names_are_names() {
        let long = "x".repeat(63);
        let too_long = "x".repeat(64);
        for (text, good) in [
            ("a", true),
            ("worker-7", true),
            (long.as_str(), true),
            (too_long.as_str(), false),
            ("", false),
            (".", false),
            ("..", false),
            ("a/b", false),
            ("../a", false),
            (".new", false),
            ("Worker", false),
            ("-a", false),
            ("a-", false),
            ("a_b", false),
            ("a\0b", false),
            ("ä", false),
        ] {
            assert_eq!(text.parse::<Name>().is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn near_names_are_those_one_could_have_meant() {
        let names = ["worker", "walker", "web", "db", "worker-2"].map(|name| name.parse::<Name>());
        let names: Vec<Name> = names.into_iter().map(Result::unwrap).collect();
        for (meant, expected) in [
            ("wroker", &["worker", "walker"][..]),
            ("worke", &["worker", "worker-2"]),
            ("work", &["worker", "worker-2"]),
            ("wev", &["web"]),
            ("x", &[]),
            ("something", &[]),
        ] {
            let near = meant.parse::<Name>().unwrap().nearest(names.clone());
            assert_eq!(near, expected, "{meant}");
        }
    }
}
