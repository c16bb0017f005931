//! A rule as a value.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use msb_name::{HostName, HostPattern};

use crate::flow::subject;
use crate::{Direction, Error, Flow, Group, Ports, Protocol};

/// What a rule or a default does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Lets the flow pass.
    Allow,
    /// Refuses it.
    Deny,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// The directions that a rule is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Directions {
    /// What the guest opens.
    #[default]
    Egress,
    /// What comes to published ports.
    Ingress,
    /// Both.
    Any,
}

impl Directions {
    /// Whether `direction` is one of them.
    #[must_use]
    pub fn contains(self, direction: Direction) -> bool {
        match self {
            Self::Egress => direction == Direction::Egress,
            Self::Ingress => direction == Direction::Ingress,
            Self::Any => true,
        }
    }
}

/// The transports that a rule is about; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocols(u8);

impl Protocols {
    /// Every transport.
    pub const ALL: Self = Self(0b111);

    /// Whether `protocol` is one of them.
    #[must_use]
    pub fn contains(self, protocol: Protocol) -> bool {
        self.0 & Self::from(protocol).0 != 0
    }

    pub(crate) fn and(self, protocol: Protocol) -> Self {
        Self(self.0 | Self::from(protocol).0)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Protocol> {
        let all = Protocol::ALL.into_iter();
        all.filter(move |protocol| self.contains(*protocol))
    }
}

impl Default for Protocols {
    fn default() -> Self {
        Self::ALL
    }
}

impl From<Protocol> for Protocols {
    fn from(protocol: Protocol) -> Self {
        Self(1 << protocol as u8)
    }
}

/// Where a rule's flows go (or come from).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Everywhere but [`Group::Metadata`], which has to be named.
    Any,
    /// The addresses of a block. Metadata is in a block of one address only, and the host in none.
    Addresses(IpNet),
    /// The addresses of a group.
    Group(Group),
    /// A host, or the hosts below a domain, by name. Never metadata.
    Domain(HostPattern),
}

impl From<Group> for Target {
    fn from(group: Group) -> Self {
        Self::Group(group)
    }
}

impl From<IpAddr> for Target {
    fn from(address: IpAddr) -> Self {
        Self::Addresses(IpNet::from(subject(address)))
    }
}

impl From<IpNet> for Target {
    /// Bits behind the prefix are cleared. A block of IPv4-mapped addresses, or of the well-known NAT64 prefix, becomes
    /// the block of the IPv4 addresses inside, for those are what rules look at.
    fn from(block: IpNet) -> Self {
        let inner = subject(block.network());
        let length = block.prefix_len();
        match (block, inner) {
            (IpNet::V6(_), IpAddr::V4(inner)) if length >= 96 => {
                Self::Addresses(IpNet::new_assert(inner.into(), length - 96))
            }
            _ => Self::Addresses(block.trunc()),
        }
    }
}

impl From<HostPattern> for Target {
    fn from(pattern: HostPattern) -> Self {
        Self::Domain(pattern)
    }
}

impl From<HostName> for Target {
    fn from(name: HostName) -> Self {
        Self::Domain(name.into())
    }
}

/// One rule: an action for the flows it matches.
///
/// The text form is `allow|deny[:egress|ingress|any]@TARGET[:PROTOCOLS[:PORTS]]`. TARGET is `any`, a group (`public`,
/// `private`, `reserved`, `loopback`, `link-local`, `metadata`, `multicast`, `host`), an address or a block (IPv6 in
/// brackets), a host's name (one of a single label with a dot at its end) or `*.domain`. PROTOCOLS is `any` or some of
/// `tcp,udp,icmp`; PORTS are ports and ranges, as in `80,8000-8999`. Without a direction a rule is about egress.
///
/// ```
/// use msb_policy::{Group, Protocol, Rule};
///
/// let rule: Rule = "allow@*.example.com:tcp:443".parse()?;
/// assert_eq!(rule.to_string(), "allow@*.example.com:tcp:443");
/// assert_eq!("deny@private".parse::<Rule>()?, Rule::deny(Group::Private));
/// assert_eq!("deny@any:udp:443".parse::<Rule>()?, Rule::deny(msb_policy::Target::Any).protocols(Protocol::Udp).ports(443));
///
/// let error = "allow@10.0.0.0/33".parse::<Rule>().unwrap_err();
/// assert!(error.to_string().ends_with("^^ expected a prefix length from 0 to 32"));
/// # Ok::<(), msb_policy::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    pub(crate) action: Action,
    pub(crate) directions: Directions,
    pub(crate) target: Target,
    pub(crate) protocols: Protocols,
    pub(crate) ports: Ports,
}

impl Rule {
    /// Allows egress to a target.
    #[must_use]
    pub fn allow(target: impl Into<Target>) -> Self {
        Self::new(Action::Allow, target)
    }

