//! The text of rules, what they match, and what cannot be meant.

use proptest::prelude::*;

use super::*;
use crate::{Direction, Error, Flow, Group, Protocol};

#[track_caller]
fn check(text: &str, canonical: &str) {
    let rule: Rule = text.parse().unwrap();
    assert_eq!(rule.to_string(), canonical, "{text}");
    assert_eq!(canonical.parse::<Rule>().unwrap(), rule, "{canonical}");
}

#[test]
fn rules_have_one_canonical_text() {
    for same in [
        "allow@any",
        "deny@any:udp",
        "deny@public:tcp:443",
        "allow:ingress@any:tcp:22",
        "deny:any@link-local",
        "deny@metadata",
        "allow@host:tcp:5432",
        "allow@reserved:icmp",
        "allow@10.0.0.0/8:tcp,udp:53,8000-8999",
        "allow@10.0.0.5",
        "allow@[2001:db8::/32]:tcp",
        "allow@[::1]:any:1-65535",
        "allow@api.example.com",
        "deny@*.example.com:tcp,icmp",
        "allow@db.",
        "allow@*.internal",
    ] {
        check(same, same);
    }
    for (text, canonical) in [
        ("allow:egress@any", "allow@any"),
        ("allow@any:any", "allow@any"),
        ("allow@any:tcp,udp,icmp", "allow@any"),
        ("allow@any:udp,tcp", "allow@any:tcp,udp"),
        ("allow@any:tcp:443,80,81,81-90", "allow@any:tcp:80-90,443"),
        ("allow@10.0.0.5/32", "allow@10.0.0.5"),
        ("allow@[2001:db8::]/32", "allow@[2001:db8::/32]"),
        ("allow@[2001:DB8:0::5]", "allow@[2001:db8::5]"),
        ("allow@[::ffff:10.0.0.0/104]", "allow@10.0.0.0/8"),
        ("allow@[64:ff9b::10.0.0.5]", "allow@10.0.0.5"),
        (
            "allow@API.Bücher.example.",
            "allow@api.xn--bcher-kva.example",
        ),
        ("allow@DB.", "allow@db."),
    ] {
        check(text, canonical);
    }
}

#[track_caller]
fn check_refused(text: &str, marked: &str, expected: &str) {
    let error = text.parse::<Rule>().unwrap_err();
    let Error::Rule(mark) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(mark.marked(), marked, "{text}");
    assert!(mark.expected().contains(expected), "{text}: {error}");
    assert_eq!(mark.text(), text);
}

