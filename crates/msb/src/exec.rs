//! Programs in the guest.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use msb_agent_proto::CHUNK_BYTES;
use msb_agent_proto::v1::exec_input::Input;
use msb_agent_proto::v1::exec_output::Output as Message;
use msb_agent_proto::v1::{ExecInput, ExecOutput, ExecStart, SignalRequest, StdinEnd, exit};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::Error;
use crate::agent::Client;
use crate::link::Link;

/// What `Sandbox::exec` collects at most of output and errors together, in bytes: the guest decides how much it
/// writes, and the host's memory is not its to fill.
const OUTPUT_LIMIT: usize = 256 * 1024 * 1024;
/// How long the agent may take over a signal.
const SIGNAL_WAIT: Duration = Duration::from_secs(10);
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

    /// Starts the program.
    ///
    /// # Errors
    /// [`Error::ProgramNotFound`], [`Error::ProgramNotExecutable`], [`Error::Ended`], or the agent's refusal.
    pub async fn spawn(self) -> Result<Process, Error> {
        let (sender, receiver) = mpsc::channel(STDIN_QUEUE);
        let start = ExecInput {
            input: Some(Input::Start(self.start)),
        };
        // Fresh, so it has room.
        let _ = sender.try_send(start);
        let mut client = self.link.client();
        let call = client.exec(ReceiverStream::new(receiver));
        let output = self.link.or_ended(call).await?.into_inner();
        let mut process = Process {
            link: self.link.clone(),
            pid: 0,
            stdin: Some(Stdin(sender)),
            output,
        };
        match process.message().await? {
            Some(Message::Started(started)) => process.pid = started.pid,
            _ => {
                return Err(Error::Agent(
                    "it did not say that the program started".into(),
                ));
            }
        }
        Ok(process)
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
}

/// What a running program says next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of its standard output, at most 64 KiB.
    Stdout(Bytes),
    /// Bytes of its standard error, at most 64 KiB.
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
            Some(Message::Exit(exit)) => ExitStatus::new(exit.how).map(Piece::Exit),
            Some(Message::Started(_)) => Err(Error::Agent(
                "it said twice that the program started".into(),
            )),
            None => Err(Error::Ended {
                reason: "the program's output has ended".into(),
            }),
        }
    }

    /// Sends a signal to the program's process group.
    ///
    /// # Errors
    /// When the program has ended, the number is no signal, or the agent does not answer within 10 s.
    pub async fn signal(&self, signal: i32) -> Result<(), Error> {
        self::signal(&self.link.client(), self.pid, signal).await
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

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus(How);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Code(u8),
    Signal(u8),
}

impl ExitStatus {
    fn new(how: Option<exit::How>) -> Result<Self, Error> {
        let how = match how {
            Some(exit::How::Code(code)) => u8::try_from(code).map(How::Code),
            Some(exit::How::Signal(signal)) => u8::try_from(signal).map(How::Signal),
            None => return Err(Error::Agent("it did not say how the program ended".into())),
        };
        how.map(Self)
            .map_err(|_| Error::Agent("it told an impossible exit status".into()))
    }

    /// Whether the program exited with 0.
    pub fn success(self) -> bool {
        self.0 == How::Code(0)
    }

    /// The exit status, unless a signal ended the program.
    pub fn code(self) -> Option<u8> {
        match self.0 {
            How::Code(code) => Some(code),
            How::Signal(_) => None,
        }
    }

    /// The signal that ended the program.
    pub fn signal(self) -> Option<u8> {
        match self.0 {
            How::Code(_) => None,
            How::Signal(signal) => Some(signal),
        }
    }

    /// As a shell tells it: the exit status, or 128 and the signal's number.
    pub fn shell_code(self) -> u8 {
        match self.0 {
            How::Code(code) => code,
            How::Signal(signal) => signal.saturating_add(128),
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            How::Code(code) => write!(f, "exit status {code}"),
            How::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What a program wrote, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Output {
    /// How the program ended.
    pub fn status(&self) -> ExitStatus {
        self.status
    }

    /// Its standard output as text.
    ///
    /// # Errors
    /// [`Error::NotUtf8`]; the bytes are in [`stdout_bytes`](Self::stdout_bytes).
    pub fn stdout(&self) -> Result<&str, Error> {
        text("stdout", &self.stdout)
    }

    /// Its standard error as text.
    ///
    /// # Errors
    /// [`Error::NotUtf8`]; the bytes are in [`stderr_bytes`](Self::stderr_bytes).
    pub fn stderr(&self) -> Result<&str, Error> {
        text("stderr", &self.stderr)
    }

    /// Its standard output.
    pub fn stdout_bytes(&self) -> &[u8] {
        &self.stdout
    }

    /// Its standard error.
    pub fn stderr_bytes(&self) -> &[u8] {
        &self.stderr
    }
}

fn text<'a>(stream: &'static str, bytes: &'a [u8]) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes).map_err(|error| Error::NotUtf8 {
        stream,
        valid_up_to: error.valid_up_to(),
    })
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
    fn exit_statuses_are_told_as_a_shell_does() {
        for (how, shell, code, signal, display) in [
            (exit::How::Code(0), 0, Some(0), None, "exit status 0"),
            (
                exit::How::Code(255),
                255,
                Some(255),
                None,
                "exit status 255",
            ),
            (exit::How::Signal(9), 137, None, Some(9), "signal 9"),
            (exit::How::Signal(15), 143, None, Some(15), "signal 15"),
        ] {
            let status = ExitStatus::new(Some(how)).expect("possible");
            assert_eq!(status.shell_code(), shell);
            assert_eq!(status.code(), code);
            assert_eq!(status.signal(), signal);
            assert_eq!(status.to_string(), display);
            assert_eq!(status.success(), shell == 0);
        }
    }

    #[test]
    fn an_agent_that_tells_nonsense_is_not_believed() {
        for how in [
            None,
            Some(exit::How::Code(256)),
            Some(exit::How::Signal(-1)),
        ] {
            assert!(
                matches!(ExitStatus::new(how), Err(Error::Agent(_))),
                "{how:?}"
            );
        }
    }

    #[test]
    fn output_that_is_not_text_says_where() {
        let output = Output {
            status: ExitStatus(How::Code(0)),
            stdout: b"ok\xff".to_vec(),
            stderr: b"fine".to_vec(),
        };
        let error = output.stdout().expect_err("not UTF-8").to_string();
        assert_eq!(error, "the program's stdout is not UTF-8 from byte 2");
        assert_eq!(output.stderr().expect("text"), "fine");
    }

    #[test]
    fn the_guests_words_cannot_drive_a_terminal() {
        let error = explain(Status::not_found("\x1b[31mred\n")).to_string();
        assert!(!error.contains(char::is_control), "{error:?}");
    }
}
