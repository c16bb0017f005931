//! HTTP/1.1 between two TLS streams, one request after the other.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use msb_name::Host;
use msb_policy::InterceptedConnection;
use msb_secrets::{Note, NoteKind, SecretSet, Violation, ViolationAction};
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::{ScannedBody, WatchedBody};
use super::expect::Continue;
use super::stop::Stop;
use super::stream::Checked;
use crate::event::one_line;
use crate::session::head::{self, Plan, Refused};
use crate::session::response;
use crate::{Event, EventSink, Limits};

/// How long a finished connection may take to say goodbye upstream.
const FAREWELL: Duration = Duration::from_secs(1);

type ResponseBody = Either<WatchedBody, Full<Bytes>>;

/// What the requests of one connection have in common.
pub(crate) struct Session {
    pub(crate) connection: InterceptedConnection,
    /// Asked at the head of every request for the secrets as they are then.
    pub(crate) secrets: Box<dyn Fn() -> SecretSet + Send + Sync>,
    pub(crate) on_violation: ViolationAction,
    pub(crate) events: EventSink,
    pub(crate) limits: Limits,
    pub(crate) stop: Arc<Stop>,
    /// Whether an answer broke off, which its guest must not take for its end.
    pub(crate) broken: Arc<AtomicBool>,
}

impl Session {
    fn host(&self) -> &Host {
        self.connection.host()
    }

    fn refuse(&self, status: StatusCode, reason: String) -> Response<ResponseBody> {
        (self.events)(Event::RequestRefused {
            host: self.host().clone(),
            status: status.as_u16(),
            reason: reason.clone(),
        });
        answer(status, reason)
    }
}

