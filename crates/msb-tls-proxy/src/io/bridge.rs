//! HTTP/1.1 between two streams, one request after the other.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::uri::Scheme;
use http::{Request, Response, StatusCode, request};
use hyper::body::Incoming;
use hyper::server::conn::http1::Parts;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use msb_name::Host;
use msb_policy::{Destination, HttpPolicy, InterceptedConnection, PinTable, UpstreamTrust};
use msb_secrets::{Note, NoteKind, ViolationAction};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::client::Client;
use super::exchange::{AnswerBody, Switched, answer, exchange};
use super::incoming::Incoming as Body;
use super::interim::{Informed, Waiting};
use super::proxy::destination_of;
use super::rest::Settled;
use super::stop::Stop;
use super::stream::{Checked, Prefixed};
use super::{raw, websocket};
use crate::config::Secrets;
use crate::rules::OpenRequests;
use crate::session::head;
use crate::session::protocol::Protocol;
use crate::{DeniedRequests, Drain, Event, EventSink, HttpRules, Limits, NonHttp};

/// How long a finished connection may take to say goodbye upstream.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);

/// As many fields the HTTP library takes without being asked; for a number it allocates with each head.
const UNASKED_HEADERS: usize = 100;

/// What the requests of one connection have in common.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) connection: InterceptedConnection,
    /// Where the connection goes.
    pub(crate) destination: SocketAddr,
    /// There is no TLS, and each request has a connection of its own to the host it names.
    pub(crate) plaintext: Option<Plaintext>,
    /// Asked at the head of every request for the secrets as they are then.
    pub(crate) secrets: Secrets,
    pub(crate) on_violation: ViolationAction,
    pub(crate) events: EventSink,
    pub(crate) limits: Limits,
    pub(crate) non_http: NonHttp,
    /// Asked at the head of every request.
    pub(crate) http_rules: HttpRules,
    pub(crate) stop: Arc<Stop>,
    /// Whether an answer broke off, which its guest must not take for its end.
    pub(crate) broken: Arc<AtomicBool>,
    pub(crate) protocol: Protocol,
    pub(crate) switch: Arc<Switch>,
    /// How many requests there have been.
    pub(crate) opened: Arc<AtomicUsize>,
    /// Those that are being served.
    pub(crate) requests: Arc<OpenRequests>,
    /// How many they are.
    pub(crate) open: watch::Sender<usize>,
    /// Set when connections are to end as soon as no request is open on them.
    pub(crate) drain: watch::Receiver<bool>,
    /// What the connection to the server broke with, in one line.
    pub(crate) fault: Arc<OnceLock<String>>,
}

/// Whether a guest has asked for a WebSocket, and what became of it.
#[derive(Default)]
pub(crate) struct Switch {
    pub(crate) asked: AtomicBool,
    pub(crate) done: Mutex<Option<Switched>>,
}

/// The address of a plaintext connection, and which names were resolved to it.
#[derive(Clone)]
pub(crate) struct Plaintext {
    pub(crate) destination: SocketAddr,
    pub(crate) pins: Arc<Mutex<PinTable>>,
}

impl Session {
    /// What holds for a request with this head.
    pub(crate) fn for_request(self: Arc<Self>, head: &request::Parts) -> Arc<Self> {
        let Some(plaintext) = &self.plaintext else {
            return self;
        };
        let Ok(authority) = head::authority(head, &Scheme::HTTP) else {
            // It is refused as soon as it is looked at.
            return self;
        };
        let host = authority.host().clone();
        let evidence = destination_of(&host, plaintext.destination, &plaintext.pins);
        Arc::new(Self {
            connection: InterceptedConnection::new(host, evidence, UpstreamTrust::Plaintext),
            ..Self::clone(&self)
        })
    }

    /// Waits until rules are in place that deny a request which is being served; it is told, and the connection to be
    /// reset (SPEC P8).
    pub(crate) async fn disallowed(&self) {
        let mut denied = None;
        let deny = |rules: &HttpPolicy| {
            denied = self.requests.denied(rules);
            denied.is_some()
        };
        self.http_rules.until(deny).await;
        if let Some((asked, denial)) = denied {
            (self.events)(asked.event(denial, DeniedRequests::Reset));
        }
        self.stop.raise();
    }

    /// Waits until the connection is to end.
    pub(crate) async fn draining(&self) {
        Drain(Some(self.drain.clone())).raised().await;
    }

    pub(crate) fn host(&self) -> &Host {
        self.connection.host()
    }

