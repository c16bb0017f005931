//! The host's own connect on behalf of the guest.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use msb_policy::Denial;
use rustix::net::sockopt;
use tokio::net::{TcpSocket, TcpStream};

use crate::action::Refusal;

/// How long a connect may take in all.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// When a silent peer is asked for the first time: sooner than the five minutes after which many firewalls forget.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
/// How often it is asked again, and how often in all.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_PROBES: u32 = 4;

/// Connects to what the guest dialled; the gateway stands for the host's loopback.
///
/// Services that listen on all of the host's addresses could be reached at any of them, past the firewall that guards
/// them from outside. So an address of the host's own counts as the host, which `if_own` decides about.
///
/// # Errors
/// The last address's error, [`io::ErrorKind::TimedOut`] after 10 s, or [`Denied`] inside of
/// [`io::ErrorKind::PermissionDenied`].
pub(super) async fn connect(
    destination: SocketAddr,
    to_host: bool,
    if_own: Result<(), Denial>,
) -> io::Result<TcpStream> {
    if let (false, Err(denial)) = (to_host, if_own)
        && is_own_address(destination.ip())?
    {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            Denied(denial),
        ));
    }
    let attempts = async {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in targets(destination, to_host) {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    keep_alive(&stream);
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    tokio::time::timeout(CONNECT_LIMIT, attempts)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Lets the kernel ask servers, or clients, that say nothing whether they are still there, and keep the way to them open.
/// Without it such a connection is as good, so a kernel that cannot is no fault.
pub(super) fn keep_alive(stream: &TcpStream) {
    let set = || {
        sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
        sockopt::set_socket_keepalive(stream, true)
    };
    if let Err(error) = set() {
        tracing::debug!(%error, "no keep-alive");
    }
}

/// The destination is one of the host's own addresses.
#[derive(Debug)]
pub(super) struct Denied(pub(super) Denial);

impl std::error::Error for Denied {}

impl fmt::Display for Denied {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "it is an address of the host itself: {}", self.0)
    }
}

/// What the guest is told about a failed connect.
pub(super) fn refusal(error: &io::Error) -> Refusal {
    if let Some(Denied(denial)) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        return Refusal::Denied(denial.grounds().cause().clone());
    }
    match error.kind() {
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::TimedOut => Refusal::Unreachable,
        _ => Refusal::Reset,
    }
}

pub(super) fn targets(destination: SocketAddr, to_host: bool) -> Vec<SocketAddr> {
    let port = destination.port();
    let loopback_v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match (to_host, destination.is_ipv6()) {
        (false, _) => vec![destination],
        (true, false) => vec![loopback_v4],
        // Many host services listen on 127.0.0.1 only.
        (true, true) => vec![SocketAddr::from((Ipv6Addr::LOCALHOST, port)), loopback_v4],
    }
}

/// Whether connecting to `address` leads to the host itself: its loopback interface, or any address of its own.
///
/// # Errors
/// When no socket can be had, which a connect could not have either.
pub fn is_own_address(address: IpAddr) -> io::Result<bool> {
    let address = address.to_canonical();
    let nobodys = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    };
    if !can_bind(address)? {
        return Ok(false);
    }
    // A host may let its programs bind any address (`ip_nonlocal_bind`): then the route has to tell.
    Ok(!can_bind(nobodys)? || source_towards(address) == Some(address))
}

/// Whether the kernel lets a socket have `address`. In doubt it does.
fn can_bind(address: IpAddr) -> io::Result<bool> {
    let socket = match address {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    let bound = socket.bind(SocketAddr::new(address, 0));
    Ok(!matches!(bound, Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable))
}

/// The address the host would send from; nothing is sent.
fn source_towards(address: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((address, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use msb_policy::{Action, Cause, Decision, Flow, NetworkPolicy, Protocol};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn the_hosts_own_addresses_are_known() {
        for own in ["127.0.0.1", "127.0.0.2", "::ffff:127.0.0.1", "0.0.0.0"] {
            assert!(is_own_address(ip(own)).unwrap(), "{own}");
        }
        for other in ["192.0.2.1", "8.8.8.8", "::ffff:8.8.8.8"] {
            assert!(!is_own_address(ip(other)).unwrap(), "{other}");
        }
        // None on a machine with no address but the loopback's.
        if let Some(own) = source_towards(ip("192.0.2.1")) {
            assert!(is_own_address(own).unwrap(), "{own}");
        }
    }

    #[tokio::test]
    async fn an_own_address_is_dialled_only_where_the_host_is_permitted() {
        let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        let flow = Flow::egress(Protocol::Tcp, own).to_host(true);
        let Decision::Deny(denial) = NetworkPolicy::default().decide(&flow) else {
            panic!("permitted");
        };
        let error = connect(own, false, Err(denial)).await.unwrap_err();
        assert_eq!(
            refusal(&error),
            Refusal::Denied(Cause::Default(Action::Deny))
        );
        assert!(error.to_string().contains("the host itself"), "{error}");
        connect(own, false, Ok(())).await.unwrap();
    }
}
