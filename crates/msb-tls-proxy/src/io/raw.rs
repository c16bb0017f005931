//! What is not HTTP inside TLS: found out by what is said, then relayed both ways and searched.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use msb_name::Host;
use msb_policy::HttpPolicy;
use msb_secrets::{BodyKind, BodyScrubber, StreamWatcher, Violation};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf,
};
use tokio::time::{Instant, timeout};

use super::bridge::{Session, bridge};
use super::stream::Prefixed;
use crate::session::beginning::{Beginning, Spoken};
use crate::session::head;
use crate::{Event, Limits};

const CHUNK: usize = 16 * 1024;
/// The longest first line of a guest that is looked at; no other protocol's is longer.
const LONGEST_LINE: usize = 8 * 1024;
/// How long the server's beginning of a value is kept back for what follows.
const PAUSE: Duration = Duration::from_millis(20);

/// What was said before it was clear what is spoken.
struct First {
    spoken: Spoken,
    beginning: Beginning,
    from_guest: Bytes,
    from_upstream: Bytes,
}

/// Serves a connection of which it has to show what it carries. Once it is HTTP it stays that.
pub(crate) async fn serve<G, U>(guest: &mut G, mut upstream: U, session: Arc<Session>)
where
    G: AsyncRead + AsyncWrite + Send + Unpin,
    U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some(first) = listen(guest, &mut upstream, &session).await else {
        return;
    };
    if first.spoken == Spoken::Http {
        let upstream = Prefixed::new(first.from_upstream, upstream);
        return bridge(Prefixed::new(first.from_guest, guest), upstream, session).await;
    }
    (session.events)(Event::Relayed {
        host: session.host().clone(),
        destination: session.destination,
    });
    relay(guest, upstream, first, None, &session).await;
}

/// Listens to both sides until it is clear what is spoken; `None` if the connection ends before.
///
/// Nothing goes on meanwhile, so nobody is waited for who may be waiting himself: the server's first byte decides, and
/// a guest that stops in the middle of a line is taken not to speak HTTP. If it turns out later that it does,
/// [`relay`] ends the connection.
async fn listen<G, U>(guest: &mut G, upstream: &mut U, session: &Session) -> Option<First>
where
    G: AsyncRead + Unpin,
    U: AsyncRead + Unpin,
{
    let limits = &session.limits;
    let mut beginning = Beginning::new(limits.head_len.min(LONGEST_LINE));
    let (mut from_guest, mut from_upstream) = (BytesMut::new(), BytesMut::new());
    let mut deadline = Instant::now() + limits.idle_timeout;
    let mut upstream_open = true;
    let spoken = loop {
        tokio::select! {
            biased;
            () = session.draining() => return None,
            read = guest.read_buf(&mut from_guest) => {
                let read = read.ok()?;
                if read == 0 {
                    // A whole request cannot follow; half of one is for who answers requests.
                    break if from_guest.is_empty() { Spoken::Other } else { Spoken::Http };
                }
                match beginning.push(&from_guest[from_guest.len() - read..]) {
                    Spoken::Undecided => deadline = Instant::now() + limits.continue_wait,
                    spoken => break spoken,
                }
            }
            read = upstream.read_buf(&mut from_upstream), if upstream_open => {
                if matches!(read, Ok(1..)) {
                    break Spoken::Other;
                }
                // A guest that has a request on its way is to be told; another one waits for this end.
                upstream_open = false;
                deadline = Instant::now() + limits.continue_wait;
            }
            () = tokio::time::sleep_until(deadline) => {
                if upstream_open && from_guest.is_empty() {
                    return None;
                }
                break Spoken::Other;
            }
        }
    };
    Some(First {
        spoken,
        beginning,
        from_guest: from_guest.freeze(),
        from_upstream: from_upstream.freeze(),
    })
}

