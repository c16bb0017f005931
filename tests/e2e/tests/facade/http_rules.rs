//! Rules about requests, in a guest that runs on while they change.

use std::net::Ipv4Addr;

use msb::Event;
use msb::tls_proxy::Event as Tls;
use msb_e2e::{API, Guest, Origins, on_guests};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

#[test]
fn rules_about_requests_hold_in_a_guest_and_can_be_replaced() {
    on_guests(async {
        let origins = Origins::start(0).await;
        let guest = Guest::boot("ruled", |builder| {
            builder.network(|n| {
                let n = origins
                    .network(n)
                    .http_rule(format!("allow GET {API}/v1/**"));
                n.tls(|t| t.intercepted_ports([origins.port(API)]))
            })
        })
        .await;
        let base = format!("https://{API}:{}", origins.port(API));
        let status = async |method: &str, path: &str| {
            let line = format!(
                "curl -sS --path-as-is -o /dev/null -w '%{{http_code}}' -X {method} {base}{path}"
            );
            guest.sh(&line).await.stdout
        };
        for (method, path, expected) in [
            ("GET", "/v1/a", "200"),
            ("DELETE", "/v1/a", "403"),
            ("GET", "/v1/../v2", "403"),
            ("GET", "/v2", "403"),
        ] {
            assert_eq!(status(method, path).await, expected, "{method} {path}");
        }
        assert_eq!(origins.api.requests().len(), 1);
        what_is_not_http_does_not_reach_the_host(&guest).await;

        let replace = |rule: &str| {
            guest
                .sandbox
                .replace_http_rules([format!("{rule} {API}/v2")])
        };
        let error = replace("permit").expect_err("no action");
        assert!(error.to_string().contains("not an HTTP rule"), "{error}");
        assert_eq!(status("GET", "/v1/a").await, "200", "nothing has changed");
        replace("allow *").expect("good rules");
        assert_eq!(status("GET", "/v1/a").await, "403");
        assert_eq!(status("DELETE", "/v2").await, "200");
        let denied = |event: &&Event| matches!(event, Event::Tls(Tls::RequestDenied { .. }));
        assert_eq!(guest.events().iter().filter(denied).count(), 4);
        guest.stop().await;
    });
}

/// On a port that is not intercepted, by a name that rules are about.
async fn what_is_not_http_does_not_reach_the_host(guest: &Guest) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let greeting = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"220 ready\r\n").await;
        }
    });
    let python = format!(
        "import socket; s = socket.create_connection(('{API}', {port})); print(s.recv(99))"
    );
    let ran = guest.sh(&format!("python3 -c \"{python}\"")).await;
    ran.check("a server that speaks first", 1, "", "ConnectionResetError");
    let refused = |event: &Event| matches!(event, Event::Tls(Tls::RelayRefused { .. }));
    assert!(guest.events().iter().any(refused));
    greeting.abort();
}
