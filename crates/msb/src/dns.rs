//! How the sandbox's names are resolved.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, NetworkBuilder};

/// Where names are asked for unless a port is given.
const DNS_PORT: u16 = 53;
/// The shortest time that a query may be given, and the longest.
const QUERY_TIMEOUTS: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(60)];

/// As it was asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DnsSettings {
    nameservers: Vec<SocketAddr>,
    query_timeout: Option<Duration>,
    allows_rebinding: bool,
}

impl DnsSettings {
    /// # Errors
    /// The first setting that could not work.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if let Some(server) = self.nameservers.iter().find(|server| {
            server.port() == 0 || server.ip().is_unspecified() || server.ip().is_multicast()
        }) {
            return Err(Error::Config(format!(
                "{server} cannot be a name server: it needs an address of one host, and a port from 1 to 65535"
            )));
        }
        let [shortest, longest] = QUERY_TIMEOUTS;
        match self.query_timeout {
            Some(timeout) if !(shortest..=longest).contains(&timeout) => Err(Error::Config(
                format!("a query may be given from {shortest:?} to {longest:?}, not {timeout:?}"),
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn apply(&self, config: &mut msb_net::Config) {
        if !self.nameservers.is_empty() {
            config.nameservers = Some(self.nameservers.clone());
        }
        config.query_timeout = self.query_timeout.unwrap_or(config.query_timeout);
        config.rebind_protection = !self.allows_rebinding;
    }
}

impl NetworkBuilder {
    /// Asks this name server, at port 53, instead of those of the host's `/etc/resolv.conf`. Of several the next is asked where
    /// one does not answer.
    pub fn nameserver(self, address: impl Into<IpAddr>) -> Self {
        self.nameserver_at(SocketAddr::new(address.into(), DNS_PORT))
    }

    /// As [`nameserver`](Self::nameserver), at another port.
    pub fn nameserver_at(mut self, address: SocketAddr) -> Self {
        self.dns.nameservers.push(address);
        self
    }

    /// How long a query may wait for upstream, all servers together: 10 ms to 60 s. Default: 5 s.
    pub fn dns_query_timeout(mut self, timeout: Duration) -> Self {
        self.dns.query_timeout = Some(timeout);
        self
    }

    /// Whether answers with addresses that are not public are withheld unless a rule about addresses allows them (SPEC D3).
    /// Without it the zone of any name that the guest may ask for can point at inner services; connections to them are still
    /// up to the policy. Default: true.
    pub fn dns_rebind_protection(mut self, protection: bool) -> Self {
        self.dns.allows_rebinding = !protection;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_reach_the_network_or_say_why_not() {
        let config = |network: NetworkBuilder| {
            network.dns.check().map(|()| {
                let mut config = msb_net::Config::new(std::sync::Arc::default());
                network.dns.apply(&mut config);
                config
            })
        };
        let network = NetworkBuilder::default;
        let default = config(network()).unwrap();
        assert_eq!(
            (default.nameservers, default.rebind_protection),
            (None, true)
        );
        assert_eq!(default.query_timeout, Duration::from_secs(5));
        let server: IpAddr = "192.0.2.53".parse().unwrap();
        let other: SocketAddr = "[2001:db8::53]:5353".parse().unwrap();
        let changed = network()
            .nameserver(server)
            .nameserver_at(other)
            .dns_query_timeout(Duration::from_millis(800))
            .dns_rebind_protection(false);
        let changed = config(changed).unwrap();
        assert_eq!(changed.nameservers, Some(vec![(server, 53).into(), other]));
        assert_eq!(changed.query_timeout, Duration::from_millis(800));
        assert!(!changed.rebind_protection);
        for (wrong, expected) in [
            (
                network().nameserver_at("192.0.2.53:0".parse().unwrap()),
                "192.0.2.53:0",
            ),
            (
                network().nameserver("0.0.0.0".parse::<IpAddr>().unwrap()),
                "0.0.0.0:53",
            ),
            (network().dns_query_timeout(Duration::ZERO), "not 0ns"),
            (
                network().dns_query_timeout(Duration::from_secs(61)),
                "not 61s",
            ),
        ] {
            let error = config(wrong).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
