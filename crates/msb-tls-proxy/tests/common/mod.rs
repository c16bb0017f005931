//! A proxy between loopback sockets: what stands in for a guest, its network and an origin.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses its own part of this"
)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod codings;
pub mod frames;
pub mod h2;
pub mod hello;
pub mod memory;
pub mod strict;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use msb_ca::SandboxCa;
use msb_policy::{BypassList, HttpPolicy, PinTable};
use msb_secrets::{SecretBuilder, SecretSet, ViolationAction};
use msb_testkit::TestRoot;
use msb_tls_proxy::{
    Config, Connection, DeniedRequests, Event, EventSink, InterceptScope, Limits, NonHttp, Reset,
    TlsProxy, UpstreamTls,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub const HOST: &str = "api.example.test";
pub const OTHER: &str = "other.example.test";
pub const PINNED: &str = "pinned.example.test";
pub const VALUE: &str = "sk-real-value-of-the-key";
pub const PLACEHOLDER: &str = "$MSB_API_KEY";

/// The future's output, or a failed test: nothing here takes seconds.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("this should have ended long ago")
}

/// One secret, `API_KEY`, allowed for [`HOST`].
pub fn secrets() -> SecretSet {
    secrets_with_value(VALUE)
}

pub fn secrets_with_value(value: &str) -> SecretSet {
    secrets_with(value, |secret| secret)
}

/// The secret of [`secrets`], with `value`, and with what `change` says.
pub fn secrets_with(value: &str, change: impl FnOnce(SecretBuilder) -> SecretBuilder) -> SecretSet {
    let secret = SecretBuilder::new()
        .env("API_KEY")
        .value(value)
        .allow_host(HOST);
    SecretSet::new(vec![change(secret).build().unwrap()]).unwrap()
}

fn sink(events: &Arc<Mutex<Vec<Event>>>) -> EventSink {
    let events = Arc::clone(events);
    Arc::new(move |event| events.lock().unwrap().push(event))
}

/// With the secret of [`secrets`], trusting `root` alone, and [`PINNED`] bypassed.
pub fn config(root: &TestRoot, events: EventSink) -> Config {
    Config {
        ca: SandboxCa::generate("worker", SystemTime::now()).unwrap(),
        secrets: secrets(),
        bypass: BypassList::parse([PINNED]).unwrap(),
        upstream: UpstreamTls::builder()
            .without_system_roots()
            .ca_pem(root.pem())
            .build()
            .unwrap(),
        on_violation: ViolationAction::Block,
        events,
        limits: Limits::default(),
        non_http: NonHttp::default(),
        scope: InterceptScope::default(),
        http_policy: HttpPolicy::default(),
        denied_requests: DeniedRequests::default(),
    }
}