#[test]
fn what_does_not_parse_is_marked_with_what_was_expected() {
    for (text, marked, expected) in [
        ("", "", "allow|deny"),
        ("allow", "allow", "as in allow@"),
        ("permit@any", "permit", "allow or deny"),
        ("Allow@any", "Allow", "allow or deny"),
        (" allow@any", " allow", "allow or deny"),
        ("allow:out@any", "out", "egress, ingress or any"),
        ("allow:@any", "", "egress, ingress or any"),
        ("allow:egress:x@any", "egress:x", "egress, ingress or any"),
        ("allow@", "", "a group: public"),
        ("allow@publik", "publik", "one label takes a dot"),
        ("allow@any ", "any ", "a group: public"),
        ("allow@10.0.0.0/33", "33", "0 to 32"),
        ("allow@10.0.0.0/", "", "0 to 32"),
        ("allow@10.0.0.0/08", "08", "0 to 32"),
        ("allow@10.0.0.1/8", "10.0.0.1/8", "expected 10.0.0.0/8"),
        ("allow@10.0.0", "10.0.0", "an IPv4 address"),
        ("allow@10.0.0.256", "10.0.0.256", "an IPv4 address"),
        ("allow@a.test/24", "a.test", "an IPv4 address"),
        ("allow@2001:db8::1", "2001:db8::1", "brackets"),
        ("allow@2001:db8::/32:tcp", "2001:db8::/32:tcp", "brackets"),
        ("allow@::1", "::1", "brackets"),
        ("allow@[2001:db8::1", "[2001:db8::1", "`]`"),
        ("allow@[2001:db8::]x:tcp", "x", "`:`, `/`"),
        ("allow@[2001:db8::/32]/32", "/32", "`:`, `/`"),
        ("allow@[2001:db8::/129]", "129", "0 to 128"),
        ("allow@[2001:db8::]/129", "129", "0 to 128"),
        (
            "allow@[2001:db8::1/32]",
            "[2001:db8::1/32]",
            "[2001:db8::/32]",
        ),
        ("allow@[1.2.3.4]", "1.2.3.4", "an IPv6 address"),
        (
            "allow@[::ffff:0:0/90]",
            "[::ffff:0:0/90]",
            "begin in one of IPv4",
        ),
        ("allow@*", "*", "a group: public"),
        ("allow@*.", "*.", "after `*`"),
        ("allow@a.*.test", "a.*.test", "whole first label"),
        ("allow@a..test", "a..test", "no empty label"),
        ("allow@a b.test", "a b.test", "letters, digits"),
        ("allow:ingress@a.test", "a.test", "not known by name"),
        ("allow:any@*.a.test", "*.a.test", "not known by name"),
        ("allow@any:", "", "some of tcp, udp and icmp"),
        ("allow@any:http", "http", "some of tcp, udp and icmp"),
        ("allow@any:tcp,,udp", "", "some of tcp, udp and icmp"),
        ("allow@any:443", "443", "some of tcp, udp and icmp"),
        ("allow@any:tcp:", "", "1 to 65535"),
        ("allow@any:tcp:0", "0", "1 to 65535"),
        ("allow@any:tcp:080", "080", "1 to 65535"),
        ("allow@any:tcp:65536", "65536", "1 to 65535"),
        ("allow@any:tcp:+1", "+1", "1 to 65535"),
        ("allow@any:tcp:80,x,90", "x", "1 to 65535"),
        ("allow@any:tcp:90-80", "90-80", "the lower port first"),
        ("allow@any:tcp:80-", "80-", "1 to 65535"),
        ("allow@any:tcp:443:x", "443:x", "1 to 65535"),
        ("allow@any:icmp:8", "8", "icmp has none"),
        ("allow@any:tcp,icmp:8", "8", "icmp has none"),
    ] {
        check_refused(text, marked, expected);
    }
}

#[test]
fn errors_show_the_text_with_the_place_marked() {
    let error = "allow@10.0.0.0/33:tcp".parse::<Rule>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "not a network rule:\n    \
         allow@10.0.0.0/33:tcp\n                   \
         ^^ expected a prefix length from 0 to 32"
    );
    let error = "allow@a.test:tcp:\u{1b}[31m,80"
        .parse::<Rule>()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "not a network rule:\n    \
         allow@a.test:tcp:\\u{1b}[31m,80\n                     \
         ^^^^^^^^^^ expected a port from 1 to 65535, or a range such as 8000-8999"
    );
}

fn tcp(to: &str) -> Flow<'static> {
    Flow::egress(Protocol::Tcp, to.parse().unwrap())
}

#[track_caller]
fn check_match(rule: &str, flow: &Flow<'_>, expected: bool) {
    let matches = rule.parse::<Rule>().unwrap().matches(flow);
    assert_eq!(matches, expected, "{rule} on {flow:?}");
}

#[test]
fn addresses_ports_and_protocols_match() {
    check_match("allow@10.0.0.0/8", &tcp("10.255.0.1:1"), true);
    check_match("allow@10.0.0.0/8", &tcp("11.0.0.1:1"), false);
    check_match("allow@10.0.0.0/8", &tcp("[::ffff:10.0.0.1]:1"), true);
    check_match("allow@10.0.0.0/8", &tcp("[64:ff9b::10.0.0.1]:1"), true);
    check_match("allow@[::/0]", &tcp("[::ffff:10.0.0.1]:1"), false);
    check_match("allow@[2001:db8::/32]", &tcp("[2001:db8::5]:1"), true);
    check_match("allow@any:tcp:80-90", &tcp("1.1.1.1:90"), true);
    check_match("allow@any:tcp:80-90", &tcp("1.1.1.1:91"), false);
    check_match("allow@any:udp", &tcp("1.1.1.1:90"), false);
    let ping = Flow::egress(Protocol::Icmp, "1.1.1.1:0".parse().unwrap());
    check_match("allow@public:icmp", &ping, true);
    check_match("allow@public", &ping, true);
    check_match("allow@public:any:1-65535", &ping, false);
    let incoming = Flow::ingress(Protocol::Tcp, "1.1.1.1".parse().unwrap(), 22);
    assert_eq!(incoming.direction, Direction::Ingress);
    check_match("allow@any", &incoming, false);
    check_match("allow:ingress@1.1.1.1:tcp:22", &incoming, true);
    check_match("allow:any@any:tcp:22", &incoming, true);
}

