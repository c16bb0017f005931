//! TCP that is not intercepted: relayed both ways, scanned one way; plaintext HTTP by request where that counts.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use msb_name::{Host, HostName};
use msb_policy::{Destination, HttpPolicy, InterceptedConnection, PinTable, UpstreamTrust};
use msb_secrets::{SecretSet, StreamWatcher, Violation};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf,
};
use tokio::sync::watch;

use super::bridge::{Plaintext, Session, bridge, lock};
use super::guest::read_hello;
use super::overheard::{Heard, Listener};
use super::stop::Stop;
use super::stream::Prefixed;
use crate::session::hello::HANDSHAKE_RECORD;
use crate::session::opening::Opening;
use crate::session::protocol::Protocol;
use crate::{Connection, Event, HelloFailure, NonHttp, PlainConfig};

/// How much is read at once.
const CHUNK: usize = 64 * 1024;

enum Fault {
    /// One side is gone; what it was matters to nobody.
    Io,
    Violation(Violation),
    /// Rules have come that name this host.
    Governed(Host),
    /// A request, which nobody judges here, where there are rules.
    Http,
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

/// Relays a connection that is not intercepted, byte for byte and half-close by half-close.
///
/// What the guest sends is scanned: nobody knows who is at the other end, so any placeholder is a
/// violation, and the guest is reset before the placeholder is whole upstream. Nothing waits for that: what may
/// only begin one goes on. Where a secret
/// [asks for it](SecretSet::reads_plaintext), or there are rules about requests, a connection that the guest begins with an
/// HTTP/1 request is served request by request instead; and where rules name a host that may be at the other end, nothing
/// but such requests is carried. It returns when both directions have ended, or at the first fault; dropping the future
/// drops the connection.
pub async fn relay_plain<G, U>(mut connection: Connection<G, U>, config: PlainConfig)
where
    G: AsyncRead + AsyncWrite + Send + Unpin,
    U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let secrets = (config.secrets)();
    let rules = config.http_rules.current();
    if !secrets.reads_plaintext() && rules.is_empty() {
        return relay(connection, None, secrets, config).await;
    }
    let first = tokio::select! {
        first = first_words(&mut connection, config.limits.continue_wait) => first,
        () = config.drain.raised() => return,
    };
    let Ok(first) = first else {
        return connection.reset.reset();
    };
    // They may have changed meanwhile.
    let rules = config.http_rules.current();
    let first_byte = first.from_guest.first().copied();
    let mut heard = Heard::default();
    Listener::new(&config.limits).push(&first.from_guest, &mut heard);
    let mut connection = Connection {
        guest: Prefixed::new(first.from_guest, connection.guest),
        reset: connection.reset,
        upstream: Prefixed::new(first.from_upstream, connection.upstream),
        destination: connection.destination,
        pins: connection.pins,
    };
    match (first.opening, first_byte) {
        (Opening::Http, _) => return serve_requests(connection, config).await,
        // A part of a method, of which the rest may come at any time.
        (Opening::Unknown, Some(_)) if !rules.is_empty() => {
            return serve_requests(connection, config).await;
        }
        (Opening::Other | Opening::Unknown, _) => {}
    }
    let mut claimed = None;
    if !rules.is_empty() {
        let is_tls = first_byte == Some(HANDSHAKE_RECORD);
        match may_be_relayed(&mut connection, is_tls, &rules, &config).await {
            Some(name) => claimed = name,
            None => return connection.reset.reset(),
        }
        // Odd, but a server may read it as a request to whatever host it names.
        if heard.is_http {
            return serve_requests(connection, config).await;
        }
    }
    relay(connection, claimed, secrets, config).await
}

