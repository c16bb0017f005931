//! What can be meant is accepted, and everything else refused with its reason.

use msb_policy::{Action, Direction};

use super::*;

fn builder() -> SandboxBuilder {
    SandboxBuilder::new("worker".into())
}

fn with_secret() -> SandboxBuilder {
    builder().secret_env("API_KEY", "sk-canary-value", "api.example.com")
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

#[track_caller]
fn check_refused(builder: SandboxBuilder, expected: &str) {
    let error = match Plan::new(builder) {
        Ok(_) => panic!("accepted, but expected: {expected}"),
        Err(error) => with_causes(&error),
    };
    assert!(error.contains(expected), "{error}\nexpected: {expected}");
    assert!(!error.contains("canary"), "{error}");
}

#[track_caller]
fn check_accepted(builder: SandboxBuilder) {
    if let Err(error) = Plan::new(builder) {
        panic!("{}", with_causes(&error));
    }
}

#[test]
fn what_cannot_be_meant_is_refused_and_says_why() {
    for name in ["", "Worker", "-a", "a-", "a_b", &"a".repeat(64)] {
        check_refused(
            SandboxBuilder::new(name.into()),
            "cannot be a sandbox's name",
        );
    }
    check_refused(builder().cpus(0), "at least 1 cpu");
    check_refused(builder().memory(64), "64 MiB of memory are too few");
    check_refused(
        builder().env("A=B", "c"),
        "cannot be an environment variable",
    );
    check_refused(builder().env("", "c"), "cannot be an environment variable");
    check_refused(with_secret().env("API_KEY", "x"), "API_KEY is both");
    check_refused(builder().network(|n| n.profiles("publik")), "publik");
    check_refused(
        builder().network(|n| n.add_host("bad host", HostAddress::HostGateway)),
        "the added host",
    );
    check_refused(builder().network(|n| n.tls(|t| t.bypass("a.*.b"))), "a.*.b");
    check_refused(
        builder().network(|n| n.tls(|t| t.danger_no_verify_upstream_for("*"))),
        "no verification: \"*\"",
    );
    check_refused(
        builder().network(|n| n.tls(|t| t.upstream_ca_cert_for("a.*.b", "f"))),
        "upstream CA certificate: \"a.*.b\"",
    );
    check_refused(
        builder().network(|n| n.tls(|t| t.client_cert_for("", "f", "f"))),
        "client certificate: ",
    );
    let socket = std::net::SocketAddr::from(([192, 0, 2, 1], 443));
    check_refused(
        builder().network(|n| n.add_host("a.test", socket)),
        "a.test cannot have a port",
    );
    check_refused(
        builder().network(|n| n.ingress_bandwidth(0)),
        "ingress bandwidth of a sandbox's network cannot be 0",
    );
    check_refused(
        builder().network(|n| n.max_connections(0)),
        "at least 1 connection",
    );
    check_refused(
        builder().network(|n| n.tls(|t| t.intercepted_ports([]))),
        "at least one port",
    );
    check_refused(
        builder().network(|n| n.tls(|t| t.intercepted_ports([443, 53]))),
        "port 53",
    );
}

#[test]
fn a_secret_nothing_could_put_in_is_refused() {
    check_refused(
        with_secret().network(|n| n.tls(|t| t.enabled(false))),
        "API_KEY in: TLS interception is switched off",
    );
    check_refused(
        with_secret().network(|n| n.profiles("none")),
        "API_KEY in: the network policy allows nothing",
    );
    for bypass in ["api.example.com", "*.example.com", "API.Example.com."] {
        check_refused(
            with_secret().network(|n| n.tls(|t| t.bypass(bypass))),
            "api.example.com: that host is bypassed",
        );
    }
}

#[test]
fn rules_come_before_profiles_and_defaults_replace_them() {
    let plan = |network: fn(NetworkBuilder) -> NetworkBuilder| {
        let plan = Plan::new(builder().network(network)).unwrap();
        let rules: Vec<_> = plan.policy.rules().map(ToString::to_string).collect();
        (rules.join(" "), plan.policy.default_of(Direction::Egress))
    };
    assert_eq!(plan(|n| n), ("allow@public".into(), Action::Deny));
    assert_eq!(
        plan(|n| n.rule("deny@*.evil.test").profiles("private")),
        ("deny@*.evil.test allow@private".into(), Action::Deny)
    );
    assert_eq!(
        plan(|n| n.rule("deny@private").default_egress(Action::Allow)),
        ("deny@private".into(), Action::Allow)
    );
    assert_eq!(
        plan(|n| n.profiles("public").default_egress(Action::Deny)),
        ("allow@public".into(), Action::Deny)
    );
    check_refused(
        builder().network(|n| n.rule("allow@10.0.0.0/33")),
        "^^ expected a prefix length from 0 to 32",
    );
    check_refused(
        builder().network(|n| n.http_rule("allow get a.test/")),
        "^^^ expected `*`, or methods in upper case",
    );
    let shadowed = builder().network(|n| n.rule("deny@1.1.1.1").rule("allow@1.1.1.1:tcp"));
    let warnings = Plan::new(shadowed).unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("never counts"), "{warnings:?}");
}