    /// Denies egress to a target.
    #[must_use]
    pub fn deny(target: impl Into<Target>) -> Self {
        Self::new(Action::Deny, target)
    }

    /// The same rule as the action says, for egress, every transport and port.
    #[must_use]
    pub fn new(action: Action, target: impl Into<Target>) -> Self {
        Self {
            action,
            directions: Directions::default(),
            target: target.into(),
            protocols: Protocols::ALL,
            ports: Ports::All,
        }
    }

    /// The same rule for these directions. One for a domain can only be about egress.
    #[must_use]
    pub fn directions(mut self, directions: Directions) -> Self {
        self.directions = directions;
        self
    }

    /// The same rule for these transports.
    #[must_use]
    pub fn protocols(mut self, protocols: impl Into<Protocols>) -> Self {
        self.protocols = protocols.into();
        self
    }

    /// The same rule for these ports. ICMP has none.
    #[must_use]
    pub fn ports(mut self, ports: impl Into<Ports>) -> Self {
        self.ports = ports.into();
        self
    }

    /// What it does.
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// Where its flows go.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Whether the rule is about this flow. A policy's decision is the action of its first rule that says yes; the
    /// policy itself finds that rule without asking each.
    #[must_use]
    pub fn matches(&self, flow: &Flow<'_>) -> bool {
        let group = flow.group();
        self.directions.contains(flow.direction)
            && self.protocols.contains(flow.protocol)
            && match flow.protocol {
                Protocol::Icmp => self.ports == Ports::All,
                Protocol::Tcp | Protocol::Udp => self.ports.contains(flow.port),
            }
            && match &self.target {
                Target::Any => group != Group::Metadata,
                Target::Group(own) => *own == group,
                Target::Addresses(block) => holds(block, subject(flow.address), group),
                Target::Domain(pattern) => {
                    flow.has_domain(group)
                        && match self.action {
                            Action::Allow => {
                                flow.allowing_names(group).any(|name| pattern.matches(name))
                            }
                            Action::Deny => flow.denying_names().any(|name| pattern.matches(name)),
                        }
                }
            }
    }

    /// The ports at which flows of `protocol` are matched; all or none for ICMP.
    pub(crate) fn ports_of(&self, protocol: Protocol) -> crate::ports::PortSet {
        match protocol {
            _ if !self.protocols.contains(protocol) => Default::default(),
            Protocol::Icmp if self.ports != Ports::All => Default::default(),
            _ => self.ports.set(),
        }
    }

    /// What cannot be meant and no type keeps from being written.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |expected| {
            Err(Error::Contradiction {
                rule: self.to_string(),
                expected,
            })
        };
        let is_icmp_only = self.protocols == Protocols::from(Protocol::Icmp);
        match (&self.target, &self.ports) {
            (Target::Domain(_), _) if self.directions != Directions::Egress => {
                wrong("expected the direction egress: who comes in is known by address only")
            }
            (_, Ports::Some(_)) if is_icmp_only => wrong("expected no ports: ICMP has none"),
            _ => Ok(()),
        }
    }
}

/// Whether rules about `block` are about `address`, which is of `group`.
pub(crate) fn holds(block: &IpNet, address: IpAddr, group: Group) -> bool {
    let named = match group {
        Group::Host => false,
        Group::Metadata => block.prefix_len() == block.max_prefix_len(),
        _ => true,
    };
    named && block.contains(&address)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Group(group) => group.fmt(f),
            Self::Addresses(block) => {
                let whole = block.prefix_len() == block.max_prefix_len();
                match (block, whole) {
                    (IpNet::V4(block), true) => block.addr().fmt(f),
                    (IpNet::V4(block), false) => block.fmt(f),
                    (IpNet::V6(block), true) => write!(f, "[{}]", block.addr()),
                    (IpNet::V6(block), false) => write!(f, "[{block}]"),
                }
            }
            Self::Domain(pattern) => {
                pattern.fmt(f)?;
                // One label could be a group's name, misspelt or not.
                let is_label =
                    matches!(pattern, HostPattern::Exact(name) if !name.as_str().contains('.'));
                f.write_str(if is_label { "." } else { "" })
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.directions {
            Directions::Egress => "",
            Directions::Ingress => ":ingress",
            Directions::Any => ":any",
        };
        write!(f, "{}{direction}@{}", self.action, self.target)?;
        if self.protocols != Protocols::ALL || self.ports != Ports::All {
            f.write_str(":")?;
            if self.protocols == Protocols::ALL {
                f.write_str("any")?;
            } else {
                let names: Vec<_> = self.protocols.iter().map(|p| p.to_string()).collect();
                f.write_str(&names.join(","))?;
            }
        }
        match &self.ports {
            Ports::All => Ok(()),
            Ports::Some(ports) => write!(f, ":{ports}"),
        }
    }
}
