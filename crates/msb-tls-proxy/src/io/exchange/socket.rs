//! A WebSocket on a stream of HTTP/2 (RFC 8441): its two directions are the bodies of a request and of its answer.

use std::sync::Arc;

use http::{Request, Response, StatusCode, request};
use http_body_util::Either;
use msb_secrets::{RequestRewriter, ResponseScrubber, SecretSet};

use super::{AnswerBody, RequestContext};
use crate::Event;
use crate::io::body::{RequestBody, ResponseBody};
use crate::io::client::{Client, Unserved};
use crate::io::incoming::Incoming;
use crate::session::body::Transform;
use crate::session::response as answered;
use crate::session::websocket::{Frames, Guest, Messages, Server};

/// What works on the messages, and on trailers, which nobody should send.
pub(super) struct Socket {
    request: Option<Box<dyn Frames>>,
    answer: Option<ResponseScrubber>,
    trailers: Option<ResponseScrubber>,
}

impl Socket {
    /// `messages` is `None` where nothing is read.
    pub(super) fn new(
        messages: Option<RequestRewriter>,
        scrubber: Option<ResponseScrubber>,
        secrets: &SecretSet,
    ) -> Self {
        Self {
            request: messages.map(|request| Box::new(Messages::new(Guest(request))) as _),
            trailers: scrubber.is_some().then(|| secrets.response()),
            answer: scrubber,
        }
    }

    pub(super) async fn exchange(
        self,
        context: &Arc<RequestContext>,
        client: &Client,
        head: request::Parts,
        incoming: Incoming,
        fields: RequestRewriter,
    ) -> Result<Response<AnswerBody>, Unserved> {
        if !client.takes_extended_connect() {
            let reason = format!("{} takes no WebSocket on HTTP/2", context.session.host());
            let status = StatusCode::NOT_IMPLEMENTED;
            return Ok(context.session.refuse(status, reason));
        }
        let read = self.request.is_some();
        let transform = Transform::websocket(self.request);
        let body = RequestBody::of_request(incoming, transform, fields, None, Arc::clone(context));
        match client.send(Request::from_parts(head, Box::new(body))).await {
            Ok(answer) if answer.status().is_success() => {
                Ok(context.open(answer, read, self.answer, self.trailers))
            }
            Ok(answer) => Ok(context.pass_on(answer, false, self.answer).await),
            Err(no_answer) => context.unanswered(no_answer).await,
        }
    }
}

impl RequestContext {
    /// The server's answer that opens the WebSocket.
    fn open(
        self: &Arc<Self>,
        answer: Response<Incoming>,
        read: bool,
        scrubber: Option<ResponseScrubber>,
        mut fields: Option<ResponseScrubber>,
    ) -> Response<AnswerBody> {
        let (mut head, incoming) = answer.into_parts();
        if head.headers.len() > self.session.limits.header_count {
            return self.bad_gateway(&format!("{} sent too many fields", self.session.host()));
        }
        if let Err(fault) = answered::open(&mut head, read) {
            return self.bad_gateway(&format!("{}: {fault}", self.session.host()));
        }
        if let Some(scrubber) = &mut fields {
            answered::scrub(&mut head, scrubber);
            self.report(scrubber.take_notes());
        }
        (self.session.events)(Event::Request {
            host: self.session.host().clone(),
            port: self.session.port(),
            method: self.method.as_str().to_owned(),
            path: self.path.clone().unwrap_or_default(),
            status: head.status.as_u16(),
        });
        let frames = scrubber.map(|scrubber| Box::new(Messages::new(Server(scrubber))) as _);
        let transform = Transform::websocket(frames);
        let context = Arc::clone(self);
        let mut body = Box::new(ResponseBody::of_response(
            incoming, transform, fields, context,
        ));
        body.is_streaming();
        Response::from_parts(head, Either::Left(body))
    }
}
