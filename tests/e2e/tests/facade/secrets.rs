//! Where a secret goes, and where it does not.

use std::time::Duration;

use msb::tls_proxy::Event as Tls;
use msb::{Event, HostAddress, ViolationAction};
use msb_e2e::{API, Guest, OTHER, Origins, PINNED, certificates, is_signed_by, on_guests};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const VALUE: &str = "sk-canary-3f9a1c77e0b2";
const BASIC: &str = "basic-canary-5d10";
const PLAIN: &str = "plain-canary-77ab01";
const PLAIN_HOST: &str = "plain.example.test";

#[test]
fn a_secret_reaches_the_host_it_is_for_and_nothing_else() {
    on_guests(async {
        let origins = Origins::start(0).await;
        let guest = Guest::boot("worker", |builder| {
            builder
                .secret(|s| {
                    s.env("API_KEY")
                        .value(VALUE)
                        .allow_host(API)
                        .inject_query(true)
                        .inject_body(true)
                })
                .secret_env("PASSWORD", BASIC, API)
                .secret(|s| {
                    s.env("PLAIN_KEY")
                        .value(PLAIN)
                        .allow_host(PLAIN_HOST)
                        .require_tls_identity(false)
                })
                .network(|n| {
                    origins
                        .network(n)
                        .add_host(PLAIN_HOST, HostAddress::HostGateway)
                        .on_secret_violation(ViolationAction::BlockAndLog)
                })
        })
        .await;
        // First, while the guest has not asked for any name.
        an_address_of_the_guests_choice_gets_no_secret(&guest, &origins).await;
        plaintext_gets_the_secret_that_says_so(&guest).await;
        the_guest_holds_placeholders_alone(&guest).await;
        an_allowed_host_gets_the_value(&guest, &origins).await;
        a_value_in_query_and_body_comes_back_as_the_placeholder(&guest, &origins).await;
        clients_other_than_curl_trust_the_authority(&guest, &origins).await;
        another_host_is_reset_and_receives_nothing(&guest, &origins).await;
        another_authority_in_the_request_is_misdirected(&guest, &origins).await;
        a_bypassed_host_shows_its_own_certificate(&guest, &origins).await;
        let events = format!("{:?}", guest.events());
        assert!(events.contains("Substituted"), "{events}");
        for value in [VALUE, BASIC, PLAIN] {
            assert!(!events.contains(value), "an event holds a value");
        }
        guest.stop().await;
    });
}

async fn an_address_of_the_guests_choice_gets_no_secret(guest: &Guest, origins: &Origins) {
    let port = origins.port(API);
    let gateway = msb::net::Addresses::default();
    for address in [
        gateway.gateway_v4.to_string(),
        format!("[{}]", gateway.gateway_v6),
    ] {
        let line = format!(
            "curl -sS --resolve {API}:{port}:{address} {}/v1 -H \"Authorization: Bearer $API_KEY\"",
            origins.url(API)
        );
        let claim = "a connection whose address DNS did not give gets no secret";
        guest.sh(&line).await.check(claim, 56, "", "reset");
    }
    assert!(origins.api.received().is_empty());
}

async fn the_guest_holds_placeholders_alone(guest: &Guest) {
    let claim = "the environment holds the placeholder";
    guest.sh("echo \"$API_KEY $PASSWORD\"").await.check(
        claim,
        0,
        "$MSB_API_KEY $MSB_PASSWORD\n",
        "",
    );
    let all = guest
        .sh("cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/cmdline | tr '\\0' '\\n'; dmesg; env; set")
        .await;
    all.check("what processes hold", 0, "API_KEY=$MSB_API_KEY", "");
    for value in [VALUE, BASIC] {
        assert!(!all.stdout.contains(value), "the guest holds a value");
    }
    let grep = format!("grep -rlsI -e {VALUE} -e {BASIC} /etc /run /tmp /root /var");
    let found = guest.sh(&grep).await;
    assert_eq!(found.stdout, "", "files of the guest that hold a value");
}

async fn plaintext_gets_the_secret_that_says_so(guest: &Guest) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let received = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut head).await.expect("a request") > 0);
        }
        let head = String::from_utf8(head).expect("text");
        let len = head.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\n\r\n{head}"
        );
        stream.write_all(answer.as_bytes()).await.expect("answered");
        head
    });
    let url = format!("http://{PLAIN_HOST}:{port}/");
    let ran = guest
        .sh(&format!("curl -sS {url} -H \"X-Key: $PLAIN_KEY\""))
        .await;
    assert!(
        ran.stdout.contains("X-Key: $MSB_PLAIN_KEY\r\n"),
        "{}",
        ran.stdout
    );
    let head = received.await.expect("a request");
    assert!(head.contains(&format!("X-Key: {PLAIN}\r\n")), "{head}");
}

