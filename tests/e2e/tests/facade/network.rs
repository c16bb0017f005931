//! What the guest can reach, what names it gets, and what it is.

use std::time::{Duration, SystemTime};

use msb::net::Event as Net;
use msb::policy::NetworkPolicy;
use msb::{Event, HostAddress, Piece, PortMapping, Sandbox};
use msb_e2e::{API, Guest, Origins, on_guests};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

#[test]
fn names_and_connections_are_those_the_policy_allows() {
    on_guests(async {
        let origins = Origins::start(0).await;
        let guest = Guest::boot("net-1", |builder| {
            builder.network(|n| {
                let address = |text: &str| HostAddress::Ip(text.parse().expect("an address"));
                origins
                    .network(n)
                    .add_host("dual.example.test", address("1.2.3.4"))
                    .add_host("dual.example.test", address("2600::1234"))
                    .add_host("four.example.test", address("1.2.3.5"))
            })
        })
        .await;
        the_guest_is_what_it_was_asked_to_be(&guest).await;
        added_names_resolve_in_both_families(&guest).await;
        an_unknown_name_fails_fast(&guest).await;
        the_host_is_reached_over_both_families(&guest, &origins).await;
        a_denied_connection_is_reset_at_once(&guest).await;
        a_closed_port_of_the_host_is_refused(&guest).await;
        another_policy_ends_what_it_does_not_allow(&guest, &origins).await;
        guest.stop().await;
    });
}

/// SPEC P8: open connections end with the policy that allowed them, and so does all that is new.
async fn another_policy_ends_what_it_does_not_allow(guest: &Guest, origins: &Origins) {
    let port = origins.port(API);
    let script = format!(
        "import socket\ns=socket.create_connection(('192.0.0.1',{port}))\nprint('open',flush=True)\n\
         try: s.recv(1)\nexcept ConnectionResetError: print('reset',flush=True)"
    );
    let command = guest.sandbox.command("python3").args(["-c", &script]);
    let mut process = command.spawn().await.expect("a client");
    let mut said = Vec::new();
    let mut replaced = false;
    let status = loop {
        match process.next().await.expect("the client goes on") {
            Piece::Stdout(bytes) => said.extend_from_slice(&bytes),
            Piece::Stderr(bytes) => panic!("{}", String::from_utf8_lossy(&bytes)),
            Piece::Exit(status) => break status,
        }
        if said == b"open\n" && !std::mem::replace(&mut replaced, true) {
            guest
                .sandbox
                .replace_policy(NetworkPolicy::invalid("another is on its way"));
        }
    };
    assert!(status.success(), "{status}");
    assert_eq!(String::from_utf8_lossy(&said), "open\nreset\n");
    let line = format!("curl -sS {}", origins.url(API));
    let ran = guest.sh(&line).await;
    assert!(matches!(ran.code, 6 | 7), "{ran:?}");
    let public = NetworkPolicy::parse("host").expect("a policy");
    guest.sandbox.replace_policy(public);
    let line = format!("curl -sSk -o /dev/null -w '%{{http_code}}' https://192.0.0.1:{port}/");
    let ran = guest.sh(&line).await;
    assert_ne!(ran.code, 7, "{ran:?}");
}

/// SPEC V8.
#[test]
fn published_ports_lead_to_the_guest() {
    on_guests(async {
        let guest = Guest::boot("published", |builder| {
            let ports = ["0:8080", "[::1]:0:8080", "0:9000"];
            let ports = ports.map(|text| text.parse::<PortMapping>().expect("a port"));
            builder.network(|n| ports.into_iter().fold(n, |n, port| n.publish(port)))
        })
        .await;
        let line = "cd /etc && python3 -m http.server --bind :: 8080 > /dev/null 2>&1 &
            until curl -sS -o /dev/null http://127.0.0.1:8080/; do sleep 0.1; done";
        guest
            .sh(line)
            .await
            .check("the guest's server is up", 0, "", "");
        let ports: Vec<_> = guest.sandbox.ports().map(|port| port.host).collect();
        for address in &ports[..2] {
            let mut stream = TcpStream::connect(address)
                .await
                .expect("the published port");
            let request = b"GET /hostname HTTP/1.0\r\n\r\n";
            let answer = msb_testkit::exchange(&mut stream, request).await;
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with("HTTP/1.0 200 "), "{address}: {answer}");
            assert!(answer.ends_with("published\n"), "{address}: {answer}");
        }
        // Nothing listens there.
        let mut refused = TcpStream::connect(ports[2])
            .await
            .expect("the published port");
        let error = refused.read_u8().await.expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

        let taken = PortMapping::tcp(ports[0].port(), 80);
        let again = Sandbox::builder("again")
            .image("base")
            .network(|n| n.publish(taken));
        let error = Box::pin(again.create())
            .await
            .expect_err("a port that is taken")
            .to_string();
        assert!(error.contains(&taken.to_string()), "{error}");
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        guest.stop().await;
    });
}

