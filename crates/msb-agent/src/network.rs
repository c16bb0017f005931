//! The guest's interface by netlink, and its resolver.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use msb_agent_proto::v1::Network;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::timings;

const INTERFACE: &str = "eth0";
/// What is asked for is not there yet.
const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// A line for the host about what could not be done.
type Warning = String;

/// Brings the loopback interface up, and the guest's own with its addresses and routes.
pub(crate) fn configure(network: Option<&Network>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut kernel = match Kernel::connect() {
        Ok(kernel) => kernel,
        Err(error) => return vec![format!("network: no netlink socket: {error}")],
    };
    if let Err(error) = kernel.link_up("lo") {
        warnings.push(format!("network: lo: {error}"));
    }
    timings::mark("loopback up");
    if let Some(network) = network {
        if let Err(error) = kernel.interface_up(network) {
            warnings.push(format!("network: {INTERFACE}: {error}"));
        }
        if let Err(error) = write_resolver(&network.nameservers) {
            warnings.push(format!("network: /etc/resolv.conf: {error}"));
        }
    }
    warnings
}

/// A netlink socket on which each request waits for its answer: nothing else is to be done meanwhile, and code that waits
/// in turns would first have to be translated where the guest is emulated.
struct Kernel(Socket);

impl Kernel {
    fn connect() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    fn interface_up(&mut self, network: &Network) -> Result<(), NetworkError> {
        // The addresses are ours alone: nothing to detect, and detection would hold IPv6 back for a second.
        let _ = fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0");
        // All it needs it is told here: a router advertisement that comes between would make the same route.
        let _ = fs::write("/proc/sys/net/ipv6/conf/eth0/accept_ra", "0");
        let index = self.link_up(INTERFACE)?;
        timings::mark("interface up");
        for text in &network.addresses {
            let (address, prefix) =
                parse_prefix(text).ok_or_else(|| NetworkError::Bad(text.clone()))?;
            let message = address_message(index, address, prefix);
            self.request(RouteNetlinkMessage::NewAddress(message), CREATE)?;
        }
        for text in &network.gateways {
            let gateway = text.parse().map_err(|_| NetworkError::Bad(text.clone()))?;
            let message = default_route(index, gateway);
            self.request(RouteNetlinkMessage::NewRoute(message), CREATE)?;
        }
        Ok(())
    }

    fn link_up(&mut self, name: &str) -> Result<u32, NetworkError> {
        let index = fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or(NetworkError::NoInterface)?;
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), 0)?;
        Ok(index)
    }

    /// Asks the kernel, and takes its word.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        request.finalize();
        let mut buffer = vec![0; request.buffer_len()];
        request.serialize(&mut buffer);
        self.0.send(&buffer, 0)?;
        let (answer, _) = self.0.recv_from_full()?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer);
        match answer.map_err(io::Error::other)?.payload {
            NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Err(io::Error::other("the kernel answered something else")),
        }
    }
}

fn address_message(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Address(address),
        AddressAttribute::Local(address),
    ];
    if let IpAddr::V4(address) = address {
        let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        let broadcast = Ipv4Addr::from_bits(address.to_bits() | hosts);
        message
            .attributes
            .push(AddressAttribute::Broadcast(broadcast));
    }
    message
}

fn default_route(index: u32, gateway: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Gateway(gateway.into()),
        RouteAttribute::Oif(index),
    ];
    message
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn write_resolver(nameservers: &[String]) -> io::Result<()> {
    let path = "/etc/resolv.conf";
    // Images ship it as a link into a directory of a resolver daemon that does not run here.
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_symlink()) {
        fs::remove_file(path)?;
    }
    fs::create_dir_all("/etc")?;
    fs::write(path, resolver_text(nameservers))
}

fn resolver_text(nameservers: &[String]) -> String {
    nameservers
        .iter()
        .map(|address| format!("nameserver {address}\n"))
        .collect()
}

/// "address/length".
fn parse_prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length: u8 = length.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (length <= longest).then_some((address, length))
}

#[derive(Debug, thiserror::Error)]
enum NetworkError {
    #[error("there is no such interface; does the initramfs carry virtio_net?")]
    NoInterface,
    #[error("{0:?} is not an address the host should have sent")]
    Bad(String),
    #[error(transparent)]
    Netlink(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_parse_or_are_refused() {
        for (text, expected) in [
            ("192.0.0.2/29", Some(("192.0.0.2", 29))),
            ("fd00::2/64", Some(("fd00::2", 64))),
            ("192.0.0.2/33", None),
            ("fd00::2/129", None),
            ("192.0.0.2", None),
            ("/8", None),
        ] {
            let expected = expected.map(|(a, l): (&str, u8)| (a.parse().expect("an address"), l));
            assert_eq!(parse_prefix(text), expected, "{text}");
        }
    }

    #[test]
    fn the_resolver_file_names_every_server() {
        let servers = ["192.0.0.1".to_owned(), "fd00::1".to_owned()];
        assert_eq!(
            resolver_text(&servers),
            "nameserver 192.0.0.1\nnameserver fd00::1\n"
        );
    }
}
