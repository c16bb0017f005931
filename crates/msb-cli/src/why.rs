//! `msb policy`: what the network policy of these flags would decide, and why, without sending anything.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use msb::name::{Authority, Host, HostName};
use msb::policy::{
    Decision, Direction, Flow, Group, HttpPolicy, NetworkPolicy, Protocol, Target, classify,
};
use msb::{HostAddress, NetworkBuilder};

use crate::engine::{HostArg, parse_host};
use crate::policy::PolicyArgs;

/// Of the answers, as exit codes.
const ALLOWED: u8 = 0;
const DENIED: u8 = 1;

/// The host itself, as sandboxes call it.
const HOST_ALIAS: &str = "host.msb.internal";

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyTask {
    /// Explain one decision: what would be decided about a flow, a request or a name, by which rule, and why.
    ///
    /// Nothing is sent and nothing is resolved: what is not given is assumed, and the output says so. The exit status is 0
    /// for allowed, 1 for denied, and 2 where the flags or the question cannot be understood.
    Why(Box<Why>),
    /// Show the rules in the order in which they count, and warn of those that never can.
    ///
    /// The exit status is 0, 1 if there are warnings, and 2 where the flags cannot be understood.
    Check(Box<Check>),
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    policy: PolicyArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Why {
    #[command(flatten)]
    policy: PolicyArgs,

    /// As for `run`: the name leads to this address, or to the host itself (`host-gateway`). May be repeated.
    #[arg(long = "add-host", value_name = "NAME:IP", value_parser = parse_host)]
    add_hosts: Vec<HostArg>,

    /// The address to assume for the name that is asked about.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,

    /// A name that is assumed to have been resolved to the address that is asked about. May be repeated.
    #[arg(long = "pin", value_name = "NAME")]
    pins: Vec<HostName>,

    /// The server name that is assumed for TLS, where it is another than the one that is asked about.
    #[arg(long, value_name = "NAME")]
    server_name: Option<HostName>,

    /// The method of the request that is asked about.
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    method: String,

    /// `tcp://HOST:PORT`, `udp://HOST:PORT`, `icmp://HOST`, `http[s]://HOST[:PORT]/PATH`, or `dns:NAME`.
    question: String,
}

/// What is asked about.
#[derive(Debug, PartialEq, Eq)]
enum Question {
    Flow {
        protocol: Protocol,
        host: Host,
        port: u16,
        /// Of a request, and whether TLS carries it.
        path: Option<(String, bool)>,
    },
    Name(HostName),
}

/// Where the flow goes, as far as it is known, and what had to be assumed.
struct Place {
    address: IpAddr,
    to_host: bool,
    resolved: Vec<HostName>,
    configured: Vec<HostName>,
    assumed: Vec<String>,
}

/// One thing that was decided.
struct Step {
    allowed: bool,
    rule: String,
    reason: String,
}

/// Answers and returns the exit status.
///
/// # Errors
/// Flags or a question that cannot be understood, or standard output that is gone.
pub(crate) fn run(task: PolicyTask) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    let (code, text) = match task {
        PolicyTask::Why(why) => why.explain()?,
        PolicyTask::Check(check) => check.explain()?,
    };
    out.write_all(text.as_bytes())
        .context("cannot write to standard output")?;
    Ok(code)
}

impl PolicyArgs {
    /// The network policy of the flags.
    ///
    /// # Errors
    /// Unknown profiles.
    fn policy(&self) -> Result<NetworkPolicy> {
        Ok(self.network(NetworkBuilder::default()).policy()?)
    }

    /// The HTTP rules of the flags.
    fn http(&self) -> HttpPolicy {
        self.http_rules.iter().cloned().collect()
    }
}

impl Check {
    fn explain(&self) -> Result<(u8, String)> {
        let (policy, http) = (self.policy.policy()?, self.policy.http());
        let mut text = String::new();
        for (index, rule) in policy.rules().enumerate() {
            text += &format!("{:>4}  {rule}\n", index + 1);
        }
        for direction in [Direction::Egress, Direction::Ingress] {
            text += &format!(
                "      {direction} by default: {}\n",
                policy.default_of(direction)
            );
        }
        for (index, rule) in http.rules().enumerate() {
            text += &format!("{:>4}  {rule}\n", index + 1);
        }
        let warnings: Vec<_> = policy.warnings().chain(http.warnings()).collect();
        for warning in &warnings {
            text += &format!("warning: {warning}\n");
        }
        Ok((if warnings.is_empty() { ALLOWED } else { DENIED }, text))
    }
}

