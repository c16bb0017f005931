//! `msb attach` and `msb logs`: what a sandbox's command writes, and what it reads.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use msb::{Input, LogStream, SandboxHandle, Sandboxes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};

use super::exit_code;
use crate::interrupt::Interrupts;
use crate::report;

/// The largest piece of standard input read at once, in bytes.
const INPUT_CHUNK: usize = 64 * 1024;

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

/// `msb attach`.
pub(crate) async fn attach(args: Attach) -> Result<u8> {
    let sandboxes = Sandboxes::open_default()?;
    let sandbox = sandboxes.connect(&args.name).await?;
    let mut logs = sandbox.logs(Some(0), true).await?;
    if args.no_stdin {
        // Nothing is asked of it.
    } else if !sandbox.inspect().await?.takes_input {
        report::note("the command takes no input: `run -d -i` would have let it");
    } else {
        // A read of a terminal cannot be cancelled: it is left behind.
        tokio::spawn(feed(sandbox.input()));
    }
    tokio::select! {
        written = write(&mut logs) => written?,
        left = signals(&sandbox, args.no_signals) => return left,
    }
    let ended = sandbox.wait().await?;
    exit_code(&args.name, &ended.reason, ended.code)
}

/// Hands signals on until one is to end this program.
async fn signals(sandbox: &SandboxHandle, none: bool) -> Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    loop {
        let number = tokio::select! {
            _ = interrupt.recv() => 2,
            _ = terminate.recv() => 15,
            _ = hang_up.recv() => return Ok(129),
        };
        if none {
            return Ok(128 + number);
        }
        // Without a command there is nothing to signal, and nothing to wait for.
        if sandbox.signal(number.into()).await.is_err() {
            return Ok(128 + number);
        }
    }
}

async fn feed(mut input: Input) {
    let mut source = tokio::io::stdin();
    let mut buffer = vec![0; INPUT_CHUNK];
    loop {
        match source.read(&mut buffer).await {
            Ok(0) => break,
            Ok(len) => {
                let bytes = Bytes::copy_from_slice(&buffer[..len]);
                if let Err(error) = input.write(bytes).await {
                    report::note(&error.to_string());
                    return;
                }
            }
            Err(error) => {
                tracing::warn!("cannot read standard input: {error}");
                return;
            }
        }
    }
    // A command that takes no input has none to end.
    let _ = input.end().await;
}
