//! The groups of addresses against another reading of IANA's special-purpose registries: that of Rust's standard library
//! (`testdata/README.md` says how it was recorded).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use msb_policy::{Group, classify};
use proptest::prelude::*;

/// First and last address, and whether those between are global.
static RUNS: LazyLock<Vec<(IpAddr, IpAddr, bool)>> = LazyLock::new(|| {
    let lines = include_str!("../testdata/is_global-rust-1.95.0.txt").lines();
    let parse = |line: &str| {
        let [first, last, global] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        (address(first), address(last), global.parse().unwrap())
    };
    lines.map(parse).collect()
});

/// Public is global; and what is global is public, but for what we deny with reason.
#[track_caller]
fn check(address: IpAddr, is_global: bool) {
    if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        // Not global as they stand; to us they are the address inside, as for the sockets of the host.
        return;
    }
    let group = classify(address);
    // DNS-SD Service Registration Protocol anycast, RFC 9665: registered as globally reachable since.
    let newer: IpAddr = "2001:1::3".parse().unwrap();
    if group == Group::Public && address != newer {
        assert!(
            is_global,
            "{address} is public to us and not global to IANA"
        );
        return;
    }
    let reason = match (group, address) {
        _ if !is_global || address == newer => return,
        (Group::Multicast, _) => "global, and no host",
        (Group::Metadata, _) => "a service of a cloud, at an address of its own",
        (_, IpAddr::V4(v4)) if v4.octets()[..3] == [192, 88, 99] => {
            "a relay to anywhere, deprecated"
        }
        (_, IpAddr::V6(v6)) if v6.segments()[0] & 0xe000 != 0x2000 => "not allocated",
        _ => "",
    };
    assert!(
        !reason.is_empty(),
        "{address} is {group} to us and global to IANA"
    );
}

#[test]
fn what_is_public_is_global_by_the_registries() {
    assert_eq!(RUNS.len(), 57);
    for (first, last, is_global) in RUNS.iter() {
        check(*first, *is_global);
        check(*last, *is_global);
    }
}

proptest! {
    #[test]
    fn addresses_between_the_borders_agree_as_well(bits: u32) {
        let address = IpAddr::V4(Ipv4Addr::from_bits(bits));
        let run = RUNS.iter().find(|(first, last, _)| (first..=last).contains(&&address));
        check(address, run.unwrap().2);
    }

    /// Where the recorded runs leave a gap, nothing was asked.
    #[test]
    fn ipv6_addresses_agree_within_the_runs(bits: u128, prefix in 0usize..8) {
        const PREFIXES: [u128; 8] = [0, 0x2001 << 112, 0x2001_0db8 << 96, 0x2002 << 112, 0x2620_004f << 96, 0x3fff << 112, 0x64_ff9b << 96, 0x2a00 << 112];
        let address = IpAddr::V6(Ipv6Addr::from_bits((bits >> 32 >> (prefix % 3 * 16)) | PREFIXES[prefix]));
        if let Some((.., is_global)) = RUNS.iter().find(|(first, last, _)| (first..=last).contains(&&address)) {
            check(address, *is_global);
        }
    }
}
