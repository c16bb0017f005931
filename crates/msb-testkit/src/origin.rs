//! TLS origins on loopback, on ports of the system's choice.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::record::{Received, RecordedRequest, Recording};

/// What an [`Origin`] answers to a request it has received whole.
pub type Handler = Arc<dyn Fn(&RecordedRequest) -> Response<Full<Bytes>> + Send + Sync>;

/// An HTTP server over TLS that writes down everything it receives: HTTP/1.1, or HTTP/2 where its TLS configuration
/// offers `h2` and the client takes it.
///
/// It answers `GET /status/204` and the like with that status and no body, `/echo` with the body it
/// got, and anything else with `hello`; or what its [`Handler`] says. Dropping it closes it.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    log: Arc<Log>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Log {
    requests: Mutex<Vec<RecordedRequest>>,
    arrived: Notify,
    received: Arc<Received>,
    connections: AtomicUsize,
    handshakes: AtomicUsize,
}

impl Origin {
    /// Listens on loopback with the given TLS configuration.
    pub async fn start(config: Arc<ServerConfig>) -> Self {
        Self::start_with(config, Arc::new(default_answer)).await
    }

    /// As [`start`](Self::start), answering what `handler` says.
    pub async fn start_with(config: Arc<ServerConfig>, handler: Handler) -> Self {
        Self::listen((Ipv4Addr::LOCALHOST, 0).into(), config, handler).await
    }

    /// As [`start_with`](Self::start_with), on an address of the caller's choice.
    pub async fn listen(address: SocketAddr, config: Arc<ServerConfig>, handler: Handler) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Log::default());
        let acceptor = TlsAcceptor::from(config);
        let task = tokio::spawn(accept_all(listener, acceptor, Arc::clone(&log), handler));
        Self { address, log, task }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests so far, whole or broken off.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.log.requests.lock().unwrap().clone()
    }

    /// Waits until `count` requests have arrived, and gives them. It waits for ever if they do not.
    pub async fn wait_for(&self, count: usize) -> Vec<RecordedRequest> {
        loop {
            let arrived = self.log.arrived.notified();
            let requests = self.requests();
            if requests.len() >= count {
                return requests;
            }
            arrived.await;
        }
    }

    /// All bytes received after TLS, over all connections.
    #[must_use]
    pub fn received(&self) -> Vec<u8> {
        self.log.received.bytes()
    }

    /// How many TCP connections were accepted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.log.connections.load(Ordering::SeqCst)
    }

    /// How many of them got through their TLS handshake.
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.log.handshakes.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept_all(listener: TcpListener, acceptor: TlsAcceptor, log: Arc<Log>, handler: Handler) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        log.connections.fetch_add(1, Ordering::SeqCst);
        let (acceptor, log) = (acceptor.clone(), Arc::clone(&log));
        connections.spawn(drive_connection(
            stream,
            acceptor,
            log,
            Arc::clone(&handler),
        ));
    }
}

async fn drive_connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    log: Arc<Log>,
    handler: Handler,
) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    log.handshakes.fetch_add(1, Ordering::SeqCst);
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = Recording {
        inner: stream,
        received: Arc::clone(&log.received),
    };
    let service = service_fn(move |request| {
        let (log, handler) = (Arc::clone(&log), Arc::clone(&handler));
        async move {
            let request = record(request).await;
            let mut answer = handler(&request);
            if http2 && request.method == "HEAD" {
                // In HTTP/2 the library sends the body of any answer.
                *answer.body_mut() = Full::default();
            }
            log.requests.lock().unwrap().push(request);
            log.arrived.notify_waiters();
            Ok::<_, Infallible>(answer)
        }
    });
    // How a connection ends is what a test looks for in the log, not here.
    if http2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
        return;
    }
    let _ = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn record(request: Request<Incoming>) -> RecordedRequest {
    let (head, mut incoming) = request.into_parts();
    let mut recorded = RecordedRequest {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: list(&head.headers),
        body: Vec::new(),
        trailers: Vec::new(),
        complete: false,
    };
    loop {
        match incoming.frame().await {
            None => {
                recorded.complete = true;
                return recorded;
            }
            Some(Err(_)) => return recorded,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => recorded.body.extend_from_slice(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    recorded.trailers.extend(list(&trailers));
                }
            },
        }
    }
}

fn list(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect()
}

fn default_answer(request: &RecordedRequest) -> Response<Full<Bytes>> {
    let path = request.target.split('?').next().unwrap_or_default();
    if let Some(status) = path.strip_prefix("/status/") {
        let status: u16 = status.parse().unwrap_or(400);
        return Response::builder()
            .status(status)
            .body(Full::default())
            .unwrap();
    }
    let body = match path {
        "/echo" => Bytes::from(request.body.clone()),
        _ => Bytes::from_static(b"hello\n"),
    };
    Response::new(Full::new(body))
}

/// A TLS listener that leaves all that is said to the test.
#[derive(Debug)]
pub struct RawOrigin {
    listener: TcpListener,
    config: Arc<ServerConfig>,
}

impl RawOrigin {
    /// Listens on loopback with the given TLS configuration.
    pub async fn start(config: Arc<ServerConfig>) -> Self {
        Self {
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(),
            config,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Waits for a TCP connection and leaves TLS to the caller.
    pub async fn accept_tcp(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Waits for a connection and its TLS handshake.
    pub async fn accept(&self) -> TlsStream<TcpStream> {
        let stream = self.accept_tcp().await;
        TlsAcceptor::from(Arc::clone(&self.config))
            .accept(stream)
            .await
            .unwrap()
    }
}
