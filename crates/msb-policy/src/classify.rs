//! Which group an address belongs to: the IANA special-purpose registries, and the addresses inside addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// A group of destinations.
///
/// Ordered by rank: when an address carries others inside (NAT64, 6to4, Teredo, IPv4-mapped), the highest rank governs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// Globally reachable unicast.
    Public,
    /// Private use: RFC 1918, shared address space (RFC 6598), unique local (RFC 4193), site local (RFC 3879).
    Private,
    /// Special or unassigned, and neither globally reachable nor in another group: documentation, benchmarking,
    /// future use, translation prefixes, everything outside 2000::/3 without a meaning of its own.
    Reserved,
    /// Multicast.
    Multicast,
    /// Link local.
    LinkLocal,
    /// Loopback.
    Loopback,
    /// The host that runs the sandbox, reached through the gateway address. [`classify`] never answers this.
    Host,
    /// Cloud metadata and credential services.
    Metadata,
}

impl Group {
    pub(crate) const ALL: [Self; 8] = [
        Self::Public,
        Self::Private,
        Self::Reserved,
        Self::Multicast,
        Self::LinkLocal,
        Self::Loopback,
        Self::Host,
        Self::Metadata,
    ];
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Reserved => "reserved",
            Self::Multicast => "multicast",
            Self::LinkLocal => "link-local",
            Self::Loopback => "loopback",
            Self::Host => "host",
            Self::Metadata => "metadata",
        })
    }
}

/// The group of an address.
///
/// What IANA's special-purpose registries do not call globally reachable is never [`Group::Public`]. Addresses inside
/// the address count: IPv4-mapped and the well-known NAT64 prefix stand for the inner address; IPv4-compatible,
/// IPv4-translated, local NAT64, 6to4 and Teredo are at least [`Group::Reserved`], whatever they carry.
#[must_use]
pub fn classify(address: IpAddr) -> Group {
    match address {
        IpAddr::V4(address) => classify_v4(address),
        IpAddr::V6(address) => classify_v6(address),
    }
}

/// Metadata services. Sources: AWS (IMDS, DNS and time are beside it; ECS and EKS credential endpoints), Azure (IMDS and
/// WireServer), Google Cloud, Alibaba, Oracle (two), Tencent, Scaleway; most others share 169.254.169.254.
const METADATA_V4: [Ipv4Addr; 9] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 169, 253),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(169, 254, 0, 23),
    Ipv4Addr::new(169, 254, 42, 42),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// Metadata services over IPv6: AWS (IMDS, DNS, EKS credentials), Google Cloud, Oracle, Scaleway, Linode, OpenStack.
const METADATA_V6: [Ipv6Addr; 8] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
];

const fn v4(a: u8, b: u8, c: u8, d: u8, len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len)
}

const fn v6(a: u16, b: u16, c: u16, d: u16, len: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), len)
}

const fn v6_last(a: u16, b: u16, h: u16) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, h), 128)
}

/// IANA IPv4 special-purpose address registry (RFC 6890 and its later entries) and multicast; the first match counts,
/// so a narrower block stands before the one around it. What is in no row is public.
const SPECIAL_V4: [(Ipv4Net, Group); 20] = [
    (v4(0, 0, 0, 0, 8), Group::Reserved),
    (v4(10, 0, 0, 0, 8), Group::Private),
    (v4(100, 64, 0, 0, 10), Group::Private),
    (v4(127, 0, 0, 0, 8), Group::Loopback),
    (v4(169, 254, 0, 0, 16), Group::LinkLocal),
    (v4(172, 16, 0, 0, 12), Group::Private),
    (v4(192, 0, 0, 9, 32), Group::Public),
    (v4(192, 0, 0, 10, 32), Group::Public),
    (v4(192, 0, 0, 0, 24), Group::Reserved),
    (v4(192, 0, 2, 0, 24), Group::Reserved),
    (v4(192, 31, 196, 0, 24), Group::Public),
    (v4(192, 52, 193, 0, 24), Group::Public),
    (v4(192, 88, 99, 0, 24), Group::Reserved),
    (v4(192, 168, 0, 0, 16), Group::Private),
    (v4(192, 175, 48, 0, 24), Group::Public),
    (v4(198, 18, 0, 0, 15), Group::Reserved),
    (v4(198, 51, 100, 0, 24), Group::Reserved),
    (v4(203, 0, 113, 0, 24), Group::Reserved),
    (v4(224, 0, 0, 0, 4), Group::Multicast),
    (v4(240, 0, 0, 0, 4), Group::Reserved),
];

