//! A registry that serves one image and does wrong what a test asks for.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use msb_image::Digest;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

/// What is done wrong, to requests whose path has `path` in it, so many times.
pub(crate) struct Fault {
    pub(crate) path: String,
    pub(crate) times: usize,
    pub(crate) wrong: Wrong,
}

#[derive(Clone)]
pub(crate) enum Wrong {
    /// This status, with these fields and this body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// So many bytes of the right body, and the connection ends.
    CutAfter(usize),
    /// The right bytes, changed.
    Changed(fn(Vec<u8>) -> Vec<u8>),
    /// All of it, whatever range was asked for.
    Whole,
    /// No more than so many bytes of what was asked for, said to be that.
    Part(usize),
    /// A part that begins behind what was asked for, said to be that.
    Elsewhere,
    /// 403 with what authorized the request in its words.
    Repeats,
    /// All of it without saying how much that is; it ends after so many bytes.
    Unmeasured(usize),
    /// This status and announced length, so many bytes of it, and nothing ever after.
    Silence(u16, u64, usize),
    /// A byte now and then, for ever.
    Drip(Duration),
}

/// Whom it lets in.
#[derive(Clone)]
pub(crate) enum Door {
    Open,
    /// Who knows user and password.
    Basic,
    /// Who has a token from here; `None` is at `/token`.
    Bearer(Option<String>),
}

pub(crate) const USER: &str = "user";
pub(crate) const PASSWORD: &str = "pass:w\u{f6}rd-s3cret";
const TOKEN: &str = "t0ken-s3cret";

pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    layout: PathBuf,
    door: Door,
    faults: Mutex<Vec<Fault>>,
    /// Path, `Range` and `Authorization` of each request.
    log: Mutex<Vec<(String, String, String)>>,
    is_tls: bool,
}

impl Registry {
    /// Serves the layout at `dir` as `app:1`.
    pub(crate) async fn start(
        dir: &Path,
        door: Door,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a socket");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            layout: dir.to_owned(),
            door,
            faults: Mutex::default(),
            log: Mutex::default(),
            is_tls: tls.is_some(),
        });
        let task = tokio::spawn(serve(
            listener,
            Arc::clone(&shared),
            tls.map(TlsAcceptor::from),
        ));
        Self {
            address,
            shared,
            task,
        }
    }

    pub(crate) fn reference(&self) -> String {
        format!("{}/app:1", self.address)
    }

    pub(crate) fn does_wrong(&self, path: &str, times: usize, wrong: Wrong) {
        let path = path.to_owned();
        self.shared
            .faults
            .lock()
            .expect("faults")
            .push(Fault { path, times, wrong });
    }

    /// Path, `Range` and `Authorization` of each request so far.
    pub(crate) fn log(&self) -> Vec<(String, String, String)> {
        self.shared.log.lock().expect("a log").clone()
    }

    pub(crate) fn requests_for(&self, path: &str) -> Vec<(String, String, String)> {
        let log = self.log().into_iter();
        log.filter(|(asked, ..)| asked.contains(path)).collect()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let answer = shared.answer(&request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            // How it ends is the client's to tell.
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        let _ = http.serve_connection(TokioIo::new(stream), service).await;
                    }
                }
                None => {
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                }
            }
        });
    }
}

