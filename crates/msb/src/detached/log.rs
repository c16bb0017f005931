//! The supervisor's side of a sandbox's log: one thread writes it, and readers are woken.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use bytes::Bytes;
use msb_state::{LogWriter, Stream};
use tokio::sync::{mpsc, watch};

/// Pieces that may wait for the disk; behind them the command is held back.
const MAX_WAITING: usize = 16;

/// Where [`SupervisorLog`] writes to.
static SINK: OnceLock<LogSink> = OnceLock::new();

/// Writes on the log. Clones write on the same.
#[derive(Clone, Debug)]
pub(crate) struct LogSink {
    pieces: mpsc::Sender<(Stream, Bytes)>,
    lost: Arc<AtomicU64>,
}

/// The thread that writes. It ends when all sinks are gone, or it is told to.
#[derive(Debug)]
pub(crate) struct LogThread {
    sink: LogSink,
    /// How much has been written, in pieces; readers wait for it to change.
    written: watch::Receiver<u64>,
    thread: JoinHandle<()>,
}

impl LogThread {
    pub(crate) fn start(log: LogWriter) -> io::Result<Self> {
        let (pieces, receiver) = mpsc::channel(MAX_WAITING);
        let (progress, written) = watch::channel(0);
        let lost = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&lost);
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || drive(log, receiver, &progress, &counted))?;
        Ok(Self {
            sink: LogSink { pieces, lost },
            written,
            thread,
        })
    }

    pub(crate) fn sink(&self) -> LogSink {
        self.sink.clone()
    }

    pub(crate) fn written(&self) -> watch::Receiver<u64> {
        self.written.clone()
    }

    /// Lets what the process says from now on go into the log.
    pub(crate) fn catch_all(&self) {
        // Fails when there is one already, which is as good.
        let _ = SINK.set(self.sink());
    }

    /// Writes what waits, and ends.
    pub(crate) async fn finish(self) {
        // An empty piece is the last.
        let _ = self.sink.pieces.send((Stream::Msb, Bytes::new())).await;
        let _ = tokio::task::spawn_blocking(|| self.thread.join()).await;
    }
}

impl LogSink {
    /// Writes what the command said, when there is room.
    pub(crate) async fn write(&self, stream: Stream, bytes: Bytes) {
        if !bytes.is_empty() {
            // Fails when the log has ended, as the sandbox has then.
            let _ = self.pieces.send((stream, bytes)).await;
        }
    }

    /// Writes a line of our own, if there is room.
    pub(crate) fn note(&self, text: &str) {
        let line = Bytes::from(format!("{}\n", text.trim_end()));
        if self.pieces.try_send((Stream::Msb, line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn drive(
    mut log: LogWriter,
    mut pieces: mpsc::Receiver<(Stream, Bytes)>,
    progress: &watch::Sender<u64>,
    lost: &AtomicU64,
) {
    let mut unwritten = 0_u64;
    while let Some((stream, bytes)) = pieces.blocking_recv() {
        if bytes.is_empty() {
            break;
        }
        let count = lost.swap(0, Ordering::Relaxed);
        if count > 0 {
            let text = format!("{count} lines about this sandbox were lost: too many at once\n");
            let _ = log.write(Stream::Msb, text.as_bytes());
        }
        if unwritten > 0 {
            let text = format!("{unwritten} pieces before this could not be written\n");
            if log.write(Stream::Msb, text.as_bytes()).is_ok() {
                unwritten = 0;
            }
        }
        // A full disk does not end a sandbox.
        if log.write(stream, &bytes).is_err() {
            unwritten += 1;
        }
        progress.send_modify(|written| *written += 1);
    }
}

/// What a supervisor says, such as its tracing output: into the log of its sandbox, which is bounded, once there is one;
/// to standard error before that.
#[derive(Clone, Copy, Debug, Default)]
pub struct SupervisorLog;

impl io::Write for SupervisorLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match SINK.get() {
            Some(sink) => sink.note(&String::from_utf8_lossy(bytes)),
            None => io::stderr().write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
