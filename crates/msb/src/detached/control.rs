//! The supervisor's side of the control socket.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use msb_control_proto::v1::control_server::{Control, ControlServer};
use msb_control_proto::v1::input_piece::Piece;
use msb_control_proto::v1::{
    Ended, InputPiece, InputResponse, InspectRequest, InspectResponse, KillRequest, LogEntry,
    LogsRequest, PauseRequest, PauseResponse, ResumeRequest, ResumeResponse, SignalRequest,
    SignalResponse, StopRequest, WaitRequest, log_entry,
};
use msb_control_proto::{CHUNK_BYTES, CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use msb_state::{Entry, LogReader, Name, StateDir, Stream};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::{Request, Response, Status, Streaming};
use tower_service::Service;

use super::forward;
use crate::agent::Connection;
use crate::exec::Stdin;
use crate::sandbox::Running;

/// Clients at once. Each command of the CLI is one, for as long as it takes.
const MAX_CLIENTS: usize = 256;
/// Entries of the log that are read at once, in bytes; a client that does not take them is not read for.
const LOG_BATCH: usize = 256 * 1024;
/// Batches on their way to a client.
const LOG_QUEUE: usize = 2;
/// How long clients may take over the last answers.
const FAREWELL: Duration = Duration::from_secs(2);

/// What clients ask of the supervisor.
#[derive(Debug)]
pub(crate) enum Ask {
    Stop(Duration),
    Kill,
    Pause(oneshot::Sender<Result<(), Status>>),
    Resume(oneshot::Sender<Result<(), Status>>),
}

/// What clients are told about.
#[derive(Clone)]
pub(crate) struct Told {
    pub(crate) agent: Connection,
    pub(crate) asks: mpsc::Sender<Ask>,
    pub(crate) ended: watch::Receiver<Option<Ended>>,
    pub(crate) written: watch::Receiver<u64>,
    pub(crate) states: StateDir,
    pub(crate) name: Name,
    pub(crate) facts: Arc<Facts>,
    pub(crate) machine: Arc<Running>,
    pub(crate) paused: Arc<AtomicBool>,
    pub(crate) stdin: Option<Stdin>,
}

/// What does not change while the sandbox is up.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) vmm_pid: u32,
    pub(crate) ports: Vec<String>,
    pub(crate) accelerator: &'static str,
    pub(crate) command_pid: Option<u32>,
    pub(crate) has_tty: bool,
    pub(crate) ca_pem: Option<String>,
}

/// Serves clients until [`finish`](Self::finish).
#[derive(Debug)]
pub(crate) struct Server {
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) fn start(listener: UnixListener, told: Told) -> Self {
        let (end, ended) = watch::channel(false);
        let task = tokio::spawn(accept(listener, told, ended));
        Self { end, task }
    }

    /// Takes no more clients, and lets those that are there have their answers.
    pub(crate) async fn finish(self) {
        self.end.send_replace(true);
        let _ = self.task.await;
    }
}

