//! Sandboxes that outlive the program that made them: a supervisor holds each, a directory tells of each, and programs of
//! the same user connect to it.

mod control;
mod events;
mod forward;
mod handle;
mod handover;
mod log;
mod sandboxes;
mod spec;
mod supervisor;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use events::{EventFile, EventWriter};
pub(crate) use handle::Remote;
pub use handle::{Ended, Facts, Input, Logs, SandboxHandle};
pub use log::SupervisorLog;
pub use msb_state::{Entry as LogEntry, State as SandboxState, Stream as LogStream};
pub use sandboxes::{SandboxInfo, Sandboxes, SecretValues};
pub use supervisor::supervise;

use crate::Ulimit;
use spec::CommandSpec;

/// What runs in a detached sandbox, and what is kept with it. For [`Sandboxes::create`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Detach {
    pub(crate) command: CommandSpec,
    pub(crate) events: Option<PathBuf>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Detach {
    /// Runs what the image says, if it says anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs this, behind the image's entrypoint if it has one. The sandbox ends with it.
    pub fn command(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.command.words = words.into_iter().map(Into::into).collect();
        self
    }

    /// Runs nothing, whatever the image says: the sandbox goes on until it is ended.
    pub fn no_command(mut self) -> Self {
        self.command.is_none = true;
        self
    }

    /// The command's working directory. Default: the image's, else `/`.
    pub fn workdir(mut self, dir: impl Into<String>) -> Self {
        self.command.workdir = Some(dir.into());
        self
    }

    /// Who the command runs as, as [`Command::user`](crate::Command::user) has it. Default: the image's user, else root.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.command.user = Some(user.into());
        self
    }

    /// Ends the command when it takes longer, as [`Command::timeout`](crate::Command::timeout) does.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.command.timeout = Some(timeout);
        self
    }

    /// Sets a resource limit of the command.
    pub fn ulimit(mut self, ulimit: Ulimit) -> Self {
        self.command.ulimits.push(ulimit.to_string());
        self
    }

    /// Whether the command's standard input stays open for those who [attach](SandboxHandle::input). Default: false, and it
    /// reads nothing.
    pub fn keep_stdin(mut self, keep: bool) -> Self {
        self.command.keeps_stdin = keep;
        self
    }

    /// Whether the command has a terminal, which those who attach resize ([`SandboxHandle::resize`]). Default: false.
    pub fn tty(mut self, tty: bool) -> Self {
        self.command.has_tty = tty;
        self
    }

    /// Has what happens appended to a file, one JSON object a line.
    pub fn events(mut self, file: impl Into<PathBuf>) -> Self {
        self.events = Some(file.into());
        self
    }

    /// Keeps a text with the sandbox that means something to the program that makes it, such as where values of its secrets
    /// are to be found. It is on disk: no secret may be in it.
    pub fn annotation(mut self, key: impl Into<String>, text: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), text.into());
        self
    }
}

/// The program that holds detached sandboxes, each in a process of its own: `msb` with the argument `supervise`, or a program
/// that calls [`supervise`] with the two last of its arguments.
#[derive(Clone, Debug)]
#[must_use]
pub struct Supervisor {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
}

impl Supervisor {
    /// The `msb` command at this path.
    pub fn msb(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: vec!["supervise".into()],
        }
    }

    /// Another program, which is given these arguments, the state directory, and the sandbox's name. It calls [`supervise`]
    /// with the latter two and must not read standard input before.
    pub fn program(
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
        }
    }
}
