//! Which variables a program gets, for what its image and its user have set.

use msb_guest_trust::environment;

use crate::support::{Root, authority, image_bundle, lookup};

const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const CA_FILE: &str = "/run/msb/trust/ca.pem";

fn root() -> Root {
    let root = Root::new();
    root.file(BUNDLE, image_bundle())
        .file("/etc/ssl/certs/Root.pem", image_bundle())
        .link("/etc/ssl/certs/002c0b4f.0", "Root.pem")
        .file("/opt/bundle.pem", image_bundle())
        .file("/opt/extra.pem", authority("Corporate Root").pem());
    root
}

/// What is set for `existing`, without the variables of Deno, which do not depend on the others.
#[track_caller]
fn check(existing: &[(&str, &str)], expected: &[(&str, &str)]) {
    let root = root();
    let report = root.boot_with(&[authority("msb sandbox CA")], existing);
    let set = environment(&report.trusted, &lookup(existing));
    let set: Vec<_> = set
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| !name.starts_with("DENO_"))
        .collect();
    assert_eq!(set, expected);
}

const ALL: &[(&str, &str)] = &[
    ("SSL_CERT_FILE", BUNDLE),
    ("CURL_CA_BUNDLE", BUNDLE),
    ("REQUESTS_CA_BUNDLE", BUNDLE),
    ("PIP_CERT", BUNDLE),
    ("GIT_SSL_CAINFO", BUNDLE),
    ("AWS_CA_BUNDLE", BUNDLE),
    ("CARGO_HTTP_CAINFO", BUNDLE),
    ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", BUNDLE),
    ("NODE_EXTRA_CA_CERTS", CA_FILE),
];

fn all_but(names: &[&str]) -> Vec<(&'static str, &'static str)> {
    ALL.iter()
        .copied()
        .filter(|(name, _)| !names.contains(name))
        .collect()
}

#[test]
fn everything_is_set_where_nothing_was() {
    check(&[], ALL);
    check(&[("PATH", "/bin")], ALL);
}

#[test]
fn what_is_set_keeps_its_value_and_its_reach() {
    check(
        &[("GIT_SSL_CAINFO", "/opt/bundle.pem")],
        &all_but(&["GIT_SSL_CAINFO"]),
    );
    check(
        &[("SSL_CERT_FILE", "/opt/bundle.pem")],
        &all_but(&["SSL_CERT_FILE", "CURL_CA_BUNDLE", "CARGO_HTTP_CAINFO"]),
    );
    check(
        &[("REQUESTS_CA_BUNDLE", "")],
        &all_but(&["REQUESTS_CA_BUNDLE", "PIP_CERT", "AWS_CA_BUNDLE"]),
    );
    check(
        &[("CURL_CA_BUNDLE", "/opt/bundle.pem")],
        &all_but(&["CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT"]),
    );
}

#[test]
fn deno_trusts_the_system_and_the_authority_unless_told_otherwise() {
    let report = root().boot(&[authority("msb sandbox CA")]);
    let deno = |existing: &[(&str, &str)]| {
        let mut set = environment(&report.trusted, &lookup(existing));
        set.retain(|(name, _)| name.starts_with("DENO_"));
        set
    };
    let owned = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        deno(&[]),
        [
            owned("DENO_CERT", CA_FILE),
            owned("DENO_TLS_CA_STORE", "mozilla,system")
        ]
    );
    assert_eq!(
        deno(&[("DENO_CERT", "/x"), ("DENO_TLS_CA_STORE", "mozilla")]),
        []
    );
}

#[test]
fn a_directory_is_named_only_beside_a_bundle_without_the_authority() {
    let mut expected = all_but(&["SSL_CERT_FILE", "CURL_CA_BUNDLE", "CARGO_HTTP_CAINFO"]);
    expected.insert(5, ("SSL_CERT_DIR", "/etc/ssl/certs"));
    check(&[("SSL_CERT_FILE", "/not/there.pem")], &expected);
    expected.remove(5);
    check(
        &[
            ("SSL_CERT_FILE", "/not/there.pem"),
            ("SSL_CERT_DIR", "/mine"),
        ],
        &expected,
    );
}

#[test]
fn a_bundle_that_the_environment_names_gets_the_authority() {
    let root = root();
    let ca = authority("msb sandbox CA");
    let report = root.boot_with(
        std::slice::from_ref(&ca),
        &[("PIP_CERT", "/opt/bundle.pem")],
    );
    assert_eq!(report.failed, []);
    assert_eq!(root.count("/opt/bundle.pem", &ca), 1);
    assert_eq!(root.count(BUNDLE, &ca), 1);
}

#[test]
fn extra_certificates_of_node_are_merged() {
    let ca = authority("msb sandbox CA");
    let value = |root: &Root, existing: &[(&str, &str)]| {
        let report = root.boot_with(std::slice::from_ref(&ca), existing);
        let set = environment(&report.trusted, &lookup(existing));
        set.into_iter()
            .find(|(name, _)| name == "NODE_EXTRA_CA_CERTS")
            .map(|(_, value)| value)
    };

    let root = root();
    let before = root.read("/opt/extra.pem");
    let merged = value(&root, &[("NODE_EXTRA_CA_CERTS", "/opt/extra.pem")]).unwrap();
    assert_eq!(merged, "/run/msb/trust/node-extra-ca-certs.pem");
    assert!(root.read(&merged).starts_with(&before));
    assert_eq!(root.count(&merged, &ca), 1);
    assert_eq!(
        root.read("/opt/extra.pem"),
        before,
        "the user's own file is only read"
    );

    // It holds the authority already.
    assert_eq!(value(&root, &[("NODE_EXTRA_CA_CERTS", BUNDLE)]), None);
    // There is nothing to merge; Node says itself that the file is missing.
    assert_eq!(
        value(&root, &[("NODE_EXTRA_CA_CERTS", "/not/there.pem")]),
        None
    );
    assert_eq!(value(&root, &[("NODE_EXTRA_CA_CERTS", "")]), None);
}

#[test]
fn a_program_with_another_value_than_at_boot_keeps_it() {
    let root = root();
    let report = root.boot_with(
        &[authority("msb sandbox CA")],
        &[("NODE_EXTRA_CA_CERTS", "/opt/extra.pem")],
    );
    let set = environment(
        &report.trusted,
        &lookup(&[("NODE_EXTRA_CA_CERTS", "/else.pem")]),
    );
    assert!(set.iter().all(|(name, _)| name != "NODE_EXTRA_CA_CERTS"));
}

#[test]
fn nothing_is_set_without_an_authority() {
    let report = root().boot(&[]);
    assert_eq!(environment(&report.trusted, &lookup(&[])), []);
}
