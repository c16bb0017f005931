//! The host's side of the agent's connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use msb_agent_proto::v1::agent_client::AgentClient;
use msb_agent_proto::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tonic::body::Body;

/// Makes calls to the guest's agent. Clones share the connection.
pub(crate) type Client = AgentClient<Connection>;

/// HTTP/2 over the agent's byte stream, in the shape generated clients ask for.
#[derive(Clone, Debug)]
pub(crate) struct Connection(SendRequest<Body>);

/// Opens the connection. What is written before the guest listens waits in the stream.
///
/// # Errors
/// When the stream is closed.
pub(crate) async fn connect(stream: UnixStream) -> Result<(Client, AbortHandle), hyper::Error> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .handshake(TokioIo::new(stream))
        .await?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the agent's connection ended");
        }
    });
    let origin = http::Uri::from_static("http://agent.invalid");
    let client = AgentClient::with_origin(Connection(sender), origin)
        .max_decoding_message_size(4 * 1024 * 1024);
    Ok((client, driver.abort_handle()))
}

impl tower_service::Service<http::Request<Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
