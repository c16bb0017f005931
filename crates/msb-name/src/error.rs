//! What can be wrong with a name: the text as given, and what was expected instead.

/// A text that is not what it should be.
///
/// Each variant carries the text (cut after 256 characters) and what was expected. `Display` escapes control characters
/// and quotes, so an error about text from an untrusted side is safe to print on a terminal or to log as one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a host name.
    #[error("{text:?} is not a host name: {expected}")]
    Name {
        /// The offending text.
        text: String,
        /// What was expected.
        expected: &'static str,
    },
    /// Neither a host name nor an IP address.
    #[error("{text:?} is not a host: {expected}")]
    Host {
        /// The offending text.
        text: String,
        /// What was expected.
        expected: &'static str,
    },
    /// Not an authority (`host` or `host:port`).
    #[error("{text:?} is not an authority: {expected}")]
    Authority {
        /// The offending text.
        text: String,
        /// What was expected.
        expected: &'static str,
    },
    /// Not a host pattern.
    #[error("{text:?} is not a host pattern: {expected}")]
    Pattern {
        /// The offending text.
        text: String,
        /// What was expected.
        expected: &'static str,
    },
}

impl Error {
    pub(crate) fn name(text: &str, expected: &'static str) -> Self {
        Self::Name {
            text: cut(text),
            expected,
        }
    }

    pub(crate) fn host(text: &str, expected: &'static str) -> Self {
        Self::Host {
            text: cut(text),
            expected,
        }
    }

    pub(crate) fn authority(text: &str, expected: &'static str) -> Self {
        Self::Authority {
            text: cut(text),
            expected,
        }
    }

    pub(crate) fn pattern(text: &str, expected: &'static str) -> Self {
        Self::Pattern {
            text: cut(text),
            expected,
        }
    }

    /// What was expected, without the offending text.
    #[must_use]
    pub fn expected(&self) -> &'static str {
        match self {
            Self::Name { expected, .. }
            | Self::Host { expected, .. }
            | Self::Authority { expected, .. }
            | Self::Pattern { expected, .. } => expected,
        }
    }
}

fn cut(text: &str) -> String {
    const KEPT_CHARS: usize = 256;
    match text.char_indices().nth(KEPT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
