//! One connection from its first byte to its last: hello, server, leaf, requests.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use http::StatusCode;
use msb_ca::SandboxCa;
use msb_name::{Host, HostName};
use msb_policy::{BypassList, Destination, InterceptedConnection, PinTable, UpstreamTrust};
use msb_secrets::{LiveSecrets, SecretSet, ViolationAction};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as UpstreamStream;
use tokio_rustls::server::{StartHandshake, TlsStream as GuestStream};

use super::bridge::{Session, bridge, lock, serve_failure};
use super::guard::guarded;
use super::guest::{GuestTls, hung_up, read_hello, rejected_leaf};
use super::http2;
use super::plain::{host_of, splice};
use super::raw;
use super::stream::{Noticed, Prefixed};
use crate::event::one_line;
use crate::session::hangups::{Hangups, PROMPTLY};
use crate::session::hello::Hello;
use crate::session::protocol::{Protocol, Upstream, accept_from_guest, offer_upstream};
use crate::upstream::{describe_failure, refused_protocols, server_name};
use crate::{
    Client, Config, Connection, DialError, Dialled, Drain, Error, Event, EventSink, HelloFailure,
    InterceptScope, Limits, NonHttp, UpstreamTls,
};

/// Hyper's buffers do not get smaller than this.
const LEAST_HEAD_LEN: usize = 8 * 1024;

/// Intercepts the TLS connections of one sandbox.
///
/// Cheap to clone; clones are one proxy.
#[derive(Clone)]
pub struct TlsProxy(Arc<Inner>);

pub(super) struct Inner {
    guest_tls: GuestTls,
    upstream_tls: UpstreamTls,
    bypass: BypassList,
    secrets: RwLock<Arc<LiveSecrets>>,
    on_violation: ViolationAction,
    pub(super) events: EventSink,
    limits: Limits,
    non_http: NonHttp,
    scope: InterceptScope,
    drain: watch::Sender<bool>,
    hangups: Mutex<Hangups>,
    /// Held by every connection that [`TlsProxy::unending`] counts.
    unending: Arc<()>,
}

impl TlsProxy {
    /// Builds the proxy of one sandbox.
    ///
    /// # Errors
    ///
    /// An unusable CA, or a limit that no connection could keep; see [`Error`].
    pub fn new(config: Config) -> Result<Self, Error> {
        let Config {
            ca,
            secrets,
            bypass,
            upstream,
            on_violation,
            events,
            limits,
            non_http,
            scope,
        } = config;
        if limits.head_len < LEAST_HEAD_LEN {
            return Err(Error::LimitTooSmall {
                name: "head_len",
                least: LEAST_HEAD_LEN,
            });
        }
        Ok(Self(Arc::new(Inner {
            guest_tls: GuestTls::new(ca)?,
            upstream_tls: upstream,
            bypass,
            secrets: RwLock::new(Arc::new(LiveSecrets::new(secrets))),
            on_violation,
            events,
            limits,
            non_http,
            scope,
            drain: watch::Sender::new(false),
            hangups: Mutex::default(),
            unending: Arc::default(),
        })))
    }

    /// The CA whose certificate the guest has to trust.
    #[must_use]
    pub fn ca(&self) -> &SandboxCa {
        self.0.guest_tls.ca()
    }

