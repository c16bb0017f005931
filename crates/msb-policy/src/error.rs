//! What can be wrong with a policy's configuration.

use std::fmt;
use std::ops::Range;

/// A policy that cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A word in a profile list that names no profile.
    #[error(
        "{word:?} in the network profile {text:?} is not known: expected a comma-separated list of public, private, host, metadata, all, or none alone"
    )]
    UnknownProfile {
        /// The word.
        word: String,
        /// The whole list.
        text: String,
    },
    /// `none` beside another profile.
    #[error("the network profile {text:?} contradicts itself: none stands alone")]
    NoneIsAlone {
        /// The whole list.
        text: String,
    },
    /// A bypass pattern that is not a host pattern.
    #[error("bypass pattern")]
    Bypass(#[source] msb_name::Error),
    /// A text that is not a network rule.
    #[error("not a network rule:\n{0}")]
    Rule(Mark),
    /// A text that is not an action.
    #[error("not a default of the network:\n{0}")]
    Action(Mark),
    /// A text that is not an HTTP rule.
    #[error("not an HTTP rule:\n{0}")]
    HttpRule(Mark),
    /// A rule whose parts do not go together.
    #[error("the network rule {rule} contradicts itself: {expected}")]
    Contradiction {
        /// The rule.
        rule: String,
        /// What was expected.
        expected: &'static str,
    },
    /// More rules than there are numbers for.
    #[error("{count} network rules are too many: at most {max} are kept apart")]
    TooManyRules {
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
}

/// A text with one place in it marked. `Display` is two lines: the text, and under the place marks with what was
/// expected there. Control characters and line breaks of the text are shown escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    text: String,
    /// In bytes of `text`, on its borders of characters.
    at: Range<usize>,
    expected: String,
}

impl Mark {
    pub(crate) fn new(text: &str, at: Range<usize>, expected: impl Into<String>) -> Self {
        Self {
            text: text.to_owned(),
            at,
            expected: expected.into(),
        }
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What is wrong in it; empty where something is missing.
    #[must_use]
    pub fn marked(&self) -> &str {
        &self.text[self.at.clone()]
    }

    /// What was expected in its place.
    #[must_use]
    pub fn expected(&self) -> &str {
        &self.expected
    }
}

/// `text` with everything that could drive a terminal escaped, quotes aside.
fn shown(text: &str) -> String {
    let escape = |c: char| match c {
        '"' | '\'' => c.to_string(),
        _ => c.escape_debug().to_string(),
    };
    text.chars().map(escape).collect()
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, at, expected } = self;
        let columns = |text: &str| shown(text).chars().count();
        let (before, marked) = (columns(&text[..at.start]), columns(self.marked()));
        let marks = "^".repeat(marked.max(1));
        write!(
            f,
            "    {}\n    {:before$}{marks} {expected}",
            shown(text),
            ""
        )
    }
}
