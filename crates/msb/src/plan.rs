//! A checked configuration. Pure: what can be known without looking at the machine is settled here.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use msb_name::{HostName, HostPattern};
use msb_net::HostEntry;
use msb_policy::{BypassList, HttpPolicy, HttpRule, NetworkPolicy};
use msb_secrets::{Secret, SecretBuilder, SecretSet, ViolationAction};
use msb_tls_proxy::{
    DeniedRequests, InterceptScope, Limits, NonHttp, TlsProxy, UpstreamTls, UpstreamTlsBuilder,
};
use msb_vmm::AcceleratorChoice;

use crate::dns::DnsSettings;
use crate::event::Sink;
use crate::lifetime::Lifetime;
use crate::limits::NetworkLimits;
use crate::network::{HostAddress, NetworkBuilder, TlsBuilder, UpstreamSetting};
use crate::storage::Storage;
use crate::{Error, PortMapping, SandboxBuilder, Ulimit};

mod reach;

pub(crate) use reach::check_bypass;
use reach::check_reach;

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
    pub(crate) storage: Storage,
    /// The guest's, placeholders included.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) ulimits: Vec<Ulimit>,
    pub(crate) secrets: SecretSet,
    pub(crate) policy: Arc<NetworkPolicy>,
    pub(crate) hosts: Vec<(HostName, HostEntry)>,
    pub(crate) ports: Vec<PortMapping>,
    pub(crate) dns: DnsSettings,
    pub(crate) on_violation: ViolationAction,
    pub(crate) interception: Option<Interception>,
    pub(crate) trust_host_cas: bool,
    pub(crate) limits: NetworkLimits,
    pub(crate) on_event: Option<Sink>,
    pub(crate) boot_timeout: Duration,
    pub(crate) lifetime: Lifetime,
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
        builder.storage.check()?;
        let secrets = build_secrets(builder.secrets)?;
        let network = builder.network;
        let interception = plan_interception(&network, !secrets.is_empty())?;
        let policy = policy(&network)?;
        network.limits.check()?;
        builder.lifetime.check()?;
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
            ulimits: builder.ulimits,
            secrets,
            policy: Arc::new(policy),
            hosts,
            ports: network.ports,
            dns: network.dns,
            on_violation: network.on_violation,
            limits: network.limits,
            trust_host_cas: network.trust_host_cas,
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
            storage: builder.storage,
            on_event: builder.on_event,
            boot_timeout: builder.boot_timeout,
            lifetime: builder.lifetime,
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

#[cfg(test)]
mod tests;
