//! What the builder accepts and what it says of the rest; and what a set adds.

use super::*;
use crate::SecretSet;

const CANARY: &str = "canary-value-7f3a";

fn good() -> SecretBuilder {
    SecretBuilder::new()
        .env("KEY")
        .value(CANARY)
        .allow_host("a.test")
}

#[track_caller]
fn refused(builder: SecretBuilder, expected: &str) {
    let error = builder.build().unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains(expected), "{text}, expected {expected}");
    assert!(!text.contains(CANARY), "{text}");
    assert!(
        matches!(error, Error::MissingEnv) || text.contains("KEY"),
        "{text} names the secret"
    );
}

#[test]
fn the_defaults_are_those_of_the_documents() {
    let secret = good().build().unwrap();
    assert_eq!((secret.env(), secret.placeholder()), ("KEY", "$MSB_KEY"));
    assert!(secret.scopes.headers && secret.scopes.basic_auth);
    assert!(secret.scope().allows(&"a.test".parse().unwrap()));
    assert!(!secret.scope().allows(&"b.test".parse().unwrap()));
    let explicit = good()
        .inject_headers(true)
        .inject_basic_auth(true)
        .inject_query(false)
        .inject_body(false)
        .require_tls_identity(true);
    assert!(explicit.build().is_ok_and(|secret| secret.scopes.headers
        && !secret.injects_query()
        && !secret.injects_body()));
}

#[test]
fn hosts_add_up_and_owned_strings_do_too() {
    let secret = good()
        .allow_host(String::from("B.test."))
        .allow_host_pattern("*.c.test")
        .build()
        .unwrap();
    for (host, expected) in [
        ("a.test", true),
        ("b.test", true),
        ("x.y.c.test", true),
        ("c.test", false),
        ("d.test", false),
    ] {
        assert_eq!(
            secret.scope().allows(&host.parse().unwrap()),
            expected,
            "{host}"
        );
    }
}

#[test]
fn missing_parts_are_named() {
    refused(
        SecretBuilder::new().value(CANARY).allow_host("a.test"),
        "env(\"NAME\")",
    );
    refused(
        SecretBuilder::new()
            .env("")
            .value(CANARY)
            .allow_host("a.test"),
        "env(\"NAME\")",
    );
    refused(
        SecretBuilder::new().env("KEY").allow_host("a.test"),
        "has no value",
    );
    refused(good().value(""), "has no value");
    refused(
        SecretBuilder::new().env("KEY").value(CANARY),
        "allowed for no host",
    );
}

#[test]
fn bad_parts_are_named() {
    refused(good().env("KEY=1"), "`=`");
    refused(good().env("KEY\0"), "NUL");
    refused(good().env("LD_KEY"), "dynamic loader");
    refused(good().allow_host("*.a.test"), "allow_host_pattern");
    refused(good().allow_host("a b"), "expected letters, digits");
    refused(good().allow_host_pattern("*"), "allow_any_host_dangerous");
    refused(good().allow_host_pattern("*.com"), "public suffix");
    refused(good().allow_host_pattern("a.*"), "whole first label");
    for end in ["\r", "\n", "\0", "\u{1b}", "\u{7f}"] {
        refused(
            good().value(format!("{CANARY}{end}")),
            "cannot stand in a header",
        );
        for one in [
            good().inject_headers(false),
            good().inject_basic_auth(false),
        ] {
            refused(
                one.value(format!("{CANARY}{end}")),
                "cannot stand in a header",
            );
        }
    }
}

#[test]
fn placeholders_are_checked() {
    refused(good().placeholder(""), "is empty");
    refused(good().placeholder("x".repeat(1025)), "longer than 1024");
    refused(good().placeholder("a\nb"), "line break");
    refused(good().placeholder("a\rb"), "line break");
    refused(good().placeholder("a\0b"), "NUL");
    for fine in ["x", "sk-proj-0000", "{{ key }}", "%KEY%", "schlüssel"] {
        assert_eq!(
            good().placeholder(fine).build().unwrap().placeholder(),
            fine
        );
    }
    assert!(
        good()
            .placeholder("x".repeat(1024))
            .build()
            .is_ok_and(|secret| secret.placeholder.len() == 1024)
    );
}

