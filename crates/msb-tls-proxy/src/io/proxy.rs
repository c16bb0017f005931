//! One connection from its first byte to its last: hello, server, leaf, requests.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use msb_ca::SandboxCa;
use msb_name::{Host, HostName};
use msb_policy::{BypassList, Destination, HttpPolicy, PinTable};
use msb_secrets::{LiveSecrets, SecretSet, ViolationAction};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::timeout;

use super::guard::guarded;
use super::guest::{GuestTls, read_hello};
use super::intercept::Opened;
use super::plain::{host_of, splice};
use crate::session::hangups::Hangups;
use crate::session::hello::Hello;
use crate::{
    Client, Config, Connection, DeniedRequests, DialError, Dialled, Drain, Error, Event, EventSink,
    HelloFailure, HttpRules, InterceptScope, Limits, NonHttp, UpstreamTls,
};

/// Hyper's buffers do not get smaller than this.
const LEAST_HEAD_LEN: usize = 8 * 1024;

/// Intercepts the TLS connections of one sandbox.
///
/// Cheap to clone; clones are one proxy.
#[derive(Clone)]
pub struct TlsProxy(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) guest_tls: GuestTls,
    pub(super) upstream_tls: UpstreamTls,
    pub(super) bypass: BypassList,
    pub(super) secrets: RwLock<Arc<LiveSecrets>>,
    pub(super) on_violation: ViolationAction,
    pub(super) events: EventSink,
    pub(super) limits: Limits,
    pub(super) non_http: NonHttp,
    pub(super) scope: InterceptScope,
    pub(super) http_policy: watch::Sender<Arc<HttpPolicy>>,
    pub(super) denied_requests: DeniedRequests,
    pub(super) drain: watch::Sender<bool>,
    pub(super) hangups: Mutex<Hangups>,
    /// Held by every connection that [`TlsProxy::unending`] counts.
    pub(super) unending: Arc<()>,
}

impl TlsProxy {
    /// Builds the proxy of one sandbox.
    ///
    /// # Errors
    ///
    /// An unusable CA, a limit that no connection could keep, or rules for hosts that are bypassed; see [`Error`].
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
            http_policy,
            denied_requests,
        } = config;
        if let Some(bypass) = http_policy.bypassed(&bypass) {
            return Err(Error::GovernedBypass { bypass });
        }
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
            http_policy: watch::Sender::new(Arc::new(http_policy)),
            denied_requests,
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

    /// The rules about requests, for connections that are not intercepted.
    #[must_use]
    pub fn http_rules(&self) -> HttpRules {
        self.0.http_rules()
    }

    /// Puts other rules about requests in place. Requests whose head has not been read yet are judged by them, and every
    /// connection that they do not allow is reset: those with a request under way that they deny, and those to hosts
    /// that they name which are not read as HTTP.
    ///
    /// # Errors
    ///
    /// Rules for hosts that are bypassed; then the former stay.
    pub fn replace_http_policy(&self, policy: HttpPolicy) -> Result<(), Error> {
        if let Some(bypass) = policy.bypassed(&self.0.bypass) {
            return Err(Error::GovernedBypass { bypass });
        }
        self.0.http_policy.send_replace(Arc::new(policy));
        Ok(())
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
        connection: msb_policy::InterceptedConnection,
        destination: SocketAddr,
    ) -> super::bridge::Session {
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
            let evidence = destination_of(&host, connection.destination, &connection.pins);
            if !self.may_splice(&host, connection.destination, &evidence) {
                return connection.reset.reset();
            }
            (self.events)(event);
            let _counted = self.count_unending();
            return Box::pin(self.splice(connection, &host, &evidence, hello.raw)).await;
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
        let covered = self.scope.covers(&host, &self.current_secrets())
            || self.http_policy.borrow().governs(&host);
        (!covered).then_some(Event::OutOfScope { host, destination })
    }

    /// Whether a connection may go on unread. Where there are rules about requests, its server must be the one that it
    /// claims to be for: behind any other address may be a host that the rules are about.
    pub(super) fn may_splice(
        &self,
        host: &Host,
        destination: SocketAddr,
        evidence: &Destination,
    ) -> bool {
        if self.http_policy.borrow().is_empty() || !matches!(evidence, Destination::Unpinned(_)) {
            return true;
        }
        (self.events)(Event::RelayRefused {
            host: host.clone(),
            destination,
            reason: format!(
                "there are HTTP rules, so what is not read must go to an address that was resolved for its name, and \
                 {} was not resolved for {host}",
                destination.ip()
            ),
        });
        false
    }

    /// Splices a connection for as long as it may.
    pub(super) async fn splice<G, U>(
        &self,
        connection: Connection<G, U>,
        host: &Host,
        evidence: &Destination,
        first: Vec<u8>,
    ) where
        G: AsyncRead + AsyncWrite + Unpin,
        U: AsyncRead + AsyncWrite + Unpin,
    {
        let (reset, destination) = (Arc::clone(&connection.reset), connection.destination);
        let rules = self.http_rules();
        let doubtful = matches!(evidence, Destination::Unpinned(_));
        let stopped = async {
            let stops = |rules: &HttpPolicy| rules.governs(host) || doubtful && !rules.is_empty();
            rules.until(stops).await;
            (self.events)(Event::RelayRefused {
                host: host.clone(),
                destination,
                reason: format!(
                    "HTTP rules name {host} now, or what may be at its address, and it is not read"
                ),
            });
            // While the stream is still there: what is gone cannot be reset.
            reset.reset();
        };
        tokio::select! {
            biased;
            () = stopped => {}
            () = splice(connection, first) => {}
        }
    }

    pub(super) fn http_rules(&self) -> HttpRules {
        HttpRules::new(self.http_policy.subscribe(), self.denied_requests)
    }

    /// Counts a connection as long as what is returned lives.
    pub(super) fn count_unending(&self) -> impl Sized + use<> {
        Arc::clone(&self.unending)
    }

    pub(super) fn draining(&self) -> Drain {
        Drain(Some(self.drain.subscribe()))
    }

    pub(super) fn current_secrets(&self) -> SecretSet {
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
