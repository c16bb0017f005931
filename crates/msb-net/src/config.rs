//! What a network is built from: the link's addresses, the policy, and where names come from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use msb_name::HostName;
use msb_policy::{NetworkPolicy, PinTable};

use crate::event::EventSink;
use crate::io::SecureNamesSink;
use crate::published::PublishedPort;
use crate::rate::Rates;

/// Largest MTU QEMU's virtio-net takes: an IP packet of it still fits a 16-bit length with all headers.
pub const DEFAULT_MTU: u16 = 65_520;
/// Smallest MTU that carries IPv6 (RFC 8200, 5).
pub const MIN_MTU: u16 = 1_280;
/// TCP connections a guest, and clients with it, may each have open at once unless [`Config::max_flows`] says otherwise.
pub const DEFAULT_MAX_FLOWS: usize = 256;

/// Flows of datagrams, echo requests among them, a guest, and clients with it, may each have at once unless [`Config::max_udp_flows`] says otherwise.
pub const DEFAULT_MAX_UDP_FLOWS: usize = 256;

/// How long a query may wait for upstream unless [`Config::query_timeout`] says otherwise.
pub const DEFAULT_QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything [`start`](crate::start) needs to know.
#[derive(Clone)]
pub struct Config {
    /// Largest IP packet on the link, in octets; the guest's interface must have the same. Clamped to
    /// at least [`MIN_MTU`].
    pub mtu: u16,
    /// Addresses of gateway and guest.
    pub addresses: Addresses,
    /// Decides about every connection and every address a name resolves to.
    pub policy: Arc<NetworkPolicy>,
    /// Names answered from here, before anything is asked upstream. One name may stand several times.
    pub hosts: Vec<(HostName, HostEntry)>,
    /// Upstream name servers in order of preference; `None`: those of the host's `/etc/resolv.conf`.
    pub nameservers: Option<Vec<SocketAddr>>,
    /// How long a query may wait for upstream, fail-over included: 5 s. Then it is answered with SERVFAIL.
    pub query_timeout: Duration,
    /// Whether addresses that are not public are left out of answers from upstream unless a rule about addresses allows them
    /// (SPEC D3). True; without it whoever runs a zone that the guest may ask can point its names at inner services, and only
    /// the policy for connections is left.
    pub rebind_protection: bool,
    /// Takes every address the guest was told for a name.
    pub pins: Arc<Mutex<PinTable>>,
    /// Takes the network's events. Called from the network's tasks: it must not block.
    pub events: EventSink,
    /// TCP connections the guest may have at once, and as many that clients may have with its published ports; more are
    /// reset. Each takes some KiB, and up to 1 MiB where neither side reads what the other sends.
    pub max_flows: usize,
    /// Flows of UDP the guest may have at once, each a pair of ends, and echo requests to other hosts among them; and as many
    /// of clients of its published ports. The first datagrams of more are refused with an ICMP error, or dropped if they are of
    /// clients. A flow ends two minutes after its last datagram.
    pub max_udp_flows: usize,
    /// Ports that datagrams are refused to, with ICMP port unreachable: those on which TLS over TCP is intercepted, so that
    /// clients do not pass it by with QUIC (SPEC T8).
    pub refused_udp_ports: Vec<u16>,
    /// Ports of the host that lead to the guest.
    pub published: Vec<Arc<PublishedPort>>,
    /// How much the guest may send. While it has sent too much, its link is not read.
    pub egress: Rates,
    /// How much is sent to the guest. Answers of the gateway itself (names, errors, acknowledgements) count, and do not wait.
    pub ingress: Rates,
    /// Asked about each datagram that the policy allows the guest to send to a destination, before it is sent on; `false` drops
    /// it, and says so to nobody: whoever answers has told it where that is of use. It is called from the network's task and must
    /// not block. Datagrams to name servers, which are answered here, and those to clients of published ports are not asked
    /// about.
    pub datagram_filter: Option<DatagramFilter>,
    /// Who takes connections to port 853, DNS over TLS (RFC 7858). They are answered as those to port 53 are, whatever their
    /// address and without asking the policy about it. `None`: they are connections like any other.
    pub secure_names: Option<SecureNamesSink>,
    /// Whether who takes the flows reads the server name out of each and tells it to the flow's [judge](crate::Flow::judge),
    /// before a byte is sent on if the flow [needs it](crate::Flow::needs_name). Else the names that the guest was told for the
    /// address decide alone.
    pub reads_server_names: bool,
}