    /// Those that may answer a request, the one it names first. Without TLS it may name any, so unless its address was
    /// resolved for that, all that it was resolved for count as well.
    pub(crate) fn possible_hosts(&self) -> Vec<Host> {
        let mut hosts = vec![self.host().clone()];
        if let Some(Plaintext { destination, pins }) = &self.plaintext
            && let Destination::Unpinned(_) = self.connection.destination()
        {
            let names = lock(pins).names(destination.ip(), Instant::now());
            hosts.extend(names.into_iter().map(Host::Name));
        }
        hosts
    }

    pub(crate) fn port(&self) -> u16 {
        self.destination.port()
    }

    /// Tells what became of placeholders that were no violation, and of values that came back.
    pub(crate) fn report(&self, notes: Vec<Note>) {
        for note in notes {
            let (host, port) = (self.host().clone(), self.port());
            let (secret, location) = (note.env().to_owned(), note.location().clone());
            let form = note.form();
            (self.events)(match note.kind() {
                NoteKind::Substituted => Event::Substituted {
                    host,
                    port,
                    secret,
                    location,
                    form,
                },
                NoteKind::Scrubbed => Event::Scrubbed {
                    host,
                    port,
                    secret,
                    location,
                    form,
                },
                _ => Event::LeftAlone {
                    host,
                    port,
                    secret,
                    location,
                    form,
                },
            });
        }
    }

    pub(crate) fn refuse(&self, status: StatusCode, reason: String) -> Response<AnswerBody> {
        (self.events)(Event::RequestRefused {
            host: self.host().clone(),
            port: self.port(),
            status: status.as_u16(),
            reason: reason.clone(),
        });
        answer(self.protocol, status, reason)
    }
}

/// Serves the guest's requests from `upstream` until either side ends or a violation is found;
/// the latter is for the caller to see in [`Session::stop`], and in [`Session::broken`] whether
/// the guest's last answer is whole.
pub(crate) async fn bridge<G, U>(guest: G, upstream: U, session: Arc<Session>)
where
    G: AsyncRead + AsyncWrite + Send + Unpin,
    U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut guest, mut upstream) = (Prefixed::from(guest), Prefixed::from(upstream));
    let mut answered = false;
    loop {
        // Boxed, so that its buffers are given back while the connection rests.
        match Box::pin(serve(guest, upstream, &session, answered)).await {
            Left::Nothing => return,
            Left::Switched(guest, upstream, switched) => {
                return match switched.is_tunnel {
                    true => {
                        let target = switched.target();
                        // What is relayed is judged by where it goes.
                        drop(switched);
                        Box::pin(raw::tunnel(guest, upstream, target, &session)).await;
                    }
                    false => Box::pin(websocket::relay(guest, upstream, *switched, &session)).await,
                };
            }
            Left::Streams(resting, server, has_answered) => {
                (guest, upstream, answered) = (resting, server, has_answered);
            }
        }
        // A request that has begun has its time limit where it is read.
        if !guest.has_unread() && !session.rest(&mut guest, &mut upstream).await {
            return;
        }
    }
}

/// What is left of a connection when there is nothing more to serve for now.
enum Left<G, U> {
    Nothing,
    /// The streams, and whether the server has answered yet.
    Streams(G, U, bool),
    Switched(G, U, Box<Switched>),
}

