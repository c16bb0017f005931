//! A WebSocket once both sides have switched: messages both ways until both ends are reached.

use std::io;
use std::sync::atomic::Ordering;

use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf,
};

use super::bridge::Session;
use super::exchange::{RequestContext, Switched};
use crate::session::websocket::{Fault, Guest, Messages, Sender, Server};

const CHUNK: usize = 16 * 1024;

enum Ended {
    /// One side is gone.
    Io,
    Fault {
        by_server: bool,
        fault: Fault,
    },
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

/// Relays messages, half-close by half-close. What ends it otherwise is for the caller to see in [`Session::stop`] and
/// [`Session::broken`], as on requests.
pub(crate) async fn relay<G, U>(guest: G, upstream: U, switched: Switched, session: &Session)
where
    G: AsyncRead + AsyncWrite + Send + Unpin,
    U: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (context, request, scrubber) = switched.into_parts(session);
    let (mut guest_read, mut guest_write) = tokio::io::split(guest);
    let (mut upstream_read, mut upstream_write) = tokio::io::split(upstream);
    let sending = async {
        match request {
            Some(request) => {
                let messages = Messages::new(Guest(request));
                carry(&mut guest_read, &mut upstream_write, messages, &context).await
            }
            None => pass(&mut guest_read, &mut upstream_write).await,
        }
    };
    let returning = async {
        match scrubber {
            Some(scrubber) => {
                let messages = Messages::new(Server(scrubber));
                carry(&mut upstream_read, &mut guest_write, messages, &context).await
            }
            None => pass(&mut upstream_read, &mut guest_write).await,
        }
    };
    let Err(ended) = tokio::try_join!(sending, returning) else {
        return;
    };
    match ended {
        Ended::Fault {
            fault: Fault::Violation(violation),
            ..
        } => context.violation(violation),
        Ended::Fault { by_server, fault } => {
            context.websocket_fault(by_server, &fault.to_string());
        }
        Ended::Io => {}
    }
    session.broken.store(true, Ordering::Relaxed);
}

async fn carry<R, W, S>(
    from: &mut ReadHalf<R>,
    to: &mut WriteHalf<W>,
    mut messages: Messages<S>,
    context: &RequestContext,
) -> Result<(), Ended>
where
    R: AsyncRead,
    W: AsyncWrite,
    S: Sender,
{
    let mut buffer = vec![0; CHUNK];
    let mut out = Vec::new();
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            if !messages.is_between_frames() {
                return Err(Ended::Io);
            }
            to.shutdown().await?;
            return Ok(());
        }
        let pushed = messages.push(&buffer[..read], &mut out);
        context.report(messages.take_notes());
        // What comes before the fault is whole frames without one.
        to.write_all(&out).await?;
        to.flush().await?;
        out.clear();
        pushed.map_err(|fault| Ended::Fault {
            by_server: !S::MASKS,
            fault,
        })?;
    }
}

async fn pass<R, W>(from: &mut ReadHalf<R>, to: &mut WriteHalf<W>) -> Result<(), Ended>
where
    R: AsyncRead,
    W: AsyncWrite,
{
    tokio::io::copy(from, to).await?;
    to.shutdown().await?;
    Ok(())
}
