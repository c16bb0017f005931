//! The directory of all sandboxes: making, looking at and removing them.
//!
//! ```text
//! STATE/.lock          held for each look, creation and removal
//! STATE/.new           a sandbox that is being made; renamed to its name
//! STATE/.gone          one that is being removed
//! STATE/NAME/lock      held by the process that holds the sandbox, with its process id in it
//! STATE/NAME/record.json, log, log.1, control
//! ```

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use crate::crash::point;
use crate::files::{self, Tried as _};
use crate::owned::LOCK;
use crate::record::{self, Phase, Record};
use crate::{Error, LogReader, Name, Owned, log, owned, socket};

const NEW: &str = ".new";
const GONE: &str = ".gone";
const GUARD: &str = ".lock";

const NO_DIRECTORY: &str = "it is no directory";
const NO_LOCK: &str = "its lock is no file";

/// The directory of all sandboxes of a user.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: PathBuf,
}

/// What a look at one sandbox has shown.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its name.
    pub name: Name,
    /// How it stands.
    pub state: State,
    /// Its record; `None` if it is damaged.
    pub record: Option<Record>,
    /// What is wrong with the record.
    pub damage: Option<String>,
    /// Whether a process holds it.
    pub is_held: bool,
}

/// How a sandbox stands, by its lock and its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Made, and not started since.
    Created,
    /// A process holds it, and it is not up yet or not any more.
    Starting,
    /// Up.
    Running,
    /// Up, and halted.
    Paused,
    /// Ended in order.
    Ended,
    /// The process that held it has ended without a word.
    Crashed,
    /// Its record cannot be read.
    Damaged,
}

impl State {
    /// The state as one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ended => "ended",
            Self::Crashed => "crashed",
            Self::Damaged => "damaged",
        }
    }
}

/// The process that holds a sandbox: the same one for as long as this lives, whatever becomes of its id.
#[derive(Debug)]
pub struct Owner {
    pid: u32,
    handle: OwnedFd,
}

