//! The one upstream connection of a guest's connection, in either protocol.

use std::error::Error as StdError;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};

use super::body::RequestBody;

/// Sends requests to the server.
pub(crate) enum Client {
    Http1 {
        sender: Mutex<http1::SendRequest<Box<RequestBody>>>,
        /// Whether an answer has come on it yet.
        answered: AtomicBool,
    },
    Http2(http2::SendRequest<Box<RequestBody>>),
}

/// Why there is no answer.
pub(crate) enum NoAnswer {
    /// The guest is to see the same: the end of its connection, or of the stream.
    Pass(Unserved),
    /// The guest is to be told.
    Tell(hyper::Error),
}

/// How a request ends without an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unserved {
    #[error("the server ended the request")]
    Ended(#[source] hyper::Error),
    #[error("the server did not take the request")]
    NotTaken(#[source] h2::Error),
}

impl Client {
    pub(crate) fn http1(sender: http1::SendRequest<Box<RequestBody>>) -> Self {
        Self::Http1 {
            sender: Mutex::new(sender),
            answered: AtomicBool::new(false),
        }
    }

    /// Whether an answer has come on a connection that carries one after the other.
    pub(crate) fn has_answered(&self) -> bool {
        matches!(self, Self::Http1 { answered, .. } if answered.load(Ordering::Relaxed))
    }

    pub(crate) async fn send(
        &self,
        request: Request<Box<RequestBody>>,
    ) -> Result<Response<Incoming>, NoAnswer> {
        match self {
            Self::Http1 { sender, answered } => {
                let lock = || sender.lock().unwrap_or_else(PoisonError::into_inner);
                let answer = async {
                    poll_fn(|context| lock().poll_ready(context)).await?;
                    let answer = lock().send_request(request);
                    answer.await
                };
                let answer = answer.await;
                let reused = answered.swap(true, Ordering::Relaxed);
                answer.map_err(|error| match reused && !error.is_parse() {
                    // A guest that reuses a connection has to reckon with its end, and may repeat its request;
                    // a 502 would take that choice away (RFC 9112 section 9.3.1).
                    true => NoAnswer::Pass(Unserved::Ended(error)),
                    false => NoAnswer::Tell(error),
                })
            }
            Self::Http2(sender) => {
                let answer = sender.clone().send_request(request).await;
                answer.map_err(|error| {
                    if error.is_canceled() || error.is_closed() {
                        // Nothing was sent, so the guest may repeat it (RFC 9113 section 8.7).
                        let reason = h2::Reason::REFUSED_STREAM;
                        return NoAnswer::Pass(Unserved::NotTaken(reason.into()));
                    }
                    match reset(&error) {
                        Some(_) => NoAnswer::Pass(Unserved::Ended(error)),
                        None => NoAnswer::Tell(error),
                    }
                })
            }
        }
    }
}

/// The code with which the other side reset a stream or ended the connection, if that is what happened.
fn reset(error: &hyper::Error) -> Option<h2::Reason> {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let mut ends = causes.filter_map(|cause| cause.downcast_ref::<h2::Error>());
    ends.find(|end| end.is_remote()).and_then(h2::Error::reason)
}
