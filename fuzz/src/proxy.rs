//! A proxy between two ends in memory, on a clock that moves only when nothing else can.

use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime};

use msb_ca::SandboxCa;
use msb_policy::{BypassList, HttpPolicy, InterceptedConnection};
use msb_secrets::{SecretBuilder, SecretSet, ViolationAction};
use msb_tls_proxy::{
    Config, DeniedRequests, Event, InterceptScope, Limits, NonHttp, TlsProxy, UpstreamTls, fuzzing,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::task::JoinHandle;

/// Where the value may go.
pub const HOST: &str = "a.test";
/// Where it may not.
pub const OTHER: &str = "b.test";
/// The value.
pub const VALUE: &str = "sk-0123456789";
/// What stands for it.
pub const PLACEHOLDER: &str = "$MSB_A";

/// More than an input can fill, so that no end is ever held back by a test that does not read.
const BUFFER: usize = 1 << 20;

/// What no wait may come to: above the longest limit, of idleness.
const HANG: Duration = Duration::from_secs(3600);

type Events = Arc<Mutex<Vec<Event>>>;

/// One is enough: what an input leaves behind in it is a fault as well.
static PROXY: LazyLock<(TlsProxy, Events)> = LazyLock::new(|| {
    let secret = SecretBuilder::new()
        .env("A")
        .value(VALUE)
        .allow_host(HOST)
        .inject_query(true)
        .inject_body(true);
    let secrets = SecretSet::new(vec![secret.build().expect("a good secret")]);
    let (pem, _) = ca();
    let upstream = UpstreamTls::builder().without_system_roots().ca_pem(pem);
    let events = Events::default();
    let sink = Arc::clone(&events);
    let mut limits = Limits::default();
    limits.body_hold = 4096;
    let config = Config {
        ca: ca().1,
        secrets: secrets.expect("a good set"),
        bypass: BypassList::parse([""; 0]).expect("no pattern"),
        upstream: upstream.build().expect("an authority"),
        on_violation: ViolationAction::Block,
        events: Arc::new(move |event| {
            if let Ok(mut events) = sink.lock() {
                events.push(event);
            }
        }),
        limits,
        non_http: NonHttp::default(),
        scope: InterceptScope::default(),
        http_policy: HttpPolicy::default(),
        denied_requests: DeniedRequests::default(),
    };
    (TlsProxy::new(config).expect("a good configuration"), events)
});

fn ca() -> (String, SandboxCa) {
    let ca = SandboxCa::generate("fuzz", SystemTime::now()).expect("a CA");
    (ca.cert_pem().to_owned(), ca)
}

/// One side of a connection.
pub struct End {
    /// `None` once it is closed.
    writer: Option<WriteHalf<DuplexStream>>,
    received: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl End {
    fn new(stream: DuplexStream) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let received = Arc::default();
        Self {
            writer: Some(writer),
            reading: tokio::spawn(collect(reader, Arc::clone(&received))),
            received,
        }
    }

    /// Writes `bytes`, if it is open still.
    pub async fn write(&mut self, bytes: &[u8]) {
        if let Some(writer) = &mut self.writer {
            let _ = tokio::time::timeout(Duration::from_secs(1), writer.write_all(bytes)).await;
        }
    }

    /// Half-closes it.
    pub async fn shut(&mut self) {
        if let Some(mut writer) = self.writer.take() {
            let _ = writer.shutdown().await;
        }
    }
}

fn take(received: &Mutex<Vec<u8>>) -> Vec<u8> {
    received
        .lock()
        .map(|mut it| std::mem::take(&mut *it))
        .unwrap_or_default()
}

async fn collect(mut reader: ReadHalf<DuplexStream>, into: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = reader.read(&mut buffer).await {
        if let Ok(mut into) = into.lock() {
            into.extend_from_slice(&buffer[..read]);
        }
    }
}

/// A connection through the proxy.
pub struct Line {
    pub guest: End,
    pub server: End,
    proxy: JoinHandle<bool>,
}

/// Where a connection leads: dialled by name and verified, so that nothing but the host decides.
fn connection(host: &str) -> InterceptedConnection {
    InterceptedConnection::dialled(host.parse().expect("a name"))
}

/// The proxy between `guest` and `upstream`, until it has ended.
pub fn serve(
    guest: DuplexStream,
    upstream: DuplexStream,
    host: &str,
    http2: bool,
) -> JoinHandle<bool> {
    let connection = connection(host);
    tokio::spawn(async move {
        fuzzing::serve_decrypted(&PROXY.0, guest, upstream, connection, http2).await
    })
}

/// The two ends of a stream.
pub fn pair() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(BUFFER)
}

impl Line {
    /// To `host`, both sides by hand.
    pub fn new(host: &str, http2: bool) -> Self {
        let ((guest, near), (far, server)) = (pair(), pair());
        Self {
            proxy: serve(near, far, host, http2),
            guest: End::new(guest),
            server: End::new(server),
        }
    }

    /// Ends both sides, and gives what the guest and the server got.
    pub async fn end(mut self) -> (Vec<u8>, Vec<u8>) {
        self.guest.shut().await;
        settle().await;
        self.server.shut().await;
        ended(self.proxy).await;
        ended(self.guest.reading).await;
        ended(self.server.reading).await;
        (take(&self.guest.received), take(&self.server.received))
    }
}

/// Waits for a task, which may neither hang nor panic.
pub async fn ended<T>(task: JoinHandle<T>) -> T {
    let ended = tokio::time::timeout(HANG, task).await;
    ended.expect("it hangs").expect("it panicked")
}

/// Lets everything run until it waits for what is not there.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// The events since the last time.
pub fn take_events() -> Vec<Event> {
    let events = PROXY.1.lock();
    events
        .map(|mut it| std::mem::take(&mut *it))
        .unwrap_or_default()
}

/// Runs `future` on a clock of its own.
pub fn run<F: Future<Output = ()>>(future: F) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(future);
}

/// Whether `needle` is in `bytes`.
pub fn holds(bytes: &[u8], needle: &str) -> bool {
    bytes
        .windows(needle.len())
        .any(|it| it == needle.as_bytes())
}

/// The operations in an input: the first byte of each says which, and a byte that no HTTP/1.1 has stands between them.
pub fn operations(data: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    data.split(|byte| *byte == 0x1e)
        .filter_map(|record| record.split_first())
        .map(|(first, rest)| (*first, rest))
        .take(64)
}
