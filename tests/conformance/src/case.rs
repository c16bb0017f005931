//! One case: who, how, what it has to do, and what came of it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::Result;

use crate::known;
use crate::lab::Lab;
use crate::table::{Outcome, Row};

/// How a client comes to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It asks for a tunnel.
    Connect,
    /// Its names lead to the proxy.
    Transparent,
}

/// What the client speaks inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1
    H1,
    /// HTTP/2
    H2,
    /// WebSocket over HTTP/1.1
    WebSocket,
    /// WebSocket over HTTP/2 (RFC 8441)
    WebSocketH2,
    /// gRPC over HTTP/2
    Grpc,
    /// Something other than HTTP
    Other,
    /// TLS itself
    Tls,
}

/// Runs with an id that is in the paths of its requests, and says what was wrong.
type Work = Box<dyn Fn(&Lab, &str) -> Result<()> + Send + Sync>;

/// A named row.
pub(crate) struct Case {
    /// The tool and its version, or why it cannot run.
    pub(crate) tool: Tool,
    pub(crate) mode: Mode,
    pub(crate) protocol: Protocol,
    /// What is behind the proxy.
    pub(crate) origin: &'static str,
    /// What it has to do.
    pub(crate) claim: String,
    pub(crate) work: Work,
}

/// A foreign program or library.
#[derive(Clone, Debug)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    /// Its version; or why its cases are skipped.
    pub(crate) version: Result<String, String>,
}

impl Case {
    /// What is shown of it before it ran.
    pub(crate) fn row(&self) -> String {
        format!(
            "{} | {} | {} | {} | {}",
            self.tool.name, self.mode, self.protocol, self.origin, self.claim
        )
    }

    /// Runs it; `index` makes its requests recognisable.
    pub(crate) fn run(&self, lab: &Lab, index: usize) -> Row {
        let known = known::failure(self);
        let outcome = match &self.tool.version {
            Err(reason) => Outcome::Skipped(reason.clone()),
            Ok(_) => {
                let id = format!("case-{index}-");
                let ran = catch_unwind(AssertUnwindSafe(|| (self.work)(lab, &id)));
                let failed = match ran {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(format!("{error:#}")),
                    Err(_) => Some("the case itself panicked".to_owned()),
                };
                match (failed, known) {
                    (None, None) => Outcome::Pass,
                    (None, Some(reason)) => Outcome::UnexpectedPass(reason),
                    (Some(error), None) => Outcome::Fail(error),
                    (Some(error), Some(reason)) => Outcome::KnownFailure { reason, error },
                }
            }
        };
        Row {
            tool: match &self.tool.version {
                Ok(version) => format!("{} {version}", self.tool.name),
                Err(_) => self.tool.name.to_owned(),
            },
            mode: self.mode.to_string(),
            protocol: self.protocol.to_string(),
            origin: self.origin.to_owned(),
            claim: self.claim.clone(),
            outcome,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Transparent => "transparent",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::H1 => "HTTP/1.1",
            Self::H2 => "HTTP/2",
            Self::WebSocket => "WebSocket",
            Self::WebSocketH2 => "WebSocket on HTTP/2",
            Self::Grpc => "gRPC",
            Self::Other => "not HTTP",
            Self::Tls => "TLS",
        })
    }
}