    /// The secrets, for changing one of them: a new value and fewer hosts hold from the next request on, on open
    /// connections as well; a revoked secret is gone at once, from bodies that are under way, too.
    ///
    /// They are those in place until [`replace_secrets`](Self::replace_secrets) puts others there.
    #[must_use]
    pub fn secrets(&self) -> Arc<LiveSecrets> {
        let secrets = self.0.secrets.read();
        Arc::clone(&secrets.unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other secrets in place. Requests whose head has not been read yet use them, on
    /// connections that are open as well. A secret whose variable is not among them any more is revoked, which counts
    /// for every copy of its set: to bring it back, build it anew.
    pub fn replace_secrets(&self, secrets: SecretSet) {
        let kept: HashSet<String> = secrets.env().map(|(env, _)| env.to_owned()).collect();
        let new = Arc::new(LiveSecrets::new(secrets));
        let mut current = self
            .0
            .secrets
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, new);
        drop(current);
        for (env, _) in old.load().env().filter(|(env, _)| !kept.contains(*env)) {
            // One that was revoked before cannot be revoked again, and need not.
            let _ = old.revoke(env);
        }
    }

    /// Lets every connection end once no request is open on it, those that come later included.
    pub fn drain(&self) {
        self.0.drain.send_replace(true);
    }

    /// What [`drain`](Self::drain) raises, for connections that are not intercepted.
    #[must_use]
    pub fn draining(&self) -> Drain {
        self.0.draining()
    }

    /// How many connections are open that do not end by [`drain`](Self::drain), because nobody can tell when nothing is
    /// under way on them: those that are spliced, or may carry something other than HTTP.
    #[must_use]
    pub fn unending(&self) -> usize {
        Arc::strong_count(&self.0.unending) - 1
    }

    /// Serves one connection to its end. What happens on it is told through the events; a panic in
    /// it ends this connection only. Dropping the future drops the connection.
    pub async fn serve<G, U>(&self, connection: Connection<G, U>)
    where
        G: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let reset = Arc::clone(&connection.reset);
        let serve = Box::pin(Arc::clone(&self.0).serve(connection));
        guarded(reset, serve).await;
    }

    /// Serves one connection to its end as [`serve`](Self::serve) does, to a server that the host
    /// itself dials: `dial` gets the name in the ClientHello, if there is one.
    ///
    /// What was dialled must be what the guest names; else the connection ends with the alert
    /// `unrecognized_name` before anything is sent to the server.
    pub async fn serve_dialling<G, U, D>(
        &self,
        client: Client<G>,
        dial: impl FnOnce(Option<HostName>) -> D + Send,
    ) where
        G: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        D: Future<Output = Result<Dialled<U>, DialError>> + Send,
    {
        let reset = Arc::clone(&client.reset);
        let serve = Box::pin(Arc::clone(&self.0).serve_dialling(client, dial));
        guarded(reset, serve).await;
    }
}

impl TlsProxy {
    /// Serves a client that sends its requests for `http` URLs to a proxy as they are, without a tunnel
    /// (RFC 9112 section 3.2.2), to the end of its connection. Each goes to the server that its target names, as
    /// `dial` reaches it; what each may carry is decided as for any plaintext request.
    pub async fn serve_forward<G, U, D>(
        &self,
        client: Client<G>,
        dial: impl Fn(Host, u16) -> D + Send + Sync,
    ) where
        G: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        D: Future<Output = Result<Dialled<U>, DialError>> + Send,
    {
        let reset = Arc::clone(&client.reset);
        let serve = Box::pin(Arc::clone(&self.0).serve_forward(client, dial));
        guarded(reset, serve).await;
    }
}

#[cfg(feature = "fuzzing")]
impl TlsProxy {
    pub(crate) fn session(
        &self,
        connection: InterceptedConnection,
        destination: SocketAddr,
    ) -> Session {
        Arc::clone(&self.0).session(connection, destination)
    }
}

impl fmt::Debug for TlsProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsProxy")
            .field("ca", self.ca())
            .field("bypass", &self.0.bypass)
            .field("limits", &self.0.limits)
            .finish_non_exhaustive()
    }
}

