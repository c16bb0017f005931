//! TCP sockets with an end that tells the other side what happened.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A TCP stream that is reset when it is dropped after its connection was found broken.
pub(crate) struct Socket<F: Fn() -> bool> {
    stream: TcpStream,
    /// Read before the stream is read on.
    unread: Bytes,
    is_broken: F,
}

impl<F: Fn() -> bool> Socket<F> {
    pub(crate) fn new(stream: TcpStream, is_broken: F) -> Self {
        Self {
            stream,
            unread: Bytes::new(),
            is_broken,
        }
    }

    /// Gives back what was read too far.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        self.unread = if self.unread.is_empty() {
            bytes
        } else {
            [bytes, std::mem::take(&mut self.unread)].concat().into()
        };
    }
}

impl<F: Fn() -> bool> Drop for Socket<F> {
    fn drop(&mut self) {
        if (self.is_broken)() {
            // Fails only for a socket that is no longer connected.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl<F: Fn() -> bool + Unpin> AsyncRead for Socket<F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let len = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl<F: Fn() -> bool + Unpin> AsyncWrite for Socket<F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    pub(crate) async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(near, listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[track_caller]
    pub(crate) fn check_end(ended: io::Result<usize>, broken: bool) {
        match ended {
            Ok(_) => assert!(!broken, "closed in order"),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                assert!(broken, "reset");
            }
        }
    }

    #[tokio::test]
    async fn a_reset_of_the_guest_is_a_reset_for_the_server() {
        for broken in [false, true] {
            let (stream, mut server) = pair().await;
            let mut upstream = Socket::new(stream, move || broken);
            upstream.write_all(b"half a req").await.unwrap();
            let mut received = [0; 10];
            server.read_exact(&mut received).await.unwrap();
            drop(upstream);
            check_end(server.read_to_end(&mut Vec::new()).await, broken);
        }
    }

    #[tokio::test]
    async fn what_was_read_too_far_is_read_first() {
        let (mut far, stream) = pair().await;
        far.write_all(b" and more").await.unwrap();
        drop(far);
        let mut socket = Socket::new(stream, || false);
        socket.unread(Bytes::from_static(b"is"));
        socket.unread(Bytes::from_static(b"th"));
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "this and more");
    }
}
