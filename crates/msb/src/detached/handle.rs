//! A running sandbox of another process.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use msb_control_proto::CHUNK_BYTES;
use msb_control_proto::v1::control_client::ControlClient;
use msb_control_proto::v1::input_piece::Piece;
use msb_control_proto::v1::{
    InputEnd, InputPiece, InspectRequest, KillRequest, LogEntry as LogMessage, LogsRequest,
    PauseRequest, ResumeRequest, SignalRequest, StopRequest, WaitRequest, log_entry,
};
use msb_state::{Entry, Name, Phase, State, StateDir, Stream};
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::sandboxes::blocking;
use crate::agent::{self, Connection};
use crate::exec::{Command, printable};
use crate::link::Link;
use crate::outcome::Output;
use crate::{Error, Fs, Metrics, PortMapping};

type Client = ControlClient<Connection>;

/// Pieces of input on their way.
const INPUT_QUEUE: usize = 2;
/// How long the supervisor may take to tell of the guest's console.
const CONSOLE_WAIT: Duration = Duration::from_secs(5);
/// How long the record of an ended sandbox may take to come.
const RECORD_WAIT: Duration = Duration::from_secs(2);

/// A running sandbox that another process holds. Made by [`Sandboxes::connect`](crate::Sandboxes::connect); dropping it
/// leaves the sandbox as it is.
pub struct SandboxHandle {
    link: Link,
    remote: Arc<Remote>,
}

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Why, for people.
    pub reason: String,
    /// The exit status of its command, 128 + n for a signal; `None` if it had none, or did not get to its end.
    pub code: Option<u8>,
}

/// What is known of a running sandbox.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Facts {
    /// The process id of QEMU.
    pub vmm_pid: u32,
    /// That of its supervisor.
    pub supervisor_pid: u32,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Whether its processors are halted.
    pub paused: bool,
    /// The process id of its command in the guest, if it has one.
    pub command_pid: Option<u32>,
    /// Whether its command reads what [`SandboxHandle::input`] is given.
    pub takes_input: bool,
    /// Whether its command has a terminal.
    pub has_tty: bool,
    /// How many programs run in it that were started from outside, the command included.
    pub programs: u32,
    /// Its published ports.
    pub ports: Vec<PortMapping>,
    /// The certificate of its own authority, as PEM; `None` when nothing is intercepted.
    pub ca_certificate: Option<String>,
}

/// The connection to a supervisor.
pub(crate) struct Remote {
    connection: Connection,
    driver: AbortHandle,
    states: StateDir,
    name: Name,
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl fmt::Debug for SandboxHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxHandle")
            .field("name", &self.remote.name)
            .finish_non_exhaustive()
    }
}

impl SandboxHandle {
    pub(crate) async fn connect(
        states: StateDir,
        name: Name,
        stream: UnixStream,
    ) -> Result<Self, Error> {
        let opened = agent::open_to_supervisor(stream).await;
        let (connection, driver) = opened.map_err(|error| Error::Control(error.to_string()))?;
        let remote = Arc::new(Remote {
            connection: connection.clone(),
            driver,
            states,
            name,
        });
        let link = Link::to_supervisor(connection, Arc::clone(&remote));
        Ok(Self { link, remote })
    }

