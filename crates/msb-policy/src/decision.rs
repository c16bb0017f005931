//! Decisions, and why.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use msb_name::HostName;

use crate::{Action, Direction, Flow, Group, Protocol, Rule};

/// What a decision rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A rule.
    Rule {
        /// Its place among the policy's rules, from 0.
        index: usize,
        /// The rule.
        rule: Arc<Rule>,
    },
    /// No rule: the default of the direction.
    Default(Action),
    /// No rule names metadata, which no default opens.
    Metadata,
    /// The policy could not be built, so everything is refused.
    Invalid(Arc<str>),
}

impl Cause {
    /// The rule and its place, from 0, if it is one.
    #[must_use]
    pub fn rule(&self) -> Option<(usize, &Rule)> {
        match self {
            Self::Rule { index, rule } => Some((*index, rule)),
            Self::Default(_) | Self::Metadata | Self::Invalid(_) => None,
        }
    }
}

/// `rule 2 (deny@private)`, `default`, and so on: what an event names.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { index, rule } => write!(f, "rule {} ({rule})", index + 1),
            Self::Default(_) | Self::Metadata => f.write_str("default"),
            Self::Invalid(_) => f.write_str("invalid policy"),
        }
    }
}

/// The facts of a flow that was decided about, and what the decision rests on. `Display` is one sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grounds {
    direction: Direction,
    protocol: Protocol,
    address: SocketAddr,
    group: Group,
    /// What the flow claims, or one name its address is known for.
    name: Option<HostName>,
    cause: Cause,
}

impl Grounds {
    pub(crate) fn new(flow: &Flow<'_>, group: Group, cause: Cause) -> Self {
        let known = flow.configured.first().or_else(|| flow.resolved.first());
        Self {
            direction: flow.direction,
            protocol: flow.protocol,
            address: SocketAddr::new(flow.address, flow.port),
            group,
            name: flow.claimed.or(known).cloned(),
            cause,
        }
    }

    /// Where the flow goes or, for ingress, where it comes from and the guest's port. Port 0 for ICMP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The group of that address.
    #[must_use]
    pub fn group(&self) -> Group {
        self.group
    }

    /// What the decision rests on.
    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// The rule it rests on and its place, from 0; `None` for a default.
    #[must_use]
    pub fn rule(&self) -> Option<(usize, &Rule)> {
        self.cause.rule()
    }
}

impl fmt::Display for Grounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            direction,
            protocol,
            address,
            group,
            name,
            cause,
        } = self;
        match (direction, protocol) {
            (Direction::Egress, Protocol::Icmp) => write!(f, "icmp to {}", address.ip())?,
            (Direction::Ingress, Protocol::Icmp) => write!(f, "icmp from {}", address.ip())?,
            (Direction::Egress, _) => write!(f, "{protocol} to {address}")?,
            (Direction::Ingress, _) => {
                write!(
                    f,
                    "{protocol} from {} to port {}",
                    address.ip(),
                    address.port()
                )?;
            }
        }
        if let Some(name) = name {
            write!(f, " for {name}")?;
        }
        write!(f, " ({group}) ")?;
        match cause {
            Cause::Rule { rule, .. } => {
                let done = match rule.action {
                    Action::Allow => "allowed",
                    Action::Deny => "denied",
                };
                write!(f, "is {done} by {cause}")
            }
            Cause::Default(Action::Allow) => {
                write!(f, "is allowed by default: no rule is about it")
            }
            Cause::Default(Action::Deny) => write!(f, "is denied by default: no rule allows it"),
            Cause::Metadata => write!(
                f,
                "is denied by default: metadata is open only where a rule names it or its address"
            ),
            Cause::Invalid(reason) => write!(
                f,
                "is denied: the network policy is invalid, so everything is refused: {reason}"
            ),
        }
    }
}

/// Proof that the policy allows a flow. Only [`NetworkPolicy::decide`](crate::NetworkPolicy::decide) makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit(pub(crate) Grounds);

impl Permit {
    /// Why.
    #[must_use]
    pub fn grounds(&self) -> &Grounds {
        &self.0
    }
}

/// A flow is denied. `Display` is one line for a log or an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial(pub(crate) Grounds);

impl Denial {
    /// Why.
    #[must_use]
    pub fn grounds(&self) -> &Grounds {
        &self.0
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The answer to a [`Flow`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// The flow is allowed.
    Permit(Permit),
    /// The flow is denied: reset TCP, answer UDP with an ICMP error.
    Deny(Denial),
}

impl Decision {
    /// What it rests on.
    #[must_use]
    pub fn grounds(&self) -> &Grounds {
        match self {
            Self::Permit(Permit(grounds)) | Self::Deny(Denial(grounds)) => grounds,
        }
    }

    /// Whether the flow is allowed.
    #[must_use]
    pub fn is_permit(&self) -> bool {
        matches!(self, Self::Permit(_))
    }
}

/// The answer to a flow whose server name may still come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Early {
    /// The answer, whatever name will come.
    Decided(Decision),
    /// The name decides. Whoever reads it has to [`decide`](crate::NetworkPolicy::decide) again before a byte is sent on.
    NeedsName,
}

/// Why a name is not resolved, or an answer withheld. `Display` is one line for a log or an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NameDenial {
    pub(crate) reason: String,
    pub(crate) cause: Cause,
}

impl NameDenial {
    /// What it rests on.
    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// What it rests on, for an event.
    #[must_use]
    pub fn into_cause(self) -> Cause {
        self.cause
    }
}