/// Serves the guest's requests from `upstream` until either side ends or a violation is found;
/// the latter is for the caller to see in [`Session::stop`], and in [`Session::broken`] whether
/// the guest's last answer is whole.
pub(crate) async fn bridge<G, U>(guest: G, upstream: U, session: Arc<Session>)
where
    G: AsyncRead + AsyncWrite + Send + Unpin,
    U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let limits = session.limits;
    let handshake = hyper::client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .max_headers(limits.header_count)
        .max_buf_size(limits.head_len)
        .handshake(TokioIo::new(upstream))
        .await;
    // It sends nothing, so there is nothing that could fail.
    let Ok((sender, upstream)) = handshake else {
        return;
    };
    let mut upstream = pin!(upstream);
    let client = Arc::new(Client {
        sender: Mutex::new(sender),
        answered: AtomicBool::new(false),
    });
    {
        let guest = Checked::new(guest, limits.head_len, |reason: &str| {
            report_framing(&session, reason);
        });
        let service = service_fn(|request| {
            let (session, client) = (Arc::clone(&session), Arc::clone(&client));
            async move { exchange(session, client, request).await }
        });
        let mut guest = pin!(server(&limits).serve_connection(TokioIo::new(guest), service));
        let mut upstream_open = true;
        loop {
            tokio::select! {
                biased;
                () = session.stop.raised() => return,
                _ = &mut upstream, if upstream_open => {
                    // No further request can be served; the one that is being answered is finished.
                    upstream_open = false;
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
    let _ = tokio::time::timeout(FAREWELL, upstream).await;
}

/// Answers every request with `status` and `reason`, for a server that cannot be reached or verified.
pub(crate) async fn serve_failure<G>(guest: G, status: StatusCode, reason: &str, limits: &Limits)
where
    G: AsyncRead + AsyncWrite + Send + Unpin,
{
    let service = service_fn(async |_: Request<Incoming>| {
        Ok::<_, Infallible>(answer(status, reason.to_owned()))
    });
    let guest = Checked::new(guest, limits.head_len, |_: &str| {});
    // The guest has been told, or is gone.
    let _ = server(limits)
        .serve_connection(TokioIo::new(guest), service)
        .await;
}

fn server(limits: &Limits) -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .half_close(true)
        .preserve_header_case(true)
        .auto_date_header(false)
        .max_headers(limits.header_count)
        .max_header_size(limits.head_len)
        // Room for a head at the limit and the line break that shows it is over it.
        .max_buf_size(limits.head_len + 4096);
    builder
}

fn report_framing(session: &Session, reason: &str) {
    (session.events)(Event::RequestRefused {
        host: session.host().clone(),
        status: StatusCode::BAD_REQUEST.as_u16(),
        reason: format!("ambiguous request: {reason}"),
    });
}

/// The one upstream connection.
struct Client {
    sender: Mutex<SendRequest<ScannedBody>>,
    /// Whether an answer has come on it yet.
    answered: AtomicBool,
}

impl Client {
    fn sender(&self) -> MutexGuard<'_, SendRequest<ScannedBody>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, request: Request<ScannedBody>) -> hyper::Result<Response<Incoming>> {
        poll_fn(|context| self.sender().poll_ready(context)).await?;
        let answer = self.sender().send_request(request);
        answer.await
    }
}

/// One request and its answer. An error ends the guest's connection without an answer.
async fn exchange(
    session: Arc<Session>,
    client: Arc<Client>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, hyper::Error> {
    let (mut head, incoming) = request.into_parts();
    let mut context = RequestContext {
        method: head.method.as_str().to_owned(),
        path: None,
        session,
    };
    let secrets = (context.session.secrets)();
    let Plan {
        mut rewriter,
        expects_continue,
        path,
    } = match head::rewrite(&mut head, &context.session.connection, &secrets) {
        Ok(plan) => plan,
        Err(Refused::Answer { status, reason }) => {
            return Ok(context.session.refuse(status, reason));
        }
        Err(Refused::Violation { violation, path }) => {
            context.path = path;
            context.violation(violation);
            return pending().await;
        }
    };
    context.path = Some(path);
    context.report(rewriter.take_notes());

    let continued = Continue::new(expects_continue && !incoming.is_end_stream());
    let gate = continued.gate(context.session.limits.continue_wait);
    let body = ScannedBody::new(incoming, rewriter, gate, context.clone());
    let mut request = Request::from_parts(head, body);
    continued.watch(&mut request);

    let answer = client.send(request).await;
    let reused = client.answered.swap(true, Ordering::Relaxed);
    match answer {
        Ok(answer) => Ok(context.pass_on(answer, continued.answered())),
        Err(_) if context.session.stop.is_raised() => pending().await,
        // A guest that reuses a connection has to reckon with its end, and may repeat its request;
        // a 502 would take that choice away (RFC 9112 section 9.3.1).
        Err(error) if reused && !error.is_parse() => Err(error),
        Err(error) => {
            let reason = format!("{} gave no valid answer: {error}", context.session.host());
            Ok(context.bad_gateway(&reason))
        }
    }
}

/// What events about one request repeat.
#[derive(Clone)]
pub(crate) struct RequestContext {
    session: Arc<Session>,
    method: String,
    /// Without the query; none while it is not known to be free of placeholders.
    path: Option<String>,
}

impl RequestContext {
    /// Tells of the first violation on this connection, and ends the connection.
    pub(crate) fn violation(&self, violation: Violation) {
        let session = &self.session;
        if session.stop.raise() {
            (session.events)(Event::Violation {
                host: session.host().clone(),
                method: Some(self.method.clone()),
                path: self.path.clone(),
                violation,
                action: session.on_violation,
            });
        }
    }

    /// Tells what became of placeholders that were no violation.
    pub(crate) fn report(&self, notes: Vec<Note>) {
        for note in notes {
            let host = self.session.host().clone();
            let (secret, location) = (note.env().to_owned(), note.location().clone());
            let form = note.form();
            (self.session.events)(match note.kind() {
                NoteKind::Substituted => Event::Substituted {
                    host,
                    secret,
                    location,
                    form,
                },
                _ => Event::LeftAlone {
                    host,
                    secret,
                    location,
                    form,
                },
            });
        }
    }

    fn bad_gateway(&self, reason: &str) -> Response<ResponseBody> {
        self.session
            .refuse(StatusCode::BAD_GATEWAY, one_line(reason))
    }

    /// The server's answer as the guest gets it. A body that the guest was never asked for
    /// (`closing`) leaves its connection in between two requests.
    fn pass_on(self, answer: Response<Incoming>, closing: bool) -> Response<ResponseBody> {
        let (mut head, body) = answer.into_parts();
        if let Err(fault) = response::rewrite(&mut head, closing) {
            return self.bad_gateway(&format!("{}: {fault}", self.session.host()));
        }
        (self.session.events)(Event::Request {
            host: self.session.host().clone(),
            method: self.method,
            path: self.path.unwrap_or_default(),
            status: head.status.as_u16(),
        });
        let body = WatchedBody::new(body, Arc::clone(&self.session.broken));
        Response::from_parts(head, Either::Left(body))
    }
}

/// An answer of the proxy's own: one line of text, and the end of the connection.
fn answer(status: StatusCode, reason: String) -> Response<ResponseBody> {
    let mut response = Response::new(Either::Right(Full::from(format!("msb: {reason}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
