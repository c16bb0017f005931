//! QEMU as a child that cannot outlive this process.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::sync::{oneshot, watch};

use crate::confine::{Confines, Privileges};
use crate::{Console, Error, Gap};

/// A started child. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    pidfd: OwnedFd,
    ended: watch::Receiver<Option<ExitStatus>>,
    gaps: Vec<Gap>,
}

/// What the child says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    pub(crate) console: Console,
    pub(crate) errors: Console,
}

impl Process {
    /// Starts `program`. Each descriptor of `fds` becomes the child's at the number beside it.
    ///
    /// The child gets an empty environment but for `PATH`: ours may hold secrets.
    pub(crate) async fn spawn(
        program: &Path,
        args: Vec<OsString>,
        fds: Vec<(OwnedFd, i32)>,
        confinement: impl Into<Confines>,
        output: &Output,
    ) -> Result<Self, Error> {
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A terminal's Ctrl-C is for the program that owns the sandbox to act on.
            .process_group(0);
        command
            .fd_mappings(
                fds.into_iter()
                    .map(|(parent_fd, child_fd)| FdMapping {
                        parent_fd,
                        child_fd,
                    })
                    .collect(),
            )
            .map_err(|error| Error::Host {
                what: "the machine's descriptors",
                source: io::Error::other(error),
            })?;
        let confines = confinement.into();
        confine(&mut command, confines.privileges());
        let (started, start) = oneshot::channel();
        let output = output.clone();
        std::thread::Builder::new()
            .name("msb-vmm".into())
            .spawn(move || supervise(command, &confines, &output, started))
            .map_err(|source| Error::Host {
                what: "a thread",
                source,
            })?;
        start
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the supervising thread ended")))
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => Error::QemuMissing {
                    program: program.to_owned(),
                },
                _ => Error::Spawn {
                    program: program.to_owned(),
                    source,
                },
            })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// What of its confinement this host does not give.
    pub(crate) fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Waits for the child's end. By then all it said is in its output.
    pub(crate) async fn wait(&self) -> ExitStatus {
        let mut ended = self.ended.clone();
        loop {
            if let Some(status) = *ended.borrow_and_update() {
                return status;
            }
            if ended.changed().await.is_err() {
                // The thread died without a word; there is nothing left to wait for.
                return ExitStatus::default();
            }
        }
    }

    /// How the child ended, if it has.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Ends the child at once. Harmless when it has ended.
    pub(crate) fn kill(&self) {
        // ESRCH: it has ended. The descriptor cannot mean another process.
        let _ = rustix::process::pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Lets the child give up its privileges, and asks the kernel to kill it when the thread that started it ends, which is when
/// this process does: [`supervise`] outlives its child.
fn confine(command: &mut Command, privileges: Privileges) {
    let parent = rustix::process::getpid();
    let set_up = move || {
        // First, for a change of credentials forgets the signal.
        privileges.change()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::Error::other("the parent has ended"))
        }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes system calls
    // directly and allocates only in the case that this process is gone.
    unsafe { command.pre_exec(set_up) };
}

/// Starts the child, reads what it says, and waits for its end. The child has no children that could keep its
/// output open: QEMU's sandbox denies them.
fn supervise(
    mut command: Command,
    confines: &Confines,
    output: &Output,
    started: oneshot::Sender<io::Result<Process>>,
) {
    let files = confines.restrict_files();
    let (ended, receiver) = watch::channel(None);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    drop(command);
    let process = open_pidfd(&child).map(|pidfd| Process {
        pid: child.id(),
        pidfd,
        ended: receiver,
        gaps: files
            .into_iter()
            .chain(confines.network_gap(child.id()))
            .collect(),
    });
    if process.is_err() {
        let _ = child.kill();
    }
    // When nobody takes the process any more, dropping it kills the child.
    let _ = started.send(process);
    std::thread::scope(|scope| {
        if let Some(stderr) = child.stderr.take() {
            scope.spawn(|| output.errors.collect(stderr));
        }
        if let Some(stdout) = child.stdout.take() {
            output.console.collect(stdout);
        }
    });
    ended.send_replace(Some(child.wait().unwrap_or_default()));
}

