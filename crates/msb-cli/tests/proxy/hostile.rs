//! Clients that ask for what they may not have, or for nothing that makes sense.

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{HOST, OTHER, Rig, check_reset, within};

/// Attack 3: a tunnel to one host, a ClientHello for another.
#[tokio::test]
async fn a_server_name_other_than_the_tunnels_is_refused() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let proxy = rig.proxy("connect", origin.address(), "").await;
    for (authority, named) in [(OTHER, HOST), (HOST, OTHER)] {
        let ended = proxy.tunnel(&format!("{authority}:443"), named).await;
        let error = ended.unwrap_err().to_string();
        assert!(error.contains("UnrecognisedName"), "{error}");
    }
    let event = proxy.event("hello_failed").await;
    let expected = format!("the ClientHello names {HOST}, but {OTHER} was asked for");
    assert_eq!(event["reason"], expected);
    assert_eq!(origin.received(), b"");
    proxy.get(HOST).await.unwrap();
}

#[tokio::test]
async fn a_transparent_client_that_names_no_server_is_refused() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let proxy = rig.proxy("transparent", origin.address(), "").await;
    // A client that is told an address sends no server name.
    let ended = msb_testkit::connect_tls(proxy.address, "127.0.0.1", &proxy.ca).await;
    let error = ended.unwrap_err().to_string();
    assert!(error.contains("UnrecognisedName"), "{error}");
    let event = proxy.event("hello_failed").await;
    assert_eq!(event["reason"], "the ClientHello names no server");
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn a_transparent_client_is_told_in_http_what_cannot_be_dialled() {
    let rig = Rig::new();
    let proxy = rig.bare_proxy("--mode transparent").await;
    for (name, status, kind) in [
        ("nowhere.invalid", "502 Bad Gateway", "upstream_failed"),
        ("localhost", "403 Forbidden", "denied"),
    ] {
        let stream = msb_testkit::connect_tls(proxy.address, name, &proxy.ca).await;
        let answer = crate::rig::get(stream.unwrap(), name).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{answer}"
        );
        let event = proxy.event(kind).await;
        assert_eq!(event["host"], name);
        assert_eq!(event["port"], 443);
        assert_eq!(event["address"], serde_json::Value::Null);
    }
}

#[tokio::test]
async fn what_the_policy_forbids_is_answered_403_and_told() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let proxy = rig.proxy("connect", origin.address(), "").await;
    let port = origin.address().port();
    for (target, group) in [
        (format!("127.0.0.1:{port}"), "host"),
        (format!("localhost:{port}"), "host"),
        (format!("host.msb.internal:{port}"), "host"),
        ("10.0.0.1:443".to_owned(), "private"),
        ("169.254.169.254:80".to_owned(), "metadata"),
    ] {
        let request = format!("CONNECT {target} HTTP/1.1\r\n\r\n");
        let (head, mut stream) = proxy.ask(request.as_bytes()).await;
        assert!(head.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{head}");
        let mut reason = String::new();
        within(stream.read_to_string(&mut reason)).await.unwrap();
        assert!(
            reason.contains(&format!("({group}) is denied by default")),
            "{reason}"
        );
    }
    let event = proxy.event("denied").await;
    assert_eq!(event["port"], port);
    assert_eq!(event["rule"], "default");
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn requests_that_are_no_tunnels_are_answered_and_told_why() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let proxy = rig.proxy("connect", origin.address(), "").await;
    for (request, status) in [
        (
            format!("GET https://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            "501 Not Implemented",
        ),
        (
            format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\nhello"),
            "501 Not Implemented",
        ),
        (
            format!("CONNECT {HOST} HTTP/1.1\r\n\r\n"),
            "400 Bad Request",
        ),
        (
            format!("CONNECT user@{HOST}:443 HTTP/1.1\r\n\r\n"),
            "400 Bad Request",
        ),
        (
            format!("CONNECT {HOST}:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"),
            "400 Bad Request",
        ),
        (
            format!(
                "CONNECT {HOST}:443 HTTP/1.1\r\nA: {}\r\n\r\n",
                "a".repeat(9000)
            ),
            "431 ",
        ),
        (
            "CONNECT nowhere.invalid:443 HTTP/1.1\r\n\r\n".to_owned(),
            "50",
        ),
    ] {
        let (head, mut stream) = proxy.ask(request.as_bytes()).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}: {head}"
        );
        let mut reason = String::new();
        within(stream.read_to_string(&mut reason)).await.unwrap();
        assert!(
            reason.starts_with("msb: ") && reason.ends_with('\n'),
            "{reason}"
        );
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let connect = rig.proxy("connect", origin.address(), "").await;
    let tunnel = format!("CONNECT {HOST}:443 HTTP/1.1\r\n\r\n");
    let hello = [&[22, 3, 1, 2, 0, 1][..], &[0; 600]].concat();
    for garbage in [
        &b"\0\0\0\0"[..],
        &hello,
        b"\x05\x01\x00",
        b"SSH-2.0-x\r\n\r\n",
    ] {
        let mut stream = connect.connect().await;
        stream.write_all(garbage).await.unwrap();
        // A reset, or an answer and an end; no waiting.
        let _ = within(stream.read_to_end(&mut Vec::new())).await;
    }
    for inside in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\xff", &hello] {
        let (head, mut stream) = connect.ask(tunnel.as_bytes()).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        stream.write_all(inside).await.unwrap();
        let _ = within(stream.read_to_end(&mut Vec::new())).await;
    }
    // Gone in the middle of it.
    for end in [0, 1, 20, tunnel.len()] {
        let mut stream = connect.connect().await;
        stream.write_all(&tunnel.as_bytes()[..end]).await.unwrap();
    }
    connect.get(HOST).await.unwrap();
    let transparent = rig.proxy("transparent", origin.address(), "").await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0", &hello] {
        let mut stream = transparent.connect().await;
        stream.write_all(garbage).await.unwrap();
        let _ = within(stream.read_to_end(&mut Vec::new())).await;
    }
    let stream = msb_testkit::connect_tls(transparent.address, HOST, &transparent.ca).await;
    crate::rig::get(stream.unwrap(), HOST).await.unwrap();
    transparent.signal(Signal::TERM);
    assert_eq!(transparent.end().await.0, Some(0));
}

