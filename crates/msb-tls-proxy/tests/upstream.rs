//! What is different for some servers: other authorities, no verification, a client certificate.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Bench, HOST, OTHER, PLACEHOLDER, VALUE, secrets};
use msb_secrets::{SecretBuilder, SecretSet};
use msb_testkit::{CertificateKind, Origin, TestRoot};
use msb_tls_proxy::{Config, UpstreamTls, UpstreamTlsBuilder};

/// A proxy that trusts nobody but `root`, and what `rules` say.
fn bench(
    root: &TestRoot,
    secrets: SecretSet,
    rules: impl FnOnce(UpstreamTlsBuilder) -> UpstreamTlsBuilder,
) -> Bench {
    let upstream = UpstreamTls::builder()
        .without_system_roots()
        .ca_pem(root.pem());
    let upstream = rules(upstream).build().unwrap();
    Bench::with(|config: &mut Config| {
        config.upstream = upstream;
        config.secrets = secrets;
    })
}

/// The status, or how the connection ended, of a request with a placeholder.
async fn ask(bench: &Bench, origin: &Origin, host: &str) -> String {
    let mut stream = bench.tls(origin.address(), host).await;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nAuthorization: {PLACEHOLDER}\r\nConnection: close\r\n\r\n"
    );
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    match common::within(stream.read_to_end(&mut answer)).await {
        Ok(_) => String::from_utf8(answer).unwrap(),
        Err(error) => error.kind().to_string(),
    }
}

#[tokio::test]
async fn an_authority_for_one_host_is_trusted_for_that_host_only() {
    let (root, own) = (TestRoot::new(), TestRoot::new());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("own.pem");
    std::fs::write(&file, own.pem()).unwrap();
    let bench = bench(&root, secrets(), |rules| {
        rules.ca_file_for(HOST.parse().unwrap(), &file)
    });
    let names = [HOST, OTHER];
    let owned = Origin::start(own.server(&names, CertificateKind::Good)).await;
    let common = Origin::start(root.server(&names, CertificateKind::Good)).await;
    assert!(ask(&bench, &owned, HOST).await.contains(" 200 "));
    assert!(
        ask(&bench, &common, HOST).await.contains(" 200 "),
        "the others still count"
    );
    let refused = ask(&bench, &owned, OTHER).await;
    assert!(
        refused.contains(" 502 ") && refused.contains("the certificate of"),
        "{refused}"
    );
    assert_eq!(owned.requests().len(), 1);
}

/// SPEC T5: a host whose verification is off gets a secret only if that secret says so.
#[tokio::test]
async fn an_unverified_host_gets_no_secret_unless_the_secret_allows_it() {
    let root = TestRoot::new();
    let origin = Origin::start(root.server(&[HOST], CertificateKind::SelfSigned)).await;
    let off = |rules: UpstreamTlsBuilder| rules.danger_no_verification_for(HOST.parse().unwrap());
    let strict = bench(&root, secrets(), off);
    assert_eq!(ask(&strict, &origin, HOST).await, "connection reset");
    assert!(origin.requests().is_empty());

    let allowing = SecretBuilder::new()
        .env("API_KEY")
        .value(VALUE)
        .allow_host(HOST)
        .allow_unverified_upstream_dangerous(true);
    let allowing = SecretSet::new(vec![allowing.build().unwrap()]).unwrap();
    let bench = bench(&root, allowing, off);
    assert!(ask(&bench, &origin, HOST).await.contains(" 200 "));
    let requests = origin.wait_for(1).await;
    assert_eq!(
        requests[0].only_header("authorization"),
        Some(VALUE.to_owned())
    );
}

#[tokio::test]
async fn verification_is_off_for_the_named_hosts_only() {
    let root = TestRoot::new();
    let origin = Origin::start(root.server(&[HOST, OTHER], CertificateKind::SelfSigned)).await;
    let bench = bench(&root, SecretSet::default(), |rules| {
        rules.danger_no_verification_for(HOST.parse().unwrap())
    });
    assert!(ask(&bench, &origin, HOST).await.contains(" 200 "));
    let refused = ask(&bench, &origin, OTHER).await;
    assert!(refused.contains(" 502 "), "{refused}");
}

#[tokio::test]
async fn a_client_certificate_is_presented_to_its_hosts_only() {
    let root = TestRoot::new();
    let origin = Origin::start(root.server_for_known_clients(&[HOST, OTHER])).await;
    let dir = tempfile::tempdir().unwrap();
    let (chain, key) = root.client_pem("worker");
    let [chain, key] = [("chain", chain), ("key", key)].map(|(name, text)| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    let bench = bench(&root, secrets(), |rules| {
        rules.client_certificate_for(HOST.parse().unwrap(), &chain, &key)
    });
    assert!(ask(&bench, &origin, HOST).await.contains(" 200 "));
    bench.proxy.replace_secrets(SecretSet::default());
    let refused = ask(&bench, &origin, OTHER).await;
    assert!(
        refused.contains(" 502 ") && refused.contains("CertificateRequired"),
        "{refused}"
    );
    assert_eq!(origin.requests().len(), 1);
}
