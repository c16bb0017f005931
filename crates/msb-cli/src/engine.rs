//! The flags that mean the same wherever the engine runs: secrets, policy, TLS, events.

use std::path::PathBuf;

use clap::Args;
use msb::name::HostName;
use msb::{
    DeniedRequests, HostAddress, InterceptScope, NetworkBuilder, NonHttp, TlsBuilder,
    ViolationAction,
};

use crate::policy::PolicyArgs;
use crate::secrets::SecretArgs;

#[derive(Clone, Debug, Args)]
pub(crate) struct EngineArgs {
    #[command(flatten)]
    pub(crate) secrets: SecretArgs,

    /// What happens when a placeholder heads for a host its secret is not allowed for: block, block-and-log or
    /// block-and-terminate.
    #[arg(long, value_name = "ACTION", default_value = "block", value_parser = parse_action)]
    pub(crate) on_secret_violation: ViolationAction,

    #[command(flatten)]
    pub(crate) policy: PolicyArgs,

    /// What becomes of requests that HTTP rules deny: forbid (answered 403 with the reason, the default) or reset.
    #[arg(long, value_name = "ACTION", value_parser = parse_denied)]
    pub(crate) http_denied: Option<DeniedRequests>,

    /// Makes a name lead to an address, or to the host itself (`host-gateway`). With a port, in `msb proxy` only, to that
    /// port whatever port is asked for. May be repeated.
    #[arg(long = "add-host", value_name = "NAME:IP[:PORT]", value_parser = parse_host)]
    pub(crate) add_hosts: Vec<HostArg>,

    /// How much of a body may be held to count its length where a secret changes it, as bytes or with KiB, MiB or GiB;
    /// longer ones are sent without their length. Default: 16 MiB.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) body_hold_limit: Option<u64>,

    /// Hosts whose TLS is left alone: a name or `*.suffix`. May be repeated.
    #[arg(long = "tls-bypass", value_name = "PATTERN")]
    pub(crate) tls_bypass: Vec<String>,

    /// Which TLS connections are intercepted: all (the default), or named-hosts, those to hosts that a secret is for. The
    /// others are left alone, and not searched for placeholders.
    #[arg(long, value_name = "SCOPE", value_parser = parse_scope)]
    pub(crate) tls_intercept_scope: Option<InterceptScope>,

    /// What becomes of TLS connections that carry something other than HTTP: relay (relayed and searched, the default) or
    /// refuse (taken for HTTP, and answered so).
    #[arg(long, value_name = "ACTION", value_parser = parse_non_http)]
    pub(crate) tls_non_http: Option<NonHttp>,

    /// A PEM file of authorities to trust when servers are verified, besides the host's own. May be repeated.
    #[arg(long = "tls-upstream-ca-cert", value_name = "FILE")]
    pub(crate) tls_upstream_ca_certs: Vec<PathBuf>,

    /// As --tls-upstream-ca-cert, for one host or `*.suffix`. May be repeated.
    #[arg(long = "tls-upstream-ca-cert-for", value_name = "PATTERN=FILE", value_parser = parse_file_for)]
    pub(crate) tls_upstream_ca_certs_for: Vec<(String, PathBuf)>,

    /// Does not verify the certificates of a host or `*.suffix`: whoever is on the way there can read and change
    /// everything, so no secret goes there. May be repeated.
    #[arg(long = "tls-no-verify-upstream-for", value_name = "PATTERN")]
    pub(crate) tls_no_verify_upstream_for: Vec<String>,

    /// Presents a client certificate (PEM files of the chain and its key) to a host or `*.suffix`. May be repeated.
    #[arg(long = "tls-client-cert-for", value_name = "PATTERN=CERT,KEY", value_parser = parse_cert_for)]
    pub(crate) tls_client_certs_for: Vec<CertFor>,

    /// Appends what happens to a file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostArg {
    pub(crate) name: String,
    pub(crate) address: HostAddress,
}

