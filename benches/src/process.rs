//! A process that is timed, and ended when it takes too long.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

/// Clock ticks a second in `/proc/PID/stat`, the same on every Linux (proc(5), `USER_HZ`).
const TICKS_PER_SECOND: u32 = 100;

/// A process started by a benchmark. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pidfd: OwnedFd,
    start: Instant,
    outputs: Option<[JoinHandle<Vec<u8>>; 2]>,
}

/// A process that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// From just before its start to its end.
    pub took: Duration,
    /// Processor time of it and of its children that it waited for, in steps of 10 ms. Other load on the machine
    /// changes this much less than the time it took.
    pub cpu: Duration,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Running {
    /// Starts `command` with no input and its output kept.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let start = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pidfd = rustix::process::pidfd_open(pid.context("no process id")?, PidfdFlags::empty())
            .context("cannot watch the process")?;
        let outputs = match (child.stdout.take(), child.stderr.take()) {
            (Some(stdout), Some(stderr)) => Some([collect(stdout), collect(stderr)]),
            _ => None,
        };
        Ok(Self {
            child,
            pidfd,
            start,
            outputs,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it has not ended `limit` after its start: it is killed then.
    pub fn finish(mut self, limit: Duration) -> Result<Finished> {
        let left = limit.saturating_sub(self.start.elapsed());
        let timeout = Timespec::try_from(left).context("the limit is too long")?;
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut ended, Some(&timeout)))
            .context("cannot wait for the process")?;
        let took = self.start.elapsed();
        if ready == 0 {
            bail!("it had not ended after {} s", limit.as_secs());
        }
        // It is a zombie until it is waited for, and its times can still be read.
        let cpu = cpu_time(self.child.id())?;
        let status = self.child.wait()?;
        let [stdout, stderr] = self
            .outputs
            .take()
            .context("the output was not kept")?
            .map(|thread| thread.join().unwrap_or_default())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Finished {
            status,
            took,
            cpu,
            stdout,
            stderr,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut source: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is kept.
        let _ = source.read_to_end(&mut bytes);
        bytes
    })
}

fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("cannot read times")?;
    let ticks = cpu_ticks(&stat).context("the kernel's process times cannot be read")?;
    Ok(Duration::from_secs(1) * ticks / TICKS_PER_SECOND)
}

/// Own and waited-for children's user and system time: fields 14 to 17 of proc(5) `stat`.
fn cpu_ticks(stat: &str) -> Option<u32> {
    // The program's name is in parentheses and may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let times = fields.split_ascii_whitespace().skip(11).take(4);
    times.map(|field| field.parse::<u32>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Running {
        Running::start(Command::new("sh").args(["-c", script])).expect("a shell")
    }

    #[test]
    fn output_and_exit_status_are_told_apart() {
        let finished = shell("echo out; echo err >&2; exit 7")
            .finish(Duration::from_secs(60))
            .expect("ended");
        assert_eq!(finished.status.code(), Some(7));
        assert_eq!((&*finished.stdout, &*finished.stderr), ("out\n", "err\n"));
    }

    #[test]
    fn a_process_that_takes_too_long_is_ended() {
        let running = shell("exec sleep 1000");
        let pid = running.pid();
        let error = running
            .finish(Duration::from_millis(1))
            .expect_err("too long");
        assert!(error.to_string().contains("had not ended"), "{error}");
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn times_are_read_past_any_program_name() {
        let stat = "12 (a) b (c) S 1 1 1 0 -1 0 0 0 0 0 5 6 70 800 20 0 1 0";
        assert_eq!(cpu_ticks(stat), Some(881));
        assert_eq!(cpu_ticks("12 (a) S 1"), Some(0));
        assert_eq!(cpu_ticks(""), None);
    }
}
