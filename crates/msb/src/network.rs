//! The network's part of a sandbox's configuration.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use msb_policy::{Action, NetworkPolicy};
use msb_secrets::ViolationAction;
use msb_tls_proxy::{DeniedRequests, InterceptScope, NonHttp};
use serde::{Deserialize, Serialize};

use crate::dns::DnsSettings;
use crate::limits::NetworkLimits;
use crate::{Error, PortMapping, words};

/// What a name added with [`NetworkBuilder::add_host`] resolves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostAddress {
    /// This address.
    Ip(IpAddr),
    /// This address, and this port whatever port was asked for. For a [`Proxy`](crate::Proxy) only: the guest of a
    /// sandbox chooses ports itself.
    Socket(SocketAddr),
    /// The host: connections reach its loopback interface, if the policy allows the group `host`.
    HostGateway,
}

impl From<IpAddr> for HostAddress {
    fn from(address: IpAddr) -> Self {
        Self::Ip(address)
    }
}

impl From<SocketAddr> for HostAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

/// Configures the sandbox's network. Obtained through
/// [`SandboxBuilder::network`](crate::SandboxBuilder::network).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use]
pub struct NetworkBuilder {
    pub(crate) profiles: Option<String>,
    pub(crate) rules: Vec<String>,
    pub(crate) http_rules: Vec<String>,
    #[serde(with = "words::denied_requests")]
    pub(crate) denied_requests: DeniedRequests,
    #[serde(with = "words::action")]
    pub(crate) default_egress: Option<Action>,
    #[serde(with = "words::action")]
    pub(crate) default_ingress: Option<Action>,
    pub(crate) hosts: Vec<(String, HostAddress)>,
    #[serde(with = "words::violation")]
    pub(crate) on_violation: ViolationAction,
    pub(crate) tls: Option<TlsBuilder>,
    pub(crate) trust_host_cas: bool,
    pub(crate) limits: NetworkLimits,
    pub(crate) ports: Vec<PortMapping>,
    pub(crate) dns: DnsSettings,
}

impl NetworkBuilder {
    /// What the guest may reach: a comma-separated list of `public`, `private`, `host`, `metadata`, `all` and
    /// `none`. Default: `public`.
    ///
    /// `host` opens every TCP port of the host's loopback interface, and with it all that trusts whoever can connect
    /// there: databases, development servers, other people's services on a shared machine. An address of the host's
    /// own needs it too, whatever other group the address is in. Where nothing but the host is permitted, names other
    /// than those of [`add_host`](Self::add_host) do not exist, and no query leaves the host.
    pub fn profiles(mut self, profiles: impl Into<String>) -> Self {
        self.profiles = Some(profiles.into());
        self
    }

    /// Adds a rule about what the guest may reach, or who may reach it: the text form of a
    /// [`Rule`](msb_policy::Rule), such as `allow@10.0.0.5:tcp:5432` or `deny@*.example.com`, or a `Rule` itself.
    ///
    /// Rules count in the order in which they were added, and those of the profiles after them: the first that matches a
    /// flow decides. A rule for a domain counts for the addresses that the guest was told for its names, and where TLS
    /// claims another name it does not; a name that is denied, or that no rule could make use of, is not resolved.
    pub fn rule(mut self, rule: impl Display) -> Self {
        self.rules.push(rule.to_string());
        self
    }

    /// What happens to egress that no rule matches. Default: deny. Unless profiles are given as well, none is in force
    /// then: what is allowed is what rules allow, or everything but what they deny and metadata.
    pub fn default_egress(mut self, action: Action) -> Self {
        self.default_egress = Some(action);
        self
    }

    /// What happens to connections to published ports that no rule matches. Default: allow, but with the profile `none`.
    pub fn default_ingress(mut self, action: Action) -> Self {
        self.default_ingress = Some(action);
        self
    }

    /// Adds a rule about requests: the text form of an [`HttpRule`](msb_policy::HttpRule), such as
    /// `allow GET,HEAD api.github.com/repos/**`, or an `HttpRule` itself.
    ///
    /// A host that some rule names is governed by the rules in order: what none of them allows is denied. Rules switch
    /// interception on.
    pub fn http_rule(mut self, rule: impl Display) -> Self {
        self.http_rules.push(rule.to_string());
        self
    }

    /// What becomes of requests that the rules deny. Default: [`DeniedRequests::Forbid`], an answer with the status 403.
    pub fn denied_requests(mut self, action: DeniedRequests) -> Self {
        self.denied_requests = action;
        self
    }

    /// The network policy that rules, profiles and defaults come to.
    ///
    /// # Errors
    /// The first of them that does not parse, or contradicts itself.
    pub fn policy(&self) -> Result<NetworkPolicy, Error> {
        crate::plan::policy(self)
    }

    /// Makes `name` resolve to `address` in the guest. Further calls with the same name add addresses.
    pub fn add_host(mut self, name: impl Into<String>, address: impl Into<HostAddress>) -> Self {
        self.hosts.push((name.into(), address.into()));
        self
    }

    /// Leads a port of the host to one of the guest, for whom the rules for ingress let in. May be called several times;
    /// [`Sandbox::ports`](crate::Sandbox::ports) tells where they are. A port that is taken is an error before anything
    /// starts.
    pub fn publish(mut self, port: PortMapping) -> Self {
        self.ports.push(port);
        self
    }

    /// What happens when a placeholder heads for a host its secret is not allowed for.
    /// Default: [`ViolationAction::Block`].
    pub fn on_secret_violation(mut self, action: ViolationAction) -> Self {
        self.on_violation = action;
        self
    }

