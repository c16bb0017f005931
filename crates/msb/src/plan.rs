//! A checked configuration. Pure: what can be known without looking at the machine is settled here.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use msb_name::{HostName, HostPattern};
use msb_net::HostEntry;
use msb_policy::{Action, BypassList, Direction, HttpPolicy, HttpRule, NetworkPolicy};
use msb_secrets::{Secret, SecretBuilder, SecretSet, ViolationAction};
use msb_tls_proxy::{
    DeniedRequests, InterceptScope, Limits, NonHttp, TlsProxy, UpstreamTls, UpstreamTlsBuilder,
};
use msb_vmm::AcceleratorChoice;

use crate::dns::DnsSettings;
use crate::event::Sink;
use crate::limits::NetworkLimits;
use crate::network::{HostAddress, NetworkBuilder, TlsBuilder, UpstreamSetting};
use crate::{Error, PortMapping, SandboxBuilder};

/// What the base image and its services need; less and the guest dies of memory with no word why.
const LEAST_MEMORY_MIB: u32 = 128;
/// DNS is answered on the host, whatever address it is sent to.
const DNS_PORT: u16 = 53;

pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) rootfs: Option<PathBuf>,
    pub(crate) kernel: Option<PathBuf>,
    pub(crate) initramfs: Option<PathBuf>,
    pub(crate) store: Option<PathBuf>,
    pub(crate) qemu: Option<PathBuf>,
    pub(crate) accelerator: AcceleratorChoice,
    pub(crate) cpus: NonZeroU8,
    pub(crate) memory_mib: u32,
    /// The guest's, placeholders included.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) secrets: SecretSet,
    pub(crate) policy: Arc<NetworkPolicy>,
    pub(crate) hosts: Vec<(HostName, HostEntry)>,
    pub(crate) ports: Vec<PortMapping>,
    pub(crate) dns: DnsSettings,
    pub(crate) on_violation: ViolationAction,
    pub(crate) interception: Option<Interception>,
    pub(crate) limits: NetworkLimits,
    pub(crate) on_event: Option<Sink>,
    pub(crate) boot_timeout: Duration,
    pub(crate) warnings: Vec<String>,
}

pub(crate) struct Interception {
    pub(crate) ports: Vec<u16>,
    pub(crate) bypass: BypassList,
    pub(crate) upstream: UpstreamTlsBuilder,
    pub(crate) limits: Limits,
    pub(crate) non_http: NonHttp,
    pub(crate) scope: InterceptScope,
    pub(crate) http_policy: HttpPolicy,
    pub(crate) denied_requests: DeniedRequests,
    pub(crate) block_quic: bool,
}

impl Plan {
    pub(crate) fn new(builder: SandboxBuilder) -> Result<Self, Error> {
        check_name(&builder.name)?;
        let cpus = NonZeroU8::new(builder.cpus)
            .ok_or_else(|| Error::Config("a sandbox needs at least 1 cpu".into()))?;
        if builder.memory_mib < LEAST_MEMORY_MIB {
            return Err(Error::Config(format!(
                "{} MiB of memory are too few: at least {LEAST_MEMORY_MIB} are needed",
                builder.memory_mib
            )));
        }
        let secrets = build_secrets(builder.secrets)?;
        let network = builder.network;
        let interception = plan_interception(&network, !secrets.is_empty())?;
        let policy = policy(&network)?;
        network.limits.check()?;
        let hosts = plan_hosts(network.hosts)?;
        network.ports.iter().try_for_each(PortMapping::check)?;
        network.dns.check()?;
        let mut warnings = check_reach(&secrets, &policy, &hosts, interception.as_ref())?;
        warnings.extend(policy.warnings());
        if let Some(interception) = &interception {
            warnings.extend(interception.http_policy.warnings());
        }
        let secrets = SecretSet::new(secrets)?;
        Ok(Self {
            env: merge_env(builder.env, &secrets)?,
            secrets,
            policy: Arc::new(policy),
            hosts,
            ports: network.ports,
            dns: network.dns,
            on_violation: network.on_violation,
            limits: network.limits,
            interception,
            name: builder.name,
            image: builder.image,
            rootfs: builder.rootfs,
            kernel: builder.kernel,
            initramfs: builder.initramfs,
            store: builder.store,
            qemu: builder.qemu,
            accelerator: builder.accelerator,
            cpus,
            memory_mib: builder.memory_mib,
            on_event: builder.on_event,
            boot_timeout: builder.boot_timeout,
            warnings,
        })
    }
}

