//! What a guest needs to configure itself: DHCP (RFC 2131) and router advertisements (RFC 4861, RFC 8106).

use std::net::Ipv6Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Duration;
use smoltcp::wire::{
    DhcpOption, DhcpPacket, DhcpRepr, Icmpv6Packet, Icmpv6Repr, IpProtocol, NdiscOption,
    NdiscOptionRepr, NdiscPrefixInfoFlags, NdiscPrefixInformation, NdiscRepr, NdiscRouterFlags,
};

use super::ip::{Head, Link, ip};
use crate::config::Addresses;
use crate::frame::FrameWriter;

/// RFC 2132, 5.1.
const OPTION_MTU: u8 = 26;
/// RFC 8106, 5.1: type, length in units of 8 octets, 2 reserved octets, lifetime in seconds, one address.
const RDNSS: (u8, u8, usize) = (25, 3, 24);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// For ever (RFC 4861, 4.6.2): the link and its addresses live as long as the guest.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
/// Longest that RFC 4861, 6.2.1 lets a router announce itself for.
const ROUTER_LIFETIME: Duration = Duration::from_secs(9_000);

/// A DHCP message with the link's MTU added to it.
pub(crate) fn dhcp_message(repr: &DhcpRepr<'_>, mtu: u16) -> Option<Vec<u8>> {
    let mtu = mtu.to_be_bytes();
    let options = [DhcpOption {
        kind: OPTION_MTU,
        data: &mtu,
    }];
    let repr = DhcpRepr {
        additional_options: &options,
        ..repr.clone()
    };
    let mut message = vec![0; repr.buffer_len()];
    repr.emit(&mut DhcpPacket::new_unchecked(&mut message[..]))
        .ok()?;
    Some(message)
}

/// Tells all nodes of the link: `addresses` has the router, which is name server too, and the prefix.
pub(crate) fn router_advert(out: &mut FrameWriter, link: Link, addresses: &Addresses) {
    let source = addresses.gateway_link_local();
    let prefix_bits = u128::MAX
        .checked_shl(128 - u32::from(addresses.prefix_len_v6.min(128)))
        .unwrap_or(0);
    let prefix = Ipv6Addr::from(u128::from(addresses.guest_v6) & prefix_bits);
    // A guest that makes up an address of its own may use it: any source is answered.
    let repr = Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert {
        hop_limit: 64,
        flags: NdiscRouterFlags::empty(),
        router_lifetime: ROUTER_LIFETIME,
        reachable_time: Duration::ZERO,
        retrans_time: Duration::ZERO,
        lladdr: Some(link.local.into()),
        mtu: Some(link.mtu.into()),
        prefix_info: Some(NdiscPrefixInformation {
            prefix_len: addresses.prefix_len_v6,
            flags: NdiscPrefixInfoFlags::ON_LINK | NdiscPrefixInfoFlags::ADDRCONF,
            valid_lifetime: FOREVER,
            preferred_lifetime: FOREVER,
            prefix,
        }),
    });
    let (kind, units, rdnss_len) = RDNSS;
    let mut rdnss = [0; 22];
    rdnss[2..6].fill(0xff);
    rdnss[6..].copy_from_slice(&addresses.gateway_v6.octets());
    let head = Head {
        hop_limit: 255,
        ..Head::new(source.into(), ALL_NODES.into(), IpProtocol::Icmpv6)
    };
    let len = repr.buffer_len();
    ip(out, link, head, len + rdnss_len, |payload| {
        let (advert, option) = payload.split_at_mut(len);
        repr.emit(
            &source,
            &ALL_NODES,
            &mut Icmpv6Packet::new_unchecked(advert),
            &ChecksumCapabilities::ignored(),
        );
        NdiscOptionRepr::Unknown {
            type_: kind,
            length: units,
            data: &rdnss,
        }
        .emit(&mut NdiscOption::new_unchecked(option));
        Icmpv6Packet::new_unchecked(payload).fill_checksum(&source, &ALL_NODES);
    });
}
