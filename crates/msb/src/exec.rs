//! Programs in the guest.

use std::time::Duration;

use bytes::Bytes;
use msb_agent_proto::CHUNK_BYTES;
use msb_agent_proto::v1::exec_input::Input;
use msb_agent_proto::v1::exec_output::Output as Message;
use msb_agent_proto::v1::{
    ExecInput, ExecOutput, ExecStart, ResizeRequest, SignalRequest, StdinEnd, TerminalSize,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::agent::Client;
use crate::link::Link;
use crate::outcome::{ExitStatus, Output};
use crate::{Error, Ulimit};

/// What `Sandbox::exec` collects at most of output and errors together, in bytes: the guest decides how much it
/// writes, and the host's memory is not its to fill.
const OUTPUT_LIMIT: usize = 256 * 1024 * 1024;
/// How long the agent may take over a signal of a supervisor.
const SIGNAL_WAIT: Duration = Duration::from_secs(10);
/// Of the names of killed programs that the guest sends, so many are taken.
const MAX_KILLED: usize = 8;
/// Pieces of standard input on their way; the connection's own window is behind them.
const STDIN_QUEUE: usize = 2;

/// A program to run in the guest. Made by [`Sandbox::command`](crate::Sandbox::command).
#[derive(Debug)]
#[must_use]
pub struct Command<'a> {
    link: &'a Link,
    start: ExecStart,
}

impl<'a> Command<'a> {
    pub(crate) fn new(link: &'a Link, program: String) -> Self {
        let start = ExecStart {
            program,
            ..ExecStart::default()
        };
        Self { link, start }
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.start.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable for this program only.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.start.env.insert(name.into(), value.into());
        self
    }

    /// The working directory. Default: `/`.
    pub fn cwd(mut self, dir: impl Into<String>) -> Self {
        self.start.cwd = dir.into();
        self
    }

    /// Who it runs as: `USER` or `USER:GROUP`, each a name in the guest's own `/etc/passwd` and `/etc/group` or a number.
    /// Without a group, the user's own and all that name the user as a member. Default: root.
    ///
    /// `HOME`, `USER`, `LOGNAME` and `SHELL` are what a login of the user would set, unless the sandbox, its image or
    /// this command sets them. A number that nobody has belongs to group 0 and has `/` for a home.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.start.user = user.into();
        self
    }

    /// Gives the program a terminal of this size, for all three streams: it leads a session of its own, what it writes
    /// comes as [`Piece::Stdout`], and the end of input is the terminal's end-of-file character. `TERM` is `xterm` unless
    /// something sets it. A later change of size is [`Process::resize`]'s.
    pub fn tty(mut self, rows: u16, cols: u16) -> Self {
        self.start.tty = Some(size(rows, cols));
        self
    }

    /// Ends the program's process group when so much time is over: SIGTERM, and SIGKILL 2 s later. Its
    /// [`ExitStatus::timed_out`] is true then. Counted in whole milliseconds, at least one. Default: none.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.start.timeout_ms = u64::try_from(timeout.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        self
    }

    /// Sets a resource limit of the program and of what it starts.
    pub fn ulimit(mut self, ulimit: Ulimit) -> Self {
        self.start.ulimits.push(ulimit.into());
        self
    }

    /// Starts the program.
    ///
    /// # Errors
    /// [`Error::ProgramNotFound`], [`Error::ProgramNotExecutable`], [`Error::Ended`], [`Error::NoAnswer`], or the agent's
    /// refusal: a user, directory or limit that it cannot give.
    pub async fn spawn(self) -> Result<Process, Error> {
        let (sender, receiver) = mpsc::channel(STDIN_QUEUE);
        let start = ExecInput {
            input: Some(Input::Start(self.start)),
        };
        // Fresh, so it has room.
        let _ = sender.try_send(start);
        let start = async {
            let mut client = self.link.client();
            let call = client.exec(ReceiverStream::new(receiver));
            let mut output = call.await?.into_inner();
            let first = output.message().await?.and_then(|message| message.output);
            Ok((output, first))
        };
        let (output, first) = self.link.answer(start, explain).await?;
        let Some(Message::Started(started)) = first else {
            return Err(Error::Agent(
                "it did not say that the program started".into(),
            ));
        };
        Ok(Process {
            link: self.link.clone(),
            pid: started.pid,
            stdin: Some(Stdin(sender)),
            output,
            killed_for_memory: Vec::new(),
        })
    }
    /// Runs the program without standard input and collects what it writes.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn), and [`Error::OutputLimit`].
    pub async fn output(self) -> Result<Output, Error> {
        let mut process = self.spawn().await?;
        drop(process.take_stdin());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match process.next().await? {
                Piece::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                Piece::Stderr(bytes) => stderr.extend_from_slice(&bytes),
                Piece::Exit(status) => {
                    return Ok(Output {
                        status,
                        stdout,
                        stderr,
                        killed_for_memory: process.killed_for_memory,
                    });
                }
            }
            if stdout.len() + stderr.len() > OUTPUT_LIMIT {
                return Err(Error::OutputLimit {
                    limit: OUTPUT_LIMIT,
                });
            }
        }
    }
}