impl Config {
    /// A configuration with the given policy and otherwise default values: no hosts, the host's
    /// resolvers, an empty pin table and events that go nowhere.
    pub fn new(policy: Arc<NetworkPolicy>) -> Self {
        Self {
            mtu: DEFAULT_MTU,
            addresses: Addresses::default(),
            policy,
            hosts: Vec::new(),
            nameservers: None,
            query_timeout: DEFAULT_QUERY_TIMEOUT,
            rebind_protection: true,
            pins: Arc::default(),
            events: Arc::new(|_| {}),
            max_flows: DEFAULT_MAX_FLOWS,
            max_udp_flows: DEFAULT_MAX_UDP_FLOWS,
            refused_udp_ports: Vec::new(),
            published: Vec::new(),
            egress: Rates::default(),
            ingress: Rates::default(),
            datagram_filter: None,
            secure_names: None,
            reads_server_names: false,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Config")
            .field("mtu", &self.mtu)
            .field("addresses", &self.addresses)
            .field("hosts", &self.hosts)
            .field("nameservers", &self.nameservers)
            .field("query_timeout", &self.query_timeout)
            .field("rebind_protection", &self.rebind_protection)
            .field("max_flows", &self.max_flows)
            .field("max_udp_flows", &self.max_udp_flows)
            .field("refused_udp_ports", &self.refused_udp_ports)
            .field("published", &self.published)
            .field("egress", &self.egress)
            .field("ingress", &self.ingress)
            .field("datagram_filter", &self.datagram_filter.is_some())
            .field("secure_names", &self.secure_names.is_some())
            .field("reads_server_names", &self.reads_server_names)
            .finish_non_exhaustive()
    }
}

/// Whether the guest's datagram with this payload may be sent to this destination.
pub type DatagramFilter = Arc<dyn Fn(SocketAddr, &[u8]) -> bool + Send + Sync>;

/// What a configured name resolves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEntry {
    /// This address. Connections to it are still subject to the policy.
    Ip(IpAddr),
    /// The host itself: the gateway's addresses.
    HostGateway,
}

/// Addresses of the guest's link. The default is the same for every sandbox, since no sandbox sees another's link:
/// 192.0.0.1 and 192.0.0.2/29 from the block RFC 7335 sets aside for the ends of such links, and a unique local /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The gateway: router, name server and, to the guest, the host.
    pub gateway_v4: Ipv4Addr,
    /// The gateway's IPv6 address.
    pub gateway_v6: Ipv6Addr,
    /// The gateway's hardware address.
    pub gateway_mac: [u8; 6],
    /// The guest's address.
    pub guest_v4: Ipv4Addr,
    /// Prefix length of the guest's IPv4 address.
    pub prefix_len_v4: u8,
    /// The guest's IPv6 address.
    pub guest_v6: Ipv6Addr,
    /// Prefix length of the guest's IPv6 address.
    pub prefix_len_v6: u8,
    /// The guest's hardware address. Another is learned from the guest's frames.
    pub guest_mac: [u8; 6],
}

impl Default for Addresses {
    fn default() -> Self {
        Self {
            gateway_v4: Ipv4Addr::new(192, 0, 0, 1),
            gateway_v6: Ipv6Addr::new(0xfd00, 0x6d, 0x7362, 0, 0, 0, 0, 1),
            gateway_mac: [0x02, 0x6d, 0x73, 0x62, 0x00, 0x01],
            guest_v4: Ipv4Addr::new(192, 0, 0, 2),
            prefix_len_v4: 29,
            guest_v6: Ipv6Addr::new(0xfd00, 0x6d, 0x7362, 0, 0, 0, 0, 2),
            prefix_len_v6: 64,
            guest_mac: [0x02, 0x6d, 0x73, 0x62, 0x00, 0x02],
        }
    }
}

impl Addresses {
    /// Whether `address` is the gateway, which stands for the host.
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.gateway_v4,
            IpAddr::V6(address) => address == self.gateway_v6,
        }
    }

    /// The gateway's address of the family of `like`.
    pub(crate) fn gateway_like(&self, like: IpAddr) -> IpAddr {
        match like {
            IpAddr::V4(_) => self.gateway_v4.into(),
            IpAddr::V6(_) => self.gateway_v6.into(),
        }
    }

    /// The gateway's link-local address: EUI-64 of its hardware address (RFC 4291, appendix A).
    pub(crate) fn gateway_link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.gateway_mac.map(u16::from);
        Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            ((a ^ 2) << 8) | b,
            (c << 8) | 0xff,
            0xfe00 | d,
            (e << 8) | f,
        )
    }
}