impl Inner {
    async fn serve<G, U>(self: Arc<Self>, mut connection: Connection<G, U>)
    where
        G: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (guest, reset) = (&mut connection.guest, &*connection.reset);
        let hello = Box::pin(self.hello(guest, reset, connection.destination));
        let Some(hello) = hello.await else {
            return;
        };
        let host = host(&hello, &connection.pins, connection.destination);
        if let Some(event) = self.leaves_alone(&host, connection.destination) {
            (self.events)(event);
            let _counted = self.count_unending();
            return Box::pin(splice(connection, hello.raw)).await;
        }
        let Connection {
            guest,
            reset,
            upstream,
            destination,
            pins,
        } = connection;
        let evidence = destination_of(&host, destination, &pins);
        let opened = Opened {
            guest,
            reset,
            hello,
            host,
            destination,
        };
        self.intercept(opened, Ok((upstream, evidence))).await;
    }

    /// If connections to `host` are not intercepted: what to tell of this one.
    pub(super) fn leaves_alone(&self, host: &Host, destination: SocketAddr) -> Option<Event> {
        if let Host::Name(name) = host
            && self.bypass.covers(name)
        {
            let host = name.clone();
            return Some(Event::Bypassed { host, destination });
        }
        let host = host.clone();
        (!self.scope.covers(&host, &self.current_secrets()))
            .then_some(Event::OutOfScope { host, destination })
    }

    /// Counts a connection as long as what is returned lives.
    pub(super) fn count_unending(&self) -> impl Sized + use<> {
        Arc::clone(&self.unending)
    }

    fn draining(&self) -> Drain {
        Drain(Some(self.drain.subscribe()))
    }

    fn current_secrets(&self) -> SecretSet {
        let secrets = self.secrets.read().unwrap_or_else(PoisonError::into_inner);
        secrets.load()
    }

    /// The ClientHello, or `None` after the guest was turned away.
    pub(super) async fn hello<G>(
        &self,
        guest: &mut G,
        reset: &dyn crate::Reset,
        destination: SocketAddr,
    ) -> Option<Hello>
    where
        G: AsyncRead + AsyncWrite + Unpin,
    {
        let read = timeout(
            self.limits.hello_timeout,
            read_hello(guest, self.limits.hello_len),
        )
        .await;
        let (failure, alert) = match read {
            Ok(Ok(hello)) => return Some(hello),
            Ok(Err(failure)) => failure,
            Err(_) => (HelloFailure::TimedOut, None),
        };
        match alert {
            Some(alert) => self.send_alert(guest, &alert).await,
            None => reset.reset(),
        }
        (self.events)(Event::HelloFailed {
            destination,
            failure,
        });
        None
    }

    /// Ends the guest's side with an alert.
    pub(super) async fn send_alert<G>(&self, guest: &mut G, alert: &[u8])
    where
        G: AsyncWrite + Unpin,
    {
        // A guest that does not take the alert has ended the connection by itself.
        let _ = timeout(self.limits.handshake_timeout, async {
            guest.write_all(alert).await?;
            guest.shutdown().await
        })
        .await;
    }

    /// Bridges the guest to `upstream`, or tells it why there is none.
    pub(super) async fn intercept<G, U>(
        self: Arc<Self>,
        opened: Opened<G>,
        upstream: Result<(U, Destination), DialError>,
    ) where
        G: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        // Boxed apart, so that a connection that idles has no room left over from its handshakes.
        if let Some(established) = Box::pin(self.establish(opened, upstream)).await {
            Box::pin(established.serve()).await;
        }
    }

    /// Both handshakes, the server's first; `None` where one failed, of which the guest has been told.
    async fn establish<G, U>(
        self: Arc<Self>,
        opened: Opened<G>,
        upstream: Result<(U, Destination), DialError>,
    ) -> Option<Established<G, U>>
    where
        G: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Opened {
            guest,
            reset,
            hello,
            host,
            destination,
        } = opened;
        let (connected, evidence) = match upstream {
            Ok((upstream, evidence)) => {
                let connected = self.connect(upstream, &host, &hello.alpn).await;
                if let Err(Unreached::Failed(reason)) = &connected {
                    (self.events)(Event::UpstreamFailed {
                        host: host.clone(),
                        destination,
                        reason: reason.clone(),
                    });
                }
                (connected, evidence)
            }
            Err(error) => (Err(error.into()), Destination::Unpinned(destination.ip())),
        };
        let chosen = match &connected {
            Ok((stream, _)) => Upstream::Chose(stream.get_ref().1.alpn_protocol()),
            Err(Unreached::NothingInCommon) => Upstream::NothingInCommon,
            Err(_) => Upstream::Unreached,
        };
        let alpn = accept_from_guest(&hello.alpn, chosen, self.non_http);
        let offered = hello.alpn.clone();
        let to = (&host, destination);
        let accepted = self.accept(guest, hello, to, alpn.as_deref(), &*reset);
        let guest = accepted.await?;
        let agreed = guest.get_ref().1.alpn_protocol();
        let protocol = Protocol::agreed(agreed, &offered, self.non_http);
        let (status, reason) = match connected {
            Ok((upstream, trust)) => {
                (self.events)(Event::Intercepted {
                    host: host.clone(),
                    destination,
                });
                let connection = InterceptedConnection::new(host, evidence, trust);
                let session = Session {
                    protocol: protocol.unwrap_or(Protocol::Http1),
                    ..Arc::clone(&self).session(connection, destination)
                };
                // Boxed, for what is moved through several futures has room in each.
                return Some(Established {
                    guest: Box::new(Noticed::new(guest)),
                    upstream: Box::new(upstream),
                    proxy: self,
                    protocol,
                    session: Arc::new(session),
                    reset,
                });
            }
            Err(Unreached::Failed(reason)) => (StatusCode::BAD_GATEWAY, reason),
            Err(Unreached::Denied(reason)) => (StatusCode::FORBIDDEN, reason),
            Err(Unreached::NothingInCommon) => return None,
        };
        self.tell_failure(guest, protocol, (status, &reason), &*reset)
            .await;
        None
    }

    async fn tell_failure<G>(
        &self,
        mut guest: G,
        protocol: Option<Protocol>,
        (status, reason): (StatusCode, &str),
        reset: &dyn crate::Reset,
    ) where
        G: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let (limits, drain) = (&self.limits, self.draining());
        match protocol {
            Some(Protocol::Http1) => serve_failure(guest, status, reason, limits, &drain).await,
            Some(Protocol::Http2) => {
                http2::serve_failure(guest, status, reason, limits, &drain).await;
            }
            None => match raw::request(&mut guest, &self.limits).await {
                Some(begun) => {
                    let guest = Prefixed::new(begun, guest);
                    serve_failure(guest, status, reason, limits, &drain).await;
                }
                None => reset.reset(),
            },
        }
    }

    pub(super) fn session(
        self: Arc<Self>,
        connection: InterceptedConnection,
        destination: SocketAddr,
    ) -> Session {
        Session {
            connection,
            destination,
            stop: Arc::default(),
            broken: Arc::default(),
            on_violation: self.on_violation,
            events: Arc::clone(&self.events),
            limits: self.limits,
            non_http: self.non_http,
            protocol: Protocol::Http1,
            switch: Arc::default(),
            opened: Arc::default(),
            open: watch::Sender::new(0),
            plaintext: None,
            drain: self.drain.subscribe(),
            fault: Arc::default(),
            secrets: Arc::new(move || self.current_secrets()),
        }
    }

    /// The guest is gone without a word, from which it may be seen that it pins a certificate.
    fn hung_up(&self, host: &Host, destination: SocketAddr) {
        let Some(count) = lock(&self.hangups).hung_up(host) else {
            return;
        };
        (self.events)(Event::GuestHungUp {
            host: host.clone(),
            port: destination.port(),
            hint: format!(
                "{count} connections to {host} in a row were ended by the guest without a word, during the TLS \
                 handshake or right after it; if its client pins a certificate, add the host to the bypass list \
                 (--tls-bypass {host})"
            ),
        });
    }

    /// The handshake with the server, which comes first (SPEC T6), offering what of the guest's
    /// `alpn` the proxy can carry.
    async fn connect<U>(
        &self,
        stream: U,
        host: &Host,
        alpn: &[Vec<u8>],
    ) -> Result<(UpstreamStream<U>, UpstreamTrust), Unreached>
    where
        U: AsyncRead + AsyncWrite + Unpin,
    {
        let offered = offer_upstream(alpn, self.non_http).ok_or(Unreached::NothingInCommon)?;
        let (config, trust) = self.upstream_tls.client(host, offered);
        let name = server_name(host).map_err(Unreached::Failed)?;
        let handshake = TlsConnector::from(config).connect(name, stream);
        match timeout(self.limits.handshake_timeout, handshake).await {
            Ok(Ok(stream)) => Ok((stream, trust)),
            Ok(Err(error)) if refused_protocols(&error) => Err(Unreached::NothingInCommon),
            Ok(Err(error)) => Err(Unreached::Failed(describe_failure(host, &error))),
            Err(_) => {
                let reason = format!("{host} did not finish the TLS handshake in time");
                Err(Unreached::Failed(reason))
            }
        }
    }

    /// The handshake with the guest, or `None` after it failed.
    async fn accept<G>(
        &self,
        stream: G,
        hello: Hello,
        (host, destination): (&Host, SocketAddr),
        alpn: Option<&[u8]>,
        reset: &dyn crate::Reset,
    ) -> Option<GuestStream<Prefixed<G>>>
    where
        G: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |reason: String| {
            (self.events)(Event::GuestHandshakeFailed {
                host: host.clone(),
                port: destination.port(),
                reason: one_line(&reason),
            });
        };
        let config = match self.guest_tls.server(host, alpn) {
            Ok(config) => config,
            Err(error) => {
                failed(format!("no certificate could be made: {error}"));
                reset.reset();
                return None;
            }
        };
        let stream = Prefixed::new(hello.unread, stream);
        let handshake = StartHandshake::from_parts(hello.accepted, stream).into_stream(config);
        match timeout(self.limits.handshake_timeout, handshake).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) if rejected_leaf(&error) => {
                (self.events)(Event::GuestRejectedLeaf {
                    host: host.clone(),
                    port: destination.port(),
                    hint: format!(
                        "the guest does not accept this sandbox's certificates for {host}; if it \
                         pins its own, add the host to the bypass list (--tls-bypass {host})"
                    ),
                });
            }
            Ok(Err(error)) => {
                failed(error.to_string());
                if hung_up(&error) {
                    self.hung_up(host, destination);
                }
            }
            Err(_) => {
                failed("it was not finished in time".to_owned());
                reset.reset();
            }
        }
        None
    }
}