/// Waits for a request, for a guest whose server is not there: what it began with, or `None` if it does not speak HTTP
/// and cannot be told.
pub(crate) async fn request<G: AsyncRead + Unpin>(guest: &mut G, limits: &Limits) -> Option<Bytes> {
    let mut beginning = Beginning::new(limits.head_len.min(LONGEST_LINE));
    let mut read = BytesMut::new();
    let listen = async {
        loop {
            let len = guest.read_buf(&mut read).await.ok()?;
            match beginning.push(&read[read.len() - len..]) {
                Spoken::Http => return Some(()),
                Spoken::Undecided if len > 0 => {}
                _ => return None,
            }
        }
    };
    timeout(limits.handshake_timeout, listen).await.ok()??;
    Some(read.freeze())
}

/// Relays what is in a tunnel that the server has opened for the guest. Not HTTP: a server that answers any method with 200
/// has opened none, and would take what follows for requests that nobody has checked.
pub(crate) async fn tunnel<G, U>(guest: G, upstream: U, target: Option<Host>, session: &Session)
where
    G: AsyncRead + AsyncWrite + Send + Unpin,
    U: AsyncRead + AsyncWrite + Send + Unpin,
{
    let first = First {
        spoken: Spoken::Other,
        beginning: Beginning::new(session.limits.head_len.min(LONGEST_LINE)),
        from_guest: Bytes::new(),
        from_upstream: Bytes::new(),
    };
    relay(guest, upstream, first, target, session).await;
}

enum Ended {
    /// One side is gone without having said so.
    Cut,
    /// One side is broken.
    Io,
    Violation(Violation),
    Http,
    /// Rules have come that name this host.
    Governed(Host),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Cut,
            _ => Self::Io,
        }
    }
}

/// Relays both ways, half-close by half-close. What ends it otherwise is for the caller to see in [`Session::stop`] and
/// [`Session::broken`], as on requests.
///
/// What the guest sends is searched for placeholders, and nothing is written into it; in what a host sends that may have
/// a secret, values are covered at the same length.
async fn relay<G, U>(guest: G, upstream: U, first: First, target: Option<Host>, session: &Session)
where
    G: AsyncRead + AsyncWrite + Send + Unpin,
    U: AsyncRead + AsyncWrite + Send + Unpin,
{
    let secrets = (session.secrets)();
    let watcher = (!secrets.is_empty()).then(|| secrets.payload(&session.connection));
    let scrubber = head::scrubber(&session.connection, &secrets);
    let scrubber = scrubber.map(|scrubber| scrubber.body(BodyKind::Other));
    let First {
        beginning,
        from_guest,
        from_upstream,
        ..
    } = first;
    let (mut guest_read, mut guest_write) = tokio::io::split(guest);
    let (mut upstream_read, mut upstream_write) = tokio::io::split(upstream);
    let sending = Sending {
        beginning,
        watcher,
        session,
    };
    let hosts = [Some(session.host().clone()), target];
    let governed = async {
        let mut governed = None;
        let names = |rules: &HttpPolicy| {
            let mut hosts = hosts.iter().flatten();
            governed = hosts.find(|host| rules.governs(host)).cloned();
            governed.is_some()
        };
        session.http_rules.until(names).await;
        governed.map_or(Ok(()), |host| Err(Ended::Governed(host)))
    };
    let carried = async {
        tokio::try_join!(
            sending.carry(from_guest, &mut guest_read, &mut upstream_write),
            carry_back(
                from_upstream,
                &mut upstream_read,
                &mut guest_write,
                scrubber,
                session
            ),
        )
        .map(drop)
    };
    let ended = tokio::select! {
        biased;
        ended = governed => ended,
        ended = carried => ended,
    };
    let Err(ended) = ended else { return };
    match ended {
        // Each side gets to see what the other did: an end that was not announced.
        Ended::Cut => return,
        Ended::Io => {}
        Ended::Violation(violation) => {
            if session.stop.raise() {
                (session.events)(Event::Violation {
                    host: session.host().clone(),
                    port: session.port(),
                    method: None,
                    path: None,
                    violation,
                    action: session.on_violation,
                });
            }
        }
        Ended::Governed(host) => (session.events)(Event::RelayRefused {
            reason: format!("HTTP rules name {host} now, so it can be reached by HTTP only"),
            host,
            destination: session.destination,
        }),
        Ended::Http => (session.events)(Event::RelayRefused {
            host: session.host().clone(),
            destination: session.destination,
            reason: "an HTTP request on a connection that was taken to carry something else"
                .to_owned(),
        }),
    }
    session.broken.store(true, Ordering::Relaxed);
}