#[test]
fn any_host_takes_effect_only_with_true() {
    let nowhere = || SecretBuilder::new().env("KEY").value(CANARY);
    refused(
        nowhere().allow_any_host_dangerous(false),
        "allowed for no host",
    );
    assert!(
        nowhere()
            .allow_any_host_dangerous(true)
            .build()
            .unwrap()
            .scope()
            .is_any()
    );
    assert!(
        nowhere()
            .allow_any_host_dangerous(true)
            .allow_any_host_dangerous(false)
            .build()
            .unwrap()
            .scope()
            .is_any()
    );
    assert!(
        !good()
            .allow_any_host_dangerous(false)
            .build()
            .unwrap()
            .scope()
            .is_any()
    );
}

#[test]
fn tls_is_required_unless_it_is_said_otherwise() {
    assert!(good().build().unwrap().requires_tls_identity());
    let plaintext = good().require_tls_identity(false).build().unwrap();
    assert!(!plaintext.requires_tls_identity() && plaintext.scope().allows_plaintext());
}

#[test]
fn hosts_that_may_see_the_placeholder_are_checked_like_the_others() {
    let secret = good()
        .passthrough_host("LLM.test")
        .passthrough_host_pattern("*.llm.test")
        .build()
        .unwrap();
    for (host, expected) in [("llm.test", true), ("x.llm.test", true), ("a.test", false)] {
        let host = host.parse().unwrap();
        assert_eq!(secret.passthrough().matches(&host), expected, "{host}");
        assert_eq!(secret.scope().allows(&host), !expected, "{host}");
    }
    refused(good().passthrough_host("*.llm.test"), "allow_host_pattern");
    refused(good().passthrough_host_pattern("*"), "every host");
    let none = SecretBuilder::new().env("KEY").value(CANARY);
    refused(none.passthrough_host("a.test"), "allowed for no host");
}

#[test]
fn the_last_word_about_the_placeholder_counts() {
    let value = "ghp_0123456789abcdefghijAB";
    let placeholder = |builder: SecretBuilder| {
        let secret = builder.value(value).build().unwrap();
        secret.placeholder().to_owned()
    };
    let alike = placeholder(good().placeholder("own").placeholder_like_value());
    assert!(alike.starts_with("ghp_") && alike.len() == value.len() && alike != value);
    let own = placeholder(good().placeholder_like_value().placeholder("own"));
    assert_eq!(own, "own");
    refused(
        good().value("short").placeholder_like_value(),
        "\"KEY\": for placeholder_like_value its value is too short",
    );
    let long = "x".repeat(MAX_PLACEHOLDER_LEN + 1);
    refused(
        good().value(long).placeholder_like_value(),
        "longer than 1024",
    );
}

#[test]
fn a_secret_that_is_injected_nowhere_is_refused() {
    refused(
        good().inject_headers(false).inject_basic_auth(false),
        "injected nowhere",
    );
}

#[test]
fn query_or_body_alone_are_enough_and_take_values_that_no_header_could() {
    let elsewhere = || good().inject_headers(false).inject_basic_auth(false);
    let query = elsewhere()
        .inject_query(true)
        .value("a\nb")
        .build()
        .unwrap();
    assert!(query.injects_query() && !query.injects_body());
    let body = elsewhere().inject_body(true).value("a\nb").build().unwrap();
    assert!(body.injects_body() && !body.injects_query());
    refused(
        good().inject_body(true).value(format!("{CANARY}\n")),
        "cannot stand in a header",
    );
}

#[track_caller]
fn set_refused(builders: [SecretBuilder; 2], expected: &str) {
    let error = SecretSet::new(builders.map(|builder| builder.build().unwrap()).into())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(expected) && !error.contains(CANARY),
        "{error}"
    );
}

#[test]
fn secrets_of_one_set_are_told_apart() {
    set_refused(
        [good(), good().placeholder("other")],
        "\"KEY\" is defined twice",
    );
    set_refused(
        [good(), good().env("KEY2").placeholder("$MSB_KEY")],
        "\"KEY\" and \"KEY2\" have the same placeholder",
    );
    set_refused(
        [
            good(),
            good().env("KEY2").placeholder(format!("<{CANARY}>")),
        ],
        "contains the value of secret \"KEY\"",
    );
}

#[test]
fn a_set_lists_the_guests_environment() {
    let set = SecretSet::new(vec![
        good().build().unwrap(),
        good().env("B").placeholder("pb").build().unwrap(),
    ])
    .unwrap();
    assert_eq!(
        set.env().collect::<Vec<_>>(),
        [("KEY", "$MSB_KEY"), ("B", "pb")]
    );
    assert!(!set.is_empty());
    assert!(SecretSet::default().is_empty());
    assert!(SecretSet::new(Vec::new()).unwrap().is_empty());
}
