//! The configuration of a sandbox, as its user writes it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use msb_secrets::SecretBuilder;
use msb_vmm::AcceleratorChoice;

use crate::event::Sink;
use crate::lifetime::Lifetime;
use crate::network::NetworkBuilder;
use crate::plan::Plan;
use crate::storage::Storage;
use crate::{BindMount, Error, Event, Sandbox, Ulimit, start};

/// A guest comes up in 2 to 4 s under TCG on two idle cores, and in less under KVM; the rest is for busy hosts.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// Configures a sandbox. Made by [`Sandbox::builder`]; nothing happens before [`create`](Self::create), which checks
/// everything at once.
#[must_use]
pub struct SandboxBuilder {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) rootfs: Option<PathBuf>,
    pub(crate) kernel: Option<PathBuf>,
    pub(crate) initramfs: Option<PathBuf>,
    pub(crate) store: Option<PathBuf>,
    pub(crate) qemu: Option<PathBuf>,
    pub(crate) accelerator: AcceleratorChoice,
    pub(crate) cpus: u8,
    pub(crate) memory_mib: u32,
    pub(crate) storage: Storage,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) ulimits: Vec<Ulimit>,
    pub(crate) secrets: Vec<SecretBuilder>,
    pub(crate) network: NetworkBuilder,
    pub(crate) on_event: Option<Sink>,
    pub(crate) boot_timeout: Duration,
    pub(crate) lifetime: Lifetime,
}

impl SandboxBuilder {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            image: "base".to_owned(),
            rootfs: None,
            kernel: None,
            initramfs: None,
            store: None,
            qemu: None,
            accelerator: AcceleratorChoice::Auto,
            cpus: 1,
            memory_mib: 512,
            storage: Storage::default(),
            env: BTreeMap::new(),
            ulimits: Vec::new(),
            secrets: Vec::new(),
            network: NetworkBuilder::default(),
            on_event: None,
            boot_timeout: BOOT_TIMEOUT,
            lifetime: Lifetime::default(),
        }
    }

    /// The root file system, by the name it has in the image store. Default: `base`.
    pub fn image(mut self, name: impl Into<String>) -> Self {
        self.image = name.into();
        self
    }

    /// A squashfs file to use as the root file system instead of an image.
    pub fn rootfs(mut self, path: impl Into<PathBuf>) -> Self {
        self.rootfs = Some(path.into());
        self
    }

    /// A kernel (an uncompressed `vmlinux` with a PVH entry) to use instead of the store's.
    pub fn kernel(mut self, path: impl Into<PathBuf>) -> Self {
        self.kernel = Some(path.into());
        self
    }

    /// An initramfs to use instead of the store's. It must bring the agent as `/init`.
    pub fn initramfs(mut self, path: impl Into<PathBuf>) -> Self {
        self.initramfs = Some(path.into());
        self
    }

    /// The image store's directory. Default: `$MSB_HOME`, else `$XDG_CACHE_HOME/msb`, else `~/.cache/msb`.
    pub fn store(mut self, dir: impl Into<PathBuf>) -> Self {
        self.store = Some(dir.into());
        self
    }

    /// The QEMU program. Default: `qemu-system-x86_64` from `PATH`.
    pub fn qemu(mut self, program: impl Into<PathBuf>) -> Self {
        self.qemu = Some(program.into());
        self
    }

    /// What runs the guest's instructions. Default: KVM where a guest really boots under it, else TCG.
    pub fn accelerator(mut self, choice: AcceleratorChoice) -> Self {
        self.accelerator = choice;
        self
    }

    /// Virtual processors, 1 to 255. Default: 1.
    pub fn cpus(mut self, cpus: u8) -> Self {
        self.cpus = cpus;
        self
    }

    /// Guest memory in MiB, at least 128. Default: 512. What the guest writes to its root counts too, unless it has a
    /// [scratch disk](Self::scratch_disk).
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Puts what the guest writes to its root on a disk of this many bytes instead of into its memory. It takes the room on
    /// the host that it really needs, in the store's file system, and ends with the guest. Needs `mkfs.ext4` on the host.
    pub fn scratch_disk(mut self, bytes: u64) -> Self {
        self.storage.scratch = Some(bytes);
        self
    }

    /// Shows the guest a directory of the host. May be called several times. Needs `virtiofsd` on the host.
    ///
    /// A guest that may write it writes it as the user who runs this program, as far as `virtiofsd` lets it: programs on the
    /// host that trust what is in it trust the guest.
    pub fn mount(mut self, mount: BindMount) -> Self {
        self.storage.mounts.push(mount);
        self
    }

    /// Sets a variable in the environment of every exec.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets a resource limit of every program that is started in the sandbox, and of what that starts. A program's own
    /// ([`Command::ulimit`](crate::Command::ulimit)) for the same resource counts more.
    pub fn ulimit(mut self, ulimit: Ulimit) -> Self {
        self.ulimits.push(ulimit);
        self
    }

    /// Adds a secret: the guest sees a placeholder, allowed hosts the value.
    pub fn secret(mut self, configure: impl FnOnce(SecretBuilder) -> SecretBuilder) -> Self {
        self.secrets.push(configure(SecretBuilder::new()));
        self
    }

    /// Adds a secret with the default scopes. The same as
    /// `.secret(|s| s.env(env_var).value(value).allow_host(allowed_host))`.
    pub fn secret_env(
        self,
        env_var: impl Into<String>,
        value: impl Into<String>,
        allowed_host: impl Into<String>,
    ) -> Self {
        self.secret(|s| s.env(env_var).value(value).allow_host(allowed_host))
    }

    /// Configures the network.
    pub fn network(mut self, configure: impl FnOnce(NetworkBuilder) -> NetworkBuilder) -> Self {
        self.network = configure(self.network);
        self
    }

    /// Hands every event to `sink`, from the sandbox's own tasks: it must not block.
    pub fn on_event(mut self, sink: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Arc::new(sink));
        self
    }

    /// How long the guest may take to come up. Default: 120 s.
    pub fn boot_timeout(mut self, timeout: Duration) -> Self {
        self.boot_timeout = timeout;
        self
    }

    /// Checks the configuration, boots the guest and brings it up. When this returns, its trust, network and
    /// environment are in place and no user process has run.
    ///
    /// # Errors
    /// Anything that is not as it must be; no process, socket or file is left then.
    ///
    /// # Cancellation
    /// Dropping the future ends what was started.
    pub async fn create(self) -> Result<Sandbox, Error> {
        let plan = Plan::new(self)?;
        start::start(plan).await
    }
}

impl fmt::Debug for SandboxBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxBuilder")
            .field("name", &self.name)
            .field("image", &self.image)
            .field("secrets", &self.secrets.len())
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}
