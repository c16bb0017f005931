//! A host as it stands in an authority: a name or an address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::{Error, HostName};

/// A host name or an IP address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A host name.
    Name(HostName),
    /// An IP address. In text, an IPv6 address stands in brackets.
    Ip(IpAddr),
}

impl Host {
    /// Parses a host name, a dotted quad, or an IPv6 address in brackets (RFC 3986, section 3.2.2; no zone).
    ///
    /// # Errors
    /// [`Error::Host`] or [`Error::Name`] for everything else, an IPv6 address without brackets included.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if let Some(rest) = text.strip_prefix('[') {
            let inner = rest
                .strip_suffix(']')
                .ok_or_else(|| Error::host(text, "expected `]` at the end"))?;
            let address = inner
                .parse::<Ipv6Addr>()
                .map_err(|_| Error::host(text, "expected an IPv6 address in the brackets"))?;
            return Ok(Self::Ip(address.into()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Ip(address.into()));
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(Error::host(
                text,
                "expected brackets around an IPv6 address",
            ));
        }
        HostName::parse(text).map(Self::Name)
    }

    /// The name, unless this is an address.
    #[must_use]
    pub fn name(&self) -> Option<&HostName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Ip(_) => None,
        }
    }
}

impl FromStr for Host {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl From<HostName> for Host {
    fn from(name: HostName) -> Self {
        Self::Name(name)
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Ip(IpAddr::V4(address)) => address.fmt(f),
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let host = Host::parse(text);
        assert_eq!(
            host.as_ref().ok().map(ToString::to_string).as_deref(),
            expected,
            "{text:?}"
        );
        if let Ok(host) = host {
            assert_eq!(Host::parse(&host.to_string()), Ok(host));
        }
    }

    #[test]
    fn names_and_addresses_are_told_apart() {
        check("Example.com", Some("example.com"));
        check("127.0.0.1", Some("127.0.0.1"));
        check("[::1]", Some("[::1]"));
        check("[0:0::FFFF:1.2.3.4]", Some("[::ffff:1.2.3.4]"));
    }

    #[test]
    fn odd_addresses_are_refused() {
        for text in [
            "::1",
            "[::1",
            "[]",
            "[1.2.3.4]",
            "[fe80::1%eth0]",
            "[fe80::1%25eth0]",
            "127.1",
            "0177.0.0.1",
            "0x7f000001",
            "2130706433",
            "127.0.0.1.",
            "[::1]a",
            "[v1.a]",
        ] {
            check(text, None);
        }
    }
}
