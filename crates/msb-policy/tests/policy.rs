//! Policies as users write them: profiles, defaults, reasons, names and answers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use msb_name::HostName;
use msb_policy::{
    Action, Cause, Decision, Direction, Early, Extent, Flow, Group, NetworkPolicy, Permit, Protocol,
};

const PLACES: [(&str, &str); 7] = [
    ("public", "93.184.215.14:443"),
    ("private", "10.0.0.1:443"),
    ("loopback", "127.0.0.1:80"),
    ("link-local", "169.254.1.1:80"),
    ("multicast", "224.0.0.251:5353"),
    ("metadata", "169.254.169.254:80"),
    ("reserved", "240.0.0.1:80"),
];

fn tcp(to: &str) -> Flow<'static> {
    Flow::egress(Protocol::Tcp, to.parse().unwrap())
}

fn policy(profiles: &str) -> NetworkPolicy {
    NetworkPolicy::parse(profiles).unwrap()
}

/// Rules, then profiles.
fn rules(rules: &[&str], profiles: &str) -> NetworkPolicy {
    let rules = rules.iter().map(|rule| rule.parse().unwrap());
    let builder = NetworkPolicy::builder().rules(rules);
    builder.profiles(profiles).unwrap().build().unwrap()
}

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

#[track_caller]
fn check(profile: &str, allowed: &[&str], host: bool) {
    let policy = policy(profile);
    let permits = |flow: Flow<'_>| policy.decide(&flow).is_permit();
    for (group, place) in PLACES {
        let expected = allowed.contains(&group);
        assert_eq!(permits(tcp(place)), expected, "{profile}: {place}");
    }
    let to_host = permits(tcp("192.0.0.1:8443").to_host(true));
    assert_eq!(to_host, host, "{profile}: host");
}

#[test]
fn profiles_allow_their_groups_and_nothing_else() {
    check("public", &["public"], false);
    check("private", &["private"], false);
    check("host", &[], true);
    check("public, host", &["public"], true);
    check("metadata", &["metadata"], false);
    check("none", &[], false);
    let mut all = vec![
        "public",
        "private",
        "loopback",
        "link-local",
        "multicast",
        "reserved",
    ];
    check("all", &all, true);
    all.push("metadata");
    check("all,metadata", &all, true);
    assert_eq!(NetworkPolicy::default(), policy("public"));
}

#[test]
fn the_gateway_is_governed_by_host_alone() {
    let flow = Flow::egress(Protocol::Udp, "93.184.215.14:443".parse().unwrap()).to_host(true);
    let decision = policy("public").decide(&flow);
    assert!(!decision.is_permit());
    assert_eq!(decision.grounds().group(), Group::Host);
}

