//! What is written down of a sandbox so that another process can boot it: all of its configuration but the values of its
//! secrets, which have no place in it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use msb_secrets::SecretSettings;
use msb_vmm::AcceleratorChoice;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::lifetime::Lifetime;
use crate::plan::Plan;
use crate::storage::Storage;
use crate::{Detach, Error, NetworkBuilder, SandboxBuilder, SecretBuilder, Ulimit, words};

/// A value for a check of everything else: no program sees it. Long enough for placeholders like it.
const STAND_IN: &str = "stand-in-000000000000000000000000";

/// Values of secrets by their variables.
pub(crate) type Values = BTreeMap<String, Zeroizing<String>>;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    image: String,
    rootfs: Option<PathBuf>,
    kernel: Option<PathBuf>,
    initramfs: Option<PathBuf>,
    store: Option<PathBuf>,
    qemu: Option<PathBuf>,
    #[serde(with = "words::accelerator")]
    accelerator: AcceleratorChoice,
    cpus: u8,
    memory_mib: u32,
    storage: Storage,
    env: BTreeMap<String, String>,
    /// As a [`Ulimit`] is written.
    #[serde(default)]
    ulimits: Vec<String>,
    secrets: Vec<SecretSettings>,
    network: NetworkBuilder,
    boot_timeout: Duration,
    lifetime: Lifetime,
    pub(crate) command: CommandSpec,
    pub(crate) events: Option<PathBuf>,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What runs in the sandbox as long as it is up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommandSpec {
    /// In the place of the image's own, behind its entrypoint.
    pub(crate) words: Vec<String>,
    /// Whether nothing is run, whatever the image says.
    pub(crate) is_none: bool,
    pub(crate) workdir: Option<String>,
    #[serde(default)]
    pub(crate) user: Option<String>,
    #[serde(default)]
    pub(crate) timeout: Option<Duration>,
    /// As a [`Ulimit`](crate::Ulimit) is written.
    #[serde(default)]
    pub(crate) ulimits: Vec<String>,
    /// Whether its standard input stays open for those who attach.
    pub(crate) keeps_stdin: bool,
    #[serde(default)]
    pub(crate) has_tty: bool,
}

impl Spec {
    /// Takes a builder apart. What was checked here will be checked again when it is started.
    ///
    /// # Errors
    /// What [`SandboxBuilder::create`] would find wrong before it boots; a sink for events, which another process cannot
    /// call; paths that are not UTF-8.
    pub(crate) fn split(
        name: &str,
        builder: SandboxBuilder,
        detach: &Detach,
    ) -> Result<(Self, Values), Error> {
        // Each new setting has to be thought of here.
        let SandboxBuilder {
            name: _,
            image,
            rootfs,
            kernel,
            initramfs,
            store,
            qemu,
            accelerator,
            cpus,
            memory_mib,
            mut storage,
            env,
            ulimits,
            secrets,
            mut network,
            on_event,
            boot_timeout,
            lifetime,
        } = builder;
        if on_event.is_some() {
            return Err(Error::Config(
                "a detached sandbox cannot call back with its events: have them written to a file"
                    .into(),
            ));
        }
        let mut values = Values::new();
        let mut settings = Vec::new();
        for mut secret in secrets {
            let value = secret.danger_take_value();
            if let (Some(value), Some(env)) = (value, secret.settings().env()) {
                values.insert(env.to_owned(), value);
            }
            settings.push(secret.settings().clone());
        }
        let upstream = network.tls.iter_mut().flat_map(|tls| &mut tls.upstream);
        for path in upstream.flat_map(|setting| setting.files()) {
            *path = absolute(&*path)?;
        }
        for mount in &mut storage.mounts {
            mount.host = absolute(&mount.host)?;
        }
        let whole = |path: Option<PathBuf>| path.as_ref().map(absolute).transpose();
        // A program without a slash is looked up in PATH, which the supervisor has too.
        let qemu = match qemu {
            Some(program) if program.components().count() > 1 => Some(absolute(&program)?),
            qemu => qemu,
        };
        let spec = Self {
            image,
            rootfs: whole(rootfs)?,
            kernel: whole(kernel)?,
            initramfs: whole(initramfs)?,
            store: whole(store)?,
            qemu,
            accelerator,
            cpus,
            memory_mib,
            storage,
            env,
            ulimits: ulimits.iter().map(Ulimit::to_string).collect(),
            secrets: settings,
            network,
            boot_timeout,
            lifetime,
            command: detach.command.clone(),
            events: whole(detach.events.clone())?,
            annotations: detach.annotations.clone(),
        };
        spec.check(name)?;
        Ok((spec, values))
    }

    /// Builds it once with values that mean nothing.
    fn check(&self, name: &str) -> Result<(), Error> {
        let stand_ins = self.secrets.iter().filter_map(SecretSettings::env);
        let values = stand_ins.map(|env| (env.to_owned(), Zeroizing::new(STAND_IN.to_owned())));
        let builder = self.try_clone()?.into_builder(name, values.collect())?;
        Plan::new(builder).map(drop)
    }

    fn try_clone(&self) -> Result<Self, Error> {
        Self::read(self.to_json()?)
    }

    /// As it is written down.
    pub(crate) fn to_json(&self) -> Result<Value, Error> {
        serde_json::to_value(self)
            .map_err(|error| Error::Config(format!("it cannot be written down: {error}")))
    }

    /// From what was written down.
    pub(crate) fn read(written: Value) -> Result<Self, Error> {
        serde_json::from_value(written).map_err(|error| {
            Error::Config(format!(
                "what was written down of the sandbox is not of this version of msb ({error}): remove it and make it anew"
            ))
        })
    }

    /// The variables of its secrets.
    pub(crate) fn secret_names(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().filter_map(SecretSettings::env)
    }

    pub(crate) fn image(&self) -> String {
        match &self.rootfs {
            Some(path) => path.display().to_string(),
            None => self.image.clone(),
        }
    }

    /// A builder with all of it, and these values.
    pub(crate) fn into_builder(
        self,
        name: &str,
        mut values: Values,
    ) -> Result<SandboxBuilder, Error> {
        let mut builder = SandboxBuilder::new(name.to_owned());
        for settings in self.secrets {
            let value = settings.env().and_then(|env| values.remove(env));
            let mut secret = SecretBuilder::from_settings(settings);
            if let Some(mut value) = value {
                secret = secret.value(std::mem::take(&mut *value));
            }
            builder.secrets.push(secret);
        }
        builder.image = self.image;
        builder.rootfs = self.rootfs;
        builder.kernel = self.kernel;
        builder.initramfs = self.initramfs;
        builder.store = self.store;
        builder.qemu = self.qemu;
        builder.accelerator = self.accelerator;
        builder.cpus = self.cpus;
        builder.memory_mib = self.memory_mib;
        builder.storage = self.storage;
        builder.env = self.env;
        let ulimits = self.ulimits.iter().map(|text| text.parse::<Ulimit>());
        builder.ulimits = ulimits
            .collect::<Result<_, _>>()
            .map_err(|error| Error::Config(error.to_string()))?;
        builder.network = self.network;
        builder.boot_timeout = self.boot_timeout;
        builder.lifetime = self.lifetime;
        Ok(builder)
    }
}

fn absolute(path: impl AsRef<std::path::Path>) -> Result<PathBuf, Error> {
    let path = path.as_ref();
    std::path::absolute(path).map_err(|error| Error::Config(format!("{}: {error}", path.display())))
}