impl Why {
    fn explain(&self) -> Result<(u8, String)> {
        let (policy, http) = (self.policy.policy()?, self.policy.http());
        let (steps, assumed) = match parse(&self.question)? {
            Question::Name(name) => (vec![self.name(&policy, &name)], Vec::new()),
            Question::Flow {
                protocol,
                host,
                port,
                path,
            } => {
                let place = self.place(&policy, &host)?;
                let mut steps = Vec::new();
                if let Host::Name(name) = &host {
                    steps.push(self.name(&policy, name));
                }
                steps.extend(self.flow(&policy, &place, protocol, &host, port, path.as_ref()));
                if let Some((path, _)) = path.as_ref().filter(|_| http.governs(&host)) {
                    let decision = http.decide(&self.method, &host, path);
                    steps.push(Step {
                        allowed: decision.is_allowed(),
                        rule: decision.cause().to_string(),
                        reason: decision.to_string(),
                    });
                }
                (steps, place.assumed)
            }
        };
        // The first refusal is the answer; else what was decided last.
        let all = steps.iter().all(|step| step.allowed);
        let last = steps
            .iter()
            .find(|step| !step.allowed)
            .or_else(|| steps.last());
        let mut text = String::new();
        if let Some(step) = last {
            text += if all { "allowed\n" } else { "denied\n" };
            text += &format!("rule: {}\nreason: {}\n", step.rule, step.reason);
            let others = steps
                .iter()
                .filter(|step| step.allowed && !std::ptr::eq(*step, last.unwrap_or(step)));
            for step in others {
                text += &format!("also: {}\n", step.reason);
            }
        }
        for assumed in assumed {
            text += &format!("assumed: {assumed}\n");
        }
        Ok((if all { ALLOWED } else { DENIED }, text))
    }

    /// Whether the name is resolved.
    fn name(&self, policy: &NetworkPolicy, name: &HostName) -> Step {
        if self.is_added(name) {
            return Step {
                allowed: true,
                rule: "added host".into(),
                reason: format!("{name} is an added host, which is not asked for"),
            };
        }
        let decided = if name.as_str() == HOST_ALIAS {
            policy.decide_answer(Ipv4Addr::LOCALHOST.into(), true, Some(name))
        } else {
            policy.decide_name(name)
        };
        match decided {
            Ok(()) => Step {
                allowed: true,
                rule: "default".into(),
                reason: format!("{name} may be resolved: some flow to it could be allowed"),
            },
            Err(denial) => Step {
                allowed: false,
                rule: denial.cause().to_string(),
                reason: denial.to_string(),
            },
        }
    }

    fn is_added(&self, name: &HostName) -> bool {
        self.added(name).is_some()
    }

    fn added(&self, name: &HostName) -> Option<HostAddress> {
        let named = |host: &&HostArg| host.name.parse::<HostName>().is_ok_and(|own| own == *name);
        self.add_hosts.iter().find(named).map(|host| host.address)
    }

    fn place(&self, policy: &NetworkPolicy, host: &Host) -> Result<Place> {
        let mut place = Place {
            address: Ipv4Addr::LOCALHOST.into(),
            to_host: false,
            resolved: self.pins.clone(),
            configured: Vec::new(),
            assumed: Vec::new(),
        };
        let name = match host {
            Host::Ip(address) => {
                if self.address.is_some() {
                    bail!("--address is for names: {host} is an address");
                }
                place.address = *address;
                for name in &self.pins {
                    place
                        .assumed
                        .push(format!("{name} was resolved to {address}"));
                }
                return Ok(place);
            }
            Host::Name(name) => name,
        };
        let added = self.added(name);
        let is_alias = added.is_none() && name.as_str() == HOST_ALIAS;
        match (added, self.address) {
            (Some(_), Some(_)) => bail!("--address: {name} is added with an address of its own"),
            (Some(HostAddress::HostGateway), None) => place.to_host = true,
            (Some(HostAddress::Ip(address)), None) => place.address = address,
            (Some(HostAddress::Socket(address)), None) => place.address = address.ip(),
            (None, _) if is_alias => place.to_host = true,
            (None, Some(address)) => {
                place.address = address;
                place
                    .assumed
                    .push(format!("{name} was resolved to {address}"));
            }
            (None, None) => {
                place.address = public(policy);
                place.assumed.push(format!(
                    "{name} was resolved to {}, a public address; --address tells another",
                    place.address
                ));
            }
        }
        if added.is_some() || is_alias {
            place.configured.push(name.clone());
        } else {
            place.resolved.push(name.clone());
        }
        Ok(place)
    }