/// Two streams with their handshakes behind them.
struct Established<G, U> {
    guest: Box<Noticed<GuestStream<Prefixed<G>>>>,
    upstream: Box<UpstreamStream<U>>,
    proxy: Arc<Inner>,
    /// `None` if what is said has to show it.
    protocol: Option<Protocol>,
    session: Arc<Session>,
    reset: Arc<dyn crate::Reset>,
}

impl<G, U> Established<G, U>
where
    G: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    async fn serve(self) {
        let Self {
            mut guest,
            upstream,
            proxy,
            protocol,
            session,
            reset,
        } = self;
        let (host, destination) = (session.host().clone(), session.destination);
        let (stop, broken) = (Arc::clone(&session.stop), Arc::clone(&session.broken));
        match protocol {
            Some(Protocol::Http1) => Box::pin(bridge(&mut guest, upstream, session)).await,
            Some(Protocol::Http2) => Box::pin(http2::bridge(&mut guest, upstream, session)).await,
            None => {
                let _counted = proxy.count_unending();
                Box::pin(raw::serve(&mut guest, upstream, session)).await;
            }
        }
        if guest.spoke() {
            lock(&proxy.hangups).spoke(&host);
        } else if guest.hung_up_within(PROMPTLY) {
            proxy.hung_up(&host, destination);
        }
        if stop.is_raised() || broken.load(Ordering::Relaxed) {
            // While the stream is still there: what is gone cannot be reset.
            reset.reset();
        }
    }
}

