//! Calls to the agent that come through the supervisor: handed on as they are, answer and all. The windows of both
//! connections bound what is on its way, and a call that its maker drops is dropped here.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service as _;

use crate::agent::{CallBody, Connection};

/// The agent's service.
const AGENT: &str = "/msb.agent.v1.Agent/";
/// Calls that are the supervisor's alone to make.
const OURS: [&str; 3] = ["Configure", "PowerOff", "SetClock"];

/// Whether a call is for the agent.
pub(crate) fn is_for_agent(path: &str) -> bool {
    path.starts_with(AGENT)
}

/// Hands a call on.
pub(crate) async fn forward(
    mut agent: Connection,
    request: http::Request<Incoming>,
) -> Result<http::Response<Body>, Infallible> {
    let call = request.uri().path().strip_prefix(AGENT).unwrap_or_default();
    if OURS.contains(&call) {
        let status = Status::permission_denied(format!("{call} is the supervisor's to call"));
        return Ok(status.into_http());
    }
    let (head, body) = request.into_parts();
    let request = http::Request::from_parts(head, Body::new(body));
    Ok(match agent.call(request).await {
        Ok(answer) => answer.map(|body| Body::new(Forwarded(Some(body)))),
        Err(_) => gone().into_http(),
    })
}

fn gone() -> Status {
    Status::unavailable("the connection to the guest is gone")
}

/// An answer that is whole, or says that the agent is gone.
struct Forwarded(Option<CallBody>);

impl http_body::Body for Forwarded {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(body) = &mut self.0 else {
            return Poll::Ready(None);
        };
        match std::task::ready!(Pin::new(body).poll_frame(cx)) {
            None => {
                self.0 = None;
                Poll::Ready(None)
            }
            Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(Err(_)) => {
                self.0 = None;
                let mut trailers = HeaderMap::new();
                // Fails for texts that no header can have, which this is not.
                let _ = gone().add_header(&mut trailers);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(CallBody::is_end_stream)
    }
}
