//! What a proxy is made of, and what it is given for each connection.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use msb_ca::SandboxCa;
use msb_name::{Host, HostName};
use msb_policy::{BypassList, HttpPolicy, PinTable};
use msb_secrets::{LengthPlan, SecretSet, ViolationAction};
use tokio::sync::watch;

use crate::{EventSink, HttpRules, UpstreamTls};

/// Everything a [`TlsProxy`](crate::TlsProxy) needs for one sandbox.
pub struct Config {
    /// Signs the certificates the guest sees.
    pub ca: SandboxCa,
    /// The secrets and their placeholders.
    pub secrets: SecretSet,
    /// Hosts whose connections are spliced.
    pub bypass: BypassList,
    /// Whom to trust upstream.
    pub upstream: UpstreamTls,
    /// What a violation leads to; it goes into the [`Event`](crate::Event), and the caller acts on it.
    pub on_violation: ViolationAction,
    /// Where events go. It is called on the proxy's tasks and should return at once.
    pub events: EventSink,
    /// Bounds of time and size.
    pub limits: Limits,
    /// What becomes of connections that carry something other than HTTP.
    pub non_http: NonHttp,
    /// Which connections are intercepted, of those that are not bypassed.
    pub scope: InterceptScope,
    /// Which requests may be sent.
    pub http_policy: HttpPolicy,
    /// What becomes of those that may not.
    pub denied_requests: DeniedRequests,
}

/// What becomes of requests that the rules deny (SPEC P6). Nothing of them is sent either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeniedRequests {
    /// They are answered 403, with the reason in one line.
    #[default]
    Forbid,
    /// The guest's connection is reset; in HTTP/2 the stream, with the code CANCEL.
    Reset,
}

/// Which TLS connections are intercepted (SPEC T13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InterceptScope {
    /// All of them.
    #[default]
    All,
    /// Those to hosts that a secret is allowed for or an HTTP rule names, as both are when the connection begins. All others
    /// are spliced as bypassed ones are: the guest sees the server's own certificate, and nobody looks for placeholders.
    NamedHosts,
}

impl InterceptScope {
    /// Whether connections to `host` are intercepted.
    pub(crate) fn covers(self, host: &Host, secrets: &SecretSet) -> bool {
        let names = |name: &HostName| {
            let mut scopes = secrets.env().filter_map(|(env, _)| secrets.scope(env));
            scopes.any(|(_, scope)| scope.allows(name))
        };
        self == Self::All || host.name().is_some_and(names)
    }
}

/// What becomes of intercepted connections that carry something other than HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NonHttp {
    /// They are relayed, and searched both ways.
    #[default]
    Relay,
    /// Everything is taken for HTTP, and answered 400 where it is not; protocols of other names are not offered to the
    /// server. CONNECT is answered 501.
    Refuse,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("ca", &self.ca)
            .field("bypass", &self.bypass)
            .field("on_violation", &self.on_violation)
            .field("limits", &self.limits)
            .field("non_http", &self.non_http)
            .field("scope", &self.scope)
            .field("http_policy", &self.http_policy)
            .field("denied_requests", &self.denied_requests)
            .finish_non_exhaustive()
    }
}

/// Bounds of time and size for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The most bytes a ClientHello may have: 64 KiB (SPEC T3).
    pub hello_len: usize,
    /// How long the guest may take to send its ClientHello: 10 s (SPEC T3).
    pub hello_timeout: Duration,
    /// How long each of the two TLS handshakes may take: 10 s.
    pub handshake_timeout: Duration,
    /// The most bytes a request or response head may have: 64 KiB; at least 8 KiB.
    pub head_len: usize,
    /// How long a connection in HTTP/1.1 has nothing to do before its buffers are given back, which are made anew for the
    /// next request: 1 s, at most twice that.
    pub rest_after: Duration,
    /// The most header fields a request or response may have: 100.
    pub header_count: usize,
    /// The most bytes the fields of an HTTP/2 request or response may have, counted as RFC 9113 section 6.5.2 says: 64 KiB.
    pub header_list_len: u32,
    /// The most HTTP/2 streams a guest may have open at once on one connection: 100.
    pub streams: u32,
    /// The most HTTP/2 streams that a guest may have reset before they were looked at; one more ends the connection: 20.
    pub pending_resets: usize,
    /// How long the guest may take to begin and to finish a request's head: 300 s. It bounds idle
    /// connections, too; in HTTP/2 those without an open stream.
    pub idle_timeout: Duration,
    /// How long a request with `Expect: 100-continue` waits for the server's word before its body
    /// is sent all the same (RFC 9110 section 10.1.1): 1 s.
    pub continue_wait: Duration,
    /// How much of a body may be held to count its new length: 16 MiB (SPEC S5). A longer one is sent without its
    /// length; none is refused for its size.
    pub body_hold: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hello_len: 64 * 1024,
            hello_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            head_len: 64 * 1024,
            rest_after: Duration::from_secs(1),
            header_count: 100,
            header_list_len: 64 * 1024,
            streams: 100,
            pending_resets: 20,
            idle_timeout: Duration::from_secs(300),
            continue_wait: Duration::from_secs(1),
            body_hold: LengthPlan::DEFAULT_LIMIT,
        }
    }
}

