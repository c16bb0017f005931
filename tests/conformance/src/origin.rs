//! Our own origin: HTTP/1.1 and HTTP/2, writes everything down, tells the client what it got.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::record::{Log, Record};

mod git;

type Body = BoxBody<Bytes, Infallible>;

/// How often the log is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The configuration with HTTP/2 preferred.
pub(crate) fn tls(config: Arc<ServerConfig>) -> ServerConfig {
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// Serves at `address` until the runtime ends.
pub(crate) async fn start(
    address: SocketAddr,
    config: Arc<ServerConfig>,
    log: Log,
    repositories: PathBuf,
) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let acceptor = TlsAcceptor::from(config);
    let repositories: Arc<Path> = repositories.into();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = serve(
                stream,
                acceptor.clone(),
                log.clone(),
                Arc::clone(&repositories),
            );
            tokio::spawn(connection);
        }
    });
    Ok(())
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, log: Log, repositories: Arc<Path>) {
    // What fails is told by the client's side.
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(|request| {
        let (log, repositories) = (log.clone(), Arc::clone(&repositories));
        async move { Ok::<_, Infallible>(answer(request, &log, &repositories).await) }
    });
    let io = TokioIo::new(stream);
    if is_h2 {
        let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = http2.serve_connection(io, service).await;
    } else {
        let mut http1 = hyper::server::conn::http1::Builder::new();
        let _ = http1.half_close(true).serve_connection(io, service).await;
    }
}

async fn answer(request: Request<Incoming>, log: &Log, repositories: &Path) -> Response<Body> {
    let (head, mut incoming) = request.into_parts();
    let mut record = Record {
        method: head.method.to_string(),
        version: format!("{:?}", head.version),
        target: head.uri.to_string(),
        headers: list(&head.headers),
        ..Record::default()
    };
    while let Some(Ok(frame)) = incoming.frame().await {
        if let Some(data) = frame.data_ref() {
            record.body.extend_from_slice(data);
        }
    }
    record.is_complete = incoming_is_at_end(&record, &head.headers);
    log.push(record.clone());
    let path = head.uri.path();
    if let Some(below) = path.strip_prefix("/git/") {
        return match git::answer(&record, below, head.uri.query(), repositories).await {
            Ok(response) => response.map(whole),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
        };
    }
    let response = match path.rsplit('-').next().unwrap_or_default() {
        "quote" => quote(&record),
        "events" => events(log, path),
        "large" => Response::new(whole(Bytes::from(vec![b'x'; 8 << 20]))),
        "empty" => plain(StatusCode::NO_CONTENT, String::new()),
        "length" => plain(StatusCode::OK, record.body.len().to_string()),
        _ => echo(&record),
    };
    match head.method {
        // Over HTTP/2 the body would be sent.
        http::Method::HEAD => without_body(response),
        _ => response,
    }
}

/// The same head, with the length the body would have.
fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        head.headers
            .insert(http::header::CONTENT_LENGTH, length.into());
    }
    Response::from_parts(head, whole(Bytes::new()))
}

/// Whether the announced length arrived; unannounced ends are the protocol's to check.
fn incoming_is_at_end(record: &Record, headers: &HeaderMap) -> bool {
    let announced = headers.get(http::header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    announced.is_none_or(|announced| announced == record.body.len())
}

/// All it got, as it got it.
fn echo(record: &Record) -> Response<Body> {
    let mut text = format!("{} {}\n", record.method, record.target);
    for (name, value) in &record.headers {
        text += &format!("{name}: {value}\n");
    }
    text += &format!("\n{}", String::from_utf8_lossy(&record.body));
    plain(StatusCode::OK, text)
}

/// The body as a string in JSON, as echo services have it.
fn quote(record: &Record) -> Response<Body> {
    let body = json!({ "data": String::from_utf8_lossy(&record.body) });
    let mut response = plain(StatusCode::OK, body.to_string());
    let json = http::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    response
}

/// Two server-sent events; the second comes when the first has been noticed, which a request for `release` tells.
fn events(log: &Log, target: &str) -> Response<Body> {
    let (log, release) = (log.clone(), target.replace("events", "release"));
    let events = stream::iter(0..2).then(move |number| {
        let (log, release) = (log.clone(), release.clone());
        async move {
            while number > 0 && log.of(&release).is_empty() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Ok::<_, Infallible>(Frame::data(Bytes::from(format!("data: {number}\n\n"))))
        }
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(events)));
    let kind = http::HeaderValue::from_static("text/event-stream");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    response
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(whole(text.into()));
    *response.status_mut() = status;
    let text = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, text);
    response
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).boxed()
}

fn list(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value)
        })
        .collect()
}
