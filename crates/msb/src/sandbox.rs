//! A running sandbox: the machine, its network, its proxy and its agent, put together.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use msb_agent_proto::v1::{ConfigureRequest, Network as GuestNetwork, PowerOffRequest};
use msb_image::{DiskFormat, Guest, GuestPaths, RootDisk, Store};
use msb_net::Addresses;
use msb_policy::PinTable;
use msb_tls_proxy::{Limits, TlsProxy, UpstreamTls};
use msb_vmm::{Accelerator, Channels, Disk, Machine, NetworkDevice, Vm};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tonic::Status;

use crate::agent::{self, Client};
use crate::event::{self, Event, Sink};
use crate::exec::{Command, Output, explain, printable};
use crate::plan::{Interception, Plan};
use crate::route::Router;
use crate::{Error, SandboxBuilder};

/// How long a guest may take to power off before it is killed. Its agent gives processes 2 s after SIGTERM.
const POWER_OFF_WAIT: Duration = Duration::from_secs(10);
/// How long the machine's end may come after its agent's connection is gone.
const END_WAIT: Duration = Duration::from_secs(2);
/// How much of the console an error shows.
const CONSOLE_LINES: usize = 20;

/// A running sandbox. Dropping it kills its guest at once; [`stop`](Self::stop) ends it in order.
pub struct Sandbox {
    name: String,
    client: Client,
    machine: Arc<Running>,
    boot: Boot,
    ca_pem: Option<String>,
    // Ends with the sandbox.
    _tasks: Tasks,
}

/// What the sandbox booted, kept in place while it runs.
#[derive(Debug)]
struct Boot {
    accelerator: Accelerator,
    _guest: Guest,
    _root: RootDisk,
}

/// The machine and why it ended, if it was us.
#[derive(Debug)]
pub(crate) struct Running {
    vm: Vm,
    end: watch::Receiver<Option<String>>,
}

#[derive(Debug)]
struct Tasks {
    _network: msb_net::Network,
    aborts: Vec<AbortHandle>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.aborts {
            task.abort();
        }
    }
}

impl Sandbox {
    /// Configures a sandbox. The name is its host name and what events call it: 1 to 63 of `a-z`, `0-9` and hyphens.
    pub fn builder(name: impl Into<String>) -> SandboxBuilder {
        SandboxBuilder::new(name.into())
    }

