//! The process that holds one detached sandbox from its start to its end, and is nothing but that.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use msb_control_proto::v1::Ended;
use msb_state::{Name, Owned, Phase, StateDir, Stream, crash};
use serde_json::json;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tonic::Status;

use super::control::{Ask, Facts, Server, Told};
use super::events::EventFile;
use super::handover::Starter;
use super::log::{LogSink, LogThread};
use super::spec::{CommandSpec, Spec, Values};
use crate::exec::{Piece, Process, Stdin};
use crate::outcome::ExitStatus;
use crate::{Error, Sandbox, Ulimit};

/// How long a sandbox may take to stop when the host ends its supervisor.
const TERMINATE_WAIT: Duration = Duration::from_secs(8);
/// SIGTERM, which asks a command to end.
const SIGTERM: i32 = 15;
/// The exit status of what SIGKILL has ended.
const KILLED: u8 = 137;
/// How much of the console a sandbox's log gets when the machine ended by itself: a panic with its trace is some 60 lines.
const CONSOLE_LINES: usize = 100;
/// The size of a terminal before anybody has said another.
const TERMINAL: (u16, u16) = (24, 80);
/// How often is looked whether the sandbox's directory is still there.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Requests that wait.
const ASKS: usize = 16;

/// Holds the sandbox `name` of the state directory `states` from its start to its end, for a program that has started this
/// process through [`Sandboxes::start`](crate::Sandboxes::start), which says so on standard input.
///
/// To be called by nothing but a program's entry for this, on a runtime with more than one thread. The process becomes the
/// leader of a session of its own, and what it reads on standard input is gone; it should forbid core dumps and reading its
/// memory before.
///
/// # Errors
/// What kept the sandbox from being up, or has been told to those who wait for it.
pub async fn supervise(states: PathBuf, name: &str) -> Result<(), Error> {
    crash::point("supervisor-begun");
    let host = |source| Error::Host {
        what: "the socket of the program that starts the sandbox as standard input",
        source,
    };
    let mut starter = Starter::from_stdin().map_err(host)?;
    // Fails when it leads one already.
    let _ = rustix::process::setsid();
    let signals = Signals::new().map_err(host)?;
    let held = async {
        let states = StateDir::open(states)?;
        let name: Name = name.parse()?;
        let owned = states.own(&name)?;
        crash::point("supervisor-owning");
        let told = starter.told().await.map_err(host)?;
        crash::point("supervisor-values-read");
        if told.created_ms != owned.record().created_ms {
            return Err(Error::Config(format!(
                "the sandbox {name} was removed and made anew meanwhile: start it again"
            )));
        }
        let log = LogThread::start(owned.log()?).map_err(host)?;
        log.catch_all();
        Ok((
            Held {
                states,
                name,
                owned,
                log,
                signals,
            },
            told.values,
        ))
    };
    let (held, values) = match held.await {
        Ok(held) => held,
        Err(error) => {
            starter.fail(&error).await;
            return Err(error);
        }
    };
    Box::pin(held.run(starter, values)).await
}

/// A sandbox that this process holds.
struct Held {
    states: StateDir,
    name: Name,
    owned: Owned,
    log: LogThread,
    signals: Signals,
}

/// A sandbox that is up, with what runs in it.
struct Up {
    sandbox: Sandbox,
    command: Option<Running>,
    listener: UnixListener,
    facts: Facts,
    // Written to until the end.
    _events: Option<EventFile>,
}

/// The command.
struct Running {
    pid: u32,
    stdin: Option<Stdin>,
    has_tty: bool,
    output: JoinHandle<Result<ExitStatus, Error>>,
}

/// Why a sandbox ends.
enum Why {
    Command(Result<ExitStatus, Error>),
    Machine(String),
    Stop(Duration),
    Kill,
    /// Its directory is gone: nobody could reach it.
    Lost,
}

impl Held {
    async fn run(mut self, mut starter: Starter, values: Values) -> Result<(), Error> {
        let up = tokio::select! {
            up = self.bring_up(values) => up,
            () = starter.gone() => Err(Error::Ended { reason: "the program that started it has ended".into() }),
        };
        let up = match up {
            Ok(up) => up,
            Err(error) => {
                let reason = format!("it could not be started: {}", error.whole());
                self.log.sink().note(&reason);
                self.end(reason, None, None).await;
                starter.fail(&error).await;
                return Err(error);
            }
        };
        self.live(up, starter).await
    }