async fn an_allowed_host_gets_the_value(guest: &Guest, origins: &Origins) {
    let url = origins.url(API);
    let before = origins.api.requests().len();
    for (claim, options, header, expected) in [
        (
            "bearer",
            "-H \"Authorization: Bearer $API_KEY\"".to_owned(),
            "authorization",
            format!("Bearer {VALUE}"),
        ),
        (
            "any header, over IPv6",
            "-6 -H \"X-Key: a $API_KEY b\"".to_owned(),
            "x-key",
            format!("a {VALUE} b"),
        ),
        (
            "basic",
            "-u \"user:$PASSWORD\"".to_owned(),
            "authorization",
            "Basic dXNlcjpiYXNpYy1jYW5hcnktNWQxMA==".to_owned(),
        ),
    ] {
        let line = format!("curl -sS -w '%{{certs}}' {options} {url}/v1");
        let ran = guest.sh(&line).await;
        ran.check(claim, 0, &format!("hello from {API}\n"), "");
        let requests = origins.api.requests();
        let last = requests.last().expect("a request");
        assert_eq!(last.only_header(header), Some(expected), "{claim}");
        let ca = certificates(guest.sandbox.ca_certificate().expect("an authority"));
        let issued = is_signed_by(&certificates(&ran.stdout), &ca[0], API);
        assert_eq!(issued, Ok(()), "the issuer curl saw is this sandbox's CA");
    }
    assert_eq!(origins.api.requests().len(), before + 3);
}

/// The system's bundle, the variables of SPEC G2, and OpenSSL's hashed directory.
async fn clients_other_than_curl_trust_the_authority(guest: &Guest, origins: &Origins) {
    let url = origins.url(API);
    let python = format!(
        "python3 -c \"
import os, urllib.request
r = urllib.request.Request('{url}/py', headers={{'Authorization': 'Bearer ' + os.environ['API_KEY']}})
print(urllib.request.urlopen(r, timeout=20).read().decode())\""
    );
    let port = origins.port(API);
    let openssl = |options: &str| {
        format!(
            "openssl s_client -connect {API}:{port} -servername {API} -verify_return_error {options} < /dev/null 2>&1"
        )
    };
    let bundle = "/etc/ssl/certs/ca-certificates.crt";
    for (claim, line, expected) in [
        ("python", python, format!("hello from {API}")),
        (
            "curl without the variables",
            format!("env -i curl -sS {url}/plain"),
            format!("hello from {API}"),
        ),
        (
            "openssl with the bundle",
            openssl(&format!("-no-CApath -no-CAstore -CAfile {bundle}")),
            "Verify return code: 0 (ok)".into(),
        ),
        (
            "openssl with the hashed directory",
            openssl("-no-CAfile -no-CAstore -CApath /etc/ssl/certs"),
            "Verify return code: 0 (ok)".into(),
        ),
    ] {
        guest.sh(&line).await.check(claim, 0, &expected, "");
    }
    let last = origins.api.requests();
    let python = last.iter().find(|request| request.target == "/py");
    let authorization = python.and_then(|request| request.only_header("authorization"));
    assert_eq!(authorization, Some(format!("Bearer {VALUE}")));
    let line = "for name in SSL_CERT_FILE CURL_CA_BUNDLE REQUESTS_CA_BUNDLE PIP_CERT NODE_EXTRA_CA_CERTS \
        GIT_SSL_CAINFO AWS_CA_BUNDLE CARGO_HTTP_CAINFO DENO_CERT GRPC_DEFAULT_SSL_ROOTS_FILE_PATH; do
            eval file=\\$$name; grep -q BEGIN \"$file\" || echo $name; done";
    let wrong = guest.sh(line).await;
    assert_eq!(wrong.stdout, "", "variables that name no bundle: {wrong:?}");
}

async fn a_value_in_query_and_body_comes_back_as_the_placeholder(guest: &Guest, origins: &Origins) {
    let line = format!(
        "curl -sS --compressed \"{}/echo?key=$API_KEY\" -H 'Content-Type: application/json' --data \"{{\\\"key\\\":\\\"$API_KEY\\\"}}\"",
        origins.url(API)
    );
    let claim = "an echo gives the placeholder back";
    let expected = "{\"key\":\"$MSB_API_KEY\"}";
    guest.sh(&line).await.check(claim, 0, expected, "");
    let requests = origins.api.requests();
    let request = requests.last().expect("it arrived");
    assert_eq!(request.target, format!("/echo?key={VALUE}"));
    assert_eq!(request.body, format!("{{\"key\":\"{VALUE}\"}}").as_bytes());
}

