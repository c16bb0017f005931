//! The guest's interface by netlink, and its resolver.

use std::fs;
use std::net::IpAddr;

use msb_agent_proto::v1::Network;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use crate::timings;

const INTERFACE: &str = "eth0";

/// A line for the host about what could not be done.
type Warning = String;

/// Brings the loopback interface up, and the guest's own with its addresses and routes.
pub(crate) async fn configure(network: Option<&Network>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let (connection, handle, _) = match rtnetlink::new_connection() {
        Ok(parts) => parts,
        Err(error) => return vec![format!("network: no netlink socket: {error}")],
    };
    let driver = tokio::spawn(connection);
    if let Err(error) = link_up(&handle, "lo").await {
        warnings.push(format!("network: lo: {error}"));
    }
    timings::mark("loopback up");
    if let Some(network) = network {
        if let Err(error) = interface_up(&handle, network).await {
            warnings.push(format!("network: {INTERFACE}: {error}"));
        }
        if let Err(error) = write_resolver(&network.nameservers) {
            warnings.push(format!("network: /etc/resolv.conf: {error}"));
        }
    }
    driver.abort();
    warnings
}

async fn interface_up(handle: &Handle, network: &Network) -> Result<(), NetworkError> {
    // The addresses are ours alone: nothing to detect, and detection would hold IPv6 back for a second.
    let _ = fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0");
    // All it needs it is told here: a router advertisement that comes between would make the same route.
    let _ = fs::write("/proc/sys/net/ipv6/conf/eth0/accept_ra", "0");
    let index = link_up(handle, INTERFACE).await?;
    timings::mark("interface up");
    for text in &network.addresses {
        let (address, prefix) =
            parse_prefix(text).ok_or_else(|| NetworkError::Bad(text.clone()))?;
        handle
            .address()
            .add(index, address, prefix)
            .execute()
            .await?;
    }
    for text in &network.gateways {
        let gateway: IpAddr = text.parse().map_err(|_| NetworkError::Bad(text.clone()))?;
        let route = match gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .gateway(gateway)
                .build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .gateway(gateway)
                .output_interface(index)
                .build(),
        };
        handle.route().add(route).execute().await?;
    }
    Ok(())
}

async fn link_up(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
    let index = fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or(NetworkError::NoInterface)?;
    handle
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await?;
    Ok(index)
}

fn write_resolver(nameservers: &[String]) -> std::io::Result<()> {
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
    Netlink(#[from] rtnetlink::Error),
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