/// What they are about has to be read.
#[test]
fn http_rules_switch_interception_on_or_are_refused() {
    let ruled = || builder().network(|n| n.http_rule("allow GET *.a.test/**"));
    let interception = Plan::new(ruled()).unwrap().interception.unwrap();
    assert_eq!(interception.ports, [443]);
    assert_eq!(interception.http_policy.rules().len(), 1);
    check_refused(
        ruled().network(|n| n.tls(|t| t.enabled(false))),
        "nothing could enforce the HTTP rules",
    );
    for (bypass, refused) in [("x.a.test", true), ("*.test", true), ("a.test", false)] {
        let builder = ruled().network(|n| n.tls(|t| t.bypass(bypass)));
        match refused {
            true => check_refused(builder, "that the bypass"),
            false => check_accepted(builder),
        }
    }
    let lonely = builder().network(|n| n.http_rule("deny DELETE a.test/**"));
    let warnings = Plan::new(lonely).unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("leaves nothing allowed"),
        "{warnings:?}"
    );
}

#[test]
fn a_secret_for_a_host_that_the_policy_denies_is_refused() {
    let with = |network: fn(NetworkBuilder) -> NetworkBuilder| with_secret().network(network);
    check_refused(
        with(|n| n.rule("deny@*.example.com")),
        "API_KEY in for api.example.com: api.example.com is not asked for: denied by rule 1 (deny@*.example.com)",
    );
    check_refused(
        with(|n| n.profiles("none").rule("allow@b.test")),
        "no rule allows a destination",
    );
    for network in [
        with(|n| n.profiles("none").rule("allow@api.example.com:tcp:443")),
        with(|n| {
            let address = HostAddress::HostGateway;
            n.profiles("host").add_host("api.example.com", address)
        }),
    ] {
        check_accepted(network);
    }
}

/// SPEC S12: it goes into plaintext HTTP, which neither needs interception nor is bypassed.
#[test]
fn a_secret_without_tls_identity_needs_no_interception() {
    let secret = |s: SecretBuilder| {
        let secret = s.env("API_KEY").value("sk-canary").allow_host("a.test");
        secret.require_tls_identity(false)
    };
    let with =
        |tls: fn(TlsBuilder) -> TlsBuilder| builder().secret(secret).network(move |n| n.tls(tls));
    let plan = Plan::new(with(|t| t.enabled(false))).unwrap();
    assert!(plan.interception.is_none() && !plan.secrets.is_empty());
    let plan = Plan::new(with(|t| t.bypass("a.test"))).unwrap();
    assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
    check_refused(
        with(|t| t.enabled(false)).secret_env("OTHER", "sk-canary", "b.test"),
        "the secret OTHER in: TLS interception is switched off",
    );
    check_refused(
        builder().secret(secret).network(|n| n.profiles("none")),
        "API_KEY in: the network policy allows nothing",
    );
}

#[test]
fn patterns_that_overlap_a_bypass_are_a_warning() {
    let warnings = |pattern: &str, bypass: &str| {
        let builder = builder()
            .secret(|s| s.env("API_KEY").value("v").allow_host_pattern(pattern))
            .network(|n| n.tls(|t| t.bypass(bypass)));
        match Plan::new(builder) {
            Ok(plan) => plan.warnings.len(),
            Err(error) => panic!("{error}"),
        }
    };
    for (pattern, bypass, expected) in [
        ("*.example.com", "pinned.example.com", 1),
        ("*.a.example.com", "*.example.com", 1),
        ("*.example.com", "*.a.example.com", 1),
        ("*.example.com", "example.com", 0),
        ("*.example.com", "evilexample.com", 0),
        ("*.example.com", "*.example.org", 0),
    ] {
        assert_eq!(
            warnings(pattern, bypass),
            expected,
            "{pattern} and {bypass}"
        );
    }
}

#[test]
fn a_secret_switches_interception_on_by_itself() {
    let ports = |builder| match Plan::new(builder) {
        Ok(plan) => plan.interception.map(|i| i.ports),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(ports(builder()), None);
    assert_eq!(ports(with_secret()), Some(vec![443]));
    assert_eq!(ports(builder().network(|n| n.tls(|t| t))), Some(vec![443]));
    assert_eq!(
        ports(with_secret().network(|n| n.tls(|t| t.intercepted_ports([8443])))),
        Some(vec![8443])
    );
}

#[test]
fn the_guest_sees_placeholders_and_never_values() {
    let plan = match Plan::new(with_secret().env("MODE", "test")) {
        Ok(plan) => plan,
        Err(error) => panic!("{error}"),
    };
    let env: Vec<_> = plan.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(env, ["API_KEY=$MSB_API_KEY", "MODE=test"]);
}
