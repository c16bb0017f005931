//! The authority of a request: `Host`, `:authority`, a CONNECT target.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Host};

/// A host and an optional port, parsed strictly: what two parsers could read differently is refused.
///
/// Refused are userinfo, white space, NUL, percent-encoding, non-ASCII bytes, an empty, zero, padded or oversized port,
/// and everything [`Host::parse`] refuses (RFC 3986, section 3.2, without its optional parts).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Authority {
    host: Host,
    port: Option<u16>,
}

impl Authority {
    /// An authority from its parts.
    #[must_use]
    pub fn new(host: impl Into<Host>, port: Option<u16>) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }

    /// Parses `host` or `host:port`.
    ///
    /// # Errors
    /// [`Error::Authority`], or what [`Host::parse`] says of the host.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::authority(text, "expected a host"));
        }
        if !text.is_ascii() {
            return Err(Error::authority(text, "expected ASCII (A-labels) only"));
        }
        if text.contains('@') {
            return Err(Error::authority(text, "expected no user information"));
        }
        if text
            .bytes()
            .any(|b| b.is_ascii_whitespace() || b.is_ascii_control())
        {
            return Err(Error::authority(
                text,
                "expected no white space and no control characters",
            ));
        }
        let host_end = text.rfind(']').map_or(0, |bracket| bracket + 1);
        let (host, port) = match text[host_end..].find(':') {
            Some(colon) => (
                &text[..host_end + colon],
                Some(&text[host_end + colon + 1..]),
            ),
            None => (text, None),
        };
        let port = port
            .map(|port| {
                parse_port(port).ok_or_else(|| {
                    Error::authority(text, "expected a port from 1 to 65535 after `:`")
                })
            })
            .transpose()?;
        Ok(Self {
            host: Host::parse(host)?,
            port,
        })
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, if one was written.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let canonical = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if canonical { text.parse().ok() } else { None }
}

impl FromStr for Authority {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => self.host.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, Option<u16>)>) {
        let authority = Authority::parse(text).ok();
        let parts = authority.as_ref().map(|a| (a.host().to_string(), a.port()));
        assert_eq!(
            parts,
            expected.map(|(host, port)| (host.to_owned(), port)),
            "{text:?}"
        );
    }

    #[test]
    fn host_and_port_are_split() {
        check("example.com", Some(("example.com", None)));
        check("EXAMPLE.com.:443", Some(("example.com", Some(443))));
        check("1.2.3.4:65535", Some(("1.2.3.4", Some(65535))));
        check("[::1]", Some(("[::1]", None)));
        check("[::1]:8443", Some(("[::1]", Some(8443))));
        check(
            "xn--bcher-kva.example:1",
            Some(("xn--bcher-kva.example", Some(1))),
        );
    }

    /// Attack 1: what one parser reads as host A and another as host B.
    #[test]
    fn ambiguous_authorities_are_refused() {
        for text in [
            "",
            ":",
            ":443",
            "a:",
            "a:0",
            "a:00",
            "a:0443",
            "a:+443",
            "a:-1",
            "a:65536",
            "a:443:443",
            "a:443 ",
            " a",
            "a ",
            "a\tb",
            "a\0",
            "a\r\nb",
            "user@a",
            "a@b",
            "user:pass@a:443",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a,b",
            "a;b",
            "http://a",
            "a%00",
            "%61",
            "::1",
            "::1:443",
            "[::1]443",
            "[::1]:",
            "[::1]]",
            "x[::1]",
            "[::1]@a",
            "bücher.example",
            "a:４４３",
            "*.a",
        ] {
            check(text, None);
        }
    }

    proptest! {
        #[test]
        fn parse_never_panics_and_round_trips(text in "[a-c0-9.:@\\[\\]% -]{0,16}|\\PC{0,10}") {
            if let Ok(authority) = Authority::parse(&text) {
                prop_assert_eq!(Authority::parse(&authority.to_string()).unwrap(), authority);
            }
        }
    }
}