/// A proxy whose upstream trust is [`TestRoot`] alone.
pub struct Bench {
    pub root: TestRoot,
    pub proxy: TlsProxy,
    pub pins: Arc<Mutex<PinTable>>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let root = TestRoot::new();
        let events = Arc::new(Mutex::new(Vec::new()));
        let mut config = config(&root, sink(&events));
        change(&mut config);
        Self {
            root,
            proxy: TlsProxy::new(config).unwrap(),
            pins: Arc::default(),
            events,
        }
    }

    /// Where the proxy's events go.
    pub fn sink(&self) -> EventSink {
        sink(&self.events)
    }

    /// Says that the sandbox's DNS resolved `name` to `address`.
    pub fn pin(&self, name: &str, address: SocketAddr) {
        self.pins.lock().unwrap().insert(
            name.parse().unwrap(),
            address.ip(),
            Duration::from_secs(60),
            Instant::now(),
        );
    }

    /// The guest's end of a connection to `origin` through the proxy.
    pub async fn connect(&self, origin: SocketAddr) -> TcpStream {
        let (near, far) = msb_testkit::tcp_pair().await;
        self.serve(far, origin).await;
        near
    }

    /// Lets the proxy serve `guest`, connected to `origin`.
    pub async fn serve(&self, guest: TcpStream, origin: SocketAddr) {
        let (guest, reset) = Resettable::new(guest);
        let upstream = TcpStream::connect(origin).await.unwrap();
        upstream.set_nodelay(true).unwrap();
        let connection = Connection {
            guest,
            reset,
            upstream,
            destination: origin,
            pins: Arc::clone(&self.pins),
        };
        let proxy = self.proxy.clone();
        tokio::spawn(async move { proxy.serve(connection).await });
    }

    /// A TLS connection to `origin` for `name`, which the guest's DNS resolved, and whose
    /// certificate the guest accepts because it trusts the sandbox's CA.
    pub async fn tls(&self, origin: SocketAddr, name: &str) -> TlsStream<TcpStream> {
        self.pin(name, origin);
        let stream = self.connect(origin).await;
        handshake(stream, name, &self.proxy.ca().cert_der().clone())
            .await
            .unwrap()
    }

    /// Sends `request` on a new connection for `name`; everything the guest gets until the end.
    pub async fn exchange(&self, origin: SocketAddr, name: &str, request: &str) -> String {
        let mut stream = self.tls(origin, name).await;
        let answer = within(msb_testkit::exchange(&mut stream, request.as_bytes())).await;
        String::from_utf8(answer).unwrap()
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// The first event that `pick` takes, waiting for it.
    pub async fn event<T>(&self, pick: impl Fn(&Event) -> Option<T>) -> T {
        within(async {
            loop {
                if let Some(found) = self.events.lock().unwrap().iter().find_map(&pick) {
                    return found;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

/// A handshake that offers `http/1.1` and trusts `root` alone.
pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    name: &str,
    root: &rustls::pki_types::CertificateDer<'_>,
) -> io::Result<TlsStream<S>> {
    let config = msb_testkit::client_config(root, &[b"http/1.1"]);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    within(TlsConnector::from(config).connect(name, stream)).await
}

/// The certificate the other side presented.
pub fn presented<S>(stream: &TlsStream<S>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// Reads until `end` has been read.
pub async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    use tokio::io::AsyncReadExt as _;
    within(async {
        let mut text = String::new();
        while !text.ends_with(end) {
            match stream.read_u8().await {
                Ok(byte) => text.push(char::from(byte)),
                Err(error) => panic!("{error} after {text:?}, before {end:?}"),
            }
        }
        text
    })
    .await
}

/// Reads until a stream breaks; the error, or a failed test if it ended in order.
pub async fn broken(stream: &mut (impl AsyncRead + Unpin)) -> io::ErrorKind {
    use tokio::io::AsyncReadExt as _;
    let mut rest = Vec::new();
    match within(stream.read_to_end(&mut rest)).await {
        Ok(_) => panic!(
            "the stream ended in order after {:?}",
            String::from_utf8_lossy(&rest)
        ),
        Err(error) => error.kind(),
    }
}

/// A TCP stream that is reset when dropped, if it was told to.
pub struct Resettable {
    stream: TcpStream,
    told: Arc<Told>,
}

#[derive(Default)]
pub struct Told(AtomicBool);

impl Told {
    pub fn was_told(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Reset for Told {
    fn reset(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Resettable {
    pub fn new(stream: TcpStream) -> (Self, Arc<Told>) {
        let told = Arc::new(Told::default());
        let resettable = Self {
            stream,
            told: Arc::clone(&told),
        };
        (resettable, told)
    }
}

impl Drop for Resettable {
    fn drop(&mut self) {
        if self.told.0.load(Ordering::SeqCst) {
            self.stream.set_zero_linger().unwrap();
        }
    }
}

impl AsyncRead for Resettable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A TCP stream of which every read gives one byte.
pub struct ByteByByte(pub TcpStream);

impl AsyncRead for ByteByByte {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut byte = [0];
        let mut one = ReadBuf::new(&mut byte);
        std::task::ready!(Pin::new(&mut self.0).poll_read(context, &mut one))?;
        buffer.put_slice(one.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByteByByte {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
