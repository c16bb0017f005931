//! HTTP/1.1 over TLS as a client that costs little: one request text, sent again and again, whose answers must all be of
//! one length.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Requests on connections that stay open.
    Requests {
        /// How many connections at once.
        connections: u64,
        /// For how long.
        seconds: u64,
    },
    /// One request on each connection, with a full handshake.
    Connections {
        /// How many at once.
        connections: u64,
        /// For how long.
        seconds: u64,
    },
    /// One answer of any length.
    Download,
    /// One request with a body.
    Upload {
        /// The body's length in bytes.
        len: u64,
    },
    /// Connections that are opened, used once and left open until standard input ends.
    Idle {
        /// How many.
        connections: u64,
    },
}

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Target {
    /// What is connected to: the server or a proxy.
    pub address: SocketAddr,
    /// The server's name.
    pub name: String,
    /// `HOST:PORT` to ask a proxy for by CONNECT.
    pub connect: Option<String>,
    /// The authority to trust, in PEM.
    pub ca: PathBuf,
    /// The request's path.
    pub path: String,
    /// One more header line.
    pub header: Option<String>,
    /// Whether keys are agreed on by X25519MLKEM768. Else it is X25519, which is all that nginx can do with OpenSSL 3.0,
    /// so that all proxies have the same work.
    pub hybrid: bool,
}

struct Client {
    target: Target,
    tls: TlsConnector,
    name: ServerName<'static>,
}

/// Answers, and how long each took.
#[derive(Default)]
struct Tally {
    micros: Vec<u32>,
    bytes: u64,
}

/// Runs one measurement on one thread; answers a line of `key=value` pairs.
///
/// # Errors
/// A connection that fails, or an answer that is not 200 or of another length than the first.
pub fn run(mode: Mode, target: Target) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = Arc::new(Client::new(target)?);
        match mode {
            Mode::Requests {
                connections,
                seconds,
            } => client.repeat(connections, seconds, false).await,
            Mode::Connections {
                connections,
                seconds,
            } => client.repeat(connections, seconds, true).await,
            Mode::Download => client.transfer(0).await,
            Mode::Upload { len } => client.transfer(len).await,
            Mode::Idle { connections } => client.idle(connections).await,
        }
    })
}