async fn the_guest_is_what_it_was_asked_to_be(guest: &Guest) {
    let claim = "its name";
    guest.sh("hostname").await.check(claim, 0, "net-1\n", "");
    guest
        .sh("cat /etc/hostname; getent hosts net-1 localhost")
        .await
        .check("its name resolves", 0, "net-1\n", "");
    let seconds = guest.sh("date +%s").await.stdout;
    let guests: u64 = seconds.trim().parse().expect("a number");
    let hosts = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    assert!(guests.abs_diff(hosts) <= 5, "{guests} against {hosts}");
    guest
        .sh("awk '/MemTotal/ { exit !($2 > 400000 && $2 < 530000) }' /proc/meminfo")
        .await
        .check("512 MiB of memory", 0, "", "");
}

async fn added_names_resolve_in_both_families(guest: &Guest) {
    let python = "python3 -c \"import socket; print(sorted({a[4][0] for a in socket.getaddrinfo('dual.example.test', 443)}))\"";
    for (line, code, expected) in [
        ("getent ahostsv4 dual.example.test", 0, "1.2.3.4 "),
        ("getent ahostsv6 dual.example.test", 0, "2600::1234 "),
        ("getent ahostsv4 four.example.test", 0, "1.2.3.5 "),
        ("getent ahostsv4 FOUR.Example.TEST.", 0, "1.2.3.5 "),
        (python, 0, "['1.2.3.4', '2600::1234']\n"),
        ("getent ahostsv4 api.example.test", 0, "192.0.0.1 "),
        ("getent ahostsv6 api.example.test", 0, "fd00:6d:7362::1 "),
        ("getent ahostsv4 host.msb.internal", 0, "192.0.0.1 "),
    ] {
        guest.sh(line).await.check(line, code, expected, "");
    }
}

async fn an_unknown_name_fails_fast(guest: &Guest) {
    let ran = guest.sh("curl -sS https://no-such-host.invalid/").await;
    ran.check("an unknown name", 6, "", "Could not resolve host");
    assert!(ran.took < Duration::from_secs(8), "{:?}", ran.took);
}

async fn the_host_is_reached_over_both_families(guest: &Guest, origins: &Origins) {
    for family in ["-4", "-6"] {
        let line = format!("curl -sS {family} {}/", origins.url(API));
        let expected = format!("hello from {API}\n");
        guest.sh(&line).await.check(family, 0, &expected, "");
    }
}

async fn a_denied_connection_is_reset_at_once(guest: &Guest) {
    for address in [
        "10.1.2.3:80",
        "192.168.1.1:443",
        "169.254.169.254:80",
        "100.100.100.200:80",
        "[fd12:3456::1]:80",
        "[::ffff:10.1.2.3]:80",
        "[64:ff9b::10.1.2.3]:80",
    ] {
        refused_at_once(guest, address).await;
    }
    let denied = guest
        .events()
        .into_iter()
        .filter(|event| matches!(event, Event::Network(Net::Denied { .. })));
    assert!(denied.count() >= 6, "{:?}", guest.events());
}

async fn a_closed_port_of_the_host_is_refused(guest: &Guest) {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").port()
    };
    refused_at_once(guest, &format!("host.msb.internal:{port}")).await;
}

/// By the guest's own clock: what it takes to start a program there says nothing about the network.
async fn refused_at_once(guest: &Guest, target: &str) {
    let line = format!("curl -sS --max-time 20 -w '%{{time_total}}' http://{target}/");
    let ran = guest.sh(&line).await;
    ran.check(target, 7, "", "connect");
    let seconds: f64 = ran.stdout.parse().expect("a number");
    assert!(seconds < 1.0, "{ran:?}");
}

#[test]
fn a_sandbox_reaches_neither_host_nor_private_addresses_by_default() {
    on_guests(async {
        let origins = Origins::start(0).await;
        let guest = Guest::boot("plain", |builder| {
            builder.network(|n| n.add_host(API, HostAddress::HostGateway))
        })
        .await;
        assert_eq!(guest.sandbox.ca_certificate(), None);
        for target in [
            format!("{API}:{}", origins.port(API)),
            format!("192.0.0.1:{}", origins.port(API)),
            format!("[fd00:6d:7362::1]:{}", origins.port(API)),
            "10.1.2.3:80".to_owned(),
        ] {
            refused_at_once(&guest, &target).await;
        }
        assert_eq!(origins.api.connections(), 0);
        guest.stop().await;
    });
}
