//! Attack 1 as one table: every combination of what a guest and a server can say about whom a request is for.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::h2::raw::{self, GOAWAY, HEADERS, RST_STREAM};
use common::h2::speaking;
use common::hello::hello_for;
use common::memory::{ADDRESS, Tee};
use common::{Bench, HOST, OTHER, PLACEHOLDER, VALUE, within};
use msb_policy::PinTable;
use msb_testkit::CertificateKind;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What one place says, against the host that the secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Equal,
    Different,
    Absent,
    Malformed,
}

const SAID: [Said; 4] = [Said::Equal, Said::Different, Said::Absent, Said::Malformed];

/// What the server presents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certificate {
    ForHost,
    ForOther,
    ForBoth,
    ForStranger,
    /// It answers without TLS.
    Absent,
    /// What it presents cannot be read.
    Malformed,
}

const CERTIFICATES: [Certificate; 6] = [
    Certificate::ForHost,
    Certificate::ForOther,
    Certificate::ForBoth,
    Certificate::ForStranger,
    Certificate::Absent,
    Certificate::Malformed,
];

/// What the sandbox's DNS gave the address for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Address {
    Pinned,
    Unpinned,
    PinnedToOther,
}

const ADDRESSES: [Address; 3] = [Address::Pinned, Address::Unpinned, Address::PinnedToOther];

/// What a connection says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    http2: bool,
    server_name: Said,
    certificate: Certificate,
    address: Address,
}

/// What a request on it says.
#[derive(Clone, Copy, Debug)]
struct Row {
    number: usize,
    way: Way,
    host: Said,
    /// In HTTP/1.1 that of an absolute target.
    authority: Said,
    placeholder: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Substituted,
    Unchanged,
    Blocked,
}

/// The oracle: a request arrives where everything agrees on one host, and the value with it where that is the
/// secret's host and the address was resolved from it.
impl Row {
    fn outcome(self) -> Outcome {
        let Some(asked) = self.way.asked() else {
            return Outcome::Blocked;
        };
        let verified = match self.way.certificate {
            Certificate::ForHost => asked == HOST,
            Certificate::ForOther => asked == OTHER,
            Certificate::ForBoth => true,
            Certificate::ForStranger | Certificate::Absent | Certificate::Malformed => false,
        };
        let secret_goes = asked == HOST && self.way.address == Address::Pinned;
        match verified && self.named() == Some(asked) {
            true if !self.placeholder => Outcome::Unchanged,
            true if secret_goes => Outcome::Substituted,
            _ => Outcome::Blocked,
        }
    }

    /// Whom the request is for, if it says so in one way.
    fn named(self) -> Option<&'static str> {
        let said = match (self.host, self.authority) {
            (host, Said::Absent) => host,
            (Said::Absent, authority) if self.way.http2 => authority,
            (host, authority) if host == authority => host,
            _ => return None,
        };
        match said {
            Said::Equal => Some(HOST),
            Said::Different => Some(OTHER),
            Said::Absent | Said::Malformed => None,
        }
    }
}

impl Way {
    /// Whom the connection is for: who is named, or else was resolved.
    fn asked(self) -> Option<&'static str> {
        match (self.server_name, self.address) {
            (Said::Equal, _) | (Said::Absent, Address::Pinned) => Some(HOST),
            (Said::Different, _) | (Said::Absent, Address::PinnedToOther) => Some(OTHER),
            (Said::Absent, Address::Unpinned) | (Said::Malformed, _) => None,
        }
    }
}

/// `said` in one of its spellings, another one for each `number`.
fn spelled(said: Said, number: usize) -> Option<&'static str> {
    let spellings: &[&str] = match said {
        Said::Absent => return None,
        Said::Equal => &[
            "api.example.test",
            "API.Example.TEST",
            "api.example.test.",
            "api.example.test:443",
        ],
        Said::Different => &[
            "other.example.test",
            "OTHER.example.test",
            "other.example.test.",
            "other.example.test:443",
        ],
        Said::Malformed => &[
            "",
            "guest@api.example.test",
            "api.example.test:99999",
            "api.example.test:443:443",
            "api..example.test",
            ".api.example.test",
            "api.example.test,other.example.test",
            "api.example.test other.example.test",
            "api.example.test\0",
            "api.example.test/",
            "api.example.test#",
            "%61pi.example.test",
            "[::1",
            "\u{e4}pi.example.test",
            "*.example.test",
            "api.\texample.test",
            "https://api.example.test",
        ],
    };
    Some(spellings[number % spellings.len()])
}

