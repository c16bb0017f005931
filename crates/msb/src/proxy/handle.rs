//! A running proxy.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use msb_secrets::SecretBuilder;
use msb_tls_proxy::TlsProxy;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::builder::{Plan, check};
use super::dial::Dialler;
use super::serve::{Server, drive};
use super::{ProxyBuilder, ProxyEvent};
use crate::event::Events;
use crate::network::NetworkBuilder;
use crate::{Error, Event, plan, start};

/// In the authority's name, and in the log.
const NAME: &str = "proxy";
/// How many connections the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// A running proxy: the engine of a [`Sandbox`](crate::Sandbox) for clients without one. Dropping it ends it and its
/// connections at once; [`drain`](Self::drain) lets them finish.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), msb::Error> {
/// let proxy = msb::Proxy::builder()
///     .secret(|s| s.env("API_KEY").value("sk-real").allow_host("api.example.com"))
///     .on_event(|event| println!("{}", event.to_json(std::time::SystemTime::now())))
///     .start()
///     .await?;
/// // What a client has to be given: where the proxy is, whom to trust, and placeholders.
/// println!("HTTPS_PROXY=http://{}", proxy.address());
/// assert!(proxy.ca_pem().starts_with("-----BEGIN CERTIFICATE-----"));
/// assert_eq!(proxy.env().collect::<Vec<_>>(), [("API_KEY", "$MSB_API_KEY")]);
/// # Ok(())
/// # }
/// ```
pub struct Proxy {
    address: SocketAddr,
    tls: TlsProxy,
    network: NetworkBuilder,
    env: Vec<(String, String)>,
    events: Events,
    end: watch::Receiver<Option<String>>,
    drain: watch::Sender<bool>,
    open: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

/// The connections that had not ended when the time for it was over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutOff {
    /// All of them.
    pub connections: usize,
    /// Those among them that would have gone on as long as both sides like: bypassed ones, and what is not HTTP.
    pub unending: usize,
}

impl Proxy {
    /// Starts to configure a proxy.
    pub fn builder() -> ProxyBuilder {
        ProxyBuilder::new()
    }

    pub(super) async fn start(mut builder: ProxyBuilder) -> Result<Self, Error> {
        let plan = Plan::new(&mut builder)?;
        let (terminate, end) = watch::channel(None);
        let events = Events {
            sandbox: NAME.to_owned(),
            sink: builder.on_event,
            terminate,
        };
        for warning in plan.warnings {
            events.emit(&Event::Warning(warning));
        }
        let env = plan.secrets.env();
        let env = env.map(|(name, placeholder)| (name.to_owned(), placeholder.to_owned()));
        let env = env.collect();
        let ca = msb_ca::SandboxCa::generate(NAME, SystemTime::now())
            .map_err(msb_tls_proxy::Error::from)?;
        let tls = start::build_tls(
            ca,
            plan.secrets,
            &plan.interception,
            builder.network.on_violation,
            &events,
        )?;
        let listener = listen(builder.listen).map_err(|source| Error::Listen {
            address: builder.listen,
            source,
        })?;
        let address = listener.local_addr().map_err(|source| Error::Listen {
            address: builder.listen,
            source,
        })?;
        let open = Arc::new(AtomicUsize::new(0));
        let server = Arc::new(Server {
            tls: tls.clone(),
            dialler: Dialler {
                policy: plan.policy,
                hosts: plan.hosts,
                own: address,
            },
            mode: builder.mode,
            upstream_port: builder.upstream_port,
            max_connections: builder.max_connections,
            on_violation: builder.network.on_violation,
            limits: plan.interception.limits,
            events: events.clone(),
            end: end.clone(),
            open: Arc::clone(&open),
        });
        let (drain, drained) = watch::channel(false);
        Ok(Self {
            address,
            tls,
            network: builder.network,
            env,
            events,
            end,
            drain,
            open,
            serving: tokio::spawn(drive(server, listener, drained)),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate that clients have to trust, as PEM. Its key was made for this proxy and ends with it.
    #[must_use]
    pub fn ca_pem(&self) -> String {
        self.tls.ca().cert_pem().to_owned()
    }

    /// Variable and placeholder of each secret, in the order they were added: what clients have in their environment.
    pub fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env
            .iter()
            .map(|(name, placeholder)| (name.as_str(), placeholder.as_str()))
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Puts other secrets in the place of all there are: requests whose head was not read yet use them. Returns
    /// warnings.
    ///
    /// # Errors
    /// What is wrong with one of them. Nothing has changed then.
    pub fn replace_secrets(&self, secrets: Vec<SecretBuilder>) -> Result<Vec<String>, Error> {
        let (secrets, _, warnings) = check(secrets, &self.network)?;
        let count = secrets.env().count();
        self.tls.replace_secrets(secrets);
        self.events
            .emit(&Event::Proxy(ProxyEvent::SecretsReplaced { count }));
        Ok(warnings)
    }

    /// Puts other rules about requests in the place of all there are, each in the text form of
    /// [`NetworkBuilder::http_rule`]. Connections that they do not allow are reset, open requests included. Returns warnings.
    ///
    /// # Errors
    /// One that does not parse, or is about a host that is bypassed. Nothing has changed then.
    pub fn replace_http_rules(
        &self,
        rules: impl IntoIterator<Item = impl Display>,
    ) -> Result<Vec<String>, Error> {
        plan::replace_http_rules(&self.tls, rules)
    }

    /// Waits until the proxy ends by itself, and returns why: a violation, where
    /// [`BlockAndTerminate`](crate::ViolationAction::BlockAndTerminate) asks for it.
    pub async fn ended(&self) -> String {
        let mut end = self.end.clone();
        let reason = match end.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone(),
            Err(_) => None,
        };
        reason.unwrap_or_else(|| "its task is gone".to_owned())
    }

    /// Accepts no more connections and lets open requests finish, for at most `limit`. Returns what was cut off then.
    pub async fn drain(mut self, limit: Duration) -> CutOff {
        self.drain.send_replace(true);
        if self.end.borrow().is_none() {
            self.tls.drain();
        }
        match tokio::time::timeout(limit, &mut self.serving).await {
            Ok(_) => CutOff::default(),
            Err(_) => CutOff {
                connections: self.connections(),
                unending: self.tls.unending(),
            },
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // As the standard library's listener does: a port is free again as soon as its listener has ended.
    socket.set_reuseaddr(true)?;
    // Accepted sockets take it over; clients that vanished are noticed.
    socket.set_keepalive(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &self.address)
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}