impl Client {
    fn new(target: Target) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&target.ca).context("the CA file")? {
            roots.add(certificate?)?;
        }
        let mut provider = aws_lc_rs::default_provider();
        if !target.hybrid {
            provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        let name = ServerName::try_from(target.name.clone())?;
        Ok(Self {
            target,
            tls: TlsConnector::from(Arc::new(config)),
            name,
        })
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        let mut stream = TcpStream::connect(self.target.address).await?;
        stream.set_nodelay(true)?;
        if let Some(authority) = &self.target.connect {
            let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                ensure!(
                    stream.read_buf(&mut answer).await? > 0,
                    "the proxy ended the connection"
                );
            }
            ensure!(
                answer.starts_with(b"HTTP/1.1 200"),
                "{}",
                String::from_utf8_lossy(&answer)
            );
        }
        Ok(self.tls.connect(self.name.clone(), stream).await?)
    }

    fn request(&self, method: &str, body_len: u64) -> Vec<u8> {
        let Target {
            name, path, header, ..
        } = &self.target;
        let header = header
            .as_ref()
            .map_or_else(String::new, |line| format!("{line}\r\n"));
        let length = if method == "POST" {
            format!("Content-Length: {body_len}\r\n")
        } else {
            String::new()
        };
        format!("{method} {path} HTTP/1.1\r\nHost: {name}\r\nAccept: */*\r\n{header}{length}\r\n")
            .into_bytes()
    }

    async fn repeat(
        self: Arc<Self>,
        connections: u64,
        seconds: u64,
        afresh: bool,
    ) -> Result<String> {
        let start = Instant::now();
        let end = start + Duration::from_secs(seconds);
        let mut workers = JoinSet::new();
        for _ in 0..connections {
            let client = Arc::clone(&self);
            workers.spawn(async move { client.repeat_one(end, afresh).await });
        }
        let mut all = Tally::default();
        while let Some(worker) = workers.join_next().await {
            let tally = worker??;
            all.micros.extend(tally.micros);
            all.bytes += tally.bytes;
        }
        let took = start.elapsed().as_secs_f64();
        ensure!(!all.micros.is_empty(), "no answer came in time");
        all.micros.sort_unstable();
        let count = all.micros.len();
        let at = |share: usize| all.micros[(count - 1) * share / 100];
        Ok(format!(
            "count={count} seconds={took:.3} rate={:.1} p50_us={} p99_us={} bytes={}",
            count as f64 / took,
            at(50),
            at(99),
            all.bytes
        ))
    }

    async fn repeat_one(&self, end: Instant, afresh: bool) -> Result<Tally> {
        let request = self.request("GET", 0);
        let (mut tally, mut buffer, mut answer_len) =
            (Tally::default(), Vec::with_capacity(64 << 10), None);
        let mut stream = None;
        while Instant::now() < end {
            let start = Instant::now();
            let open = match stream.as_mut() {
                Some(open) if !afresh => open,
                _ => stream.insert(self.connect().await?),
            };
            open.write_all(&request).await?;
            let len = match answer_len {
                Some(len) => len,
                None => *answer_len.insert(head_and_len(open, &mut buffer).await?.1),
            };
            while (buffer.len() as u64) < len {
                ensure!(
                    open.read_buf(&mut buffer).await? > 0,
                    "an answer was cut short"
                );
            }
            ensure!(
                buffer.len() as u64 == len,
                "an answer of {} bytes after one of {len}",
                buffer.len()
            );
            ensure!(
                buffer.starts_with(b"HTTP/1.1 200"),
                "{}",
                String::from_utf8_lossy(&buffer)
            );
            buffer.clear();
            tally.bytes += len;
            tally
                .micros
                .push(u32::try_from(start.elapsed().as_micros())?);
            if afresh && let Some(mut done) = stream.take() {
                done.shutdown().await?;
            }
        }
        Ok(tally)
    }

    async fn transfer(self: Arc<Self>, upload: u64) -> Result<String> {
        static CHUNK: [u8; 64 << 10] = [b'x'; 64 << 10];
        let mut stream = self.connect().await?;
        let start = Instant::now();
        stream
            .write_all(&self.request(if upload > 0 { "POST" } else { "GET" }, upload))
            .await?;
        let mut left = upload;
        while left > 0 {
            let part = left.min(CHUNK.len() as u64);
            stream.write_all(&CHUNK[..usize::try_from(part)?]).await?;
            left -= part;
        }
        stream.flush().await?;
        let mut buffer = Vec::with_capacity(256 << 10);
        let (_, len) = head_and_len(&mut stream, &mut buffer).await?;
        ensure!(
            buffer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&buffer[..buffer.len().min(300)])
        );
        let mut got = buffer.len() as u64;
        while got < len {
            buffer.clear();
            let read = stream.read_buf(&mut buffer).await? as u64;
            ensure!(read > 0, "the answer was cut short");
            got += read;
        }
        let took = start.elapsed().as_secs_f64();
        let bytes = upload.max(got);
        Ok(format!(
            "bytes={bytes} seconds={took:.3} rate={:.1}",
            bytes as f64 / took / f64::from(1 << 20)
        ))
    }

    async fn idle(self: Arc<Self>, connections: u64) -> Result<String> {
        let (mut open, mut buffer) = (Vec::new(), Vec::new());
        for _ in 0..connections {
            let mut stream = self.connect().await?;
            stream.write_all(&self.request("GET", 0)).await?;
            let (_, len) = head_and_len(&mut stream, &mut buffer).await?;
            while (buffer.len() as u64) < len {
                ensure!(
                    stream.read_buf(&mut buffer).await? > 0,
                    "an answer was cut short"
                );
            }
            buffer.clear();
            open.push(stream);
        }
        eprintln!("open");
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
        Ok(format!("count={}", open.len()))
    }
}

/// Reads until the head of an answer is whole; answers its length and that of the whole answer.
async fn head_and_len(
    stream: &mut TlsStream<TcpStream>,
    buffer: &mut Vec<u8>,
) -> Result<(u64, u64)> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"));
            let Some(length) = length else {
                bail!("an answer without a length: {head}");
            };
            let head_len = end as u64 + 4;
            return Ok((head_len, head_len + length.trim().parse::<u64>()?));
        }
        ensure!(
            stream.read_buf(buffer).await? > 0,
            "the connection ended before an answer"
        );
    }
}