/// A server name that is none, another one for each `number`.
fn malformed_server_name(number: usize) -> &'static [u8] {
    const NAMES: [&[u8]; 5] = [
        b"",
        b"api.example.test\0",
        b"api.example.test:443",
        b"\xffpi.example.test",
        b"api..example.test",
    ];
    NAMES[number % NAMES.len()]
}

/// A request as a server received it.
#[derive(Debug)]
struct Arrived {
    target: String,
    credentials: String,
}

type Log = Arc<Mutex<Vec<Arrived>>>;

/// One connection of the server, with the bytes as they came.
async fn serve(stream: DuplexStream, config: Option<Arc<ServerConfig>>, log: Log) {
    let Some(config) = config else {
        return serve_without_tls(stream).await;
    };
    let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else {
        return;
    };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let (stream, bytes) = Tee::new(stream);
    let before = bytes.lock().unwrap().len();
    assert_eq!(before, 0);
    if !http2 {
        return serve_http1(stream, log).await;
    }
    let mut served = 0;
    if let Ok(mut connection) = ::h2::server::handshake(stream).await {
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            served += 1;
            let credentials = request.headers()["authorization"].to_str().unwrap();
            log.lock().unwrap().push(Arrived {
                target: request.uri().path().to_owned(),
                credentials: credentials.to_owned(),
            });
            let answer = http::Response::builder().status(204).body(()).unwrap();
            respond.send_response(answer, true).unwrap();
        }
    }
    // What the library would not show as a request.
    assert_eq!(raw::count(&bytes.lock().unwrap(), HEADERS), served);
}

async fn serve_without_tls(mut stream: DuplexStream) {
    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received).await;
    let clear = received
        .windows(VALUE.len())
        .any(|it| it == VALUE.as_bytes());
    assert!(!clear && !received.windows(4).any(|it| it == b"GET "));
}

async fn serve_http1(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    log: Log,
) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return assert_eq!(String::from_utf8_lossy(&head), "", "half a request"),
            }
        }
        let head = String::from_utf8(head).unwrap();
        let line = head.lines().next().unwrap();
        let target = line.strip_prefix("GET ").unwrap();
        let credentials = head
            .lines()
            .find_map(|line| line.strip_prefix("Authorization: "));
        log.lock().unwrap().push(Arrived {
            target: target.strip_suffix(" HTTP/1.1").unwrap().to_owned(),
            credentials: credentials.unwrap().to_owned(),
        });
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    }
}

/// Presents what is no certificate.
#[derive(Debug)]
struct Garbage(Arc<CertifiedKey>);

impl ResolvesServerCert for Garbage {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// The whole table, against one proxy.
struct Table {
    bench: Bench,
    log: Log,
    guests: HashMap<(bool, bool), Arc<ClientConfig>>,
    ended: Vec<JoinHandle<()>>,
}

/// A guest's end of a connection.
struct Guest {
    stream: TlsStream<DuplexStream>,
    streams: u32,
}

impl Table {
    fn new() -> Self {
        let bench = Bench::new();
        let ca = bench.proxy.ca().cert_der();
        let guest = |http2: bool, names_server: bool| {
            let protocol: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
            let mut config = (*msb_testkit::client_config(ca, &[protocol])).clone();
            config.enable_sni = names_server;
            ((http2, names_server), Arc::new(config))
        };
        let guests = [(false, false), (false, true), (true, false), (true, true)];
        Self {
            guests: guests.map(|(http2, named)| guest(http2, named)).into(),
            bench,
            log: Log::default(),
            ended: Vec::new(),
        }
    }

