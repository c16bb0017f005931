//! The groups of addresses against IANA's special-purpose registries as they are published (`testdata/README.md` says from
//! when), row by row and inside every form that carries an IPv4 address.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use msb_policy::{Group, classify};
use proptest::prelude::*;

/// Each block, and whether the registry calls it globally reachable; one that was given up is not.
static ROWS: LazyLock<Vec<(IpNet, bool)>> = LazyLock::new(|| {
    let v4 = include_str!("../testdata/iana-ipv4-special-registry-1.csv");
    let v6 = include_str!("../testdata/iana-ipv6-special-registry-1.csv");
    [v4, v6].into_iter().flat_map(parse).collect()
});

fn parse(registry: &str) -> Vec<(IpNet, bool)> {
    let mut reader = csv::Reader::from_reader(registry.as_bytes());
    let columns = reader.headers().unwrap().clone();
    let column = |name| columns.iter().position(|column| column == name).unwrap();
    let (block, reachable) = (column("Address Block"), column("Globally Reachable"));
    let rows = reader.records().flat_map(|row| {
        let row = row.unwrap();
        let is_global = without_footnote(&row[reachable]) == "True";
        let blocks = row[block]
            .split(", ")
            .map(|block| without_footnote(block).parse());
        blocks
            .map(|net| (net.unwrap(), is_global))
            .collect::<Vec<_>>()
    });
    rows.collect()
}

/// `192.0.0.0/24 [2]` without ` [2]`.
fn without_footnote(field: &str) -> &str {
    field.split(" [").next().unwrap()
}

/// By the narrowest row; where there is none, all unicast addresses that IANA has given out.
fn is_global(address: IpAddr) -> bool {
    let rows = ROWS.iter().filter(|(net, _)| net.contains(&address));
    match rows.max_by_key(|(net, _)| net.prefix_len()) {
        Some((_, is_global)) => *is_global,
        None => match address {
            IpAddr::V4(v4) => !v4.is_multicast(),
            IpAddr::V6(v6) => v6.segments()[0] & 0xe000 == 0x2000,
        },
    }
}

/// What stands for the address inside it, here as for the sockets of the host.
fn stands_for(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let is_nat64 = v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    let inner = Ipv4Addr::from(*v6.octets().last_chunk::<4>().unwrap());
    match v6.to_ipv4_mapped() {
        Some(v4) => v4.into(),
        None if is_nat64 => inner.into(),
        None => address,
    }
}

/// Public is what the registries call globally reachable, but for the services of clouds at addresses of their own.
#[track_caller]
fn check(address: IpAddr) {
    let group = classify(address);
    let expected = is_global(stands_for(address)) && group != Group::Metadata;
    assert_eq!(group == Group::Public, expected, "{address} is {group}");
}

/// First and last address of a block, and the ones outside next to them.
fn edges(net: &IpNet) -> Vec<IpAddr> {
    match net {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            let all = [
                Some(first),
                Some(last),
                first.checked_sub(1),
                last.checked_add(1),
            ];
            all.into_iter()
                .flatten()
                .map(|bits| Ipv4Addr::from_bits(bits).into())
                .collect()
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            let all = [
                Some(first),
                Some(last),
                first.checked_sub(1),
                last.checked_add(1),
            ];
            all.into_iter()
                .flatten()
                .map(|bits| Ipv6Addr::from_bits(bits).into())
                .collect()
        }
    }
}

#[test]
fn every_row_of_the_registries_holds_at_its_edges_and_beside_them() {
    let count = |is_v4: bool| {
        ROWS.iter()
            .filter(|(net, _)| matches!(net, IpNet::V4(_)) == is_v4)
            .count()
    };
    // Without the heading; 192.0.0.170 and 171 share a row.
    assert_eq!((count(true), count(false)), (26, 25));
    for (net, _) in ROWS.iter() {
        edges(net).into_iter().for_each(check);
    }
}

