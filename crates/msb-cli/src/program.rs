//! How a program of the guest is to run, and its streams while it does.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use msb::{Command, Detach, ExitStatus, Piece, Process, Stdin, Ulimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt};

use crate::report;
use crate::terminal::{self, Change, RawTerminal};

/// The largest piece of standard input read at once, in bytes.
const INPUT_CHUNK: usize = 64 * 1024;
/// What timeout(1) exits with.
const TIMED_OUT: u8 = 124;

#[derive(Clone, Debug, Args)]
pub(crate) struct ProgramArgs {
    /// Hand standard input to the command.
    #[arg(short, long)]
    pub(crate) interactive: bool,

    /// Give the command a terminal, of the size of this one and with its changes. With -i the keys are the command's,
    /// Ctrl-C too. Standard input has to be a terminal.
    #[arg(short, long)]
    pub(crate) tty: bool,

    /// Who the command runs as, by the guest's /etc/passwd and /etc/group or by number, instead of the image's user.
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,

    /// The command's working directory in the guest.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,

    /// End the command when it takes longer, with SIGTERM and 2 s later with SIGKILL. The exit status is 124 then.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout: Option<u64>,

    /// A resource limit, as in nofile=1024:2048: with `exec` of the command, else of every program that is started in the
    /// sandbox. May be repeated.
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimits: Vec<Ulimit>,
}

impl ProgramArgs {
    /// Runs `command` on msb's own streams to its end, and returns the exit status for it. `sets_term`: somebody chose
    /// the guest's `TERM`.
    ///
    /// # Errors
    /// What kept it from running, or its output from being written.
    pub(crate) async fn run(&self, mut command: Command<'_>, sets_term: bool) -> Result<u8> {
        if let Some(user) = &self.user {
            command = command.user(user);
        }
        if let Some(dir) = &self.workdir {
            command = command.cwd(dir);
        }
        if let Some(seconds) = self.timeout {
            command = command.timeout(Duration::from_secs(seconds));
        }
        let (rows, cols) = terminal::size();
        if self.tty {
            command = command.tty(rows, cols);
            if !sets_term {
                command = command.env("TERM", terminal::term());
            }
        }
        let mut process = command.spawn().await?;
        let terminal = match self.tty && self.interactive {
            true => Some(RawTerminal::enter()?),
            false => None,
        };
        let now = terminal::size();
        if terminal.is_some() && now != (rows, cols) {
            // It has changed before changes were watched for; a program that ends just now has no use for it.
            let _ = process.resize(now.0, now.1).await;
        }
        if let Some(stdin) = process.take_stdin()
            && self.interactive
        {
            // A read of a terminal cannot be cancelled: it is left behind when the command has ended.
            tokio::spawn(feed(stdin));
        }
        let status = match relay(&mut process, terminal).await? {
            Ended::Program(status) => status,
            Ended::Signal(code) => return Ok(code),
        };
        for killed in process.killed_for_memory() {
            report::note(&format!(
                "the guest ran out of memory, and its kernel killed {killed}; --memory gives it more"
            ));
        }
        if let Some(seconds) = self.timeout.filter(|_| status.timed_out()) {
            report::note(&format!(
                "the command was ended because it took longer than {seconds} s ({status})"
            ));
            return Ok(TIMED_OUT);
        }
        Ok(status.shell_code())
    }

    /// The same for a sandbox in the background.
    pub(crate) fn detach(&self, detach: Detach) -> Detach {
        let mut detach = detach.tty(self.tty);
        if let Some(user) = &self.user {
            detach = detach.user(user);
        }
        if let Some(dir) = &self.workdir {
            detach = detach.workdir(dir);
        }
        if let Some(seconds) = self.timeout {
            detach = detach.timeout(Duration::from_secs(seconds));
        }
        detach
    }

    /// # Errors
    /// When a terminal is asked for where there is none.
    pub(crate) fn check(&self) -> Result<()> {
        match self.tty {
            true => terminal::require(),
            false => Ok(()),
        }
    }
}

enum Ended {
    Program(ExitStatus),
    /// msb itself is to end, with this exit status.
    Signal(u8),
}

/// Writes what the program writes until it ends. The terminal is given back by then.
async fn relay(process: &mut Process, mut terminal: Option<RawTerminal>) -> Result<Ended> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
        let change = async {
            match &mut terminal {
                Some(terminal) => terminal.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            piece = process.next() => match piece? {
                Piece::Stdout(bytes) => write(&mut stdout, &bytes, "standard output").await?,
                Piece::Stderr(bytes) => write(&mut stderr, &bytes, "standard error").await?,
                Piece::Exit(status) => return Ok(Ended::Program(status)),
            },
            change = change => match change {
                // A program that ends just now has no use for it.
                Change::Size(rows, cols) => drop(process.resize(rows, cols).await),
                Change::End(code) => return Ok(Ended::Signal(code)),
            },
        }
    }
}

async fn write(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8], name: &str) -> Result<()> {
    let write = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    write
        .await
        .with_context(|| format!("cannot write to {name}"))
}

async fn feed(stdin: Stdin) {
    let mut source = tokio::io::stdin();
    let mut buffer = vec![0; INPUT_CHUNK];
    loop {
        match source.read(&mut buffer).await {
            Ok(0) => break,
            Ok(len) => {
                let bytes = Bytes::copy_from_slice(&buffer[..len]);
                if stdin.write(bytes).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!("cannot read standard input: {error}");
                break;
            }
        }
    }
    // Fails only when the command has ended.
    let _ = stdin.close().await;
}