/// Whether what is not HTTP may go on where there are rules about requests: if none of them names a host that may be at the
/// other end. With the answer comes the name that TLS claims; a refusal is told.
async fn may_be_relayed<G, U>(
    connection: &mut Connection<Prefixed<G>, U>,
    is_tls: bool,
    rules: &HttpPolicy,
    config: &PlainConfig,
) -> Option<Option<HostName>>
where
    G: AsyncRead + Unpin,
{
    let destination = connection.destination;
    let mut claimed = None;
    if is_tls {
        let limits = &config.limits;
        let read = read_hello(&mut connection.guest, limits.hello_len);
        let read = tokio::time::timeout(limits.hello_timeout, read).await;
        match read.unwrap_or(Err((HelloFailure::TimedOut, None))) {
            Ok(hello) => {
                connection.guest.unread(&hello.raw);
                claimed = hello.server_name;
            }
            Err((failure, _)) => {
                (config.events)(Event::HelloFailed {
                    destination,
                    failure,
                });
                return None;
            }
        }
    }
    let names = lock(&connection.pins).names(destination.ip(), Instant::now());
    let Some(host) = rules.governed(claimed.as_ref(), &names, destination.ip()) else {
        return Some(claimed);
    };
    let port = destination.port();
    (config.events)(Event::RelayRefused {
        destination,
        reason: match is_tls {
            true => format!(
                "HTTP rules name {host}, and TLS on port {port} is not intercepted, so its requests could not be read; \
                 intercept that port (--tls-intercept-port {port})"
            ),
            false => format!("HTTP rules name {host}, so it can be reached by HTTP only"),
        },
        host,
    });
    None
}

/// What was said before it was clear what is spoken.
struct FirstWords {
    opening: Opening,
    from_guest: BytesMut,
    from_upstream: BytesMut,
}

/// Listens to both sides until it is clear what is spoken, or one of them waits: a server that
/// speaks first is not kept from it.
async fn first_words<G, U>(
    connection: &mut Connection<G, U>,
    patience: Duration,
) -> io::Result<FirstWords>
where
    G: AsyncRead + Unpin,
    U: AsyncRead + Unpin,
{
    let mut first = FirstWords {
        opening: Opening::Unknown,
        from_guest: BytesMut::new(),
        from_upstream: BytesMut::new(),
    };
    while first.opening == Opening::Unknown {
        let has_begun = !first.from_guest.is_empty();
        tokio::select! {
            read = connection.guest.read_buf(&mut first.from_guest) => {
                if read? == 0 {
                    break;
                }
                first.opening = Opening::of(&first.from_guest);
            }
            read = connection.upstream.read_buf(&mut first.from_upstream) => {
                read?;
                break;
            }
            () = tokio::time::sleep(patience), if has_begun => break,
        }
    }
    Ok(first)
}

/// Bridges plaintext HTTP/1 requests one by one.
async fn serve_requests<G, U>(connection: Connection<G, U>, config: PlainConfig)
where
    G: AsyncRead + AsyncWrite + Send + Unpin,
    U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Connection {
        mut guest,
        reset,
        upstream,
        destination,
        pins,
    } = connection;
    let stop = Arc::new(Stop::default());
    let broken = Arc::new(AtomicBool::new(false));
    let address = Destination::Unpinned(destination.ip());
    let session = Session {
        connection: InterceptedConnection::new(
            known_host(&pins, destination.ip()),
            address,
            UpstreamTrust::Plaintext,
        ),
        destination,
        plaintext: Some(Plaintext { destination, pins }),
        secrets: config.secrets,
        on_violation: config.on_violation,
        events: config.events,
        limits: config.limits,
        non_http: NonHttp::Refuse,
        http_rules: config.http_rules,
        stop: Arc::clone(&stop),
        broken: Arc::clone(&broken),
        protocol: Protocol::Http1,
        switch: Arc::default(),
        opened: Arc::default(),
        requests: Arc::default(),
        open: watch::Sender::new(0),
        drain: config.drain.receiver(),
        fault: Arc::default(),
    };
    let session = Arc::new(session);
    tokio::select! {
        biased;
        () = session.disallowed() => {}
        () = bridge(&mut guest, upstream, Arc::clone(&session)) => {}
    }
    if stop.is_raised() || broken.load(Ordering::Relaxed) {
        // While the stream is still there: what is gone cannot be reset.
        reset.reset();
    }
}

