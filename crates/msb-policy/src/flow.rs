//! A flow: what a decision is asked about.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use msb_name::HostName;

use crate::{Group, classify};

/// The transport of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6. It has no ports.
    Icmp,
}

impl Protocol {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

/// Who opens a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The guest.
    Egress,
    /// Somebody outside, to a published port.
    Ingress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        })
    }
}

/// A flow that somebody asks for, and the evidence of what it is for.
///
/// Names are evidence of two kinds. What the sandbox's DNS gave (`resolved`) was chosen by whoever runs the zone, so it
/// opens public addresses only. What the sandbox was configured with (`configured`) may lead anywhere but to metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<'a> {
    /// Who opens it.
    pub direction: Direction,
    /// The transport.
    pub protocol: Protocol,
    /// The other side as seen from the guest: the destination of an egress flow, the source of an ingress flow.
    pub address: IpAddr,
    /// The port of the side that accepts. Of no meaning for ICMP.
    pub port: u16,
    /// Whether `address` stands for the host itself: the sandbox's gateway, or an address of the host's own. The group
    /// is then [`Group::Host`], whatever the address.
    pub to_host: bool,
    /// The names for which the sandbox's DNS gave `address`.
    pub resolved: &'a [HostName],
    /// The names that the sandbox's configuration leads to `address`.
    pub configured: &'a [HostName],
    /// The name that the flow itself claims: the server name of its TLS, later the authority of a request in it.
    pub claimed: Option<&'a HostName>,
}

impl<'a> Flow<'a> {
    /// A flow of the guest to `destination`, with no name known for it.
    #[must_use]
    pub fn egress(protocol: Protocol, destination: SocketAddr) -> Self {
        Self {
            direction: Direction::Egress,
            protocol,
            address: destination.ip(),
            port: destination.port(),
            to_host: false,
            resolved: &[],
            configured: &[],
            claimed: None,
        }
    }

    /// A flow from `source` to the guest's published `port`.
    #[must_use]
    pub fn ingress(protocol: Protocol, source: IpAddr, port: u16) -> Self {
        Self {
            direction: Direction::Ingress,
            ..Self::egress(protocol, SocketAddr::new(source, port))
        }
    }

    /// The same flow, to the host itself or not.
    #[must_use]
    pub fn to_host(mut self, to_host: bool) -> Self {
        self.to_host = to_host;
        self
    }

    /// The same flow with the names that DNS gave for its address.
    #[must_use]
    pub fn resolved(mut self, names: &'a [HostName]) -> Self {
        self.resolved = names;
        self
    }

    /// The same flow with the names that are configured for its address.
    #[must_use]
    pub fn configured(mut self, names: &'a [HostName]) -> Self {
        self.configured = names;
        self
    }

    /// The same flow with the name that it claims.
    #[must_use]
    pub fn claimed(mut self, name: Option<&'a HostName>) -> Self {
        self.claimed = name;
        self
    }

    /// The group that governs this flow: [`Group::Host`] towards the host, else the group of the address.
    #[must_use]
    pub fn group(&self) -> Group {
        if self.to_host {
            Group::Host
        } else {
            classify(self.address)
        }
    }

    /// Whether domain rules are about this flow at all: the guest chose where it goes, and it is not metadata, which has
    /// to be named as such.
    pub(crate) fn has_domain(&self, group: Group) -> bool {
        self.direction == Direction::Egress && group != Group::Metadata
    }

    /// The names that rules may allow this flow by.
    pub(crate) fn allowing_names(
        &self,
        group: Group,
    ) -> impl Iterator<Item = &'a HostName> + use<'a> {
        let resolved = if group == Group::Public {
            self.resolved
        } else {
            &[]
        };
        let known = resolved.iter().chain(self.configured);
        let claimed = self.claimed;
        known.filter(move |name| claimed.is_none_or(|claimed| claimed == *name))
    }

    /// The names that rules may deny this flow by: what it claims, and all its address is known for where it claims
    /// nothing, or something its address is not known for.
    pub(crate) fn denying_names(&self) -> impl Iterator<Item = &'a HostName> + use<'a> {
        let known = self.resolved.iter().chain(self.configured);
        let fits = self
            .claimed
            .is_some_and(|claimed| known.clone().any(|name| name == claimed));
        let known = known.take(if fits { 0 } else { usize::MAX });
        self.claimed.into_iter().chain(known)
    }
}

/// The address that rules look at: IPv4-mapped addresses and those of the well-known NAT64 prefix stand for the IPv4
/// address inside, as for [`classify`].
pub(crate) fn subject(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                let bits = (u32::from(high) << 16) | u32::from(low);
                Ipv4Addr::from(bits).into()
            }
            _ => v6.into(),
        },
        v4 => v4,
    }
}
