//! Values for allowed hosts, resets for others, and what the events tell of both.

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{HOST, OTHER, PLACEHOLDER, Rig, VALUE, check_reset, get, within};

#[tokio::test]
async fn curl_through_a_tunnel_gets_the_value_to_its_host() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let proxy = rig.proxy("connect", origin.address(), "").await;
    let at = format!("http://{}", proxy.address);
    let header = format!("Authorization: Bearer {PLACEHOLDER}");
    let url = format!("https://{HOST}/v1?token=in-the-query");
    let flags = ["--proxy", &at, "--header", &header, &url];
    let Some((code, text)) = proxy.curl(&flags).await else {
        return;
    };
    assert_eq!((code, text.as_str()), (Some(0), "hello\n"));
    let authorization = origin.requests()[0].only_header("authorization");
    assert_eq!(authorization.unwrap(), format!("Bearer {VALUE}"));
}

#[tokio::test]
async fn curl_that_is_led_to_the_transparent_proxy_gets_the_value_to_its_host() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let proxy = rig.proxy("transparent", origin.address(), "").await;
    let to = format!("{HOST}:443:{}", proxy.address);
    let header = format!("Authorization: Bearer {PLACEHOLDER}");
    let url = format!("https://{HOST}/v1");
    let flags = [
        "--noproxy",
        "*",
        "--connect-to",
        &to,
        "--header",
        &header,
        &url,
    ];
    let Some((code, text)) = proxy.curl(&flags).await else {
        return;
    };
    assert_eq!((code, text.as_str()), (Some(0), "hello\n"));
    let authorization = origin.requests()[0].only_header("authorization");
    assert_eq!(authorization.unwrap(), format!("Bearer {VALUE}"));
}

#[tokio::test]
async fn another_host_is_reset_in_both_modes_and_receives_nothing() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let proxy = rig.proxy("connect", origin.address(), "").await;
    check_reset(proxy.get(OTHER).await);
    let proxy = rig.proxy("transparent", origin.address(), "").await;
    let stream = msb_testkit::connect_tls(proxy.address, OTHER, &proxy.ca).await;
    check_reset(get(stream.unwrap(), OTHER).await);
    assert_eq!(origin.received(), b"");
}

/// An address gets no secret, even where its certificate is good for the secret's host.
#[tokio::test]
async fn a_tunnel_to_an_address_gets_no_secret() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let proxy = rig.proxy("connect", origin.address(), "--net host").await;
    let stream = proxy.tunnel(&origin.address().to_string(), HOST).await;
    check_reset(get(stream.unwrap(), HOST).await);
    let event = proxy.event("violation").await;
    let reason = event["reason"].as_str().unwrap();
    assert!(reason.contains("was not resolved from"), "{reason}");
    assert_eq!(origin.received(), b"");
}

#[tokio::test]
async fn events_tell_what_happened_without_value_and_query() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let flags = "--on-secret-violation block-and-log";
    let proxy = rig.proxy("connect", origin.address(), flags).await;
    proxy.get(HOST).await.unwrap();
    check_reset(proxy.get(OTHER).await);

    let event = proxy.event("violation").await;
    for (field, expected) in [
        ("host", OTHER),
        ("method", "GET"),
        ("path", "/v1"),
        ("secret", "API_KEY"),
        ("location", "header authorization"),
        ("form", "raw"),
        (
            "reason",
            "host other.example.test is not allowed for this secret",
        ),
        ("action", "block-and-log"),
    ] {
        assert_eq!(event[field], expected, "{event}");
    }
    let event = proxy.event("request").await;
    assert_eq!(
        (&event["host"], &event["path"]),
        (&HOST.into(), &"/v1".into())
    );
    assert_eq!(event["status"], 200);
    let event = proxy.event("substituted").await;
    assert_eq!(event["secret"], "API_KEY");
    let event = proxy.event("intercepted").await;
    assert_eq!(event["port"], origin.address().port());
    assert!(event["time"].as_str().unwrap().ends_with('Z'));

    let text = proxy.events_text();
    assert!(!text.contains(VALUE) && !text.contains("canary"), "{text}");
    assert!(!text.contains("in-the-query"), "{text}");
    proxy.signal(Signal::TERM);
    let (_, said) = proxy.end().await;
    assert!(
        said.contains("blocked: placeholder of secret API_KEY"),
        "{said}"
    );
    assert!(
        !said.contains("canary") && !said.contains("in-the-query"),
        "{said}"
    );
}