async fn relay<G, U>(
    connection: Connection<G, U>,
    claimed: Option<HostName>,
    secrets: SecretSet,
    config: PlainConfig,
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
    let address = destination.ip();
    let resolved = || lock(&pins).names(address, Instant::now());
    // Later ones count as well, and these do even when they have expired.
    let first_names = resolved();
    let heard = Mutex::new(Heard {
        claimed,
        ..Heard::default()
    });
    let refused = |rules: &HttpPolicy| {
        if rules.is_empty() {
            return None;
        }
        let heard = lock(&heard);
        if heard.is_http {
            return Some(Fault::Http);
        }
        let names = [&first_names[..], &resolved()].concat();
        let host = rules.governed(heard.claimed.as_ref(), &names, address);
        host.map(Fault::Governed)
    };
    let mut listener = Listener::new(&config.limits);
    let listen = |bytes: &[u8]| {
        let has_news = listener.push(bytes, &mut lock(&heard));
        let refused = has_news.then(|| refused(&config.http_rules.current()));
        refused.flatten().map_or(Ok(()), Err)
    };
    let (mut guest_read, mut guest_write) = tokio::io::split(guest);
    let (mut upstream_read, mut upstream_write) = tokio::io::split(upstream);
    // The halves outlive the relay, for a stream that is gone cannot be reset.
    let relayed = async {
        let ways = tokio::try_join!(
            scan(
                &mut guest_read,
                &mut upstream_write,
                secrets.plain().watching(),
                config.limits.continue_wait,
                listen
            ),
            pass(&mut upstream_read, &mut guest_write),
        );
        ways.map(drop)
    };
    let disallowed = async {
        let mut fault = None;
        let disallow = |rules: &HttpPolicy| {
            fault = refused(rules);
            fault.is_some()
        };
        config.http_rules.until(disallow).await;
        fault.map_or(Ok(()), Err)
    };
    let ended = tokio::select! {
        biased;
        ended = disallowed => ended,
        ended = relayed => ended,
    };
    match ended {
        Ok(()) => return,
        Err(Fault::Io) => {}
        Err(Fault::Violation(violation)) => (config.events)(Event::Violation {
            host: known_host(&pins, destination.ip()),
            port: destination.port(),
            method: None,
            path: None,
            violation,
            action: config.on_violation,
        }),
        Err(Fault::Governed(host)) => (config.events)(Event::RelayRefused {
            reason: format!("HTTP rules name {host} now, so it can be reached by HTTP only"),
            host,
            destination,
        }),
        Err(Fault::Http) => (config.events)(Event::RelayRefused {
            host: known_host(&pins, address),
            destination,
            reason: "there are HTTP rules, and an HTTP request on a connection that was taken to carry something else"
                .to_owned(),
        }),
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

/// The one name that was resolved to the address, else the address.
pub(crate) fn known_host(pins: &Mutex<PinTable>, address: IpAddr) -> Host {
    let pins = pins.lock().unwrap_or_else(PoisonError::into_inner);
    host_of(pins.names(address, Instant::now()), address)
}

/// The one name that stands for the address, else the address.
pub(crate) fn host_of(mut names: Vec<HostName>, address: IpAddr) -> Host {
    match (names.pop(), names.is_empty()) {
        (Some(name), true) => Host::Name(name),
        _ => Host::Ip(address),
    }
}

async fn scan<G, U>(
    guest: &mut ReadHalf<G>,
    upstream: &mut WriteHalf<U>,
    mut watcher: StreamWatcher,
    patience: Duration,
    mut listen: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault>
where
    G: AsyncRead,
    U: AsyncWrite,
{
    loop {
        let read = read_chunk(guest);
        let chunk = match watcher.is_waiting() {
            false => read.await?,
            // Nothing that follows makes it a part of something else.
            true => match tokio::time::timeout(patience, read).await {
                Ok(read) => read?,
                Err(_) => Bytes::new(),
            },
        };
        listen(&chunk)?;
        let last = chunk.is_empty();
        let ready = if last {
            watcher.finish()
        } else {
            watcher.push(chunk)
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