pub(crate) fn build_secrets(secrets: Vec<SecretBuilder>) -> Result<Vec<Secret>, Error> {
    let secrets = secrets.into_iter().map(SecretBuilder::build);
    Ok(secrets.collect::<Result<_, _>>()?)
}

pub(crate) fn policy(network: &NetworkBuilder) -> Result<NetworkPolicy, Error> {
    let mut policy = NetworkPolicy::builder();
    for rule in &network.rules {
        policy = policy.rule(rule.parse()?);
    }
    policy = match (&network.profiles, network.default_egress) {
        (Some(text), _) => policy.profiles(text)?,
        (None, None) => policy.profiles("public")?,
        (None, Some(_)) => policy,
    };
    if let Some(action) = network.default_egress {
        policy = policy.default_egress(action);
    }
    if let Some(action) = network.default_ingress {
        policy = policy.default_ingress(action);
    }
    Ok(policy.build()?)
}

/// Rules about requests from their text forms.
pub(crate) fn parse_http_rules(
    rules: impl IntoIterator<Item = impl Display>,
) -> Result<HttpPolicy, Error> {
    let rules = rules.into_iter();
    let rules = rules.map(|rule| rule.to_string().parse::<HttpRule>());
    Ok(rules.collect::<Result<_, _>>()?)
}

/// Puts other rules in place, and returns warnings.
pub(crate) fn replace_http_rules(
    tls: &TlsProxy,
    rules: impl IntoIterator<Item = impl Display>,
) -> Result<Vec<String>, Error> {
    let policy = parse_http_rules(rules)?;
    let warnings = policy.warnings().collect();
    tls.replace_http_policy(policy)?;
    Ok(warnings)
}

/// The rules about requests, which have to be readable on hosts that are not in `bypass`.
fn http_policy(network: &NetworkBuilder, bypass: &BypassList) -> Result<HttpPolicy, Error> {
    let policy = parse_http_rules(&network.http_rules)?;
    match policy.bypassed(bypass) {
        Some(bypass) => Err(msb_tls_proxy::Error::GovernedBypass { bypass }.into()),
        None => Ok(policy),
    }
}

/// The name is the guest's host name: one label of RFC 1123.
fn check_name(name: &str) -> Result<(), Error> {
    let good = (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good {
        return Ok(());
    }
    Err(Error::Config(format!(
        "{name:?} cannot be a sandbox's name: use 1 to 63 of a-z, 0-9 and inner hyphens"
    )))
}

fn merge_env(
    mut env: BTreeMap<String, String>,
    secrets: &SecretSet,
) -> Result<BTreeMap<String, String>, Error> {
    for (name, value) in &env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Error::Config(format!(
                "{name:?} cannot be an environment variable: names have no `=`, and neither part a NUL"
            )));
        }
    }
    for (name, placeholder) in secrets.env() {
        if env
            .insert(name.to_owned(), placeholder.to_owned())
            .is_some()
        {
            return Err(Error::Config(format!(
                "{name} is both an environment variable and a secret; drop one of them"
            )));
        }
    }
    Ok(env)
}

