//! A proxy's connections, from the listener to the TLS engine.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::StatusCode;
use msb_name::Host;
use msb_policy::PinTable;
use msb_secrets::ViolationAction;
use msb_tls_proxy::{
    Client, Connection, DialError, Dialled, Limits, PlainConfig, Reset, TlsProxy, relay_plain,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connect::{self, Head, MAX_HEAD_LEN};
use super::dial::{Dialler, Failure};
use super::{ProxyEvent, ProxyMode};
use crate::Event;
use crate::event::Events;
use crate::socket::Socket;

/// How long a client may take to ask for its tunnel, as for a ClientHello (SPEC T3).
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to read why it was refused.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long nothing is accepted after the system refused to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// What all connections of one proxy share.
pub(super) struct Server {
    pub(super) tls: TlsProxy,
    pub(super) dialler: Dialler,
    pub(super) mode: ProxyMode,
    pub(super) upstream_port: u16,
    pub(super) max_connections: usize,
    pub(super) on_violation: ViolationAction,
    pub(super) limits: Limits,
    pub(super) events: Events,
    /// Why the proxy ends, once it does.
    pub(super) end: watch::Receiver<Option<String>>,
    /// How many connections are open.
    pub(super) open: Arc<AtomicUsize>,
}

/// Serves connections until there is a reason to end, or until it is told to `drain` and the last has ended. Dropping the
/// future drops them.
pub(super) async fn drive(
    server: Arc<Server>,
    listener: TcpListener,
    mut drain: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let mut end = server.end.clone();
    let (mut is_full, mut is_failing) = (false, false);
    loop {
        let accepted = tokio::select! {
            biased;
            // The senders of both live as long as this; without them there would be an end as well.
            () = raised(&mut end, Option::is_some) => return connections.shutdown().await,
            () = raised(&mut drain, |drain| *drain) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let failed = accepted.is_err();
        match accepted {
            Ok((stream, _)) if connections.len() < server.max_connections => {
                is_full = false;
                let server = Arc::clone(&server);
                connections.spawn(async move { server.serve(stream).await });
            }
            Ok((stream, _)) => {
                refuse(&server, &stream, !is_full);
                is_full = true;
            }
            Err(error) => {
                if !is_failing {
                    let reason = error.to_string();
                    server.tell(ProxyEvent::AcceptFailed { reason });
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        is_failing = failed;
    }
    drop(listener);
    loop {
        tokio::select! {
            () = raised(&mut end, Option::is_some) => return connections.shutdown().await,
            ended = connections.join_next() => if ended.is_none() { return },
        }
    }
}

async fn raised<T>(flag: &mut watch::Receiver<T>, is_raised: impl FnMut(&T) -> bool) {
    // Not to keep what it returns: that is a lock.
    let _ = flag.wait_for(is_raised).await.is_ok();
}

fn refuse(server: &Server, stream: &TcpStream, is_first: bool) {
    // Fails only for a socket that is no longer connected.
    let _ = stream.set_zero_linger();
    if is_first {
        server.tell(ProxyEvent::ConnectionLimit {
            max_connections: server.max_connections,
        });
    }
}

/// Tells the client's socket to be reset when it is dropped.
struct Broken(AtomicBool);

impl Reset for Broken {
    fn reset(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Counts a connection as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Server {
    fn tell(&self, event: ProxyEvent) {
        self.events.emit(&Event::Proxy(event));
    }

    async fn serve(&self, stream: TcpStream) {
        let _counted = Counted::new(&self.open);
        // Both fail only for a socket that is no longer connected.
        let _ = stream.set_nodelay(true);
        let Ok(destination) = stream.local_addr() else {
            return;
        };
        let broken = Arc::new(Broken(AtomicBool::new(false)));
        let socket = self.socket(stream, &broken);
        match self.mode {
            ProxyMode::Connect => {
                if let Some((client, dialled)) =
                    Box::pin(self.tunnel(socket, broken, destination)).await
                {
                    let dial = |_| std::future::ready(Ok(dialled));
                    self.tls.serve_dialling(client, dial).await;
                }
            }
            ProxyMode::Transparent => {
                let client = Client {
                    guest: socket,
                    reset: Arc::clone(&broken) as Arc<dyn Reset>,
                    destination,
                };
                let dial = |name| self.dial_named(name, broken);
                self.tls.serve_dialling(client, dial).await;
            }
        }
    }

    /// A stream that is reset with its connection, and when the proxy ends for a reason.
    fn socket(
        &self,
        stream: TcpStream,
        broken: &Arc<Broken>,
    ) -> Socket<impl Fn() -> bool + Unpin + use<>> {
        let (broken, end) = (Arc::clone(broken), self.end.clone());
        Socket::new(stream, move || {
            broken.0.load(Ordering::SeqCst) || end.borrow().is_some()
        })
    }

    /// Dials the server that a ClientHello names.
    async fn dial_named(
        &self,
        name: Option<msb_name::HostName>,
        broken: Arc<Broken>,
    ) -> Result<Dialled<Socket<impl Fn() -> bool + Unpin + use<>>>, DialError> {
        let name = name.ok_or_else(|| DialError::Failed("no server is named".to_owned()))?;
        self.dial(Host::Name(name), self.upstream_port, broken)
            .await
    }

    /// Dials a server, and tells where that fails.
    async fn dial(
        &self,
        host: Host,
        port: u16,
        broken: Arc<Broken>,
    ) -> Result<Dialled<Socket<impl Fn() -> bool + Unpin + use<>>>, DialError> {
        match self.dialler.dial(&host, port).await {
            Ok((stream, address)) => Ok(Dialled {
                upstream: self.socket(stream, &broken),
                address,
                host,
            }),
            Err(Failure::Denied(reason, cause)) => {
                let told = reason.clone();
                self.tell(ProxyEvent::Denied {
                    host,
                    port,
                    cause,
                    reason,
                });
                Err(DialError::Denied(told))
            }
            Err(Failure::Unreachable(reason) | Failure::TimedOut(reason)) => {
                let told = reason.clone();
                self.tell(ProxyEvent::DialFailed { host, port, reason });
                Err(DialError::Failed(told))
            }
        }
    }

    /// The tunnel that a client asks for, unless it was refused or has been served: then `None`.
    async fn tunnel<F>(
        &self,
        mut socket: Socket<F>,
        broken: Arc<Broken>,
        destination: SocketAddr,
    ) -> Option<(
        Client<Socket<F>>,
        Dialled<Socket<impl Fn() -> bool + Unpin + use<F>>>,
    )>
    where
        F: Fn() -> bool + Send + Unpin + 'static,
    {
        let asked = match timeout(HEAD_TIMEOUT, read_head(&mut socket)).await {
            Ok(Ok(head)) => head,
            // It has gone, and nothing was asked for.
            Ok(Err(_)) => return None,
            Err(_) => Head::Refused {
                status: StatusCode::REQUEST_TIMEOUT,
                reason: "the request did not come in time".to_owned(),
            },
        };
        let (host, port) = match asked {
            Head::Tunnel { host, port, .. } => (host, port),
            Head::Forward => {
                let client = Client {
                    guest: socket,
                    reset: Arc::clone(&broken) as Arc<dyn Reset>,
                    destination,
                };
                let dial = |host, port| self.dial(host, port, Arc::clone(&broken));
                self.tls.serve_forward(client, dial).await;
                return None;
            }
            Head::Refused { status, reason } => {
                self.turn_away(socket, None, status, reason).await;
                return None;
            }
            Head::Incomplete => return None,
            Head::NotHttp { reason } => {
                broken.reset();
                self.tell(ProxyEvent::TunnelRefused {
                    host: None,
                    port: None,
                    status: None,
                    reason: reason.to_owned(),
                });
                return None;
            }
        };
        let (stream, address) = match self.dialler.dial(&host, port).await {
            Ok(connected) => connected,
            Err(failure) => {
                self.tell_failure(socket, host, port, failure).await;
                return None;
            }
        };
        let upstream = self.socket(stream, &broken);
        socket.write_all(ESTABLISHED).await.ok()?;
        if self.carries_plaintext() && begins_without_tls(&mut socket).await {
            let connection = Connection {
                guest: socket,
                reset: broken,
                upstream,
                destination: address,
                pins: pinned(&host, address),
            };
            relay_plain(connection, self.plain()).await;
            return None;
        }
        let dialled = Dialled {
            upstream,
            address,
            host,
        };
        let client = Client {
            guest: socket,
            reset: broken,
            destination,
        };
        Some((client, dialled))
    }

    /// Whether a secret may be put into plaintext HTTP. Without one, tunnels carry TLS and nothing else.
    fn carries_plaintext(&self) -> bool {
        let secrets = self.tls.secrets().load();
        secrets.env().any(|(env, _)| {
            let scope = secrets.scope(env);
            scope.is_some_and(|(_, scope)| scope.allows_plaintext())
        })
    }

    fn plain(&self) -> PlainConfig {
        let tls = self.tls.clone();
        PlainConfig {
            secrets: Arc::new(move || tls.secrets().load()),
            on_violation: self.on_violation,
            events: self.events.tls_sink(),
            limits: self.limits,
            drain: self.tls.draining(),
            http_rules: self.tls.http_rules(),
        }
    }

    async fn tell_failure<F: Fn() -> bool + Unpin>(
        &self,
        socket: Socket<F>,
        host: Host,
        port: u16,
        failure: Failure,
    ) {
        let (status, reason) = match failure {
            Failure::Denied(reason, cause) => {
                let told = reason.clone();
                self.tell(ProxyEvent::Denied {
                    host,
                    port,
                    cause,
                    reason,
                });
                return answer(socket, StatusCode::FORBIDDEN, &told).await;
            }
            Failure::Unreachable(reason) => (StatusCode::BAD_GATEWAY, reason),
            Failure::TimedOut(reason) => (StatusCode::GATEWAY_TIMEOUT, reason),
        };
        self.turn_away(socket, Some((host, port)), status, reason)
            .await;
    }

    async fn turn_away<F: Fn() -> bool + Unpin>(
        &self,
        socket: Socket<F>,
        asked: Option<(Host, u16)>,
        status: StatusCode,
        reason: String,
    ) {
        let (host, port) = asked.unzip();
        self.tell(ProxyEvent::TunnelRefused {
            host,
            port,
            status: Some(status.as_u16()),
            reason: reason.clone(),
        });
        answer(socket, status, &reason).await;
    }
}

/// What the host dialled for the client counts like an answer of a sandbox's DNS.
fn pinned(host: &Host, address: SocketAddr) -> Arc<Mutex<PinTable>> {
    let mut pins = PinTable::default();
    if let Host::Name(name) = host {
        pins.insert(name.clone(), address.ip(), Duration::MAX, Instant::now());
    }
    Arc::new(Mutex::new(pins))
}

/// Waits for a tunnel's first byte. A client that sends none, or none in time, is for who expects TLS to turn away.
async fn begins_without_tls<F: Fn() -> bool + Unpin>(socket: &mut Socket<F>) -> bool {
    let mut read = BytesMut::with_capacity(4096);
    let first = timeout(HEAD_TIMEOUT, socket.read_buf(&mut read)).await;
    let is_other = matches!(first, Ok(Ok(1..))) && read.first() != Some(&connect::HANDSHAKE_RECORD);
    if !read.is_empty() {
        socket.unread(read.freeze());
    }
    is_other
}

/// Reads up to the end of a head, and gives back to the socket what follows it.
async fn read_head<F: Fn() -> bool + Unpin>(socket: &mut Socket<F>) -> io::Result<Head> {
    let mut read = BytesMut::with_capacity(1024);
    loop {
        if socket.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match connect::parse(&read) {
            Head::Incomplete => {}
            Head::Tunnel { host, port, len } => {
                socket.unread(read.split_off(len).freeze());
                return Ok(Head::Tunnel { host, port, len });
            }
            Head::Forward => {
                socket.unread(read.freeze());
                return Ok(Head::Forward);
            }
            head => return Ok(head),
        }
    }
}

/// Answers and ends a connection, so that the client gets to read the answer.
async fn answer<F: Fn() -> bool + Unpin>(mut socket: Socket<F>, status: StatusCode, reason: &str) {
    let body = format!("msb: {}\n", crate::exec::printable(reason));
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len(),
    );
    let farewell = async {
        socket.write_all(head.as_bytes()).await?;
        socket.write_all(body.as_bytes()).await?;
        socket.shutdown().await?;
        // Closing with something unread would be a reset, which can overtake the answer.
        let mut rest = (&mut socket).take(MAX_HEAD_LEN as u64);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // The client was told, or does not want to know.
    let _ = timeout(FAREWELL, farewell).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpStream;

    use crate::Proxy;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_for_nothing_is_turned_away_in_bounded_time() {
        let proxy = Proxy::builder().start().await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
            "{answer}"
        );
        assert!(
            answer.ends_with("msb: the request did not come in time\n"),
            "{answer}"
        );
    }
}
