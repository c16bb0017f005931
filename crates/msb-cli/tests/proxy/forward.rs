//! Requests for `http` URLs without a tunnel, as clients send them that know a proxy by `http_proxy`.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::{HOST, OTHER, PLACEHOLDER, Rig, Running, VALUE, check_reset, within};

/// A server without TLS that answers one request after another with its name and the request's head.
async fn telling_origin(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    let body = format!("{name} got {}.", String::from_utf8_lossy(&head));
                    let len = body.len();
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\n\r\n{body}"
                    );
                    stream.write_all(answer.as_bytes()).await?;
                }
                #[expect(unreachable_code, reason = "it says what the errors above are")]
                Ok::<(), std::io::Error>(())
            });
        }
    });
    address
}

async fn proxy(rig: &Rig, flags: &str) -> Running {
    let (host, other) = (
        telling_origin("the host").await,
        telling_origin("the other").await,
    );
    let args = format!(
        "--mode connect --secret API_KEY@{HOST} --add-host {HOST}:{host} --add-host {OTHER}:{other} {flags}"
    );
    rig.bare_proxy(&args).await
}

fn asking(host: &str, fields: &str) -> String {
    format!(
        "GET http://{host}/v1?a=b HTTP/1.1\r\nHost: {host}\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic dTpw\r\n{fields}\r\n"
    )
}

/// The answer to one of several requests.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n.") {
        text.push(within(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn requests_on_one_connection_go_each_to_the_host_it_names() {
    let rig = Rig::new();
    let proxy = proxy(&rig, "--secret-no-tls-identity API_KEY").await;
    let mut stream = proxy.connect().await;
    for _ in 0..2 {
        let key = format!("Authorization: Bearer {PLACEHOLDER}\r\n");
        for (host, name, fields) in [
            (HOST, "the host", key.as_str()),
            (OTHER, "the other", ""),
            (OTHER, "the other", ""),
        ] {
            let request = asking(host, fields);
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = answer(&mut stream).await;
            let origin_form = format!("{name} got GET /v1?a=b HTTP/1.1\r\n");
            assert!(answer.contains(&origin_form), "{answer}");
            assert!(
                answer.to_lowercase().contains(&format!("host: {host}\r\n")),
                "{answer}"
            );
            assert!(!answer.to_lowercase().contains("proxy-"), "{answer}");
            // It got the value, for what it echoes is put back.
            assert_eq!(answer.contains(PLACEHOLDER), !fields.is_empty(), "{answer}");
            assert!(!answer.contains(VALUE), "{answer}");
        }
    }
    let substituted = proxy.event("substituted").await;
    assert_eq!(substituted["host"], HOST);
}

#[tokio::test]
async fn a_placeholder_in_a_request_without_a_tunnel_is_a_reset_where_its_secret_is_not_for_it() {
    for (flags, host) in [("--secret-no-tls-identity API_KEY", OTHER), ("", HOST)] {
        let rig = Rig::new();
        let proxy = proxy(&rig, flags).await;
        let mut stream = proxy.connect().await;
        let request = asking(host, &format!("Authorization: Bearer {PLACEHOLDER}\r\n"));
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        check_reset(within(stream.read_to_end(&mut rest)).await);
        assert_eq!(proxy.event("violation").await["host"], host);
    }
}

#[tokio::test]
async fn curl_gets_http_urls_without_a_tunnel() {
    let rig = Rig::new();
    let proxy = proxy(&rig, "--secret-no-tls-identity API_KEY").await;
    let address = format!("http://{}", proxy.address);
    let (url, other) = (format!("http://{HOST}/v1"), format!("http://{OTHER}/v1"));
    let key = format!("X-Key: {PLACEHOLDER}");
    let flags = [
        "-x",
        &address,
        "-U",
        "user:password",
        "--http2",
        &url,
        &other,
    ];
    let Some((status, text)) = proxy.curl(&flags).await else {
        return;
    };
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.contains("the host got ") && text.contains("the other got "),
        "{text}"
    );
    let (status, text) = proxy
        .curl(&["-x", &address, "-H", &key, &url])
        .await
        .unwrap();
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.contains(&format!("X-Key: {PLACEHOLDER}\r\n")),
        "{text}"
    );
    let (status, _) = proxy
        .curl(&["-x", &address, "-H", &key, &other])
        .await
        .unwrap();
    assert_ne!(status, Some(0));
}

#[tokio::test]
async fn what_cannot_be_served_without_a_tunnel_is_answered_and_told_why() {
    let rig = Rig::new();
    let proxy = proxy(&rig, "").await;
    let own = proxy.address.to_string();
    for (host, fields, status) in [
        ("127.0.0.1:9", "", "403 Forbidden"),
        (own.as_str(), "", "403 Forbidden"),
        ("nowhere.invalid", "", "502 Bad Gateway"),
        (
            HOST,
            "Connection: Upgrade\r\nUpgrade: websocket\r\n",
            "501 ",
        ),
        (HOST, "Connection: Upgrade\r\nUpgrade: tcp\r\n", "501 "),
        (HOST, "Host: other\r\n", "400 "),
        (HOST, "Content-Length: 1\r\nContent-Length: 2\r\n", "400 "),
    ] {
        let (head, _) = proxy.ask(asking(host, fields).as_bytes()).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{host} {fields}: {head}"
        );
    }
    assert_eq!(proxy.event("denied").await["host"], "127.0.0.1");
    // What begins without a tunnel stays without one.
    for (second, status) in [
        (
            format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n"),
            "501 ",
        ),
        (format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), "400 "),
    ] {
        let mut stream = proxy.connect().await;
        stream.write_all(asking(HOST, "").as_bytes()).await.unwrap();
        answer(&mut stream).await;
        stream.write_all(second.as_bytes()).await.unwrap();
        let mut rest = String::new();
        within(stream.read_to_string(&mut rest)).await.unwrap();
        assert!(rest.starts_with(&format!("HTTP/1.1 {status}")), "{rest}");
    }
}

#[tokio::test]
async fn a_client_without_a_tunnel_does_not_hold_up_the_end() {
    let rig = Rig::new();
    let proxy = proxy(&rig, "").await;
    let mut stream = proxy.connect().await;
    stream.write_all(asking(HOST, "").as_bytes()).await.unwrap();
    answer(&mut stream).await;
    proxy.signal(rustix::process::Signal::TERM);
    let (status, said) = proxy.end().await;
    assert_eq!(status, Some(0), "{said}");
    assert!(!said.contains("cut off"), "{said}");
}