impl Shared {
    fn answer(&self, request: &Request<Incoming>) -> Response<Pieces> {
        let path = request.uri().to_string();
        let field = |name: &str| {
            let value = request.headers().get(name);
            value.map_or_else(String::new, |value| {
                String::from_utf8_lossy(value.as_bytes()).into()
            })
        };
        let (range, authorization) = (field("range"), field("authorization"));
        let asked = (path.clone(), range.clone(), authorization.clone());
        self.log.lock().expect("a log").push(asked);
        if let Some(refused) = self.refuse(&path, &authorization) {
            return refused;
        }
        let wrong = self.next_wrong(&path);
        if let Some(Wrong::Answer(status, fields, body)) = wrong {
            return answer(status, &fields, body.into_bytes());
        }
        let Some((media_type, mut bytes)) = self.find(&path) else {
            let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            return answer(404, &[], body.into());
        };
        if let Some(Wrong::Changed(change)) = wrong {
            bytes = change(bytes);
        }
        match wrong {
            Some(Wrong::Silence(status, announced, len)) => {
                let fields = [("content-length", announced.to_string()), range_of(&range)];
                let mut response = answer(status, &fields, vec![b' '; len]);
                let body = response.body_mut();
                (body.announced, body.end) = (None, End::Never);
                return response;
            }
            Some(Wrong::Repeats) => {
                let body = format!(r#"{{"errors":[{{"message":"not you: {authorization}"}}]}}"#);
                return answer(403, &[], body.into());
            }
            Some(Wrong::Drip(every)) => {
                let mut response = answer(200, &[("content-type", media_type)], Vec::new());
                response.body_mut().announced = None;
                response.body_mut().end = End::Drip(every, None);
                return response;
            }
            Some(Wrong::Unmeasured(len)) => {
                bytes.truncate(len);
                let mut response = answer(200, &[], bytes);
                response.body_mut().announced = None;
                return response;
            }
            _ => {}
        }
        let from: usize = range
            .strip_prefix("bytes=")
            .and_then(|range| range.strip_suffix('-')?.parse().ok())
            .unwrap_or(0);
        let mut fields = vec![("content-type", media_type)];
        let mut status = 200;
        let part = match wrong {
            Some(Wrong::Part(len)) => Some((from, len)),
            Some(Wrong::Elsewhere) => Some((from + 100, usize::MAX)),
            _ => None,
        };
        if let Some((from, len)) = part {
            let all = bytes.len();
            let to = from.saturating_add(len).min(all);
            fields.push(("content-range", format!("bytes {from}-{}/{all}", to - 1)));
            return answer(206, &fields, bytes[from..to].to_vec());
        }
        if from > 0 && !matches!(wrong, Some(Wrong::Whole)) {
            if from >= bytes.len() {
                return answer(416, &[], Vec::new());
            }
            let (last, all) = (bytes.len() - 1, bytes.len());
            fields.push(("content-range", format!("bytes {from}-{last}/{all}")));
            bytes.drain(..from);
            status = 206;
        }
        if let Some(Wrong::CutAfter(len)) = wrong {
            let announced = bytes.len();
            bytes.truncate(len);
            let mut response = answer(status, &fields, bytes);
            let body = response.body_mut();
            (body.announced, body.end) = (Some(announced), End::Cut);
            return response;
        }
        answer(status, &fields, bytes)
    }

    fn refuse(&self, path: &str, authorization: &str) -> Option<Response<Pieces>> {
        let encoded =
            base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let basic = format!("Basic {encoded}");
        let scheme = if self.is_tls { "https" } else { "http" };
        let realm = |host: &str| {
            format!(r#"Bearer realm="{scheme}://{host}/token",service="here",scope="all""#)
        };
        // What came is repeated, as it should not be.
        let came = authorization.strip_prefix("Basic ").unwrap_or_default();
        let came = base64::engine::general_purpose::STANDARD.decode(came);
        let came = String::from_utf8(came.unwrap_or_default()).unwrap_or_default();
        let repeated =
            format!(r#"{{"errors":[{{"code":"UNAUTHORIZED","message":"who is {came}?"}}]}}"#);
        if path.starts_with("/token") {
            let body = format!(r#"{{"token":"{TOKEN}"}}"#);
            return Some(match authorization == basic {
                true => answer(200, &[], body.into()),
                false => answer(401, &[], repeated.into()),
            });
        }
        let (expected, challenge) = match &self.door {
            Door::Open => return None,
            Door::Basic => (basic, r#"Basic realm="here", charset="UTF-8""#.to_owned()),
            Door::Bearer(host) => {
                let host = host.clone().unwrap_or_else(|| "HOST".into());
                (format!("Bearer {TOKEN}"), realm(&host))
            }
        };
        (authorization != expected)
            .then(|| answer(401, &[("www-authenticate", challenge)], repeated.into()))
    }

    fn next_wrong(&self, path: &str) -> Option<Wrong> {
        let mut faults = self.faults.lock().expect("faults");
        let fault = faults
            .iter_mut()
            .find(|fault| fault.times > 0 && path.contains(&fault.path))?;
        fault.times -= 1;
        Some(fault.wrong.clone())
    }

    /// Type and bytes of a manifest or blob.
    fn find(&self, path: &str) -> Option<(String, Vec<u8>)> {
        if path == "/v2/" {
            return Some(("text/plain".into(), Vec::new()));
        }
        let name = path.strip_prefix("/v2/app/")?;
        let blob = |digest: &str| {
            let digest: Digest = digest.strip_prefix("sha256:")?.parse().ok()?;
            std::fs::read(self.layout.join("blobs/sha256").join(digest.to_string())).ok()
        };
        match name.split_once('/')? {
            ("manifests", "1") => {
                let bytes = std::fs::read(self.layout.join("served.json"))
                    .or_else(|_| std::fs::read(self.layout.join("index.json")));
                let bytes = bytes.ok()?;
                let parsed: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
                let index = "application/vnd.oci.image.index.v1+json";
                let media_type = parsed["mediaType"].as_str().unwrap_or(index).to_owned();
                Some((media_type, bytes))
            }
            ("manifests", digest) => Some((
                "application/vnd.oci.image.manifest.v1+json".into(),
                blob(digest)?,
            )),
            ("blobs", digest) => Some(("application/octet-stream".into(), blob(digest)?)),
            _ => None,
        }
    }
}

/// That the answer is the rest that was asked for.
fn range_of(range: &str) -> (&'static str, String) {
    let from = range.trim_start_matches("bytes=").trim_end_matches('-');
    ("content-range", format!("bytes {from}-/*"))
}

fn answer(status: u16, fields: &[(&'static str, String)], body: Vec<u8>) -> Response<Pieces> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, value);
    }
    let announced = body.len();
    let pieces = body.chunks(16 << 10).map(Bytes::copy_from_slice).collect();
    let body = Pieces {
        pieces,
        announced: Some(announced),
        end: End::Right,
        waits: 2,
    };
    response.body(body).expect("an answer")
}

/// A body that may end before its time, or not at all.
pub(crate) struct Pieces {
    pieces: VecDeque<Bytes>,
    announced: Option<usize>,
    end: End,
    /// How often it waits before it is cut, so that what came before is sent.
    waits: usize,
}

enum End {
    Right,
    Cut,
    Never,
    Drip(Duration, Option<Pin<Box<Sleep>>>),
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if let Some(piece) = self.pieces.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let is_waiting = self.waits > 0;
        match &mut self.end {
            End::Right => Poll::Ready(None),
            End::Cut if is_waiting => {
                self.waits -= 1;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            End::Cut => Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into()))),
            End::Never => Poll::Pending,
            End::Drip(every, sleep) => {
                let waiting = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(*every)));
                std::task::ready!(waiting.as_mut().poll(context));
                *sleep = None;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))))
            }
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.announced
            .map_or_else(hyper::body::SizeHint::default, |announced| {
                hyper::body::SizeHint::with_exact(announced as u64)
            })
    }
}
