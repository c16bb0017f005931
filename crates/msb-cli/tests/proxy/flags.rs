//! What cannot be meant is told in one line, and nothing listens.

use crate::rig::{HOST, OWN_FAILURE, Rig};

#[tokio::test]
async fn bad_flags_are_each_told_in_words_that_help() {
    let rig = Rig::new();
    rig.write("empty", "");
    rig.write("two-lines", "a\nb");
    let (cert, key) = rig.root.client_pem("worker");
    let (_, other) = rig.root.client_pem("worker");
    rig.write("cert.pem", cert);
    rig.write("key.pem", key);
    rig.write("other.pem", other);
    let good =
        format!("--listen 127.0.0.1:0 --mode connect --ca-out ca.pem --secret API_KEY@{HOST}");
    for (flags, expected) in [
        ("", "--listen <IP:PORT>"),
        (
            "--listen 8080 --mode connect --ca-out c",
            "such as 127.0.0.1:8080",
        ),
        (
            "--listen 127.0.0.1:0 --mode other --ca-out c",
            "[possible values: connect, transparent]",
        ),
        ("--listen 127.0.0.1:0 --mode connect", "--ca-out <FILE>"),
        (
            "--listen 0.0.0.0:0 --mode connect --ca-out ca.pem",
            "can be reached from other machines",
        ),
        (
            "--listen 127.0.0.1:0 --mode connect --ca-out missing/ca.pem",
            "--ca-out: cannot write missing/ca.pem",
        ),
        (
            "--listen 127.0.0.1:0 --mode connect --ca-out /",
            "--ca-out: / is a directory",
        ),
        (
            "GOOD --secret NOT_SET@a.test",
            "the secret NOT_SET has no value: export NOT_SET first",
        ),
        (
            "GOOD --secret API=sk-canary@a.test",
            "a value on the command line shows",
        ),
        ("GOOD --secret PATH@a.test", "PATH"),
        (
            "GOOD --net-rule allow@10.0.0.0/33",
            "^^ expected a prefix length from 0 to 32",
        ),
        ("GOOD --net-default maybe", "^^^^^ expected allow or deny"),
        ("GOOD --net publik", "\"publik\" in the network profile"),
        (
            "GOOD --secret-file API_KEY=nope",
            "the file \"nope\" cannot be read",
        ),
        ("GOOD --secret-file API_KEY=empty", "is empty"),
        ("GOOD --secret-file API_KEY=two-lines", "line break"),
        ("GOOD --secret-file OTHER=empty", "no secret of that name"),
        (
            "GOOD --secret-command API_KEY=false",
            "the command \"/bin/sh\" failed: exit status: 1",
        ),
        ("GOOD --secret-inject API_KEY=path", "\"path\" is no place"),
        ("GOOD --secret-placeholder API_KEY=", "placeholder"),
        ("GOOD --secret-passthrough API_KEY=*", "\"*\""),
        (
            "GOOD --on-secret-violation warn",
            "use block, block-and-log or block-and-terminate",
        ),
        ("GOOD --net publik", "publik"),
        ("GOOD --add-host a.test", "write NAME:IP"),
        ("GOOD --add-host a.test:nope", "no IP address"),
        ("GOOD --tls-bypass a.*.b", "a.*.b"),
        ("GOOD --tls-non-http tunnel", "use relay or refuse"),
        ("GOOD --tls-intercept-scope some", "use all or named-hosts"),
        ("GOOD --http-denied drop", "use forbid or reset"),
        (
            "GOOD --http-rule allow",
            "expected allow|deny METHODS HOST/PATH",
        ),
        (
            &format!("GOOD --tls-bypass {HOST}"),
            "that host is bypassed",
        ),
        (
            "GOOD --tls-upstream-ca-cert nope",
            "cannot read the upstream CA file nope",
        ),
        ("GOOD --tls-upstream-ca-cert empty", "no PEM section"),
        (
            "GOOD --tls-upstream-ca-cert-for a.test",
            "write PATTERN=FILE",
        ),
        (
            "GOOD --tls-upstream-ca-cert-for a.test=nope",
            "cannot read the upstream CA file nope",
        ),
        (
            "GOOD --tls-no-verify-upstream-for *",
            "no verification: \"*\"",
        ),
        (
            "GOOD --tls-client-cert-for a.test=cert.pem",
            "write PATTERN=CERT,KEY",
        ),
        ("GOOD --tls-client-cert-for a.test=cert.pem,nope", "nope"),
        (
            "GOOD --tls-client-cert-for a.test=cert.pem,other.pem",
            "is not that of the certificate in cert.pem",
        ),
        (
            "GOOD --body-hold-limit 1XB",
            "such as 65536, 64KiB or 16MiB",
        ),
        ("GOOD --upstream-port 0", "0 is not in 1..=65535"),
        ("GOOD --max-connections 0", "0 is not in 1..=65535"),
        (
            "GOOD --events missing/events",
            "--events: cannot write missing/events",
        ),
    ] {
        let flags = flags.replace("GOOD", &good);
        let (code, said) = rig.finish(&format!("proxy {flags}")).await;
        assert_eq!(code, Some(OWN_FAILURE), "{flags}: {said}");
        assert!(
            said.contains(expected),
            "{flags}: {said}\nexpected: {expected}"
        );
        assert!(!said.contains("canary"), "{flags}: {said}");
        assert!(!rig.path("ca.pem").exists(), "{flags}");
    }
}

#[tokio::test]
async fn an_address_that_others_can_reach_has_to_be_allowed() {
    let rig = Rig::new();
    let mut command =
        rig.msb("proxy --listen 0.0.0.0:0 --allow-remote --mode connect --ca-out ca.pem");
    let mut child = command.spawn().unwrap();
    let stdout = tokio::io::BufReader::new(child.stdout.take().unwrap());
    let mut lines = tokio::io::AsyncBufReadExt::lines(stdout);
    let line = crate::rig::within(lines.next_line())
        .await
        .unwrap()
        .unwrap();
    assert!(line.starts_with("listening on 0.0.0.0:"), "{line}");
}
