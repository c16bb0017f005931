//! All detached sandboxes of a user: making, listing, starting and removing them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use msb_state::{Name, Phase, Seen, State, StateDir, crash};
use serde::Serialize;
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use super::handover::{self, Told};
use super::spec::{Spec, Values};
use crate::{Detach, Error, Logs, Sandbox, SandboxBuilder, SandboxHandle, Supervisor};

/// The detached sandboxes of one state directory.
///
/// ```no_run
/// # async fn run(key: String) -> Result<(), msb::Error> {
/// use msb::{Detach, Sandbox, Sandboxes, SecretValues, Supervisor};
///
/// let sandboxes = Sandboxes::open_default()?;
/// let builder = Sandbox::builder("worker")
///     .image("base")
///     .secret(|s| s.env("API_KEY").value(key).allow_host("api.example.com"));
/// // Held by `msb`, and there when this program has ended.
/// let detach = Detach::new().command(["sh", "-c", "while sleep 60; do date; done"]);
/// let sandbox = sandboxes.run(builder, &detach, &Supervisor::msb("/usr/local/bin/msb")).await?;
/// sandbox.exec("true", [""; 0]).await?;
/// drop(sandbox);
///
/// // Later, in another program:
/// let ended = Sandbox::connect("worker").await?.stop(std::time::Duration::from_secs(10)).await?;
/// println!("{}", ended.reason);
/// sandboxes.remove("worker").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Sandboxes {
    states: StateDir,
}

/// Values of secrets, for a sandbox that is started: they are kept nowhere but in the process that holds it. Wiped when
/// dropped; `Debug` shows their names.
#[derive(Default)]
pub struct SecretValues(Values);

impl SecretValues {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the value of the secret whose variable is `env`.
    #[must_use]
    pub fn value(mut self, env: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(env.into(), Zeroizing::new(value.into()));
        self
    }

    /// Takes the value that a [`SecretBuilder`](crate::SecretBuilder) was told, if it was.
    #[must_use]
    pub fn of(mut self, mut secret: crate::SecretBuilder) -> Self {
        if let (Some(value), Some(env)) = (secret.danger_take_value(), secret.settings().env()) {
            self.0.insert(env.to_owned(), value);
        }
        self
    }
}

impl fmt::Debug for SecretValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What is known of a detached sandbox without asking it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SandboxInfo {
    /// Its name.
    pub name: String,
    /// How it stands.
    #[serde(serialize_with = "as_word")]
    pub state: State,
    /// When it was created, in milliseconds since 1970; 0 if it is damaged.
    pub created_ms: u64,
    /// Since when it stands so.
    pub since_ms: u64,
    /// Why it has ended, or what is damaged.
    pub reason: Option<String>,
    /// The exit status of its command, if it has ended.
    pub code: Option<u8>,
    /// What it boots.
    pub image: String,
    /// What it runs, where that is not left to the image.
    pub command: Vec<String>,
    /// Its published ports while it runs, as `ADDRESS:PORT:GUEST_PORT/PROTOCOL`.
    pub ports: Vec<String>,
    /// What the program that made it keeps with it.
    pub annotations: BTreeMap<String, String>,
    /// All that is written down of its configuration; values of secrets are not.
    pub config: serde_json::Value,
    /// Whether a process holds it.
    pub is_held: bool,
}

fn as_word<S: serde::Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.as_str())
}

impl SandboxInfo {
    fn new(seen: Seen) -> Self {
        let mut info = Self {
            name: seen.name.to_string(),
            state: seen.state,
            created_ms: 0,
            since_ms: 0,
            reason: seen.damage,
            code: None,
            image: String::new(),
            command: Vec::new(),
            ports: Vec::new(),
            annotations: BTreeMap::new(),
            config: serde_json::Value::Null,
            is_held: seen.is_held,
        };
        let Some(record) = seen.record else {
            return info;
        };
        info.created_ms = record.created_ms;
        info.since_ms = record.phase_ms;
        match record.phase {
            Phase::Ended { reason, code } if seen.state == State::Ended => {
                info.reason = Some(reason);
                info.code = code;
            }
            _ if seen.state == State::Crashed => {
                info.reason = Some("its supervisor ended without a word".to_owned());
            }
            _ => {}
        }
        if matches!(seen.state, State::Running | State::Paused) {
            let ports = record.facts.get("ports").and_then(|ports| ports.as_array());
            let ports = ports.into_iter().flatten();
            info.ports = ports
                .filter_map(|port| port.as_str().map(str::to_owned))
                .collect();
        }
        info.config = record.config.clone();
        if let Ok(spec) = Spec::read(record.config) {
            info.image = spec.image();
            info.annotations = spec.annotations;
            info.command = spec.command.words;
        }
        info
    }
}

