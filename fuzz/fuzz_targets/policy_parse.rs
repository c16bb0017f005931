//! Lines of text, taken for rules: what parses reads back as it was, what does not has its place marked, and the policy of
//! those that are rules decides as the first of them does that matches alone.
#![no_main]

use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use msb_name::{Host, HostName};
use msb_policy::{
    Action, CanonicalPath, Decision, Direction, Flow, Group, HttpCause, HttpPolicy, HttpRule,
    NetworkPolicy, Protocol, Rule,
};

const MAX_LINES: usize = 16;
const ADDRESSES: [&str; 8] = [
    "1.1.1.1:443",
    "10.1.2.3:5432",
    "127.0.0.1:22",
    "169.254.169.254:80",
    "[2606:4700::1]:443",
    "[fd00::1]:53",
    "[64:ff9b::a01:203]:443",
    "224.0.0.1:5353",
];
const NAMES: [&str; 3] = ["a.test", "b.a.test", "c.test"];
const REQUESTS: [(&str, &str, &str); 5] = [
    ("GET", "a.test", "/"),
    ("GET", "b.a.test", "/v1/items?x=/../admin"),
    ("POST", "a.test", "/v1/%41dmin"),
    ("get", "a.test", "/v1/"),
    ("DELETE", "c.test", "/v1/../admin"),
];

/// What a line is as `T`; it reads back, or says in text that can be shown what is wrong with it.
fn parse<T>(line: &str) -> Option<T>
where
    T: FromStr<Err = msb_policy::Error> + Display + PartialEq + std::fmt::Debug,
{
    match line.parse::<T>() {
        Ok(rule) => {
            let text = rule.to_string();
            assert_eq!(text.parse::<T>().as_ref(), Ok(&rule), "{text}");
            Some(rule)
        }
        Err(error) => {
            let shown = error.to_string();
            let printable = |c: char| !c.is_control() || c == '\n';
            assert!(shown.chars().all(printable), "{shown:?}");
            assert!(shown.len() < 64 * 1024, "{}", shown.len());
            None
        }
    }
}

fn policy(rules: &[Rule], egress: Action, ingress: Action) -> NetworkPolicy {
    let builder = NetworkPolicy::builder().rules(rules.iter().cloned());
    let builder = builder.default_egress(egress).default_ingress(ingress);
    builder.build().expect("rules that parsed one by one")
}

/// Which rule decides, and what.
fn decide(policy: &NetworkPolicy, flow: &Flow<'_>) -> (Option<usize>, bool) {
    let decision = policy.decide(flow);
    let allowed = matches!(decision, Decision::Permit(_));
    (
        decision.grounds().cause().rule().map(|(index, _)| index),
        allowed,
    )
}

fn check(rules: &[Rule]) {
    let whole = policy(rules, Action::Deny, Action::Allow);
    let alone: Vec<_> = rules
        .iter()
        .map(|rule| policy(std::slice::from_ref(rule), Action::Deny, Action::Allow))
        .collect();
    let names = NAMES.map(|name| name.parse::<HostName>().expect("a name"));
    for address in ADDRESSES.map(|text| text.parse::<SocketAddr>().expect("an address")) {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
            for resolved in [&[][..], &names[..1], &names[..]] {
                let flow = Flow::egress(protocol, address).resolved(resolved);
                let flows = [
                    flow,
                    flow.claimed(resolved.last()),
                    flow.to_host(true),
                    Flow::ingress(protocol, address.ip(), address.port()),
                ];
                for flow in flows {
                    let (by, allowed) = decide(&whole, &flow);
                    let first = alone.iter().position(|one| decide(one, &flow).0.is_some());
                    assert_eq!(by, first, "{flow:?} of {rules:?}");
                    if let Some(first) = first {
                        assert_eq!(allowed, rules[first].action() == Action::Allow);
                    } else {
                        let ingress = flow.direction == Direction::Ingress;
                        assert_eq!(allowed, ingress && flow.group() != Group::Metadata);
                    }
                }
            }
        }
    }
}

fn check_http(rules: &[HttpRule]) {
    let policy: HttpPolicy = rules.iter().cloned().collect();
    for (method, host, path) in REQUESTS {
        let host: Host = host.parse().expect("a host");
        let decision = policy.decide(method, &host, path);
        let governed = rules.iter().any(|rule| rule.hosts().contains(&host));
        assert_eq!(policy.governs(&host), governed);
        let Ok(canonical) = CanonicalPath::parse(path) else {
            assert_eq!(decision.is_allowed(), !governed);
            continue;
        };
        let upper = !method.bytes().any(|byte| byte.is_ascii_lowercase());
        let first = rules
            .iter()
            .position(|rule| rule.matches(method, &host, &canonical));
        match decision.cause() {
            HttpCause::Rule { index, .. } => assert_eq!(Some(*index), first),
            HttpCause::NotGoverned => assert!(!governed && decision.is_allowed()),
            HttpCause::NoRule => assert!(governed && first.is_none() && !decision.is_allowed()),
            HttpCause::Method => assert!(governed && !upper && !decision.is_allowed()),
            HttpCause::Path(_) => panic!("{path} is canonical"),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<_> = text.split('\n').take(MAX_LINES).collect();
    for line in &lines {
        // Of profiles, patterns and paths only that nothing panics.
        let _ = NetworkPolicy::parse(line);
        let _ = msb_policy::BypassList::parse([line]);
        if let Ok(path) = CanonicalPath::parse(line) {
            assert_eq!(CanonicalPath::parse(path.as_str()).as_ref(), Ok(&path));
        }
    }
    let rules: Vec<Rule> = lines.iter().filter_map(|line| parse(line)).collect();
    check(&rules);
    let rules: Vec<HttpRule> = lines.iter().filter_map(|line| parse(line)).collect();
    check_http(&rules);
});
