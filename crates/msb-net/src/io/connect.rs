//! The host's own connect on behalf of the guest.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::action::Refusal;

/// How long a connect may take in all.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Connects to what the guest dialled; the gateway stands for the host's loopback.
///
/// # Errors
/// The last address's error, or [`io::ErrorKind::TimedOut`] after 10 s.
pub(super) async fn connect(destination: SocketAddr, to_host: bool) -> io::Result<TcpStream> {
    let attempts = async {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in targets(destination, to_host) {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
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

/// What the guest is told about a failed connect.
pub(super) fn refusal(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::TimedOut => Refusal::Unreachable,
        _ => Refusal::Reset,
    }
}

fn targets(destination: SocketAddr, to_host: bool) -> Vec<SocketAddr> {
    let port = destination.port();
    let loopback_v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match (to_host, destination.is_ipv6()) {
        (false, _) => vec![destination],
        (true, false) => vec![loopback_v4],
        // Many host services listen on 127.0.0.1 only.
        (true, true) => vec![SocketAddr::from((Ipv6Addr::LOCALHOST, port)), loopback_v4],
    }
}
