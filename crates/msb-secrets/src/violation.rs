//! A placeholder on its way to where it must not go: which, where, how it was written, and why it must not.

use std::fmt;
use std::sync::Arc;

use msb_policy::Refusal;

/// What to do about a violation. The request never reaches the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ViolationAction {
    /// Drop the request silently; the guest sees a connection reset.
    #[default]
    Block,
    /// Drop the request and log a warning on the host.
    BlockAndLog,
    /// Drop the request, log an error and shut the whole sandbox down.
    BlockAndTerminate,
}

/// A placeholder heading for a host that its secret may not go to.
///
/// `Display` is one line without the value, safe to print whatever the guest put into header names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("placeholder of secret {env} in {location} ({form}): {refusal}")]
pub struct Violation {
    pub(crate) env: Arc<str>,
    pub(crate) location: Location,
    pub(crate) form: Form,
    pub(crate) refusal: Refusal,
}

impl Violation {
    /// The environment variable of the secret.
    #[must_use]
    pub fn env(&self) -> &str {
        &self.env
    }

    /// Where the placeholder stood.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// How it was written.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    /// Which gate did not hold.
    #[must_use]
    pub fn refusal(&self) -> &Refusal {
        &self.refusal
    }
}

/// Where a placeholder stood.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Location {
    /// The path of the request target.
    Path,
    /// The query of the request target.
    Query,
    /// A header value.
    Header {
        /// The header's name, control characters escaped and cut after 64 characters.
        name: Arc<str>,
    },
    /// A trailer value.
    Trailer {
        /// The trailer's name, like a header's.
        name: Arc<str>,
    },
    /// The body.
    Body,
    /// A connection that is not intercepted.
    Plain,
    /// What is sent on an intercepted connection that does not carry HTTP.
    Payload,
    /// A header value of a response.
    ResponseHeader {
        /// The header's name, like a request's.
        name: Arc<str>,
    },
    /// A trailer value of a response.
    ResponseTrailer {
        /// The trailer's name, like a header's.
        name: Arc<str>,
    },
    /// The body of a response.
    ResponseBody,
}

impl Location {
    pub(crate) fn header(name: &str) -> Self {
        Self::Header {
            name: printable(name),
        }
    }

    pub(crate) fn response_header(name: &str) -> Self {
        Self::ResponseHeader {
            name: printable(name),
        }
    }

    pub(crate) fn response_trailer(name: &str) -> Self {
        Self::ResponseTrailer {
            name: printable(name),
        }
    }

    pub(crate) fn trailer(name: &str) -> Self {
        Self::Trailer {
            name: printable(name),
        }
    }
}

/// Names come from the guest and go to logs.
fn printable(name: &str) -> Arc<str> {
    const KEPT_CHARS: usize = 64;
    name.chars()
        .take(KEPT_CHARS)
        .flat_map(char::escape_debug)
        .collect::<String>()
        .into()
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("path"),
            Self::Query => f.write_str("query"),
            Self::Header { name } => write!(f, "header {name}"),
            Self::Trailer { name } => write!(f, "trailer {name}"),
            Self::Body => f.write_str("body"),
            Self::Plain => f.write_str("plain connection"),
            Self::Payload => f.write_str("payload"),
            Self::ResponseHeader { name } => write!(f, "response header {name}"),
            Self::ResponseTrailer { name } => write!(f, "response trailer {name}"),
            Self::ResponseBody => f.write_str("response body"),
        }
    }
}

/// How a placeholder was written. A mixture counts as its last form in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Form {
    /// As it is.
    Raw,
    /// With JSON escapes (`\u0024`, `\/`).
    Json,
    /// Percent-encoded, at least in part, or with `+` for a space.
    Percent,
    /// Percent-encoded twice, at least in part.
    PercentTwice,
    /// Inside base64 text.
    Base64,
    /// Inside the credentials of `Authorization: Basic`.
    Basic,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Json => "JSON-escaped",
            Self::Percent => "percent-encoded",
            Self::PercentTwice => "percent-encoded twice",
            Self::Base64 => "base64",
            Self::Basic => "Basic credentials",
        })
    }
}
