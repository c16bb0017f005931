//! The signals that ask msb to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What [`Interrupts::next`] tells of SIGHUP.
pub(crate) const HANG_UP: u8 = 129;

/// SIGINT, SIGTERM and SIGHUP, from the moment this is made.
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Interrupts {
    /// # Errors
    /// When a handler cannot be installed.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGINT or SIGTERM and returns the exit status a shell tells for it.
    pub(crate) async fn end(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }

    /// Waits for one and returns the exit status a shell tells for it: 128 and its number.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
            _ = self.hang_up.recv() => HANG_UP,
        }
    }
}