/// A program running in the guest. Dropping it before its end kills its process group.
#[derive(Debug)]
pub struct Process {
    link: Link,
    pid: u32,
    stdin: Option<Stdin>,
    output: Streaming<ExecOutput>,
    killed_for_memory: Vec<String>,
}

/// What a running program says next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of its standard output, at most 256 KiB.
    Stdout(Bytes),
    /// Bytes of its standard error, at most 256 KiB.
    Stderr(Bytes),
    /// It has ended. The last piece.
    Exit(ExitStatus),
}

impl Process {
    /// The process id in the guest.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The program's standard input, once. Dropping it ends the input.
    pub fn take_stdin(&mut self) -> Option<Stdin> {
        self.stdin.take()
    }

    /// The next piece. What is not taken holds the program back, once a window of 1 MiB is full.
    ///
    /// # Errors
    /// [`Error::Ended`] when the sandbox has ended, and after [`Piece::Exit`].
    pub async fn next(&mut self) -> Result<Piece, Error> {
        match self.message().await? {
            Some(Message::Stdout(bytes)) => piece(bytes).map(Piece::Stdout),
            Some(Message::Stderr(bytes)) => piece(bytes).map(Piece::Stderr),
            Some(Message::Exit(exit)) => {
                let killed = exit.killed_for_memory.iter().take(MAX_KILLED);
                self.killed_for_memory = killed.map(|name| printable(name)).collect();
                ExitStatus::new(exit.how, exit.timed_out).map(Piece::Exit)
            }
            Some(Message::Started(_)) => Err(Error::Agent(
                "it said twice that the program started".into(),
            )),
            None => Err(Error::Ended {
                reason: "the program's output has ended".into(),
            }),
        }
    }

    /// After [`Piece::Exit`]: the programs of the guest that its kernel killed for want of memory while this one ran, as
    /// `NAME (PID)`. At most 8; what has a part in it need not be this program's doing. The guest's word, made printable.
    pub fn killed_for_memory(&self) -> &[String] {
        &self.killed_for_memory
    }

    /// Sends a signal to the program's process group.
    ///
    /// # Errors
    /// When the program has ended, the number is no signal, or [`Error::NoAnswer`].
    pub async fn signal(&self, signal: i32) -> Result<(), Error> {
        let request = SignalRequest {
            pid: self.pid,
            signal,
        };
        let mut client = self.link.client();
        let call = client.signal(request);
        self.link.answer(call, refused).await.map(drop)
    }

