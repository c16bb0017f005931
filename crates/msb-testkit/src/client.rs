//! TLS clients that trust exactly one certificate, and the sockets to give them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A client configuration that trusts `root` alone and offers `alpn`.
#[must_use]
pub fn client_config(root: &CertificateDer<'_>, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone().into_owned()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// Connects to `address` over TLS for `name`, trusting `root` alone and offering `http/1.1`.
///
/// # Errors
///
/// What the connection or the handshake ended with.
pub async fn connect_tls(
    address: SocketAddr,
    name: &str,
    root: &CertificateDer<'_>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    connect_tls_over(stream, name, root).await
}

/// As [`connect_tls`], over a stream that is connected already: a tunnel, say.
///
/// # Errors
///
/// What the handshake ended with.
pub async fn connect_tls_over<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    name: &str,
    root: &CertificateDer<'_>,
) -> io::Result<TlsStream<S>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(client_config(root, &[b"http/1.1"]))
        .connect(name, stream)
        .await
}

/// Sends `request` and reads until the other side ends the stream. What was read before an error
/// (a reset, say) is given all the same.
pub async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
) -> Vec<u8> {
    let mut answer = Vec::new();
    if stream.write_all(request).await.is_ok() && stream.flush().await.is_ok() {
        let _ = stream.read_to_end(&mut answer).await;
    }
    answer
}

/// Two ends of one TCP connection over loopback.
pub async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (near, far) = (near.unwrap(), far.unwrap().0);
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}
