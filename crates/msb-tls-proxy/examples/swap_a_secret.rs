//! A proxy between a client that knows a placeholder and a server that wants the secret.
//!
//! `cargo run -p msb-tls-proxy --example swap_a_secret`
//!
//! The server is a real TLS server on loopback whose certificate only the proxy was told to trust;
//! the client trusts the sandbox's CA alone. The program fails if the server did not receive the value.

#![expect(clippy::print_stdout, reason = "this program shows what happens")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use msb_ca::SandboxCa;
use msb_policy::{BypassList, HttpPolicy, PinTable};
use msb_secrets::{SecretBuilder, SecretSet, ViolationAction};
use msb_testkit::{CertificateKind, Origin, TestRoot};
use msb_tls_proxy::{
    Config, Connection, DeniedRequests, InterceptScope, Limits, NonHttp, Reset, TlsProxy,
    UpstreamTls,
};
use tokio::net::{TcpListener, TcpStream};

const HOST: &str = "api.example.test";

/// A plain socket has nothing better to offer than to be closed.
struct CloseOnly;

impl Reset for CloseOnly {
    fn reset(&self) {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let root = TestRoot::new();
    let origin = Origin::start(root.server(&[HOST], CertificateKind::Good)).await;

    let secret = SecretBuilder::new()
        .env("API_KEY")
        .value("the-real-key")
        .allow_host(HOST)
        .build()?;
    let proxy = TlsProxy::new(Config {
        ca: SandboxCa::generate("example", SystemTime::now())?,
        secrets: SecretSet::new(vec![secret])?,
        bypass: BypassList::default(),
        upstream: UpstreamTls::builder()
            .without_system_roots()
            .ca_pem(root.pem())
            .build()?,
        on_violation: ViolationAction::Block,
        events: Arc::new(|event| println!("event:  {event:?}")),
        limits: Limits::default(),
        non_http: NonHttp::default(),
        scope: InterceptScope::default(),
        http_policy: HttpPolicy::default(),
        denied_requests: DeniedRequests::default(),
    })?;
    let ca = proxy.ca().cert_der().clone();

    // What the sandbox's DNS would have noted when the guest resolved the name.
    let mut pins = PinTable::default();
    let address = origin.address().ip();
    pins.insert(
        HOST.parse()?,
        address,
        Duration::from_secs(60),
        Instant::now(),
    );

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let proxy_address = listener.local_addr()?;
    let upstream = TcpStream::connect(origin.address()).await?;
    let destination = origin.address();
    let serving = tokio::spawn(async move {
        let (guest, _) = listener.accept().await?;
        let connection = Connection {
            guest,
            reset: Arc::new(CloseOnly),
            upstream,
            destination,
            pins: Arc::new(pins.into()),
        };
        proxy.serve(connection).await;
        Ok::<_, std::io::Error>(())
    });

    let request = b"GET /v1 HTTP/1.1\r\nHost: api.example.test\r\nAuthorization: Bearer $MSB_API_KEY\r\nConnection: close\r\n\r\n";
    let mut client = msb_testkit::connect_tls(proxy_address, HOST, &ca).await?;
    let answer = msb_testkit::exchange(&mut client, request).await;
    serving.await??;

    println!("client: sent Authorization: Bearer $MSB_API_KEY");
    println!("client: got {:?}", String::from_utf8_lossy(&answer));
    let received = origin.requests()[0].only_header("authorization");
    println!("server: got Authorization: {received:?}");
    if received.as_deref() == Some("Bearer the-real-key") {
        Ok(())
    } else {
        Err("the server did not receive the key".into())
    }
}