    async fn bring_up(&mut self, values: Values) -> Result<Up, Error> {
        let spec = Spec::read(self.owned.record().config.clone())?;
        let command = spec.command.clone();
        let events = spec.events.as_deref().map(EventFile::open).transpose()?;
        let mut builder = spec.into_builder(self.name.as_str(), values)?;
        if let Some(events) = &events {
            let writer = events.writer();
            builder = builder.on_event(move |event| writer.write(event));
        }
        self.owned.set_phase(Phase::Starting)?;
        crash::point("supervisor-starting");
        let sandbox = tokio::select! {
            sandbox = builder.create() => sandbox?,
            () = self.signals.next() => return Err(Error::Ended { reason: "its supervisor was told to end".into() }),
        };
        crash::point("supervisor-booted");
        let listener = self.owned.listen()?;
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| UnixListener::from_std(listener))
            .map_err(|source| Error::Host {
                what: "the control socket",
                source,
            })?;
        crash::point("supervisor-listening");
        let command = start_command(&sandbox, &command, self.log.sink()).await?;
        crash::point("supervisor-command-started");
        let facts = facts(&sandbox, command.as_ref());
        self.owned.set_facts(json!({
            "ports": facts.ports,
            "accelerator": facts.accelerator,
            "vmm_pid": facts.vmm_pid,
            "supervisor_pid": std::process::id(),
        }));
        self.owned.set_phase(Phase::Running)?;
        crash::point("supervisor-running");
        Ok(Up {
            sandbox,
            command,
            listener,
            facts,
            _events: events,
        })
    }

    /// From being up to the end.
    async fn live(mut self, mut up: Up, starter: Starter) -> Result<(), Error> {
        let (asks, mut asked) = mpsc::channel(ASKS);
        let (ended, told_end) = watch::channel(None);
        let paused = Arc::<AtomicBool>::default();
        let told = Told {
            agent: up.sandbox.link.connection(),
            asks,
            ended: told_end,
            written: self.log.written(),
            states: self.states.clone(),
            name: self.name.clone(),
            facts: Arc::new(up.facts),
            machine: Arc::clone(&up.sandbox.machine),
            paused: Arc::clone(&paused),
            stdin: up
                .command
                .as_ref()
                .and_then(|command| command.stdin.clone()),
        };
        let server = Server::start(up.listener, told);
        starter.up().await;
        crash::point("supervisor-told");
        let why = self
            .until_the_end(&up.sandbox, &mut up.command, &mut asked, &paused)
            .await;
        crash::point("supervisor-ending");
        let (reason, code) = finish(&up.sandbox, up.command, why, &mut asked).await;
        crash::point("supervisor-machine-ended");
        self.end(reason, code, Some(ended)).await;
        server.finish().await;
        Ok(())
    }

    /// Serves requests until one of them, or something else, ends the sandbox.
    async fn until_the_end(
        &mut self,
        sandbox: &Sandbox,
        command: &mut Option<Running>,
        asked: &mut mpsc::Receiver<Ask>,
        paused: &AtomicBool,
    ) -> Why {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        // What QEMU is asked for may hang with it, and must hold up nothing that ends it.
        let mut changing = Changing::default();
        loop {
            tokio::select! {
                status = ended(command) => return Why::Command(status),
                reason = sandbox.wait() => return Why::Machine(reason),
                () = self.signals.next() => return Why::Stop(TERMINATE_WAIT),
                _ = looks.tick() => if !self.owned.is_in_place() {
                    return Why::Lost;
                },
                (to, done) = changing.done() => {
                    let done = done.and_then(|()| self.write_paused(paused, to));
                    changing.answer(done);
                    changing.go_on(sandbox);
                }
                ask = asked.recv() => {
                    match ask {
                        Some(Ask::Stop(timeout)) => return Why::Stop(timeout),
                        Some(Ask::Kill) | None => return Why::Kill,
                        Some(Ask::Pause(answer)) => changing.asked.push_back((true, answer)),
                        Some(Ask::Resume(answer)) => changing.asked.push_back((false, answer)),
                    }
                    changing.go_on(sandbox);
                }
            }
        }
    }

    fn write_paused(&mut self, paused: &AtomicBool, to: bool) -> Result<(), Status> {
        if paused.swap(to, Ordering::Relaxed) == to {
            return Ok(());
        }
        let phase = match to {
            true => Phase::Paused,
            false => Phase::Running,
        };
        let written = self.owned.set_phase(phase);
        written.map_err(|error| Status::internal(Error::from(error).whole()))
    }

    /// Writes the end down, lets the sandbox go, and tells those who wait for it.
    async fn end(
        mut self,
        reason: String,
        code: Option<u8>,
        waiting: Option<watch::Sender<Option<Ended>>>,
    ) {
        self.log.finish().await;
        let phase = Phase::Ended {
            reason: reason.clone(),
            code,
        };
        if let Err(error) = self.owned.set_phase(phase) {
            // It will be found to have crashed, which is not far from the truth.
            tracing::error!("cannot write down the sandbox's end: {error}");
        }
        crash::point("supervisor-recorded");
        self.owned.unlisten();
        crash::point("supervisor-socket-removed");
        drop(self.owned);
        if let Some(waiting) = waiting {
            let code = code.map(u32::from);
            waiting.send_replace(Some(Ended { reason, code }));
        }
    }
}