/// IANA IPv6 special-purpose address registry (RFC 6890 and its later entries), with the deprecated site-local block. Prefixes that
/// carry IPv4 addresses are looked at before. First match counts; what is in no row is public inside 2000::/3 (the only
/// block IANA allocates global unicast from) and reserved outside.
const SPECIAL_V6: [(Ipv6Net, Group); 19] = [
    (v6_last(0, 0, 1), Group::Loopback),
    (v6(0x100, 0, 0, 0, 64), Group::Reserved),
    (v6(0x100, 0, 0, 1, 64), Group::Reserved),
    (v6_last(0x2001, 1, 1), Group::Public),
    (v6_last(0x2001, 1, 2), Group::Public),
    (v6_last(0x2001, 1, 3), Group::Public),
    (v6(0x2001, 3, 0, 0, 32), Group::Public),
    (v6(0x2001, 4, 0x112, 0, 48), Group::Public),
    (v6(0x2001, 0x20, 0, 0, 28), Group::Public),
    (v6(0x2001, 0x30, 0, 0, 28), Group::Public),
    (v6(0x2001, 0, 0, 0, 23), Group::Reserved),
    (v6(0x2001, 0xdb8, 0, 0, 32), Group::Reserved),
    (v6(0x2620, 0x4f, 0x8000, 0, 48), Group::Public),
    (v6(0x3fff, 0, 0, 0, 20), Group::Reserved),
    (v6(0x5f00, 0, 0, 0, 16), Group::Reserved),
    (v6(0xfc00, 0, 0, 0, 7), Group::Private),
    (v6(0xfe80, 0, 0, 0, 10), Group::LinkLocal),
    (v6(0xfec0, 0, 0, 0, 10), Group::Private),
    (v6(0xff00, 0, 0, 0, 8), Group::Multicast),
];

const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 0, 0, 3);

fn classify_v4(address: Ipv4Addr) -> Group {
    if METADATA_V4.contains(&address) {
        return Group::Metadata;
    }
    let row = SPECIAL_V4.iter().find(|(net, _)| net.contains(&address));
    row.map_or(Group::Public, |(_, group)| *group)
}

fn classify_v6(address: Ipv6Addr) -> Group {
    if METADATA_V6.contains(&address) {
        return Group::Metadata;
    }
    if let Some(group) = classify_carrier(address) {
        return group;
    }
    let row = SPECIAL_V6.iter().find(|(net, _)| net.contains(&address));
    match row {
        Some((_, group)) => *group,
        None if GLOBAL_UNICAST.contains(&address) => Group::Public,
        None => Group::Reserved,
    }
}

/// The group of an address that carries IPv4 addresses, if it is one.
fn classify_carrier(address: Ipv6Addr) -> Option<Group> {
    let octets = address.octets();
    let inner = |at: [usize; 4]| classify_v4(Ipv4Addr::from(at.map(|i| octets[i])));
    let last = || inner([12, 13, 14, 15]);
    match address.segments() {
        // `::` and `::1` are inside ::/96 but are no IPv4-compatible addresses.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // IPv4-mapped, RFC 4291, section 2.5.5.2.
        [0, 0, 0, 0, 0, 0xffff, ..] => Some(last()),
        // IPv4-compatible (deprecated, RFC 4291, section 2.5.5.1) and IPv4-translated (RFC 2765, section 2.1).
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => Some(last().max(Group::Reserved)),
        // NAT64, well-known prefix, RFC 6052, section 2.1.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(last()),
        // NAT64, local use, RFC 8215. The prefix length is the operator's choice: RFC 6052, section 2.2, /48 to /96.
        [0x64, 0xff9b, 1, ..] => {
            let layouts = [
                [6, 7, 9, 10],
                [7, 9, 10, 11],
                [9, 10, 11, 12],
                [12, 13, 14, 15],
            ];
            layouts
                .into_iter()
                .map(inner)
                .max()
                .map(|group| group.max(Group::Reserved))
        }
        // 6to4, RFC 3056, section 2.
        [0x2002, ..] => Some(inner([2, 3, 4, 5]).max(Group::Reserved)),
        // Teredo, RFC 4380, section 4: server in clear, client with its bits flipped.
        [0x2001, 0, ..] => {
            let client = Ipv4Addr::from([12, 13, 14, 15].map(|i: usize| !octets[i]));
            Some(
                inner([4, 5, 6, 7])
                    .max(classify_v4(client))
                    .max(Group::Reserved),
            )
        }
        _ => None,
    }
}

