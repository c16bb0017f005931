//! What the tests of sandboxes in the background share: a state directory of their own, and commands on it.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{Ended, Place, finish, list};

/// A place whose sandboxes go on in the background, below a path that is too long for the address of a socket.
pub(crate) struct Background {
    pub(crate) place: Place,
    directory: TempDir,
}

impl Background {
    pub(crate) fn new() -> Self {
        Self {
            place: Place::new(),
            directory: tempfile::tempdir().expect("a directory"),
        }
    }

    /// The state directory.
    pub(crate) fn state(&self) -> PathBuf {
        let long = "long".repeat(30);
        self.directory.path().join(long).join("state")
    }

    /// `msb` with these words.
    pub(crate) fn command<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.place.msb(args);
        command.env("MSB_STATE", self.state());
        command
    }

    /// Runs `msb` with words between blanks, and perhaps one more.
    pub(crate) async fn msb(&self, line: &str, last: Option<&str>) -> Ended {
        finish(self.command(line.split(' ').chain(last)), Vec::new()).await
    }

    /// Runs it and checks its exit status and a part of what it said on each stream.
    pub(crate) async fn check(&self, line: &str, last: Option<&str>, expected: Expected) -> Ended {
        let ended = self.msb(line, last).await;
        expected.check(line, &ended);
        ended
    }

    /// What `ps -a --json` tells of a sandbox; null if there is none.
    pub(crate) async fn info(&self, name: &str) -> Value {
        let ended = self.msb("ps -a --json", None).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let all: Vec<Value> = serde_json::from_slice(&ended.stdout).expect("JSON");
        let found = all.into_iter().find(|info| info["name"] == name);
        found.unwrap_or_default()
    }

    /// Processes that have to do with sandboxes of this place.
    pub(crate) fn processes(&self) -> Vec<String> {
        let mut found = self.place.home.processes();
        let state = self.directory.path().to_string_lossy().into_owned();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
        found.extend(lines.filter(|line| line.contains(&state)));
        found
    }

    /// Fails if anything of a sandbox is left but what was there before: supervisors that have let go take a moment to end.
    pub(crate) async fn check_nothing_is_left(&self, claim: &str) {
        let gone = async {
            while !self.processes().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(20), gone).await;
        assert!(gone.is_ok(), "{claim}: {:?}", self.processes());
        self.place.check_nothing_is_left(claim);
        assert_eq!(list(&self.state()), [".lock"], "{claim}");
        let state = self.directory.path().to_string_lossy().into_owned();
        for table in ["/proc/net/unix", "/proc/self/mountinfo"] {
            let table = std::fs::read_to_string(table).expect("every Linux has it");
            assert!(!table.contains(&state), "{claim}: {table}");
        }
    }
}

/// A supervisor that a failed test leaves would go on for ever.
impl Drop for Background {
    fn drop(&mut self) {
        let entries = std::fs::read_dir(self.state()).into_iter().flatten();
        for entry in entries.flatten() {
            let lock = std::fs::read_to_string(entry.path().join("lock"));
            let Some(pid) = lock.ok().and_then(|text| text.parse().ok()) else {
                continue;
            };
            // The id may be another's by now.
            if let Some(process) = msb_e2e::HostProcess::open(pid) {
                let line = String::from_utf8_lossy(&process.read("cmdline")).into_owned();
                if line.contains(&*self.state().to_string_lossy()) {
                    process.signal(rustix::process::Signal::KILL);
                }
            }
        }
    }
}

/// What a command is to say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) code: i32,
    pub(crate) stdout: &'static str,
    pub(crate) stderr: &'static str,
}

impl Expected {
    pub(crate) const fn says(stdout: &'static str) -> Self {
        Self {
            code: 0,
            stdout,
            stderr: "",
        }
    }

    /// The command's own exit status.
    pub(crate) const fn code(code: i32) -> Self {
        Self {
            code,
            stdout: "",
            stderr: "",
        }
    }

    /// A failure of msb's own.
    pub(crate) const fn fails(stderr: &'static str) -> Self {
        Self {
            code: crate::OWN_FAILURE,
            stdout: "",
            stderr,
        }
    }

    pub(crate) fn check(&self, claim: &str, ended: &Ended) {
        let stdout = String::from_utf8_lossy(&ended.stdout);
        let holds = ended.code == Some(self.code)
            && stdout.contains(self.stdout)
            && ended.stderr.contains(self.stderr);
        assert!(holds, "{claim}: expected {self:?} of {ended:?}");
    }
}
