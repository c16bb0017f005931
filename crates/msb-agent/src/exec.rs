//! One exec: a process, its three streams with back-pressure, and its end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use msb_agent_proto::CHUNK_BYTES;
use msb_agent_proto::v1::exec_input::Input;
use msb_agent_proto::v1::exec_output::Output;
use msb_agent_proto::v1::{ExecInput, ExecOutput, ExecStart, Exit, Started, exit};
use rustix::process::{Pid, Signal, WaitStatus};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::{Status, Streaming};

use crate::child;
use crate::configure::Defaults;
use crate::reaper::Reaper;
use crate::shortage::Shortage;
use crate::terminal::{Terminal, Terminals};

/// Pieces of output on their way to the connection. With flow control behind it this is what a program can be
/// ahead of its reader: two pieces and the connection's own window.
const OUTPUT_QUEUE: usize = 2;
/// What is read of a pipe at first, in bytes: most programs write a few lines, and memory is cleared before it is used.
const FIRST_READ: usize = 4096;
/// From so many bytes at once on, a stream gets buffers that hold whole pieces.
const MUCH: usize = 32 * 1024;
/// What an ended program may have left in its terminal, in bytes: the kernel holds less.
const TERMINAL_REST: usize = 1 << 20;
/// How long a program whose time is over may take to end after SIGTERM.
const TIMEOUT_GRACE: Duration = Duration::from_secs(2);

type Sender = mpsc::Sender<Result<ExecOutput, Status>>;
type Receiver = mpsc::Receiver<Result<ExecOutput, Status>>;

/// What all execs share.
#[derive(Clone)]
pub(crate) struct Programs {
    pub(crate) reaper: Reaper,
    pub(crate) terminals: Terminals,
    pub(crate) shortage: Shortage,
}

/// Starts the program and the tasks that serve it.
///
/// # Errors
/// A status in the terms of `agent.proto`.
pub(crate) fn start(
    programs: &Programs,
    defaults: &Defaults,
    start: &ExecStart,
    input: Streaming<ExecInput>,
) -> Result<Receiver, Status> {
    let kills_before = programs.shortage.now();
    let started = child::spawn(&programs.reaper, defaults, start)?;
    let mut child = started.child;
    let program = Program {
        pid: child.id(),
        leads_session: started.terminal.is_some(),
        timeout: (start.timeout_ms > 0).then(|| Duration::from_millis(start.timeout_ms)),
        shortage: programs.shortage.clone(),
        kills_before,
    };
    let (ended, ended_flag) = watch::channel(false);
    let (sender, receiver) = mpsc::channel(OUTPUT_QUEUE);
    let wait = wait(started.ended, ended);
    match started.terminal {
        Some(terminal) => {
            let terminal = Arc::new(terminal);
            let listed = programs.terminals.add(program.pid, Arc::clone(&terminal));
            let keys = Keys {
                terminal: Arc::clone(&terminal),
                half_a_line: false,
            };
            tokio::spawn(feed(input, keys, ended_flag.clone()));
            tokio::spawn(async move {
                let pump = pump_terminal(&terminal, ended_flag.clone(), &sender);
                program.serve(wait, pump, ended_flag.clone(), &sender).await;
                drop(listed);
            });
        }
        None => {
            let streams = Streams::take(&mut child).map_err(|error| {
                program.kill();
                Status::internal(format!("cannot use the program's pipes: {error}"))
            })?;
            tokio::spawn(feed(input, streams.stdin, ended_flag.clone()));
            tokio::spawn(async move {
                let pumps = async {
                    let (stdout, stderr) = (streams.stdout, streams.stderr);
                    tokio::try_join!(
                        pump(stdout, ended_flag.clone(), &sender, Output::Stdout),
                        pump(stderr, ended_flag.clone(), &sender, Output::Stderr),
                    )?;
                    Ok(())
                };
                program
                    .serve(wait, pumps, ended_flag.clone(), &sender)
                    .await;
            });
        }
    }
    Ok(receiver)
}

struct Streams {
    stdin: Feed,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
}

impl Streams {
    fn take(child: &mut Child) -> io::Result<Self> {
        let missing = || io::Error::other("a pipe is missing");
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;
        Ok(Self {
            stdin: Feed {
                pipe: pipe::Sender::from_owned_fd(OwnedFd::from(stdin))?,
                wide: false,
            },
            stdout: pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?,
            stderr: pipe::Receiver::from_owned_fd(OwnedFd::from(stderr))?,
        })
    }
}

