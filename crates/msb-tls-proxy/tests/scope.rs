//! Which connections are intercepted where only the hosts of secrets are to be (SPEC T13).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Bench, HOST, OTHER, PINNED, PLACEHOLDER, VALUE, handshake, within};
use msb_name::{Host, HostName};
use msb_secrets::{SecretBuilder, SecretSet};
use msb_testkit::{CertificateKind, Origin};
use msb_tls_proxy::{Client, Dialled, Event, InterceptScope};
use tokio::net::TcpStream;

fn named_hosts() -> Bench {
    Bench::with(|config| config.scope = InterceptScope::NamedHosts)
}

async fn origin(bench: &Bench) -> Origin {
    let config = bench
        .root
        .server(&[HOST, OTHER, PINNED], CertificateKind::Good);
    Origin::start(config).await
}

/// Sends a request with a placeholder for `name` on `stream`, trusting nobody but whoever is expected to sign for it,
/// and expects that to arrive.
async fn check(bench: &Bench, origin: &Origin, stream: TcpStream, name: &str, intercepted: bool) {
    let root = match intercepted {
        true => bench.proxy.ca().cert_der().clone(),
        false => bench.root.der(),
    };
    let before = origin.requests().len();
    let mut stream = handshake(stream, name, &root).await.unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {name}\r\nX-Key: {PLACEHOLDER}\r\nConnection: close\r\n\r\n"
    );
    let answer = within(msb_testkit::exchange(&mut stream, request.as_bytes())).await;
    assert!(answer.ends_with(b"hello\n"), "{name}");
    let arrived = origin.requests()[before].only_header("x-key").unwrap();
    assert_eq!(
        arrived,
        if intercepted { VALUE } else { PLACEHOLDER },
        "{name}"
    );
}

fn told_out_of_scope(bench: &Bench) -> Vec<String> {
    let told = bench.events().into_iter().filter_map(|event| match event {
        Event::OutOfScope { host, .. } => Some(host.to_string()),
        _ => None,
    });
    told.collect()
}

#[tokio::test]
async fn only_hosts_that_a_secret_names_are_intercepted_where_that_is_asked_for() {
    let bench = named_hosts();
    let origin = origin(&bench).await;
    for (name, intercepted) in [(HOST, true), (OTHER, false), (PINNED, false)] {
        bench.pin(name, origin.address());
        let stream = bench.connect(origin.address()).await;
        check(&bench, &origin, stream, name, intercepted).await;
    }
    // Bypassed hosts are told of as such.
    assert_eq!(told_out_of_scope(&bench), [OTHER]);
    // A host becomes named while running: its next connection is intercepted.
    let secret = SecretBuilder::new()
        .env("API_KEY")
        .value(VALUE)
        .allow_host(OTHER);
    let secrets = SecretSet::new(vec![secret.build().unwrap()]).unwrap();
    bench.proxy.replace_secrets(secrets);
    for (name, intercepted) in [(OTHER, true), (HOST, false)] {
        let stream = bench.connect(origin.address()).await;
        check(&bench, &origin, stream, name, intercepted).await;
    }
    assert_eq!(told_out_of_scope(&bench), [OTHER, HOST]);
}

/// The name is what counts, not whether the sandbox's DNS gave the address: it gets no secret either way.
#[tokio::test]
async fn an_address_that_dns_did_not_give_is_judged_by_its_server_name() {
    let bench = named_hosts();
    let origin = origin(&bench).await;
    let stream = bench.connect(origin.address()).await;
    check(&bench, &origin, stream, OTHER, false).await;
}

#[tokio::test]
async fn servers_that_the_host_dials_are_in_scope_by_their_names() {
    let bench = named_hosts();
    let origin = origin(&bench).await;
    for (name, intercepted) in [(HOST, true), (OTHER, false)] {
        let (near, far) = msb_testkit::tcp_pair().await;
        let (guest, reset) = common::Resettable::new(far);
        let (proxy, address) = (bench.proxy.clone(), origin.address());
        let host: HostName = name.parse().unwrap();
        tokio::spawn(async move {
            let client = Client {
                guest,
                reset,
                destination: address,
            };
            let dial = |_| async move {
                let upstream = TcpStream::connect(address).await.unwrap();
                Ok(Dialled {
                    upstream,
                    address,
                    host: Host::Name(host),
                })
            };
            proxy.serve_dialling(client, dial).await;
        });
        check(&bench, &origin, near, name, intercepted).await;
    }
}

#[tokio::test]
async fn a_secret_for_every_host_puts_every_host_in_scope() {
    let bench = named_hosts();
    let secret = SecretBuilder::new().env("API_KEY").value(VALUE);
    let secret = secret.allow_any_host_dangerous(true).build().unwrap();
    bench
        .proxy
        .replace_secrets(SecretSet::new(vec![secret]).unwrap());
    let origin = origin(&bench).await;
    bench.pin(OTHER, origin.address());
    let stream = bench.connect(origin.address()).await;
    check(&bench, &origin, stream, OTHER, true).await;
}