/// Every address at which the group may change, in no order, as a number within its family: what lies between two
/// borders is of one group, except for what [`groups_behind`] says.
pub(crate) fn borders(is_v4: bool) -> Vec<u128> {
    let after = |first: u128, last: u128| [Some(first), last.checked_add(1)];
    let v4 = SPECIAL_V4.iter().flat_map(|(net, _)| {
        after(
            net.network().to_bits().into(),
            net.broadcast().to_bits().into(),
        )
    });
    let metadata = METADATA_V4
        .iter()
        .flat_map(|address| after(address.to_bits().into(), address.to_bits().into()));
    let v4 = v4.chain(metadata).chain([Some(0)]).flatten();
    let v4: Vec<u128> = v4.filter(|bits| *bits <= u32::MAX.into()).collect();
    if is_v4 {
        return v4;
    }
    let carriers = CARRIERS
        .iter()
        .chain([&TEREDO, &LOCAL_NAT64, &GLOBAL_UNICAST]);
    let nets = SPECIAL_V6.iter().map(|(net, _)| net).chain(carriers);
    let nets = nets.flat_map(|net| after(net.network().to_bits(), net.broadcast().to_bits()));
    let metadata = METADATA_V6
        .iter()
        .flat_map(|address| after(address.to_bits(), address.to_bits()));
    let inside = CARRIERS.iter().flat_map(|net| {
        let shift = 96 - u32::from(net.prefix_len());
        let base = net.network().to_bits();
        v4.iter().map(move |bits| Some(base | (bits << shift)))
    });
    let all = nets.chain(metadata).chain(inside);
    all.chain([Some(0), Some(2)]).flatten().collect()
}

/// The prefixes that carry one IPv4 address right behind them.
const CARRIERS: [Ipv6Net; 5] = [
    v6(0, 0, 0, 0, 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96),
    v6(0x64, 0xff9b, 0, 0, 96),
    v6(0x2002, 0, 0, 0, 16),
];
const TEREDO: Ipv6Net = v6(0x2001, 0, 0, 0, 32);
const LOCAL_NAT64: Ipv6Net = v6(0x64, 0xff9b, 1, 0, 48);

