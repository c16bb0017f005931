//! Both ends of an HTTP/2 connection through the proxy, by a library that the proxy's own use of it cannot mend.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use ::h2::client::{ResponseFuture, SendRequest};
use ::h2::server::SendResponse;
use ::h2::{RecvStream, SendStream};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use msb_testkit::{CertificateKind, RawOrigin};
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Bench, HOST, OTHER, within};

pub type Taken = (Request<RecvStream>, SendResponse<Bytes>);

/// The same server, offering other protocols.
pub fn speaking(config: &ServerConfig, protocols: &[&[u8]]) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// A handshake through the proxy that offers `protocols`.
pub async fn offer(
    bench: &Bench,
    origin: SocketAddr,
    host: &str,
    protocols: &[&[u8]],
) -> io::Result<TlsStream<TcpStream>> {
    bench.pin(host, origin);
    let stream = bench.connect(origin).await;
    let config = msb_testkit::client_config(bench.proxy.ca().cert_der(), protocols);
    let name = ServerName::try_from(host.to_owned()).unwrap();
    within(TlsConnector::from(config).connect(name, stream)).await
}

/// A guest's requests, and an origin's side of them.
pub struct Ends {
    pub guest: SendRequest<Bytes>,
    /// What the guest's connection ended with.
    pub ended: tokio::task::JoinHandle<Result<(), ::h2::Error>>,
    pub server: mpsc::UnboundedReceiver<Taken>,
    /// Dropped to end the origin's connection in order.
    pub closing: tokio::sync::oneshot::Sender<()>,
}

/// An origin that speaks HTTP/2, and where its requests arrive.
pub async fn origin(bench: &Bench) -> RawOrigin {
    let config = bench.root.server(&[HOST, OTHER], CertificateKind::Good);
    RawOrigin::start(speaking(&config, &[b"h2"])).await
}

pub async fn ends(bench: &Bench, host: &str) -> Ends {
    let speaking = ::h2::server::Builder::new();
    ends_at(bench, host, origin(bench).await, speaking).await
}

/// As [`ends`], with an origin that takes WebSockets on streams (RFC 8441).
pub async fn socket_ends(bench: &Bench, host: &str) -> Ends {
    socket_ends_at(bench, host, origin(bench).await).await
}

pub async fn socket_ends_at(bench: &Bench, host: &str, origin: RawOrigin) -> Ends {
    let mut speaking = ::h2::server::Builder::new();
    speaking.enable_connect_protocol();
    let mut ends = ends_at(bench, host, origin, speaking).await;
    // By then the settings have come.
    let request = Request::get(format!("https://{host}/")).body(()).unwrap();
    let (answer, _) = ends.send(request, true).await;
    let (_, mut respond) = ends.taken().await;
    respond.send_response(Response::new(()), true).unwrap();
    within(answer).await.unwrap();
    while !ends.guest.is_extended_connect_protocol_enabled() {
        within(tokio::task::yield_now()).await;
    }
    ends
}

async fn ends_at(
    bench: &Bench,
    host: &str,
    origin: RawOrigin,
    speaking: ::h2::server::Builder,
) -> Ends {
    let guest = offer(bench, origin.address(), host, &[b"h2", b"http/1.1"]);
    let (guest, server) = tokio::join!(guest, origin.accept());
    let guest = guest.unwrap();
    assert_eq!(guest.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (requests, taken) = mpsc::unbounded_channel();
    let (closing, closed) = tokio::sync::oneshot::channel();
    tokio::spawn(drive_origin(server, speaking, requests, closed));
    let (guest, connection) = within(::h2::client::handshake(guest)).await.unwrap();
    Ends {
        guest,
        ended: tokio::spawn(connection),
        server: taken,
        closing,
    }
}

async fn drive_origin<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    speaking: ::h2::server::Builder,
    requests: mpsc::UnboundedSender<Taken>,
    mut closed: tokio::sync::oneshot::Receiver<()>,
) {
    let Ok(mut connection) = speaking.handshake(stream).await else {
        return;
    };
    let mut open = true;
    loop {
        tokio::select! {
            request = connection.accept() => match request {
                Some(Ok(request)) => { let _ = requests.send(request); }
                _ => return,
            },
            _ = &mut closed, if open => {
                open = false;
                connection.graceful_shutdown();
            }
        }
    }
}

impl Ends {
    pub async fn send(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        within(std::future::poll_fn(|context| {
            self.guest.poll_ready(context)
        }))
        .await
        .unwrap();
        self.guest.send_request(request, end).unwrap()
    }

    pub async fn taken(&mut self) -> Taken {
        within(self.server.recv()).await.expect("a request")
    }

    /// A request with an empty answer, there and back: whatever was sent before it has arrived.
    pub async fn round_trip(&mut self) {
        let (answer, _) = self.send(get("/"), true).await;
        let (_, mut respond) = self.taken().await;
        respond.send_response(Response::new(()), true).unwrap();
        assert_eq!(within(answer).await.unwrap().status(), 200);
    }
}

pub fn get(path: &str) -> Request<()> {
    Request::get(format!("https://{HOST}{path}"))
        .body(())
        .unwrap()
}

pub fn post(path: &str) -> Request<()> {
    Request::post(format!("https://{HOST}{path}"))
        .body(())
        .unwrap()
}

/// The next part of a body.
pub async fn part(body: &mut RecvStream) -> Option<Result<Bytes, ::h2::Error>> {
    let part = within(body.data()).await;
    if let Some(Ok(bytes)) = &part {
        let _ = body.flow_control().release_capacity(bytes.len());
    }
    part
}

/// A body to its end, and its trailers.
pub async fn whole(body: &mut RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut bytes = Vec::new();
    while let Some(part) = part(body).await {
        bytes.extend_from_slice(&part.unwrap());
    }
    (bytes, within(body.trailers()).await.unwrap())
}

/// Frames by hand, for what no library would send.
pub mod raw {
    use super::*;

    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const GOAWAY: u8 = 7;
    pub const CONTINUATION: u8 = 9;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;

    pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// Fields as literals without indexing (RFC 7541 section 6.2.2).
    pub fn fields(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                assert!(text.len() < 127);
                block.push(u8::try_from(text.len()).unwrap());
                block.extend_from_slice(text);
            }
        }
        block
    }

    /// The preface and empty settings.
    pub async fn open(stream: &mut (impl AsyncWrite + Unpin)) {
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    }

    /// How many frames of `kind` a client sent, given all it sent: preface and whole frames.
    pub fn count(bytes: &[u8], kind: u8) -> usize {
        let mut rest = bytes.get(24..).unwrap_or_default();
        let mut count = 0;
        while let [a, b, c, is, ..] = *rest {
            count += usize::from(is == kind);
            let len = u32::from_be_bytes([0, a, b, c]);
            rest = rest.get(9 + len as usize..).unwrap_or_default();
        }
        count
    }

    /// The next frame of one of `kinds`, with its payload; `None` at the end of the stream.
    pub async fn next(
        stream: &mut (impl AsyncRead + Unpin),
        kinds: &[u8],
    ) -> Option<(u8, u32, Vec<u8>)> {
        loop {
            let mut head = [0; 9];
            within(stream.read_exact(&mut head)).await.ok()?;
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(len).unwrap()];
            within(stream.read_exact(&mut payload)).await.ok()?;
            if kinds.contains(&head[3]) {
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                return Some((head[3], stream, payload));
            }
        }
    }
}
