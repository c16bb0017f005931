//! A connection from its ClientHello on: the handshakes, the server's first, and who serves what follows.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::StatusCode;
use msb_name::Host;
use msb_policy::{Destination, InterceptedConnection, UpstreamTrust};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as UpstreamStream;
use tokio_rustls::server::{StartHandshake, TlsStream as GuestStream};

use super::bridge::{Session, bridge, lock, serve_failure};
use super::guest::{hung_up, rejected_leaf};
use super::http2;
use super::proxy::Inner;
use super::raw;
use super::stream::{Noticed, Prefixed};
use crate::event::one_line;
use crate::session::hangups::PROMPTLY;
use crate::session::hello::Hello;
use crate::session::protocol::{Protocol, Upstream, accept_from_guest, offer_upstream};
use crate::upstream::{describe_failure, refused_protocols, server_name};
use crate::{DialError, Event, NonHttp};
impl Inner {
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
        // Of what is not HTTP the rules could say nothing.
        let non_http = match self.http_policy.borrow().governs(&host) {
            true => NonHttp::Refuse,
            false => self.non_http,
        };
        let (connected, evidence) = match upstream {
            Ok((upstream, evidence)) => {
                let connected = self.connect(upstream, &host, &hello.alpn, non_http).await;
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
        let alpn = accept_from_guest(&hello.alpn, chosen, non_http);
        let offered = hello.alpn.clone();
        let to = (&host, destination);
        let accepted = self.accept(guest, hello, to, alpn.as_deref(), &*reset, ServedBy::Server);
        let guest = accepted.await?;
        let agreed = guest.get_ref().1.alpn_protocol();
        let protocol = Protocol::agreed(agreed, &offered, non_http);
        let (status, reason) = match connected {
            Ok((upstream, trust)) => {
                (self.events)(Event::Intercepted {
                    host: host.clone(),
                    destination,
                });
                let connection = InterceptedConnection::new(host, evidence, trust);
                let session = Session {
                    protocol: protocol.unwrap_or(Protocol::Http1),
                    non_http,
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
            http_rules: self.http_rules(),
            protocol: Protocol::Http1,
            switch: Arc::default(),
            opened: Arc::default(),
            requests: Arc::default(),
            open: watch::Sender::new(0),
            plaintext: None,
            drain: self.drain.subscribe(),
            fault: Arc::default(),
            secrets: Arc::new(move || self.current_secrets()),
        }
    }

    /// The guest is gone without a word, from which it may be seen that it pins a certificate.
    fn hung_up(&self, host: &Host, destination: SocketAddr, by: ServedBy) {
        let Some(count) = lock(&self.hangups).hung_up(host) else {
            return;
        };
        (self.events)(Event::GuestHungUp {
            host: host.clone(),
            port: destination.port(),
            hint: format!(
                "{count} connections to {host} in a row were ended by the guest without a word, during the TLS \
                 handshake or right after it; if its client pins a certificate, {}",
                by.remedy(host)
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
        non_http: NonHttp,
    ) -> Result<(UpstreamStream<U>, UpstreamTrust), Unreached>
    where
        U: AsyncRead + AsyncWrite + Unpin,
    {
        let offered = offer_upstream(alpn, non_http).ok_or(Unreached::NothingInCommon)?;
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
    pub(super) async fn accept<G>(
        &self,
        stream: G,
        hello: Hello,
        (host, destination): (&Host, SocketAddr),
        alpn: Option<&[u8]>,
        reset: &dyn crate::Reset,
        by: ServedBy,
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
                        "the guest does not accept this sandbox's certificates for {host}; if it pins its own, {}",
                        by.remedy(host)
                    ),
                });
            }
            Ok(Err(error)) => {
                failed(error.to_string());
                if hung_up(&error) {
                    self.hung_up(host, destination, by);
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

/// Who answers a connection whose TLS ends here.
#[derive(Clone, Copy, Debug)]
pub(super) enum ServedBy {
    /// The server that it was meant for.
    Server,
    /// The sandbox itself, in the server's place.
    Sandbox,
}

impl ServedBy {
    /// What helps a client that pins a certificate.
    fn remedy(self, host: &Host) -> String {
        match self {
            Self::Server => format!("add the host to the bypass list (--tls-bypass {host})"),
            Self::Sandbox => "it cannot be served, because the sandbox answers in the server's place; let it use what the \
                 guest is set up with, as the resolver in /etc/resolv.conf"
                .to_owned(),
        }
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
        let watched = Arc::clone(&session);
        let served = async {
            match protocol {
                Some(Protocol::Http1) => Box::pin(bridge(&mut guest, upstream, session)).await,
                Some(Protocol::Http2) => {
                    Box::pin(http2::bridge(&mut guest, upstream, session)).await;
                }
                None => {
                    let _counted = proxy.count_unending();
                    Box::pin(raw::serve(&mut guest, upstream, session)).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = watched.disallowed() => {}
            () = served => {}
        }
        if guest.spoke() {
            lock(&proxy.hangups).spoke(&host);
        } else if guest.hung_up_within(PROMPTLY) {
            proxy.hung_up(&host, destination, ServedBy::Server);
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