type Answer = oneshot::Sender<Result<(), Status>>;

/// Requests to pause the sandbox (true) or to let it go on, one at a time.
#[derive(Default)]
struct Changing<'a> {
    /// The first is being done. As many as there are clients.
    asked: VecDeque<(bool, Answer)>,
    doing: Option<Doing<'a>>,
}

type Doing<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

impl<'a> Changing<'a> {
    /// Begins with the next, if nothing is being done.
    fn go_on(&mut self, sandbox: &'a Sandbox) {
        if self.doing.is_some() {
            return;
        }
        self.doing = self.asked.front().map(|(to, _)| match to {
            true => Box::pin(sandbox.pause()) as Doing<'a>,
            false => Box::pin(sandbox.resume()),
        });
    }

    /// Waits for what is being done, and tells what it was; never ends if there is nothing.
    async fn done(&mut self) -> (bool, Result<(), Status>) {
        let (Some(doing), Some((to, _))) = (&mut self.doing, self.asked.front()) else {
            return std::future::pending().await;
        };
        let done = doing.await;
        self.doing = None;
        (*to, done.map_err(|error| Status::internal(error.whole())))
    }

    fn answer(&mut self, done: Result<(), Status>) {
        if let Some((_, answer)) = self.asked.pop_front() {
            // Whoever asked may have gone.
            let _ = answer.send(done);
        }
    }
}

/// What does not change while the sandbox is up.
fn facts(sandbox: &Sandbox, command: Option<&Running>) -> Facts {
    Facts {
        vmm_pid: sandbox.vmm_pid(),
        ports: sandbox.ports().map(|port| port.to_string()).collect(),
        accelerator: match sandbox.accelerator() {
            msb_vmm::Accelerator::Kvm => "kvm",
            msb_vmm::Accelerator::Tcg => "tcg",
        },
        command_pid: command.map(|command| command.pid),
        has_tty: command.is_some_and(|command| command.has_tty),
        ca_pem: sandbox.ca_certificate().map(str::to_owned),
    }
}

/// The command's end; never, if there is none.
async fn ended(command: &mut Option<Running>) -> Result<ExitStatus, Error> {
    match command {
        Some(command) => outcome(&mut command.output).await,
        None => std::future::pending().await,
    }
}

async fn outcome(output: &mut JoinHandle<Result<ExitStatus, Error>>) -> Result<ExitStatus, Error> {
    output.await.unwrap_or_else(|error| {
        Err(Error::Ended {
            reason: error.to_string(),
        })
    })
}

/// Ends the machine as `why` demands. Returns the reason for people, and the command's exit status.
async fn finish(
    sandbox: &Sandbox,
    command: Option<Running>,
    why: Why,
    asked: &mut mpsc::Receiver<Ask>,
) -> (String, Option<u8>) {
    match why {
        Why::Command(Ok(status)) => {
            sandbox.kill().await;
            (
                format!("its command ended with {status}"),
                Some(status.shell_code()),
            )
        }
        Why::Command(Err(error)) => {
            // The machine's end is seen by the command first.
            let reason = match &error {
                Error::Ended { reason } => reason.clone(),
                other => other.whole(),
            };
            sandbox.kill().await;
            told_console(sandbox);
            (reason, None)
        }
        Why::Machine(reason) => {
            told_console(sandbox);
            (reason, None)
        }
        Why::Kill => {
            sandbox.kill().await;
            ("it was killed".to_owned(), command.map(|_| KILLED))
        }
        Why::Lost => {
            sandbox.kill().await;
            let reason = "its directory was removed while it ran";
            (reason.to_owned(), command.map(|_| KILLED))
        }
        Why::Stop(timeout) => {
            let in_order = stop(sandbox, command, timeout);
            tokio::select! {
                outcome = in_order => outcome,
                () = killed(asked) => {
                    sandbox.kill().await;
                    ("it was killed while it stopped".to_owned(), Some(KILLED))
                }
            }
        }
    }
}

