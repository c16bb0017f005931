//! A running sandbox: the machine, its network, its proxy and its agent, put together.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use msb_agent_proto::v1::{PowerOffRequest, SetClockRequest};
use msb_image::{Guest, ImageConfig, RootDisk};
use msb_net::PublishedPort;
use msb_policy::NetworkPolicy;
use msb_tls_proxy::TlsProxy;
use msb_vmm::{Accelerator, Vm};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::exec::{Command, printable};
use crate::link::Link;
use crate::outcome::Output;
use crate::{Error, Fs, Metrics, PortMapping, SandboxBuilder, plan};

/// How long a guest may take to power off before it is killed. Its agent gives processes 2 s after SIGTERM.
const POWER_OFF_WAIT: Duration = Duration::from_secs(10);
/// How long the machine's end may come after its agent's connection is gone.
pub(crate) const END_WAIT: Duration = Duration::from_secs(2);
/// How long the agent may take to set the clock.
const CLOCK_WAIT: Duration = Duration::from_secs(5);
/// What a kernel says when it gives up.
const PANIC: &str = "Kernel panic - not syncing";
/// How much of the console an error shows.
pub(crate) const CONSOLE_LINES: usize = 20;

/// A running sandbox. Dropping it kills its guest at once; [`stop`](Self::stop) ends it in order.
pub struct Sandbox {
    pub(crate) name: String,
    pub(crate) link: Link,
    pub(crate) machine: Arc<Running>,
    pub(crate) boot: Boot,
    pub(crate) ca_pem: Option<String>,
    /// `None`: nothing is intercepted.
    pub(crate) tls: Option<Arc<TlsProxy>>,
    pub(crate) ports: Vec<Arc<PublishedPort>>,
    // Ends with the sandbox.
    pub(crate) tasks: Tasks,
}

/// What the sandbox booted, kept in place while it runs.
#[derive(Debug)]
pub(crate) struct Boot {
    pub(crate) accelerator: Accelerator,
    pub(crate) _guest: Guest,
    pub(crate) root: RootDisk,
}

/// The machine and why it ended, if it was us.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) vm: Vm,
    /// Why we ended it.
    pub(crate) end: watch::Receiver<Option<String>>,
}

/// Everything that runs for a sandbox. It ends with this, whoever else holds a part of it.
#[derive(Debug)]
pub(crate) struct Tasks {
    pub(crate) machine: Arc<Running>,
    pub(crate) network: Option<msb_net::Network>,
    pub(crate) aborts: Vec<AbortHandle>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.aborts {
            task.abort();
        }
        self.machine.vm.kill();
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

    /// The published ports, with the numbers that they have on the host.
    pub fn ports(&self) -> impl ExactSizeIterator<Item = PortMapping> {
        self.ports.iter().map(|port| PortMapping {
            host: port.address(),
            guest_port: port.guest_port(),
            protocol: port.protocol(),
        })
    }

    /// Puts other rules about requests in the place of all there are, each in the text form of
    /// [`NetworkBuilder::http_rule`](crate::NetworkBuilder::http_rule). Connections that they do not allow are reset, open
    /// requests included. Returns warnings.
    ///
    /// # Errors
    /// One that does not parse, or is about a host that is bypassed; any at all where nothing is intercepted. Nothing has
    /// changed then.
    pub fn replace_http_rules(
        &self,
        rules: impl IntoIterator<Item = impl Display>,
    ) -> Result<Vec<String>, Error> {
        match &self.tls {
            Some(tls) => plan::replace_http_rules(tls, rules),
            None => Err(Error::Config(
                "nothing could enforce HTTP rules: this sandbox has no TLS interception; switch it on when it is built".into(),
            )),
        }
    }

    /// Puts another network policy in the place of the one there is. New connections, datagrams and names are decided by it
    /// at once; connections that it does not allow are reset, and datagrams answered with an ICMP error. Where a rule is
    /// about names, the one that counts is the server name that the connection began with. Returns warnings.
    ///
    /// A policy that could not be built must not leave the old one in force: hand in [`NetworkPolicy::invalid`], which
    /// refuses everything.
    pub fn replace_policy(&self, policy: NetworkPolicy) -> Vec<String> {
        let warnings = policy.warnings().collect();
        if let Some(network) = &self.tasks.network {
            network.replace_policy(Arc::new(policy));
        }
        warnings
    }