/// Every form of IPv6 that carries an IPv4 address, with that address inside.
fn wrapped(v4: Ipv4Addr) -> Vec<Ipv6Addr> {
    let bits = u128::from(v4.to_bits());
    let at = |prefix: [u16; 8]| Ipv6Addr::from(prefix).to_bits();
    let local_nat64 = at([0x64, 0xff9b, 1, 0, 0, 0, 0, 0]);
    let teredo = at([0x2001, 0, 0, 0, 0, 0, 0, 0]);
    // A public server and a public client for the other half of a Teredo address.
    let (server, client) = (0x0101_0101_u128 << 64, u128::from(!0x0101_0101_u32));
    [
        bits,
        at([0, 0, 0, 0, 0, 0xffff, 0, 0]) | bits,
        at([0, 0, 0, 0, 0xffff, 0, 0, 0]) | bits,
        at([0x64, 0xff9b, 0, 0, 0, 0, 0, 0]) | bits,
        // RFC 6052, section 2.2, for prefixes of 96, 64, 56 and 48 bits: bits 64 to 71 stay zero.
        local_nat64 | bits,
        local_nat64 | bits << 24,
        local_nat64 | (bits >> 24) << 64 | (bits & 0xff_ffff) << 32,
        local_nat64 | (bits >> 16) << 64 | (bits & 0xffff) << 40,
        at([0x2002, 0, 0, 0, 0, 0, 0, 0]) | bits << 80,
        teredo | bits << 64 | client,
        teredo | server | u128::from(!v4.to_bits()),
    ]
    .into_iter()
    .map(Ipv6Addr::from_bits)
    .collect()
}

/// Only the two forms that stand for the address inside are public, and only where that is.
#[track_caller]
fn check_wrapped(v4: Ipv4Addr) {
    let inner = classify(v4.into());
    for v6 in wrapped(v4) {
        check(v6.into());
        let group = classify(v6.into());
        if inner == Group::Metadata {
            assert_eq!(group, Group::Metadata, "{v4} inside {v6}");
        }
        assert!(group >= inner, "{v4} is {inner}, {v6} is {group}");
    }
}

#[test]
fn every_special_address_is_special_inside_every_form_that_carries_it() {
    let v4 = ROWS.iter().filter(|(net, _)| matches!(net, IpNet::V4(_)));
    for address in v4.flat_map(|(net, _)| edges(net)) {
        let IpAddr::V4(v4) = address else {
            unreachable!()
        };
        check_wrapped(v4);
    }
    check_wrapped(Ipv4Addr::new(169, 254, 169, 254));
}

proptest! {
    #[test]
    fn addresses_everywhere_agree_with_the_registries(v4: u32, v6: u128, row: prop::sample::Index) {
        check(Ipv4Addr::from_bits(v4).into());
        check_wrapped(Ipv4Addr::from_bits(v4));
        check(Ipv6Addr::from_bits(v6).into());
        let (net, _) = row.get(&ROWS);
        let inside = match net {
            IpNet::V4(net) => Ipv4Addr::from_bits(net.network().to_bits() | v4 & net.hostmask().to_bits()).into(),
            IpNet::V6(net) => IpAddr::V6(Ipv6Addr::from_bits(net.network().to_bits() | v6 & net.hostmask().to_bits())),
        };
        prop_assert!(net.contains(&inside));
        check(inside);
    }
}

#[test]
fn the_reading_of_the_registries_takes_the_narrowest_row() {
    let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
    assert!(ROWS.contains(&(net("192.0.0.9/32").into(), true)));
    assert!(ROWS.contains(&(net("192.0.0.0/24").into(), false)));
    assert!(ROWS.contains(&("2001:10::/28".parse::<Ipv6Net>().unwrap().into(), false)));
    assert!(is_global(Ipv4Addr::new(192, 0, 0, 9).into()));
    assert!(!is_global(Ipv4Addr::new(192, 0, 0, 8).into()));
}