impl Sandboxes {
    /// Those in `$MSB_STATE`, else `$XDG_STATE_HOME/msb`, else `~/.local/state/msb`.
    ///
    /// # Errors
    /// There is no such place, or it is not the user's alone.
    pub fn open_default() -> Result<Self, Error> {
        Self::open(StateDir::default_path()?)
    }

    /// Those in another directory, which is made if it is not there.
    ///
    /// # Errors
    /// It is not the user's alone, or cannot be made.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let states = StateDir::open(dir)?;
        Ok(Self { states })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.states.path()
    }

    /// All there are, by name.
    ///
    /// # Errors
    /// The directory cannot be read. A sandbox whose record is damaged is listed as that.
    pub async fn list(&self) -> Result<Vec<SandboxInfo>, Error> {
        let states = self.states.clone();
        let seen = blocking(move || Ok(states.list()?)).await?;
        Ok(seen.into_iter().map(SandboxInfo::new).collect())
    }

    /// One of them.
    ///
    /// # Errors
    /// There is none of this name: the error has names like it.
    pub async fn info(&self, name: &str) -> Result<SandboxInfo, Error> {
        let (states, name) = (self.states.clone(), name.parse::<Name>()?);
        let seen = blocking(move || Ok(states.look(&name)?)).await?;
        Ok(SandboxInfo::new(seen))
    }

    /// Writes a sandbox down under its name, without starting it. Returns the values that its secrets were given, which are
    /// not kept: they are told again each time it is [started](Self::start).
    ///
    /// # Errors
    /// What cannot be as it is configured; a name that is taken.
    pub async fn create(
        &self,
        builder: SandboxBuilder,
        detach: &Detach,
    ) -> Result<SecretValues, Error> {
        let name = builder.name.parse::<Name>()?;
        let (spec, values) = Spec::split(name.as_str(), builder, detach)?;
        let config = spec.to_json()?;
        let states = self.states.clone();
        let created = blocking(move || Ok(states.create(&name, config)?));
        created.await.map(drop)?;
        crash::point("start-created");
        Ok(SecretValues(values))
    }

    /// Starts a sandbox that is not running, with the values of its secrets, and returns when it is up. It goes on when this
    /// program ends.
    ///
    /// # Errors
    /// It runs already; a secret has no value; what [`SandboxBuilder::create`] and its command's start find wrong. It is as
    /// before then, and its end is told by [`info`](Self::info).
    ///
    /// # Cancellation
    /// Dropping the future ends what was started.
    pub async fn start(
        &self,
        name: &str,
        supervisor: &Supervisor,
        values: SecretValues,
    ) -> Result<SandboxHandle, Error> {
        let name = name.parse::<Name>()?;
        let states = self.states.clone();
        let looked = name.clone();
        let seen = blocking(move || Ok(states.look(&looked)?)).await?;
        if seen.is_held {
            return Err(Error::State(msb_state::Error::InUse {
                name: name.to_string(),
            }));
        }
        let record = seen.record.ok_or_else(|| msb_state::Error::Damaged {
            name: name.to_string(),
            reason: seen.damage.unwrap_or_default(),
        })?;
        let created_ms = record.created_ms;
        let spec = Spec::read(record.config)?;
        if let Some(missing) = spec.secret_names().find(|env| !values.0.contains_key(*env)) {
            return Err(Error::Config(format!(
                "the secret {missing} has no value: values are not kept, and are told each time a sandbox is started"
            )));
        }
        let SecretValues(values) = values;
        let told = Told { created_ms, values };
        handover::start(&self.states, &name, supervisor, &told).await?;
        drop(told);
        self.connect_to(name).await
    }

    /// Writes a sandbox down and starts it, with the values that its secrets were given. One that could not be started is
    /// removed again.
    ///
    /// # Errors
    /// As [`create`](Self::create) and [`start`](Self::start).
    ///
    /// # Cancellation
    /// Dropping the future ends what was started; what was written down is left.
    pub async fn run(
        &self,
        builder: SandboxBuilder,
        detach: &Detach,
        supervisor: &Supervisor,
    ) -> Result<SandboxHandle, Error> {
        let name = builder.name.clone();
        let values = self.create(builder, detach).await?;
        self.start_new(&name, supervisor, values).await
    }

    /// As [`start`](Self::start), for a sandbox that this program has [created](Self::create) for it: one that could not be
    /// started is removed.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// # Cancellation
    /// Dropping the future ends what was started; what was written down is left.
    pub async fn start_new(
        &self,
        name: &str,
        supervisor: &Supervisor,
        values: SecretValues,
    ) -> Result<SandboxHandle, Error> {
        let started = self.start(name, supervisor, values).await;
        if matches!(started, Err(ref error) if !matches!(error, Error::Ended { .. })) {
            // Its supervisor may still be on its way out.
            let _ = self.force_remove(name).await;
        }
        started
    }

    /// Connects to a running sandbox.
    ///
    /// # Errors
    /// There is none of this name, or it is not running.
    pub async fn connect(&self, name: &str) -> Result<SandboxHandle, Error> {
        self.connect_to(name.parse()?).await
    }

    async fn connect_to(&self, name: Name) -> Result<SandboxHandle, Error> {
        let (states, to) = (self.states.clone(), name.clone());
        let connected = blocking(move || match states.connect(&to) {
            Ok(stream) => Ok(Ok(stream)),
            Err(error) => Ok(Err((error, states.look(&to)?))),
        });
        match connected.await? {
            Ok(stream) => {
                let stream = stream
                    .set_nonblocking(true)
                    .and_then(|()| UnixStream::from_std(stream));
                let stream = stream.map_err(|error| Error::Control(error.to_string()))?;
                SandboxHandle::connect(self.states.clone(), name, stream).await
            }
            Err((error, seen)) => Err(not_running(&name, &error, SandboxInfo::new(seen))),
        }
    }

    /// What the command of a sandbox wrote: of what is kept the last `tail` lines, or all. With `follow`, what comes too, while
    /// it runs.
    ///
    /// # Errors
    /// There is none of this name, or the log cannot be read.
    pub async fn logs(&self, name: &str, tail: Option<u64>, follow: bool) -> Result<Logs, Error> {
        if follow {
            match self.connect(name).await {
                Err(Error::NotRunning { .. }) => {}
                Err(error) => return Err(error),
                Ok(sandbox) => return sandbox.logs(tail, true).await,
            }
        }
        let (states, name) = (self.states.clone(), name.parse::<Name>()?);
        let entries = blocking(move || {
            states.look(&name)?;
            let mut log = states.log(&name)?;
            let lines = tail.map_or(usize::MAX, |tail| {
                usize::try_from(tail).unwrap_or(usize::MAX)
            });
            Ok(log.tail(lines)?)
        });
        Ok(Logs::from_disk(entries.await?))
    }

    /// Removes a sandbox that is not running, with its log.
    ///
    /// # Errors
    /// There is none of this name, or it is running.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        let (states, name) = (self.states.clone(), name.parse::<Name>()?);
        blocking(move || Ok(states.remove(&name)?)).await
    }

    /// Removes a sandbox whatever its state: one that runs is killed, and its supervisor if it does not answer.
    ///
    /// # Errors
    /// There is none of this name, or its directory cannot be removed.
    pub async fn force_remove(&self, name: &str) -> Result<(), Error> {
        let (states, name) = (self.states.clone(), name.parse::<Name>()?);
        let killed = async {
            if let Ok(sandbox) = self.connect(name.as_str()).await {
                let _ = sandbox.kill().await;
            }
        };
        let _ = tokio::time::timeout(KILL_WAIT, killed).await;
        blocking(move || {
            if let Some(owner) = states.owner(&name)? {
                owner.kill();
                owner.wait(KILL_WAIT);
            }
            Ok(states.remove(&name)?)
        })
        .await
    }
}