/// Attack 27.
#[tokio::test]
async fn no_event_can_drive_a_terminal() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let proxy = rig.proxy("connect", origin.address(), "").await;
    let escape = "\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}";
    for request in [
        format!("CONNECT {escape}:443 HTTP/1.1\r\n\r\n"),
        "CONNECT \u{9b}31m.test:443 HTTP/1.1\r\n\r\n".to_owned(),
        format!("CONNECT {HOST}:443 HTTP/1.1\r\n{escape}: x\r\n\r\n"),
        format!("{escape} {HOST}:443 HTTP/1.1\r\n\r\n"),
    ] {
        let mut stream = proxy.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let _ = within(stream.read_to_end(&mut Vec::new())).await;
    }
    let mut stream = proxy.tunnel(&format!("{HOST}:443"), HOST).await.unwrap();
    let request = [
        b"GET /a\xc2\x9b31m HTTP/1.1\r\nHost: ",
        HOST.as_bytes(),
        b"\r\nConnection: close\r\n\r\n",
    ]
    .concat();
    within(msb_testkit::exchange(&mut stream, &request)).await;
    proxy.get(HOST).await.unwrap();
    proxy.event("substituted").await;
    let text = proxy.events_text();
    let is_safe = |byte: u8| (b' '..0x7f).contains(&byte) || byte == b'\n';
    assert!(text.bytes().all(is_safe), "{text:?}");
    assert!(text.lines().count() >= 5, "{text}");
    proxy.signal(Signal::TERM);
    let (_, said) = proxy.end().await;
    assert!(
        !said.contains('\u{1b}') && !said.contains('\u{9b}'),
        "{said:?}"
    );
}

#[tokio::test]
async fn connections_beyond_the_limit_are_reset_and_the_others_go_on() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    let proxy = rig
        .proxy("connect", origin.address(), "--max-connections 1")
        .await;
    let first = proxy.tunnel(&format!("{HOST}:443"), HOST).await.unwrap();
    for _ in 0..3 {
        // The reset may come before the connect is told of.
        let beyond = async {
            TcpStream::connect(proxy.address)
                .await?
                .read(&mut [0])
                .await
        };
        check_reset(within(beyond).await);
    }
    let answer = crate::rig::get(first, HOST).await.unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
    let event = proxy.event("connection_limit").await;
    assert_eq!(event["reason"], "1 connections are open");
    let told = proxy.events_text().matches("connection_limit").count();
    assert_eq!(told, 1, "once per burst");
}
