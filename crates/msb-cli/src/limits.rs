//! The flags about a sandbox's network that `msb proxy`, which has none, does not share.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use msb::{NetworkBuilder, PortMapping};

#[derive(Clone, Debug, Args)]
pub(crate) struct LimitArgs {
    /// How many TCP connections may be open at once, and as many flows of UDP; more are refused. Default: 256.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_connections: Option<u16>,

    /// Leads a port of this host to one of the guest: `[ADDRESS:]PORT:GUEST_PORT[/udp]`, or `PORT` for the same number on both
    /// sides. ADDRESS is 127.0.0.1 unless given (IPv6 in brackets); PORT 0 is any that is free, and is told on standard
    /// error. May be repeated.
    #[arg(short, long = "publish", value_name = "PORTS", value_parser = parse_port)]
    pub(crate) publish: Vec<PortMapping>,

    /// A name server to ask instead of this host's: an address, or with its port ADDRESS:PORT. May be repeated: the next is
    /// asked where one does not answer.
    #[arg(long = "dns-nameserver", value_name = "ADDRESS", value_parser = parse_nameserver)]
    pub(crate) dns_nameservers: Vec<SocketAddr>,

    /// How long a query may wait for an answer, all name servers together, in milliseconds. Default: 5000.
    #[arg(long, value_name = "MILLISECONDS")]
    pub(crate) dns_query_timeout_ms: Option<u64>,

    /// Gives the guest addresses from DNS that are not public. Connections to them are still up to the policy.
    #[arg(long)]
    pub(crate) no_dns_rebind_protection: bool,
}

impl LimitArgs {
    /// Applies the flags.
    pub(crate) fn network(&self, mut network: NetworkBuilder) -> NetworkBuilder {
        if let Some(connections) = self.max_connections {
            network = network.max_connections(connections);
        }
        for port in &self.publish {
            network = network.publish(*port);
        }
        for server in &self.dns_nameservers {
            network = network.nameserver_at(*server);
        }
        if let Some(milliseconds) = self.dns_query_timeout_ms {
            network = network.dns_query_timeout(Duration::from_millis(milliseconds));
        }
        network.dns_rebind_protection(!self.no_dns_rebind_protection)
    }
}

fn parse_port(text: &str) -> Result<PortMapping, String> {
    text.parse().map_err(|error: msb::Error| error.to_string())
}

fn parse_nameserver(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53));
    address
        .or_else(|_| text.parse())
        .map_err(|_| "write an IP address, or ADDRESS:PORT with an IPv6 address in brackets".into())
}
