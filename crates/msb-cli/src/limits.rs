//! The flags about a sandbox's network that `msb proxy`, which has none, does not share.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use msb::{NetworkBuilder, PortMapping};

use crate::engine::parse_size;

#[derive(Clone, Debug, Args)]
pub(crate) struct LimitArgs {
    /// How many TCP connections the guest may have open at once, as many flows of UDP, and as many of each with clients of
    /// published ports; more are refused. Default: 256.
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
    /// How much the guest may send, as bytes a second or with KiB, MiB or GiB, such as 10MiB/s; more waits. Default: no bound.
    #[arg(long, value_name = "SIZE", value_parser = parse_bandwidth)]
    pub(crate) net_egress_bandwidth: Option<u64>,

    /// How many Ethernet frames the guest may send a second, such as 10000/s; more wait. Default: no bound.
    #[arg(long, value_name = "NUMBER", value_parser = parse_ops)]
    pub(crate) net_egress_ops: Option<u64>,

    /// How much the guest is sent, as bytes a second or with KiB, MiB or GiB, such as 10MiB/s; more waits. Default: no bound.
    #[arg(long, value_name = "SIZE", value_parser = parse_bandwidth)]
    pub(crate) net_ingress_bandwidth: Option<u64>,

    /// How many Ethernet frames the guest is sent a second, such as 10000/s; more wait. Default: no bound.
    #[arg(long, value_name = "NUMBER", value_parser = parse_ops)]
    pub(crate) net_ingress_ops: Option<u64>,
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
        if let Some(bytes) = self.net_egress_bandwidth {
            network = network.egress_bandwidth(bytes);
        }
        if let Some(frames) = self.net_egress_ops {
            network = network.egress_ops(frames);
        }
        if let Some(bytes) = self.net_ingress_bandwidth {
            network = network.ingress_bandwidth(bytes);
        }
        if let Some(frames) = self.net_ingress_ops {
            network = network.ingress_ops(frames);
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

/// A number of bytes as for sizes, with or without `/s`.
fn parse_bandwidth(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text.strip_suffix("/s").unwrap_or(text)).ok();
    let bytes = bytes.filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "write bytes a second, such as 65536, 64KiB/s or 10MiB/s".into())
}

fn parse_ops(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse().ok();
    let number = number.filter(|number| *number > 0);
    number.ok_or_else(|| "write a number of frames a second, such as 10000 or 10000/s".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_parse_or_say_what_to_write() {
        for (text, expected) in [
            ("65536", Some(65_536)),
            ("10MiB/s", Some(10 << 20)),
            ("10 MiB/s", Some(10 << 20)),
            ("1G", Some(1 << 30)),
            ("0", None),
            ("0/s", None),
            ("10MB/s", None),
            ("10MiB/h", None),
            ("/s", None),
        ] {
            assert_eq!(parse_bandwidth(text).ok(), expected, "{text}");
        }
        for (text, expected) in [
            ("1", Some(1)),
            ("500/s", Some(500)),
            ("0", None),
            ("1k", None),
            ("", None),
        ] {
            assert_eq!(parse_ops(text).ok(), expected, "{text}");
        }
    }
}
