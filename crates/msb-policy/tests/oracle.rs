//! The compiled policy against what its rules say one by one, over a universe small enough to ask about every flow.
//!
//! The universe holds, for the rules that [`rules`] makes, an address of every kind they can tell apart, a name and a port
//! of every kind, and every evidence of a name: so "no flow" here is "no flow at all".

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use msb_name::HostName;
use msb_policy::{Action, Direction, Early, Extent, Flow, Group, NetworkPolicy, Protocol, Rule};
use proptest::prelude::*;

const TARGETS: [&str; 29] = [
    "any",
    "public",
    "private",
    "reserved",
    "loopback",
    "link-local",
    "metadata",
    "multicast",
    "host",
    "0.0.0.0/0",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3",
    "1.1.1.0/24",
    "1.1.1.1",
    "169.254.0.0/16",
    "169.254.169.254",
    "[::/0]",
    "[fd00::/8]",
    "[2606:4700::/32]",
    "[2002:a00::/24]",
    "a.test",
    "x.a.test",
    "*.a.test",
    "*.x.a.test",
    "*.test",
    "b.example",
];
const ADDRESSES: [&str; 32] = [
    "10.1.2.3",
    "10.1.2.4",
    "10.2.0.1",
    "192.168.0.1",
    "1.1.1.1",
    "1.1.1.2",
    "8.8.8.8",
    "193.0.0.1",
    "127.0.0.1",
    "169.254.1.1",
    "169.254.169.254",
    "169.254.169.253",
    "100.100.100.200",
    "192.0.0.192",
    "0.0.0.1",
    "240.0.0.1",
    "224.0.0.1",
    "::1",
    "2606:4700::1",
    "2600::1",
    "fd00::1",
    "fc00::1",
    "fe80::1",
    "ff02::1",
    "2001:db8::1",
    "2002:a01:203::1",
    "2002:b01:203::1",
    "2002:7f00:1::1",
    "2002:e000:1::1",
    "2002:a9fe:1::1",
    "2002:a9fe:a9fe::1",
    "fd00:ec2::254",
];
const NAMES: [&str; 9] = [
    "a.test",
    "x.a.test",
    "y.a.test",
    "y.x.a.test",
    "z.y.x.a.test",
    "other.test",
    "test",
    "b.example",
    "other.example",
];
const PORTS: [u16; 9] = [0, 1, 79, 80, 81, 442, 443, 444, 65_535];
const RULE_PORTS: [&str; 8] = [
    "",
    ":any",
    ":tcp",
    ":tcp:80",
    ":udp,icmp",
    ":tcp:80-443",
    ":any:1-65535",
    ":tcp,udp:443-65535",
];

static NAMED: LazyLock<Vec<[HostName; 1]>> =
    LazyLock::new(|| NAMES.iter().map(|name| [name.parse().unwrap()]).collect());

fn rule() -> impl Strategy<Value = Rule> {
    let action = proptest::sample::select(vec!["allow", "deny"]);
    let direction = proptest::sample::select(vec!["", "", "", ":ingress", ":any"]);
    let target = proptest::sample::select(TARGETS.to_vec());
    let ports = proptest::sample::select(RULE_PORTS.to_vec());
    (action, direction, target, ports).prop_map(|(action, direction, target, ports)| {
        let text = format!("{action}{direction}@{target}{ports}");
        let domain = format!("{action}@{target}{ports}");
        // Domains have one direction only.
        text.parse().or_else(|_| domain.parse()).unwrap()
    })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    proptest::collection::vec(rule(), 0..7)
}

fn action() -> impl Strategy<Value = Action> {
    proptest::sample::select(vec![Action::Allow, Action::Deny])
}

fn build(rules: &[Rule], egress: Action, ingress: Action) -> NetworkPolicy {
    let policy = NetworkPolicy::builder().rules(rules.iter().cloned());
    let policy = policy.default_egress(egress).default_ingress(ingress);
    policy.build().unwrap()
}

/// Everywhere a flow may go, without a name.
fn places() -> impl Iterator<Item = Flow<'static>> {
    let addresses = ADDRESSES.iter().map(|address| address.parse().unwrap());
    let host: IpAddr = "192.0.0.1".parse().unwrap();
    let places = addresses.map(|a| (a, false)).chain([(host, true)]);
    places.flat_map(|(address, to_host)| {
        Protocol::ALL_FOR_TESTS
            .into_iter()
            .flat_map(move |protocol| {
                let ports = if protocol == Protocol::Icmp {
                    &PORTS[..1]
                } else {
                    &PORTS[..]
                };
                ports.iter().map(move |port| {
                    Flow::egress(protocol, SocketAddr::new(address, *port)).to_host(to_host)
                })
            })
    })
}

/// The same flow with every evidence of at most one name.
fn with_names<'a>(flow: Flow<'a>) -> impl Iterator<Item = Flow<'a>> {
    let named = NAMED.iter().flat_map(move |name| {
        let claimed = Some(&name[0]);
        [
            flow.claimed(claimed),
            flow.resolved(name),
            flow.resolved(name).claimed(claimed),
            flow.configured(name),
            flow.configured(name).claimed(claimed),
        ]
    });
    std::iter::once(flow).chain(named)
}

/// Every flow there is.
static FLOWS: LazyLock<Vec<Flow<'static>>> = LazyLock::new(|| {
    let flows = places().flat_map(|place| with_names(place).chain([ingress(place)]));
    flows.collect()
});

/// Some of the flows; those of all samples from 0 to 30 are every flow.
fn flows(sample: usize) -> impl Iterator<Item = Flow<'static>> {
    FLOWS.iter().skip(sample).step_by(31).copied()
}