    fn flow(
        &self,
        policy: &NetworkPolicy,
        place: &Place,
        protocol: Protocol,
        host: &Host,
        port: u16,
        path: Option<&(String, bool)>,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        if place.configured.is_empty() && host.name().is_some() {
            // What the name leads to has to be given to the guest first.
            if let Err(denial) = policy.decide_answer(place.address, place.to_host, None) {
                steps.push(Step {
                    allowed: false,
                    rule: denial.cause().to_string(),
                    reason: denial.to_string(),
                });
            }
        }
        let tls = path.is_some_and(|(_, tls)| *tls);
        let claimed = match &self.server_name {
            Some(name) => Some(name),
            None if tls => host.name(),
            None => None,
        };
        let flow = Flow::egress(protocol, SocketAddr::new(place.address, port))
            .to_host(place.to_host)
            .resolved(&place.resolved)
            .configured(&place.configured)
            .claimed(claimed);
        let decision = policy.decide(&flow);
        steps.push(Step {
            allowed: matches!(decision, Decision::Permit(_)),
            rule: decision.grounds().cause().to_string(),
            reason: decision.grounds().to_string(),
        });
        steps
    }
}

/// A public address that no rule is about by itself.
fn public(policy: &NetworkPolicy) -> IpAddr {
    let blocks: Vec<_> = policy
        .rules()
        .filter_map(|rule| match rule.target() {
            Target::Addresses(block) => Some(*block),
            _ => None,
        })
        .collect();
    let candidates = (1..224u8).map(|first| IpAddr::from([first, 184, 215, 14]));
    let mut free = candidates.filter(|address| {
        classify(*address) == Group::Public && !blocks.iter().any(|block| block.contains(address))
    });
    let known = || IpAddr::from([93, 184, 215, 14]);
    free.next().unwrap_or_else(known)
}