    /// What a server with this certificate answers with; `None` for one without TLS.
    fn server(&self, certificate: Certificate) -> Option<Arc<ServerConfig>> {
        let names: &[&str] = match certificate {
            Certificate::ForHost | Certificate::Malformed => &[HOST],
            Certificate::ForOther => &[OTHER],
            Certificate::ForBoth => &[HOST, OTHER],
            Certificate::ForStranger => &["stranger.example.test"],
            Certificate::Absent => return None,
        };
        let config = self.bench.root.server(names, CertificateKind::Good);
        let mut config = (*speaking(&config, &[b"h2", b"http/1.1"])).clone();
        if certificate == Certificate::Malformed {
            let (_, key) = self.bench.root.issue(names, CertificateKind::Good);
            let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
            let garbage = vec![CertificateDer::from(b"no certificate".to_vec())];
            config.cert_resolver = Arc::new(Garbage(Arc::new(CertifiedKey::new(garbage, key))));
        }
        Some(Arc::new(config))
    }

    /// A connection as `way` says; `None` where there is none to ask anything on.
    async fn open(
        &mut self,
        way: Way,
        number: usize,
        server: Option<&Arc<ServerConfig>>,
    ) -> Option<Guest> {
        let mut pins = PinTable::default();
        let pinned = match way.address {
            Address::Pinned => Some(HOST),
            Address::Unpinned => None,
            Address::PinnedToOther => Some(OTHER),
        };
        if let Some(name) = pinned {
            let address = ADDRESS.parse::<std::net::SocketAddr>().unwrap().ip();
            let (name, ttl) = (name.parse().unwrap(), Duration::from_secs(60));
            pins.insert(name, address, ttl, Instant::now());
        }
        let ends = self.bench.in_memory(Arc::new(Mutex::new(pins)));
        let log = Arc::clone(&self.log);
        self.ended.push(ends.proxy);
        self.ended
            .push(tokio::spawn(serve(ends.server, server.cloned(), log)));
        let mut stream = ends.guest;
        if way.server_name == Said::Malformed {
            let hello = hello_for(malformed_server_name(number));
            stream.write_all(&hello).await.unwrap();
            let mut answer = Vec::new();
            let _ = within(stream.read_to_end(&mut answer)).await;
            assert!(answer.is_empty() || answer[0] == 21, "{way:?} {answer:?}");
            return None;
        }
        let name = match way.asked() {
            Some(name) => ServerName::try_from(name).unwrap(),
            None => ServerName::try_from("192.0.2.1").unwrap(),
        };
        let config = &self.guests[&(way.http2, way.server_name != Said::Absent)];
        let connector = TlsConnector::from(Arc::clone(config));
        let mut stream = within(connector.connect(name, stream)).await.unwrap();
        if way.http2 {
            raw::open(&mut stream).await;
        }
        Some(Guest { stream, streams: 0 })
    }
}

impl Guest {
    /// Whether the server's answer came, and whether more may be asked on this connection.
    async fn ask(&mut self, row: Row) -> (bool, bool) {
        let credentials = if row.placeholder { PLACEHOLDER } else { "none" };
        let path = format!("/row-{}", row.number);
        let host = spelled(row.host, row.number);
        let authority = spelled(row.authority, row.number);
        if row.way.http2 {
            self.ask_http2(&path, host, authority, credentials).await
        } else {
            self.ask_http1(&path, host, authority, credentials).await
        }
    }

    async fn ask_http1(
        &mut self,
        path: &str,
        host: Option<&str>,
        authority: Option<&str>,
        credentials: &str,
    ) -> (bool, bool) {
        let target = authority.map_or_else(|| path.to_owned(), |it| format!("https://{it}{path}"));
        let host = host.map_or(String::new(), |host| format!("Host: {host}\r\n"));
        let request =
            format!("GET {target} HTTP/1.1\r\n{host}Authorization: {credentials}\r\n\r\n");
        if self.stream.write_all(request.as_bytes()).await.is_err() {
            return (false, false);
        }
        let mut head = Vec::new();
        let whole = within(async {
            while !head.ends_with(b"\r\n\r\n") {
                match self.stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return false,
                }
            }
            true
        });
        let whole = whole.await;
        let served = whole && head.starts_with(b"HTTP/1.1 204 ");
        (served, served)
    }

