//! Servers that need something of their own.

use msb_testkit::{CertificateKind, Origin, TestRoot};

use crate::rig::{HOST, OTHER, Rig, check_reset};

#[tokio::test]
async fn a_client_certificate_is_presented_to_the_hosts_it_is_for() {
    let rig = Rig::new();
    let (cert, key) = rig.root.client_pem("worker");
    rig.write("cert.pem", cert);
    rig.write("key.pem", key);
    let origin = Origin::start(rig.root.server_for_known_clients(&[HOST, OTHER])).await;
    let flags = format!("--tls-client-cert-for {HOST}=cert.pem,key.pem");
    let proxy = rig.proxy("connect", origin.address(), &flags).await;
    let answer = proxy.get(HOST).await.unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
}

#[tokio::test]
async fn an_authority_of_ones_own_counts_for_its_hosts_only() {
    let rig = Rig::new();
    let own = TestRoot::new();
    rig.write("own.pem", own.pem());
    let origin = Origin::start(own.server(&[HOST, OTHER], CertificateKind::Good)).await;
    let flags = format!("--tls-upstream-ca-cert-for {HOST}=own.pem");
    let proxy = rig.proxy("connect", origin.address(), &flags).await;
    let answer = proxy.get(HOST).await.unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
    let answer = proxy.get(OTHER).await.unwrap();
    assert!(answer.contains(" 502 "), "{answer}");
}

#[tokio::test]
async fn a_host_that_is_not_verified_gets_no_secret() {
    let rig = Rig::new();
    let origin = Origin::start(rig.root.server(&[HOST], CertificateKind::SelfSigned)).await;
    let flags = format!("--tls-no-verify-upstream-for {HOST}");
    let proxy = rig.proxy("connect", origin.address(), &flags).await;
    check_reset(proxy.get(HOST).await);
    let event = proxy.event("violation").await;
    assert_eq!(
        event["reason"],
        format!("the certificate of {HOST} is not verified")
    );
    assert_eq!(origin.received(), b"");
}

#[tokio::test]
async fn a_bypassed_host_shows_its_own_certificate() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let proxy = rig
        .proxy(
            "connect",
            origin.address(),
            &format!("--tls-bypass {OTHER}"),
        )
        .await;
    let request = format!("CONNECT {OTHER}:443 HTTP/1.1\r\n\r\n");
    let (_, stream) = proxy.ask(request.as_bytes()).await;
    msb_testkit::connect_tls_over(stream, OTHER, &rig.root.der())
        .await
        .unwrap();
    assert_eq!(proxy.event("bypassed").await["host"], OTHER);
}