impl Owner {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for its end, at most so long; blocks. Returns whether it has ended.
    pub fn wait(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(&self.handle, PollFlags::IN)];
        let limit = Timespec::try_from(limit).ok();
        poll(&mut fds, limit.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// Kills it; harmless when it has ended.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }
}

impl StateDir {
    /// `$MSB_STATE`, else `$XDG_STATE_HOME/msb`, else `~/.local/state/msb`. Relative ones of the latter two do not count.
    ///
    /// # Errors
    /// [`Error::NoPlace`] when none is set.
    pub fn default_path() -> Result<PathBuf, Error> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let absolute = |name| {
            set(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        if let Some(path) = set("MSB_STATE") {
            return std::path::absolute(path).tried("find", Path::new("MSB_STATE"));
        }
        absolute("XDG_STATE_HOME")
            .map(|base| base.join("msb"))
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state/msb")))
            .ok_or(Error::NoPlace)
    }

    /// Opens the directory, and makes it if it is not there.
    ///
    /// # Errors
    /// [`Error::NotOurs`], or the system's refusal.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let root = std::path::absolute(&path).tried("find", &path)?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&root);
        made.tried("make the directory", &root)?;
        let data = fs::metadata(&root).tried("look at", &root)?;
        let reason = if data.uid() != geteuid().as_raw() {
            Some("belongs to another user")
        } else if data.mode() & 0o022 != 0 {
            Some("can be written by other users")
        } else {
            None
        };
        match reason {
            Some(reason) => Err(Error::NotOurs { path: root, reason }),
            None => Ok(Self { root }),
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The directory of a sandbox, whether there is one or not.
    #[must_use]
    pub fn dir_of(&self, name: &Name) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Takes a name: makes a sandbox that is described by `config`.
    ///
    /// # Errors
    /// [`Error::Taken`], or the system's refusal. Nothing is left then.
    pub fn create(&self, name: &Name, config: Value) -> Result<Record, Error> {
        let _guard = self.guard()?;
        let path = self.dir_of(name);
        if fs::symlink_metadata(&path).is_ok() {
            return Err(Error::Taken {
                name: name.to_string(),
            });
        }
        let new = self.root.join(NEW);
        files::remove(&new)?;
        let record = Record::new(name.clone(), config);
        let made = Self::prepare(&new, &record)
            .and_then(|()| fs::rename(&new, &path).tried("make the directory", &path));
        if let Err(error) = made {
            let _ = files::remove(&new);
            return Err(error);
        }
        point("create-named");
        files::sync_dir(&self.root)?;
        Ok(record)
    }

    fn prepare(new: &Path, record: &Record) -> Result<(), Error> {
        files::make_dir(new)?;
        point("create-begun");
        files::open(&new.join(LOCK))?;
        point("create-locked");
        record.write(new)?;
        point("create-recorded");
        Ok(())
    }

    /// All sandboxes, by name.
    ///
    /// # Errors
    /// The system's refusal. Damage of one is told of that one.
    pub fn list(&self) -> Result<Vec<Seen>, Error> {
        let _guard = self.guard()?;
        let names = self.names()?;
        Ok(names.iter().map(|name| self.look_guarded(name)).collect())
    }

    /// One sandbox. What a process that was killed has left half-done is repaired.
    ///
    /// # Errors
    /// [`Error::Unknown`], or the system's refusal.
    pub fn look(&self, name: &Name) -> Result<Seen, Error> {
        let _guard = self.guard()?;
        self.known(name)?;
        Ok(self.look_guarded(name))
    }

    /// Takes hold of a sandbox, until the value is dropped or the process ends.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::InUse`]; [`Error::Damaged`]; the system's refusal.
    pub fn own(&self, name: &Name) -> Result<Owned, Error> {
        let _guard = self.guard()?;
        self.known(name)?;
        let dir = self.dir_of(name);
        if let Some(reason) = damage(&dir) {
            return Err(Error::Damaged {
                name: name.to_string(),
                reason: reason.to_owned(),
            });
        }
        let lock = owned::lock(&dir)?.ok_or_else(|| Error::InUse {
            name: name.to_string(),
        })?;
        Self::repair(&dir, name)?;
        let record = Record::read(&dir, name)?;
        Owned::new(dir, lock, record)
    }

    /// Removes a sandbox that no process holds.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::InUse`]; the system's refusal.
    pub fn remove(&self, name: &Name) -> Result<(), Error> {
        let _guard = self.guard()?;
        self.known(name)?;
        let dir = self.dir_of(name);
        let _lock = match damage(&dir) {
            Some(_) => None,
            None => Some(owned::lock(&dir)?.ok_or_else(|| Error::InUse {
                name: name.to_string(),
            })?),
        };
        let gone = self.root.join(GONE);
        files::remove(&gone)?;
        fs::rename(&dir, &gone).tried("remove", &dir)?;
        point("remove-renamed");
        // The name is free; what follows may be interrupted.
        files::sync_dir(&self.root)?;
        if is_dir(&gone) {
            let _ = fs::remove_file(gone.join(record::FILE));
        }
        point("remove-half-done");
        files::remove(&gone)
    }

    /// The process that holds a sandbox, if there is one.
    ///
    /// # Errors
    /// [`Error::Unknown`], or the system's refusal.
    pub fn owner(&self, name: &Name) -> Result<Option<Owner>, Error> {
        let _guard = self.guard()?;
        self.known(name)?;
        let dir = self.dir_of(name);
        if damage(&dir).is_some() {
            return Ok(None);
        }
        let Some(pid) = owned::read_pid(&dir) else {
            return Ok(None);
        };
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let handle = raw.map(|raw| pidfd_open(raw, PidfdFlags::empty()));
        // Only now does the lock say that the id is that of the holder still.
        match (handle, owned::lock(&dir)?) {
            (Some(Ok(handle)), None) => Ok(Some(Owner { pid, handle })),
            _ => Ok(None),
        }
    }

    /// Connects to the process that holds a sandbox.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(&self, name: &Name) -> io::Result<UnixStream> {
        socket::connect_below(&self.dir_of(name), socket::FILE)
    }

    /// What was written to a sandbox's log, from its beginning as far as it is kept.
    ///
    /// # Errors
    /// The system's refusal. A log that is not there yet is empty.
    pub fn log(&self, name: &Name) -> Result<LogReader, Error> {
        LogReader::open(&self.dir_of(name))
    }

    /// Where the standard error of the process that holds a sandbox goes before it has a log.
    ///
    /// # Errors
    /// The system's refusal.
    pub fn early_log(&self, name: &Name) -> Result<File, Error> {
        log::early(&self.dir_of(name))
    }

    /// The last lines of [`early_log`](Self::early_log), made printable.
    #[must_use]
    pub fn early_lines(&self, name: &Name, lines: usize) -> String {
        log::early_lines(&self.dir_of(name), lines)
    }

    /// Keeps others from looking while this is held, and removes what is half-made or half-gone, if it can be.
    fn guard(&self) -> Result<File, Error> {
        let path = self.root.join(GUARD);
        let guard = files::open(&path)?;
        loop {
            match guard.lock() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                locked => break locked.tried("lock", &path)?,
            }
        }
        for half in [NEW, GONE] {
            // Those whom it would be in the way of try anew, and say so.
            let _ = files::remove(&self.root.join(half));
        }
        Ok(guard)
    }

