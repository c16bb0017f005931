//! Attack 11: what arrives at a server that keeps every byte, against what policy saw of what was sent.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "smuggling/payloads.rs"]
mod payloads;

use std::sync::Arc;
use std::time::Duration;

use common::memory::TlsEnds;
use common::strict::{self, Message, Reading};
use common::{Bench, HOST, read_until, within};
use msb_testkit::{CertificateKind, client_config};
use msb_tls_proxy::Event;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Answers each request that is whole, and gives all bytes that came.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Vec<u8> {
    let mut received = Vec::new();
    let mut answered = 0;
    while let Ok(1..) = stream.read_buf(&mut received).await {
        let reading = strict::requests(&received, false);
        for _ in answered..reading.whole.len() {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            let _ = stream.write_all(answer).await;
            let _ = stream.flush().await;
        }
        answered = reading.whole.len();
    }
    received
}

struct Lab {
    bench: Bench,
    guest: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    events_seen: usize,
    /// Another connection of the same proxy, open all the while.
    neighbour: TlsEnds,
}

impl Lab {
    async fn new() -> Self {
        let bench = Bench::with(|config| {
            // A server that never says it is not what this is about.
            config.limits.continue_wait = Duration::from_millis(1);
        });
        let guest = client_config(bench.proxy.ca().cert_der(), &[b"http/1.1"]);
        let server = bench.root.server(&[HOST], CertificateKind::Good);
        let neighbour = bench
            .tls_in_memory(HOST, Arc::clone(&guest), Arc::clone(&server))
            .await;
        Self {
            events_seen: bench.events().len(),
            bench,
            guest,
            server,
            neighbour,
        }
    }

    /// Sends `input` on a connection of its own, cut at `cut`; what the server received.
    async fn received(&self, input: &[u8], cut: usize) -> Vec<u8> {
        let (guest, server) = (Arc::clone(&self.guest), Arc::clone(&self.server));
        let mut ends = self.bench.tls_in_memory(HOST, guest, server).await;
        let serving = tokio::spawn(serve(ends.server));
        let (first, second) = input.split_at(cut.min(input.len()));
        for part in [first, second] {
            // It may be refused before all is written.
            let _ = ends.guest.write_all(part).await;
            let _ = ends.guest.flush().await;
            tokio::task::yield_now().await;
        }
        let _ = ends.guest.shutdown().await;
        let mut answer = Vec::new();
        let _ = within(ends.guest.read_to_end(&mut answer)).await;
        within(ends.proxy).await.unwrap();
        within(serving).await.unwrap()
    }

    /// What the proxy says that it passed on, since the last time.
    fn passed_on(&mut self) -> Vec<(String, String)> {
        let events = self.bench.events().split_off(self.events_seen);
        self.events_seen += events.len();
        let requests = events.into_iter().filter_map(|event| match event {
            Event::Request { method, path, .. } => Some((method, path)),
            _ => None,
        });
        requests.collect()
    }

    /// How many requests of `input` arrived whole, or what is wrong with what arrived.
    async fn check(&mut self, input: &[u8], cut: usize) -> Result<usize, String> {
        let received = self.received(input, cut).await;
        let passed_on = self.passed_on();
        self.check_neighbour().await;
        judge(input, &received, &passed_on).map_err(|fault| {
            let [input, received] = [input, &received].map(|it| it.escape_ascii().to_string());
            format!("{fault}, cut at {cut}\n  sent {input}\n  received {received}\n")
        })
    }

    /// Another connection goes on as if nothing had been.
    async fn check_neighbour(&mut self) {
        let TlsEnds { guest, server, .. } = &mut self.neighbour;
        let request = format!("GET /neighbour HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        guest.write_all(request.as_bytes()).await.unwrap();
        let arrived = read_until(server, "\r\n\r\n").await;
        assert!(arrived.starts_with("GET /neighbour "), "{arrived}");
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        server.write_all(answer).await.unwrap();
        assert_eq!(read_until(guest, "\r\n\r\n").await.as_bytes(), answer);
        assert_eq!(self.passed_on().len(), 1);
    }
}

/// The oracle: what arrived reads as the first of the requests that were sent, in full where they are whole, and as
/// those that policy saw.
fn judge(
    input: &[u8],
    received: &[u8],
    passed_on: &[(String, String)],
) -> Result<usize, &'static str> {
    let sent = strict::requests(input, true);
    let Reading {
        whole,
        broken,
        fault,
    } = strict::requests(received, false);
    let cut_off = ["a head that breaks off", "a body that breaks off"];
    if let Some(fault) = fault.filter(|fault| !cut_off.contains(fault)) {
        return Err(fault);
    }
    if whole.len() > sent.whole.len() {
        return Err("more requests arrived than were sent");
    }
    if !whole
        .iter()
        .zip(&sent.whole)
        .all(|(it, sent)| same(it, sent, true))
    {
        return Err("another request arrived than was sent");
    }
    if let Some(broken) = &broken {
        let next = sent.whole.get(whole.len()).or(sent.broken.as_ref());
        if !next.is_some_and(|sent| same(broken, sent, false)) {
            return Err("the beginning of another request arrived");
        }
    }
    if !whole.iter().map(told).eq(passed_on.iter().cloned()) {
        return Err("policy saw something else");
    }
    Ok(whole.len())
}

