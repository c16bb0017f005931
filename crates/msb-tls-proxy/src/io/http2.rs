//! HTTP/2 between two TLS streams, each request a stream of its own.

mod first;
pub(crate) mod pipe;
pub(crate) mod tasks;
mod upstream;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response, StatusCode, header};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use super::bridge::{FAREWELL, Session, lock};
use super::client::Client;
use super::exchange::{AnswerBody, answer, exchange};
use super::incoming::Incoming;
use super::interim::Interim;
use super::stream::Prefixed;
use crate::session::protocol::Protocol;
use crate::{Drain, Limits};
use pipe::Pipe;
use tasks::Tasks;
use upstream::{State, Upstream};

/// What a stream may send ahead of being read, and what all of a connection's may: 1 MiB and 2 MiB. More is taken only
/// as it is passed on.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;
/// How much of a stream waits for the other side's window.
const SEND_BUFFER: usize = 400 << 10;
/// The most that is read of a guest's first words before the server's settings have come.
const FIRST_WORDS: usize = 4 << 10;

/// As [`bridge`](super::bridge::bridge), for HTTP/2. A stream that breaks off is reset; the others go on.
pub(crate) async fn bridge<G, U>(guest: G, upstream: U, session: Arc<Session>)
where
    G: AsyncRead + AsyncWrite + Send + Unpin,
    U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let limits = session.limits;
    let upstream = Upstream::open(upstream, &limits, Arc::clone(&session.fault)).await;
    let mut upstream = match upstream {
        Ok(upstream) => upstream,
        Err(error) => {
            let reason = format!("{} ended the connection: {error}", session.host());
            let (status, drain) = (StatusCode::BAD_GATEWAY, Drain(Some(session.drain.clone())));
            return serve_failure(guest, status, &reason, &limits, &drain).await;
        }
    };
    // Dropped with this future, which ends them all.
    let tasks = Tasks::default();
    let client = Arc::new(Client::http2(upstream.requests.clone(), tasks.spawner()));
    let opened = tokio::select! {
        opened = open(guest, &mut upstream.state, &limits) => opened,
        () = session.draining() => None,
    };
    let Some((mut guest, mut offered)) = opened else {
        drop(client);
        let _ = timeout(FAREWELL, upstream.end()).await;
        return;
    };
    let mut state = upstream.state.clone();
    state.mark_changed();
    {
        let mut idle = pin!(async {
            tokio::select! {
                () = session.idle() => {}
                () = session.draining() => {}
            }
        });
        let (mut asked, mut closing, mut offer) = (false, false, false);
        loop {
            tokio::select! {
                biased;
                () = session.stop.raised() => return,
                Ok(()) = state.changed() => {
                    let now = *state.borrow_and_update();
                    offer |= now.extended_connect && !offered;
                    offered |= now.extended_connect;
                    // Who has asked nothing yet is told in the answer to its first request.
                    if now.ended && asked {
                        guest.graceful_shutdown();
                    }
                }
                () = &mut idle, if !closing => {
                    closing = true;
                    guest.graceful_shutdown();
                }
                request = next(&mut guest, &mut offer) => {
                    let Some((request, respond)) = request else { break };
                    asked = true;
                    if state.borrow().ended {
                        guest.graceful_shutdown();
                    }
                    let (session, client) = (Arc::clone(&session), Arc::clone(&client));
                    tasks.spawner().spawn(serve(session, client, request, respond)).detach();
                }
            }
        }
        if state.borrow().ended || session.stop.is_raised() {
            return;
        }
    }
    drop(client);
    let _ = timeout(FAREWELL, async {
        tasks.finished().await;
        upstream.end().await;
    })
    .await;
}

/// Begins to speak with the guest; whether it was offered to open WebSockets on streams (RFC 8441).
///
/// A client looks for that offer in the first settings. So those wait until the server's have come, unless the guest
/// does not wait for them itself.
async fn open<G>(
    mut guest: G,
    state: &mut watch::Receiver<State>,
    limits: &Limits,
) -> Option<(Connection<Prefixed<G>, Bytes>, bool)>
where
    G: AsyncRead + AsyncWrite + Unpin,
{
    let mut words = BytesMut::new();
    let waited = timeout(limits.continue_wait, async {
        while first::is_waiting(&words) && words.len() < FIRST_WORDS {
            tokio::select! {
                biased;
                _ = state.wait_for(|state| state.settled || state.ended) => return,
                read = guest.read_buf(&mut words) => if !matches!(read, Ok(1..)) {
                    return;
                },
            }
        }
    });
    // What comes later is offered later.
    let _ = waited.await;
    let offer = state.borrow().extended_connect;
    let mut builder = server(limits);
    if offer {
        builder.enable_connect_protocol();
    }
    let handshake = builder.handshake(Prefixed::new(words, guest));
    let guest = timeout(limits.idle_timeout, handshake).await;
    Some((guest.ok()?.ok()?, offer))
}