/// `PATTERN=CERT,KEY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertFor {
    pub(crate) pattern: String,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl EngineArgs {
    /// Whether a flag is about interception, which switches it on.
    pub(crate) fn wants_tls(&self) -> bool {
        let Self {
            body_hold_limit,
            tls_bypass,
            tls_intercept_scope,
            tls_non_http,
            tls_upstream_ca_certs,
            tls_upstream_ca_certs_for,
            tls_no_verify_upstream_for,
            tls_client_certs_for,
            ..
        } = self;
        body_hold_limit.is_some()
            || !tls_bypass.is_empty()
            || tls_intercept_scope.is_some()
            || tls_non_http.is_some()
            || !tls_upstream_ca_certs.is_empty()
            || !tls_upstream_ca_certs_for.is_empty()
            || !tls_no_verify_upstream_for.is_empty()
            || !tls_client_certs_for.is_empty()
    }

    /// Applies the flags about policy.
    pub(crate) fn network(&self, mut network: NetworkBuilder) -> NetworkBuilder {
        network = self.policy.network(network);
        network = network.on_secret_violation(self.on_secret_violation);
        if let Some(action) = self.http_denied {
            network = network.denied_requests(action);
        }
        for host in &self.add_hosts {
            network = network.add_host(&host.name, host.address);
        }
        network
    }

    /// Applies the flags about TLS.
    pub(crate) fn tls(&self, mut tls: TlsBuilder) -> TlsBuilder {
        if let Some(bytes) = self.body_hold_limit {
            tls = tls.body_hold_limit(bytes);
        }
        for pattern in &self.tls_bypass {
            tls = tls.bypass(pattern);
        }
        if let Some(scope) = self.tls_intercept_scope {
            tls = tls.intercept_scope(scope);
        }
        if let Some(non_http) = self.tls_non_http {
            tls = tls.non_http(non_http);
        }
        for file in &self.tls_upstream_ca_certs {
            tls = tls.upstream_ca_cert(file);
        }
        for (pattern, file) in &self.tls_upstream_ca_certs_for {
            tls = tls.upstream_ca_cert_for(pattern, file);
        }
        for pattern in &self.tls_no_verify_upstream_for {
            tls = tls.danger_no_verify_upstream_for(pattern);
        }
        for CertFor { pattern, cert, key } in &self.tls_client_certs_for {
            tls = tls.client_cert_for(pattern, cert, key);
        }
        tls
    }
}

fn parse_action(text: &str) -> Result<ViolationAction, String> {
    match text {
        "block" => Ok(ViolationAction::Block),
        "block-and-log" => Ok(ViolationAction::BlockAndLog),
        "block-and-terminate" => Ok(ViolationAction::BlockAndTerminate),
        _ => Err("use block, block-and-log or block-and-terminate".into()),
    }
}

fn parse_scope(text: &str) -> Result<InterceptScope, String> {
    match text {
        "all" => Ok(InterceptScope::All),
        "named-hosts" => Ok(InterceptScope::NamedHosts),
        _ => Err("use all or named-hosts".into()),
    }
}

fn parse_denied(text: &str) -> Result<DeniedRequests, String> {
    match text {
        "forbid" => Ok(DeniedRequests::Forbid),
        "reset" => Ok(DeniedRequests::Reset),
        _ => Err("use forbid or reset".into()),
    }
}

fn parse_non_http(text: &str) -> Result<NonHttp, String> {
    match text {
        "relay" => Ok(NonHttp::Relay),
        "refuse" => Ok(NonHttp::Refuse),
        _ => Err("use relay or refuse".into()),
    }
}

pub(crate) fn parse_host(text: &str) -> Result<HostArg, String> {
    let (name, address) = text
        .split_once(':')
        .ok_or("write NAME:IP, NAME:IP:PORT or NAME:host-gateway")?;
    HostName::parse(name).map_err(|error| error.to_string())?;
    let bare = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    let ip = || bare.parse().map(HostAddress::Ip).ok();
    let socket = || address.parse().map(HostAddress::Socket).ok();
    let address = match bare {
        "host-gateway" => Some(HostAddress::HostGateway),
        _ => ip().or_else(socket),
    };
    let address = address.ok_or_else(|| {
        format!("{text:?} has no IP address behind the name, nor host-gateway; write an IPv6 address with a port as [IP]:PORT")
    })?;
    if matches!(address, HostAddress::Socket(socket) if socket.port() == 0) {
        return Err("ports are from 1 to 65535".into());
    }
    Ok(HostArg {
        name: name.to_owned(),
        address,
    })
}