async fn accept(listener: UnixListener, told: Told, mut end: watch::Receiver<bool>) {
    let mut clients = JoinSet::new();
    let room = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let stream = tokio::select! {
            () = is_over(&mut end) => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("cannot accept a client: {error}");
                    // Out of descriptors, as a rule.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            Some(_) = clients.join_next() => continue,
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            tracing::warn!("a client is refused: there are {MAX_CLIENTS} already");
            continue;
        };
        if let Err(reason) = check_peer(&stream) {
            tracing::warn!("a client is refused: {reason}");
            continue;
        }
        let (told, end) = (told.clone(), end.clone());
        clients.spawn(async move {
            serve(stream, told, end).await;
            drop(place);
        });
    }
    drop(listener);
    let farewell = async { while clients.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

async fn is_over(end: &mut watch::Receiver<bool>) {
    let _ = end.wait_for(|end| *end).await;
}

/// The directory lets nobody else in; this holds even if it is opened up.
fn check_peer(stream: &UnixStream) -> Result<(), String> {
    let peer = stream.peer_cred().map_err(|error| error.to_string())?;
    let own = rustix::process::geteuid().as_raw();
    match peer.uid() {
        uid if uid == own || uid == 0 => Ok(()),
        uid => Err(format!("it is the user {uid}'s")),
    }
}

async fn serve(stream: UnixStream, told: Told, mut end: watch::Receiver<bool>) {
    let service = TowerToHyperService::new(Router {
        control: ControlServer::new(Answers(told.clone())),
        told,
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = &mut connection => served,
        () = is_over(&mut end) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a client's connection ended");
    }
}

/// Calls for the agent to the agent, the others to us.
#[derive(Clone)]
struct Router {
    control: ControlServer<Answers>,
    told: Told,
}

impl Service<http::Request<Incoming>> for Router {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        if !forward::is_for_agent(request.uri().path()) {
            return self.control.call(request);
        }
        if self.told.paused.load(Ordering::Relaxed) {
            let name = &self.told.name;
            let text = format!("the sandbox is paused: let it go on with `msb resume {name}`");
            let refused = Status::failed_precondition(text).into_http();
            return Box::pin(std::future::ready(Ok(refused)));
        }
        Box::pin(forward::forward(self.told.agent.clone(), request))
    }
}

#[derive(Clone)]
struct Answers(Told);

impl Answers {
    async fn ask(&self, ask: Ask) -> Result<(), Status> {
        let ending = |_| Status::failed_precondition("the sandbox is ending");
        self.0.asks.send(ask).await.map_err(ending)
    }

    async fn answered(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<(), Status>>) -> Ask,
    ) -> Result<(), Status> {
        let (sender, answer) = oneshot::channel();
        self.ask(ask(sender)).await?;
        let ending = |_| Status::failed_precondition("the sandbox is ending");
        answer.await.map_err(ending)?
    }

    async fn ended(&self) -> Result<Response<Ended>, Status> {
        let mut ended = self.0.ended.clone();
        let ended = ended.wait_for(Option::is_some).await;
        let ended = ended.ok().and_then(|ended| ended.clone());
        ended
            .map(Response::new)
            .ok_or_else(|| Status::unavailable("the supervisor is gone"))
    }
}

#[tonic::async_trait]
impl Control for Answers {
    type LogsStream = ReceiverStream<Result<LogEntry, Status>>;

    async fn inspect(
        &self,
        _: Request<InspectRequest>,
    ) -> Result<Response<InspectResponse>, Status> {
        let facts = &self.0.facts;
        Ok(Response::new(InspectResponse {
            vmm_pid: facts.vmm_pid,
            supervisor_pid: std::process::id(),
            ports: facts.ports.clone(),
            accelerator: facts.accelerator.to_owned(),
            paused: self.0.paused.load(Ordering::Relaxed),
            command_pid: facts.command_pid,
            open_calls: u32::try_from(*self.0.agent.calls().follow().borrow()).unwrap_or(u32::MAX),
            ca_pem: facts.ca_pem.clone(),
            takes_input: self.0.stdin.is_some(),
            has_tty: facts.has_tty,
            console: self.0.machine.last_lines(),
        }))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<Ended>, Status> {
        let timeout = Duration::from_millis(request.into_inner().timeout_ms);
        // One that is ending already ends all the same.
        let _ = self.ask(Ask::Stop(timeout)).await;
        self.ended().await
    }

    async fn kill(&self, _: Request<KillRequest>) -> Result<Response<Ended>, Status> {
        let _ = self.ask(Ask::Kill).await;
        self.ended().await
    }

    async fn signal(
        &self,
        request: Request<SignalRequest>,
    ) -> Result<Response<SignalResponse>, Status> {
        let pid = self.0.facts.command_pid.ok_or_else(|| {
            let name = &self.0.name;
            Status::failed_precondition(format!(
                "the sandbox has no command to signal: end it with `msb stop {name}` or `msb kill {name}`"
            ))
        })?;
        let signal = request.into_inner().signal;
        crate::exec::signal(&self.0.agent.client(), pid, signal)
            .await
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(SignalResponse {}))
    }

    async fn pause(&self, _: Request<PauseRequest>) -> Result<Response<PauseResponse>, Status> {
        self.answered(Ask::Pause).await?;
        Ok(Response::new(PauseResponse {}))
    }

