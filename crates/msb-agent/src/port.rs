//! The virtio-serial port as an asynchronous byte stream.
//!
//! The device reads, writes and polls almost as a pipe does, so tokio's pipe halves drive it. One difference matters:
//! a short read or write does not mean that the port is empty or full (a read never crosses one of the driver's
//! buffers), so readiness may be cleared by `EWOULDBLOCK` only. `try_read` and `try_write` keep to that; the halves'
//! own `AsyncRead` and `AsyncWrite` do not, and would wait for ever for data that is already there.

use std::fs::File;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

/// Both directions of the port.
pub(crate) struct Port {
    receiver: pipe::Receiver,
    sender: pipe::Sender,
}

impl Port {
    /// Wraps a port device opened non-blocking. The checked constructors insist on a FIFO, hence the unchecked.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated or registered.
    pub(crate) fn new(device: File) -> io::Result<Self> {
        Ok(Self {
            sender: pipe::Sender::from_file_unchecked(device.try_clone()?)?,
            receiver: pipe::Receiver::from_file_unchecked(device)?,
        })
    }
}

impl AsyncRead for Port {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.receiver.poll_read_ready(cx))?;
            match self.receiver.try_read(buf.initialize_unfilled()) {
                Ok(len) => {
                    buf.advance(len);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.sender.poll_write_ready(cx))?;
            match self.sender.try_write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// A packet socket has the driver's trait: each read ends where one buffer does, with more behind it.
    #[tokio::test]
    async fn a_short_read_is_not_taken_for_an_empty_port() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )
        .expect("a socket pair");
        let mut port = Port::new(File::from(ours)).expect("registered");
        for packet in [b"one".as_slice(), b"two", b"three"] {
            rustix::io::write(&theirs, packet).expect("room");
        }
        let mut read = Vec::new();
        while read.len() < "onetwothree".len() {
            let mut chunk = [0; 64];
            let waited = tokio::time::timeout(Duration::from_secs(30), port.read(&mut chunk));
            let len = waited
                .await
                .expect("what is there is read")
                .expect("no error");
            read.extend_from_slice(&chunk[..len]);
        }
        assert_eq!(read, b"onetwothree");
    }
}
