//! DNS over a stream for the guest (RFC 7766, and RFC 7858 once its TLS has been ended): length-prefixed messages on one
//! connection, answered in order.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::resolve::Upstreams;
use crate::dns::{Plan, Transport};
use crate::engine::record;
use crate::stream::FlowStream;

/// How long a connection may stay idle, or a message take to arrive (RFC 7766, 6.2.3: a few seconds).
const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// Takes connections to the port of DNS over TLS. It is called from the network's task and must not block.
pub type SecureNamesSink = Arc<dyn Fn(SecureNames) + Send + Sync>;

/// A guest's connection to port 853, at whatever address, and who answers the queries in it once its TLS has been ended.
/// Dropping it ends the connection.
pub struct SecureNames {
    /// What the guest dialled.
    pub destination: SocketAddr,
    /// The connection to the guest.
    pub guest: FlowStream,
    /// Answers as the gateway does on port 53, with the same policy, cache and pins.
    pub names: NameService,
}

impl fmt::Debug for SecureNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecureNames")
            .field("destination", &self.destination)
            .finish_non_exhaustive()
    }
}

/// The gateway's name service, for streams of the caller's own.
#[derive(Clone)]
pub struct NameService(pub(super) Upstreams);

impl NameService {
    /// Answers length-prefixed queries (RFC 7766, section 8) one after another, until the guest ends the stream, says nothing
    /// for 10 s or says something else.
    ///
    /// # Errors
    /// When the stream breaks, or ends within a message.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        serve(stream, &self.0).await
    }
}

impl fmt::Debug for NameService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameService").finish_non_exhaustive()
    }
}

/// Answers queries on `stream` until the guest closes it, stays idle or sends something else.
pub(super) async fn drive_names(mut stream: FlowStream, upstreams: Upstreams) {
    let reset = stream.reset_handle();
    if serve(&mut stream, &upstreams).await.is_err() {
        reset.reset();
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    upstreams: &Upstreams,
) -> io::Result<()> {
    let mut message = Vec::new();
    loop {
        match tokio::time::timeout(IDLE_LIMIT, read_message(&mut stream, &mut message)).await {
            Err(_) | Ok(Ok(false)) => return stream.shutdown().await,
            Ok(Ok(true)) => {}
            Ok(Err(error)) => return Err(error),
        }
        let answer = match upstreams.responder().plan(&message, Transport::Tcp) {
            Plan::Ignore => return Ok(()),
            Plan::Reply(answer) => answer,
            Plan::Ask(question) => upstreams.ask(&question).await,
        };
        record(upstreams.config(), &answer);
        let len = u16::try_from(answer.message.len()).map_err(io::Error::other)?;
        let mut response = Vec::with_capacity(2 + answer.message.len());
        response.extend(len.to_be_bytes());
        response.extend(answer.message);
        stream.write_all(&response).await?;
    }
}

/// Reads one message; `false`: the guest has closed the connection.
async fn read_message(
    stream: &mut (impl AsyncRead + Unpin),
    message: &mut Vec<u8>,
) -> io::Result<bool> {
    let mut len = [0; 2];
    if stream.read(&mut len[..1]).await? == 0 {
        return Ok(false);
    }
    stream.read_exact(&mut len[1..]).await?;
    message.resize(usize::from(u16::from_be_bytes(len)), 0);
    stream.read_exact(message).await?;
    Ok(true)
}
