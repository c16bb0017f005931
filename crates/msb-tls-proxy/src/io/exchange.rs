//! One request and its answer, from the guest's head to the guest's answer.

mod socket;
mod tunnel;

use std::future::pending;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version, request, response};
use http_body::Body as _;
use http_body_util::{Either, Full};
use msb_name::{Authority, Host};
use msb_policy::InterceptedConnection;
use msb_secrets::{LengthPlan, Note, RequestRewriter, ResponseScrubber, SecretSet, Violation};
use tokio::sync::watch;

use super::body::{BodyFault, RequestBody, ResponseBody};
use super::bridge::{Session, lock};
use super::client::{Client, NoAnswer, Unserved};
use super::expect::Continue;
use super::incoming::Incoming;
use super::interim::{Informing, Interim};
use crate::event::one_line;
use crate::rules::{Asked, Denial, OpenRequests};
use crate::session::body::{self, Fault, Treatment};
use crate::session::head::{self, Plan, Refused};
use crate::session::protocol::Protocol;
use crate::session::{response as answered, tunnel as asked};
use crate::{DeniedRequests, Event, Limits, NonHttp};
use socket::Socket;

/// The body of what the guest is answered: the server's, or one of the proxy's own.
pub(crate) type AnswerBody = Either<Box<ResponseBody>, Full<Bytes>>;

/// Why a request is not sent.
enum Unsent {
    /// The guest is answered by the proxy.
    Answered(Box<Response<AnswerBody>>),
    /// The guest's connection is ended by whoever drives it, or its body has broken off.
    Stopped,
}

/// Serves one request. An error ends the guest's connection without an answer, or its stream.
pub(crate) async fn exchange(
    session: Arc<Session>,
    client: Arc<Client>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Unserved> {
    let (mut head, incoming) = request.into_parts();
    let interim = head.extensions.remove::<Interim>();
    // Who speaks HTTP/1.0 does not know of informational answers (RFC 9110 section 15.2).
    let interim = interim.filter(|_| head.version != Version::HTTP_10);
    let session = session.for_request(&head);
    let mut context = {
        let asked = Asked::new(&head, session.possible_hosts(), session.port());
        let open = Open::new(&session, Arc::new(asked));
        RequestContext::new(session, head.method.clone(), None, open)
    };
    if head.headers.len() > context.session.limits.header_count {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Ok(context.session.refuse(status, "too many fields".to_owned()));
    }
    let secrets = (context.session.secrets)();
    let rules = context.session.http_rules.current();
    if context.session.non_http == NonHttp::Relay
        && asked::is_asked_for(&head)
        // They may have come when the connection was open.
        && !rules.governs(context.session.host())
    {
        return Box::pin(context.tunnel(client, head, incoming, (secrets, &rules))).await;
    }
    let judged = (&*context.open.asked, &*rules);
    let plan = match head::rewrite(&mut head, &context.session.connection, &secrets, judged) {
        Ok(plan) => plan,
        Err(Refused::Answer { status, reason }) => {
            return Ok(context.session.refuse(status, reason));
        }
        Err(Refused::Violation { violation, path }) => {
            context.path = path;
            context.violation(violation);
            return pending().await;
        }
        Err(Refused::Denied(denial)) => return context.denied(denial).await,
    };
    let Plan {
        mut rewriter,
        scrubber,
        mut websocket,
        expects_continue,
        path,
    } = plan;
    context.path = Some(path);
    let context = Arc::new(context);
    context.report(rewriter.take_notes());

    let mut continued = Continue::new(expects_continue && !incoming.is_end_stream());
    if let Some(messages) = websocket.take_if(|_| head.version == Version::HTTP_2) {
        let socket = Socket::new(messages, scrubber, &secrets);
        return socket
            .exchange(&context, &client, head, incoming, rewriter)
            .await;
    }
    let outgoing = outgoing(
        &context,
        &mut head,
        incoming,
        rewriter,
        &secrets,
        &mut continued,
    );
    let body = match outgoing.await {
        Ok(body) => body,
        Err(Unsent::Answered(answer)) => return Ok(*answer),
        Err(Unsent::Stopped) if context.session.stop.is_raised() => return pending().await,
        // To who drives the connection, a guest that has sent its last may still be waiting for its answer.
        Err(Unsent::Stopped) => return Err(Unserved::BrokenOff),
    };
    let mut request = Request::from_parts(head, body);
    let informing = interim.map(|interim| {
        let scrubber = scrubber.is_some().then(|| secrets.response());
        Informing::new(interim, scrubber, Arc::clone(&context))
    });
    continued.watch(&mut request, informing);
    if websocket.is_some() {
        // Before the answer: the end of its connection must not be taken for the end of the guest's.
        context.session.switch.asked.store(true, Ordering::Relaxed);
    }

    match (client.send(request).await, websocket) {
        (Ok(answer), Some(websocket)) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
            Ok(context.switch(answer, websocket, scrubber))
        }
        (Ok(answer), _) => {
            context.session.switch.asked.store(false, Ordering::Relaxed);
            Ok(context
                .pass_on(answer, continued.answered(), scrubber)
                .await)
        }
        (Err(no_answer), _) => context.unanswered(no_answer).await,
    }
}

