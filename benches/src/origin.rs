//! A TLS server to measure against: it checks what reaches it, and its handshakes are always whole ones, with X25519.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The length of the small answer's body.
pub const SMALL: usize = 1024;
/// The length of the large answer's body, at `/big`.
pub const BIG: usize = 1 << 30;

/// Serves until the process ends. `expected` is a header line that every request has to have, word for word; one without
/// it is answered 403.
///
/// # Errors
/// A certificate or key that cannot be used, an address that is taken.
pub fn serve(
    certificate: &Path,
    key: &Path,
    expected: &str,
    ready: impl FnOnce(SocketAddr),
) -> Result<()> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key).context("the key")?;
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let expected: Arc<[u8]> = format!("\r\n{expected}\r\n")
        .to_ascii_lowercase()
        .into_bytes()
        .into();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        ready(listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            let (acceptor, expected) = (acceptor.clone(), Arc::clone(&expected));
            tokio::spawn(async move {
                // A client that goes away is no news.
                let _ = connection(stream, &acceptor, &expected).await;
            });
        }
    })
}

async fn connection(stream: TcpStream, acceptor: &TlsAcceptor, expected: &[u8]) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    let mut buffer = Vec::with_capacity(256 << 10);
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = buffer[..end].to_ascii_lowercase();
        let right = head
            .windows(expected.len())
            .any(|window| window == expected);
        let mut body = end as u64 + content_length(&head);
        while body > buffer.len() as u64 {
            body -= buffer.len() as u64;
            buffer.clear();
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        buffer.drain(..usize::try_from(body)?);
        answer(&mut stream, right, head.starts_with(b"get /big ")).await?;
    }
}

fn content_length(head: &[u8]) -> u64 {
    let head = String::from_utf8_lossy(head);
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    length
        .and_then(|length| length.trim().parse().ok())
        .unwrap_or(0)
}

async fn answer(stream: &mut TlsStream<TcpStream>, right: bool, big: bool) -> Result<()> {
    static BODY: [u8; 64 << 10] = [b'.'; 64 << 10];
    let len = if big { BIG } else { SMALL };
    let status = if right { "200 OK" } else { "403 Forbidden" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nContent-Length: {len}\r\n\r\n"
    );
    let mut first = head.into_bytes();
    first.extend_from_slice(&BODY[..SMALL]);
    stream.write_all(&first).await?;
    let mut left = len - SMALL;
    while left > 0 {
        let part = left.min(BODY.len());
        stream.write_all(&BODY[..part]).await?;
        left -= part;
    }
    Ok(stream.flush().await?)
}
