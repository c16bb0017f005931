//! Finding and connecting to what a client asks for, as far as the policy allows.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use msb_name::{Host, HostName};
use msb_policy::{Cause, Decision, Flow, NetworkPolicy, Protocol};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::HostAddress;

/// How long the host's resolver may take, as SPEC D1 has it.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);
/// How long a connect may take in all.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long one address is tried alone (RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The host itself, as sandboxes call it.
const HOST_ALIAS: &str = "host.msb.internal";

/// Dials servers for clients, which name them and do not choose their addresses.
#[derive(Debug)]
pub(super) struct Dialler {
    pub(super) policy: NetworkPolicy,
    /// Names that are not resolved. No rule has to allow them: who configured the proxy wrote down where they lead, and
    /// its clients cannot lead them elsewhere. A rule can deny them.
    pub(super) hosts: HashMap<HostName, Vec<HostAddress>>,
    /// Where the proxy itself listens.
    pub(super) own: SocketAddr,
}

/// Why nothing was dialled, in one line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The policy does not allow it, by this, or it is the proxy itself.
    Denied(String, Option<Cause>),
    /// It has no address, or does not answer there.
    Unreachable(String),
    /// It did not answer in time.
    TimedOut(String),
}

/// How addresses were come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// The client wrote one.
    AsAddress,
    /// The host's resolver gave them for the client's name.
    Resolved,
    /// They are the host's own, which has a name of ours.
    Configured,
    /// They were added for the name.
    Added,
}

impl Dialler {
    /// A connection to `host` and where it leads.
    pub(super) async fn dial(
        &self,
        host: &Host,
        port: u16,
    ) -> Result<(TcpStream, SocketAddr), Failure> {
        let addresses = self.addresses(host, port).await?;
        if addresses.iter().any(|address| self.is_own(*address)) {
            let reason = format!("{host} port {port} is this proxy itself");
            return Err(Failure::Denied(reason, None));
        }
        match timeout(CONNECT_LIMIT, connect(addresses)).await {
            Ok(Ok((stream, address))) => {
                // Fails only for a socket that is no longer connected, which the next write tells.
                let _ = stream.set_nodelay(true);
                Ok((stream, address))
            }
            Ok(Err(error)) => Err(Failure::Unreachable(format!(
                "cannot connect to {host} port {port}: {error}"
            ))),
            Err(_) => Err(Failure::TimedOut(format!(
                "{host} port {port} did not answer within {} s",
                CONNECT_LIMIT.as_secs()
            ))),
        }
    }

    /// The addresses that may be dialled, at least one.
    async fn addresses(&self, host: &Host, port: u16) -> Result<Vec<SocketAddr>, Failure> {
        let name = match host {
            Host::Ip(address) => {
                let addresses = vec![(*address, port).into()];
                return self.permitted(host, addresses, Known::AsAddress);
            }
            Host::Name(name) => name,
        };
        if let Some(entries) = self.hosts.get(name) {
            let addresses = entries.iter().flat_map(|entry| endpoints(*entry, port));
            return self.permitted(host, addresses.collect(), Known::Added);
        }
        if name.as_str() == HOST_ALIAS {
            let addresses = endpoints(HostAddress::HostGateway, port);
            return self.permitted(host, addresses, Known::Configured);
        }
        self.may_look_up(name)?;
        let found = timeout(LOOKUP_LIMIT, lookup_host((name.as_str(), port))).await;
        let addresses: Vec<_> = match found {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => {
                return Err(Failure::Unreachable(format!(
                    "{name} cannot be resolved: {error}"
                )));
            }
            Err(_) => {
                return Err(Failure::TimedOut(format!(
                    "{name} was not resolved within {} s",
                    LOOKUP_LIMIT.as_secs()
                )));
            }
        };
        self.permitted(host, addresses, Known::Resolved)
    }

    /// Whether the host's resolver may be asked: a name may carry a message to whoever runs its zone.
    fn may_look_up(&self, name: &HostName) -> Result<(), Failure> {
        let Err(denial) = self.policy.decide_name(name) else {
            return Ok(());
        };
        // Unlike a sandbox's, a name may lead to the host itself here.
        let host = self
            .policy
            .decide_answer(Ipv4Addr::LOCALHOST.into(), true, None);
        if denial.cause().rule().is_none() && host.is_ok() {
            return Ok(());
        }
        let reason = denial.to_string();
        Err(Failure::Denied(reason, Some(denial.into_cause())))
    }

