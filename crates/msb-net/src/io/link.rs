//! What carries the guest's frames: a byte stream, datagrams, or a TAP device. All of them fill and empty
//! the same buffers, in which each frame follows its length.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{UnixDatagram, UnixStream};

use crate::frame::{FrameReader, FrameWriter};

/// Frames taken from a link of packets before the engine works on them. A burst of small ones is worth one
/// acknowledgement; more would only make the first one wait.
const MAX_BATCH: usize = 64;
/// Longer frames are worked on one by one, while they are in the processor's cache.
const LONG_FRAME: usize = 16 * 1024;

/// The link to a guest: something that carries its Ethernet frames. [`start`](crate::start) takes one, or what
/// converts into it.
///
/// | carrier | frames | who speaks it |
/// |---|---|---|
/// | [`UnixStream`] | each after its length, as a 4-byte big-endian number | QEMU's `-netdev stream` and `socket`, passt, libkrun |
/// | [`UnixDatagram`], connected | one a datagram | QEMU's `-netdev dgram`, libkrun, gvproxy |
/// | [`Link::tap`] | one a read or write | the kernel: a network namespace, a bridge, another VMM |
///
/// A frame begins with its destination's hardware address and has no checksum at its end. Frames of more than
/// 65,553 octets are dropped, as are those that the other side has no room for in their size (`EMSGSIZE`), or
/// cannot take now although it accepts others (a TAP device that is down). The peer of a datagram socket is found to be gone
/// when a frame is sent to it, and not before.
#[derive(Debug)]
pub struct Link {
    carrier: Carrier,
}

#[derive(Debug)]
enum Carrier {
    Stream(UnixStream),
    Datagram(UnixDatagram),
    Tap(AsyncFd<OwnedFd>),
}

/// What came of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// There may be frames.
    Some,
    /// Nothing is there now.
    None,
    /// The other side has closed the link.
    End,
}

impl Link {
    /// A TAP device: an open `/dev/net/tun` that `TUNSETIFF` was called on with `IFF_TAP | IFF_NO_PI` and without
    /// `IFF_VNET_HDR`. Making one takes `CAP_NET_ADMIN`, using it takes nothing. The descriptor is made non-blocking.
    ///
    /// # Errors
    /// When the descriptor cannot be polled.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn tap(device: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&device, true)?;
        #[expect(
            deprecated,
            reason = "unsound for types that can change their descriptor, which OwnedFd is not; its successor is unsafe"
        )]
        let device = AsyncFd::new(device)?;
        Ok(Self {
            carrier: Carrier::Tap(device),
        })
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match &self.carrier {
            Carrier::Stream(stream) => stream.readable().await,
            Carrier::Datagram(socket) => socket.readable().await,
            Carrier::Tap(device) => device.readable().await.map(drop),
        }
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        match &self.carrier {
            Carrier::Stream(stream) => stream.writable().await,
            Carrier::Datagram(socket) => socket.writable().await,
            Carrier::Tap(device) => device.writable().await.map(drop),
        }
    }

    /// Reads a batch of what is there into `reader`, whose frames were all taken.
    pub(super) fn read(&self, reader: &mut FrameReader) -> io::Result<Input> {
        match &self.carrier {
            Carrier::Stream(stream) => Ok(match would_block(stream.try_read(reader.space()))? {
                None => Input::None,
                Some(0) => Input::End,
                Some(len) => {
                    reader.filled(len);
                    Input::Some
                }
            }),
            Carrier::Datagram(socket) => read_packets(reader, |space| socket.try_recv(space)),
            Carrier::Tap(device) => read_packets(reader, |space| {
                device.try_io(Interest::READABLE, |device| {
                    Ok(rustix::io::read(device, space)?)
                })
            }),
        }
    }

    /// Writes what the other side takes now.
    pub(super) fn write(&self, out: &mut FrameWriter) -> io::Result<()> {
        match &self.carrier {
            Carrier::Stream(stream) => {
                while !out.is_empty() {
                    let Some(len) = would_block(stream.try_write(out.pending()))? else {
                        break;
                    };
                    out.written(len);
                }
                Ok(())
            }
            Carrier::Datagram(socket) => write_packets(out, |frame| socket.try_send(frame)),
            Carrier::Tap(device) => write_packets(out, |frame| {
                device.try_io(Interest::WRITABLE, |device| {
                    Ok(rustix::io::write(device, frame)?)
                })
            }),
        }
    }
}

impl From<UnixStream> for Link {
    fn from(stream: UnixStream) -> Self {
        Self {
            carrier: Carrier::Stream(stream),
        }
    }
}

impl From<UnixDatagram> for Link {
    fn from(socket: UnixDatagram) -> Self {
        Self {
            carrier: Carrier::Datagram(socket),
        }
    }
}

fn read_packets(
    reader: &mut FrameReader,
    mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> io::Result<Input> {
    let mut input = Input::None;
    for _ in 0..MAX_BATCH {
        let Some(space) = reader.packet_space() else {
            break;
        };
        let Some(len) = would_block(read(space))? else {
            break;
        };
        reader.filled_packet(len);
        input = Input::Some;
        if len > LONG_FRAME {
            break;
        }
    }
    Ok(input)
}

fn write_packets(
    out: &mut FrameWriter,
    mut write: impl FnMut(&[u8]) -> io::Result<usize>,
) -> io::Result<()> {
    while let Some(frame) = out.next_frame() {
        match would_block(write(frame)) {
            Ok(None) => break,
            Ok(Some(_)) => {}
            Err(error) if concerns_one_frame(&error) => {
                tracing::debug!(len = frame.len(), %error, "a frame was not taken by the link");
            }
            Err(error) => return Err(error),
        }
        out.written_frame();
    }
    Ok(())
}

/// `None`: not now.
fn would_block(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(len) => Ok(Some(len)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn concerns_one_frame(error: &io::Error) -> bool {
    let taken_by_no_one = [
        Errno::MSGSIZE,
        Errno::NOBUFS,
        Errno::NOMEM,
        // Of a TAP device: it is down.
        Errno::IO,
        // Of a TAP device: no Ethernet frame.
        Errno::INVAL,
    ];
    Errno::from_io_error(error).is_some_and(|error| taken_by_no_one.contains(&error))
}