fn open_pidfd(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("a process id out of range"))?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confine::Confinement;

    async fn shell(script: &str) -> (Result<Process, Error>, Output) {
        let output = Output::default();
        let args = vec!["-c".into(), script.into()];
        (
            Process::spawn(Path::new("sh"), args, Vec::new(), confinement(), &output).await,
            output,
        )
    }

    /// What a shell may reach that tells of itself.
    fn confinement() -> Confinement {
        Confinement {
            read: vec!["/proc".into()],
            write: Vec::new(),
        }
    }

    #[tokio::test]
    async fn what_the_child_said_is_there_when_it_has_ended() {
        let (process, output) = shell("echo out; echo err >&2; exit 7").await;
        let status = process.expect("started").wait().await;
        assert_eq!(status.code(), Some(7));
        assert_eq!(output.console.tail(1), "out");
        assert_eq!(output.errors.tail(1), "err");
    }

    #[tokio::test]
    async fn dropping_the_process_kills_the_child() {
        let (process, _) = shell("exec sleep 1000").await;
        let process = process.expect("started");
        let mut ended = process.ended.clone();
        drop(process);
        ended.changed().await.expect("the end is told");
        let status = (*ended.borrow()).expect("a status");
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9)
        );
    }

    #[tokio::test]
    async fn the_child_sees_none_of_our_environment() {
        // Cargo sets this one for tests.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let (process, output) = shell("env").await;
        process.expect("started").wait().await;
        let seen = output.console.tail(usize::MAX);
        for line in seen.lines() {
            let name = line.split('=').next().unwrap_or_default();
            assert!(
                ["PATH", "PWD", "SHLVL", "_", "OLDPWD"].contains(&name),
                "{line}"
            );
        }
    }

    #[tokio::test]
    async fn descriptors_arrive_at_their_numbers() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let output = Output::default();
        let args = vec!["-c".into(), "echo through >&7".into()];
        let fds = vec![(theirs.into(), 7)];
        let process = Process::spawn(Path::new("sh"), args, fds, confinement(), &output)
            .await
            .expect("started");
        process.wait().await;
        drop(process);
        let mut text = String::new();
        io::Read::read_to_string(&mut &ours, &mut text).expect("UTF-8");
        assert_eq!(text, "through\n");
    }

    #[tokio::test]
    async fn a_missing_program_says_what_to_install() {
        let output = Output::default();
        let qemu = Path::new("no-such-qemu");
        let error = Process::spawn(qemu, Vec::new(), Vec::new(), confinement(), &output)
            .await
            .expect_err("nothing to run");
        assert!(matches!(error, Error::QemuMissing { .. }), "{error:?}");
        assert!(
            error
                .to_string()
                .contains("apt-get install qemu-system-x86")
        );
    }

    #[tokio::test]
    async fn the_child_has_no_privileges_and_no_network() {
        let script =
            "cat /proc/self/status; readlink /proc/self/ns/net; cat /proc/net/dev; ulimit -c";
        let (process, output) = shell(script).await;
        let process = process.expect("started");
        process.wait().await;
        let seen = output.console.tail(usize::MAX);
        for line in [
            "CapPrm:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "NoNewPrivs:\t1",
        ] {
            assert!(seen.contains(line), "{line} in {seen}");
        }
        let ours = std::fs::read_link("/proc/self/ns/net").expect("our own");
        let is_apart = !seen.contains(&*ours.to_string_lossy());
        assert_eq!(is_apart, !process.gaps().contains(&Gap::Network), "{seen}");
        if !is_apart {
            eprintln!("skipped: this host gives no network namespace");
        }
        // Nothing but a loopback interface, which is down.
        let interfaces = seen
            .lines()
            .filter(|line| line.contains(": ") && line.contains(" 0 "));
        assert!(!is_apart || interfaces.count() <= 1, "{seen}");
        assert_eq!(seen.lines().last(), Some("0"), "the size of core dumps");
    }

    #[tokio::test]
    async fn the_child_opens_no_files_but_its_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, name).expect("written");
            path
        };
        let (own, scratch, other) = (file("own"), file("scratch"), file("other"));
        let script = format!(
            "cat {own}; cat {scratch}; cat {other}; echo x > {own}; echo y > {scratch}; echo z > {dir}/new; ls {dir}; cat /etc/hostname; true",
            own = own.display(),
            scratch = scratch.display(),
            other = other.display(),
            dir = dir.path().display(),
        );
        let confinement = Confinement {
            read: vec![own.clone()],
            write: vec![scratch.clone()],
        };
        let output = Output::default();
        let args = vec!["-c".into(), script.into()];
        let process = Process::spawn(Path::new("sh"), args, Vec::new(), confinement, &output);
        let process = process.await.expect("started");
        process.wait().await;
        if let Some(gap) = process
            .gaps()
            .iter()
            .find(|gap| matches!(gap, Gap::Files(_)))
        {
            eprintln!("skipped: {gap}");
            return;
        }
        assert_eq!(output.console.tail(usize::MAX), "ownscratch");
        let read = |path| std::fs::read_to_string(path).expect("there");
        assert_eq!((read(&own), read(&scratch)), ("own".into(), "y\n".into()));
        assert!(!dir.path().join("new").exists());
        // This thread is not restricted by what restricts its children.
        assert_eq!(read(&other), "other");
    }
}
