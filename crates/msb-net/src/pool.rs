//! TCP sockets with their buffers, used again and again by all networks of the process.
//!
//! A connection needs a megabyte of buffer space, of which most never use more than a few pages. Asking the allocator
//! for it per connection does not stay cheap: once a block of that size was freed, the C library serves the next ones
//! from its heap and zeroes them, which was measured as 100 KiB of resident memory per idle connection. So buffers are
//! cut from slabs so large that they are always fresh mappings, and never given back: the process keeps the address
//! space of its peak number of connections, and the memory their traffic has touched. Old content stays in them; it
//! cannot be read, because a socket only yields what its own connection has written.

use std::sync::{Mutex, PoisonError};

use smoltcp::socket::tcp::{Socket, SocketBuffer};

/// Octets buffered in each direction: eight of the longest segments in flight. A ring starts over when it runs empty,
/// so a request-response connection stays in the first pages.
pub(crate) const BUFFER_LEN: usize = 512 * 1024;

/// Above 32 MiB, glibc maps memory freshly whatever was freed before (`DEFAULT_MMAP_THRESHOLD_MAX`).
const SLAB_LEN: usize = 66 * BUFFER_LEN;

/// Sockets that no connection uses.
static IDLE: Mutex<Vec<Socket<'static>>> = Mutex::new(Vec::new());

/// A socket in any closed state, with empty buffers once it listens.
pub(crate) fn take() -> Socket<'static> {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    if idle.is_empty() {
        let slab = vec![0; SLAB_LEN].leak();
        let mut buffers = slab.chunks_exact_mut(BUFFER_LEN);
        while let (Some(receive), Some(send)) = (buffers.next(), buffers.next()) {
            idle.push(new(receive, send));
        }
    }
    idle.pop().unwrap_or_else(|| new(&mut [], &mut []))
}

/// Gives a socket back. It may be in any state; its wakers are woken.
pub(crate) fn give_back(mut socket: Socket<'static>) {
    socket.abort();
    IDLE.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(socket);
}

fn new(receive: &'static mut [u8], send: &'static mut [u8]) -> Socket<'static> {
    let mut socket = Socket::new(SocketBuffer::new(receive), SocketBuffer::new(send));
    // One acknowledgement per batch of segments is sent anyway, see `Engine`.
    socket.set_ack_delay(None);
    socket.set_nagle_enabled(false);
    // No retransmission limit: a guest that is paused must find its connections again, and one that
    // is gone has closed the link. (smoltcp's timeout would also end idle connections.)
    socket.set_timeout(None);
    socket
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_its_full_buffers_and_comes_back() {
        let socket = take();
        assert_eq!(socket.recv_capacity(), BUFFER_LEN);
        assert_eq!(socket.send_capacity(), BUFFER_LEN);
        let idle = || IDLE.lock().unwrap().len();
        let before = idle();
        give_back(socket);
        assert!(idle() > before || before == 0);
    }
}