/// The last words of a guest that ended without being asked are worth keeping.
fn told_console(sandbox: &Sandbox) {
    let console = sandbox.machine.vm.console().tail(CONSOLE_LINES);
    if !console.is_empty() {
        tracing::warn!("the last lines of the guest's console were:\n{console}");
    }
}

/// Waits for a request to kill; others come too late.
async fn killed(asked: &mut mpsc::Receiver<Ask>) {
    while let Some(ask) = asked.recv().await {
        if matches!(ask, Ask::Kill) {
            return;
        }
    }
}

async fn stop(
    sandbox: &Sandbox,
    command: Option<Running>,
    timeout: Duration,
) -> (String, Option<u8>) {
    let deadline = tokio::time::Instant::now() + timeout;
    // One that is halted ends nothing in order; to let go on what runs is harmless.
    let _ = tokio::time::timeout_at(deadline, sandbox.resume()).await;
    let mut code = None;
    if let Some(mut command) = command {
        let asked = async {
            let client = sandbox.link.client();
            let _ = crate::exec::signal(&client, command.pid, SIGTERM).await;
            outcome(&mut command.output).await
        };
        code = match tokio::time::timeout_at(deadline, asked).await {
            Ok(Ok(status)) => Some(status.shell_code()),
            Ok(Err(_)) | Err(_) => Some(KILLED),
        };
    }
    let in_time = tokio::time::timeout_at(deadline, sandbox.stop()).await;
    if in_time.is_err() {
        sandbox.kill().await;
        return (
            format!(
                "it was stopped by force: it took more than {} s",
                timeout.as_secs_f64()
            ),
            code,
        );
    }
    ("it was stopped".to_owned(), code)
}

/// Starts the command that was asked for, or the image's, or none.
async fn start_command(
    sandbox: &Sandbox,
    spec: &CommandSpec,
    log: LogSink,
) -> Result<Option<Running>, Error> {
    if spec.is_none {
        return Ok(None);
    }
    let config = sandbox.image_config();
    let words = config.command(&spec.words);
    let Some((program, args)) = words.split_first() else {
        return Ok(None);
    };
    let mut command = sandbox.command(program).args(args);
    let of_image = Some(&config.working_dir).filter(|dir| !dir.is_empty());
    if let Some(dir) = spec.workdir.as_ref().or(of_image) {
        command = command.cwd(dir);
    }
    if spec.has_tty {
        let (rows, cols) = TERMINAL;
        command = command.tty(rows, cols);
    }
    command = command.user(spec.user.as_ref().unwrap_or(&config.user));
    if let Some(timeout) = spec.timeout {
        command = command.timeout(timeout);
    }
    for ulimit in &spec.ulimits {
        let ulimit = ulimit.parse::<Ulimit>();
        command = command.ulimit(ulimit.map_err(|error| Error::Config(error.to_string()))?);
    }
    let mut process = command.spawn().await?;
    let stdin = process.take_stdin().filter(|_| spec.keeps_stdin);
    Ok(Some(Running {
        pid: process.pid(),
        stdin,
        has_tty: spec.has_tty,
        output: tokio::spawn(write_output(process, log)),
    }))
}

async fn write_output(mut process: Process, log: LogSink) -> Result<ExitStatus, Error> {
    loop {
        let (stream, bytes): (_, Bytes) = match process.next().await? {
            Piece::Stdout(bytes) => (Stream::Stdout, bytes),
            Piece::Stderr(bytes) => (Stream::Stderr, bytes),
            Piece::Exit(status) => {
                for killed in process.killed_for_memory() {
                    let text =
                        format!("the guest ran out of memory, and its kernel killed {killed}\n");
                    log.write(Stream::Msb, text.into()).await;
                }
                return Ok(status);
            }
        };
        log.write(stream, bytes).await;
    }
}

/// The signals that ask a supervisor to end. A terminal that is closed is not one of them.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    _hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            _hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
