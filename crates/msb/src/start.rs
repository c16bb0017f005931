//! From a checked configuration to a sandbox that is up.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use msb_agent_proto::CONTRACT;
use msb_agent_proto::v1::{ConfigureRequest, ConfigureResponse, Network as GuestNetwork};
use msb_ca::SandboxCa;
use msb_image::{Guest, GuestPaths, ImageConfig, RootDisk, Store};
use msb_net::{Addresses, PublishedPort};
use msb_policy::PinTable;
use msb_secrets::{SecretSet, ViolationAction};
use msb_tls_proxy::{Drain, HttpRules, Limits, PlainConfig, Secrets, TlsProxy, may_send};
use msb_vmm::{Accelerator, Channels, Disk, Machine, NetworkDevice, Vm};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::Status;
use tracing::Level;

use crate::agent::{self, Client, Connection};
use crate::event::{Event, Events};
use crate::exec::{explain, printable};
use crate::link::Link;
use crate::plan::{Interception, Plan};
use crate::route::Router;
use crate::sandbox::{Boot, CONSOLE_LINES, END_WAIT, Running, Tasks};
use crate::{Error, PortMapping, Sandbox, host_roots};

/// The guest decides how many it sends; nobody reads more.
const MAX_GUEST_WARNINGS: usize = 100;
/// Asks the agent to say on the console when each step of the boot was done.
const TIMINGS: &str = "msb.timings";

/// Boots the plan's guest and brings it up.
pub(crate) async fn start(plan: Plan) -> Result<Sandbox, Error> {
    plan.storage.look()?;
    let store = match &plan.store {
        Some(dir) => Store::open(dir),
        None => Store::open_default()?,
    };
    let (guest, root) = resolve_files(&store, &plan)?;
    let ports = plan.ports.iter().map(PortMapping::bind);
    let ports = ports.collect::<Result<Vec<_>, _>>()?;
    let (terminate, terminated) = watch::channel(None);
    let events = Events {
        sandbox: plan.name.clone(),
        sink: plan.on_event.clone(),
        terminate,
    };
    for warning in &plan.warnings {
        events.emit(&Event::Warning(warning.clone()));
    }
    let host_roots = host_roots(&plan, &events).await?;
    let proxy = match &plan.interception {
        Some(interception) => {
            let ca = SandboxCa::generate(&plan.name, SystemTime::now())
                .map_err(msb_tls_proxy::Error::from)?;
            let secrets = plan.secrets.clone();
            let proxy = build_tls(ca, secrets, interception, plan.on_violation, &events)?;
            Some(Arc::new(proxy))
        }
        None => None,
    };
    let (machine, accelerator) = describe_machine(&plan, &store, &guest, &root).await?;
    let attachments = plan.storage.attach(&store).await?;
    let (vm, channels) = Vm::start(&machine, attachments).await?;
    for gap in vm.gaps() {
        events.emit(&Event::Warning(gap.to_string()));
    }
    let machine = Arc::new(Running {
        vm,
        end: terminated,
    });
    let mut tasks = Tasks {
        aborts: vec![
            watch_for_termination(&machine).abort_handle(),
            watch_shares(&machine, &events).abort_handle(),
        ],
        machine: Arc::clone(&machine),
        network: None,
    };
    let agent = connect(&plan, &events, proxy.clone(), channels, &ports, &mut tasks).await?;
    let ca_pem = proxy.as_ref().map(|proxy| proxy.ca().cert_pem());
    let mut authorities: Vec<_> = ca_pem.clone().into_iter().collect();
    authorities.extend(host_roots);
    let request = ConfigureRequest {
        hostname: plan.name.clone(),
        network: Some(guest_network(&Addresses::default())),
        ca_pem: authorities.into_iter().map(Into::into).collect(),
        env: environment(&plan, &root.config),
        mounts: plan.storage.requests(),
        ulimits: plan.ulimits.iter().copied().map(Into::into).collect(),
    };
    let configured = configure_guest(&plan, request, &events, &machine, agent.client()).await;
    if let Err(error) = configured {
        machine.vm.kill();
        machine.vm.wait().await;
        return Err(error);
    }
    tell_timings(&machine);
    tasks
        .aborts
        .extend(plan.lifetime.watch(agent.calls(), &events));
    Ok(Sandbox {
        name: plan.name,
        link: Link::to_machine(agent.clone(), Arc::clone(&machine)),
        machine,
        boot: Boot {
            accelerator,
            _guest: guest,
            root,
        },
        ca_pem,
        ports,
        tls: proxy,
        tasks,
    })
}

