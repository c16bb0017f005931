//! The loop: reads frames in batches, lets the engine work, writes frames in batches, and runs the
//! connects and lookups the engine asks for.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use msb_policy::NetworkPolicy;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::Instant;

use super::connect;
use super::flow::Flow;
use super::ingress::Ingress;
use super::join::join;
use super::link::{Input, Link};
use super::names::{NameService, SecureNames, SecureNamesSink, drive_names};
use super::relay::Relays;
use super::resolve::Upstreams;
use crate::action::{Action, Announced, Asker};
use crate::config::Config;
use crate::counters::{Counters, DropCounters};
use crate::dns::Answer;
use crate::engine::Engine;
use crate::event::{Event, EventSink, bounded};
use crate::frame::FrameReader;
use crate::policy::PolicyCell;
use crate::published::PublishedPort;
use crate::stream::{Clock, FlowStream, ReadyQueue};
use crate::table::FlowId;

/// How far ahead the timer is set when nothing is due: it only has to be some time.
const FAR: Duration = Duration::from_secs(3600);

/// Reads from the link before what they led to is sent.
const MAX_READS: usize = 8;

/// A running network. Dropping it ends the network: its connections fail, and the link is closed.
#[derive(Debug)]
pub struct Network {
    task: JoinHandle<()>,
    counters: Arc<DropCounters>,
    policy: PolicyCell,
    ready: Arc<ReadyQueue>,
}

impl Network {
    /// Puts another policy in place (SPEC P8). Names and new flows are decided by it at once. Open flows that it does not
    /// allow end soon after: connections are reset, and datagrams that were sent last answered with an ICMP error; where the
    /// server name decides, it is the one that the flow's [`Judge`](crate::Judge) was told.
    pub fn replace_policy(&self, policy: Arc<NetworkPolicy>) {
        self.policy.replace(policy);
        self.ready.wake();
    }