    /// Those of `addresses` that the policy permits.
    fn permitted(
        &self,
        host: &Host,
        addresses: Vec<SocketAddr>,
        known: Known,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let names = host.name().map(std::slice::from_ref).unwrap_or_default();
        let mut denial = None;
        let mut permitted = Vec::new();
        for destination in addresses {
            let to_host = msb_net::is_own_address(destination.ip()).map_err(|error| {
                Failure::Unreachable(format!("no socket for a connection to {host}: {error}"))
            })?;
            let flow = Flow::egress(Protocol::Tcp, destination).to_host(to_host);
            let flow = match known {
                Known::AsAddress => flow,
                Known::Resolved => flow.resolved(names),
                Known::Configured | Known::Added => flow.configured(names),
            };
            match self.policy.decide(&flow.claimed(host.name())) {
                Decision::Permit(_) => permitted.push(destination),
                Decision::Deny(reason)
                    if known == Known::Added && reason.grounds().rule().is_none() =>
                {
                    permitted.push(destination);
                }
                Decision::Deny(reason) => {
                    denial.get_or_insert(reason);
                }
            }
        }
        match denial {
            _ if !permitted.is_empty() => Ok(permitted),
            Some(denial) => {
                let cause = denial.grounds().cause().clone();
                Err(Failure::Denied(format!("{host}: {denial}"), Some(cause)))
            }
            None => Err(Failure::Unreachable(format!("{host} has no address"))),
        }
    }

    /// Whether a connection to `address` would come back to this proxy, and so on for ever.
    fn is_own(&self, address: SocketAddr) -> bool {
        address == self.own
            || (self.own.ip().is_unspecified()
                && address.port() == self.own.port()
                && msb_net::is_own_address(address.ip()).unwrap_or(true))
    }
}

fn endpoints(entry: HostAddress, port: u16) -> Vec<SocketAddr> {
    match entry {
        HostAddress::Ip(address) => vec![(address, port).into()],
        HostAddress::Socket(address) => vec![address],
        HostAddress::HostGateway => vec![
            (IpAddr::from(Ipv4Addr::LOCALHOST), port).into(),
            (IpAddr::from(Ipv6Addr::LOCALHOST), port).into(),
        ],
    }
}