/// Serves requests until either side ends, or there are none for a while.
async fn serve<G, U>(
    guest: Prefixed<G>,
    upstream: Prefixed<U>,
    session: &Arc<Session>,
    answered: bool,
) -> Left<Prefixed<G>, Prefixed<U>>
where
    G: AsyncRead + AsyncWrite + Send + Unpin,
    U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let limits = session.limits;
    let begun = guest.has_unread();
    let (sent, told) = (Settled::default(), Settled::default());
    let handshake = client(&limits).handshake(TokioIo::new(sent.watch(upstream)));
    let handshake = handshake.await;
    // It sends nothing, so there is nothing that could fail.
    let Ok((sender, upstream)) = handshake else {
        return Left::Nothing;
    };
    let mut upstream = Some(upstream);
    let client = Arc::new(Client::http1(sender, answered));
    let (guest, switched) = {
        let guest = Checked::new(told.watch(guest), limits.head_len, |reason: &str| {
            report_framing(session, reason);
        });
        let waiting = Waiting::default();
        let guest = Informed::new(guest, waiting.clone());
        let service = service_fn(|mut request: Request<Incoming>| {
            let (session, client) = (Arc::clone(session), Arc::clone(&client));
            request.extensions_mut().insert(waiting.interim());
            // Boxed, so that a connection between two requests has no room for one.
            Box::pin(exchange(session, client, request.map(Body::Http1)))
        });
        let mut guest = server(&limits).serve_connection(TokioIo::new(guest), service);
        let mut draining = pin!(session.draining());
        let mut resting = pin!(session.resting([&sent, &told], begun));
        let (mut upstream_open, mut closing, mut rests) = (true, false, false);
        loop {
            tokio::select! {
                biased;
                () = session.stop.raised() => return Left::Nothing,
                Some(ended) = ended(&mut upstream), if upstream_open => {
                    upstream_open = false;
                    if !session.switch.asked.load(Ordering::Relaxed) {
                        // With it goes the body that nobody will take any more; the guest would be waited for to
                        // finish sending it.
                        upstream = None;
                    }
                    if let Err(error) = ended {
                        session.fault.get_or_init(|| describe(&error));
                    }
                    // No further request can be served; the one that is being answered is finished. A guest that
                    // has asked nothing yet is not left without a word: its first request is answered 502. And one
                    // that has asked for a WebSocket may go on with that.
                    if client.has_answered() && !session.switch.asked.load(Ordering::Relaxed) {
                        Pin::new(&mut guest).graceful_shutdown();
                    }
                }
                () = &mut draining, if !closing => {
                    closing = true;
                    Pin::new(&mut guest).graceful_shutdown();
                }
                _ = &mut guest => break,
                // The last, so that both sides have been polled and have nothing to do.
                () = &mut resting, if upstream_open && !closing => {
                    rests = true;
                    break;
                }
            }
        }
        let switched = lock(&session.switch.done).take();
        if switched.is_none() && !rests {
            if !upstream_open || session.stop.is_raised() {
                return Left::Nothing;
            }
            drop(guest);
            drop(client);
            let _ = tokio::time::timeout(FAREWELL, ended(&mut upstream)).await;
            return Left::Nothing;
        }
        let Parts { io, read_buf, .. } = guest.into_parts();
        let Some(stream) = io.into_inner().into_inner().into_inner() else {
            // What came behind the request was no HTTP, and it was told so before the switch.
            return Left::Nothing;
        };
        let mut guest = stream.into_inner();
        guest.unread(&read_buf);
        (guest, switched)
    };
    let Some(upstream) = upstream else {
        return Left::Nothing;
    };
    let parts = upstream.into_parts();
    let mut upstream = parts.io.into_inner().into_inner();
    upstream.unread(&parts.read_buf);
    match switched {
        Some(switched) => Left::Switched(guest, upstream, Box::new(switched)),
        None => Left::Streams(guest, upstream, client.has_answered()),
    }
}

/// What a connection ended with, if it is there to end.
async fn ended<F: Future + Unpin>(connection: &mut Option<F>) -> Option<F::Output> {
    match connection {
        Some(connection) => Some(connection.await),
        None => None,
    }
}

/// Answers every request with `status` and `reason`, for a server that cannot be reached or verified.
pub(crate) async fn serve_failure<G>(
    guest: G,
    status: StatusCode,
    reason: &str,
    limits: &Limits,
    drain: &Drain,
) where
    G: AsyncRead + AsyncWrite + Send + Unpin,
{
    let service = service_fn(async |_: Request<Incoming>| {
        Ok::<_, Infallible>(answer(Protocol::Http1, status, reason.to_owned()))
    });
    let guest = Checked::new(guest, limits.head_len, |_: &str| {});
    let mut guest = pin!(server(limits).serve_connection(TokioIo::new(guest), service));
    // The guest has been told, or is gone.
    tokio::select! {
        _ = &mut guest => {}
        () = drain.raised() => {
            guest.as_mut().graceful_shutdown();
            let _ = guest.await;
        }
    }
}

pub(crate) fn client(limits: &Limits) -> hyper::client::conn::http1::Builder {
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder
        .preserve_header_case(true)
        .max_buf_size(limits.head_len);
    if limits.header_count != UNASKED_HEADERS {
        builder.max_headers(limits.header_count);
    }
    builder
}

pub(crate) fn server(limits: &Limits) -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .half_close(true)
        .preserve_header_case(true)
        .auto_date_header(false)
        .max_header_size(limits.head_len)
        // Room for a head at the limit and the line break that shows it is over it.
        .max_buf_size(limits.head_len + 4096);
    if limits.header_count != UNASKED_HEADERS {
        builder.max_headers(limits.header_count);
    }
    builder
}

/// An error and its causes in one line.
pub(crate) fn describe(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    crate::event::one_line(&text)
}

pub(crate) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn report_framing(session: &Session, reason: &str) {
    (session.events)(Event::RequestRefused {
        host: session.host().clone(),
        port: session.port(),
        status: StatusCode::BAD_REQUEST.as_u16(),
        reason: format!("ambiguous request: {reason}"),
    });
}