    /// How the image's maker wants its program to be run. The variables are in the environment of every exec already, below
    /// those of the sandbox; the rest is for the caller to use.
    pub fn image_config(&self) -> &ImageConfig {
        &self.boot.root.config
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

    /// Powers the guest off in order, and by force when that takes over 10 s. May be called again.
    ///
    /// # Errors
    /// None at present; a guest that will not end in order is ended all the same.
    pub async fn stop(&self) -> Result<(), Error> {
        let in_order = async {
            let mut client = self.link.client();
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

    /// Halts the guest's processors: it keeps its memory and does nothing. Connections of it wait, those that wait too long on
    /// the other side are given up there, and its clocks stand still. Harmless when it is so already.
    ///
    /// # Errors
    /// QEMU's refusal, that it does not answer, or that it has ended.
    pub async fn pause(&self) -> Result<(), Error> {
        self.machine.vm.monitor("stop").await?;
        Ok(())
    }

    /// Lets the guest's processors go on, and sets its time of day, without which it would take certificates for not yet valid.
    /// Its monotonic clock goes on from where it was. Harmless when they do go on.
    ///
    /// # Errors
    /// QEMU's refusal, that it does not answer, or that it has ended. That the guest did not take the time is a warning.
    pub async fn resume(&self) -> Result<(), Error> {
        self.machine.vm.monitor("cont").await?;
        if let Err(reason) = self.set_clock().await {
            tracing::warn!(
                sandbox = self.name,
                "the guest's clock is behind by the length of its pause: {reason}"
            );
        }
        Ok(())
    }

    async fn set_clock(&self) -> Result<(), String> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let since = since.map_err(|error| error.to_string())?;
        let unix_ns = u64::try_from(since.as_nanos()).map_err(|error| error.to_string())?;
        let mut client = self.link.client();
        let call = client.set_clock(SetClockRequest { unix_ns });
        match tokio::time::timeout(CLOCK_WAIT, call).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(printable(status.message())),
            Err(_elapsed) => Err(format!(
                "its agent did not answer within {} s",
                CLOCK_WAIT.as_secs()
            )),
        }
    }

    /// Waits for the sandbox's end and tells the reason: its guest's power-off, a violation, a crash.
    pub async fn wait(&self) -> String {
        self.machine.end_reason().await
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.machine.vm.kill();
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
        // It ends with its kernel's restart, which looks like any other.
        let console = self.vm.console().tail(CONSOLE_LINES);
        if console.contains(PANIC) {
            return format!("the guest's kernel gave up; its last lines were:\n{console}");
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

    pub(crate) fn last_lines(&self) -> String {
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

#[cfg(test)]
pub(crate) mod tests {
    use msb_vmm::{Attachments, Machine};

    use super::*;

    /// A stand-in for QEMU: agrees on its monitor, says something on its console, and then does nothing.
    const QEMU: &str = r#"#!/bin/sh
printf '%s\n' '{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}}' >&3
read -r line <&3
echo last words
printf '%s\n' '{"return": {}, "id": 0}' >&3
exec sleep 1000
"#;

    /// A machine in which nothing runs.
    pub(crate) async fn stand_in() -> Arc<Running> {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let mut description = Machine::new("vmlinux", "initramfs", Accelerator::Tcg);
        description.qemu = dir.path().join("qemu");
        std::fs::write(&description.qemu, QEMU).unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&description.qemu, mode).unwrap();
        let (vm, _channels) = Vm::start(&description, Attachments::default())
            .await
            .unwrap();
        let (_terminate, end) = watch::channel(None);
        Arc::new(Running { vm, end })
    }

    /// A program of the guest that is still held has a part in the machine.
    #[tokio::test]
    async fn the_machine_ends_with_its_sandbox_whoever_holds_it() {
        let machine = stand_in().await;
        let tasks = Tasks {
            machine: Arc::clone(&machine),
            network: None,
            aborts: Vec::new(),
        };
        drop(tasks);
        let ended = tokio::time::timeout(Duration::from_secs(20), machine.vm.wait()).await;
        assert!(!ended.unwrap().status.success());
    }
}