fn parse(text: &str) -> Result<Question> {
    const USAGE: &str =
        "write tcp://HOST:PORT, udp://HOST:PORT, icmp://HOST, https://HOST[:PORT]/PATH or dns:NAME";
    if let Some(name) = text.strip_prefix("dns:") {
        return Ok(Question::Name(HostName::parse(name)?));
    }
    let (scheme, rest) = text
        .split_once("://")
        .with_context(|| format!("{text:?} is no question: {USAGE}"))?;
    let (protocol, port, tls) = match scheme {
        "tcp" => (Protocol::Tcp, None, None),
        "udp" => (Protocol::Udp, None, None),
        "icmp" => (Protocol::Icmp, Some(0), None),
        "http" => (Protocol::Tcp, Some(80), Some(false)),
        "https" => (Protocol::Tcp, Some(443), Some(true)),
        _ => bail!("{scheme:?} is not known: {USAGE}"),
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = Authority::parse(authority)?;
    if tls.is_none() && !path.is_empty() {
        bail!("a {scheme} flow has no path: {USAGE}");
    }
    if protocol == Protocol::Icmp && authority.port().is_some() {
        bail!("icmp has no ports: {USAGE}");
    }
    let port = authority
        .port()
        .or(port)
        .with_context(|| format!("{text:?} has no port: {USAGE}"))?;
    let path = match path {
        "" => "/".to_owned(),
        _ if path.starts_with('?') => format!("/{path}"),
        _ => path.to_owned(),
    };
    Ok(Question::Flow {
        protocol,
        host: authority.host().clone(),
        port,
        path: tls.map(|tls| (path, tls)),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Task};

    /// The lines of the answer, and the exit status.
    fn ask(line: &str) -> Result<(u8, String)> {
        let words = ["msb", "policy"].into_iter();
        let quoted = line.split('|').map(str::trim);
        let cli = Cli::try_parse_from(words.chain(quoted))?;
        match cli.task {
            Task::Policy(PolicyTask::Why(why)) => why.explain(),
            Task::Policy(PolicyTask::Check(check)) => check.explain(),
            _ => unreachable!("asked for policy"),
        }
    }

    #[track_caller]
    fn check(line: &str, code: u8, expected: &[&str]) {
        let (got, text) = ask(line).expect("an answer");
        assert_eq!(got, code, "{line}: {text}");
        for expected in expected {
            assert!(
                text.contains(expected),
                "{line}: {text}\nexpected: {expected}"
            );
        }
    }

    #[test]
    fn a_flow_is_explained_by_rule_and_reason() {
        check(
            "why|tcp://1.2.3.4:443",
            0,
            &[
                "allowed\nrule: rule 1 (allow@public)\nreason: tcp to 1.2.3.4:443 (public) is allowed",
            ],
        );
        check(
            "why|tcp://10.0.0.1:443",
            1,
            &["denied\nrule: default\n", "no rule allows it"],
        );
        check(
            "why|--net|none|--net-rule|allow@a.test:tcp:443|tcp://1.2.3.4:443|--pin|a.test",
            0,
            &[
                "rule 1 (allow@a.test:tcp:443)",
                "assumed: a.test was resolved to 1.2.3.4",
            ],
        );
        check(
            "why|--net-rule|deny@any:udp:443|udp://1.2.3.4:443",
            1,
            &["rule 1 (deny@any:udp:443)"],
        );
        check("why|icmp://1.2.3.4", 0, &["icmp to 1.2.3.4"]);
        check("why|tcp://host.msb.internal:80", 1, &["denied"]);
        check("why|--net|host|tcp://host.msb.internal:80", 0, &["(host)"]);
        check(
            "why|--add-host|db.test:10.0.0.5|--net-rule|allow@db.test:tcp:5432|tcp://db.test:5432",
            0,
            &[
                "rule 1 (allow@db.test:tcp:5432)",
                "also: db.test is an added host",
            ],
        );
    }

    #[test]
    fn a_request_is_explained_by_all_that_decides_about_it() {
        let rule = "why|--http-rule|allow GET,HEAD api.github.com/repos/**";
        check(
            &format!("{rule}|https://api.github.com/repos/x"),
            0,
            &[
                "rule: HTTP rule 1 (allow GET,HEAD api.github.com/repos/**)",
                "also: api.github.com may be resolved",
                "for api.github.com (public) is allowed by rule 1 (allow@public)",
                "a public address; --address tells another",
            ],
        );
        check(
            &format!("{rule}|--method|POST|https://api.github.com/repos/x"),
            1,
            &["rule: default", "none of them allows it"],
        );
        check(
            &format!("{rule}|https://api.github.com/repos/..%2fuser"),
            1,
            &["rule: ambiguous path", "an encoded slash"],
        );
        check(
            &format!("{rule}|https://api.github.com/repos/x|--address|10.0.0.1"),
            1,
            &["it resolves to 10.0.0.1, a private address which no rule about addresses allows"],
        );
        check(
            &format!("{rule}|https://other.test/a//b"),
            0,
            &["rule: rule 1 (allow@public)"],
        );
        check(
            "why|--net|none|--net-rule|allow@a.test|https://a.test/|--server-name|b.test",
            1,
            &["for b.test (public) is denied by default"],
        );
    }

    #[test]
    fn a_name_is_explained() {
        check("why|dns:example.com", 0, &["may be resolved"]);
        check(
            "why|--net-rule|deny@*.evil.test|dns:x.evil.test",
            1,
            &[
                "rule: rule 1 (deny@*.evil.test)",
                "x.evil.test is not asked for",
            ],
        );
        check("why|--net|none|dns:example.com", 1, &["rule: default"]);
    }

    #[test]
    fn rules_are_listed_and_warned_of() {
        check(
            "check",
            0,
            &[
                "   1  allow@public\n",
                "egress by default: deny",
                "ingress by default: allow",
            ],
        );
        check(
            "check|--net-default|deny|--net-rule|allow@any|--net-rule|deny@private",
            1,
            &["warning: network rule 2 (deny@private) never counts: rule 1 (allow@any)"],
        );
        check(
            "check|--http-rule|deny DELETE a.test",
            1,
            &["leaves nothing allowed"],
        );
    }

    #[test]
    fn what_cannot_be_understood_is_an_error() {
        for (line, expected) in [
            ("why|1.2.3.4:443", "write tcp://HOST:PORT"),
            ("why|ftp://a.test", "\"ftp\" is not known"),
            ("why|tcp://a.test", "has no port"),
            ("why|tcp://a.test:443/x", "has no path"),
            ("why|icmp://a.test:1", "no ports"),
            ("why|tcp://user@a.test:443", "user information"),
            ("why|dns:a b", "not a host name"),
            ("why|tcp://1.2.3.4:443|--address|1.2.3.5", "is an address"),
            ("why|--net|publik|dns:a.test", "publik"),
            (
                "why|--net-rule|allow@10.0.0.0/33|dns:a.test",
                "^^ expected a prefix length",
            ),
            (
                "why|--http-rule|allow get a.test|dns:a.test",
                "^^^ expected `*`, or methods",
            ),
            (
                "why|--net-default|maybe|dns:a.test",
                "^^^^^ expected allow or deny",
            ),
        ] {
            let error = format!("{:#}", ask(line).expect_err(line));
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