/// A number of bytes: `65536`, `64KiB`, `16M`, `1 GiB`. K, M and G are powers of 1024, with or without `iB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text[digits.len()..].trim_start();
    let unit = unit.strip_suffix("iB").unwrap_or(unit);
    let scale = match unit {
        "" | "B" => Some(0),
        "K" | "k" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        _ => None,
    };
    let number = digits.parse::<u64>().ok();
    let bytes = number
        .zip(scale)
        .and_then(|(number, scale)| number.checked_mul(1 << scale));
    bytes.ok_or_else(|| "write a number of bytes, such as 65536, 64KiB or 16MiB".into())
}

fn parse_file_for(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((pattern, file)) if !pattern.is_empty() && !file.is_empty() => {
            Ok((pattern.to_owned(), file.into()))
        }
        _ => Err("write PATTERN=FILE, such as *.corp.example=root.pem".into()),
    }
}

fn parse_cert_for(text: &str) -> Result<CertFor, String> {
    let usage = "write PATTERN=CERT,KEY, such as api.example.com=client.pem,client.key";
    let (pattern, files) = text.split_once('=').ok_or(usage)?;
    let (cert, key) = files.split_once(',').ok_or(usage)?;
    if pattern.is_empty() || cert.is_empty() || key.is_empty() || key.contains(',') {
        return Err(usage.into());
    }
    Ok(CertFor {
        pattern: pattern.to_owned(),
        cert: cert.into(),
        key: key.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_hosts_parse_or_say_what_to_write() {
        let ip = |text: &str| Some(HostAddress::Ip(text.parse().expect("an address")));
        let socket = |text: &str| Some(HostAddress::Socket(text.parse().expect("an address")));
        for (text, expected) in [
            ("a.example:host-gateway", Some(HostAddress::HostGateway)),
            ("a.example:192.0.2.1", ip("192.0.2.1")),
            ("a.example:192.0.2.1:8443", socket("192.0.2.1:8443")),
            ("a.example:2001:db8::1", ip("2001:db8::1")),
            ("a.example:[2001:db8::1]", ip("2001:db8::1")),
            ("a.example:[2001:db8::1]:8443", socket("[2001:db8::1]:8443")),
            ("a.example", None),
            ("a.example:", None),
            ("a.example:192.0.2.1:0", None),
            ("a.example:192.0.2.1:65536", None),
            ("a.example:host-gateway:1", None),
            ("a example:192.0.2.1", None),
            (":192.0.2.1", None),
        ] {
            let address = parse_host(text).ok().map(|host| host.address);
            assert_eq!(address, expected, "{text}");
        }
    }

    #[test]
    fn sizes_parse_or_say_what_to_write() {
        for (text, expected) in [
            ("0", Some(0)),
            ("65536", Some(65_536)),
            ("64KiB", Some(65_536)),
            ("64 KiB", Some(65_536)),
            ("16M", Some(16 << 20)),
            ("16MiB", Some(16 << 20)),
            ("1GiB", Some(1 << 30)),
            ("5B", Some(5)),
            ("", None),
            ("MiB", None),
            ("16MB", None),
            ("-1", None),
            ("1.5M", None),
            ("1TiB", None),
            ("18446744073709551615K", None),
        ] {
            assert_eq!(parse_size(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn files_for_patterns_parse_or_say_what_to_write() {
        for (text, expected) in [
            ("a.example=f,g", Some(("a.example", "f", "g"))),
            (
                "*.a.example=dir/f,dir=g",
                Some(("*.a.example", "dir/f", "dir=g")),
            ),
            ("a.example=f", None),
            ("a.example=f,", None),
            ("a.example=f,g,h", None),
            ("=f,g", None),
            ("f,g", None),
        ] {
            let parsed = parse_cert_for(text).ok();
            let expected = expected.map(|(pattern, cert, key)| CertFor {
                pattern: pattern.into(),
                cert: cert.into(),
                key: key.into(),
            });
            assert_eq!(parsed, expected, "{text}");
        }
        for text in ["a.example", "a.example=", "=f"] {
            parse_file_for(text).expect_err(text);
        }
        let parsed = parse_file_for("a.example=f=g");
        assert_eq!(parsed, Ok(("a.example".into(), "f=g".into())));
    }
}
