//! One exec: a process, its three streams with back-pressure, and its end.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

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

use crate::configure::Environment;
use crate::reaper::Reaper;

/// Pieces of output on their way to the connection. With flow control behind it this is what a program can be
/// ahead of its reader: two pieces and the connection's own window.
const OUTPUT_QUEUE: usize = 2;

type Sender = mpsc::Sender<Result<ExecOutput, Status>>;
type Receiver = mpsc::Receiver<Result<ExecOutput, Status>>;

/// Starts the program and the tasks that serve it.
///
/// # Errors
/// A status in the terms of `agent.proto`.
pub(crate) fn start(
    reaper: &Reaper,
    environment: &Environment,
    start: &ExecStart,
    input: Streaming<ExecInput>,
) -> Result<Receiver, Status> {
    let (mut child, ended) = spawn(reaper, environment, start)?;
    let pid = child.id();
    let streams = Streams::take(&mut child).map_err(|error| {
        kill_group(pid);
        Status::internal(format!("cannot use the program's pipes: {error}"))
    })?;
    let (sender, receiver) = mpsc::channel(OUTPUT_QUEUE);
    tokio::spawn(feed(input, streams.stdin));
    tokio::spawn(serve(pid, ended, streams.stdout, streams.stderr, sender));
    Ok(receiver)
}

struct Streams {
    stdin: pipe::Sender,
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
            stdin: pipe::Sender::from_owned_fd(OwnedFd::from(stdin))?,
            stdout: pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?,
            stderr: pipe::Receiver::from_owned_fd(OwnedFd::from(stderr))?,
        })
    }
}

fn spawn(
    reaper: &Reaper,
    environment: &Environment,
    start: &ExecStart,
) -> Result<(Child, oneshot::Receiver<WaitStatus>), Status> {
    let cwd = if start.cwd.is_empty() {
        "/"
    } else {
        &start.cwd
    };
    if !std::path::Path::new(cwd).is_dir() {
        return Err(Status::invalid_argument(format!(
            "the working directory {cwd:?} is not a directory in the guest"
        )));
    }
    let mut command = Command::new(&start.program);
    command
        .args(&start.args)
        .env_clear()
        .envs(environment)
        .envs(&start.env)
        .current_dir(cwd)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    reaper.spawn(&mut command).map_err(|error| {
        let text = format!("{}: {error}", start.program);
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Status::not_found(text),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ExecutableFileBusy => {
                Status::permission_denied(text)
            }
            // ENOEXEC: neither a binary for this machine nor a script with an interpreter line.
            _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
                Status::permission_denied(text)
            }
            io::ErrorKind::InvalidInput | io::ErrorKind::ArgumentListTooLong => {
                Status::invalid_argument(text)
            }
            _ => Status::internal(text),
        }
    })
}

/// Carries standard input until the host ends it, the program closes it, or the call is gone.
async fn feed(mut input: Streaming<ExecInput>, stdin: pipe::Sender) {
    let mut stdin = Some(stdin);
    while let Ok(Some(message)) = input.message().await {
        match message.input {
            Some(Input::Stdin(bytes)) => {
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Some(Input::StdinEnd(_)) => stdin = None,
            // A second start is the host's mistake and changes nothing.
            Some(Input::Start(_)) | None => {}
        }
    }
}

/// Sends output until the process has ended and its pipes are empty, then its end.
async fn serve(
    pid: u32,
    ended: oneshot::Receiver<WaitStatus>,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    sender: Sender,
) {
    let (has_ended, ended_flag) = watch::channel(false);
    let work = async {
        let started = Output::Started(Started { pid });
        send(&sender, started).await?;
        let wait = async {
            let status = ended.await;
            has_ended.send_replace(true);
            Ok(status)
        };
        let (status, (), ()) = tokio::try_join!(
            wait,
            pump(stdout, ended_flag.clone(), &sender, Output::Stdout),
            pump(stderr, ended_flag.clone(), &sender, Output::Stderr),
        )?;
        // The reaper holds every sender until its process has ended.
        let how = status.ok().and_then(how);
        send(&sender, Output::Exit(Exit { how })).await
    };
    let finished = tokio::select! {
        result = work => result.is_ok(),
        () = sender.closed() => false,
    };
    if !finished {
        kill_group(pid);
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
    while !*ended.borrow() {
        buffer.reserve(CHUNK_BYTES);
        let mut room = bytes::BufMut::limit(&mut buffer, CHUNK_BYTES);
        let read = tokio::select! {
            read = pipe.read_buf(&mut room) => read,
            _ = ended.wait_for(|ended| *ended) => break,
        };
        match read {
            Ok(0) | Err(_) => return Ok(()),
            Ok(_) => send(sender, wrap(buffer.split().freeze())).await?,
        }
    }
    // Past tokio's readiness, which may lag behind the pipe: an error here means empty.
    let mut rest = vec![0; CHUNK_BYTES];
    while let Ok(len @ 1..) = rustix::io::read(&pipe, &mut rest) {
        send(sender, wrap(Bytes::copy_from_slice(&rest[..len]))).await?;
    }
    Ok(())
}

fn how(status: WaitStatus) -> Option<exit::How> {
    status
        .exit_status()
        .map(exit::How::Code)
        .or_else(|| status.terminating_signal().map(exit::How::Signal))
}

fn kill_group(pid: u32) {
    let _ = signal_group(pid, Signal::KILL);
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