/// What takes a program's input.
trait Intake {
    /// # Errors
    /// When the program takes no more.
    async fn take(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Says that there is no more.
    async fn end(self);
}

/// A pipe, made larger for those who send much.
struct Feed {
    pipe: pipe::Sender,
    wide: bool,
}

impl Intake for Feed {
    async fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.wide && bytes.len() >= MUCH {
            self.wide = true;
            widen(&self.pipe);
        }
        self.pipe.write_all(bytes).await
    }

    async fn end(self) {}
}

/// Lets a pipe hold a whole piece. One that stays as it is only takes more turns.
fn widen(pipe: impl AsFd) {
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, CHUNK_BYTES);
}

/// A terminal, as somebody types into it.
struct Keys {
    terminal: Arc<Terminal>,
    half_a_line: bool,
}

impl Intake for Keys {
    async fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(last) = bytes.last() {
            self.half_a_line = !matches!(last, b'\n' | b'\r');
        }
        self.terminal.write_all(bytes).await
    }

    async fn end(self) {
        self.terminal.end_input(self.half_a_line).await;
    }
}

/// Carries standard input until the host ends it, the program closes it or has ended, or the call is gone.
async fn feed(
    mut input: Streaming<ExecInput>,
    stdin: impl Intake,
    mut ended: watch::Receiver<bool>,
) {
    let work = async {
        let mut stdin = Some(stdin);
        while let Ok(Some(message)) = input.message().await {
            match message.input {
                Some(Input::Stdin(bytes)) => {
                    if let Some(open) = &mut stdin
                        && open.take(&bytes).await.is_err()
                    {
                        stdin = None;
                    }
                }
                Some(Input::StdinEnd(_)) => {
                    if let Some(open) = stdin.take() {
                        open.end().await;
                    }
                }
                // A second start is the host's mistake and changes nothing.
                Some(Input::Start(_)) | None => {}
            }
        }
    };
    tokio::select! {
        () = work => {}
        // What is still on its way nobody will read.
        _ = ended.wait_for(|ended| *ended) => {}
    }
}

/// Waits for the end and tells the others of it.
async fn wait(
    ended: oneshot::Receiver<WaitStatus>,
    flag: watch::Sender<bool>,
) -> Option<WaitStatus> {
    // The reaper holds every sender until its process has ended.
    let status = ended.await.ok();
    flag.send_replace(true);
    status
}

/// A running program, as far as its end goes.
struct Program {
    pid: u32,
    leads_session: bool,
    timeout: Option<Duration>,
    shortage: Shortage,
    kills_before: u64,
}

impl Program {
    /// Sends output until the process has ended and its output is sent, then its end.
    async fn serve(
        &self,
        wait: impl Future<Output = Option<WaitStatus>>,
        pumps: impl Future<Output = Result<(), Gone>>,
        ended: watch::Receiver<bool>,
        sender: &Sender,
    ) {
        let work = async {
            send(sender, Output::Started(Started { pid: self.pid })).await?;
            let wait = async { Ok(wait.await) };
            let enforce = async { Ok(self.enforce(ended).await) };
            let (status, (), timed_out) = tokio::try_join!(wait, pumps, enforce)?;
            let exit = Exit {
                how: status.and_then(how),
                timed_out,
                killed_for_memory: self.shortage.since(self.kills_before),
            };
            send(sender, Output::Exit(exit)).await
        };
        let finished = tokio::select! {
            result = work => result.is_ok(),
            () = sender.closed() => false,
        };
        if !finished {
            self.kill();
        }
    }

    /// Ends the program when its time is over, and tells whether that was needed.
    async fn enforce(&self, mut ended: watch::Receiver<bool>) -> bool {
        let mut ends = async |within| {
            let end = ended.wait_for(|ended| *ended);
            tokio::time::timeout(within, end).await.is_ok()
        };
        let Some(timeout) = self.timeout else {
            return false;
        };
        if ends(timeout).await {
            return false;
        }
        let _ = signal_group(self.pid, Signal::TERM);
        if !ends(TIMEOUT_GRACE).await {
            self.kill();
        }
        true
    }

    fn kill(&self) {
        let _ = signal_group(self.pid, Signal::KILL);
        if self.leads_session {
            kill_session(self.pid);
        }
    }
}

