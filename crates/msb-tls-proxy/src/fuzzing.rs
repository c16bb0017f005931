//! Entries for the fuzz targets, behind TLS; no part of the interface.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use msb_name::HostName;
use msb_policy::InterceptedConnection;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::TlsProxy;
use crate::io::bridge::{Session, bridge};
use crate::io::http2;
use crate::session::hello::{HelloFault, HelloReader};
use crate::session::protocol::Protocol;

/// What a ClientHello is taken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The beginning of one.
    NeedMore,
    /// Something else.
    NotTls,
    /// One that is longer than it may be.
    TooLarge,
    /// One that no server could read.
    Malformed,
    /// A whole one, which names no server.
    NoName,
    /// A whole one, for this server.
    Name(HostName),
}

/// Reads `pieces` as they might arrive, up to the first answer; `limit` is in bytes.
#[must_use]
pub fn client_hello<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limit: usize) -> Answer {
    let mut reader = HelloReader::new(limit);
    for piece in pieces {
        match reader.push(piece) {
            Ok(None) => {}
            Ok(Some(hello)) => return hello.server_name.map_or(Answer::NoName, Answer::Name),
            Err(HelloFault::NotTls) => return Answer::NotTls,
            Err(HelloFault::TooLarge) => return Answer::TooLarge,
            Err(HelloFault::Malformed { .. }) => return Answer::Malformed,
        }
    }
    Answer::NeedMore
}

/// Serves what both sides say inside of their TLS; `connection` is what is known of them. True if the guest would be
/// reset.
pub async fn serve_decrypted<G, U>(
    proxy: &TlsProxy,
    guest: G,
    upstream: U,
    connection: InterceptedConnection,
    http2: bool,
) -> bool
where
    G: AsyncRead + AsyncWrite + Send + Unpin,
    U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let destination = SocketAddr::from(([192, 0, 2, 1], 443));
    let session = Arc::new(Session {
        protocol: if http2 {
            Protocol::Http2
        } else {
            Protocol::Http1
        },
        ..proxy.session(connection, destination)
    });
    let (stop, broken) = (Arc::clone(&session.stop), Arc::clone(&session.broken));
    match session.protocol {
        Protocol::Http1 => bridge(guest, upstream, session).await,
        Protocol::Http2 => http2::bridge(guest, upstream, session).await,
    }
    stop.is_raised() || broken.load(Ordering::Relaxed)
}
