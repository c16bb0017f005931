//! `msb attach` and `msb logs`: what a sandbox's command writes, and what it reads.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use msb::{Input, LogStream, SandboxHandle, Sandboxes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::exit_code;
use super::keys::DetachKeys;
use crate::interrupt::{HANG_UP, Interrupts};
use crate::report;
use crate::terminal::{self, Change, RawTerminal};

/// The largest piece of standard input read at once, in bytes.
const INPUT_CHUNK: usize = 64 * 1024;

/// How long what was typed before the keys that leave may take to be taken.
const LEAVE_WAIT: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The sandbox's name.
    name: String,

    /// Goes on until the sandbox has ended.
    #[arg(short, long)]
    follow: bool,

    /// The last so many lines only.
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// The sandbox's name.
    name: String,

    /// Hands no standard input to the command.
    #[arg(long)]
    no_stdin: bool,

    /// The keys that leave a command that has the terminal, as in ctrl-p,ctrl-q (the default) or ctrl-]. Where it has none,
    /// Ctrl-\ leaves.
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,

    /// Leaves the command alone when this program is interrupted (Ctrl-C), instead of handing the signal on.
    #[arg(long)]
    no_signals: bool,
}

/// `msb logs`.
pub(crate) async fn logs(args: Logs) -> Result<u8> {
    let sandboxes = Sandboxes::open_default()?;
    let mut logs = sandboxes.logs(&args.name, args.tail, args.follow).await?;
    let mut interrupts = Interrupts::new().context("cannot watch for signals")?;
    tokio::select! {
        written = write(&mut logs) => written.map(|()| 0),
        code = interrupts.next() => Ok(code),
    }
}

/// Writes a log on the standard streams that its pieces are of; what is msb's own goes to standard error.
async fn write(logs: &mut msb::Logs) -> Result<()> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(entry) = logs.next().await? {
        let write = async {
            if entry.stream == LogStream::Stdout {
                stdout.write_all(&entry.bytes).await?;
                return stdout.flush().await;
            }
            if entry.stream == LogStream::Msb {
                stderr.write_all(b"msb: ").await?;
            }
            stderr.write_all(&entry.bytes).await?;
            stderr.flush().await
        };
        write.await.context("cannot write the log")?;
    }
    Ok(())
}

/// How following a sandbox's command ends, other than with the sandbox.
enum Left {
    /// By its keys.
    Keys,
    /// By a signal: the exit status for it.
    Signal(u8),
}

/// `msb attach`.
pub(crate) async fn attach(args: Attach) -> Result<u8> {
    let sandboxes = Sandboxes::open_default()?;
    let sandbox = sandboxes.connect(&args.name).await?;
    let mut logs = sandbox.logs(Some(0), true).await?;
    let facts = sandbox.inspect().await?;
    let takes_input = facts.takes_input && !args.no_stdin;
    if !facts.takes_input && !args.no_stdin {
        report::note("the command takes no input: `run -d -i` would have let it");
    }
    // Before the terminal is changed: a signal that nobody acts on would leave it so.
    let handed_on = HandedOn::new().context("cannot watch for signals")?;
    let has_terminal = takes_input && facts.has_tty && std::io::stdin().is_terminal();
    let mut terminal = match has_terminal {
        true => Some(RawTerminal::enter()?),
        false => None,
    };
    if has_terminal {
        let (rows, cols) = terminal::size();
        // A command that ends just now has no use for it.
        let _ = sandbox.resize(rows, cols).await;
    }
    let (leave, left) = oneshot::channel();
    // Held, so that it is waited for where there are no keys to be typed.
    let mut leave = Some(leave);
    if takes_input {
        let keys = has_terminal.then(|| args.detach_keys.clone());
        // A read of a terminal cannot be cancelled: it is left behind.
        tokio::spawn(feed(sandbox.input(), keys, leave.take()));
    }
    let left = async {
        match left.await {
            Ok(()) => Left::Keys,
            Err(_) => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        written = write(&mut logs) => written.map(|()| None),
        left = left => Ok(Some(left)),
        left = handed_on.drive(&sandbox, args.no_signals) => Ok(Some(left)),
        left = sizes(&sandbox, terminal.as_mut()) => Ok(Some(left)),
    };
    drop((terminal, leave));
    match outcome? {
        None => {
            let ended = sandbox.wait().await?;
            exit_code(&args.name, &ended.reason, ended.code)
        }
        Some(Left::Keys) => {
            report::note(&format!("left {}, which goes on", args.name));
            Ok(0)
        }
        Some(Left::Signal(code)) => Ok(code),
    }
}

/// Hands on the sizes of the terminal until a signal is to end this program.
async fn sizes(sandbox: &SandboxHandle, terminal: Option<&mut RawTerminal>) -> Left {
    let Some(terminal) = terminal else {
        return std::future::pending().await;
    };
    loop {
        match terminal.changed().await {
            // A command that ends just now has no use for it.
            Change::Size(rows, cols) => drop(sandbox.resize(rows, cols).await),
            Change::End(code) => return Left::Signal(code),
        }
    }
}

/// The signals that are handed on, or leave the sandbox.
struct HandedOn {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    quit: Signal,
}

impl HandedOn {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Hands signals on until one is to leave the sandbox.
    async fn drive(mut self, sandbox: &SandboxHandle, none: bool) -> Left {
        loop {
            let number = tokio::select! {
                _ = self.interrupt.recv() => 2,
                _ = self.terminate.recv() => 15,
                _ = self.quit.recv() => return Left::Keys,
                _ = self.hang_up.recv() => return Left::Signal(HANG_UP),
            };
            // Without a command there is nothing to signal, and nothing to wait for.
            if none || sandbox.signal(number.into()).await.is_err() {
                return Left::Signal(128 + number);
            }
        }
    }
}

/// Hands standard input on, until its end or until the keys are typed that leave the sandbox.
async fn feed(mut input: Input, mut keys: Option<DetachKeys>, leave: Option<oneshot::Sender<()>>) {
    let mut source = tokio::io::stdin();
    let mut buffer = vec![0; INPUT_CHUNK];
    loop {
        let read = match source.read(&mut buffer).await {
            Ok(0) => break,
            Ok(len) => &buffer[..len],
            Err(error) => {
                tracing::warn!("cannot read standard input: {error}");
                return;
            }
        };
        let (bytes, has_left) = match &mut keys {
            Some(keys) => keys.take(read),
            None => (read.to_vec(), false),
        };
        if let Err(error) = input.write(Bytes::from(bytes)).await {
            report::note(&error.to_string());
            return;
        }
        if has_left {
            // A supervisor that hangs must not keep the terminal.
            let _ = tokio::time::timeout(LEAVE_WAIT, input.leave()).await;
            if let Some(leave) = leave {
                let _ = leave.send(());
            }
            return;
        }
    }
    // The end of a terminal's input is a key, which the command has got.
    if keys.is_none() {
        // Fails only when the command has ended.
        let _ = input.end().await;
    }
}
