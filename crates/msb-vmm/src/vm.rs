//! A running machine.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitStatus;
use std::task::Poll;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::confine::Confinement;
use crate::process::{Output, Process};
use crate::{Console, Error, Fds, Gap, Machine, Qmp, QmpError, Share};

/// The oldest QEMU whose `microvm` and `-netdev socket` behave as this crate needs.
const OLDEST_QEMU: (u64, u64) = (7, 2);
/// How long QEMU may take to greet on its monitor. It takes 50 ms on an idle machine.
const GREETING_WAIT: Duration = Duration::from_secs(30);
/// How long QEMU may take over a command.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// How long QEMU may take to end when it is asked to.
const QUIT_WAIT: Duration = Duration::from_secs(2);
/// The first descriptor number for a channel in the child, behind the standard streams.
const FIRST_FD: i32 = 3;

/// A running machine. Dropping it kills it.
#[derive(Debug)]
pub struct Vm {
    process: Process,
    /// They end with the machine.
    shares: Vec<Share>,
    output: Output,
    qmp: Mutex<Qmp>,
}

/// Our ends of the machine's channels.
#[derive(Debug)]
pub struct Channels {
    /// The byte stream to the agent's virtio-serial port. What is written before the guest opens the port waits.
    pub agent: UnixStream,
    /// Ethernet frames of the guest's interface, each behind its length as four big-endian bytes.
    /// `None` when the machine has no interface.
    pub network: Option<UnixStream>,
}

