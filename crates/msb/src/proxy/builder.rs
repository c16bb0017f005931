//! The configuration of a proxy, as its user writes it, and what it comes to.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use msb_name::HostName;
use msb_policy::NetworkPolicy;
use msb_secrets::{SecretBuilder, SecretSet};

use super::Proxy;
use crate::event::Sink;
use crate::network::{HostAddress, NetworkBuilder};
use crate::plan::{self, Interception};
use crate::{Error, Event};

/// Room for a busy build machine; each connection may cost two of the process's descriptors.
const MAX_CONNECTIONS: usize = 1024;

/// How connections come to a [`Proxy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyMode {
    /// Clients ask for a tunnel (HTTP CONNECT), as `HTTPS_PROXY` makes them do.
    #[default]
    Connect,
    /// TLS connections are led here by a name server, a firewall or a hosts file; the server is the one that the
    /// ClientHello names.
    Transparent,
}

/// Configures a proxy. Made by [`Proxy::builder`]; nothing happens before [`start`](Self::start), which checks
/// everything at once.
#[must_use]
pub struct ProxyBuilder {
    pub(super) listen: SocketAddr,
    pub(super) mode: ProxyMode,
    pub(super) upstream_port: u16,
    pub(super) allow_remote: bool,
    pub(super) max_connections: usize,
    pub(super) secrets: Vec<SecretBuilder>,
    pub(super) network: NetworkBuilder,
    pub(super) on_event: Option<Sink>,
}

impl ProxyBuilder {
    pub(super) fn new() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            mode: ProxyMode::default(),
            upstream_port: 443,
            allow_remote: false,
            max_connections: MAX_CONNECTIONS,
            secrets: Vec::new(),
            network: NetworkBuilder::default(),
            on_event: None,
        }
    }

    /// Where to listen; port 0 is one of the system's choice. Default: 127.0.0.1, port 0.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// How connections come here. Default: [`ProxyMode::Connect`].
    pub fn mode(mut self, mode: ProxyMode) -> Self {
        self.mode = mode;
        self
    }

    /// The port of servers in the transparent mode, where clients do not tell it. Default: 443.
    pub fn upstream_port(mut self, port: u16) -> Self {
        self.upstream_port = port;
        self
    }

    /// Allows an address to listen on that other machines can reach. There is no authentication: whoever reaches the
    /// proxy can use its secrets towards their hosts. Default: false.
    pub fn allow_remote(mut self, allow: bool) -> Self {
        self.allow_remote = allow;
        self
    }

    /// How many connections may be open at once, 1 to 65,535; more are reset. Default: 1024.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Adds a secret: clients hold a placeholder, allowed hosts get the value.
    pub fn secret(mut self, configure: impl FnOnce(SecretBuilder) -> SecretBuilder) -> Self {
        self.secrets.push(configure(SecretBuilder::new()));
        self
    }

    /// Configures policy and TLS as for a sandbox. Added hosts may be dialled whatever the profiles say, since clients
    /// choose names only; [`TlsBuilder::intercepted_ports`](crate::TlsBuilder::intercepted_ports) has no effect, for
    /// all connections are intercepted.
    pub fn network(mut self, configure: impl FnOnce(NetworkBuilder) -> NetworkBuilder) -> Self {
        self.network = configure(self.network);
        self
    }

    /// Hands every event to `sink`, from the proxy's own tasks: it must not block.
    pub fn on_event(mut self, sink: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Arc::new(sink));
        self
    }

    /// Checks the configuration and listens. When this returns, clients can connect.
    ///
    /// # Errors
    /// Anything that is not as it must be; nothing listens then.
    pub async fn start(self) -> Result<Proxy, Error> {
        Proxy::start(self).await
    }
}

impl fmt::Debug for ProxyBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyBuilder")
            .field("listen", &self.listen)
            .field("mode", &self.mode)
            .field("secrets", &self.secrets.len())
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

/// A checked configuration.
pub(super) struct Plan {
    pub(super) secrets: SecretSet,
    pub(super) interception: Interception,
    pub(super) policy: NetworkPolicy,
    pub(super) hosts: HashMap<HostName, Vec<HostAddress>>,
    pub(super) warnings: Vec<String>,
}

impl Plan {
    pub(super) fn new(builder: &mut ProxyBuilder) -> Result<Self, Error> {
        let config = |text: String| Err(Error::Config(text));
        if !builder.allow_remote && !builder.listen.ip().is_loopback() {
            return config(format!(
                "{} can be reached from other machines, and whoever reaches the proxy can use its secrets: listen on \
                 127.0.0.1, or allow remote clients",
                builder.listen
            ));
        }
        if builder.upstream_port == 0 {
            return config("servers have ports from 1 to 65535".into());
        }
        if !(1..=usize::from(u16::MAX)).contains(&builder.max_connections) {
            return config("the connections may be from 1 to 65535".into());
        }
        if !builder.network.ports.is_empty() {
            return config("a proxy has no guest to publish ports of".into());
        }
        let network = std::mem::take(&mut builder.network);
        let (secrets, interception, mut warnings) =
            check(std::mem::take(&mut builder.secrets), &network)?;
        let policy = plan::policy(&network)?;
        warnings.extend(policy.warnings());
        warnings.extend(interception.http_policy.warnings());
        let mut hosts: HashMap<_, Vec<_>> = HashMap::new();
        for (name, address) in &network.hosts {
            let name = plan::added_name(name)?;
            hosts.entry(name).or_default().push(*address);
        }
        builder.network = network;
        Ok(Self {
            secrets,
            interception,
            policy,
            hosts,
            warnings,
        })
    }
}

/// What secrets and the interception they need come to.
pub(super) fn check(
    secrets: Vec<SecretBuilder>,
    network: &NetworkBuilder,
) -> Result<(SecretSet, Interception, Vec<String>), Error> {
    let secrets = plan::build_secrets(secrets)?;
    let interception = plan::plan_interception(network, true)?.ok_or_else(|| {
        Error::Config("a proxy without TLS interception has nothing to do; leave it on".into())
    })?;
    let warnings = plan::check_bypass(&secrets, &interception)?;
    Ok((SecretSet::new(secrets)?, interception, warnings))
}