/// The groups of the addresses from `address` to the next of the [`borders`]. Of Teredo and local NAT64, which carry
/// several addresses at once, it is all that may be there.
pub(crate) fn groups_behind(address: IpAddr) -> Vec<Group> {
    match address {
        IpAddr::V6(inside) if TEREDO.contains(&inside) || LOCAL_NAT64.contains(&inside) => vec![
            Group::Reserved,
            Group::Multicast,
            Group::LinkLocal,
            Group::Loopback,
            Group::Metadata,
        ],
        _ => vec![classify(address)],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(address: &str, expected: Group) {
        assert_eq!(classify(address.parse().unwrap()), expected, "{address}");
    }

    #[test]
    fn every_special_v4_range_first_and_last_address() {
        for (first, last, group) in [
            ("0.0.0.0", "0.255.255.255", Group::Reserved),
            ("10.0.0.0", "10.255.255.255", Group::Private),
            ("100.64.0.0", "100.127.255.255", Group::Private),
            ("127.0.0.0", "127.255.255.255", Group::Loopback),
            ("169.254.0.0", "169.254.255.255", Group::LinkLocal),
            ("172.16.0.0", "172.31.255.255", Group::Private),
            ("192.0.0.0", "192.0.0.8", Group::Reserved),
            ("192.0.0.11", "192.0.0.255", Group::Reserved),
            ("192.0.2.0", "192.0.2.255", Group::Reserved),
            ("192.88.99.0", "192.88.99.255", Group::Reserved),
            ("192.168.0.0", "192.168.255.255", Group::Private),
            ("198.18.0.0", "198.19.255.255", Group::Reserved),
            ("198.51.100.0", "198.51.100.255", Group::Reserved),
            ("203.0.113.0", "203.0.113.255", Group::Reserved),
            ("224.0.0.0", "239.255.255.255", Group::Multicast),
            ("240.0.0.0", "255.255.255.255", Group::Reserved),
        ] {
            check(first, group);
            check(last, group);
        }
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.0.9",
            "192.0.0.10",
            "192.0.1.0",
            "192.31.196.1",
            "192.52.193.1",
            "192.175.48.1",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
        ] {
            check(public, Group::Public);
        }
    }

    #[test]
    fn every_special_v6_range() {
        for (address, group) in [
            ("::", Group::Reserved),
            ("::1", Group::Loopback),
            ("64:ff9b::", Group::Reserved),
            ("64:ff9b:1::", Group::Reserved),
            ("64:ff9b:0:1::1", Group::Reserved),
            ("100::1", Group::Reserved),
            ("100:0:0:1::1", Group::Reserved),
            ("2001:1::1", Group::Public),
            ("2001:1::3", Group::Public),
            ("2001:1::4", Group::Reserved),
            ("2001:2::1", Group::Reserved),
            ("2001:3::1", Group::Public),
            ("2001:4:112::1", Group::Public),
            ("2001:10::1", Group::Reserved),
            ("2001:20::1", Group::Public),
            ("2001:3f::1", Group::Public),
            ("2001:1ff::1", Group::Reserved),
            ("2001:200::1", Group::Public),
            ("2001:db8::1", Group::Reserved),
            ("2606:4700::1111", Group::Public),
            ("2620:4f:8000::1", Group::Public),
            ("3fff::1", Group::Reserved),
            ("3fff:1000::1", Group::Public),
            ("4000::1", Group::Reserved),
            ("5f00::1", Group::Reserved),
            ("fc00::1", Group::Private),
            ("fdff::1", Group::Private),
            ("fe80::1", Group::LinkLocal),
            ("febf::1", Group::LinkLocal),
            ("fec0::1", Group::Private),
            ("ff02::1", Group::Multicast),
        ] {
            check(address, group);
        }
    }

    #[test]
    fn metadata_outranks_the_range_around_it() {
        for address in [
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fe80::a9fe:a9fe",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "2001:0:a9fe:a9fe::",
            "2001:0:1:1:0:0:5601:5601",
        ] {
            check(address, Group::Metadata);
        }
        check("169.254.169.252", Group::LinkLocal);
    }

    /// Attack 9: special ranges inside every wrapping form.
    #[test]
    fn wrapped_addresses_are_looked_into() {
        for (inner, group) in [
            ("127.0.0.1", Group::Loopback),
            ("10.1.2.3", Group::Private),
            ("169.254.7.7", Group::LinkLocal),
            ("224.0.0.1", Group::Multicast),
            ("240.0.0.1", Group::Reserved),
            ("8.8.8.8", Group::Public),
        ] {
            let address: Ipv4Addr = inner.parse().unwrap();
            let [a, b, c, d] = address.octets().map(u16::from);
            check(&format!("::ffff:{inner}"), group);
            check(&format!("64:ff9b::{inner}"), group);
            let at_least = group.max(Group::Reserved);
            check(&format!("::{inner}"), at_least);
            check(&format!("::ffff:0:{inner}"), at_least);
            check(&format!("64:ff9b:1::{inner}"), at_least);
            check(
                &format!("64:ff9b:1:{:x}:{c:x}:{:x}::", a << 8 | b, d << 8),
                at_least,
            );
            check(
                &format!("2002:{:x}:{:x}::1", a << 8 | b, c << 8 | d),
                at_least,
            );
            check(
                &format!("2001:0:{:x}:{:x}::f7f7:f7f7", a << 8 | b, c << 8 | d),
                at_least,
            );
            check(
                &format!("2001:0:808:808::{:x}:{:x}", !(a << 8 | b), !(c << 8 | d)),
                at_least,
            );
        }
    }

    /// An address near a border, or anywhere.
    fn address() -> impl Strategy<Value = (bool, u128)> {
        let near = |is_v4| {
            (proptest::sample::select(borders(is_v4)), 0u128..3)
                .prop_map(|(border, off)| (border + off).saturating_sub(1))
        };
        prop_oneof![
            any::<u32>().prop_map(|bits| (true, bits.into())),
            near(true).prop_map(|bits| (true, bits.min(u32::MAX.into()))),
            any::<u128>().prop_map(|bits| (false, bits)),
            any::<u128>().prop_map(|bits| (false, bits >> 16 | 0x2002 << 112)),
            any::<u64>().prop_map(|bits| (false, u128::from(bits))),
            near(false).prop_map(|bits| (false, bits)),
        ]
    }

    proptest! {
        #[test]
        fn groups_change_at_borders_only((is_v4, bits) in address()) {
            let last = borders(is_v4).into_iter().filter(|border| *border <= bits).max().unwrap();
            let of = |bits: u128| -> IpAddr {
                if is_v4 {
                    Ipv4Addr::from_bits(u32::try_from(bits).unwrap()).into()
                } else {
                    Ipv6Addr::from_bits(bits).into()
                }
            };
            prop_assert!(groups_behind(of(last)).contains(&classify(of(bits))), "{} {}", of(last), of(bits));
        }

        #[test]
        fn a_carrier_never_ranks_below_what_it_carries(bits: u32) {
            let inner = Ipv4Addr::from(bits);
            let group = classify(inner.into());
            prop_assert_eq!(classify(inner.to_ipv6_mapped().into()), group);
            let wide = u128::from(bits);
            for carrier in [wide | 0x64_ff9b << 96, wide | 0x64_ff9b_0001 << 80, wide << 80 | 0x2002 << 112, wide << 64 | 0x2001 << 112] {
                prop_assert!(classify(Ipv6Addr::from(carrier).into()) >= group);
            }
        }
    }
}
