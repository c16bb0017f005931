//! The connection to the server, driven by a task of its own.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::Limits;
use crate::event::one_line;

/// How many streams may be opened before the server has said how many. It is not a number that a server would choose,
/// so that any other tells that its settings have come.
const STREAMS_AT_FIRST: usize = 97;

/// What is known of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Its settings have come.
    pub(super) settled: bool,
    /// It takes a WebSocket on a stream of its own (RFC 8441 section 3).
    pub(super) extended_connect: bool,
    /// Its connection is over.
    pub(super) ended: bool,
}

pub(super) struct Upstream {
    pub(super) requests: SendRequest<Bytes>,
    pub(super) state: watch::Receiver<State>,
    farewell: oneshot::Sender<()>,
    driver: JoinSet<()>,
}

impl Upstream {
    /// Begins to speak HTTP/2 on `stream`. What the connection ends with is put in `fault`.
    pub(super) async fn open<U>(
        stream: U,
        limits: &Limits,
        fault: Arc<OnceLock<String>>,
    ) -> Result<Self, h2::Error>
    where
        U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (requests, connection) = Builder::new()
            .initial_max_send_streams(STREAMS_AT_FIRST)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(limits.header_list_len)
            .max_send_buffer_size(super::SEND_BUFFER)
            .enable_push(false)
            .handshake(stream)
            .await?;
        let (told, state) = watch::channel(State::default());
        let (farewell, ending) = oneshot::channel();
        let mut driver = JoinSet::new();
        driver.spawn(drive(connection, requests.clone(), told, ending, fault));
        Ok(Self {
            requests,
            state,
            farewell,
            driver,
        })
    }

    /// Ends the connection in order, once nobody has a request for it.
    pub(super) async fn end(self) {
        let Self {
            requests,
            farewell,
            mut driver,
            ..
        } = self;
        drop((requests, farewell));
        driver.join_next().await;
    }
}

async fn drive<U>(
    mut connection: Connection<U, Bytes>,
    requests: SendRequest<Bytes>,
    told: watch::Sender<State>,
    mut ending: oneshot::Receiver<()>,
    fault: Arc<OnceLock<String>>,
) where
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut requests = Some(requests);
    let mut known = State::default();
    let ended = poll_fn(|context| {
        if requests.is_some() && Pin::new(&mut ending).poll(context).is_ready() {
            requests = None;
        }
        let ended = Pin::new(&mut connection).poll(context);
        if let Some(requests) = &requests
            && !known.extended_connect
        {
            let extended_connect = requests.is_extended_connect_protocol_enabled();
            let now = State {
                settled: extended_connect
                    || requests.current_max_send_streams() != STREAMS_AT_FIRST,
                extended_connect,
                ended: false,
            };
            if now != known {
                known = now;
                told.send_replace(now);
            }
        }
        ended
    });
    let reason = match ended.await {
        Ok(()) => "the server ended the connection".to_owned(),
        Err(error) => one_line(&error.to_string()),
    };
    fault.get_or_init(|| reason);
    told.send_modify(|state| state.ended = true);
}
