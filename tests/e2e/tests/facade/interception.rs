//! TLS interception when it does not go as a client or a server would like.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex};

use msb::tls_proxy::Event as Tls;
use msb::{Error, Event, HostAddress, Sandbox, SecretBuilder};
use msb_e2e::{API, Guest, OTHER, Origins, on_guests};
use msb_testkit::{CertificateKind, Origin};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

const VALUE: &str = "sk-canary-71be20";
const EXPIRED: &str = "expired.example.test";
const UNKNOWN: &str = "unknown.example.test";

#[test]
fn what_cannot_be_intercepted_or_verified_fails_closed() {
    on_guests(async {
        let origins = Origins::start(0).await;
        let serve = |name, kind| Origin::start(origins.root.server(&[name], kind));
        let expired = serve(EXPIRED, CertificateKind::Expired).await;
        let unknown = serve(UNKNOWN, CertificateKind::UnknownIssuer).await;
        let guest = Guest::boot("worker", |builder| {
            builder
                .secret(|s| {
                    let s = s.env("API_KEY").value(VALUE);
                    s.allow_host(API).allow_host(EXPIRED).allow_host(UNKNOWN)
                })
                .network(|n| {
                    let ports = [
                        origins.port(API),
                        origins.port(OTHER),
                        expired.address().port(),
                        unknown.address().port(),
                    ];
                    origins
                        .network(n)
                        .add_host(EXPIRED, HostAddress::HostGateway)
                        .add_host(UNKNOWN, HostAddress::HostGateway)
                        .tls(|t| t.intercepted_ports(ports))
                })
        })
        .await;
        for (name, origin) in [(EXPIRED, &expired), (UNKNOWN, &unknown)] {
            a_server_that_does_not_verify_is_told_as_502(&guest, name, origin).await;
        }
        a_client_that_pins_another_root_is_named_in_an_event(&guest, &origins).await;
        what_is_not_tls_on_an_intercepted_port_is_reset(&guest, &origins).await;
        a_placeholder_never_goes_out_in_plain_text(&guest).await;
        a_placeholder_never_goes_out_in_a_datagram(&guest).await;
        dns_over_tls_is_answered_here_whatever_the_address(&guest).await;
        megabytes_through_the_proxy_arrive_unharmed(&guest, &origins).await;
        guest.stop().await;
    });
}

async fn a_server_that_does_not_verify_is_told_as_502(guest: &Guest, name: &str, origin: &Origin) {
    let port = origin.address().port();
    let line = format!(
        "curl -sS -w '%{{http_code}}' https://{name}:{port}/ -H \"Authorization: Bearer $API_KEY\""
    );
    guest.sh(&line).await.check(name, 0, "502", "");
    assert!(origin.received().is_empty(), "{name} received something");
    let told = guest.events().into_iter().any(|event| {
        matches!(event, Event::Tls(Tls::UpstreamFailed { host, .. }) if host.to_string() == name)
    });
    assert!(told, "{:?}", guest.events());
}

async fn a_client_that_pins_another_root_is_named_in_an_event(guest: &Guest, origins: &Origins) {
    let url = origins.url(API);
    let pinned = "/usr/share/ca-certificates/mozilla/ISRG_Root_X1.crt";
    let line = format!("curl -sS --cacert {pinned} --capath /no/such {url}/");
    guest.sh(&line).await.check("a pinned client", 60, "", "");
    let hint = guest.events().into_iter().find_map(|event| match event {
        Event::Tls(Tls::GuestRejectedLeaf { host, hint, .. }) => Some((host.to_string(), hint)),
        _ => None,
    });
    let (host, hint) = hint.expect("an event");
    assert_eq!(host, API);
    assert!(hint.contains("bypass"), "{hint}");
}

async fn what_is_not_tls_on_an_intercepted_port_is_reset(guest: &Guest, origins: &Origins) {
    let line = format!(
        "curl -sS http://{OTHER}:{}/ -H \"X: $API_KEY\"",
        origins.port(OTHER)
    );
    let ran = guest.sh(&line).await;
    assert!(matches!(ran.code, 52 | 56), "{ran:?}");
    assert!(origins.other.received().is_empty());
}

/// Ports that are not intercepted carry anything but a placeholder.
async fn a_placeholder_never_goes_out_in_plain_text(guest: &Guest) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let received = Arc::<Mutex<Vec<u8>>>::default();
    let sink = Arc::clone(&received);
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = stream.read(&mut buffer).await {
                sink.lock()
                    .expect("bytes")
                    .extend_from_slice(&buffer[..len]);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
            }
        }
    });
    let url = format!("http://{API}:{port}/");
    let claim = "plain text without a placeholder";
    guest
        .sh(&format!("curl -sS {url}"))
        .await
        .check(claim, 0, "ok", "");
    let line = format!("curl -sS {url} -H \"Authorization: Bearer $API_KEY\"");
    let claim = "plain text with a placeholder, though the host may have the value";
    guest.sh(&line).await.check(claim, 56, "", "reset");
    server.abort();
    let received = received.lock().expect("bytes");
    let received = String::from_utf8_lossy(&received);
    assert!(received.contains("GET / HTTP/1.1"), "{received}");
    for text in ["$MSB_API_KEY", VALUE] {
        assert!(!received.contains(text), "{received}");
    }
}

