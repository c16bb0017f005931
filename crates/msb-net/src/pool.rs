//! TCP sockets with their buffers, used again and again by all networks of the process.
//!
//! A connection needs a megabyte of buffer space, of which most never use more than a few pages. Asking the allocator
//! for it per connection does not stay cheap: once a block of that size was freed, the C library serves the next ones
//! from its heap and zeroes them, which was measured as 100 KiB of resident memory per idle connection. So buffers are
//! cut from mappings of their own, without huge pages, of which the first octet of a buffer would take a whole one where the
//! system gives them to everybody; and never given back: the process keeps the address space of its peak number of
//! connections, and the memory their traffic has touched. Old content stays in them; it cannot be read, because a socket
//! only yields what its own connection has written.

use std::io;
use std::sync::{Mutex, PoisonError};

use memmap2::{Advice, MmapMut};
use smoltcp::socket::tcp::{Socket, SocketBuffer};

/// Octets buffered in each direction: eight of the longest segments in flight. A ring starts over when it runs empty,
/// so a request-response connection stays in the first pages.
pub(crate) const BUFFER_LEN: usize = 512 * 1024;

/// Octets mapped at once: buffers of 32 connections.
const SLAB_LEN: usize = 64 * BUFFER_LEN;

/// Sockets that no connection uses.
static IDLE: Mutex<Vec<Socket<'static>>> = Mutex::new(Vec::new());

/// A socket in any closed state, with empty buffers once it listens.
pub(crate) fn take() -> Socket<'static> {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    if idle.is_empty() {
        let slab = map().unwrap_or_else(|error| {
            tracing::debug!(%error, "buffers come from the heap");
            vec![0; SLAB_LEN].leak()
        });
        let mut buffers = slab.chunks_exact_mut(BUFFER_LEN);
        while let (Some(receive), Some(send)) = (buffers.next(), buffers.next()) {
            idle.push(new(receive, send));
        }
    }
    idle.pop().unwrap_or_else(|| new(&mut [], &mut []))
}

/// Fresh memory, zero as far as it is looked at.
fn map() -> io::Result<&'static mut [u8]> {
    let mapping = MmapMut::map_anon(SLAB_LEN)?;
    // A kernel without huge pages does not know the advice.
    if let Err(error) = mapping.advise(Advice::NoHugePage) {
        tracing::debug!(%error, "buffers may take huge pages");
    }
    let mapping: &'static mut MmapMut = Box::leak(Box::new(mapping));
    Ok(mapping)
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

    /// `nh` is the advice against them (proc_pid_smaps(5)). A kernel built without huge pages has nothing to advise.
    #[test]
    fn buffers_take_no_huge_pages() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            eprintln!("skipped: this kernel has no transparent huge pages");
            return;
        }
        let address = map().unwrap().as_ptr().addr();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let holds = |line: &&str| {
            let ends = line
                .split(' ')
                .next()
                .and_then(|range| range.split_once('-'));
            let number = |hexadecimal| usize::from_str_radix(hexadecimal, 16);
            ends.is_some_and(|(start, end)| match (number(start), number(end)) {
                (Ok(start), Ok(end)) => (start..end).contains(&address),
                _ => false,
            })
        };
        let mut lines = maps.lines().skip_while(|line| !holds(line));
        let flags = lines.find_map(|line| line.strip_prefix("VmFlags:"));
        let flags = flags.expect("the mapping is listed with its flags");
        assert!(flags.split(' ').any(|flag| flag == "nh"), "{flags}");
    }

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