/// Asked for the secrets as they are at the head of each request.
pub type Secrets = Arc<dyn Fn() -> SecretSet + Send + Sync>;

/// What connections that are not intercepted are judged by; see [`relay_plain`](crate::relay_plain).
#[derive(Clone)]
pub struct PlainConfig {
    /// The secrets and their placeholders.
    pub secrets: Secrets,
    /// What a violation leads to; as in [`Config`].
    pub on_violation: ViolationAction,
    /// Where events go.
    pub events: EventSink,
    /// Bounds of time and size, where HTTP is read.
    pub limits: Limits,
    /// When connections are to end.
    pub drain: Drain,
    /// Which requests may be sent; got from [`TlsProxy::http_rules`](crate::TlsProxy::http_rules).
    pub http_rules: HttpRules,
}

/// Says when connections are to end as soon as nothing is under way on them; by default never. Got from
/// [`TlsProxy::draining`](crate::TlsProxy::draining).
#[derive(Clone, Debug, Default)]
pub struct Drain(pub(crate) Option<watch::Receiver<bool>>);

impl Drain {
    pub(crate) fn receiver(&self) -> watch::Receiver<bool> {
        // Without a sender nobody asks for it.
        self.0.clone().unwrap_or_else(|| watch::channel(false).1)
    }

    /// Waits until they are to end.
    pub(crate) async fn raised(&self) {
        if self.receiver().wait_for(|drain| *drain).await.is_err() {
            std::future::pending().await
        }
    }
}

impl fmt::Debug for PlainConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainConfig")
            .field("on_violation", &self.on_violation)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Ends the guest's side of a connection so that the guest sees a TCP reset.
pub trait Reset: Send + Sync {
    /// Resets now. Later calls, and calls after the stream has ended, do nothing.
    fn reset(&self);
}

/// One connection of the guest, and the one to the server that it is for.
pub struct Connection<G, U> {
    /// The guest's byte stream.
    pub guest: G,
    /// Resets the guest's side.
    pub reset: Arc<dyn Reset>,
    /// The connected byte stream to the server; nothing has been sent on it.
    pub upstream: U,
    /// The address the guest connected to.
    pub destination: SocketAddr,
    /// The addresses that the sandbox's DNS has given out.
    pub pins: Arc<Mutex<PinTable>>,
}

impl<G, U> fmt::Debug for Connection<G, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("destination", &self.destination)
            .finish_non_exhaustive()
    }
}

/// One connection of a client to a server that the host itself dials.
pub struct Client<G> {
    /// The client's byte stream.
    pub guest: G,
    /// Resets the client's side.
    pub reset: Arc<dyn Reset>,
    /// The address the client connected to.
    pub destination: SocketAddr,
}

impl<G> fmt::Debug for Client<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("destination", &self.destination)
            .finish_non_exhaustive()
    }
}

/// A server that the host itself dialled.
pub struct Dialled<U> {
    /// The connected byte stream to the server; nothing has been sent on it.
    pub upstream: U,
    /// Where it leads.
    pub address: SocketAddr,
    /// What was dialled: a name that the host resolved, or an address, which never gets a secret.
    pub host: Host,
}

impl<U> fmt::Debug for Dialled<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialled")
            .field("address", &self.address)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// Why the host did not dial a server, in one line each. There is no event of the proxy's: who dialled tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DialError {
    /// It cannot be reached; the client is answered 502.
    Failed(String),
    /// It may not be reached; the client is answered 403.
    Denied(String),
}