fn plan_hosts(hosts: Vec<(String, HostAddress)>) -> Result<Vec<(HostName, HostEntry)>, Error> {
    hosts
        .into_iter()
        .map(|(name, address)| {
            let name = added_name(&name)?;
            let entry = match address {
                HostAddress::Ip(address) => HostEntry::Ip(address),
                HostAddress::HostGateway => HostEntry::HostGateway,
                HostAddress::Socket(_) => {
                    return Err(Error::Config(format!(
                        "the added host {name} cannot have a port: a sandbox's guest chooses ports itself"
                    )));
                }
            };
            Ok((name, entry))
        })
        .collect()
}

pub(crate) fn added_name(name: &str) -> Result<HostName, Error> {
    HostName::parse(name).map_err(|error| Error::Config(format!("the added host: {error}")))
}

pub(crate) fn plan_interception(
    network: &NetworkBuilder,
    has_secrets: bool,
) -> Result<Option<Interception>, Error> {
    let has_http_rules = !network.http_rules.is_empty();
    let tls = match &network.tls {
        Some(tls) if !tls.enabled && has_http_rules => {
            return Err(Error::Config(
                "nothing could enforce the HTTP rules: TLS interception is switched off; switch it on or drop the rules".into(),
            ));
        }
        Some(tls) if !tls.enabled => return Ok(None),
        Some(tls) => tls.clone(),
        None if has_secrets || has_http_rules => TlsBuilder::default(),
        None => return Ok(None),
    };
    if tls.ports.is_empty() || tls.ports.contains(&0) {
        return Err(Error::Config(
            "TLS interception needs at least one port, from 1 to 65535; leave it out or switch it off".into(),
        ));
    }
    if tls.ports.contains(&DNS_PORT) {
        return Err(Error::Config(
            "port 53 cannot be intercepted as TLS: DNS is answered there".into(),
        ));
    }
    let mut limits = Limits::default();
    limits.body_hold = tls.body_hold_limit.unwrap_or(limits.body_hold);
    let bypass = BypassList::parse(&tls.bypass)?;
    Ok(Some(Interception {
        ports: tls.ports,
        http_policy: http_policy(network, &bypass)?,
        denied_requests: network.denied_requests,
        bypass,
        upstream: plan_upstream(tls.upstream)?,
        limits,
        non_http: tls.non_http,
        scope: tls.scope,
        block_quic: tls.block_quic,
    }))
}

fn plan_upstream(settings: Vec<UpstreamSetting>) -> Result<UpstreamTlsBuilder, Error> {
    let parse = |what: &str, pattern: &str| {
        HostPattern::parse(pattern).map_err(|error| Error::Config(format!("{what}: {error}")))
    };
    let mut upstream = UpstreamTls::builder();
    for setting in settings {
        upstream = match setting {
            UpstreamSetting::CaCert(path) => upstream.ca_file(path),
            UpstreamSetting::CaCertFor(pattern, path) => {
                upstream.ca_file_for(parse("upstream CA certificate", &pattern)?, path)
            }
            UpstreamSetting::NoVerificationFor(pattern) => {
                upstream.danger_no_verification_for(parse("no verification", &pattern)?)
            }
            UpstreamSetting::ClientCertFor(pattern, cert, key) => {
                let pattern = parse("client certificate", &pattern)?;
                upstream.client_certificate_for(pattern, cert, key)
            }
        };
    }
    Ok(upstream)
}

/// Refuses a secret that nothing could put in (SPEC S12); returns warnings for those that may be half out of reach.
fn check_reach(
    secrets: &[Secret],
    policy: &NetworkPolicy,
    hosts: &[(HostName, HostEntry)],
    interception: Option<&Interception>,
) -> Result<Vec<String>, Error> {
    let Some(secret) = secrets.first() else {
        return Ok(Vec::new());
    };
    let allows = policy.rules().any(|rule| rule.action() == Action::Allow);
    if !allows && policy.default_of(Direction::Egress) == Action::Deny {
        return Err(Error::Config(format!(
            "nothing could put the secret {} in: the network policy allows nothing; allow its hosts or drop the secret",
            secret.env()
        )));
    }
    check_names(secrets, policy, hosts)?;
    if let Some(interception) = interception {
        return check_bypass(secrets, interception);
    }
    match secrets.iter().find(|secret| secret.requires_tls_identity()) {
        Some(secret) => Err(Error::Config(format!(
            "nothing could put the secret {} in: TLS interception is switched off; switch it on or drop the secret",
            secret.env()
        ))),
        None => Ok(Vec::new()),
    }
}