async fn a_placeholder_never_goes_out_in_a_datagram(guest: &Guest) {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = server.local_addr().expect("an address").port();
    let told = |guest: &Guest| {
        let events = guest.events();
        let of_port = events.iter().filter(
            |event| matches!(event, Event::Tls(Tls::Violation { port: of, .. }) if *of == port),
        );
        of_port.count()
    };
    let script = format!(
        "import os,socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
         for m in ['before',os.environ['API_KEY'],'after']:s.sendto(m.encode(),('{API}',{port}))"
    );
    let line = format!("python3 -c \"{script}\"");
    guest.sh(&line).await.check("three datagrams", 0, "", "");
    let mut buffer = [0; 64];
    for expected in ["before", "after"] {
        let len = server.recv(&mut buffer).expect("a datagram");
        assert_eq!(&buffer[..len], expected.as_bytes());
    }
    assert_eq!(told(guest), 1, "{:?}", guest.events());
}

/// Nobody listens at that address, nor is it asked: the gateway answers with the sandbox's own certificate.
async fn dns_over_tls_is_answered_here_whatever_the_address(guest: &Guest) {
    let script = format!(
        "import socket,ssl\n\
         s=ssl.create_default_context().wrap_socket(socket.create_connection(('198.51.100.9',853)),server_hostname='dns.example.test')\n\
         n=b''.join(bytes([len(l)])+l.encode() for l in '{API}'.split('.'))\n\
         q=bytes([18,52,1,0,0,1,0,0,0,0,0,0])+n+bytes([0,0,1,0,1])\n\
         s.sendall(len(q).to_bytes(2,'big')+q)\n\
         a=b''\n\
         while len(a)<2 or len(a)<2+int.from_bytes(a[:2],'big'):a+=s.recv(4096)\n\
         print(socket.inet_ntoa(a[-4:]))"
    );
    let line = format!("python3 -c \"{script}\"");
    let claim = "a query over TLS";
    guest.sh(&line).await.check(claim, 0, "192.0.0.1", "");
    let told = guest.events().into_iter().any(|event| {
        matches!(event, Event::Tls(Tls::ServedLocally { host, .. }) if host.to_string() == "dns.example.test")
    });
    assert!(told, "{:?}", guest.events());
}

async fn megabytes_through_the_proxy_arrive_unharmed(guest: &Guest, origins: &Origins) {
    let line = format!(
        "head -c 6000001 /dev/urandom > /tmp/up; \
         curl -sS --data-binary @/tmp/up -o /tmp/down {}/echo -H \"X-Key: $API_KEY\" && cmp /tmp/up /tmp/down && sha256sum /tmp/up",
        origins.url(API)
    );
    let ran = guest.sh(&line).await;
    let requests = origins.api.requests();
    let last = requests.last().expect("a request");
    assert_eq!(last.body.len(), 6_000_001, "{ran:?}");
    assert_eq!(last.only_header("x-key").as_deref(), Some(VALUE));
    ran.check("6 MB there and back", 0, &crate::exec::hex(&last.body), "");
}

type Change = fn(SecretBuilder) -> SecretBuilder;

/// Every method of the documented builder is there, and each setting gets as far as the missing image.
#[tokio::test]
async fn every_documented_setting_of_a_secret_is_accepted() {
    let full = |s: SecretBuilder| {
        s.env("API_KEY")
            .value(VALUE)
            .allow_host(API)
            .allow_host_pattern("*.example.test")
            .allow_any_host_dangerous(false)
            .inject_headers(true)
            .inject_basic_auth(true)
            .inject_query(false)
            .inject_body(false)
            .require_tls_identity(true)
            .placeholder("$OTHER")
    };
    let create = async |configure: Change| {
        let empty = tempfile::tempdir().expect("a directory");
        let builder = Sandbox::builder("worker")
            .store(empty.path())
            .secret(|s| configure(full(s)));
        Box::pin(builder.create())
            .await
            .expect_err("there are no images")
    };
    let error = create(|s| s).await;
    assert!(matches!(error, Error::Image(_)), "{error}");
    let others: [Change; 4] = [
        |s| s.inject_query(true),
        |s| s.inject_body(true),
        |s| s.require_tls_identity(false),
        |s| s.allow_any_host_dangerous(true),
    ];
    for configure in others {
        let error = create(configure).await;
        assert!(matches!(error, Error::Image(_)), "{error}");
    }
}