    /// Tells the program's terminal its new size.
    ///
    /// # Errors
    /// When the program has ended or has no terminal, a part is 0, or [`Error::NoAnswer`].
    pub async fn resize(&self, rows: u16, cols: u16) -> Result<(), Error> {
        resize(&self.link, self.pid, rows, cols).await
    }

    async fn message(&mut self) -> Result<Option<Message>, Error> {
        match self.output.message().await {
            Ok(message) => Ok(message.and_then(|message| message.output)),
            Err(status) => Err(self.link.refine(explain(status)).await),
        }
    }
}

/// Sends a signal to the process group of the program `pid`.
pub(crate) async fn signal(client: &Client, pid: u32, signal: i32) -> Result<(), Error> {
    let mut client = client.clone();
    let request = SignalRequest { pid, signal };
    let answer = tokio::time::timeout(SIGNAL_WAIT, client.signal(request)).await;
    match answer {
        Ok(answer) => answer.map(|_| ()).map_err(explain),
        Err(_elapsed) => Err(Error::Agent(format!(
            "it did not answer within {} s",
            SIGNAL_WAIT.as_secs()
        ))),
    }
}

/// Tells the terminal of the program `pid` its new size.
pub(crate) async fn resize(link: &Link, pid: u32, rows: u16, cols: u16) -> Result<(), Error> {
    let request = ResizeRequest {
        pid,
        size: Some(size(rows, cols)),
    };
    let mut client = link.client();
    let call = client.resize(request);
    link.answer(call, refused).await.map(drop)
}

fn size(rows: u16, cols: u16) -> TerminalSize {
    TerminalSize {
        rows: rows.into(),
        cols: cols.into(),
    }
}

fn piece(bytes: Bytes) -> Result<Bytes, Error> {
    if bytes.len() > CHUNK_BYTES {
        return Err(Error::Agent("it sent more at once than was agreed".into()));
    }
    Ok(bytes)
}

/// A program's standard input.
#[derive(Clone, Debug)]
pub struct Stdin(mpsc::Sender<ExecInput>);

impl Stdin {
    /// Hands bytes to the program; waits while it does not read.
    ///
    /// # Errors
    /// [`Error::Ended`] when the program or the sandbox has ended.
    pub async fn write(&self, mut bytes: Bytes) -> Result<(), Error> {
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES));
            self.send(Input::Stdin(chunk)).await?;
        }
        Ok(())
    }

    /// Ends the input, also for clones of this.
    ///
    /// # Errors
    /// [`Error::Ended`] when the program or the sandbox has ended.
    pub async fn close(self) -> Result<(), Error> {
        self.send(Input::StdinEnd(StdinEnd {})).await
    }

    async fn send(&self, input: Input) -> Result<(), Error> {
        let message = ExecInput { input: Some(input) };
        self.0.send(message).await.map_err(|_| Error::Ended {
            reason: "the program takes no more input".into(),
        })
    }
}

/// The agent's statuses, in the terms of `agent.proto`.
pub(crate) fn explain(status: Status) -> Error {
    let text = printable(status.message());
    match status.code() {
        Code::NotFound => Error::ProgramNotFound(text),
        Code::PermissionDenied => Error::ProgramNotExecutable(text),
        Code::FailedPrecondition => Error::Control(text),
        Code::Unavailable | Code::Unknown | Code::Cancelled => Error::Ended {
            reason: "the connection to the guest is gone".into(),
        },
        _ => Error::Agent(text),
    }
}

/// As [`explain`], where nothing is looked for but a program that runs.
fn refused(status: Status) -> Error {
    match status.code() {
        Code::NotFound => Error::Agent(printable(status.message())),
        _ => explain(status),
    }
}

/// The guest's words, fit for a terminal and of bounded length.
pub(crate) fn printable(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_words_cannot_drive_a_terminal() {
        let error = explain(Status::not_found("\x1b[31mred\n")).to_string();
        assert!(!error.contains(char::is_control), "{error:?}");
    }
}
