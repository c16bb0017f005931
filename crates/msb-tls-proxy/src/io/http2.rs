//! HTTP/2 between two TLS streams, each request a stream of its own.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, Weak};

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::bridge::{FAREWELL, Session, lock};
use super::client::Client;
use super::exchange::{answer, exchange};
use crate::Limits;
use crate::session::protocol::Protocol;

/// What a stream may send ahead of being read, and what all of a connection's may: 1 MiB and 2 MiB. More is taken only
/// as it is passed on.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;

/// As [`bridge`](super::bridge::bridge), for HTTP/2. A stream that breaks off is reset; the others go on.
pub(crate) async fn bridge<G, U>(guest: G, upstream: U, session: Arc<Session>)
where
    G: AsyncRead + AsyncWrite + Send + Unpin,
    U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let limits = session.limits;
    // Dropped with this future, which ends them all.
    let tasks = Tasks::default();
    let handshake = hyper::client::conn::http2::Builder::new(tasks.spawner())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(limits.header_list_len)
        .handshake(TokioIo::new(upstream))
        .await;
    let Ok((sender, upstream)) = handshake else {
        return;
    };
    // By itself, so that it goes as soon as it has ended: the connection says goodbye only then.
    let mut upstream = Box::pin(upstream);
    let client = Arc::new(Client::Http2(sender));
    {
        let service = service_fn(|request| {
            Box::pin(exchange(Arc::clone(&session), Arc::clone(&client), request))
        });
        let server = server(&limits, tasks.spawner());
        let mut guest = pin!(server.serve_connection(TokioIo::new(guest), service));
        let mut idle = pin!(async {
            tokio::select! {
                () = session.idle() => {}
                () = session.draining() => {}
            }
        });
        let (mut upstream_open, mut closing) = (true, false);
        loop {
            tokio::select! {
                biased;
                () = session.stop.raised() => return,
                _ = &mut upstream, if upstream_open => {
                    upstream_open = false;
                    guest.as_mut().graceful_shutdown();
                }
                () = &mut idle, if !closing => {
                    closing = true;
                    guest.as_mut().graceful_shutdown();
                }
                _ = &mut guest => break,
            }
        }
        if !upstream_open || session.stop.is_raised() {
            return;
        }
    }
    drop(client);
    let _ = tokio::time::timeout(FAREWELL, async {
        let _ = upstream.await;
        tasks.finished().await;
    })
    .await;
}

/// As [`serve_failure`](super::bridge::serve_failure), for HTTP/2.
pub(crate) async fn serve_failure<G>(guest: G, status: StatusCode, reason: &str, limits: &Limits)
where
    G: AsyncRead + AsyncWrite + Send + Unpin,
{
    let reason = reason.to_owned();
    let service = service_fn(move |_: Request<Incoming>| {
        let answer = answer(Protocol::Http2, status, reason.clone());
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    // The guest has been told, or is gone; it may ask again until it is idle for too long.
    let tasks = Tasks::default();
    let server = server(limits, tasks.spawner());
    let served = server.serve_connection(TokioIo::new(guest), service);
    let _ = tokio::time::timeout(limits.idle_timeout, served).await;
}

fn server(limits: &Limits, tasks: Spawner) -> hyper::server::conn::http2::Builder<Spawner> {
    let mut builder = hyper::server::conn::http2::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(limits.header_list_len)
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(limits.pending_resets);
    builder
}

/// The tasks of one connection, which end when this is dropped.
#[derive(Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

/// What the tasks themselves hold to start others. They must not keep each other alive.
#[derive(Clone)]
struct Spawner(Weak<Mutex<JoinSet<()>>>);

impl Tasks {
    fn spawner(&self) -> Spawner {
        Spawner(Arc::downgrade(&self.0))
    }

    async fn finished(&self) {
        loop {
            let mut tasks = std::mem::take(&mut *lock(&self.0));
            if tasks.is_empty() {
                return;
            }
            while tasks.join_next().await.is_some() {}
        }
    }
}

impl<F> Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        // Where the connection is gone, so is what its tasks were for.
        let Some(tasks) = self.0.upgrade() else {
            return;
        };
        let mut tasks = lock(&tasks);
        // What has ended needs no more room.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

impl Session {
    /// Waits until no stream has been open for the idle limit.
    async fn idle(&self) {
        let mut open = self.open.subscribe();
        loop {
            // The sender lives as long as the session.
            let _ = open.wait_for(|open| *open == 0).await;
            let busy = open.wait_for(|open| *open > 0);
            if tokio::time::timeout(self.limits.idle_timeout, busy)
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_end_with_their_connection() {
        let (alive, mut dead) = tokio::sync::mpsc::channel::<()>(1);
        let tasks = Tasks::default();
        let spawner = tasks.spawner();
        tasks.spawner().execute(async move {
            let _held = (alive, spawner);
            std::future::pending::<()>().await;
        });
        drop(tasks);
        assert_eq!(dead.recv().await, None);
    }
}