/// Whether a server got what the guest sent: as a request that proxies rewrite as little as they may.
fn same(arrived: &Message, sent: &Message, whole: bool) -> bool {
    let [method, target, version] = &sent.line;
    let absolute = target.split_once("://").filter(|(scheme, rest)| {
        let authority = rest.split(['/', '?']).next().unwrap();
        scheme.eq_ignore_ascii_case("https") && authority.eq_ignore_ascii_case(HOST)
    });
    let origin_form = match absolute.map(|(_, rest)| &rest[HOST.len()..]) {
        Some(path) if path.starts_with('/') => path.to_owned(),
        Some(query) => format!("/{query}"),
        None => target.clone(),
    };
    let line = arrived.line[..2] == [method.clone(), origin_form];
    let known = |(name, value): &(String, Vec<u8>)| {
        let of_this_hop = ["connection", "transfer-encoding", "content-length"];
        sent.fields.contains(&(name.clone(), value.clone()))
            || of_this_hop.contains(&&**name)
            || name == "accept-encoding" && value == b"identity"
            || name == "te" && value == b"trailers"
    };
    let body = match whole {
        true => arrived.body == sent.body,
        false => sent.body.starts_with(&arrived.body),
    };
    let host = arrived.all("host") == [HOST.as_bytes()]
        || arrived.all("host") == sent.all("host") && sent.all("host").len() == 1;
    let no_upgrade =
        arrived.all("http2-settings").is_empty() && !arrived.all("upgrade").contains(&&b"h2c"[..]);
    let look_alikes = ["content_length", "transfer_encoding"];
    line && host
        && body
        && no_upgrade
        && arrived.line[2] == "HTTP/1.1"
        && (version == "HTTP/1.1" || version == "HTTP/1.0")
        && arrived.fields.iter().all(known)
        && !arrived
            .fields
            .iter()
            .any(|(name, _)| look_alikes.contains(&&**name))
}

/// Method and path of a request as an event tells them.
fn told(request: &Message) -> (String, String) {
    let path = request.line[1].split('?').next().unwrap();
    let visible = |byte: u8| match byte.is_ascii_graphic() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    (request.line[0].clone(), path.bytes().map(visible).collect())
}

/// Sends every payload, cut once, at the end of another line each.
async fn check(payloads: Vec<payloads::Payload>, least_refused: usize, least_arrived: usize) {
    let mut lab = Lab::new().await;
    let (mut refused, mut faults) = (0, Vec::new());
    for (number, (name, input)) in payloads.iter().enumerate() {
        let lines = memchr::memchr_iter(b'\n', input).map(|at| at + 1);
        let cuts: Vec<_> = lines.collect();
        match lab.check(input, cuts[number % cuts.len()]).await {
            Ok(0) => refused += 1,
            Ok(_) => {}
            Err(fault) => faults.push(format!("{name}: {fault}")),
        }
    }
    let count = faults.len();
    assert!(faults.is_empty(), "{count} faults\n{}", faults.concat());
    // Neither a proxy that refuses everything nor one that refuses nothing passes.
    let arrived = payloads.len() - refused;
    assert!(
        refused >= least_refused && arrived >= least_arrived,
        "{refused} refused, {arrived} arrived"
    );
}

/// Attack 11: CL.TE, TE.CL, TE.TE, CL.0, 0.CL.
#[tokio::test]
async fn framing_fields_in_every_disguise_hide_no_request() {
    check(payloads::framings(), 300, 30).await;
}

/// Attack 11.
#[tokio::test]
async fn odd_bytes_around_framing_fields_hide_no_request() {
    check(payloads::odd_bytes(), 400, 80).await;
}

/// Attack 11: both framings at once, one of them in disguise.
#[tokio::test]
async fn two_framings_in_every_disguise_hide_no_request() {
    check(payloads::lengths_and_codings(), 300, 20).await;
}

/// Attack 11: sizes, extensions, ends and trailers of chunks.
#[tokio::test]
async fn odd_chunks_hide_no_request() {
    check(payloads::chunks(), 70, 10).await;
}

/// Attack 11.
#[tokio::test]
async fn odd_request_lines_hide_no_request() {
    check(payloads::request_lines(), 150, 60).await;
}

/// Attack 11.
#[tokio::test]
async fn odd_hosts_hide_no_request() {
    check(payloads::hosts(), 60, 6).await;
}

/// Attack 11: what is read beyond a request's end, and bodies where none is expected.
#[tokio::test]
async fn pipelined_requests_are_each_seen() {
    check(payloads::pipelines(), 25, 60).await;
}

/// Attacks 11, 12 and 14: expectations, upgrades, and fields that end at this hop.
#[tokio::test]
async fn expectations_and_upgrades_hide_no_request() {
    check(payloads::switches(), 40, 40).await;
}
