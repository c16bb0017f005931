//! TCP that is not intercepted: relayed both ways, scanned one way.

use std::io;
use std::sync::PoisonError;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use msb_name::Host;
use msb_secrets::{SecretSet, StreamRewriter, Violation, ViolationAction};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf,
};

use crate::{Connection, Event, EventSink};

/// How much is read at once.
const CHUNK: usize = 64 * 1024;

enum Fault {
    /// One side is gone; what it was matters to nobody.
    Io,
    Violation(Violation),
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

/// Relays a connection that is not intercepted, byte for byte and half-close by half-close.
///
/// What the guest sends is scanned: nobody knows who is at the other end, so any placeholder is a
/// violation, and the guest is reset before the placeholder is whole upstream. It returns when
/// both directions have ended, or at the first fault; dropping the future drops the connection.
pub async fn relay_plain<G, U>(
    connection: Connection<G, U>,
    secrets: SecretSet,
    on_violation: ViolationAction,
    events: EventSink,
) where
    G: AsyncRead + AsyncWrite + Send + Unpin,
    U: AsyncRead + AsyncWrite + Send + Unpin,
{
    let Connection {
        guest,
        reset,
        upstream,
        destination,
        pins,
    } = connection;
    let (mut guest_read, mut guest_write) = tokio::io::split(guest);
    let (mut upstream_read, mut upstream_write) = tokio::io::split(upstream);
    // The halves outlive the relay, for a stream that is gone cannot be reset.
    let ended = tokio::try_join!(
        scan(&mut guest_read, &mut upstream_write, secrets.plain()),
        pass(&mut upstream_read, &mut guest_write),
    );
    let Err(fault) = ended else { return };
    if let Fault::Violation(violation) = fault {
        let names = pins
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .names(destination.ip(), Instant::now());
        events(Event::Violation {
            host: host_of(names, destination.ip()),
            method: None,
            path: None,
            violation,
            action: on_violation,
        });
    }
    reset.reset();
}

/// Splices two streams byte for byte, `first` being sent upstream before all else.
pub(crate) async fn splice<G, U>(connection: Connection<G, U>, first: Vec<u8>)
where
    G: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let Connection {
        mut guest,
        reset,
        mut upstream,
        ..
    } = connection;
    let spliced = async {
        upstream.write_all(&first).await?;
        drop(first);
        tokio::io::copy_bidirectional_with_sizes(&mut guest, &mut upstream, CHUNK, CHUNK).await
    };
    if spliced.await.is_err() {
        reset.reset();
    }
}

/// The one name that stands for the address, else the address.
pub(crate) fn host_of(mut names: Vec<msb_name::HostName>, address: std::net::IpAddr) -> Host {
    match (names.pop(), names.is_empty()) {
        (Some(name), true) => Host::Name(name),
        _ => Host::Ip(address),
    }
}

async fn scan<G, U>(
    guest: &mut ReadHalf<G>,
    upstream: &mut WriteHalf<U>,
    mut rewriter: StreamRewriter,
) -> Result<(), Fault>
where
    G: AsyncRead,
    U: AsyncWrite,
{
    loop {
        let chunk = read_chunk(guest).await?;
        let last = chunk.is_empty();
        let ready = if last {
            rewriter.finish()
        } else {
            rewriter.push(chunk)
        };
        for bytes in ready.map_err(Fault::Violation)? {
            upstream.write_all(&bytes).await?;
        }
        upstream.flush().await?;
        if last {
            upstream.shutdown().await?;
            return Ok(());
        }
    }
}

async fn pass<G, U>(upstream: &mut ReadHalf<U>, guest: &mut WriteHalf<G>) -> Result<(), Fault>
where
    G: AsyncWrite,
    U: AsyncRead,
{
    let mut upstream = BufReader::with_capacity(CHUNK, upstream);
    tokio::io::copy_buf(&mut upstream, guest).await?;
    guest.shutdown().await?;
    Ok(())
}

async fn read_chunk(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    stream.read_buf(&mut buffer).await?;
    Ok(buffer.freeze())
}
