//! Whose a port is, as far as `/proc` shows it to this user (proc(5)).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use msb_policy::Protocol;

/// A TCP socket that listens (`TCP_LISTEN`).
const LISTENS: &str = "0A";

/// `nginx (process 4711)`: who keeps others from binding `address`.
pub(super) fn of(protocol: Protocol, address: SocketAddr) -> Option<String> {
    let files = match protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
        Protocol::Icmp => return None,
    };
    let inode = files.iter().find_map(|file| {
        let table = fs::read_to_string(file).ok()?;
        let mut sockets = table.lines().skip(1);
        sockets.find_map(|line| inode(line, protocol, address))
    })?;
    let socket = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        has(&process.path(), &socket).then(|| {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            format!("{} (process {pid})", crate::exec::printable(name.trim()))
        })
    })
}

/// The inode of the socket in `line`, if it has `address`.
fn inode(line: &str, protocol: Protocol, address: SocketAddr) -> Option<u64> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..] else {
        return None;
    };
    let (ip, port) = local.split_once(':')?;
    let (ip, port) = (parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
    let is_same = ip.to_canonical() == address.ip().to_canonical()
        || ip.is_unspecified()
        || address.ip().is_unspecified();
    let listens = protocol != Protocol::Tcp || state == LISTENS;
    (port == address.port() && is_same && listens)
        .then(|| inode.parse().ok())
        .flatten()
}

/// Groups of 32 bits, each in the byte order of the machine.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let mut bytes = Vec::with_capacity(16);
    for at in (0..text.len()).step_by(8) {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    if let Ok(v4) = <[u8; 4]>::try_from(&bytes[..]) {
        return Some(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(&bytes[..]).ok()?;
    Some(Ipv6Addr::from(v6).into())
}

fn has(process: &Path, socket: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str() == socket)
    })
}