/// The host gave the call up.
struct Gone;

async fn send(sender: &Sender, output: Output) -> Result<(), Gone> {
    let message = ExecOutput {
        output: Some(output),
    };
    sender.send(Ok(message)).await.map_err(|_| Gone)
}

/// Reads `pipe` to its end, or, once the process has ended, until it is empty: a process left in the
/// background may hold the other end open for ever, and what the ended one wrote is in the pipe by then.
async fn pump(
    mut pipe: pipe::Receiver,
    mut ended: watch::Receiver<bool>,
    sender: &Sender,
    wrap: fn(Bytes) -> Output,
) -> Result<(), Gone> {
    let mut buffer = BytesMut::new();
    let mut most = FIRST_READ;
    while !*ended.borrow() {
        buffer.reserve(most);
        let mut room = bytes::BufMut::limit(&mut buffer, most);
        let read = tokio::select! {
            read = pipe.read_buf(&mut room) => read,
            _ = ended.wait_for(|ended| *ended) => break,
        };
        match read {
            Ok(0) | Err(_) => return Ok(()),
            Ok(len) => {
                send(sender, wrap(buffer.split().freeze())).await?;
                if len == most && most < MUCH {
                    most = MUCH;
                } else if len == most && most < CHUNK_BYTES {
                    most = CHUNK_BYTES;
                    widen(&pipe);
                }
            }
        }
    }
    // Past tokio's readiness, which may lag behind the pipe. No more than is there now: who is left may go on writing.
    let left = rustix::io::ioctl_fionread(&pipe).unwrap_or_default();
    let mut left = usize::try_from(left).unwrap_or(usize::MAX);
    while left > 0 {
        let mut rest = vec![0; left.min(CHUNK_BYTES)];
        let Ok(len @ 1..) = rustix::io::read(&pipe, &mut rest) else {
            break;
        };
        left -= len;
        rest.truncate(len);
        send(sender, wrap(rest.into())).await?;
    }
    Ok(())
}

/// As [`pump`], for a terminal: its end of file says only that nobody has it open now.
async fn pump_terminal(
    terminal: &Terminal,
    mut ended: watch::Receiver<bool>,
    sender: &Sender,
) -> Result<(), Gone> {
    let mut buffer = vec![0; CHUNK_BYTES];
    while !*ended.borrow() {
        let read = tokio::select! {
            read = terminal.read(&mut buffer) => read,
            _ = ended.wait_for(|ended| *ended) => break,
        };
        match read {
            Ok(0) | Err(_) => {
                let _ = ended.wait_for(|ended| *ended).await;
            }
            Ok(len) => {
                send(
                    sender,
                    Output::Stdout(Bytes::copy_from_slice(&buffer[..len])),
                )
                .await?
            }
        }
    }
    let mut taken = 0;
    while taken < TERMINAL_REST
        && let len @ 1.. = terminal.read_left(&mut buffer)
    {
        taken += len;
        send(
            sender,
            Output::Stdout(Bytes::copy_from_slice(&buffer[..len])),
        )
        .await?;
    }
    Ok(())
}

fn how(status: WaitStatus) -> Option<exit::How> {
    status
        .exit_status()
        .map(exit::How::Code)
        .or_else(|| status.terminating_signal().map(exit::How::Signal))
}

/// Signals the process group an exec leads.
pub(crate) fn signal_group(pid: u32, signal: Signal) -> rustix::io::Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        // Group 1 would mean everybody.
        .filter(|pid| *pid > 1)
        .and_then(Pid::from_raw)
        .ok_or(rustix::io::Errno::SRCH)?;
    rustix::process::kill_process_group(pid, signal)
}

/// Kills what is left of the session a program leads: a shell on a terminal puts its jobs into groups of their own.
fn kill_session(leader: u32) {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return;
    };
    for process in processes.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        if session(&stat) == Some(leader)
            && let Some(pid) = Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// The session in a process' `stat` (proc(5)): the fourth field behind its name, which may hold anything.
fn session(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_read_behind_any_name() {
        for (stat, expected) in [
            ("97 (sh) S 1 97 96 34816 97 4194304", Some(96)),
            ("97 (a) 1 2 3 4) S 1 97 96 34816", Some(96)),
            ("97 (sh) S 1 97", None),
            ("", None),
        ] {
            assert_eq!(session(stat), expected, "{stat:?}");
        }
    }
}
