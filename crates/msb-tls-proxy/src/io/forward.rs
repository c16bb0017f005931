//! A client's requests for `http` URLs without a tunnel, each to the server that its target names.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use http::{Request, Response, StatusCode, header};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use msb_name::Host;
use msb_policy::{Destination, InterceptedConnection, UpstreamTrust};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::bridge::{Session, client, describe, lock, report_framing, server};
use super::client::{Client as Sender, Unserved};
use super::dial::evidence;
use super::exchange::{AnswerBody, answer, exchange};
use super::incoming::Incoming;
use super::proxy::Inner;
use super::stream::Checked;
use crate::event::one_line;
use crate::session::forward;
use crate::session::head::origin_form;
use crate::session::protocol::Protocol;
use crate::{Client, DialError, Dialled, NonHttp};

impl Inner {
    pub(super) async fn serve_forward<G, U, D>(
        self: Arc<Self>,
        client: Client<G>,
        dial: impl Fn(Host, u16) -> D,
    ) where
        G: AsyncRead + AsyncWrite + Send + Unpin,
        U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        D: Future<Output = Result<Dialled<U>, DialError>>,
    {
        let Client {
            mut guest,
            reset,
            destination,
        } = client;
        // Of no request: each has its own.
        let address = destination.ip();
        let connection = InterceptedConnection::new(
            Host::Ip(address),
            Destination::Unpinned(address),
            UpstreamTrust::Plaintext,
        );
        let session = Session {
            // CONNECT is for who asks this proxy itself for a tunnel.
            non_http: NonHttp::Refuse,
            ..self.session(connection, destination)
        };
        let (stop, broken) = (Arc::clone(&session.stop), Arc::clone(&session.broken));
        let servers = Servers {
            session: Arc::new(session),
            dial,
            kept: Mutex::default(),
            driven: Mutex::default(),
        };
        tokio::select! {
            biased;
            () = servers.session.disallowed() => {}
            () = servers.serve(&mut guest) => {}
        }
        if stop.is_raised() || broken.load(std::sync::atomic::Ordering::Relaxed) {
            // While the stream is still there: what is gone cannot be reset.
            reset.reset();
        }
    }
}

/// The servers of one client's connection, one after the other.
struct Servers<D> {
    session: Arc<Session>,
    dial: D,
    /// The last, for as long as requests go to it.
    kept: Mutex<Option<Server>>,
    /// The connections, which end with this.
    driven: Mutex<JoinSet<()>>,
}

#[derive(Clone)]
struct Server {
    port: u16,
    address: SocketAddr,
    connection: InterceptedConnection,
    sender: Arc<Sender>,
    fault: Arc<OnceLock<String>>,
}

impl<D> Servers<D> {
    async fn serve<G, U, F>(&self, guest: &mut G)
    where
        G: AsyncRead + AsyncWrite + Send + Unpin,
        U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        D: Fn(Host, u16) -> F,
        F: Future<Output = Result<Dialled<U>, DialError>>,
    {
        let session = &self.session;
        let limits = session.limits;
        let guest = Checked::new(guest, limits.head_len, |reason: &str| {
            report_framing(session, reason);
        });
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            Box::pin(self.exchange(request.map(Incoming::Http1)))
        });
        let mut guest = server(&limits).serve_connection(TokioIo::new(guest), service);
        let mut draining = std::pin::pin!(session.draining());
        let mut closing = false;
        loop {
            tokio::select! {
                biased;
                () = session.stop.raised() => return,
                () = &mut draining, if !closing => {
                    closing = true;
                    std::pin::Pin::new(&mut guest).graceful_shutdown();
                }
                // What went wrong the client was told, or it is gone.
                _ = &mut guest => return,
            }
        }
    }

    async fn exchange<U, F>(
        &self,
        mut request: Request<Incoming>,
    ) -> Result<Response<AnswerBody>, Unserved>
    where
        U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        D: Fn(Host, u16) -> F,
        F: Future<Output = Result<Dialled<U>, DialError>>,
    {
        // It is for this proxy (RFC 9110 section 11.7.2).
        request.headers_mut().remove(header::PROXY_AUTHORIZATION);
        let (mut head, body) = request.into_parts();
        let (host, port) = match forward::server(&head) {
            Ok(server) => server,
            Err((status, reason)) => return Ok(self.session.refuse(status, reason)),
        };
        // What is dialled is the server itself (RFC 9112 section 3.2.1).
        head.uri = origin_form(&head.uri);
        let server = match self.server(host, port).await {
            Ok(server) => server,
            Err(error) => {
                let (status, reason) = match error {
                    DialError::Failed(reason) => (StatusCode::BAD_GATEWAY, reason),
                    DialError::Denied(reason) => (StatusCode::FORBIDDEN, reason),
                };
                return Ok(answer(Protocol::Http1, status, one_line(&reason)));
            }
        };
        let session = Session {
            connection: server.connection,
            destination: server.address,
            fault: server.fault,
            ..Session::clone(&self.session)
        };
        let request = Request::from_parts(head, body);
        exchange(Arc::new(session), server.sender, request).await
    }

    /// A connection to this server: the last, if it is to there and still open.
    async fn server<U, F>(&self, host: Host, port: u16) -> Result<Server, DialError>
    where
        U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        D: Fn(Host, u16) -> F,
        F: Future<Output = Result<Dialled<U>, DialError>>,
    {
        // Out of its place meanwhile, so that another's connection ends.
        let kept = lock(&self.kept).take();
        let is_it = |server: &Server| {
            *server.connection.host() == host && server.port == port && server.sender.is_open()
        };
        let server = match kept.filter(is_it) {
            Some(server) => server,
            None => self.connect((self.dial)(host, port).await?, port).await?,
        };
        *lock(&self.kept) = Some(server.clone());
        Ok(server)
    }

    async fn connect<U>(&self, dialled: Dialled<U>, port: u16) -> Result<Server, DialError>
    where
        U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let evidence = evidence(&dialled);
        let handshake = client(&self.session.limits).handshake(TokioIo::new(dialled.upstream));
        let handshake = handshake.await;
        let (sender, connection) =
            handshake.map_err(|error| DialError::Failed(error.to_string()))?;
        let fault = Arc::new(OnceLock::new());
        let broken_with = Arc::clone(&fault);
        let mut driven = lock(&self.driven);
        // What has ended needs no more room.
        while driven.try_join_next().is_some() {}
        driven.spawn(async move {
            if let Err(error) = connection.await {
                broken_with.get_or_init(|| describe(&error));
            }
        });
        Ok(Server {
            port,
            address: dialled.address,
            connection: InterceptedConnection::new(
                dialled.host,
                evidence,
                UpstreamTrust::Plaintext,
            ),
            sender: Arc::new(Sender::http1(sender, false)),
            fault,
        })
    }
}
