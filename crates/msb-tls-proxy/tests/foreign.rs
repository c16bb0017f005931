//! Clients that nobody here wrote: curl and the openssl command.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::process::{Output, Stdio};
use std::sync::Arc;

use common::{Bench, HOST, OTHER, PINNED, PLACEHOLDER, VALUE, within};
use msb_testkit::{CertificateKind, Origin};
use msb_tls_proxy::Event;
use tokio::net::TcpListener;
use tokio::process::Command;

/// A listener whose connections the proxy serves, and the origin behind it.
async fn listening(bench: &Arc<Bench>) -> (String, Origin) {
    listening_for(bench, &[b"http/1.1"]).await
}

/// As [`listening`], with an origin that speaks `protocols`.
async fn listening_for(bench: &Arc<Bench>, protocols: &[&[u8]]) -> (String, Origin) {
    let names = [HOST, OTHER, PINNED];
    let config = bench.root.server(&names, CertificateKind::Good);
    let origin = Origin::start(common::h2::speaking(&config, protocols)).await;
    for name in names {
        bench.pin(name, origin.address());
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let (bench, address) = (Arc::clone(bench), origin.address());
    tokio::spawn(async move {
        while let Ok((guest, _)) = listener.accept().await {
            bench.serve(guest, address).await;
        }
    });
    (port, origin)
}

/// Runs a command to its end, or says that it is skipped where the program is not installed.
async fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match within(child).await {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped: {program} does not run here: {error}");
            None
        }
    }
}

/// Runs curl on `https://host:port/` with a bearer placeholder, trusting the CA in `ca_pem`.
async fn curl(port: &str, host: &str, ca_pem: &str) -> Option<Output> {
    curl_with(port, host, ca_pem, &[]).await
}

/// As [`curl`], with more arguments.
async fn curl_with(port: &str, host: &str, ca_pem: &str, more: &[&str]) -> Option<Output> {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, ca_pem).unwrap();
    let (resolve, url) = (
        format!("{host}:{port}:127.0.0.1"),
        format!("https://{host}:{port}/v1"),
    );
    let header = format!("Authorization: Bearer {PLACEHOLDER}");
    let arguments = [
        "--silent",
        "--show-error",
        "--include",
        "--noproxy",
        "*",
        "--max-time",
        "15",
        "--cacert",
        ca.to_str().unwrap(),
        "--resolve",
        &resolve,
        "--header",
        &header,
        &url,
    ];
    run("curl", &[&arguments, more].concat()).await
}

#[tokio::test]
async fn curl_gets_its_answer_and_the_origin_the_value() {
    let bench = Arc::new(Bench::new());
    let (port, origin) = listening(&bench).await;
    let Some(output) = curl(&port, HOST, &bench.proxy.ca().cert_pem()).await else {
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.ends_with("hello\n"),
        "{output:?}"
    );
    let authorization = origin.requests()[0].only_header("authorization");
    assert_eq!(authorization.unwrap(), format!("Bearer {VALUE}"));
}

#[tokio::test]
async fn curl_speaks_http2_where_the_server_does() {
    let bench = Arc::new(Bench::new());
    for (protocols, expected) in [
        (&[&b"h2"[..], b"http/1.1"][..], "HTTP/2 200"),
        (&[b"http/1.1"], "HTTP/1.1 200"),
    ] {
        let (port, origin) = listening_for(&bench, protocols).await;
        let ca = bench.proxy.ca().cert_pem();
        let more = ["--data", &format!("a body of {PLACEHOLDER}")];
        let Some(output) = curl_with(&port, HOST, &ca, &more).await else {
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.starts_with(expected), "{output:?}");
        assert!(text.ends_with("hello\n"), "{output:?}");
        let request = &origin.requests()[0];
        let authorization = request.only_header("authorization");
        assert_eq!(authorization.unwrap(), format!("Bearer {VALUE}"));
        assert_eq!(request.body, more[1].as_bytes());
    }
}

#[tokio::test]
async fn curl_is_reset_at_another_host() {
    for protocol in [&b"h2"[..], b"http/1.1"] {
        let bench = Arc::new(Bench::new());
        let (port, origin) = listening_for(&bench, &[protocol]).await;
        let Some(output) = curl(&port, OTHER, &bench.proxy.ca().cert_pem()).await else {
            return;
        };
        // CURLE_RECV_ERROR, or CURLE_SEND_ERROR where the reset comes early.
        assert!(matches!(output.status.code(), Some(55 | 56)), "{output:?}");
        assert!(origin.requests().is_empty());
    }
}

#[tokio::test]
async fn curl_sees_a_bypassed_hosts_own_certificate() {
    let bench = Arc::new(Bench::new());
    let (port, _origin) = listening(&bench).await;
    let Some(output) = curl(&port, PINNED, &bench.root.pem()).await else {
        return;
    };
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn a_curl_that_does_not_trust_the_ca_is_told_of() {
    let bench = Arc::new(Bench::new());
    let (port, _origin) = listening(&bench).await;
    let Some(output) = curl(&port, HOST, &bench.root.pem()).await else {
        return;
    };
    assert_eq!(output.status.code(), Some(60), "{output:?}");
    bench
        .event(|event| matches!(event, Event::GuestRejectedLeaf { .. }).then_some(()))
        .await;
}

/// curl compares the key after the handshake, and hangs up without an alert.
#[tokio::test]
async fn a_curl_that_pins_a_key_is_told_of() {
    let bench = Arc::new(Bench::new());
    let (port, _origin) = listening(&bench).await;
    let ca = bench.proxy.ca().cert_pem();
    let pin = "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for _ in 0..3 {
        let Some(output) = curl_with(&port, HOST, &ca, &["--pinnedpubkey", pin]).await else {
            return;
        };
        // CURLE_SSL_PINNEDPUBKEYNOTMATCH
        assert_eq!(output.status.code(), Some(90), "{output:?}");
    }
    bench
        .event(|event| matches!(event, Event::GuestHungUp { .. }).then_some(()))
        .await;
}

#[tokio::test]
async fn openssl_verifies_the_leaf_on_tls_1_2_and_1_3() {
    let bench = Arc::new(Bench::new());
    let (port, _origin) = listening(&bench).await;
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, bench.proxy.ca().cert_pem()).unwrap();
    let (ca, connect) = (ca.to_str().unwrap(), format!("127.0.0.1:{port}"));
    for version in ["-tls1_2", "-tls1_3"] {
        let arguments = [
            "s_client",
            "-brief",
            "-connect",
            &connect,
            "-servername",
            HOST,
            "-verify_hostname",
            HOST,
            "-verify_return_error",
            "-CAfile",
            ca,
            "-alpn",
            "http/1.1",
            version,
        ];
        let Some(output) = run("openssl", &arguments).await else {
            return;
        };
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(text.contains("Verification: OK"), "{version}: {text}");
    }
}
