//! A body as it arrives, in either protocol.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::{Body, Frame};

/// What is read of a message behind its head.
pub(crate) enum Incoming {
    Http1(hyper::body::Incoming),
    Http2(RecvStream),
}

/// Why a body does not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("{0}")]
    Http1(#[source] hyper::Error),
    #[error("{0}")]
    Http2(#[source] h2::Error),
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Http1(body) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                Poll::Ready(frame.map(|frame| frame.map_err(Broken::Http1)))
            }
            Self::Http2(stream) => {
                let frame = ready!(poll_stream(stream, context)).transpose();
                Poll::Ready(frame.map(|frame| frame.map_err(Broken::Http2)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(stream) => stream.is_end_stream(),
        }
    }
}

fn poll_stream(
    stream: &mut RecvStream,
    context: &mut Context<'_>,
) -> Poll<Result<Option<Frame<Bytes>>, h2::Error>> {
    let read = match ready!(stream.poll_data(context)) {
        Some(Ok(bytes)) => {
            // It goes on to the other side only as that side's window lets it. What fails here fails at the next read.
            let _ = stream.flow_control().release_capacity(bytes.len());
            Ok(Some(Frame::data(bytes)))
        }
        Some(Err(error)) => Err(error),
        None => ready!(stream.poll_trailers(context)).map(|trailers| trailers.map(Frame::trailers)),
    };
    Poll::Ready(match read {
        // All was sent before, and no more is asked for (RFC 9113 section 8.1).
        Err(error) if error.reason() == Some(Reason::NO_ERROR) => Ok(None),
        read => read,
    })
}