/// The guest's next request, or `None` at the end of its connection. `offer` asks for an offer of RFC 8441 to be made as
/// soon as the guest has taken the settings before.
async fn next<G>(
    guest: &mut Connection<G, Bytes>,
    offer: &mut bool,
) -> Option<(Request<RecvStream>, SendResponse<Bytes>)>
where
    G: AsyncRead + AsyncWrite + Unpin,
{
    let accepted = poll_fn(|context| {
        loop {
            let accepted = guest.poll_accept(context);
            if accepted.is_ready() || !*offer || guest.enable_connect_protocol().is_err() {
                return accepted;
            }
            *offer = false;
        }
    });
    accepted.await?.ok()
}

/// Serves one request to the end of its answer.
async fn serve(
    session: Arc<Session>,
    client: Arc<Client>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let respond = Arc::new(Mutex::new(respond));
    let mut request = request.map(Incoming::Http2);
    let informed = Arc::clone(&respond);
    request
        .extensions_mut()
        .insert(Interim::new(move |interim| {
            // It fails only where the answer has been sent, or the stream has ended.
            let _ = lock(&informed).send_informational(interim);
        }));
    let mut exchange = Box::pin(exchange(session, client, request));
    let answer = poll_fn(|context| match exchange.as_mut().poll(context) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => lock(&respond).poll_reset(context).map(|_| None),
    });
    let answer = answer.await;
    drop(exchange);
    match answer {
        // The guest has reset the stream, and by being dropped the server's is as well.
        None => {}
        Some(Err(unserved)) => lock(&respond).send_reset(unserved.reason()),
        Some(Ok(answer)) => send(answer, &respond).await,
    }
}

async fn send(answer: Response<AnswerBody>, respond: &Mutex<SendResponse<Bytes>>) {
    let (mut head, body) = answer.into_parts();
    let end = body.is_end_stream();
    if let Some(len) = body.size_hint().exact().filter(|_| !end) {
        let len = len.into();
        head.headers.entry(header::CONTENT_LENGTH).or_insert(len);
    }
    let sent = lock(respond).send_response(Response::from_parts(head, ()), end);
    match sent {
        Ok(stream) if !end => Pipe::new(body, stream).await,
        Ok(_) => {}
        Err(_) => lock(respond).send_reset(Reason::INTERNAL_ERROR),
    }
}

/// As [`serve_failure`](super::bridge::serve_failure), for HTTP/2.
pub(crate) async fn serve_failure<G>(
    guest: G,
    status: StatusCode,
    reason: &str,
    limits: &Limits,
    drain: &Drain,
) where
    G: AsyncRead + AsyncWrite + Send + Unpin,
{
    let tasks = Tasks::default();
    let served = async {
        let mut guest = server(limits).handshake::<_, Bytes>(guest).await?;
        let mut draining = pin!(drain.raised());
        let mut closing = false;
        loop {
            let request = tokio::select! {
                request = guest.accept() => request,
                () = &mut draining, if !closing => {
                    closing = true;
                    guest.graceful_shutdown();
                    continue;
                }
            };
            let Some(request) = request else { break };
            let (_, respond) = request?;
            let answer = answer(Protocol::Http2, status, reason.to_owned());
            let sent = async move { send(answer, &Mutex::new(respond)).await };
            tasks.spawner().spawn(sent).detach();
        }
        Ok::<_, h2::Error>(())
    };
    // The guest has been told, or is gone; it may ask again until it is idle for too long.
    let _ = timeout(limits.idle_timeout, served).await;
}

fn server(limits: &Limits) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(limits.header_list_len)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(limits.pending_resets);
    builder
}

impl Session {
    /// Waits until no stream has been open for the idle limit.
    async fn idle(&self) {
        let mut open = self.open.subscribe();
        loop {
            // The sender lives as long as the session.
            let _ = open.wait_for(|open| *open == 0).await;
            let busy = open.wait_for(|open| *open > 0);
            if timeout(self.limits.idle_timeout, busy).await.is_err() {
                return;
            }
        }
    }
}