    /// The sandbox's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.remote.name.as_str()
    }

    /// Runs a program without standard input and collects its output, as [`Sandbox::exec`](crate::Sandbox::exec) does.
    ///
    /// # Errors
    /// As [`Command::output`].
    pub async fn exec(
        &self,
        program: impl Into<String>,
        args: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Output, Error> {
        self.command(program).args(args).output().await
    }

    /// The guest's files.
    pub fn fs(&self) -> Fs<'_> {
        Fs::new(&self.link)
    }

    /// How the guest is doing, in its own words.
    ///
    /// # Errors
    /// [`Error::Ended`], [`Error::NoAnswer`].
    pub async fn metrics(&self) -> Result<Metrics, Error> {
        crate::metrics::measure(&self.link).await
    }

    /// Prepares a program: a path, or a name looked up in the guest's `PATH`.
    pub fn command(&self, program: impl Into<String>) -> Command<'_> {
        Command::new(&self.link, program.into())
    }

    /// What is known of it now.
    ///
    /// # Errors
    /// [`Error::Ended`].
    pub async fn inspect(&self) -> Result<Facts, Error> {
        let mut client = self.remote.client();
        let answer = self
            .remote
            .answered(client.inspect(InspectRequest {}))
            .await?;
        let ports = answer.ports.iter().map(|port| port.parse());
        Ok(Facts {
            ports: ports.collect::<Result<_, _>>()?,
            vmm_pid: answer.vmm_pid,
            supervisor_pid: answer.supervisor_pid,
            accelerator: answer.accelerator,
            paused: answer.paused,
            command_pid: answer.command_pid,
            takes_input: answer.takes_input,
            has_tty: answer.has_tty,
            programs: answer.open_calls,
            ca_certificate: answer.ca_pem,
        })
    }

    /// Its published ports, with the numbers that they have on the host.
    ///
    /// # Errors
    /// [`Error::Ended`].
    pub async fn ports(&self) -> Result<Vec<PortMapping>, Error> {
        Ok(self.inspect().await?.ports)
    }

    /// Asks the command to end (SIGTERM), powers the guest off in order, and by force when both together take longer than
    /// `timeout`. Returns when nothing holds the sandbox any more.
    ///
    /// # Errors
    /// The supervisor does not answer for a minute.
    pub async fn stop(&self, timeout: Duration) -> Result<Ended, Error> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let mut client = self.remote.client();
        let request = StopRequest { timeout_ms };
        self.remote.ended(client.stop(request)).await
    }

    /// Ends the sandbox at once. Returns when nothing holds it any more.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub async fn kill(&self) -> Result<Ended, Error> {
        let mut client = self.remote.client();
        self.remote.ended(client.kill(KillRequest {})).await
    }

    /// Sends a signal to the command's process group.
    ///
    /// # Errors
    /// There is no command, or the number is no signal.
    pub async fn signal(&self, signal: i32) -> Result<(), Error> {
        let mut client = self.remote.client();
        let request = SignalRequest { signal };
        self.remote.answered(client.signal(request)).await.map(drop)
    }

    /// Tells the command's terminal its new size.
    ///
    /// # Errors
    /// There is no command, or it has no terminal; a part is 0.
    pub async fn resize(&self, rows: u16, cols: u16) -> Result<(), Error> {
        let pid = self.inspect().await?.command_pid;
        let pid = pid.ok_or_else(|| Error::Control("the sandbox has no command".to_owned()))?;
        crate::exec::resize(&self.link, pid, rows, cols).await
    }

    /// Halts the guest's processors: it keeps its memory and does nothing. Connections of it wait, those that wait too long on
    /// the other side are given up there, and its clocks stand still.
    ///
    /// # Errors
    /// [`Error::Ended`], or QEMU's refusal.
    pub async fn pause(&self) -> Result<(), Error> {
        let mut client = self.remote.client();
        self.remote
            .answered(client.pause(PauseRequest {}))
            .await
            .map(drop)
    }

    /// Lets the guest's processors go on, and sets its time of day. Its monotonic clock goes on from where it was.
    ///
    /// # Errors
    /// [`Error::Ended`], or QEMU's refusal.
    pub async fn resume(&self) -> Result<(), Error> {
        let mut client = self.remote.client();
        self.remote
            .answered(client.resume(ResumeRequest {}))
            .await
            .map(drop)
    }

    /// Waits for its end. Nothing holds the sandbox any more then.
    ///
    /// # Errors
    /// The supervisor does not answer for a minute. One that ended without a word is told as the reason.
    pub async fn wait(&self) -> Result<Ended, Error> {
        let mut client = self.remote.client();
        self.remote.ended(client.wait(WaitRequest {})).await
    }

    /// What its command wrote: of what is kept the last `tail` lines, or all; and with `follow` what comes, until the sandbox
    /// has ended.
    ///
    /// # Errors
    /// [`Error::Ended`], or an unreadable log.
    pub async fn logs(&self, tail: Option<u64>, follow: bool) -> Result<Logs, Error> {
        let mut client = self.remote.client();
        let request = LogsRequest { tail, follow };
        let stream = self.remote.answered(client.logs(request)).await?;
        Ok(Logs(Source::Supervisor(stream)))
    }

    /// The command's standard input. What several programs write is mixed.
    ///
    /// # Errors
    /// Those come with the first write: a command that was started without input takes none.
    pub fn input(&self) -> Input {
        let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
        let remote = Arc::clone(&self.remote);
        let outcome = tokio::spawn(async move {
            let mut client = remote.client();
            let call = client.input(ReceiverStream::new(receiver));
            remote.answered(call).await.map(drop)
        });
        Input { sender, outcome }
    }
}

impl Remote {
    fn client(&self) -> Client {
        let origin = http::Uri::from_static("http://supervisor.invalid");
        ControlClient::with_origin(self.connection.clone(), origin)
    }