/// Connects to the first address that answers; each has a head start before the next.
async fn connect(addresses: Vec<SocketAddr>) -> io::Result<(TcpStream, SocketAddr)> {
    let mut attempts = JoinSet::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let mut waiting = addresses.into_iter();
    let mut next = waiting.next();
    loop {
        if let Some(address) = next.take() {
            attempts.spawn(async move { (TcpStream::connect(address).await, address) });
        }
        let joined = tokio::select! {
            joined = attempts.join_next() => joined,
            () = tokio::time::sleep(ATTEMPT_DELAY), if waiting.len() > 0 => {
                next = waiting.next();
                continue;
            }
        };
        match joined {
            Some(Ok((Ok(stream), address))) => return Ok((stream, address)),
            Some(Ok((Err(error), _))) => last = error,
            // An attempt is neither cancelled nor does it panic.
            Some(Err(_)) => {}
            None if waiting.len() == 0 => return Err(last),
            None => {}
        }
        next = waiting.next();
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn policy(rules: &[&str], profiles: &str) -> NetworkPolicy {
        let rules = rules.iter().map(|rule| rule.parse().unwrap());
        let builder = NetworkPolicy::builder().rules(rules);
        builder.profiles(profiles).unwrap().build().unwrap()
    }

    fn dialler(profiles: &str, hosts: &[(&str, HostAddress)]) -> Dialler {
        let mut added: HashMap<_, Vec<_>> = HashMap::new();
        for (name, address) in hosts {
            added
                .entry(name.parse().unwrap())
                .or_default()
                .push(*address);
        }
        Dialler {
            policy: policy(&[], profiles),
            hosts: added,
            own: "127.0.0.1:1".parse().unwrap(),
        }
    }

    async fn dial(dialler: &Dialler, host: &str, port: u16) -> Result<SocketAddr, Failure> {
        let host = host.parse().unwrap();
        dialler.dial(&host, port).await.map(|(_, address)| address)
    }

    #[track_caller]
    fn check_denied(got: Result<SocketAddr, Failure>, expected: &str) {
        match got {
            Err(Failure::Denied(reason, _)) => assert!(reason.contains(expected), "{reason}"),
            other => panic!("{other:?}, expected: {expected}"),
        }
    }

    #[tokio::test]
    async fn an_added_host_leads_where_it_was_told_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hosts = [
            ("whole.test", HostAddress::Socket(address)),
            ("ip.test", HostAddress::Ip(address.ip())),
            ("gateway.test", HostAddress::HostGateway),
        ];
        let dialler = dialler("none", &hosts);
        assert_eq!(dial(&dialler, "whole.test", 443).await, Ok(address));
        assert_eq!(dial(&dialler, "ip.test", address.port()).await, Ok(address));
        assert_eq!(
            dial(&dialler, "gateway.test", address.port()).await,
            Ok(address)
        );
    }

    #[tokio::test]
    async fn the_policy_decides_about_addresses_and_what_names_resolve_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let public = dialler("public", &[]);
        for host in [
            "127.0.0.1",
            "localhost",
            HOST_ALIAS,
            "0.0.0.0",
            "[::ffff:127.0.0.1]",
        ] {
            check_denied(
                dial(&public, host, port).await,
                "is denied by default: no rule allows it",
            );
        }
        check_denied(dial(&public, "10.1.2.3", port).await, "private");
        check_denied(dial(&public, "169.254.169.254", 80).await, "metadata");
        check_denied(dial(&public, "[64:ff9b::7f00:1]", port).await, "loopback");
        for host in ["127.0.0.1", "localhost", HOST_ALIAS] {
            assert!(
                dial(&dialler("host", &[]), host, port).await.is_ok(),
                "{host}"
            );
        }
    }

    #[tokio::test]
    async fn where_nothing_is_allowed_no_name_is_looked_up() {
        check_denied(
            dial(&dialler("none", &[]), "a.test", 443).await,
            "a.test is not asked for: no rule allows",
        );
    }

    #[tokio::test]
    async fn rules_decide_by_name_address_and_port() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let one = format!("allow@{HOST_ALIAS}:tcp:{port}");
        let mut dialler = dialler("none", &[("added.test", HostAddress::HostGateway)]);
        dialler.policy = policy(
            &[&one, "deny@*.evil.test", "deny@added.test:tcp:1-9"],
            "public",
        );
        dial(&dialler, HOST_ALIAS, port).await.unwrap();
        let other = if port == 9 { 10 } else { 9 };
        check_denied(dial(&dialler, HOST_ALIAS, other).await, "by default");
        check_denied(dial(&dialler, "127.0.0.1", port).await, "by default");
        check_denied(
            dial(&dialler, "a.evil.test", 443).await,
            "is not asked for: denied by rule 2 (deny@*.evil.test)",
        );
        dial(&dialler, "added.test", port).await.unwrap();
        check_denied(
            dial(&dialler, "added.test", 9).await,
            "denied by rule 3 (deny@added.test:tcp:1-9)",
        );
    }

    #[tokio::test]
    async fn the_proxy_does_not_dial_itself() {
        let mut dialler = dialler("host", &[("a.test", HostAddress::HostGateway)]);
        dialler.own = "127.0.0.1:8080".parse().unwrap();
        check_denied(dial(&dialler, "127.0.0.1", 8080).await, "this proxy itself");
        check_denied(dial(&dialler, "a.test", 8080).await, "this proxy itself");
        dialler.own = "0.0.0.0:8080".parse().unwrap();
        check_denied(dial(&dialler, "127.0.0.1", 8080).await, "this proxy itself");
    }

    #[tokio::test]
    async fn the_next_address_is_tried_where_one_refuses() {
        let closed = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let both = [
            ("a.test", HostAddress::Socket(closed)),
            ("a.test", HostAddress::Socket(open)),
        ];
        assert_eq!(dial(&dialler("none", &both), "a.test", 443).await, Ok(open));
        let neither = [("a.test", HostAddress::Socket(closed))];
        let failure = dial(&dialler("none", &neither), "a.test", 443)
            .await
            .unwrap_err();
        let Failure::Unreachable(reason) = failure else {
            panic!("{failure:?}")
        };
        assert!(
            reason.starts_with("cannot connect to a.test port 443: "),
            "{reason}"
        );
    }
}