    /// What of the guest's was dropped so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters.read()
    }

    /// Waits until the link has closed. Cancel-safe; resolves at once when called again.
    pub async fn closed(&mut self) {
        if !self.task.is_finished() {
            // A panic or an abort of the task ends the network like any other end.
            let _ = (&mut self.task).await;
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts serving the guest at the other end of `link`, and whoever comes to the [published](Config::published) ports.
///
/// `link` carries Ethernet frames: a [`Link`], or a socket that becomes one. Established connections come out
/// of the receiver, which must be read; if it is dropped, or as many flows as [`Config::max_flows`] wait in it, new
/// ones are reset.
///
/// # Panics
/// Outside a tokio runtime with I/O and time enabled.
pub fn start(link: impl Into<Link>, mut config: Config) -> (Network, mpsc::Receiver<Flow>) {
    let link = link.into();
    let (sender, receiver) = mpsc::channel(config.max_flows.clamp(1, Semaphore::MAX_PERMITS));
    let clock = Clock::start();
    config.events = bounded(config.events, clock);
    let events = Arc::clone(&config.events);
    let published = std::mem::take(&mut config.published);
    let driver = Driver::new(link, config, clock, sender);
    let (counters, policy) = (driver.engine.counters(), driver.engine.policy());
    let ready = driver.engine.ready();
    let task = tokio::spawn(async move {
        let reason = match driver.drive_link(published).await {
            Ok(()) => "the guest's side closed the link".to_owned(),
            Err(error) => error.to_string(),
        };
        report_closed(&events, reason);
    });
    let network = Network {
        task,
        counters,
        policy,
        ready,
    };
    (network, receiver)
}

fn report_closed(events: &EventSink, reason: String) {
    events(Event::LinkClosed { reason });
}

struct Driver {
    link: Link,
    reader: FrameReader,
    /// Whether `reader` has frames that the guest may not have sent yet.
    holds_frames: bool,
    engine: Engine,
    clock: Clock,
    upstreams: Upstreams,
    secure_names: Option<SecureNamesSink>,
    flows: mpsc::Sender<Flow>,
    events: EventSink,
    /// Connects under way.
    connecting: HashMap<FlowId, AbortHandle>,
    /// Connected, while the guest finishes its handshake.
    connected: HashMap<FlowId, TcpStream>,
    relays: Relays,
    tasks: JoinSet<Done>,
}

/// What a task has to say when it ends.
enum Done {
    Connect(FlowId, io::Result<TcpStream>),
    Resolve(Asker, Answer),
    Served,
}

impl Driver {
    fn new(link: Link, config: Config, clock: Clock, flows: mpsc::Sender<Flow>) -> Self {
        let engine = Engine::new(config.clone(), clock);
        let events = Arc::clone(&config.events);
        let secure_names = config.secure_names.clone();
        let upstreams = Upstreams::new(engine.responder().clone(), Arc::new(config));
        Self {
            link,
            reader: FrameReader::new(),
            holds_frames: false,
            engine,
            clock,
            upstreams,
            secure_names,
            flows,
            events,
            connecting: HashMap::new(),
            connected: HashMap::new(),
            relays: Relays::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Runs until the link ends.
    async fn drive_link(mut self, published: Vec<Arc<PublishedPort>>) -> io::Result<()> {
        let mut ingress = Ingress::open(published)?;
        let ready = self.engine.ready();
        let timer = tokio::time::sleep(FAR);
        tokio::pin!(timer);
        // Who has taken all the room there was, so that the others come first the next time.
        let mut flows_were_first = false;
        loop {
            tokio::task::coop::consume_budget().await;
            let Some(has_read) = self.read()? else {
                return Ok(());
            };
            let now = self.clock.now();
            self.engine.pace(now);
            flows_were_first = self.engine.has_waiting_flows() && !flows_were_first;
            if flows_were_first {
                self.engine.poll(now);
            }
            self.relays.receive_all(&mut self.engine, now);
            ingress.admit_some(&mut self.engine, now);
            self.engine.poll(now);
            self.link.write(self.engine.out())?;
            self.perform(&mut ingress);
            while let Some(done) = self.tasks.try_join_next() {
                self.finish(done);
            }
            let now = self.clock.now();
            let deadline = match self.engine.poll_timeout(now) {
                Some(at) if at <= now => continue,
                Some(at) => Instant::from_std(self.clock.to_std(at)),
                None => Instant::now() + FAR,
            };
            if has_read {
                continue;
            }
            if timer.deadline() > deadline || timer.is_elapsed() {
                timer.as_mut().reset(deadline);
            }
            let takes_frames = self.engine.takes_frames(now);
            let out = self.engine.out();
            let (has_output, has_room) = (!out.is_empty(), out.has_room());
            let takes_input = takes_frames && !out.is_full();
            tokio::select! {
                result = self.link.readable(), if takes_input => result?,
                result = self.link.writable(), if has_output => result?,
                () = ready.changed() => {}
                id = self.relays.readable(), if has_room => {
                    self.relays.receive(&mut self.engine, self.clock.now(), id);
                }
                arrival = ingress.arrived(), if has_room => {
                    ingress.admit(&mut self.engine, self.clock.now(), arrival);
                }
                Some(done) = self.tasks.join_next() => self.finish(done),
                () = &mut timer => {}
            }
        }
    }

    /// Reads and handles some frames. `Some(false)`: there were none; `None`: end of file.
    fn read(&mut self) -> io::Result<Option<bool>> {
        let now = self.clock.now();
        for turn in 0..MAX_READS {
            if self.engine.out().is_full() || !self.engine.takes_frames(now) {
                return Ok(Some(turn > 0));
            }
            if !self.holds_frames {
                match self.link.read(&mut self.reader)? {
                    Input::Some => self.holds_frames = true,
                    Input::None => return Ok(Some(turn > 0)),
                    Input::End => return Ok(None),
                }
            }
            while self.engine.takes_frames(now) {
                let Some(frame) = self.reader.next_frame() else {
                    self.holds_frames = false;
                    break;
                };
                self.engine.handle_frame(now, frame);
            }
        }
        Ok(Some(true))
    }

    /// Carries out what the engine asks for.
    fn perform(&mut self, ingress: &mut Ingress) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Connect {
                    id,
                    ends,
                    to_host,
                    if_own,
                } => {
                    let connect = connect::connect(ends.destination, to_host, if_own);
                    let handle = self
                        .tasks
                        .spawn(async move { Done::Connect(id, connect.await) });
                    self.connecting.insert(id, handle);
                }
                Action::Announce(announced) => self.announce(announced),
                Action::Welcome { id, stream } => match ingress.welcome(id) {
                    Some(client) => {
                        self.tasks.spawn(async move {
                            // What breaks is told to both ends.
                            let _ = join(stream, client).await;
                            Done::Served
                        });
                    }
                    None => stream.reset_handle().reset(),
                },
                Action::Cancel(id) => {
                    ingress.turn_away(id);
                    self.connected.remove(&id);
                    if let Some(connect) = self.connecting.remove(&id) {
                        connect.abort();
                    }
                }
                Action::ServeNames(stream) => {
                    let upstreams = self.upstreams.clone();
                    self.tasks.spawn(async move {
                        drive_names(stream, upstreams).await;
                        Done::Served
                    });
                }
                Action::ServeSecureNames {
                    destination,
                    stream,
                } => self.hand_on_names(destination, stream),
                Action::OpenRelay {
                    id,
                    carries,
                    ends,
                    to_host,
                    if_own,
                } => match self.relays.open(id, carries, ends, to_host, if_own) {
                    Ok(()) => self.engine.handle_relay_opened(id),
                    Err(error) => {
                        let (refusal, reason) = (connect::refusal(&error), error.to_string());
                        let now = self.clock.now();
                        self.engine.handle_relay_failed(now, id, refusal, &reason);
                    }
                },
                Action::CheckOwn {
                    flowing,
                    address,
                    denial,
                } => {
                    // In doubt it is.
                    if connect::is_own_address(address).unwrap_or(true) {
                        self.engine.handle_own(self.clock.now(), flowing, &denial);
                    }
                }
                Action::Relay { id, payload } => {
                    if !ingress.send(id, &payload) {
                        self.relays.send(&mut self.engine, id, payload);
                    }
                }
                Action::CloseRelay(id) => {
                    ingress.close(id);
                    self.relays.close(id);
                }
                Action::Resolve { question, asker } => {
                    if let Some(answer) = self.upstreams.known(&question) {
                        self.engine.handle_resolved(asker, &answer);
                        continue;
                    }
                    let upstreams = self.upstreams.clone();
                    self.tasks
                        .spawn(async move { Done::Resolve(asker, upstreams.ask(&question).await) });
                }
            }
        }
    }

    fn finish(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Connect(id, Ok(upstream))) => {
                self.connecting.remove(&id);
                if self.engine.handle_connected(self.clock.now(), id) {
                    self.connected.insert(id, upstream);
                }
            }
            Ok(Done::Connect(id, Err(error))) => {
                self.connecting.remove(&id);
                let refusal = connect::refusal(&error);
                self.engine.handle_refused(id, refusal, &error.to_string());
            }
            Ok(Done::Resolve(asker, answer)) => self.engine.handle_resolved(asker, &answer),
            Ok(Done::Served) => {}
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!(%error, "a network task has panicked"),
        }
    }

    fn hand_on_names(&self, destination: SocketAddr, guest: FlowStream) {
        let Some(sink) = &self.secure_names else {
            return guest.reset_handle().reset();
        };
        sink(SecureNames {
            destination,
            guest,
            names: NameService(self.upstreams.clone()),
        });
    }

    /// Hands an established flow on; if nobody takes it, the guest gets RST.
    fn announce(&mut self, announced: Announced) {
        let reset = announced.stream.reset_handle();
        let Some(upstream) = self.connected.remove(&announced.id) else {
            reset.reset();
            return;
        };
        let flow = Flow {
            source: announced.ends.source,
            destination: announced.ends.destination,
            to_host: announced.to_host,
            names: announced.names.told,
            configured: announced.names.configured,
            needs_name: announced.names.cause.is_none(),
            guest: announced.stream,
            upstream,
            policy: self.engine.policy(),
            events: Arc::clone(&self.events),
        };
        if let Err(error) = self.flows.try_send(flow) {
            tracing::warn!(%error, "a flow was reset");
            reset.reset();
        }
    }
}
