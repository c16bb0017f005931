//! The virtio-serial port as an asynchronous byte stream.
//!
//! The device reads, writes and polls almost as a pipe does, so tokio's pipe halves drive it. One difference matters:
//! a short read or write does not mean that the port is empty or full (a read never crosses one of the driver's
//! buffers), so readiness may be cleared by `EWOULDBLOCK` only. `try_read` and `try_write` keep to that; the halves'
//! own `AsyncRead` and `AsyncWrite` do not, and would wait for ever for data that is already there.

use std::array;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

/// The driver's buffers, in bytes. A read yields one at most, so that many are read by one call with a slice for each.
const PAGE: usize = 4096;
/// What one call reads at most, in pages.
const MAX_PAGES: usize = 32;
/// What one write takes at most, in bytes (`port_fops_write`).
const WRITE: usize = 32 * 1024;

/// Both directions of the port.
pub(crate) struct Port {
    receiver: pipe::Receiver,
    sender: pipe::Sender,
    /// What the next call reads at most, in pages. Memory is cleared before it is read into, so it follows what came.
    pages: usize,
    /// Pieces that go out in one write: each takes a turn of the host, and the driver lets the next in only behind it.
    staging: Vec<u8>,
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
            pages: 1,
            staging: Vec::with_capacity(WRITE),
        })
    }
}

impl AsyncRead for Port {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(this.receiver.poll_read_ready(cx))?;
            let most = buf.remaining().min(this.pages * PAGE);
            let mut unfilled = buf.initialize_unfilled_to(most).chunks_mut(PAGE);
            // What is left of them stays empty.
            let mut pages: [_; MAX_PAGES] =
                array::from_fn(|_| IoSliceMut::new(unfilled.next().unwrap_or_default()));
            match this.receiver.try_read_vectored(&mut pages) {
                Ok(len) => {
                    buf.advance(len);
                    this.pages = (len / PAGE * 2).clamp(1, MAX_PAGES);
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

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            ready!(this.sender.poll_write_ready(cx))?;
            this.staging.clear();
            for piece in pieces {
                let room = WRITE - this.staging.len();
                this.staging
                    .extend_from_slice(&piece[..piece.len().min(room)]);
            }
            match this.sender.try_write(&this.staging) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
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

    /// Each write is one packet there, as it is one buffer of the driver's.
    #[tokio::test]
    async fn pieces_go_out_in_one_write() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        use tokio::io::AsyncWriteExt as _;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .expect("a socket pair");
        let mut port = Port::new(File::from(ours)).expect("registered");
        let large = vec![b'x'; 2 * WRITE];
        let pieces = [b"head".as_slice(), &large].map(IoSlice::new);
        assert!(port.is_write_vectored());
        let written = port.write_vectored(&pieces).await.expect("room");
        assert_eq!(written, WRITE);
        let mut packet = vec![0; 3 * WRITE];
        let len = rustix::io::read(&theirs, &mut packet).expect("a packet");
        assert_eq!(len, WRITE);
        assert!(packet.starts_with(b"headxxx"));
    }
}