    fn names(&self) -> Result<Vec<Name>, Error> {
        let entries = fs::read_dir(&self.root).tried("list", &self.root)?;
        let name = |entry: io::Result<fs::DirEntry>| {
            let name = entry.ok()?.file_name();
            OsStr::to_str(&name)?.parse().ok()
        };
        let mut names: Vec<Name> = entries.filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    fn known(&self, name: &Name) -> Result<(), Error> {
        if fs::symlink_metadata(self.dir_of(name)).is_ok() {
            return Ok(());
        }
        Err(Error::Unknown {
            name: name.to_string(),
            near: name.nearest(self.names()?),
        })
    }

    /// What is wrong with one is told of that one: it hides no other.
    fn look_guarded(&self, name: &Name) -> Seen {
        let dir = self.dir_of(name);
        let mut seen = Seen {
            name: name.clone(),
            state: State::Damaged,
            record: None,
            damage: damage(&dir).map(str::to_owned),
            is_held: false,
        };
        if seen.damage.is_some() {
            return seen;
        }
        let lock = match owned::lock(&dir) {
            Ok(lock) => lock,
            Err(error) => {
                seen.damage = Some(whole(&error));
                return seen;
            }
        };
        seen.is_held = lock.is_none();
        if !seen.is_held {
            // On a full disk it is seen as it is all the same, and repaired when there is room.
            let _ = Self::repair(&dir, name);
        }
        match Record::read(&dir, name) {
            Ok(record) => {
                seen.state = state(&record.phase, seen.is_held);
                seen.record = Some(record);
            }
            Err(Error::Damaged { reason, .. }) => seen.damage = Some(reason),
            Err(error) => seen.damage = Some(whole(&error)),
        }
        seen
    }

    /// Puts right what a process has left that held the sandbox and was killed. The lock is held.
    fn repair(dir: &Path, name: &Name) -> Result<(), Error> {
        let mut is_clean = true;
        for left in [record::TEMPORARY, socket::FILE] {
            let left = dir.join(left);
            if fs::symlink_metadata(&left).is_ok() {
                if is_clean {
                    point("repair-begun");
                }
                is_clean = false;
                files::remove(&left)?;
            }
        }
        if !is_clean {
            point("repair-cleaned");
        }
        if let Ok(mut record) = Record::read(dir, name)
            && matches!(
                record.phase,
                Phase::Starting | Phase::Running | Phase::Paused
            )
        {
            record.set_phase(Phase::Crashed);
            if let Err(error) = record.write(dir) {
                let _ = fs::remove_file(dir.join(record::TEMPORARY));
                return Err(error);
            }
        }
        Ok(())
    }
}

/// What keeps anybody from holding what is there.
fn damage(dir: &Path) -> Option<&'static str> {
    if !is_dir(dir) {
        return Some(NO_DIRECTORY);
    }
    match fs::symlink_metadata(dir.join(LOCK)) {
        Ok(data) if !data.is_file() => Some(NO_LOCK),
        _ => None,
    }
}

fn whole(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Whether it is a directory itself, and does not only lead to one.
fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|data| data.is_dir())
}

fn state(phase: &Phase, is_held: bool) -> State {
    match (phase, is_held) {
        (Phase::Running, true) => State::Running,
        (Phase::Paused, true) => State::Paused,
        // It was taken hold of, or is about to be let go.
        (_, true) => State::Starting,
        (Phase::Created, false) => State::Created,
        (Phase::Ended { .. }, false) => State::Ended,
        (_, false) => State::Crashed,
    }
}