#[tokio::test]
async fn a_violation_ends_the_proxy_where_it_is_told_to() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let flags = "--on-secret-violation block-and-terminate";
    let proxy = rig.proxy("connect", origin.address(), flags).await;
    let other = proxy.tunnel(&format!("{HOST}:443"), HOST).await;
    check_reset(proxy.get(OTHER).await);
    check_reset(within(other.unwrap().read(&mut [0])).await);
    let text = proxy.events_text();
    let (code, said) = proxy.end().await;
    assert_eq!(code, Some(crate::rig::OWN_FAILURE));
    assert!(
        said.contains("the proxy ended: a secret's placeholder was sent where it may not go"),
        "{said}"
    );
    assert!(
        rig.read("events").contains("\"type\":\"terminated\""),
        "{text}"
    );
    assert_eq!(origin.received(), b"");
}

async fn received(origin: &msb_testkit::Origin, requests: usize) -> String {
    let requests = within(origin.wait_for(requests)).await;
    requests
        .last()
        .unwrap()
        .only_header("authorization")
        .unwrap()
}

#[tokio::test]
async fn values_are_read_again_on_sighup_and_kept_where_that_fails() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    rig.write("key", "first\n");
    let mut proxy = rig
        .proxy("connect", origin.address(), "--secret-file API_KEY=key")
        .await;
    proxy.get(HOST).await.unwrap();
    assert_eq!(received(&origin, 1).await, "Bearer first");

    rig.write("key", "second\n");
    proxy.signal(Signal::HUP);
    assert_eq!(proxy.says().await, "msb: secrets were reloaded");
    proxy.get(HOST).await.unwrap();
    assert_eq!(received(&origin, 2).await, "Bearer second");

    for (text, reason) in [("", "is empty"), ("two\nlines", "line break")] {
        rig.write("key", text);
        proxy.signal(Signal::HUP);
        let said = proxy.says().await;
        assert!(
            said.starts_with("msb: secrets were not reloaded, the former ones stay in use: "),
            "{said}"
        );
        assert!(said.contains(reason), "{said}");
    }
    proxy.get(HOST).await.unwrap();
    assert_eq!(received(&origin, 3).await, "Bearer second");
    proxy.event("secrets_replaced").await;
    proxy.event("warning").await;
}

#[tokio::test]
async fn one_source_that_fails_leaves_all_secrets_as_they_were() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    rig.write("key", "first");
    rig.write("second", "x");
    let flags =
        format!("--secret SECOND@{HOST} --secret-file API_KEY=key --secret-file SECOND=second");
    let mut proxy = rig.proxy("connect", origin.address(), &flags).await;
    rig.write("key", "changed");
    std::fs::remove_file(rig.path("second")).unwrap();
    proxy.signal(Signal::HUP);
    let said = proxy.says().await;
    assert!(said.contains("the secret SECOND has no value"), "{said}");
    proxy.get(HOST).await.unwrap();
    assert_eq!(received(&origin, 1).await, "Bearer first");
}

#[tokio::test]
async fn a_placeholder_like_the_value_is_told_and_outlives_the_value() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    rig.write("key", "ghp_0123456789abcdefghij");
    let flags = "--secret-file API_KEY=key --secret-placeholder-like-value API_KEY";
    let mut proxy = rig.proxy("connect", origin.address(), flags).await;
    let line = within(proxy.stdout.next_line()).await.unwrap().unwrap();
    let placeholder = line.strip_prefix("API_KEY=ghp_").unwrap().to_owned();
    assert_eq!(placeholder.len(), 20);
    for (number, value) in [
        (1, "ghp_0123456789abcdefghij"),
        (2, "another-kind-of-value"),
    ] {
        rig.write("key", value);
        proxy.signal(Signal::HUP);
        assert_eq!(proxy.says().await, "msb: secrets were reloaded");
        let stream = proxy.tunnel(&format!("{HOST}:443"), HOST).await;
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer ghp_{placeholder}\r\nConnection: close\r\n\r\n"
        );
        within(msb_testkit::exchange(
            &mut stream.unwrap(),
            request.as_bytes(),
        ))
        .await;
        assert_eq!(received(&origin, number).await, format!("Bearer {value}"));
    }
}

