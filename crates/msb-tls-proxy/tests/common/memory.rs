//! Connections through the proxy that never leave memory, so that thousands of them take seconds.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use msb_policy::PinTable;
use msb_tls_proxy::Connection;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf,
};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{Bench, Told, within};

/// More than any message here has.
const BUFFER: usize = 256 * 1024;

/// Where connections in memory lead, as far as the proxy knows.
pub const ADDRESS: &str = "192.0.2.1:443";

/// The two ends of a connection, and what serves it in between.
pub struct Ends {
    pub guest: DuplexStream,
    pub server: DuplexStream,
    pub proxy: JoinHandle<()>,
}

/// The same, after both handshakes.
pub struct TlsEnds {
    pub guest: client::TlsStream<DuplexStream>,
    pub server: server::TlsStream<DuplexStream>,
    pub proxy: JoinHandle<()>,
}

impl Bench {
    /// A connection to [`ADDRESS`], which the names in `pins` were resolved to.
    pub fn in_memory(&self, pins: Arc<Mutex<PinTable>>) -> Ends {
        let (guest, near) = tokio::io::duplex(BUFFER);
        let (far, server) = tokio::io::duplex(BUFFER);
        let connection = Connection {
            guest: near,
            reset: Arc::new(Told::default()),
            upstream: far,
            destination: ADDRESS.parse::<SocketAddr>().unwrap(),
            pins,
        };
        let proxy = self.proxy.clone();
        let proxy = tokio::spawn(async move { proxy.serve(connection).await });
        Ends {
            guest,
            server,
            proxy,
        }
    }

    /// As [`in_memory`](Self::in_memory), with both handshakes, for `name`, done.
    pub async fn tls_in_memory(
        &self,
        name: &str,
        guest: Arc<ClientConfig>,
        server: Arc<ServerConfig>,
    ) -> TlsEnds {
        self.pin(name, ADDRESS.parse().unwrap());
        let ends = self.in_memory(Arc::clone(&self.pins));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let guest = TlsConnector::from(guest).connect(name, ends.guest);
        let server = TlsAcceptor::from(server).accept(ends.server);
        let (guest, server) = within(async { tokio::join!(guest, server) }).await;
        TlsEnds {
            guest: guest.unwrap(),
            server: server.unwrap(),
            proxy: ends.proxy,
        }
    }
}

/// A request and its answer on a connection of its own: that a proxy is none the worse for what went before.
pub async fn still_works(bench: &Bench, guest: &Arc<ClientConfig>, server: &Arc<ServerConfig>) {
    const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
    let name = super::HOST;
    let mut ends = bench
        .tls_in_memory(name, Arc::clone(guest), Arc::clone(server))
        .await;
    let request = format!("GET /still-works HTTP/1.1\r\nHost: {name}\r\n\r\n");
    ends.guest.write_all(request.as_bytes()).await.unwrap();
    super::read_until(&mut ends.server, "\r\n\r\n").await;
    ends.server.write_all(ANSWER).await.unwrap();
    let mut answer = Vec::new();
    within(ends.guest.read_to_end(&mut answer)).await.unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 204 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

/// A stream that keeps all that is read from it.
pub struct Tee<S> {
    inner: S,
    log: Arc<Mutex<Vec<u8>>>,
}

impl<S> Tee<S> {
    pub fn new(inner: S) -> (Self, Arc<Mutex<Vec<u8>>>) {
        let log = Arc::<Mutex<Vec<u8>>>::default();
        let tee = Self {
            inner,
            log: Arc::clone(&log),
        };
        (tee, log)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tee<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let new = &buffer.filled()[before..];
        self.log.lock().unwrap().extend_from_slice(new);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tee<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