/// What a machine is given besides its description. The default is nothing.
#[derive(Debug, Default)]
pub struct Attachments {
    /// A raw disk that the guest may write.
    pub scratch: Option<OwnedFd>,
    /// Directories of the host, which the guest mounts by their places in the list: `share0`, `share1`, ...
    pub shares: Vec<Share>,
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct End {
    /// QEMU's exit status: success after a guest's own power-off or reset.
    pub status: ExitStatus,
}

impl Vm {
    /// Starts the machine with its attachments and returns when QEMU runs it; the guest is still booting then.
    ///
    /// # Errors
    /// [`Error::QemuMissing`], [`Error::QemuTooOld`], [`Error::QemuRefused`] with QEMU's own reason, or a resource
    /// the host refused. No process is left.
    pub async fn start(
        machine: &Machine,
        attachments: Attachments,
    ) -> Result<(Self, Channels), Error> {
        let (qmp, qmp_theirs) = pair()?;
        let (agent, agent_theirs) = pair()?;
        let mut fds = Mapped::default();
        let mut numbers = Fds {
            qmp: fds.add(qmp_theirs),
            agent: fds.add(agent_theirs),
            network: 0,
            scratch: attachments.scratch.map(|disk| fds.add(disk)),
            shares: Vec::new(),
        };
        let mut shares = attachments.shares;
        for (at, share) in shares.iter_mut().enumerate() {
            if let Some(connection) = share.take_connection() {
                numbers
                    .shares
                    .push((format!("share{at}"), fds.add(connection)));
            }
        }
        let network = if machine.network.is_some() {
            let (network, theirs) = pair()?;
            numbers.network = fds.add(theirs);
            Some(network)
        } else {
            None
        };
        let output = Output::default();
        let confinement = Confinement::of(machine);
        let args = machine.arguments(&numbers);
        let fds = fds.0;
        let process = Process::spawn(&machine.qemu, args, fds, confinement, &output).await?;
        let greeting = tokio::time::timeout(GREETING_WAIT, Qmp::connect(qmp)).await;
        let qmp = match greeting {
            Ok(Ok(qmp)) => qmp,
            Ok(Err(QmpError::Closed | QmpError::Io(_))) => {
                process.wait().await;
                // QEMU only sees that its connection has ended.
                let failure = shares.iter().find_map(Share::failure);
                return Err(match failure {
                    Some(failure) => failure,
                    None => explain_refusal(&machine.qemu, &output).await,
                });
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_elapsed) => {
                return Err(Error::QemuRefused {
                    reason: format!(
                        "its monitor did not answer within {} s",
                        GREETING_WAIT.as_secs()
                    ),
                });
            }
        };
        let (major, minor) = qmp.version();
        if (major, minor) < OLDEST_QEMU {
            return Err(Error::QemuTooOld {
                found: format!("{major}.{minor}"),
            });
        }
        let vm = Self {
            process,
            shares,
            output,
            qmp: Mutex::new(qmp),
        };
        Ok((vm, Channels { agent, network }))
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What of QEMU's confinement this host does not give: in a sandbox whose guest is hostile, something to tell.
    pub fn gaps(&self) -> &[Gap] {
        self.process.gaps()
    }

    /// What the guest's console said.
    pub fn console(&self) -> &Console {
        &self.output.console
    }

    /// What QEMU itself had to say.
    pub fn errors(&self) -> &Console {
        &self.output.errors
    }

    /// Waits for the machine's end. May be called by several tasks, before and after it.
    pub async fn wait(&self) -> End {
        End {
            status: self.process.wait().await,
        }
    }

    /// Waits until one of the shared directories is not served any more, which the guest sees as a file system that does not
    /// answer; for ever where there are none.
    pub async fn share_ended(&self) -> Error {
        let ended = self.shares.iter().map(|share| Box::pin(share.ended()));
        let mut ended: Vec<_> = ended.collect();
        std::future::poll_fn(|context| {
            let ready = ended
                .iter_mut()
                .find_map(|share| match share.as_mut().poll(context) {
                    Poll::Ready(error) => Some(error),
                    Poll::Pending => None,
                });
            ready.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Runs a monitor command without arguments, such as `stop`, `cont` or `query-status`.
    ///
    /// # Errors
    /// QEMU's refusal, that it says nothing for 30 s, or that it has ended.
    pub async fn monitor(&self, command: &str) -> Result<serde_json::Value, Error> {
        let answer = async { self.qmp.lock().await.execute(command).await };
        match tokio::time::timeout(ANSWER_WAIT, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_elapsed) => Err(QmpError::Silent(ANSWER_WAIT.as_secs()).into()),
        }
    }

    /// Ends the machine by its monitor, and by force when that takes over two seconds. The guest is not asked.
    pub async fn quit(&self) -> End {
        let asked = async {
            // The answer may be lost with the process; its end is what counts.
            let _ = self.monitor("quit").await;
            self.wait().await
        };
        if let Ok(end) = tokio::time::timeout(QUIT_WAIT, asked).await {
            return end;
        }
        self.kill();
        self.wait().await
    }

    /// Kills the machine at once.
    pub fn kill(&self) {
        self.process.kill();
    }
}

/// Descriptors for the child, and their numbers there.
#[derive(Default)]
struct Mapped(Vec<(OwnedFd, i32)>);

impl Mapped {
    fn add(&mut self, fd: OwnedFd) -> i32 {
        let number = self.0.last().map_or(FIRST_FD, |(_, last)| last + 1);
        self.0.push((fd, number));
        number
    }
}

/// Our end for tokio and the child's as it is: blocking, close-on-exec until it is mapped.
fn pair() -> Result<(UnixStream, OwnedFd), Error> {
    let made = || {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        io::Result::Ok((UnixStream::from_std(ours)?, OwnedFd::from(theirs)))
    };
    made().map_err(|source| Error::Host {
        what: "a socket pair",
        source,
    })
}

/// QEMU ended before it greeted: is it too old for its arguments, or is something else wrong?
async fn explain_refusal(qemu: &Path, output: &Output) -> Error {
    if let Some((version, text)) = installed_version(qemu).await
        && version < OLDEST_QEMU
    {
        return Error::QemuTooOld { found: text };
    }
    let reason = output.errors.tail(3);
    Error::QemuRefused {
        reason: if reason.is_empty() {
            "it gave no reason".into()
        } else {
            reason
        },
    }
}

async fn installed_version(qemu: &Path) -> Option<((u64, u64), String)> {
    let output = Output::default();
    let args = vec!["--version".into()];
    let confinement = Confinement::of_program(qemu);
    let process = Process::spawn(qemu, args, Vec::new(), confinement, &output)
        .await
        .ok()?;
    process.wait().await;
    parse_version(&output.console.tail(usize::MAX))
}

/// "QEMU emulator version 7.2.22 (Debian ...)".
fn parse_version(text: &str) -> Option<((u64, u64), String)> {
    let (_, rest) = text.split_once("version ")?;
    let number = rest.split([' ', '\n']).next()?;
    let mut parts = number.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    Some(((major, minor), number.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_qemus_own_line() {
        for (text, expected) in [
            (
                "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright",
                Some(((7, 2), "7.2.22")),
            ),
            ("QEMU emulator version 10.0.2", Some(((10, 0), "10.0.2"))),
            ("QEMU emulator version", None),
            ("", None),
        ] {
            let expected = expected.map(|(version, text): (_, &str)| (version, text.to_owned()));
            assert_eq!(parse_version(text), expected, "{text:?}");
        }
    }

    /// A stand-in for QEMU, run with our arguments.
    async fn start_with(script: &str) -> Result<(Vm, Channels), Error> {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let qemu = dir.path().join("qemu");
        std::fs::write(&qemu, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).expect("mode");
        let mut machine = Machine::new("vmlinux", "initramfs", crate::Accelerator::Tcg);
        machine.qemu = qemu;
        Vm::start(&machine, Attachments::default()).await
    }

    #[tokio::test]
    async fn a_qemu_that_will_not_start_is_explained() {
        for (script, expected) in [
            (
                "echo 'qemu: could not load kernel' >&2; exit 1",
                "QEMU refused to start the machine: qemu: could not load kernel",
            ),
            (
                "exit 1",
                "QEMU refused to start the machine: it gave no reason",
            ),
            (
                "[ \"$1\" = --version ] && echo 'QEMU emulator version 5.2.0'; exit 1",
                "QEMU 5.2.0 is too old: 7.2 or newer is needed; upgrade it or name another with --qemu",
            ),
        ] {
            let error = start_with(script).await.expect_err("no machine");
            assert_eq!(error.to_string(), expected);
        }
    }
}