#[tokio::test]
async fn queries_and_bodies_get_the_value_where_the_flags_say_and_echoes_do_not_come_back() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    rig.write("key", "s3cret &value");
    let flags =
        "--secret-file API_KEY=key --secret-inject API_KEY=query,body --body-hold-limit 64KiB";
    let proxy = rig.proxy("connect", origin.address(), flags).await;
    let mut stream = proxy.tunnel(&format!("{HOST}:443"), HOST).await.unwrap();
    let body = r#"{"key":"$MSB_API_KEY"}"#;
    let request = format!(
        "POST /echo?key={PLACEHOLDER} HTTP/1.1\r\nHost: {HOST}\r\nX-Left: {PLACEHOLDER}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = within(msb_testkit::exchange(&mut stream, request.as_bytes())).await;
    let request = &origin.requests()[0];
    assert_eq!(request.target, "/echo?key=s3cret%20%26value");
    assert_eq!(request.only_header("x-left").unwrap(), PLACEHOLDER);
    assert_eq!(request.body, br#"{"key":"s3cret &value"}"#);
    let answer = String::from_utf8(answer).unwrap();
    // Of no declared type: covered rather than replaced.
    assert!(answer.ends_with(r#"{"key":"*************"}"#), "{answer}");
    for kind in ["substituted", "left_alone", "scrubbed"] {
        assert_eq!(proxy.event(kind).await["secret"], "API_KEY");
    }
    assert!(!proxy.events_text().contains("s3cret"));
}

#[tokio::test]
async fn a_passthrough_host_sees_the_placeholder_and_not_the_value() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let flags = format!("--secret-passthrough API_KEY={OTHER}");
    let proxy = rig.proxy("connect", origin.address(), &flags).await;
    proxy.get(OTHER).await.unwrap();
    assert_eq!(received(&origin, 1).await, format!("Bearer {PLACEHOLDER}"));
}

/// A server without TLS that answers one request after another with what `Authorization` was.
async fn plain_origin() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                let status = match String::from_utf8_lossy(&head).contains(VALUE) {
                    true => "200 OK",
                    false => "401 Unauthorized",
                };
                let answer =
                    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await
            });
        }
    });
    address
}

#[tokio::test]
async fn plaintext_in_a_tunnel_gets_a_secret_that_says_so_at_its_host_and_no_other() {
    let rig = Rig::new();
    let origin = plain_origin().await;
    for (flags, host, expected) in [
        (
            "--secret-no-tls-identity API_KEY",
            HOST,
            Some("HTTP/1.1 200 OK"),
        ),
        ("--secret-no-tls-identity API_KEY", OTHER, None),
        ("", HOST, None),
    ] {
        let proxy = rig.proxy("connect", origin, flags).await;
        let tunnel = format!("CONNECT {host}:80 HTTP/1.1\r\n\r\n");
        let (head, mut stream) = proxy.ask(tunnel.as_bytes()).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {PLACEHOLDER}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let ended = within(stream.read_to_string(&mut answer)).await;
        match expected {
            Some(status) => assert!(answer.starts_with(status), "{answer}"),
            None => check_reset(ended),
        }
    }
}

#[tokio::test]
async fn tls_goes_on_as_before_where_a_secret_may_go_into_plaintext() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let flags = "--secret-no-tls-identity API_KEY";
    let proxy = rig.proxy("connect", origin.address(), flags).await;
    let answer = proxy.get(HOST).await.unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
    assert_eq!(received(&origin, 1).await, format!("Bearer {VALUE}"));
    check_reset(proxy.get(OTHER).await);
}