    /// The sandbox's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The certificate of this sandbox's own authority, as PEM; `None` when nothing is intercepted.
    pub fn ca_certificate(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// What runs the guest's instructions.
    pub fn accelerator(&self) -> Accelerator {
        self.boot.accelerator
    }

    /// The process id of QEMU on the host.
    pub fn vmm_pid(&self) -> u32 {
        self.machine.vm.pid()
    }

    /// Runs a program without standard input and collects its output. For anything else see
    /// [`command`](Self::command).
    ///
    /// # Errors
    /// As [`Command::output`]. A program that fails is not an error: see [`Output::status`].
    pub async fn exec(
        &self,
        program: impl Into<String>,
        args: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Output, Error> {
        self.command(program).args(args).output().await
    }

    /// Prepares a program: a path, or a name looked up in the guest's `PATH`.
    pub fn command(&self, program: impl Into<String>) -> Command<'_> {
        Command::new(self, program.into())
    }

    /// Powers the guest off in order, and by force when that takes over 10 s. May be called again.
    ///
    /// # Errors
    /// None at present; a guest that will not end in order is ended all the same.
    pub async fn stop(&self) -> Result<(), Error> {
        let in_order = async {
            let mut client = self.client.clone();
            // The reply may be lost with the machine; its end is what counts.
            let _ = client.power_off(PowerOffRequest {}).await;
            self.machine.vm.wait().await
        };
        if tokio::time::timeout(POWER_OFF_WAIT, in_order)
            .await
            .is_err()
        {
            self.kill().await;
        }
        Ok(())
    }

    /// Ends the guest at once and returns when QEMU is gone. May be called again.
    pub async fn kill(&self) {
        self.machine.vm.kill();
        self.machine.vm.wait().await;
    }

    /// Waits for the sandbox's end and tells the reason: its guest's power-off, a violation, a crash.
    pub async fn wait(&self) -> String {
        self.machine.end_reason().await
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(crate) fn machine(&self) -> Arc<Running> {
        Arc::clone(&self.machine)
    }

    /// A call's outcome, or that the sandbox has ended.
    pub(crate) async fn or_ended<T>(
        &self,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Error> {
        tokio::select! {
            result = call => match result {
                Ok(answer) => Ok(answer),
                Err(status) => Err(self.machine.refine(explain(status)).await),
            },
            reason = self.machine.end_reason() => Err(Error::Ended { reason }),
        }
    }

    pub(crate) async fn start(plan: Plan) -> Result<Self, Error> {
        let store = match &plan.store {
            Some(dir) => Store::open(dir),
            None => Store::open_default()?,
        };
        let (guest, root) = resolve_files(&store, &plan)?;
        let (terminate, terminated) = watch::channel(None);
        let events = Events {
            sandbox: plan.name.clone(),
            sink: plan.on_event.clone(),
            terminate,
        };
        for warning in &plan.warnings {
            events.emit(&Event::Warning(warning.clone()));
        }
        let proxy = match &plan.interception {
            Some(interception) => Some(Arc::new(build_proxy(&plan, interception, &events)?)),
            None => None,
        };
        let (machine, accelerator) = describe_machine(&plan, &store, &guest, &root).await?;
        let (vm, channels) = Vm::start(&machine).await?;
        let vm = Running {
            vm,
            end: terminated,
        };
        let machine = Arc::new(vm);
        let mut aborts = vec![watch_for_termination(&machine).abort_handle()];
        let (network, client) =
            connect(&plan, &events, proxy.clone(), channels, &mut aborts).await?;
        let tasks = Tasks {
            _network: network,
            aborts,
        };
        let ca_pem = proxy.map(|proxy| proxy.ca().cert_pem());
        configure_guest(&plan, &events, &machine, client.clone(), ca_pem.as_deref()).await?;
        Ok(Self {
            name: plan.name,
            client,
            machine,
            boot: Boot {
                accelerator,
                _guest: guest,
                _root: root,
            },
            ca_pem,
            _tasks: tasks,
        })
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("name", &self.name)
            .field("machine", &self.machine)
            .field("boot", &self.boot)
            .finish_non_exhaustive()
    }
}

impl Running {
    /// Waits for the end; a reason of ours comes before what the machine's own end looks like.
    pub(crate) async fn end_reason(&self) -> String {
        let end = self.vm.wait().await;
        if let Some(reason) = self.end.borrow().clone() {
            return reason;
        }
        if end.status.success() {
            return "the guest has powered off".into();
        }
        let mut reason = format!("QEMU ended with {}", end.status);
        let errors = self.vm.errors().tail(3);
        if !errors.is_empty() {
            reason.push_str(": ");
            reason.push_str(&errors);
        }
        reason
    }

    /// A lost connection usually is the machine's end seen first from another side.
    pub(crate) async fn refine(&self, error: Error) -> Error {
        if !matches!(error, Error::Ended { .. }) {
            return error;
        }
        match tokio::time::timeout(END_WAIT, self.end_reason()).await {
            Ok(reason) => Error::Ended { reason },
            Err(_elapsed) => error,
        }
    }

    fn last_lines(&self) -> String {
        let mut lines = self.vm.console().tail(CONSOLE_LINES);
        let errors = self.vm.errors().tail(3);
        if !errors.is_empty() {
            lines.push('\n');
            lines.push_str(&errors);
        }
        if lines.is_empty() {
            lines.push_str("(the guest said nothing)");
        }
        lines
    }
}

/// Where the parts' events go.
#[derive(Clone)]
struct Events {
    sandbox: String,
    sink: Option<Sink>,
    terminate: watch::Sender<Option<String>>,
}

impl Events {
    fn emit(&self, event: &Event) {
        event::emit(&self.sandbox, self.sink.as_ref(), event);
    }

    fn network_sink(&self) -> msb_net::EventSink {
        let events = self.clone();
        Arc::new(move |event| events.emit(&Event::Network(event)))
    }

    fn tls_sink(&self) -> msb_tls_proxy::EventSink {
        let events = self.clone();
        Arc::new(move |event| {
            let violation = match &event {
                msb_tls_proxy::Event::Violation {
                    violation,
                    action: msb_secrets::ViolationAction::BlockAndTerminate,
                    ..
                } => Some(violation.to_string()),
                _ => None,
            };
            events.emit(&Event::Tls(event));
            if let Some(violation) = violation {
                let reason =
                    format!("a secret's placeholder was sent where it may not go: {violation}");
                let first = events.terminate.send_if_modified(|end| {
                    let first = end.is_none();
                    end.get_or_insert_with(|| reason.clone());
                    first
                });
                if first {
                    events.emit(&Event::Terminated { reason });
                }
            }
        })
    }
}

fn resolve_files(store: &Store, plan: &Plan) -> Result<(Guest, RootDisk), Error> {
    let guest = store.guest(&GuestPaths {
        kernel: plan.kernel.clone(),
        initramfs: plan.initramfs.clone(),
    })?;
    let root = match &plan.rootfs {
        Some(path) => RootDisk::from_path(path)?,
        None => store.root_disk(&plan.image)?,
    };
    Ok((guest, root))
}

fn build_proxy(
    plan: &Plan,
    interception: &Interception,
    events: &Events,
) -> Result<TlsProxy, Error> {
    let ca = msb_ca::SandboxCa::generate(&plan.name, SystemTime::now())
        .map_err(msb_tls_proxy::Error::from)?;
    let mut upstream = UpstreamTls::builder();
    for file in &interception.upstream_ca_files {
        upstream = upstream.ca_file(file);
    }
    Ok(TlsProxy::new(msb_tls_proxy::Config {
        ca,
        secrets: plan.secrets.clone(),
        bypass: interception.bypass.clone(),
        upstream: upstream.build()?,
        on_violation: plan.on_violation,
        events: events.tls_sink(),
        limits: Limits::default(),
    })?)
}

async fn describe_machine(
    plan: &Plan,
    store: &Store,
    guest: &Guest,
    root: &RootDisk,
) -> Result<(Machine, Accelerator), Error> {
    let qemu = plan
        .qemu
        .as_deref()
        .unwrap_or_else(|| Path::new("qemu-system-x86_64"));
    let memory = store.dir().join("accelerator.json");
    let accelerator =
        msb_vmm::choose_accelerator(plan.accelerator, qemu, &guest.kernel, &memory).await?;
    let mut machine = Machine::new(&guest.kernel, &guest.initramfs, accelerator);
    machine.qemu = qemu.to_owned();
    machine.cpus = plan.cpus;
    machine.memory_mib = plan.memory_mib;
    machine.root = Some(Disk {
        path: root.path.clone(),
        fstype: match root.format {
            DiskFormat::Squashfs => "squashfs".to_owned(),
            // msb-image may learn formats this facade does not know yet.
            other => {
                return Err(Error::Config(format!(
                    "the root disk's format {other:?} is not supported"
                )));
            }
        },
    });
    machine.network = Some(NetworkDevice {
        mac: Addresses::default().guest_mac,
        mtu: msb_net::DEFAULT_MTU,
    });
    if accelerator == Accelerator::Tcg {
        let measured = tokio::task::spawn_blocking(msb_vmm::tsc_khz).await;
        machine.tsc_khz = Some(measured.map_err(|error| Error::Host {
            what: "a thread",
            source: error.into(),
        })?);
    }
    Ok((machine, accelerator))
}

/// Kills the machine when a reason to end it is given.
fn watch_for_termination(machine: &Arc<Running>) -> JoinHandle<()> {
    let machine = Arc::clone(machine);
    let mut end = machine.end.clone();
    tokio::spawn(async move {
        if end.wait_for(Option::is_some).await.is_ok() {
            machine.vm.kill();
        }
    })
}

/// Starts the network, its routing and the agent's connection.
async fn connect(
    plan: &Plan,
    events: &Events,
    proxy: Option<Arc<TlsProxy>>,
    channels: Channels,
    aborts: &mut Vec<AbortHandle>,
) -> Result<(msb_net::Network, Client), Error> {
    let link = channels.network.ok_or_else(|| Error::Host {
        what: "the guest's network link",
        source: std::io::ErrorKind::NotConnected.into(),
    })?;
    let pins = Arc::new(Mutex::new(PinTable::default()));
    let mut config = msb_net::Config::new(Arc::clone(&plan.policy));
    config.hosts = plan.hosts.clone();
    config.pins = Arc::clone(&pins);
    config.events = events.network_sink();
    let (network, flows) = msb_net::start(link, config);
    let router = Router {
        proxy,
        ports: plan
            .interception
            .as_ref()
            .map(|interception| interception.ports.clone())
            .unwrap_or_default(),
        secrets: plan.secrets.clone(),
        on_violation: plan.on_violation,
        pins,
        events: events.tls_sink(),
    };
    aborts.push(tokio::spawn(router.drive(flows)).abort_handle());
    let (client, driver) = agent::connect(channels.agent)
        .await
        .map_err(|error| Error::Agent(error.to_string()))?;
    aborts.push(driver);
    Ok((network, client))
}

async fn configure_guest(
    plan: &Plan,
    events: &Events,
    machine: &Running,
    mut client: Client,
    ca_pem: Option<&str>,
) -> Result<(), Error> {
    let request = ConfigureRequest {
        hostname: plan.name.clone(),
        network: Some(guest_network(&Addresses::default())),
        ca_pem: ca_pem
            .map(|pem| bytes::Bytes::copy_from_slice(pem.as_bytes()))
            .into_iter()
            .collect(),
        env: plan.env.clone().into_iter().collect(),
    };
    let answer = tokio::select! {
        answer = client.configure(request) => answer,
        _ = machine.vm.wait() => Err(Status::unavailable("")),
        () = tokio::time::sleep(plan.boot_timeout) => {
            return Err(Error::BootTimeout {
                waited: plan.boot_timeout,
                console: machine.last_lines(),
            });
        }
    };
    let answer = match answer.map_err(explain) {
        Ok(answer) => answer.into_inner(),
        Err(Error::Ended { .. }) => {
            // The rest of the console is read before the end is told.
            let _ = tokio::time::timeout(END_WAIT, machine.vm.wait()).await;
            return Err(Error::BootFailed {
                console: machine.last_lines(),
            });
        }
        Err(Error::Agent(reason)) => return Err(Error::GuestRefused(reason)),
        Err(error) => return Err(error),
    };
    for warning in answer.warnings.iter().take(MAX_GUEST_WARNINGS) {
        events.emit(&Event::Warning(format!("guest: {}", printable(warning))));
    }
    Ok(())
}

/// The guest decides how many it sends; nobody reads more.
const MAX_GUEST_WARNINGS: usize = 100;

fn guest_network(addresses: &Addresses) -> GuestNetwork {
    GuestNetwork {
        addresses: vec![
            format!("{}/{}", addresses.guest_v4, addresses.prefix_len_v4),
            format!("{}/{}", addresses.guest_v6, addresses.prefix_len_v6),
        ],
        gateways: vec![
            addresses.gateway_v4.to_string(),
            addresses.gateway_v6.to_string(),
        ],
        nameservers: vec![addresses.gateway_v4.to_string()],
    }
}
