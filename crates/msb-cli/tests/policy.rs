//! `msb policy` as a user runs it: exit codes and what is said.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

#[track_caller]
fn check(words: &[&str], code: i32, expected: &str) {
    let msb = Command::new(env!("CARGO_BIN_EXE_msb")).args(words).output();
    let msb = msb.unwrap();
    let said = [msb.stdout, msb.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert_eq!(msb.status.code(), Some(code), "{words:?}: {said}");
    assert!(
        said.contains(expected),
        "{words:?}: {said}\nexpected: {expected}"
    );
}

#[test]
fn the_exit_code_is_the_answer() {
    let why = ["policy", "why"];
    let with = |more: &[&'static str]| [&why[..], more].concat();
    check(
        &with(&["tcp://1.2.3.4:443"]),
        0,
        "allowed\nrule: rule 1 (allow@public)\n",
    );
    check(&with(&["tcp://10.0.0.1:22"]), 1, "denied\nrule: default\n");
    check(&with(&["dns:example.com"]), 0, "allowed\n");
    check(&with(&["gopher://a.test"]), 2, "\"gopher\" is not known");
    check(&with(&[]), 2, "<QUESTION>");
    check(&with(&["--net", "publik", "dns:a.test"]), 2, "publik");
    check(
        &with(&["--net-rule", "allow@10.0.0.0/33", "dns:a.test"]),
        2,
        "    allow@10.0.0.0/33\n                   ^^ expected a prefix length from 0 to 32",
    );
    check(
        &["--log", "info", "policy", "why", "--nonsense"],
        2,
        "--nonsense",
    );
    check(&["policy", "check"], 0, "   1  allow@public\n");
    check(
        &[
            "policy",
            "check",
            "--net-rule",
            "allow@any",
            "--net-rule",
            "deny@private",
        ],
        1,
        "warning: network rule 2 (deny@private) never counts",
    );
    check(&["policy", "why", "--help"], 0, "Explain one decision");
}