/// The host's roots in PEM, if the guest is to trust them.
async fn host_roots(plan: &Plan, events: &Events) -> Result<Vec<String>, Error> {
    if !plan.trust_host_cas {
        return Ok(Vec::new());
    }
    let read = tokio::task::spawn_blocking(host_roots::read).await;
    let roots = read.map_err(|error| Error::Host {
        what: "a thread",
        source: error.into(),
    })?;
    for warning in roots.warnings {
        events.emit(&Event::Warning(warning));
    }
    Ok(roots.pem)
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

/// The engine that intercepts TLS with the authority `ca`.
pub(crate) fn build_tls(
    ca: SandboxCa,
    secrets: SecretSet,
    interception: &Interception,
    on_violation: ViolationAction,
    events: &Events,
) -> Result<TlsProxy, Error> {
    Ok(TlsProxy::new(msb_tls_proxy::Config {
        ca,
        secrets,
        bypass: interception.bypass.clone(),
        upstream: interception.upstream.clone().build()?,
        on_violation,
        events: events.tls_sink(),
        limits: interception.limits,
        non_http: interception.non_http,
        scope: interception.scope,
        http_policy: interception.http_policy.clone(),
        denied_requests: interception.denied_requests,
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
    machine.kernel_args.extend(plan.storage.kernel_args());
    if tracing::enabled!(Level::DEBUG) {
        machine.kernel_args.push(TIMINGS.to_owned());
    }
    machine.root = Some(Disk {
        path: root.path.clone(),
        fstype: root.format.to_string(),
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

/// Ends the machine when one of its directories is not served any more: whatever touches it in the guest would hang for ever,
/// and nobody can serve it anew.
fn watch_shares(machine: &Arc<Running>, events: &Events) -> JoinHandle<()> {
    let (machine, events) = (Arc::clone(machine), events.clone());
    tokio::spawn(async move {
        let error = machine.vm.share_ended().await;
        // As a rule it is the machine that ends, and who serves it next.
        let end = tokio::time::timeout(END_WAIT, machine.vm.wait()).await;
        if end.is_err() {
            events.end(&format!("one of its directories is lost: {error}"));
        }
    })
}

/// Starts the network, its routing and the agent's connection.
async fn connect(
    plan: &Plan,
    events: &Events,
    proxy: Option<Arc<TlsProxy>>,
    channels: Channels,
    ports: &[Arc<PublishedPort>],
    tasks: &mut Tasks,
) -> Result<Connection, Error> {
    let link = channels.network.ok_or_else(|| Error::Host {
        what: "the guest's network link",
        source: std::io::ErrorKind::NotConnected.into(),
    })?;
    let pins = Arc::new(Mutex::new(PinTable::default()));
    let mut config = msb_net::Config::new(Arc::clone(&plan.policy));
    config.hosts = plan.hosts.clone();
    config.pins = Arc::clone(&pins);
    config.events = events.network_sink();
    config.reads_server_names = true;
    config.published = ports.to_vec();
    plan.limits.apply(&mut config);
    plan.dns.apply(&mut config);
    let intercepted = plan.interception.as_ref();
    if let Some(interception) = intercepted.filter(|interception| interception.block_quic) {
        config.refused_udp_ports.clone_from(&interception.ports);
    }
    let http_rules = match &proxy {
        Some(proxy) => proxy.http_rules(),
        None => HttpRules::default(),
    };
    let secrets = current_secrets(proxy.as_ref(), &plan.secrets);
    let plain = PlainConfig {
        secrets,
        on_violation: plan.on_violation,
        events: events.tls_sink(),
        drain: Drain::default(),
        http_rules,
        limits: plan
            .interception
            .as_ref()
            .map_or_else(Limits::default, |interception| interception.limits),
    };
    let (searched, resolved) = (plain.clone(), Arc::clone(&pins));
    config.datagram_filter = Some(Arc::new(move |destination, payload| {
        may_send(payload, destination, &resolved, &searched)
    }));
    // Bounded by the connections that may be open at once.
    let (names_sender, secure_names) = mpsc::unbounded_channel();
    if proxy.is_some() {
        config.secure_names = Some(Arc::new(move |names| {
            // Once nobody takes it, it is dropped, which ends it.
            let _ = names_sender.send(names);
        }));
    }
    let (network, flows) = msb_net::start(link, config);
    tasks.network = Some(network);
    let router = Router {
        proxy,
        ports: plan
            .interception
            .as_ref()
            .map(|interception| interception.ports.clone())
            .unwrap_or_default(),
        plain,
        pins,
    };
    let routing = tokio::spawn(router.drive(flows, secure_names));
    tasks.aborts.push(routing.abort_handle());
    let (connection, driver) = agent::open(channels.agent)
        .await
        .map_err(|error| Error::Agent(error.to_string()))?;
    tasks.aborts.push(driver);
    Ok(connection)
}

/// The secrets that count at any time: replaced ones where there is interception, for nothing else replaces them.
fn current_secrets(proxy: Option<&Arc<TlsProxy>>, configured: &SecretSet) -> Secrets {
    match proxy.cloned() {
        Some(proxy) => Arc::new(move || proxy.secrets().load()),
        None => {
            let configured = configured.clone();
            Arc::new(move || configured.clone())
        }
    }
}

async fn configure_guest(
    plan: &Plan,
    request: ConfigureRequest,
    events: &Events,
    machine: &Running,
    mut client: Client,
) -> Result<(), Error> {
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
    check_contract(&answer)?;
    for warning in answer.warnings.iter().take(MAX_GUEST_WARNINGS) {
        events.emit(&Event::Warning(format!("guest: {}", printable(warning))));
    }
    Ok(())
}

/// An agent of another version would take for granted what this one does not do, and leave out what it asks for.
fn check_contract(answer: &ConfigureResponse) -> Result<(), Error> {
    match answer.contract {
        CONTRACT => Ok(()),
        _ => Err(Error::GuestFilesDiffer),
    }
}

/// The image's variables, and over them the sandbox's own, placeholders included.
fn environment(plan: &Plan, image: &ImageConfig) -> HashMap<String, String> {
    let of_image = image
        .variables()
        .map(|(name, value)| (name.into(), value.into()));
    of_image.chain(plan.env.clone()).collect()
}

/// Logs what the agent said about its boot, as far as it has come through the console.
fn tell_timings(machine: &Running) {
    if tracing::enabled!(Level::DEBUG) {
        let console = machine.vm.console().tail(CONSOLE_LINES);
        for line in console
            .lines()
            .filter(|line| line.starts_with("msb-agent:"))
        {
            tracing::debug!("{line}");
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_of_another_version_is_refused() {
        let answer = |contract| ConfigureResponse {
            contract,
            ..ConfigureResponse::default()
        };
        check_contract(&answer(CONTRACT)).expect("the same");
        // One from before agents said it says nothing.
        for other in [0, CONTRACT + 1] {
            let error = check_contract(&answer(other)).expect_err("another");
            assert!(error.to_string().contains("cargo xtask image"), "{error}");
        }
    }
}
