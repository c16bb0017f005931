//! The one upstream connection of a guest's connection, in either protocol.

use std::error::Error as StdError;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use hyper::client::conn::http1;

use super::body::RequestBody;
use super::bridge::lock;
use super::http2::pipe::Pipe;
use super::http2::tasks::Spawner;
use super::incoming::Incoming;
use super::interim::Informing;

/// Sends requests to the server.
pub(crate) struct Client {
    sender: Sender,
    /// Whether an answer has come yet.
    answered: AtomicBool,
}

enum Sender {
    Http1(Mutex<http1::SendRequest<Box<RequestBody>>>),
    Http2 {
        requests: h2::client::SendRequest<Bytes>,
        /// For bodies.
        tasks: Spawner,
    },
}

/// Why there is no answer.
pub(crate) enum NoAnswer {
    /// The guest is to see the same: the end of its connection, or of the stream.
    Pass(Unserved),
    /// The guest is to be told.
    Tell(Box<dyn StdError + Send + Sync>),
}

/// How a request ends without an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unserved {
    #[error("the server ended the request")]
    Ended(#[source] hyper::Error),
    #[error("the server reset the stream: {0}")]
    Reset(h2::Reason),
    #[error("the server did not take the request")]
    NotTaken,
    #[error("the guest's body broke off")]
    BrokenOff,
    #[error("a rule denies the request")]
    Denied,
}

impl Unserved {
    /// The code that a stream ends with.
    pub(crate) fn reason(&self) -> h2::Reason {
        match self {
            Self::Ended(_) | Self::BrokenOff => h2::Reason::INTERNAL_ERROR,
            Self::Reset(reason) => *reason,
            // Nothing was sent, so the guest may repeat it (RFC 9113 section 8.7).
            Self::NotTaken => h2::Reason::REFUSED_STREAM,
            // It is no use to repeat it.
            Self::Denied => h2::Reason::CANCEL,
        }
    }
}

impl Client {
    /// `answered`: whether an answer has come on this connection before.
    pub(crate) fn http1(sender: http1::SendRequest<Box<RequestBody>>, answered: bool) -> Self {
        let client = Self::new(Sender::Http1(Mutex::new(sender)));
        client.answered.store(answered, Ordering::Relaxed);
        client
    }

    pub(crate) fn http2(requests: h2::client::SendRequest<Bytes>, tasks: Spawner) -> Self {
        Self::new(Sender::Http2 { requests, tasks })
    }

    fn new(sender: Sender) -> Self {
        Self {
            sender,
            answered: AtomicBool::new(false),
        }
    }

    /// Whether requests may still be sent.
    pub(crate) fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !lock(sender).is_closed(),
            Sender::Http2 { .. } => true,
        }
    }

    /// Whether an answer has come.
    pub(crate) fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether the server takes a WebSocket on a stream of its own (RFC 8441 section 3).
    pub(crate) fn takes_extended_connect(&self) -> bool {
        matches!(&self.sender, Sender::Http2 { requests, .. } if requests.is_extended_connect_protocol_enabled())
    }

    pub(crate) async fn send(
        &self,
        request: Request<Box<RequestBody>>,
    ) -> Result<Response<Incoming>, NoAnswer> {
        match &self.sender {
            Sender::Http1(sender) => {
                let answer = async {
                    poll_fn(|context| lock(sender).poll_ready(context)).await?;
                    let answer = lock(sender).send_request(request);
                    answer.await
                };
                let answer = answer.await;
                let reused = self.answered.swap(true, Ordering::Relaxed);
                let answer = answer.map_err(|error| match reused && !error.is_parse() {
                    // A guest that reuses a connection has to reckon with its end, and may repeat its request;
                    // a 502 would take that choice away (RFC 9112 section 9.3.1).
                    true => NoAnswer::Pass(Unserved::Ended(error)),
                    false => NoAnswer::Tell(error.into()),
                })?;
                Ok(answer.map(Incoming::Http1))
            }
            Sender::Http2 { requests, tasks } => {
                self.send_http2(requests.clone(), tasks, request).await
            }
        }
    }

    async fn send_http2(
        &self,
        mut requests: h2::client::SendRequest<Bytes>,
        tasks: &Spawner,
        request: Request<Box<RequestBody>>,
    ) -> Result<Response<Incoming>, NoAnswer> {
        let (mut head, body) = request.into_parts();
        let informing = head.extensions.remove::<Informing>();
        let end = body.is_end_stream();
        let ready = poll_fn(|context| requests.poll_ready(context)).await;
        let opened = ready.and_then(|()| requests.send_request(Request::from_parts(head, ()), end));
        let (mut answer, stream) = opened.map_err(|error| self.not_opened(error))?;
        // A connection without anybody who has a request for it ends by itself.
        drop(requests);
        let mut sending = None;
        if !end {
            let mut pipe = Pipe::new(body, stream);
            let begun = poll_fn(|context| Poll::Ready(Pin::new(&mut pipe).poll(context)));
            if begun.await.is_pending() {
                sending = Some(tasks.spawn(pipe));
            }
        }
        let answer = poll_fn(|context| {
            // What it ended with instead is told by the answer.
            while let Poll::Ready(Some(Ok(interim))) = answer.poll_informational(context) {
                if let Some(informing) = &informing {
                    informing.pass(interim.status(), interim.headers());
                }
            }
            Pin::new(&mut answer).poll(context)
        });
        match answer.await {
            Ok(answer) => {
                self.answered.store(true, Ordering::Relaxed);
                // The body goes on: the answer may well come before its end.
                sending.into_iter().for_each(|sending| sending.detach());
                Ok(answer.map(Incoming::Http2))
            }
            Err(error) => Err(match error.reason() {
                Some(reason) if error.is_reset() && error.is_remote() => {
                    self.answered.store(true, Ordering::Relaxed);
                    NoAnswer::Pass(Unserved::Reset(reason))
                }
                _ => NoAnswer::Tell(error.into()),
            }),
        }
    }

    /// What to make of a request that the library did not send.
    fn not_opened(&self, error: h2::Error) -> NoAnswer {
        let ended = error.is_go_away() || error.is_io();
        match ended && self.has_answered() {
            true => NoAnswer::Pass(Unserved::NotTaken),
            // A server that has never answered is no better on another connection, and the guest is to know why.
            false => NoAnswer::Tell(error.into()),
        }
    }
}