    /// Whether the guest trusts the roots that the host trusts, besides its image's own: those of `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` in this process's environment, else the system's. What the guest lacks is added at each boot, in all
    /// its trust stores. Only certificates are handed over. Works with interception, whose connections are verified on the
    /// host in any case, and without. For a sandbox only. Default: false.
    pub fn trust_host_cas(mut self, trust: bool) -> Self {
        self.trust_host_cas = trust;
        self
    }

    /// Switches TLS interception on and configures it. A secret switches it on by itself.
    pub fn tls(mut self, configure: impl FnOnce(TlsBuilder) -> TlsBuilder) -> Self {
        self.tls = Some(configure(self.tls.take().unwrap_or_default()));
        self
    }
}

/// Configures TLS interception. Obtained through [`NetworkBuilder::tls`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use]
pub struct TlsBuilder {
    pub(crate) enabled: bool,
    pub(crate) ports: Vec<u16>,
    pub(crate) bypass: Vec<String>,
    pub(crate) upstream: Vec<UpstreamSetting>,
    pub(crate) body_hold_limit: Option<u64>,
    #[serde(with = "words::non_http")]
    pub(crate) non_http: NonHttp,
    #[serde(with = "words::scope")]
    pub(crate) scope: InterceptScope,
    pub(crate) block_quic: bool,
}

/// One setting about servers, or about some of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum UpstreamSetting {
    CaCert(PathBuf),
    CaCertFor(String, PathBuf),
    NoVerificationFor(String),
    ClientCertFor(String, PathBuf, PathBuf),
}

impl Default for TlsBuilder {
    fn default() -> Self {
        Self {
            enabled: true,
            ports: vec![443],
            bypass: Vec::new(),
            upstream: Vec::new(),
            body_hold_limit: None,
            non_http: NonHttp::default(),
            scope: InterceptScope::default(),
            block_quic: true,
        }
    }
}

impl UpstreamSetting {
    /// The files that it names.
    pub(crate) fn files(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::CaCert(path) | Self::CaCertFor(_, path) => vec![path],
            Self::NoVerificationFor(_) => Vec::new(),
            Self::ClientCertFor(_, cert, key) => vec![cert, key],
        }
    }
}

impl TlsBuilder {
    /// Switches interception on or off. Off together with a secret is a build error, since nothing could put the
    /// secret in.
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Leaves connections to these hosts alone: an exact name, or `*.suffix` for its subdomains at any depth.
    /// The guest sees the server's own certificate. May be called several times.
    pub fn bypass(mut self, pattern: impl Into<String>) -> Self {
        self.bypass.push(pattern.into());
        self
    }

    /// The TCP ports on which TLS is intercepted, instead of 443.
    pub fn intercepted_ports(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.ports = ports.into_iter().collect();
        self
    }

    /// Trusts the certificates of a PEM file when servers are verified, besides the host's own roots. An unreadable
    /// file, or one without a certificate, is a build error. May be called several times.
    pub fn upstream_ca_cert(mut self, path: impl Into<PathBuf>) -> Self {
        self.upstream.push(UpstreamSetting::CaCert(path.into()));
        self
    }

    /// As [`upstream_ca_cert`](Self::upstream_ca_cert), for the servers that a pattern covers only: an exact name, or
    /// `*.suffix`. Settings of all patterns that cover a server add up.
    pub fn upstream_ca_cert_for(
        mut self,
        pattern: impl Into<String>,
        path: impl Into<PathBuf>,
    ) -> Self {
        let setting = UpstreamSetting::CaCertFor(pattern.into(), path.into());
        self.upstream.push(setting);
        self
    }

    /// Does not verify the servers that a pattern covers: whoever is on the way there can read and change everything.
    /// They get no secret but those that
    /// [allow it](msb_secrets::SecretBuilder::allow_unverified_upstream_dangerous).
    pub fn danger_no_verify_upstream_for(mut self, pattern: impl Into<String>) -> Self {
        let setting = UpstreamSetting::NoVerificationFor(pattern.into());
        self.upstream.push(setting);
        self
    }

    /// Presents a certificate to the servers that a pattern covers, if they ask for one: PEM files of the chain and of
    /// its key, which stays on the host. Where several patterns cover a server, the narrowest counts.
    pub fn client_cert_for(
        mut self,
        pattern: impl Into<String>,
        cert: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        let setting = UpstreamSetting::ClientCertFor(pattern.into(), cert.into(), key.into());
        self.upstream.push(setting);
        self
    }

    /// Which TLS connections on the ports are intercepted. With [`InterceptScope::NamedHosts`], connections to other hosts
    /// are not searched for placeholders. Default: [`InterceptScope::All`].
    pub fn intercept_scope(mut self, scope: InterceptScope) -> Self {
        self.scope = scope;
        self
    }

    /// Whether UDP to the ports on which TLS is intercepted is refused, so that clients which try QUIC there fall back to
    /// TCP at once. Without it, what they send by QUIC is neither searched nor governed by rules about requests.
    /// Default: true.
    pub fn block_quic(mut self, block: bool) -> Self {
        self.block_quic = block;
        self
    }

    /// What becomes of intercepted connections that carry something other than HTTP. Default: [`NonHttp::Relay`].
    pub fn non_http(mut self, non_http: NonHttp) -> Self {
        self.non_http = non_http;
        self
    }

    /// How many bytes of a request's or response's body may be held to count its length, which changes where a secret is
    /// put in or taken out; longer ones are sent without their length. Default: 16 MiB.
    pub fn body_hold_limit(mut self, bytes: u64) -> Self {
        self.body_hold_limit = Some(bytes);
        self
    }
}