fn ingress(mut flow: Flow<'_>) -> Flow<'_> {
    flow.direction = Direction::Ingress;
    flow
}

fn first(rules: &[Rule], flow: &Flow<'_>) -> Option<usize> {
    rules.iter().position(|rule| rule.matches(flow))
}

/// What the rules one by one say.
fn naive(rules: &[Rule], egress: Action, flow: &Flow<'_>) -> Action {
    match first(rules, flow) {
        Some(index) => rules[index].action(),
        None if flow.group() == Group::Metadata => Action::Deny,
        None => egress,
    }
}

fn is_allowed(action: Action) -> bool {
    action == Action::Allow
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_first_rule_that_matches_decides(rules in rules(), egress in action(), incoming in action(), sample in 0usize..31) {
        let policy = build(&rules, egress, incoming);
        for flow in flows(sample) {
            let decision = policy.decide(&flow);
            let default = if flow.direction == Direction::Egress { egress } else { incoming };
            let expected = first(&rules, &flow);
            prop_assert_eq!(decision.grounds().rule().map(|(index, _)| index), expected, "{:?}", flow);
            prop_assert_eq!(decision.is_permit(), is_allowed(naive(&rules, default, &flow)), "{:?}", flow);
        }
    }

    /// And where it says that the name decides, the first rule is not one that decides by the address.
    #[test]
    fn an_early_decision_holds_whatever_name_comes(rules in rules(), egress in action(), sample in 0usize..31) {
        let policy = build(&rules, egress, Action::Allow);
        let is_domain = |rule: &Rule| matches!(rule.target(), msb_policy::Target::Domain(_));
        for known in flows(sample).filter(|flow| flow.claimed.is_none()) {
            let late = NAMED.iter().map(|name| Some(&name[0])).chain([None]);
            let mut late = late.map(|claimed| policy.decide(&known.claimed(claimed)).is_permit());
            match policy.decide_early(&known) {
                Early::Decided(early) => {
                    prop_assert!(late.all(|late| late == early.is_permit()), "{:?}", known);
                }
                Early::NeedsName => {
                    let decides = |rule: &Rule| !is_domain(rule) && rule.matches(&known);
                    prop_assert!(!rules.first().is_some_and(decides), "{:?}", known);
                }
            }
        }
    }

    #[test]
    fn a_rule_is_shadowed_iff_no_flow_reaches_it(rules in rules(), egress in action()) {
        let policy = build(&rules, egress, Action::Allow);
        let (mut reached, mut publicly) = (HashSet::new(), HashSet::new());
        for flow in FLOWS.iter() {
            let Some(rule) = first(&rules, flow) else {
                continue;
            };
            if reached.insert(rule) || !publicly.contains(&rule) {
                let public = flow.direction == Direction::Egress && flow.group() == Group::Public;
                publicly.extend(public.then_some(rule));
            }
        }
        let shadows = policy.shadows();
        for (index, rule) in rules.iter().enumerate() {
            let found = shadows.iter().find(|shadow| shadow.rule == index).map(|shadow| shadow.extent);
            let is_domain = matches!(rule.target(), msb_policy::Target::Domain(_));
            let expected = match (reached.contains(&index), publicly.contains(&index)) {
                (false, _) => Some(Extent::All),
                (true, false) if is_domain => Some(Extent::PublicAddresses),
                _ => None,
            };
            prop_assert_eq!(found, expected, "rule {} of {:?}", index, policy);
        }
        prop_assert_eq!(policy.warnings().count(), shadows.len());
    }

    /// SPEC D2.
    #[test]
    fn a_name_is_asked_for_iff_a_flow_for_it_could_be_allowed(rules in rules(), egress in action()) {
        let policy = build(&rules, egress, Action::Allow);
        for name in NAMED.iter() {
            let mut flows = places()
                .filter(|flow| !flow.to_host && flow.group() != Group::Metadata)
                .flat_map(|flow| [flow.resolved(name), flow.resolved(name).claimed(Some(&name[0]))]);
            let useful = flows.any(|flow| is_allowed(naive(&rules, egress, &flow)));
            prop_assert_eq!(policy.decide_name(&name[0]).is_ok(), useful, "{} of {:?}", name[0], policy);
        }
    }

    /// SPEC D3.
    #[test]
    fn an_inner_address_is_answered_iff_a_rule_about_addresses_allows_it(rules in rules(), egress in action()) {
        let policy = build(&rules, egress, Action::Allow);
        let addresses: HashSet<_> = places().map(|flow| (flow.address, flow.to_host)).collect();
        for (address, to_host) in addresses {
            let here = |flow: &Flow<'_>| (flow.address, flow.to_host) == (address, to_host);
            let flows: Vec<_> = places().filter(here).collect();
            let public = !to_host && msb_policy::classify(address) == Group::Public;
            for name in NAMED.iter() {
                let named = flows.iter().map(|flow| flow.configured(name));
                let mut named = named.chain(flows.iter().map(|flow| flow.configured(name).claimed(Some(&name[0]))));
                let expected = public || named.any(|flow| is_allowed(naive(&rules, egress, &flow)));
                let answered = policy.decide_answer(address, to_host, Some(&name[0])).is_ok();
                prop_assert_eq!(answered, expected, "{} for {} of {:?}", address, name[0], policy);
            }
            let expected = public || flows.iter().any(|flow| is_allowed(naive(&rules, egress, flow)));
            prop_assert_eq!(policy.decide_answer(address, to_host, None).is_ok(), expected, "{} of {:?}", address, policy);
        }
    }
}

trait AllForTests: Sized {
    const ALL_FOR_TESTS: [Self; 3];
}

impl AllForTests for Protocol {
    const ALL_FOR_TESTS: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];
}