/// The body as the server will get it, with `head` made to fit.
async fn outgoing(
    context: &Arc<RequestContext>,
    head: &mut request::Parts,
    incoming: Incoming,
    rewriter: RequestRewriter,
    secrets: &SecretSet,
    continued: &mut Continue,
) -> Result<Box<RequestBody>, Unsent> {
    let limits = context.session.limits;
    let treatment = if secrets.is_empty() || incoming.is_end_stream() {
        Ok(Treatment::none())
    } else {
        body::for_request(&head.headers, &rewriter, limits.body_hold)
    };
    let Treatment { transform, length } = treatment.map_err(|error| {
        let refused = context.session.refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            one_line(&error.to_string()),
        );
        Unsent::Answered(Box::new(refused))
    })?;
    if length == LengthPlan::HoldAndCount {
        // The library tells the guest to continue as soon as it is asked for its body, and when the server gets the
        // head there is nothing left to wait for.
        head.headers.remove(header::EXPECT);
        *continued = Continue::new(false);
        let context = Arc::clone(context);
        let mut body = Box::new(RequestBody::of_request(
            incoming, transform, rewriter, None, context,
        ));
        match body.hold(limits.body_hold).await {
            Ok(Some(len)) => body::declare(&mut head.headers, len, body.changed()),
            Ok(None) => drop_length(head),
            Err(_) => {
                let refused = body.context().refused();
                return Err(refused.map_or(Unsent::Stopped, |refused| {
                    Unsent::Answered(Box::new(refused))
                }));
            }
        }
        return Ok(body);
    }
    if length == LengthPlan::DropLength {
        drop_length(head);
    }
    let gate = continued.gate(limits.continue_wait);
    let context = Arc::clone(context);
    Ok(Box::new(RequestBody::of_request(
        incoming, transform, rewriter, gate, context,
    )))
}

fn drop_length(head: &mut request::Parts) {
    head.headers.remove(header::CONTENT_LENGTH);
    if head.version == Version::HTTP_2 {
        return;
    }
    // Of a GET's body the library does not know that it is one without being told.
    let chunked = HeaderValue::from_static("chunked");
    head.headers.insert(header::TRANSFER_ENCODING, chunked);
}

/// What events about one request repeat, and what became of it.
pub(crate) struct RequestContext {
    session: Arc<Session>,
    method: Method,
    /// Without the query; none while it is not known to be free of placeholders.
    path: Option<String>,
    /// Why the guest's body is not sent on.
    fault: OnceLock<(StatusCode, String)>,
    /// Dropped with the last body.
    open: Open,
}

/// What is left to do on a connection that speaks WebSocket from here on, or is a tunnel.
pub(crate) struct Switched {
    pub(crate) is_tunnel: bool,
    /// `None` if nothing is read.
    pub(crate) request: Option<RequestRewriter>,
    pub(crate) scrubber: Option<ResponseScrubber>,
    connection: InterceptedConnection,
    method: Method,
    path: Option<String>,
    /// Counted from the answer on, so that rules that come before anything is relayed count as well.
    open: Open,
}

impl Switched {
    /// Where a tunnel leads.
    pub(crate) fn target(&self) -> Option<Host> {
        let target = Authority::parse(self.path.as_deref()?).ok()?;
        Some(target.host().clone())
    }

    /// What events about the messages repeat, and what works on those of the guest and of the server.
    pub(crate) fn into_parts(
        self,
        session: &Session,
    ) -> (
        RequestContext,
        Option<RequestRewriter>,
        Option<ResponseScrubber>,
    ) {
        let session = Arc::new(Session {
            connection: self.connection,
            ..session.clone()
        });
        let context = RequestContext::new(session, self.method, self.path, self.open);
        (context, self.request, self.scrubber)
    }
}

/// A request counts as open while anything of it is left, and may be ended for what it asked.
struct Open {
    number: usize,
    asked: Arc<Asked>,
    count: watch::Sender<usize>,
    requests: Arc<OpenRequests>,
}

