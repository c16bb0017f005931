//! The guest's side of a terminal: a pseudo-terminal whose other end a program has as its own.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use msb_agent_proto::v1::TerminalSize;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, SpecialCodeIndex, Winsize};
use tokio::net::unix::pipe;
use tonic::Status;

/// Debian's group `tty`, and what devpts is mounted with.
const TTY_GROUP: u32 = 5;

/// Our end of a pseudo-terminal. It reads, writes and polls almost as a pipe does: see [`port`](crate::port).
#[derive(Debug)]
pub(crate) struct Terminal {
    receiver: pipe::Receiver,
    sender: pipe::Sender,
}

impl Terminal {
    /// Makes a pseudo-terminal that belongs to `owner`, and returns our end and the program's.
    ///
    /// # Errors
    /// When the guest has none left, or its `/dev/ptmx` is gone.
    pub(crate) fn open(size: Winsize, owner: u32) -> io::Result<(Self, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags)?;
        unlockpt(&ours)?;
        let theirs = ioctl_tiocgptpeer(&ours, flags)?;
        rustix::termios::tcsetwinsize(&theirs, size)?;
        rustix::fs::fchown(
            &theirs,
            Some(Uid::from_raw(owner)),
            Some(Gid::from_raw(TTY_GROUP)),
        )?;
        rustix::fs::fchmod(&theirs, Mode::from_raw_mode(0o620))?;
        rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
        let ours = File::from(ours);
        let terminal = Self {
            sender: pipe::Sender::from_file_unchecked(ours.try_clone()?)?,
            receiver: pipe::Receiver::from_file_unchecked(ours)?,
        };
        Ok((terminal, theirs))
    }

    /// Reads what the program wrote. 0: nobody has the other end any more.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.receiver.readable().await?;
            match self.receiver.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // What a terminal says whose other end is closed.
                Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                    return Ok(0);
                }
                read => return read,
            }
        }
    }

    /// Reads without waiting, past what is known of readiness: 0 means that nothing is left.
    pub(crate) fn read_left(&self, buffer: &mut [u8]) -> usize {
        rustix::io::read(&self.receiver, buffer).unwrap_or_default()
    }

    /// Writes what a person would type.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.sender.writable().await?;
            match self.sender.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => bytes = &bytes[written?..],
            }
        }
        Ok(())
    }

    /// Ends the input as a person would, if lines are what the program reads: behind half a line it takes two.
    pub(crate) async fn end_input(&self, after_half_a_line: bool) {
        let Ok(settings) = rustix::termios::tcgetattr(&self.sender) else {
            return;
        };
        if settings.local_modes.contains(LocalModes::ICANON) {
            let end = settings.special_codes[SpecialCodeIndex::VEOF];
            let keys = [end, end];
            let _ = self
                .write_all(&keys[usize::from(!after_half_a_line)..])
                .await;
        }
    }

    /// Tells the size; the kernel tells the programs in the foreground.
    fn resize(&self, size: Winsize) -> io::Result<()> {
        Ok(rustix::termios::tcsetwinsize(&self.sender, size)?)
    }
}

/// The size in the kernel's terms.
///
/// # Errors
/// `INVALID_ARGUMENT`, for one that no terminal has.
pub(crate) fn window(size: &TerminalSize) -> Result<Winsize, Status> {
    let fits = |count: u32| u16::try_from(count).ok().filter(|count| *count > 0);
    match (fits(size.rows), fits(size.cols)) {
        (Some(ws_row), Some(ws_col)) => Ok(Winsize {
            ws_row,
            ws_col,
            ws_xpixel: 0,
            ws_ypixel: 0,
        }),
        _ => Err(Status::invalid_argument(format!(
            "a terminal cannot have {} rows of {} columns: both are 1 to 65535",
            size.rows, size.cols
        ))),
    }
}

/// The terminals of running programs, by process id.
#[derive(Clone, Default)]
pub(crate) struct Terminals(Arc<Mutex<HashMap<u32, Arc<Terminal>>>>);

/// Removes its terminal from the list when it is dropped.
pub(crate) struct Listed {
    terminals: Terminals,
    pid: u32,
    terminal: Arc<Terminal>,
}

impl Terminals {
    pub(crate) fn add(&self, pid: u32, terminal: Arc<Terminal>) -> Listed {
        self.lock().insert(pid, Arc::clone(&terminal));
        Listed {
            terminals: self.clone(),
            pid,
            terminal,
        }
    }

    /// # Errors
    /// `INVALID_ARGUMENT`, when the program has no terminal or the size is impossible.
    pub(crate) fn resize(&self, pid: u32, size: &TerminalSize) -> Result<(), Status> {
        let size = window(size)?;
        let terminal = self.lock().get(&pid).cloned();
        let terminal = terminal.ok_or_else(|| {
            Status::invalid_argument(format!("process {pid} has no terminal of the agent's"))
        })?;
        terminal
            .resize(size)
            .map_err(|error| Status::internal(format!("the terminal cannot be resized: {error}")))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Arc<Terminal>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut terminals = self.terminals.lock();
        // The number may be another program's by now.
        let own = terminals.get(&self.pid);
        if own.is_some_and(|own| Arc::ptr_eq(own, &self.terminal)) {
            terminals.remove(&self.pid);
        }
    }
}
