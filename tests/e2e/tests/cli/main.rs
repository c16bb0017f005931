//! The command `msb` as a user runs it, on real guests.

mod bad_input;
mod canary;
mod crash;
mod detached;
mod hardship;
mod images;
mod lifecycle;
mod run;
mod signals;
mod terminal;
mod trust;

use std::path::Path;
use std::process::Stdio;

use msb_e2e::{Home, HostProcess};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

/// The exit status of msb's own failures.
const OWN_FAILURE: i32 = 125;

/// A place to run `msb` in: what it leaves in its store or among temporary files is its own.
struct Place {
    home: Home,
    temporary: TempDir,
    before: Vec<std::path::PathBuf>,
}

/// How a run of `msb` ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Place {
    fn new() -> Self {
        let home = Home::new();
        Self {
            before: home.files(),
            home,
            temporary: tempfile::tempdir().expect("a directory"),
        }
    }

    /// `msb` with these arguments, without input, its output kept.
    fn msb<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_msb-under-test"));
        command
            .args(args)
            .env("MSB_HOME", self.home.path())
            .env("TMPDIR", self.temporary.path())
            .env_remove("MSB_LOG")
            .env_remove("API_KEY")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Fails if a process, socket or file of a run is left.
    #[track_caller]
    fn check_nothing_is_left(&self, claim: &str) {
        assert_eq!(self.home.processes(), Vec::<String>::new(), "{claim}");
        assert_eq!(self.home.files(), self.before, "{claim}");
        let temporary = list(self.temporary.path());
        assert!(temporary.is_empty(), "{claim}: {temporary:?}");
    }
}

fn list(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

/// Runs it to its end with `input`.
async fn finish(mut command: Command, input: Vec<u8>) -> Ended {
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().expect("msb starts");
    let feed = child.stdin.take().map(|mut stdin| {
        tokio::spawn(async move {
            // It may end without having read it all.
            let _ = stdin.write_all(&input).await;
        })
    });
    let output = child.wait_with_output().await.expect("an end");
    if let Some(feed) = feed {
        feed.await.expect("fed");
    }
    Ended {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn process(child: &Child) -> HostProcess {
    let pid = child.id().expect("not yet waited for");
    HostProcess::open(pid).expect("a running msb")
}

/// The QEMU of a running `msb`, as soon as there is one.
async fn qemu_of(msb: &HostProcess) -> HostProcess {
    loop {
        let named = |child: &HostProcess| child.read("comm").starts_with(b"qemu-system");
        if let Some(qemu) = msb.children().into_iter().find(named) {
            return qemu;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