    async fn resume(&self, _: Request<ResumeRequest>) -> Result<Response<ResumeResponse>, Status> {
        self.answered(Ask::Resume).await?;
        Ok(Response::new(ResumeResponse {}))
    }

    async fn wait(&self, _: Request<WaitRequest>) -> Result<Response<Ended>, Status> {
        self.ended().await
    }

    async fn logs(
        &self,
        request: Request<LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let LogsRequest { tail, follow } = request.into_inner();
        let told = &self.0;
        let log = told.states.log(&told.name);
        let log = log.map_err(|error| Status::internal(error.to_string()))?;
        let (sender, receiver) = mpsc::channel(LOG_QUEUE * 16);
        let following = Following {
            log,
            written: told.written.clone(),
            ended: told.ended.clone(),
            follow,
        };
        tokio::spawn(following.drive(tail, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn input(
        &self,
        request: Request<Streaming<InputPiece>>,
    ) -> Result<Response<InputResponse>, Status> {
        let stdin = self.0.stdin.clone().ok_or_else(|| {
            Status::failed_precondition(
                "the sandbox's command takes no input: start it with `-i` if it should",
            )
        })?;
        let mut pieces = request.into_inner();
        let mut ended = self.0.ended.clone();
        loop {
            let piece = tokio::select! {
                piece = pieces.message() => piece?,
                _ = ended.wait_for(Option::is_some) => break,
            };
            let outcome = match piece.and_then(|piece| piece.piece) {
                None => break,
                Some(Piece::Bytes(bytes)) if bytes.len() > CHUNK_BYTES => {
                    return Err(Status::invalid_argument("a piece is too long"));
                }
                Some(Piece::Bytes(bytes)) => stdin.write(bytes).await,
                Some(Piece::End(_)) => stdin.clone().close().await,
            };
            if outcome.is_err() {
                break;
            }
        }
        Ok(Response::new(InputResponse {}))
    }
}

/// A client that reads the log.
struct Following {
    log: LogReader,
    written: watch::Receiver<u64>,
    ended: watch::Receiver<Option<Ended>>,
    follow: bool,
}

impl Following {
    async fn drive(mut self, tail: Option<u64>, sender: mpsc::Sender<Result<LogEntry, Status>>) {
        let mut lines = tail.map(|tail| usize::try_from(tail).unwrap_or(usize::MAX));
        loop {
            // Before it is read: what is written meanwhile wakes us.
            self.written.mark_unchanged();
            let has_ended = self.ended.borrow().is_some();
            let log = self.log;
            let read = tokio::task::spawn_blocking(move || batch(log, lines)).await;
            lines = None;
            let Ok(Ok((log, entries))) = read else {
                let status = Status::internal("the log cannot be read");
                let _ = sender.send(Err(status)).await;
                return;
            };
            self.log = log;
            let is_all = entries.is_empty();
            for entry in entries {
                if sender.send(Ok(to_message(entry))).await.is_err() {
                    return;
                }
            }
            if !is_all {
                continue;
            }
            if !self.follow || has_ended {
                return;
            }
            let written = async {
                if self.written.changed().await.is_err() {
                    // The log has ended, and the sandbox will in a moment.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = written => {}
                _ = self.ended.wait_for(Option::is_some) => {}
                () = sender.closed() => return,
            }
        }
    }
}

fn batch(
    mut log: LogReader,
    tail: Option<usize>,
) -> Result<(LogReader, Vec<Entry>), msb_state::Error> {
    if let Some(lines) = tail {
        let entries = log.tail(lines)?;
        if !entries.is_empty() {
            return Ok((log, entries));
        }
    }
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while bytes < LOG_BATCH
        && let Some(entry) = log.read_entry()?
    {
        bytes += entry.bytes.len();
        entries.push(entry);
    }
    Ok((log, entries))
}

fn to_message(entry: Entry) -> LogEntry {
    let stream = match entry.stream {
        Stream::Stdout => log_entry::Stream::Stdout,
        Stream::Stderr => log_entry::Stream::Stderr,
        Stream::Msb => log_entry::Stream::Msb,
    };
    LogEntry {
        time_ms: entry.time_ms,
        stream: stream.into(),
        bytes: Bytes::from(entry.bytes),
    }
}