/// How long a supervisor may take to end when it is killed in order, and when it is killed by the system.
const KILL_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

impl Sandbox {
    /// The detached sandboxes in the default state directory: [`Sandboxes`] has the rest.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub async fn list() -> Result<Vec<SandboxInfo>, Error> {
        Sandboxes::open_default()?.list().await
    }

    /// Connects to a running detached sandbox of the default state directory.
    ///
    /// # Errors
    /// There is none of this name, or it is not running.
    pub async fn connect(name: &str) -> Result<SandboxHandle, Error> {
        Sandboxes::open_default()?.connect(name).await
    }
}

fn not_running(name: &Name, error: &std::io::Error, info: SandboxInfo) -> Error {
    let state = match info.state {
        State::Created => format!("it was made and not started: start it with `msb start {name}`"),
        State::Ended | State::Crashed => format!(
            "it has ended ({}): start it again with `msb start {name}`",
            info.reason.as_deref().unwrap_or("for no known reason"),
        ),
        State::Damaged if !info.is_held => format!(
            "its record is damaged ({}): remove it with `msb rm -f {name}`",
            info.reason.as_deref().unwrap_or("for no known reason"),
        ),
        State::Starting => "it is starting, or about to end: try again".to_owned(),
        _ => format!("its supervisor does not listen ({error}): end it with `msb rm -f {name}`"),
    };
    Error::NotRunning {
        name: name.to_string(),
        state,
    }
}

/// Runs what waits for the disk or a lock.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(Error::Host {
            what: "a thread",
            source: error.into(),
        })
    })
}