/// The guest's direction.
struct Sending<'a> {
    beginning: Beginning,
    watcher: Option<StreamWatcher>,
    session: &'a Session,
}

impl Sending<'_> {
    async fn carry<R, W>(
        mut self,
        first: Bytes,
        from: &mut ReadHalf<R>,
        to: &mut WriteHalf<W>,
    ) -> Result<(), Ended>
    where
        R: AsyncRead,
        W: AsyncWrite,
    {
        // Looked at before it came here.
        if !first.is_empty() {
            self.send(first, to).await?;
        }
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK);
            let read = from.read_buf(&mut buffer);
            let waits = self.watcher.as_ref().is_some_and(StreamWatcher::is_waiting);
            let read = match waits {
                false => read.await?,
                true => match timeout(self.session.limits.continue_wait, read).await {
                    Ok(read) => read?,
                    // Nothing follows that would make it a part of something else.
                    Err(_) => {
                        self.finish(to).await?;
                        continue;
                    }
                },
            };
            if read == 0 {
                self.finish(to).await?;
                to.shutdown().await?;
                return Ok(());
            }
            if self.beginning.push(&buffer) == Spoken::Http {
                return Err(Ended::Http);
            }
            self.send(buffer.split().freeze(), to).await?;
        }
    }

    async fn send<W: AsyncWrite>(
        &mut self,
        chunk: Bytes,
        to: &mut WriteHalf<W>,
    ) -> Result<(), Ended> {
        match &mut self.watcher {
            None => to.write_all(&chunk).await?,
            Some(watcher) => {
                let pieces = watcher.push(chunk).map_err(Ended::Violation)?;
                for piece in pieces {
                    to.write_all(&piece).await?;
                }
                self.session.report(watcher.take_notes());
            }
        }
        to.flush().await?;
        Ok(())
    }

    async fn finish<W: AsyncWrite>(&mut self, to: &mut WriteHalf<W>) -> Result<(), Ended> {
        let Some(watcher) = &mut self.watcher else {
            return Ok(());
        };
        for piece in watcher.finish().map_err(Ended::Violation)? {
            to.write_all(&piece).await?;
        }
        self.session.report(watcher.take_notes());
        to.flush().await?;
        Ok(())
    }
}

/// The server's direction.
async fn carry_back<R, W>(
    first: Bytes,
    from: &mut ReadHalf<R>,
    to: &mut WriteHalf<W>,
    mut scrubber: Option<BodyScrubber>,
    session: &Session,
) -> Result<(), Ended>
where
    R: AsyncRead,
    W: AsyncWrite,
{
    let mut buffer = BytesMut::from(first);
    loop {
        if buffer.is_empty() {
            buffer.reserve(CHUNK);
            let waits = scrubber.as_ref().is_some_and(BodyScrubber::is_waiting);
            let read = from.read_buf(&mut buffer);
            let read = match waits {
                false => Some(read.await?),
                true => timeout(PAUSE, read).await.ok().transpose()?,
            };
            if read == Some(0) {
                break;
            }
        }
        let chunk = buffer.split().freeze();
        match &mut scrubber {
            None => to.write_all(&chunk).await?,
            Some(scrubber) => {
                // Of nothing new within the pause: whoever sent it may be waiting for an answer to it.
                let pieces = if chunk.is_empty() {
                    scrubber.pause()
                } else {
                    scrubber.push(chunk)
                };
                for piece in pieces {
                    to.write_all(&piece).await?;
                }
                session.report(scrubber.take_notes());
            }
        }
        to.flush().await?;
    }
    if let Some(scrubber) = &mut scrubber {
        for piece in scrubber.finish() {
            to.write_all(&piece).await?;
        }
        session.report(scrubber.take_notes());
        to.flush().await?;
    }
    to.shutdown().await?;
    Ok(())
}
