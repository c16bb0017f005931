//! Who gets a secret, who gets nothing, and what the guest sees of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::ErrorKind;

use common::{
    Bench, HOST, OTHER, PINNED, PLACEHOLDER, VALUE, broken, handshake, presented, within,
};
use msb_secrets::{Form, ViolationAction};
use msb_testkit::{CertificateKind, Origin, exchange};
use msb_tls_proxy::Event;

fn get(host: &str, header: &str) -> String {
    format!("GET /v1?q=1 HTTP/1.1\r\nHost: {host}\r\n{header}Connection: close\r\n\r\n")
}

fn bearer() -> String {
    format!("Authorization: Bearer {PLACEHOLDER}\r\n")
}

#[tokio::test]
async fn an_allowed_host_receives_the_value() {
    let bench = Bench::new();
    let origin = Origin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    let answer = bench
        .exchange(origin.address(), HOST, &get(HOST, &bearer()))
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("hello\n"), "{answer}");
    let request = &origin.requests()[0];
    assert_eq!(
        request.only_header("authorization").unwrap(),
        format!("Bearer {VALUE}")
    );
    assert_eq!(request.target, "/v1?q=1");

    let events = bench.events();
    assert!(matches!(&events[0], Event::Intercepted { host, .. } if host.to_string() == HOST));
    assert!(
        matches!(&events[1], Event::Substituted { secret, form: Form::Raw, location, .. }
        if secret == "API_KEY" && location.to_string() == "header authorization")
    );
    assert!(
        matches!(&events[2], Event::Request { method, path, status: 200, .. }
        if method == "GET" && path == "/v1")
    );
    assert!(!format!("{events:?}").contains(VALUE));
}

#[tokio::test]
async fn basic_credentials_are_rewritten_inside() {
    let bench = Bench::new();
    let origin = Origin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    // `user:$MSB_API_KEY`
    let header = "Authorization: Basic dXNlcjokTVNCX0FQSV9LRVk=\r\n";
    bench
        .exchange(origin.address(), HOST, &get(HOST, header))
        .await;
    let received = origin.requests()[0].only_header("authorization").unwrap();
    // `user:sk-real-value-of-the-key`
    assert_eq!(received, "Basic dXNlcjpzay1yZWFsLXZhbHVlLW9mLXRoZS1rZXk=");
}

#[tokio::test]
async fn the_guest_sees_a_leaf_of_its_sandbox() {
    let bench = Bench::new();
    let origin = Origin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    // Trusting only the sandbox's CA, the handshake would fail with any other certificate.
    let stream = bench.tls(origin.address(), HOST).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[track_caller]
fn check_violation(bench: &Bench, expected: &str) {
    let found: Vec<_> = bench
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Violation { violation, .. } => Some(violation.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains(expected), "{found:?}");
}

/// Sends `request` for `name` and expects a reset, and that the origin received nothing.
async fn check_reset(bench: &Bench, name: &str, request: &str, expected: &str) {
    let origin = Origin::start(bench.root.server(&[name], CertificateKind::Good)).await;
    let mut stream = bench.tls(origin.address(), name).await;
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes())
        .await
        .unwrap();
    assert_eq!(broken(&mut stream).await, ErrorKind::ConnectionReset);
    assert_eq!(origin.received(), b"", "{request}");
    check_violation(bench, expected);
}

#[tokio::test]
async fn another_host_is_reset_and_receives_nothing() {
    let in_header = get(OTHER, &bearer());
    check_reset(&Bench::new(), OTHER, &in_header, "header authorization").await;
    let in_query = format!("GET /?key={PLACEHOLDER} HTTP/1.1\r\nHost: {OTHER}\r\n\r\n");
    check_reset(&Bench::new(), OTHER, &in_query, "query").await;
    let encoded = format!("GET /%24MSB_API_KEY HTTP/1.1\r\nHost: {OTHER}\r\n\r\n");
    check_reset(&Bench::new(), OTHER, &encoded, "path").await;
}

#[tokio::test]
async fn a_placeholder_beside_another_authority_is_a_violation() {
    let request = get(OTHER, &bearer());
    check_reset(
        &Bench::new(),
        HOST,
        &request,
        "the request is for other.example.test",
    )
    .await;
}

#[tokio::test]
async fn the_action_is_passed_on_with_the_violation() {
    for action in [
        ViolationAction::Block,
        ViolationAction::BlockAndLog,
        ViolationAction::BlockAndTerminate,
    ] {
        let bench = Bench::with(|config| config.on_violation = action);
        check_reset(&bench, OTHER, &get(OTHER, &bearer()), "API_KEY").await;
        let told = bench.event(|event| match event {
            Event::Violation {
                action,
                method,
                path,
                ..
            } => Some((*action, method.clone(), path.clone())),
            _ => None,
        });
        let expected = (action, Some("GET".to_owned()), Some("/v1".to_owned()));
        assert_eq!(told.await, expected);
    }
}