/// A guest whose ClientHello was read.
pub(super) struct Opened<G> {
    pub(super) guest: G,
    pub(super) reset: Arc<dyn crate::Reset>,
    pub(super) hello: Hello,
    /// What the guest asks for.
    pub(super) host: Host,
    /// Where the connection goes.
    pub(super) destination: SocketAddr,
}

/// Why there is no TLS connection to the server.
enum Unreached {
    /// In one line.
    Failed(String),
    /// Who dialled may not reach it, in one line.
    Denied(String),
    /// The guest offers only protocols that are not carried; its own handshake will say so with
    /// the alert no_application_protocol.
    NothingInCommon,
}

impl From<DialError> for Unreached {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Failed(reason) => Self::Failed(one_line(&reason)),
            DialError::Denied(reason) => Self::Denied(one_line(&reason)),
        }
    }
}

/// The name in the ClientHello; else the one name that the sandbox's DNS gave the address for;
/// else the address (SPEC T3).
fn host(hello: &Hello, pins: &Mutex<PinTable>, destination: SocketAddr) -> Host {
    match &hello.server_name {
        Some(name) => Host::Name(name.clone()),
        None => {
            let pins = pins.lock().unwrap_or_else(PoisonError::into_inner);
            host_of(
                pins.names(destination.ip(), Instant::now()),
                destination.ip(),
            )
        }
    }
}

/// How the address was chosen, as far as the sandbox's DNS knows.
pub(crate) fn destination_of(
    host: &Host,
    destination: SocketAddr,
    pins: &Mutex<PinTable>,
) -> Destination {
    let pins = pins.lock().unwrap_or_else(PoisonError::into_inner);
    host.name()
        .and_then(|name| pins.confirm(name, destination.ip(), Instant::now()))
        .map_or_else(
            || Destination::Unpinned(destination.ip()),
            Destination::Pinned,
        )
}