async fn another_host_is_reset_and_receives_nothing(guest: &Guest, origins: &Origins) {
    let url = origins.url(OTHER);
    let (head, body) = ("\"Authorization: Bearer $API_KEY\"", "\"key=$API_KEY\"");
    for (claim, options, location) in [
        ("in a header", format!("-H {head} {url}/v1?q=1"), "header"),
        ("in the query", format!("-G -d {body} {url}/v1"), "query"),
        ("in a path", format!("{url}/v1/$API_KEY"), "path"),
        ("in Basic", format!("-u \"u:$API_KEY\" {url}/v1"), "header"),
    ] {
        let line = format!("curl -sS {options}");
        guest.sh(&line).await.check(claim, 56, "", "reset");
        let events = guest.events();
        let violation = events.iter().rev().find_map(|event| match event {
            Event::Tls(Tls::Violation {
                host,
                method,
                path,
                violation,
                action,
                ..
            }) => Some((host, method.clone(), path.clone(), violation, *action)),
            _ => None,
        });
        let (host, method, path, violation, action) = violation.expect("an event");
        assert_eq!(host.to_string(), OTHER, "{claim}");
        assert_eq!(method.as_deref(), Some("GET"), "{claim}");
        let shown = (location != "path").then_some("/v1");
        assert_eq!(path.as_deref(), shown, "{claim}");
        assert_eq!(violation.env(), "API_KEY", "{claim}");
        assert!(
            violation.location().to_string().starts_with(location),
            "{claim}: {violation}"
        );
        assert_eq!(action, ViolationAction::BlockAndLog, "{claim}");
    }
    assert!(
        origins.other.received().is_empty() && origins.other.requests().is_empty(),
        "the other host received something"
    );
    let claim = "without a placeholder the same host answers";
    let line = format!("curl -sS -d hello {url}/v1");
    guest.sh(&line).await.check(claim, 0, "hello", "");
}

async fn another_authority_in_the_request_is_misdirected(guest: &Guest, origins: &Origins) {
    let before = origins.api.requests().len();
    let url = origins.url(API);
    let line = format!("curl -sS -o /dev/null -w '%{{http_code}}' -H 'Host: {OTHER}' {url}/v1");
    let claim = "Host is not the name of the TLS connection";
    guest.sh(&line).await.check(claim, 0, "421", "");
    let with_key = format!("{line} -H \"Authorization: Bearer $API_KEY\"");
    let ran = guest.sh(&with_key).await;
    assert!(ran.code == 56 || ran.stdout == "421", "{ran:?}");
    assert_eq!(origins.api.requests().len(), before, "nothing was sent on");
}

async fn a_bypassed_host_shows_its_own_certificate(guest: &Guest, origins: &Origins) {
    let url = origins.url(PINNED);
    let claim = "the guest's trust store does not know the origin's root";
    guest
        .sh(&format!("curl -sS {url}/"))
        .await
        .check(claim, 60, "", "certificate");
    let saved = guest
        .sandbox
        .command("/bin/sh")
        .args(["-c", "printf %s \"$ROOT\" > /tmp/root.pem"])
        .env("ROOT", origins.root.pem())
        .output()
        .await
        .expect("saved");
    assert!(saved.status().success());
    let line = format!("curl -sS --cacert /tmp/root.pem -w '%{{certs}}' {url}/");
    let ran = guest.sh(&line).await;
    ran.check(
        "a client that knows the root",
        0,
        &format!("hello from {PINNED}"),
        "",
    );
    let seen = certificates(&ran.stdout);
    assert_eq!(is_signed_by(&seen, &origins.root.der(), PINNED), Ok(()));
}

#[test]
fn block_and_terminate_ends_the_sandbox_and_says_why() {
    on_guests(async {
        let origins = Origins::start(0).await;
        let guest = Guest::boot("worker", |builder| {
            builder.secret_env("API_KEY", VALUE, API).network(|n| {
                origins
                    .network(n)
                    .on_secret_violation(ViolationAction::BlockAndTerminate)
            })
        })
        .await;
        let qemu = msb_e2e::HostProcess::open(guest.sandbox.vmm_pid()).expect("QEMU");
        let line = format!(
            "curl -sS {}/ -H \"X: $API_KEY\"; sleep 600",
            origins.url(OTHER)
        );
        let outcome = guest.sandbox.exec("/bin/sh", ["-c", &line]).await;
        let Err(msb::Error::Ended { reason }) = outcome else {
            panic!("the sandbox has not ended: {outcome:?}");
        };
        for part in ["placeholder", "API_KEY", "x"] {
            assert!(reason.contains(part), "{reason}");
        }
        assert_eq!(guest.sandbox.wait().await, reason);
        assert!(qemu.ends_within(Duration::from_secs(1)), "QEMU is left");
        let told = guest.events().into_iter().find_map(|event| match event {
            Event::Terminated { reason } => Some(reason),
            _ => None,
        });
        assert_eq!(told, Some(reason));
        let after = guest.sandbox.exec("/bin/true", [""; 0]).await;
        assert!(matches!(after, Err(msb::Error::Ended { .. })), "{after:?}");
        assert!(origins.other.received().is_empty());
    });
}
