//! The virtio-serial port as an asynchronous byte stream.

use std::fs::File;
use std::io;

use tokio::io::Join;
use tokio::net::unix::pipe;

/// Both directions of the port.
pub(crate) type Port = Join<pipe::Receiver, pipe::Sender>;

/// Wraps a port device opened non-blocking.
///
/// The device reads, writes and polls as a pipe does, hence the unchecked constructors: the checked ones
/// insist on a FIFO.
///
/// # Errors
/// When the descriptor cannot be duplicated or registered.
pub(crate) fn open(device: File) -> io::Result<Port> {
    let sender = pipe::Sender::from_file_unchecked(device.try_clone()?)?;
    let receiver = pipe::Receiver::from_file_unchecked(device)?;
    Ok(tokio::io::join(receiver, sender))
}