#[test]
fn malformed_profiles_are_refused() {
    for (text, expected) in [
        ("", "\"\" in the network profile"),
        ("public,", "\"\" in the network profile"),
        ("Public", "\"Public\" in"),
        ("public host", "\"public host\" in"),
        ("none,public", "none stands alone"),
    ] {
        let error = NetworkPolicy::parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

/// SPEC P2.
#[test]
fn ingress_is_open_by_default_where_the_network_is_not_off() {
    let incoming = Flow::ingress(Protocol::Tcp, "93.184.215.14".parse().unwrap(), 8080);
    assert!(policy("public").decide(&incoming).is_permit());
    assert!(!policy("none").decide(&incoming).is_permit());
    let closed = NetworkPolicy::builder().default_ingress(Action::Deny);
    assert!(!closed.build().unwrap().decide(&incoming).is_permit());
    let some = rules(&["deny:ingress@any:tcp:8080"], "public");
    let decision = some.decide(&incoming);
    assert_eq!(
        decision.grounds().to_string(),
        "tcp from 93.184.215.14 to port 8080 (public) is denied by rule 1 (deny:ingress@any:tcp:8080)"
    );
    assert_eq!(some.default_of(Direction::Ingress), Action::Allow);
}

/// SPEC P6.
#[test]
fn decisions_carry_rule_and_reason_in_one_line() {
    let names = [name("a.test")];
    let policy = rules(&["deny@*.evil.test", "allow@a.test:tcp:22"], "public");
    for (flow, rule, reason) in [
        (
            tcp("93.184.215.14:443"),
            Some(2),
            "tcp to 93.184.215.14:443 (public) is allowed by rule 3 (allow@public)",
        ),
        (
            tcp("10.0.0.1:22"),
            None,
            "tcp to 10.0.0.1:22 (private) is denied by default: no rule allows it",
        ),
        (
            tcp("10.0.0.1:22").configured(&names),
            Some(1),
            "tcp to 10.0.0.1:22 for a.test (private) is allowed by rule 2 (allow@a.test:tcp:22)",
        ),
        (
            tcp("1.1.1.1:443").claimed(Some(&name("x.evil.test"))),
            Some(0),
            "tcp to 1.1.1.1:443 for x.evil.test (public) is denied by rule 1 (deny@*.evil.test)",
        ),
        (
            tcp("169.254.169.254:80"),
            None,
            "tcp to 169.254.169.254:80 (metadata) is denied by default: metadata is open only where a rule names it or its address",
        ),
        (
            Flow::egress(Protocol::Icmp, "10.0.0.1:0".parse().unwrap()),
            None,
            "icmp to 10.0.0.1 (private) is denied by default: no rule allows it",
        ),
    ] {
        let decision = policy.decide(&flow);
        assert_eq!(decision.grounds().to_string(), reason);
        assert_eq!(decision.grounds().rule().map(|(index, _)| index), rule);
        assert_eq!(decision.is_permit(), reason.contains("allowed"));
    }
    let decision = policy.decide(&tcp("93.184.215.14:443"));
    assert_eq!(
        decision.grounds().cause().to_string(),
        "rule 3 (allow@public)"
    );
    let Decision::Permit(permit) = decision else {
        panic!("{decision:?}");
    };
    let _: &Permit = &permit;
    assert_eq!(
        permit.grounds().address(),
        "93.184.215.14:443".parse().unwrap()
    );
}

/// SPEC P8.
#[test]
fn an_invalid_policy_allows_nothing() {
    let policy = NetworkPolicy::invalid("no such file");
    for (_, place) in PLACES {
        for to_host in [false, true] {
            let mut flow = tcp(place).to_host(to_host);
            for direction in [Direction::Egress, Direction::Ingress] {
                flow.direction = direction;
                let decision = policy.decide(&flow);
                assert!(!decision.is_permit(), "{place}");
                let reason = decision.grounds().to_string();
                assert!(
                    reason.contains("everything is refused: no such file"),
                    "{reason}"
                );
            }
        }
    }
    assert!(policy.decide_name(&name("a.test")).is_err());
    assert!(policy.decide_other_name().is_err());
    assert_ne!(policy, NetworkPolicy::invalid("x"));
}

#[test]
fn defaults_open_everything_but_metadata() {
    let open = NetworkPolicy::builder().default_egress(Action::Allow);
    let policy = open.build().unwrap();
    for (group, place) in PLACES {
        let decision = policy.decide(&tcp(place));
        assert_eq!(decision.is_permit(), group != "metadata", "{place}");
        if decision.is_permit() {
            assert_eq!(decision.grounds().cause(), &Cause::Default(Action::Allow));
        }
    }
}

#[test]
fn policies_are_equal_that_decide_by_the_same_rules() {
    assert_eq!(rules(&["allow@public"], "none"), {
        let none = NetworkPolicy::builder().profiles("none").unwrap();
        none.rule("allow@public".parse().unwrap()).build().unwrap()
    });
    assert_ne!(policy("public"), policy("private"));
    assert_ne!(policy("none"), NetworkPolicy::builder().build().unwrap());
    // A profile adds no rule that is there already.
    assert_eq!(rules(&["allow@public"], "public"), policy("public"));
}

/// Attack 8: exfiltration by query.
#[test]
fn names_are_asked_for_where_more_than_the_host_is_permitted() {
    for (profile, expected) in [
        ("none", false),
        ("host", false),
        ("public", true),
        ("private", true),
        ("metadata", false),
        ("all", true),
        ("host,public", true),
    ] {
        let policy = policy(profile);
        assert_eq!(
            policy.decide_name(&name("a.test")).is_ok(),
            expected,
            "{profile}"
        );
        assert_eq!(policy.decide_other_name().is_ok(), expected, "{profile}");
    }
}

/// Attack 8, SPEC D2.
#[test]
fn denied_and_useless_names_are_not_asked_for() {
    #[track_caller]
    fn check(policy: &NetworkPolicy, asked: &str, expected: Result<(), &str>) {
        let decided = policy.decide_name(&name(asked)).map_err(|d| d.to_string());
        assert_eq!(
            decided,
            expected.map_err(|why| format!("{asked} is not asked for: {why}"))
        );
    }
    let listed = rules(&["allow@api.test:tcp:443", "allow@*.cdn.test"], "none");
    let useless = Err("no rule allows a destination that it could stand for");
    check(&listed, "api.test", Ok(()));
    check(&listed, "x.cdn.test", Ok(()));
    check(&listed, "cdn.test", useless);
    check(&listed, "data.evil.test", useless);
    let barred = rules(&["deny@*.evil.test", "deny@web.test:tcp:80"], "public");
    let denied = Err("denied by rule 1 (deny@*.evil.test)");
    check(&barred, "data.evil.test", denied);
    check(&barred, "web.test", Ok(()));
    check(&barred, "other.test", Ok(()));
    // What comes first counts.
    let except = rules(&["allow@a.evil.test:tcp:443", "deny@*.evil.test"], "public");
    check(&except, "a.evil.test", Ok(()));
    check(
        &except,
        "b.evil.test",
        Err("denied by rule 2 (deny@*.evil.test)"),
    );
    // A name that is no host's could carry a message past rules about names.
    for policy in [&listed, &barred] {
        let denial = policy.decide_other_name().unwrap_err();
        assert!(denial.to_string().contains("rules about names"), "{denial}");
    }
}

/// Attack 7: rebinding.
#[test]
fn answers_with_inner_addresses_need_the_group() {
    let answer = |policy: &NetworkPolicy, address: &str| {
        let answer = policy.decide_answer(address.parse().unwrap(), false, None);
        answer.is_ok()
    };
    assert!(answer(&policy("public"), "93.184.215.14"));
    assert!(answer(&policy("none"), "93.184.215.14"));
    assert!(!answer(&policy("public"), "10.0.0.1"));
    assert!(!answer(&policy("public,host"), "127.0.0.1"));
    assert!(!answer(&policy("public"), "64:ff9b::10.0.0.1"));
    assert!(answer(&policy("public,private"), "10.0.0.1"));
    assert!(!answer(&policy("all"), "169.254.169.254"));
    let port = rules(&["allow@10.0.0.5:tcp:5432"], "public");
    assert!(answer(&port, "10.0.0.5") && !answer(&port, "10.0.0.6"));
    // A rule about a name does not open inner addresses to whoever runs its zone.
    let named = rules(&["allow@db.test"], "public");
    assert!(!answer(&named, "10.0.0.5"));
    let configured =
        named.decide_answer("10.0.0.5".parse().unwrap(), false, Some(&name("db.test")));
    configured.unwrap();
    let denied = rules(&["deny@10.0.0.0/8"], "private");
    let denial = denied.decide_answer("10.0.0.1".parse().unwrap(), false, None);
    assert_eq!(
        denial.unwrap_err().to_string(),
        "it resolves to 10.0.0.1, a private address which rule 1 (deny@10.0.0.0/8) denies"
    );
}

/// The name of a gateway that an answer from outside leads to is not the host's.
#[test]
fn an_answer_with_the_gateway_needs_the_host() {
    let gateway = "192.0.0.1".parse().unwrap();
    for (profiles, expected) in [("public", false), ("host", true), ("all", true)] {
        let answer = policy(profiles).decide_answer(gateway, true, None);
        assert_eq!(answer.is_ok(), expected, "{profiles}");
    }
    let alias = name("host.msb.internal");
    let policy = rules(&["allow@host.msb.internal:tcp:8080"], "public");
    policy.decide_answer(gateway, true, Some(&alias)).unwrap();
    assert!(policy.decide_answer(gateway, true, None).is_err());
}

#[test]
fn the_name_is_waited_for_only_where_it_decides() {
    let [a, b] = [[name("a.test")], [name("b.test")]];
    let both = [name("a.test"), name("b.test")];
    let listed = rules(&["allow@a.test:tcp:443"], "none");
    let barred = rules(&["deny@a.test:tcp:443"], "public");
    let public = policy("public");
    for (policy, flow, expected) in [
        (&listed, tcp("1.1.1.1:443"), Some(false)),
        (&listed, tcp("1.1.1.1:443").resolved(&b), Some(false)),
        (&listed, tcp("1.1.1.1:443").resolved(&a), None),
        (&listed, tcp("1.1.1.1:443").resolved(&both), None),
        (&listed, tcp("1.1.1.1:80").resolved(&a), Some(false)),
        (&listed, tcp("10.1.1.1:443").resolved(&a), Some(false)),
        (&barred, tcp("1.1.1.1:443"), None),
        (&barred, tcp("1.1.1.1:80"), Some(true)),
        (&barred, tcp("10.1.1.1:443"), Some(false)),
        (&public, tcp("1.1.1.1:443").resolved(&a), Some(true)),
    ] {
        let decided = match policy.decide_early(&flow) {
            Early::Decided(decision) => Some(decision.is_permit()),
            Early::NeedsName => None,
        };
        assert_eq!(decided, expected, "{policy:?} on {flow:?}");
    }
}

#[test]
fn shadowed_rules_are_warned_of_and_say_by_what() {
    let policy = rules(
        &[
            "allow@10.0.0.0/8:tcp",
            "deny@10.1.0.0/16:tcp:22",
            "allow@public:tcp:1-1023",
            "allow@public:tcp:1024-65535",
            "deny@1.1.1.1:tcp:22-8080",
            "deny@tracker.test:tcp:443",
            "deny@any",
            "allow@a.test",
        ],
        "none",
    );
    let warnings: Vec<_> = policy.warnings().collect();
    assert_eq!(
        warnings,
        [
            "network rule 2 (deny@10.1.0.0/16:tcp:22) never counts: rule 1 (allow@10.0.0.0/8:tcp) comes first",
            "network rule 5 (deny@1.1.1.1:tcp:22-8080) never counts: the rules before it together leave it nothing",
            "network rule 6 (deny@tracker.test:tcp:443) never counts for public addresses: rule 3 (allow@public:tcp:1-1023) comes first",
            "network rule 8 (allow@a.test) never counts: rule 7 (deny@any) comes first",
        ]
    );
    assert_eq!(policy.shadows()[2].extent, Extent::PublicAddresses);
    assert_eq!(rules(&["deny@evil.test"], "public").warnings().count(), 0);
}
