//! The host's side of the agent's connection, and of one through a supervisor.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use msb_agent_proto::v1::agent_client::AgentClient;
use msb_agent_proto::{CONNECTION_WINDOW_BYTES, FRAME_BYTES, STREAM_WINDOW_BYTES};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tonic::body::Body;

/// Makes calls to the guest's agent. Clones share the connection.
pub(crate) type Client = AgentClient<Connection>;

/// How often a supervisor is asked whether it is there, and how long it may take over the answer. One on a host beyond use may
/// take its time; one that was stopped never answers.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const KEEP_ALIVE_WAIT: Duration = Duration::from_secs(30);
/// What an answer may hold, in bytes: a piece of output, and what is around it.
const MESSAGE_LIMIT: usize = 4 * 1024 * 1024;

/// HTTP/2 over a byte stream, in the shape generated clients ask for. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Body>,
    calls: Calls,
}

/// How many calls are open: a program that runs is one.
#[derive(Clone, Debug)]
pub(crate) struct Calls(Arc<watch::Sender<usize>>);

impl Calls {
    /// Follows the number.
    pub(crate) fn follow(&self) -> watch::Receiver<usize> {
        self.0.subscribe()
    }

    fn open(&self) -> OpenCall {
        self.0.send_modify(|open| *open += 1);
        OpenCall(self.clone())
    }
}

#[derive(Debug)]
struct OpenCall(Calls);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.0.send_modify(|open| *open -= 1);
    }
}

/// Opens a connection, and drives it in a task of its own. What is written before the other side listens waits in the
/// stream.
///
/// # Errors
/// When the stream is closed.
pub(crate) async fn open(stream: UnixStream) -> Result<(Connection, AbortHandle), hyper::Error> {
    open_with(stream, &http2::Builder::new(TokioExecutor::new())).await
}

/// As [`open`], through a supervisor, which answers at any time: a connection on which it does not for a minute is given up.
///
/// # Errors
/// When the stream is closed.
pub(crate) async fn open_to_supervisor(
    stream: UnixStream,
) -> Result<(Connection, AbortHandle), hyper::Error> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_WAIT)
        .keep_alive_while_idle(true);
    open_with(stream, &builder).await
}

async fn open_with(
    stream: UnixStream,
    builder: &http2::Builder<TokioExecutor>,
) -> Result<(Connection, AbortHandle), hyper::Error> {
    let (sender, connection) = builder
        .clone()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .handshake(TokioIo::new(stream))
        .await?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the agent's connection ended");
        }
    });
    let calls = Calls(Arc::new(watch::Sender::new(0)));
    Ok((Connection { sender, calls }, driver.abort_handle()))
}

impl Connection {
    /// Makes calls to the agent.
    pub(crate) fn client(&self) -> Client {
        let origin = http::Uri::from_static("http://agent.invalid");
        AgentClient::with_origin(self.clone(), origin).max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// How many calls are open.
    pub(crate) fn calls(&self) -> &Calls {
        &self.calls
    }
}

impl tower_service::Service<http::Request<Body>> for Connection {
    type Response = http::Response<CallBody>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let open = self.calls.open();
        let answer = self.sender.send_request(request);
        Box::pin(async move {
            let (head, body) = answer.await?.into_parts();
            let body = CallBody { body, _open: open };
            Ok(http::Response::from_parts(head, body))
        })
    }
}

/// What a call answers, which is open as long as this lives.
#[derive(Debug)]
pub(crate) struct CallBody {
    body: Incoming,
    _open: OpenCall,
}

impl http_body::Body for CallBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use msb_agent_proto::v1::ConfigureRequest;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const CONTINUATION: u8 = 9;
    const END_HEADERS: u8 = 4;
    /// `:status: 200` and `content-type: application/grpc` (RFC 7541).
    const GRPC: &[u8] = b"\x88\x0f\x10\x10application/grpc";
    /// What an agent can make the host hold before it is cut off is far below this.
    const TOO_MUCH: usize = 64 * 1024 * 1024;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = len[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// An agent that says `first`, then `again` without end, is refused before it has said too much.
    async fn check_refused(first: &[u8], again: &[u8]) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (connection, driver) = open(ours).await.unwrap();
        let mut client = connection.client();
        let agent = async {
            let (mut reader, mut writer) = theirs.split();
            let mut heard = [0; 4096];
            let _ = reader.read(&mut heard).await;
            let speak = async {
                let mut said = 0;
                writer.write_all(first).await?;
                while !again.is_empty() && said < TOO_MUCH {
                    writer.write_all(again).await?;
                    said += again.len();
                }
                assert!(said < TOO_MUCH, "never cut off");
                std::future::pending::<std::io::Result<()>>().await
            };
            let listen = async { while let Ok(1..) = reader.read(&mut heard).await {} };
            let _ = tokio::join!(speak, listen);
            // Cut off: the caller's answer may come a moment later.
            std::future::pending::<()>().await;
        };
        let call = async {
            let answer = client.configure(ConfigureRequest::default()).await;
            // Else the agent would speak on to a connection nobody has given up.
            driver.abort();
            answer
        };
        let answer = tokio::time::timeout(Duration::from_secs(20), async {
            tokio::select! {
                answer = call => answer,
                () = agent => unreachable!("the agent waits for the answer"),
            }
        });
        answer.await.unwrap().unwrap_err();
    }

    #[tokio::test]
    async fn an_agent_that_is_none_is_refused() {
        check_refused(b"\x1b[2J not HTTP/2 at all, but long enough\r\n", b"").await;
    }

    #[tokio::test]
    async fn a_message_that_announces_too_much_is_refused() {
        let mut first = frame(SETTINGS, 0, 0, b"");
        first.extend(frame(HEADERS, END_HEADERS, 1, GRPC));
        first.extend(frame(DATA, 0, 1, &[0, 0xff, 0xff, 0xff, 0xff]));
        check_refused(&first, b"").await;
    }

    #[tokio::test]
    async fn headers_without_end_are_refused() {
        let mut first = frame(SETTINGS, 0, 0, b"");
        first.extend(frame(HEADERS, 0, 1, GRPC));
        // A literal field with an empty value, again and again.
        let field = b"\x00\x01x\x00".repeat(4096);
        check_refused(&first, &frame(CONTINUATION, 0, 1, &field)).await;
    }

    #[tokio::test]
    async fn settings_without_end_are_refused_or_answered() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (_connection, driver) = open(ours).await.unwrap();
        // Nobody reads the answers: the host must stop reading, not hoard them.
        let flood = async {
            let settings = frame(SETTINGS, 0, 0, b"").repeat(1000);
            let mut said = 0;
            while said < TOO_MUCH && theirs.write_all(&settings).await.is_ok() {
                said += settings.len();
            }
            said
        };
        let said = tokio::time::timeout(Duration::from_millis(500), flood).await;
        assert!(said.is_err() || said.unwrap() < TOO_MUCH);
        driver.abort();
    }
}