/// Refuses a secret for a host that the policy does not let the guest resolve.
fn check_names(
    secrets: &[Secret],
    policy: &NetworkPolicy,
    hosts: &[(HostName, HostEntry)],
) -> Result<(), Error> {
    for secret in secrets {
        for pattern in secret.scope().patterns().iter() {
            let HostPattern::Exact(host) = &pattern else {
                continue;
            };
            if hosts.iter().any(|(name, _)| name == host) {
                continue;
            }
            policy.decide_name(host).map_err(|denial| {
                let env = secret.env();
                Error::Config(format!(
                    "nothing could put the secret {env} in for {host}: {denial}; allow the host or drop it from the secret"
                ))
            })?;
        }
    }
    Ok(())
}

/// Refuses a secret for a host that is bypassed by name; returns warnings for patterns that overlap.
pub(crate) fn check_bypass(
    secrets: &[Secret],
    interception: &Interception,
) -> Result<Vec<String>, Error> {
    let mut warnings = Vec::new();
    for secret in secrets {
        let env = secret.env();
        for pattern in secret.scope().patterns().iter() {
            match &pattern {
                HostPattern::Exact(host)
                    if secret.requires_tls_identity() && interception.bypass.covers(host) =>
                {
                    return Err(Error::Config(format!(
                        "nothing could put the secret {env} in for {host}: that host is bypassed; drop the bypass or the host"
                    )));
                }
                _ => {}
            }
            for bypass in interception.bypass.iter().filter(|b| b.overlaps(&pattern)) {
                warnings.push(format!(
                    "the secret {env} is allowed for {pattern}, but is not put in for what the bypass {bypass} covers"
                ));
            }
        }
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> SandboxBuilder {
        SandboxBuilder::new("worker".into())
    }

    fn with_secret() -> SandboxBuilder {
        builder().secret_env("API_KEY", "sk-canary-value", "api.example.com")
    }

    fn with_causes(error: &dyn std::error::Error) -> String {
        let causes = std::iter::successors(Some(error), |error| error.source());
        let texts: Vec<_> = causes.map(ToString::to_string).collect();
        texts.join(": ")
    }

    #[track_caller]
    fn check_refused(builder: SandboxBuilder, expected: &str) {
        let error = match Plan::new(builder) {
            Ok(_) => panic!("accepted, but expected: {expected}"),
            Err(error) => with_causes(&error),
        };
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
        assert!(!error.contains("canary"), "{error}");
    }

    #[track_caller]
    fn check_accepted(builder: SandboxBuilder) {
        if let Err(error) = Plan::new(builder) {
            panic!("{}", with_causes(&error));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_says_why() {
        for name in ["", "Worker", "-a", "a-", "a_b", &"a".repeat(64)] {
            check_refused(
                SandboxBuilder::new(name.into()),
                "cannot be a sandbox's name",
            );
        }
        check_refused(builder().cpus(0), "at least 1 cpu");
        check_refused(builder().memory(64), "64 MiB of memory are too few");
        check_refused(
            builder().env("A=B", "c"),
            "cannot be an environment variable",
        );
        check_refused(builder().env("", "c"), "cannot be an environment variable");
        check_refused(with_secret().env("API_KEY", "x"), "API_KEY is both");
        check_refused(builder().network(|n| n.profiles("publik")), "publik");
        check_refused(
            builder().network(|n| n.add_host("bad host", HostAddress::HostGateway)),
            "the added host",
        );
        check_refused(builder().network(|n| n.tls(|t| t.bypass("a.*.b"))), "a.*.b");
        check_refused(
            builder().network(|n| n.tls(|t| t.danger_no_verify_upstream_for("*"))),
            "no verification: \"*\"",
        );
        check_refused(
            builder().network(|n| n.tls(|t| t.upstream_ca_cert_for("a.*.b", "f"))),
            "upstream CA certificate: \"a.*.b\"",
        );
        check_refused(
            builder().network(|n| n.tls(|t| t.client_cert_for("", "f", "f"))),
            "client certificate: ",
        );
        let socket = std::net::SocketAddr::from(([192, 0, 2, 1], 443));
        check_refused(
            builder().network(|n| n.add_host("a.test", socket)),
            "a.test cannot have a port",
        );
        check_refused(
            builder().network(|n| n.max_connections(0)),
            "at least 1 connection",
        );
        check_refused(
            builder().network(|n| n.tls(|t| t.intercepted_ports([]))),
            "at least one port",
        );
        check_refused(
            builder().network(|n| n.tls(|t| t.intercepted_ports([443, 53]))),
            "port 53",
        );
    }

    #[test]
    fn a_secret_nothing_could_put_in_is_refused() {
        check_refused(
            with_secret().network(|n| n.tls(|t| t.enabled(false))),
            "API_KEY in: TLS interception is switched off",
        );
        check_refused(
            with_secret().network(|n| n.profiles("none")),
            "API_KEY in: the network policy allows nothing",
        );
        for bypass in ["api.example.com", "*.example.com", "API.Example.com."] {
            check_refused(
                with_secret().network(|n| n.tls(|t| t.bypass(bypass))),
                "api.example.com: that host is bypassed",
            );
        }
    }

    #[test]
    fn rules_come_before_profiles_and_defaults_replace_them() {
        let plan = |network: fn(NetworkBuilder) -> NetworkBuilder| {
            let plan = Plan::new(builder().network(network)).unwrap();
            let rules: Vec<_> = plan.policy.rules().map(ToString::to_string).collect();
            (rules.join(" "), plan.policy.default_of(Direction::Egress))
        };
        assert_eq!(plan(|n| n), ("allow@public".into(), Action::Deny));
        assert_eq!(
            plan(|n| n.rule("deny@*.evil.test").profiles("private")),
            ("deny@*.evil.test allow@private".into(), Action::Deny)
        );
        assert_eq!(
            plan(|n| n.rule("deny@private").default_egress(Action::Allow)),
            ("deny@private".into(), Action::Allow)
        );
        assert_eq!(
            plan(|n| n.profiles("public").default_egress(Action::Deny)),
            ("allow@public".into(), Action::Deny)
        );
        check_refused(
            builder().network(|n| n.rule("allow@10.0.0.0/33")),
            "^^ expected a prefix length from 0 to 32",
        );
        check_refused(
            builder().network(|n| n.http_rule("allow get a.test/")),
            "^^^ expected `*`, or methods in upper case",
        );
        let shadowed = builder().network(|n| n.rule("deny@1.1.1.1").rule("allow@1.1.1.1:tcp"));
        let warnings = Plan::new(shadowed).unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("never counts"), "{warnings:?}");
    }

    /// What they are about has to be read.
    #[test]
    fn http_rules_switch_interception_on_or_are_refused() {
        let ruled = || builder().network(|n| n.http_rule("allow GET *.a.test/**"));
        let interception = Plan::new(ruled()).unwrap().interception.unwrap();
        assert_eq!(interception.ports, [443]);
        assert_eq!(interception.http_policy.rules().len(), 1);
        check_refused(
            ruled().network(|n| n.tls(|t| t.enabled(false))),
            "nothing could enforce the HTTP rules",
        );
        for (bypass, refused) in [("x.a.test", true), ("*.test", true), ("a.test", false)] {
            let builder = ruled().network(|n| n.tls(|t| t.bypass(bypass)));
            match refused {
                true => check_refused(builder, "that the bypass"),
                false => check_accepted(builder),
            }
        }
        let lonely = builder().network(|n| n.http_rule("deny DELETE a.test/**"));
        let warnings = Plan::new(lonely).unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].contains("leaves nothing allowed"),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_secret_for_a_host_that_the_policy_denies_is_refused() {
        let with = |network: fn(NetworkBuilder) -> NetworkBuilder| with_secret().network(network);
        check_refused(
            with(|n| n.rule("deny@*.example.com")),
            "API_KEY in for api.example.com: api.example.com is not asked for: denied by rule 1 (deny@*.example.com)",
        );
        check_refused(
            with(|n| n.profiles("none").rule("allow@b.test")),
            "no rule allows a destination",
        );
        for network in [
            with(|n| n.profiles("none").rule("allow@api.example.com:tcp:443")),
            with(|n| {
                let address = HostAddress::HostGateway;
                n.profiles("host").add_host("api.example.com", address)
            }),
        ] {
            check_accepted(network);
        }
    }

    /// SPEC S12: it goes into plaintext HTTP, which neither needs interception nor is bypassed.
    #[test]
    fn a_secret_without_tls_identity_needs_no_interception() {
        let secret = |s: SecretBuilder| {
            let secret = s.env("API_KEY").value("sk-canary").allow_host("a.test");
            secret.require_tls_identity(false)
        };
        let with = |tls: fn(TlsBuilder) -> TlsBuilder| {
            builder().secret(secret).network(move |n| n.tls(tls))
        };
        let plan = Plan::new(with(|t| t.enabled(false))).unwrap();
        assert!(plan.interception.is_none() && !plan.secrets.is_empty());
        let plan = Plan::new(with(|t| t.bypass("a.test"))).unwrap();
        assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
        check_refused(
            with(|t| t.enabled(false)).secret_env("OTHER", "sk-canary", "b.test"),
            "the secret OTHER in: TLS interception is switched off",
        );
        check_refused(
            builder().secret(secret).network(|n| n.profiles("none")),
            "API_KEY in: the network policy allows nothing",
        );
    }

    #[test]
    fn patterns_that_overlap_a_bypass_are_a_warning() {
        let warnings = |pattern: &str, bypass: &str| {
            let builder = builder()
                .secret(|s| s.env("API_KEY").value("v").allow_host_pattern(pattern))
                .network(|n| n.tls(|t| t.bypass(bypass)));
            match Plan::new(builder) {
                Ok(plan) => plan.warnings.len(),
                Err(error) => panic!("{error}"),
            }
        };
        for (pattern, bypass, expected) in [
            ("*.example.com", "pinned.example.com", 1),
            ("*.a.example.com", "*.example.com", 1),
            ("*.example.com", "*.a.example.com", 1),
            ("*.example.com", "example.com", 0),
            ("*.example.com", "evilexample.com", 0),
            ("*.example.com", "*.example.org", 0),
        ] {
            assert_eq!(
                warnings(pattern, bypass),
                expected,
                "{pattern} and {bypass}"
            );
        }
    }

    #[test]
    fn a_secret_switches_interception_on_by_itself() {
        let ports = |builder| match Plan::new(builder) {
            Ok(plan) => plan.interception.map(|i| i.ports),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(ports(builder()), None);
        assert_eq!(ports(with_secret()), Some(vec![443]));
        assert_eq!(ports(builder().network(|n| n.tls(|t| t))), Some(vec![443]));
        assert_eq!(
            ports(with_secret().network(|n| n.tls(|t| t.intercepted_ports([8443])))),
            Some(vec![8443])
        );
    }

    #[test]
    fn the_guest_sees_placeholders_and_never_values() {
        let plan = match Plan::new(with_secret().env("MODE", "test")) {
            Ok(plan) => plan,
            Err(error) => panic!("{error}"),
        };
        let env: Vec<_> = plan.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(env, ["API_KEY=$MSB_API_KEY", "MODE=test"]);
    }
}
