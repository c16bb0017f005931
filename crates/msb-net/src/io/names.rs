//! DNS over TCP for the guest (RFC 7766): length-prefixed messages on one connection, answered in order.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::resolve::Upstreams;
use crate::dns::{Plan, Transport};
use crate::engine::record;
use crate::stream::FlowStream;

/// How long a connection may stay idle, or a message take to arrive (RFC 7766, 6.2.3: a few seconds).
const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// Answers queries on `stream` until the guest closes it, stays idle or sends something else.
pub(super) async fn drive_names(mut stream: FlowStream, upstreams: Upstreams) {
    let reset = stream.reset_handle();
    if serve(&mut stream, &upstreams).await.is_err() {
        reset.reset();
    }
}

async fn serve(stream: &mut FlowStream, upstreams: &Upstreams) -> io::Result<()> {
    let mut message = Vec::new();
    loop {
        match tokio::time::timeout(IDLE_LIMIT, read_message(stream, &mut message)).await {
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
async fn read_message(stream: &mut FlowStream, message: &mut Vec<u8>) -> io::Result<bool> {
    let mut len = [0; 2];
    if stream.read(&mut len[..1]).await? == 0 {
        return Ok(false);
    }
    stream.read_exact(&mut len[1..]).await?;
    message.resize(usize::from(u16::from_be_bytes(len)), 0);
    stream.read_exact(message).await?;
    Ok(true)
}