    /// A call's answer, or why there is none.
    async fn answered<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Error> {
        match call.await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(self.explain(status).await),
        }
    }

    async fn explain(&self, status: Status) -> Error {
        match status.code() {
            Code::Unavailable | Code::Unknown | Code::Cancelled => self.why_gone().await,
            _ => Error::Control(printable(status.message())),
        }
    }

    /// The end that a call waits for, or what is on disk of it.
    ///
    /// # Errors
    /// The supervisor says nothing and has not let go.
    async fn ended(
        &self,
        call: impl Future<Output = Result<tonic::Response<msb_control_proto::v1::Ended>, Status>>,
    ) -> Result<Ended, Error> {
        if let Ok(answer) = call.await {
            let answer = answer.into_inner();
            return Ok(Ended {
                reason: answer.reason,
                code: answer.code.and_then(|code| u8::try_from(code).ok()),
            });
        }
        match self.recorded_end().await {
            Some(ended) => Ok(ended),
            None => Err(self.silent()),
        }
    }

    /// Why the connection is gone.
    pub(crate) async fn why_gone(&self) -> Error {
        match self.recorded_end().await {
            Some(Ended { reason, .. }) => Error::Ended { reason },
            None => self.silent(),
        }
    }

    fn silent(&self) -> Error {
        let name = &self.name;
        Error::Control(format!(
            "the supervisor of the sandbox {name} does not answer: end it with `msb rm -f {name}`"
        ))
    }

    /// The last lines of the guest's console, for the error of a guest that does not answer.
    pub(crate) async fn last_lines(&self) -> String {
        let mut client = self.client();
        let asked = tokio::time::timeout(CONSOLE_WAIT, client.inspect(InspectRequest {})).await;
        match asked {
            Ok(Ok(answer)) => answer.into_inner().console,
            _ => "(its supervisor does not answer either)".to_owned(),
        }
    }

    /// What the supervisor has written down, once it lets go; `None` if it does not.
    async fn recorded_end(&self) -> Option<Ended> {
        let deadline = tokio::time::Instant::now() + RECORD_WAIT;
        loop {
            let (states, name) = (self.states.clone(), self.name.clone());
            let seen = blocking(move || Ok(states.look(&name)?)).await;
            let (reason, code) = match seen.map(|seen| (seen.is_held, seen.state, seen.record)) {
                Ok((true, ..)) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                Ok((true, ..)) => return None,
                Ok((_, State::Ended, Some(record))) => match record.phase {
                    Phase::Ended { reason, code } => (reason, code),
                    _ => ("it has ended".to_owned(), None),
                },
                Ok(_) => ("its supervisor ended without a word".to_owned(), None),
                Err(error) => (error.whole(), None),
            };
            return Some(Ended { reason, code });
        }
    }
}

/// A sandbox's log.
#[derive(Debug)]
pub struct Logs(Source);

#[derive(Debug)]
enum Source {
    Supervisor(Streaming<LogMessage>),
    Disk(std::vec::IntoIter<Entry>),
}

impl Logs {
    pub(crate) fn from_disk(entries: Vec<Entry>) -> Self {
        Self(Source::Disk(entries.into_iter()))
    }

    /// The next piece; `None` when all is told.
    ///
    /// # Errors
    /// The supervisor is gone, or the log cannot be read.
    pub async fn next(&mut self) -> Result<Option<Entry>, Error> {
        let stream = match &mut self.0 {
            Source::Disk(entries) => return Ok(entries.next()),
            Source::Supervisor(stream) => stream,
        };
        let message = stream.message().await;
        let message = message.map_err(|status| match status.code() {
            Code::Unavailable | Code::Unknown | Code::Cancelled => Error::Ended {
                reason: "its supervisor is gone".to_owned(),
            },
            _ => Error::Control(printable(status.message())),
        })?;
        Ok(message.map(|message| {
            let stream = match message.stream() {
                log_entry::Stream::Stdout => Stream::Stdout,
                log_entry::Stream::Stderr => Stream::Stderr,
                log_entry::Stream::Msb | log_entry::Stream::Unspecified => Stream::Msb,
            };
            Entry {
                time_ms: message.time_ms,
                stream,
                bytes: message.bytes.into(),
            }
        }))
    }
}

/// The standard input of a sandbox's command.
#[derive(Debug)]
pub struct Input {
    sender: mpsc::Sender<InputPiece>,
    outcome: tokio::task::JoinHandle<Result<(), Error>>,
}

impl Input {
    /// Hands bytes to the command; waits while it does not read.
    ///
    /// # Errors
    /// The command takes no input, or none any more.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES));
            self.send(Piece::Bytes(chunk)).await?;
        }
        Ok(())
    }

    /// Ends the command's input, also for others.
    ///
    /// # Errors
    /// The command takes no input, or none any more.
    pub async fn end(mut self) -> Result<(), Error> {
        self.send(Piece::End(InputEnd {})).await?;
        self.leave().await
    }

    /// Leaves the input to others, once what was written has been taken.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn leave(self) -> Result<(), Error> {
        drop(self.sender);
        outcome(self.outcome).await
    }

    async fn send(&mut self, piece: Piece) -> Result<(), Error> {
        let message = InputPiece { piece: Some(piece) };
        if self.sender.send(message).await.is_ok() {
            return Ok(());
        }
        outcome(&mut self.outcome).await?;
        Err(Error::Ended {
            reason: "the sandbox's command takes no more input".to_owned(),
        })
    }
}

async fn outcome(
    task: impl Future<Output = Result<Result<(), Error>, tokio::task::JoinError>>,
) -> Result<(), Error> {
    task.await
        .unwrap_or_else(|error| Err(Error::Control(error.to_string())))
}

#[cfg(test)]
mod tests;
