//! Other programs: bounded in time, ended by id.

use std::ffi::OsStr;
use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// How often a program that runs is looked at.
const STEP: Duration = Duration::from_millis(5);

/// What a program did.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Both outputs, for a message.
    pub(crate) fn said(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

/// A program in a process group of its own. Dropping it ends the group.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    /// Starts `command`, with what it says in `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = std::fs::File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| cannot_start(command.get_program()))?;
        Ok(Self(child))
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = pid {
            // Fails only when all of it has ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Runs `command` to its end with `input`, for `limit` at most.
pub(crate) fn run(command: &mut Command, input: &[u8], limit: Duration) -> Result<Finished> {
    let start = Instant::now();
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| cannot_start(command.get_program()))?;
    let mut running = Running(child);
    let outputs = (
        running.0.stdout.take().map(collect),
        running.0.stderr.take().map(collect),
    );
    if let Some(mut stdin) = running.0.stdin.take() {
        let input = input.to_owned();
        // A program may end without reading it.
        std::thread::spawn(move || stdin.write_all(&input).is_ok());
    }
    let status = loop {
        if let Some(status) = running.0.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > limit {
            break None;
        }
        std::thread::sleep(STEP);
    };
    drop(running);
    let (stdout, stderr) = (text(outputs.0), text(outputs.1));
    let Some(status) = status else {
        bail!(
            "had not ended after {} s: {stdout}{stderr}",
            limit.as_secs()
        );
    };
    Ok(Finished {
        success: status.success(),
        stdout,
        stderr,
    })
}

/// Asks `condition` until it holds.
pub(crate) fn wait_for(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            bail!("{what}: not after {} s", limit.as_secs());
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

fn collect(mut source: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is kept.
        let _ = source.read_to_end(&mut bytes);
        bytes
    })
}

fn text(collected: Option<JoinHandle<Vec<u8>>>) -> String {
    let bytes = collected.and_then(|thread| thread.join().ok());
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

fn cannot_start(program: &OsStr) -> String {
    format!("cannot start `{}`", program.display())
}