/// Metadata and the host are matched by what names them.
#[test]
fn metadata_and_the_host_have_to_be_named() {
    let metadata = tcp("169.254.169.254:80");
    for (rule, expected) in [
        ("allow@any", false),
        ("allow@link-local", false),
        ("allow@169.254.0.0/16", false),
        ("allow@0.0.0.0/0", false),
        ("allow@metadata", true),
        ("allow@169.254.169.254", true),
        ("deny@any", false),
    ] {
        check_match(rule, &metadata, expected);
    }
    let host = tcp("192.0.0.1:80").to_host(true);
    for (rule, expected) in [
        ("allow@any", true),
        ("allow@host", true),
        ("allow@192.0.0.1", false),
        ("allow@reserved", false),
        ("allow@0.0.0.0/0", false),
    ] {
        check_match(rule, &host, expected);
    }
}

/// SPEC P4.
#[test]
fn a_domain_rule_needs_the_pin_and_the_claim_to_agree() {
    let [a, b]: [[msb_name::HostName; 1]; 2] =
        ["a.test", "b.test"].map(|name| [name.parse().unwrap()]);
    let both = [a[0].clone(), b[0].clone()];
    let to = tcp("1.1.1.1:443");
    for (flow, allow, deny) in [
        (to, false, false),
        (to.resolved(&a), true, true),
        (to.resolved(&b), false, false),
        (to.resolved(&both), true, true),
        (to.resolved(&both).claimed(Some(&a[0])), true, true),
        (to.resolved(&both).claimed(Some(&b[0])), false, false),
        (to.resolved(&a).claimed(Some(&b[0])), false, true),
        (to.resolved(&b).claimed(Some(&a[0])), false, true),
        (to.claimed(Some(&a[0])), false, true),
        (to.claimed(Some(&b[0])), false, false),
        (to.configured(&a), true, true),
    ] {
        check_match("allow@a.test", &flow, allow);
        check_match("deny@a.test", &flow, deny);
    }
}

/// Attack 7: a name that anybody may point anywhere opens no inner address.
#[test]
fn a_resolved_name_opens_public_addresses_only() {
    let a = ["a.test".parse().unwrap()];
    for (flow, resolved, configured) in [
        (tcp("1.1.1.1:443"), true, true),
        (tcp("10.0.0.1:443"), false, true),
        (tcp("192.0.0.1:443").to_host(true), false, true),
        (tcp("127.0.0.1:443"), false, true),
        (tcp("169.254.169.254:80"), false, false),
    ] {
        check_match("allow@a.test", &flow.resolved(&a), resolved);
        check_match("allow@a.test", &flow.configured(&a), configured);
    }
    check_match("deny@a.test", &tcp("10.0.0.1:443").resolved(&a), true);
}

#[test]
fn contradictions_of_the_builder_are_told() {
    let name: msb_name::HostName = "a.test".parse().unwrap();
    for (rule, expected) in [
        (
            Rule::allow(name).directions(Directions::Any),
            "the network rule allow:any@a.test contradicts itself: expected the direction egress",
        ),
        (
            Rule::deny(Group::Public).protocols(Protocol::Icmp).ports(8),
            "the network rule deny@public:icmp:8 contradicts itself: expected no ports",
        ),
    ] {
        let built = crate::NetworkPolicy::builder().rule(rule).build();
        let error = built.unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_what_parses_round_trips(text in "(allow|deny|)(:(egress|any|x))?@[a-z0-9.:/*\\[\\],@-]{0,24}|\\PC{0,20}") {
        match text.parse::<Rule>() {
            Ok(rule) => prop_assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
