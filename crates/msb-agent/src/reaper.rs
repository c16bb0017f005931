//! The one place that waits for processes: process 1 must reap orphans too, so nobody else may.

use std::collections::HashMap;
use std::io;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{WaitOptions, WaitStatus};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Starts processes and tells how each ended.
#[derive(Clone, Default)]
pub(crate) struct Reaper {
    waiting: Arc<Mutex<HashMap<i32, oneshot::Sender<WaitStatus>>>>,
}

impl Reaper {
    /// Starts `command`. The receiver yields its end, once.
    ///
    /// The lock is held across the start, so that a process which ends at once is not reaped before somebody
    /// waits for it.
    pub(crate) fn spawn(
        &self,
        command: &mut Command,
    ) -> io::Result<(Child, oneshot::Receiver<WaitStatus>)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        let (sender, receiver) = oneshot::channel();
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        waiting.insert(pid, sender);
        Ok((child, receiver))
    }

    /// Whether `pid` was started here and has not ended.
    pub(crate) fn is_running(&self, pid: i32) -> bool {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&pid)
    }

    /// Reaps until the runtime ends.
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    pub(crate) fn start(&self) -> io::Result<()> {
        let mut ended = signal(SignalKind::child())?;
        let reaper = self.clone();
        tokio::spawn(async move {
            while ended.recv().await.is_some() {
                reaper.reap();
            }
        });
        Ok(())
    }

    fn reap(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(sender) = waiting.remove(&pid.as_raw_nonzero().get()) {
                // The exec may have been given up by the host.
                let _ = sender.send(status);
            }
        }
    }
}