    async fn ask_http2(
        &mut self,
        path: &str,
        host: Option<&str>,
        authority: Option<&str>,
        credentials: &str,
    ) -> (bool, bool) {
        const NO_CONTENT: u8 = 0x80 | 9;
        let mut fields: Vec<(&[u8], &[u8])> = vec![
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":path", path.as_bytes()),
        ];
        fields.extend(authority.map(|it| (&b":authority"[..], it.as_bytes())));
        fields.extend(host.map(|it| (&b"host"[..], it.as_bytes())));
        fields.push((b"authorization", credentials.as_bytes()));
        let stream = self.streams * 2 + 1;
        self.streams += 1;
        let flags = raw::END_HEADERS | raw::END_STREAM;
        let frame = raw::frame(HEADERS, flags, stream, &raw::fields(&fields));
        if self.stream.write_all(&frame).await.is_err() {
            return (false, false);
        }
        let kinds = [HEADERS, RST_STREAM, GOAWAY];
        match raw::next(&mut self.stream, &kinds).await {
            Some((HEADERS, of, block)) if of == stream => (block[0] == NO_CONTENT, true),
            Some((RST_STREAM, of, _)) if of == stream => (false, true),
            _ => (false, false),
        }
    }
}

fn ways() -> Vec<Way> {
    let mut ways = Vec::new();
    for http2 in [false, true] {
        for server_name in SAID {
            for certificate in CERTIFICATES {
                ways.extend(ADDRESSES.map(|address| Way {
                    http2,
                    server_name,
                    certificate,
                    address,
                }));
            }
        }
    }
    ways
}

fn rows(way: Way, numbers: &mut std::ops::RangeFrom<usize>) -> Vec<Row> {
    let mut rows = Vec::new();
    for placeholder in [false, true] {
        for host in SAID {
            rows.extend(SAID.map(|authority| Row {
                number: numbers.next().unwrap(),
                way,
                host,
                authority,
                placeholder,
            }));
        }
    }
    rows
}

/// Attack 1.
#[tokio::test]
async fn a_value_goes_out_exactly_where_name_host_authority_certificate_and_address_agree() {
    let mut table = Table::new();
    let servers: Vec<_> = CERTIFICATES.map(|kind| (kind, table.server(kind))).into();
    let (mut all, mut numbers, mut connections) = (Vec::new(), 0.., 0);
    for way in ways() {
        let (_, server) = servers.iter().find(|it| it.0 == way.certificate).unwrap();
        let mut guest = None;
        for row in rows(way, &mut numbers) {
            if guest.is_none() {
                guest = table.open(way, row.number, server.as_ref()).await;
                connections += 1;
            }
            let served = match &mut guest {
                None => false,
                Some(open) => {
                    let (served, open) = open.ask(row).await;
                    guest = guest.filter(|_| open);
                    served
                }
            };
            assert_eq!(served, row.outcome() != Outcome::Blocked, "{row:?}");
            all.push(row);
        }
        drop(guest);
        // Nothing arrives late: both sides have ended.
        for task in table.ended.drain(..) {
            within(task).await.unwrap();
        }
    }
    check_arrivals(&all, &table.log.lock().unwrap());
    assert_eq!(all.len(), 2 * 4 * 6 * 3 * 4 * 4 * 2);
    assert!(connections < all.len());
}

/// Compares what arrived with what may.
#[track_caller]
fn check_arrivals(rows: &[Row], arrived: &[Arrived]) {
    let mut by_target: HashMap<&str, Vec<&str>> = HashMap::new();
    for Arrived {
        target,
        credentials,
    } in arrived
    {
        by_target.entry(target).or_default().push(credentials);
    }
    let mut seen = HashMap::<_, usize>::new();
    for row in rows {
        let found = by_target.remove(&*format!("/row-{}", row.number));
        let expected: Option<Vec<&str>> = match row.outcome() {
            Outcome::Substituted => Some(vec![VALUE]),
            Outcome::Unchanged => Some(vec!["none"]),
            Outcome::Blocked => None,
        };
        assert_eq!(found, expected, "{row:?}");
        *seen.entry(format!("{:?}", row.outcome())).or_default() += 1;
    }
    assert!(by_target.is_empty(), "nobody asked for {by_target:?}");
    assert_eq!(seen.len(), 3, "the table shows every outcome: {seen:?}");
}