#[tokio::test]
async fn a_path_with_a_placeholder_is_not_told() {
    let bench = Bench::new();
    let request = format!("GET /{PLACEHOLDER} HTTP/1.1\r\nHost: {OTHER}\r\n\r\n");
    check_reset(&bench, OTHER, &request, "path").await;
    let told = bench.event(|event| match event {
        Event::Violation { path, .. } => Some(path.clone()),
        _ => None,
    });
    assert_eq!(told.await, None);
}

#[tokio::test]
async fn an_address_that_dns_did_not_give_gets_no_secret() {
    let bench = Bench::new();
    let origin = Origin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    let stream = bench.connect(origin.address()).await;
    let ca = bench.proxy.ca().cert_der().clone();
    let mut stream = handshake(stream, HOST, &ca).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, get(HOST, &bearer()).as_bytes())
        .await
        .unwrap();
    assert_eq!(broken(&mut stream).await, ErrorKind::ConnectionReset);
    assert_eq!(origin.received(), b"");
    check_violation(&bench, "was not resolved from api.example.test");
}

/// Attack 1 on HTTP/1.1: SNI is always the allowed host.
#[tokio::test]
async fn requests_for_another_authority_are_answered_421_or_400() {
    let bench = Bench::new();
    let origin = Origin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    let at = origin.address();
    let check = async |head: &str, status: &str| {
        let request = format!("{head}Connection: close\r\n\r\n");
        let answer = bench.exchange(at, HOST, &request).await;
        assert!(answer.get(9..12) == Some(status), "{head:?}: {answer}");
    };
    for host in [
        OTHER,
        "www.api.example.test",
        "example.test",
        "127.0.0.1",
        "[::1]",
    ] {
        check(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n"), "421").await;
    }
    for host in [
        "",
        "user@api.example.test",
        "api.example.test,other.example.test",
        "api.example.test:",
        "api.example.test:99999",
        "api.example.test/",
        "api .example.test",
        "api.example.test\u{a0}",
    ] {
        check(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n"), "400").await;
    }
    check("GET / HTTP/1.1\r\n", "400").await;
    check("GET / HTTP/1.0\r\n", "400").await;
    check(
        &format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nHost: {OTHER}\r\n"),
        "400",
    )
    .await;
    check(
        &format!("GET https://{OTHER}/ HTTP/1.1\r\nHost: {HOST}\r\n"),
        "400",
    )
    .await;
    check(
        &format!("GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n"),
        "400",
    )
    .await;
    check(
        &format!("GET https://{OTHER}/ HTTP/1.1\r\nHost: {OTHER}\r\n"),
        "421",
    )
    .await;
    assert_eq!(origin.received(), b"");

    for host in [
        "API.Example.TEST",
        "api.example.test.",
        "api.example.test:443",
    ] {
        check(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n"), "200").await;
    }
    check(
        &format!("GET https://{HOST}/x HTTP/1.1\r\nHost: {HOST}\r\n"),
        "200",
    )
    .await;
    assert_eq!(origin.requests().last().unwrap().target, "/x");
}

#[tokio::test]
async fn a_bypassed_host_shows_its_own_certificate() {
    let bench = Bench::new();
    let config = bench.root.server(&[PINNED], CertificateKind::Good);
    let origin = Origin::start(config).await;
    let stream = bench.connect(origin.address()).await;
    let mut stream = handshake(stream, PINNED, &bench.root.der()).await.unwrap();
    let answer = within(exchange(&mut stream, get(PINNED, &bearer()).as_bytes())).await;
    assert!(answer.ends_with(b"hello\n"));
    // Opaque, so the placeholder arrives as it is.
    assert_eq!(
        origin.requests()[0].only_header("authorization").unwrap(),
        format!("Bearer {PLACEHOLDER}")
    );
    assert!(
        matches!(&bench.events()[..], [Event::Bypassed { host, .. }] if host.as_str() == PINNED)
    );
}

#[tokio::test]
async fn two_names_get_two_leaves() {
    let bench = Bench::new();
    let origin = Origin::start(bench.root.server(&[HOST, OTHER], CertificateKind::Good)).await;
    let first = presented(&bench.tls(origin.address(), HOST).await);
    let second = presented(&bench.tls(origin.address(), OTHER).await);
    let again = presented(&bench.tls(origin.address(), HOST).await);
    assert_ne!(first, second);
    assert_eq!(first, again);
}

#[tokio::test]
async fn replaced_secrets_hold_from_the_next_request_on() {
    let bench = Bench::new();
    let origin = Origin::start(bench.root.server(&[HOST], CertificateKind::Good)).await;
    let mut stream = bench.tls(origin.address(), HOST).await;
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n", bearer());
    for value in [VALUE, "rotated"] {
        bench
            .proxy
            .replace_secrets(common::secrets_with_value(value));
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes())
            .await
            .unwrap();
        common::read_until(&mut stream, "hello\n").await;
        let last = origin.requests().pop().unwrap();
        assert_eq!(
            last.only_header("authorization").unwrap(),
            format!("Bearer {value}")
        );
    }
}
