//! Rules about requests, from the command line to what servers get.

use msb_testkit::connect_tls_over;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{HOST, OTHER, PLACEHOLDER, Rig, VALUE, check_reset, within};

const RULES: [&str; 2] = [
    "deny * *.example.test/v1/keys/**",
    "allow GET api.example.test/v1/**",
];

#[tokio::test]
async fn requests_are_denied_by_rules_and_events_say_by_which() {
    let rig = Rig::new();
    let origin = rig.origin().await;
    for denied in ["forbid", "reset"] {
        let before = origin.requests().len();
        let address = origin.address();
        let flags = format!(
            "--mode connect --secret API_KEY@{HOST} --tls-upstream-ca-cert root.pem --http-denied {denied} \
             --add-host {HOST}:{address} --add-host {OTHER}:{address}"
        );
        let proxy = rig.ruled_proxy(&flags, &RULES).await;
        for (host, target, allowed) in [
            (HOST, "/v1/items?key=1", true),
            (HOST, "/v1/keys/1", false),
            (OTHER, "/v1/items", false),
        ] {
            let connect = format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n");
            let (head, stream) = proxy.ask(connect.as_bytes()).await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            let mut guest = within(connect_tls_over(stream, host, &proxy.ca))
                .await
                .unwrap();
            let key = if host == HOST { PLACEHOLDER } else { "none" };
            let request = format!(
                "GET {target} HTTP/1.1\r\nHost: {host}\r\nX-Key: {key}\r\nConnection: close\r\n\r\n"
            );
            if !allowed && denied == "reset" {
                guest.write_all(request.as_bytes()).await.unwrap();
                check_reset(within(guest.read_to_end(&mut Vec::new())).await);
                continue;
            }
            let answer = within(msb_testkit::exchange(&mut guest, request.as_bytes())).await;
            let answer = String::from_utf8(answer).unwrap();
            let status = if allowed { "200 OK" } else { "403 Forbidden" };
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{answer}"
            );
        }
        let arrived = origin.requests();
        assert_eq!(arrived.len(), before + 1, "{denied}");
        assert_eq!(arrived[before].only_header("x-key").unwrap(), VALUE);
        let event = proxy.event("request_denied").await;
        assert_eq!(event["rule"], format!("HTTP rule 1 ({})", RULES[0]));
        assert_eq!(event["action"], denied);
        assert_eq!(
            (&event["method"], &event["path"]),
            (&"GET".into(), &"/v1/keys/1".into())
        );
        proxy.signal(Signal::TERM);
        assert_eq!(proxy.end().await.0, Some(0));
        std::fs::remove_file(rig.path("events")).unwrap();
    }
}

#[tokio::test]
async fn a_bypass_of_a_host_that_rules_name_stops_everything_before_it_starts() {
    let rig = Rig::new();
    let args = format!(
        "proxy --listen 127.0.0.1:0 --ca-out ca.pem --tls-bypass *.example.test --secret API_KEY@{HOST}"
    );
    let mut command = rig.msb(&args);
    let output = within(command.args(["--http-rule", RULES[1]]).output())
        .await
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(said.contains("bypass"), "{said}");
    assert!(!rig.path("ca.pem").exists());
}
