//! Ports of the host that lead to the guest: what is asked for, and binding them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use msb_net::PublishedPort;
use msb_policy::Protocol;
use serde::{Deserialize, Serialize};

use crate::Error;

mod owner;

/// A port of the host that leads to a port of the guest: `[ADDRESS:]PORT:GUEST_PORT[/udp]`, or `PORT[/udp]` for the same
/// number on both sides.
///
/// The address is 127.0.0.1 unless another is given (IPv6 in brackets); host port 0 is any that is free. In the guest a
/// service has to listen on more than its loopback interface.
///
/// ```
/// use msb::PortMapping;
///
/// for text in ["8080:80", "127.0.0.1:8080:80", "[::1]:8080:80/tcp", "0.0.0.0:5353:53/udp", "8080"] {
///     let port: PortMapping = text.parse()?;
///     assert_eq!(port.to_string().parse::<PortMapping>()?, port);
/// }
/// # Ok::<(), msb::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortMapping {
    /// Where it is on the host.
    pub host: SocketAddr,
    /// Where it leads.
    pub guest_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl PortMapping {
    /// TCP from `host_port` of 127.0.0.1 to `guest_port`.
    #[must_use]
    pub fn tcp(host_port: u16, guest_port: u16) -> Self {
        Self {
            host: (Ipv4Addr::LOCALHOST, host_port).into(),
            guest_port,
            protocol: Protocol::Tcp,
        }
    }

    /// UDP from `host_port` of 127.0.0.1 to `guest_port`.
    #[must_use]
    pub fn udp(host_port: u16, guest_port: u16) -> Self {
        Self {
            protocol: Protocol::Udp,
            ..Self::tcp(host_port, guest_port)
        }
    }

    /// Checks what no text form could say wrong.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let reason = match self {
            Self {
                protocol: Protocol::Icmp,
                ..
            } => "ICMP has no ports: publish tcp or udp",
            Self { guest_port: 0, .. } => "the guest's ports are from 1 to 65535",
            _ => return Ok(()),
        };
        Err(Error::Config(format!("cannot publish {self}: {reason}")))
    }

    /// Binds the host's port.
    pub(crate) fn bind(&self) -> Result<Arc<PublishedPort>, Error> {
        let bound = PublishedPort::bind(self.protocol, self.host, self.guest_port);
        bound.map(Arc::new).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => Error::PortTaken {
                port: *self,
                owner: owner::of(self.protocol, self.host),
            },
            _ => Error::Listen {
                address: self.host,
                source,
            },
        })
    }
}

/// `127.0.0.1:8080:80/tcp`.
impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.guest_port, self.protocol)
    }
}

impl From<PortMapping> for String {
    fn from(port: PortMapping) -> Self {
        port.to_string()
    }
}

impl TryFrom<String> for PortMapping {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl FromStr for PortMapping {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|expected| {
            Error::Config(format!("{text:?} is not a port to publish: {expected}"))
        })
    }
}

fn parse(text: &str) -> Result<PortMapping, &'static str> {
    let (ports, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some(_) => return Err("behind the `/` stands tcp or udp"),
    };
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let port = text.parse::<u16>().ok().filter(|_| digits);
        port.ok_or("ports are numbers from 1 to 65535, of the host also 0 for any that is free")
    };
    let (host, guest) = match ports.rsplit_once(':') {
        None => (ports, ports),
        Some((host, guest)) => (host, guest),
    };
    let (address, host_port) = match host.rsplit_once(':') {
        None => (IpAddr::V4(Ipv4Addr::LOCALHOST), host),
        Some((address, port)) => (parse_address(address)?, port),
    };
    let guest_port = number(guest)?;
    if guest_port == 0 {
        return Err("the guest's ports are from 1 to 65535");
    }
    Ok(PortMapping {
        host: SocketAddr::new(address, number(host_port)?),
        guest_port,
        protocol,
    })
}

fn parse_address(text: &str) -> Result<IpAddr, &'static str> {
    let bracketed = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = match bracketed {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => text.parse().ok().map(IpAddr::V4),
    };
    address.ok_or("write [ADDRESS:]PORT:GUEST_PORT[/udp], with an IPv6 address in brackets")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_parse_or_say_what_to_write() {
        for (text, expected) in [
            ("8080:80", Ok("127.0.0.1:8080:80/tcp")),
            ("8080", Ok("127.0.0.1:8080:8080/tcp")),
            ("53/udp", Ok("127.0.0.1:53:53/udp")),
            ("0:80", Ok("127.0.0.1:0:80/tcp")),
            ("0.0.0.0:8080:80/tcp", Ok("0.0.0.0:8080:80/tcp")),
            ("[::1]:8080:80", Ok("[::1]:8080:80/tcp")),
            ("[::]:8080:80/udp", Ok("[::]:8080:80/udp")),
            ("8080:0", Err("from 1 to 65535")),
            ("0", Err("from 1 to 65535")),
            ("", Err("ports are numbers")),
            ("8080:", Err("ports are numbers")),
            (":80", Err("ports are numbers")),
            ("65536:80", Err("ports are numbers")),
            ("+80:80", Err("ports are numbers")),
            ("8080-8090:80", Err("ports are numbers")),
            ("localhost:8080:80", Err("write [ADDRESS:]")),
            ("::1:8080:80", Err("write [ADDRESS:]")),
            ("[127.0.0.1]:8080:80", Err("write [ADDRESS:]")),
            ("8080:80/icmp", Err("tcp or udp")),
            ("8080:80/", Err("tcp or udp")),
        ] {
            let got = text.parse::<PortMapping>();
            match (got, expected) {
                (Ok(port), Ok(expected)) => {
                    assert_eq!(port.to_string(), expected, "{text}");
                    assert_eq!(expected.parse::<PortMapping>().unwrap(), port);
                }
                (Err(error), Err(expected)) => {
                    let error = error.to_string();
                    assert!(error.contains(expected), "{text}: {error}");
                    assert!(error.contains(&format!("{text:?}")), "{error}");
                }
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }

    #[test]
    fn a_port_that_is_taken_names_who_has_it() {
        for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let listener = std::net::TcpListener::bind(address).unwrap();
            let taken = listener.local_addr().unwrap();
            let mapping = PortMapping {
                host: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), taken.port()),
                ..PortMapping::tcp(0, 80)
            };
            let mapping = match taken.ip() {
                IpAddr::V6(_) => PortMapping {
                    host: taken,
                    ..mapping
                },
                IpAddr::V4(_) => mapping,
            };
            let error = mapping.bind().unwrap_err().to_string();
            assert!(error.contains(&mapping.to_string()), "{error}");
            let process = format!("(process {})", std::process::id());
            assert!(error.contains(&process), "{error}");
        }
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let error = PortMapping::udp(port, 53).bind().unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
    }
}