impl Open {
    fn new(session: &Session, asked: Arc<Asked>) -> Self {
        let number = session.opened.fetch_add(1, Ordering::Relaxed);
        session.open.send_modify(|open| *open += 1);
        session.requests.insert(number, Arc::clone(&asked));
        Self {
            number,
            asked,
            count: session.open.clone(),
            requests: Arc::clone(&session.requests),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.requests.remove(self.number);
        self.count.send_modify(|open| *open -= 1);
    }
}

impl RequestContext {
    fn new(session: Arc<Session>, method: Method, path: Option<String>, open: Open) -> Self {
        Self {
            method,
            path,
            fault: OnceLock::new(),
            open,
            session,
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.session.limits
    }

    /// Tells of the first violation on this connection, and ends the connection.
    pub(crate) fn violation(&self, violation: Violation) {
        let session = &self.session;
        if session.stop.raise() {
            (session.events)(Event::Violation {
                host: session.host().clone(),
                port: session.port(),
                method: Some(self.method.as_str().to_owned()),
                path: self.path.clone(),
                violation,
                action: session.on_violation,
            });
        }
    }

    /// Tells why a WebSocket is ended that broke its protocol: the server's fault, or the guest's.
    pub(crate) fn websocket_fault(&self, by_server: bool, reason: &str) {
        let (host, reason) = (self.session.host().clone(), one_line(reason));
        let port = self.session.port();
        (self.session.events)(if by_server {
            Event::ResponseRefused { host, port, reason }
        } else {
            let status = StatusCode::BAD_REQUEST.as_u16();
            Event::RequestRefused {
                host,
                port,
                status,
                reason,
            }
        });
    }

    /// Tells of a request that a rule denies, and the guest as is configured.
    async fn denied(&self, denial: Denial) -> Result<Response<AnswerBody>, Unserved> {
        let session = &self.session;
        let reason = one_line(&denial.decision.to_string());
        let action = session.http_rules.denied();
        (session.events)(self.open.asked.event(denial, action));
        match (action, session.protocol) {
            (DeniedRequests::Forbid, protocol) => {
                Ok(answer(protocol, StatusCode::FORBIDDEN, reason))
            }
            (DeniedRequests::Reset, Protocol::Http2) => Err(Unserved::Denied),
            (DeniedRequests::Reset, Protocol::Http1) => {
                session.stop.raise();
                pending().await
            }
        }
    }

    /// The guest's body must not be sent on.
    pub(crate) fn request_fault(&self, fault: &BodyFault) {
        match fault {
            BodyFault::Refused(Fault::Violation(violation)) => self.violation(violation.clone()),
            BodyFault::Refused(Fault::Frames(fault)) => self.websocket_fault(false, fault),
            BodyFault::Refused(Fault::Unwritable) => self.refuse(StatusCode::BAD_GATEWAY, fault),
            BodyFault::Refused(_) => self.refuse(StatusCode::BAD_REQUEST, fault),
            BodyFault::Broken(_) => {}
        }
    }

    /// The server's body breaks off.
    pub(crate) fn response_fault(&self, fault: &BodyFault) {
        if self.session.protocol == Protocol::Http1 {
            self.session.broken.store(true, Ordering::Relaxed);
        }
        if let BodyFault::Refused(fault) = fault {
            (self.session.events)(Event::ResponseRefused {
                host: self.session.host().clone(),
                port: self.session.port(),
                reason: one_line(&fault.to_string()),
            });
        }
    }

    fn refuse(&self, status: StatusCode, fault: &BodyFault) {
        let _ = self.fault.set((status, one_line(&fault.to_string())));
    }

    /// The answer to a guest whose body is not sent on.
    fn refused(&self) -> Option<Response<AnswerBody>> {
        let (status, reason) = self.fault.get()?;
        Some(self.session.refuse(*status, reason.clone()))
    }

    /// Tells what became of placeholders that were no violation, and of values that came back.
    pub(crate) fn report(&self, notes: Vec<Note>) {
        self.session.report(notes);
    }

    /// What the guest gets where the server gave no answer.
    async fn unanswered(&self, no_answer: NoAnswer) -> Result<Response<AnswerBody>, Unserved> {
        if self.session.stop.is_raised() {
            return pending().await;
        }
        match (self.refused(), no_answer) {
            (Some(answer), _) => Ok(answer),
            (None, NoAnswer::Pass(unserved)) => Err(unserved),
            (None, NoAnswer::Tell(error)) => {
                let error = error.to_string();
                let error = self.session.fault.get().unwrap_or(&error);
                let reason = format!("{} gave no valid answer: {error}", self.session.host());
                Ok(self.bad_gateway(&reason))
            }
        }
    }

    fn switched(
        &self,
        is_tunnel: bool,
        request: Option<RequestRewriter>,
        scrubber: Option<ResponseScrubber>,
    ) -> Switched {
        Switched {
            is_tunnel,
            request,
            scrubber,
            connection: self.session.connection.clone(),
            method: self.method.clone(),
            path: self.path.clone(),
            open: Open::new(&self.session, Arc::clone(&self.open.asked)),
        }
    }

    fn bad_gateway(&self, reason: &str) -> Response<AnswerBody> {
        self.session
            .refuse(StatusCode::BAD_GATEWAY, one_line(reason))
    }

    /// The server's answer that switches to WebSocket. The rest is for whoever drives the connection.
    fn switch(
        &self,
        answer: Response<Incoming>,
        request: Option<RequestRewriter>,
        mut scrubber: Option<ResponseScrubber>,
    ) -> Response<AnswerBody> {
        let (mut head, _) = answer.into_parts();
        if let Err(fault) = answered::switch(&mut head, request.is_some()) {
            return self.bad_gateway(&format!("{}: {fault}", self.session.host()));
        }
        if let Some(scrubber) = &mut scrubber {
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
        // Else of the server's connection, and the library may keep something of it there.
        head.extensions.clear();
        *lock(&self.session.switch.done) = Some(self.switched(false, request, scrubber));
        Response::from_parts(head, Either::Right(Full::default()))
    }

    /// The server's answer as the guest gets it. A body that the guest was never asked for
    /// (`closing`) leaves its connection in between two requests.
    async fn pass_on(
        self: &Arc<Self>,
        answer: Response<Incoming>,
        closing: bool,
        mut scrubber: Option<ResponseScrubber>,
    ) -> Response<AnswerBody> {
        let (mut head, incoming) = answer.into_parts();
        if head.headers.len() > self.session.limits.header_count {
            return self.bad_gateway(&format!("{} sent too many fields", self.session.host()));
        }
        if let Err(fault) = answered::rewrite(&mut head, closing) {
            return self.bad_gateway(&format!("{}: {fault}", self.session.host()));
        }
        if let Some(scrubber) = &mut scrubber {
            answered::scrub(&mut head, scrubber);
            self.report(scrubber.take_notes());
        }
        let body = match self.returning(&mut head, incoming, scrubber).await {
            Ok(body) => body,
            Err(reason) => {
                let host = self.session.host();
                return self.bad_gateway(&format!("the answer of {host}: {reason}"));
            }
        };
        (self.session.events)(Event::Request {
            host: self.session.host().clone(),
            port: self.session.port(),
            method: self.method.as_str().to_owned(),
            path: self.path.clone().unwrap_or_default(),
            status: head.status.as_u16(),
        });
        Response::from_parts(head, Either::Left(body))
    }

    /// The body as the guest will get it, with `head` made to fit.
    async fn returning(
        self: &Arc<Self>,
        head: &mut response::Parts,
        incoming: Incoming,
        scrubber: Option<ResponseScrubber>,
    ) -> Result<Box<ResponseBody>, String> {
        let hold = self.session.limits.body_hold;
        let bodiless = body::is_bodiless(&self.method, head.status) || incoming.is_end_stream();
        let Treatment { transform, length } = match &scrubber {
            Some(scrubber) if !bodiless => {
                body::for_response(head.status, &head.headers, scrubber, hold)
                    .map_err(|error| error.to_string())?
            }
            _ => Treatment::none(),
        };
        let context = Arc::clone(self);
        let mut body = Box::new(ResponseBody::of_response(
            incoming, transform, scrubber, context,
        ));
        if length == LengthPlan::HoldAndCount {
            match body.hold(hold).await {
                Ok(Some(len)) => body::declare(&mut head.headers, len, body.changed()),
                Ok(None) => {
                    head.headers.remove(header::CONTENT_LENGTH);
                }
                Err(fault) => return Err(fault.to_string()),
            }
        }
        if length == LengthPlan::DropLength {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        body.is_streaming();
        Ok(body)
    }
}

/// An answer of the proxy's own: one line of text, and in HTTP/1.1 the end of the connection.
pub(crate) fn answer(
    protocol: Protocol,
    status: StatusCode,
    reason: String,
) -> Response<AnswerBody> {
    let mut response = Response::new(Either::Right(Full::from(format!("msb: {reason}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    if protocol == Protocol::Http1 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
