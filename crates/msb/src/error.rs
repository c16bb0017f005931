//! What can go wrong with a sandbox, grouped by whose fault it is.

use std::time::Duration;

/// An error of a sandbox. Never holds a secret's value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be what was meant. Nothing was started.
    #[error("{0}")]
    Config(String),
    /// A secret's configuration is wrong. Nothing was started.
    #[error(transparent)]
    Secret(#[from] msb_secrets::Error),
    /// The network policy does not parse. Nothing was started.
    #[error(transparent)]
    Policy(#[from] msb_policy::Error),
    /// TLS interception cannot be set up. Nothing was started.
    #[error("TLS interception cannot be set up")]
    Tls(#[from] msb_tls_proxy::Error),
    /// Nothing can listen there: the port is taken, or the address is not of this host.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A port that is to be published is somebody else's.
    #[error(
        "cannot publish {port}: the port is taken{}; choose another, or 0 for any that is free",
        owner.as_ref().map(|owner| format!(" by {owner}")).unwrap_or_default()
    )]
    PortTaken {
        /// What was asked for.
        port: crate::PortMapping,
        /// Whose it is, where that can be known.
        owner: Option<String>,
    },
    /// Kernel, initramfs or image are missing or unusable.
    #[error(transparent)]
    Image(#[from] msb_image::Error),
    /// QEMU cannot run the machine.
    #[error(transparent)]
    Machine(#[from] msb_vmm::Error),
    /// The guest died while it booted.
    #[error("the guest died while it booted; its last lines were:\n{console}")]
    BootFailed {
        /// The last lines of the guest's console and of QEMU.
        console: String,
    },
    /// The guest's agent did not answer in time.
    #[error(
        "the guest did not come up within {} s; its last lines were:\n{console}", waited.as_secs()
    )]
    BootTimeout {
        /// How long was waited.
        waited: Duration,
        /// The last lines of the guest's console and of QEMU.
        console: String,
    },
    /// The guest's interface or trust could not be brought up.
    #[error("the guest's agent refused its configuration: {0}")]
    GuestRefused(String),
    /// The program is not there (a shell would exit with 127).
    #[error("no such program in the guest: {0}")]
    ProgramNotFound(String),
    /// The program is there and cannot be executed (a shell would exit with 126).
    #[error("the guest cannot execute {0}")]
    ProgramNotExecutable(String),
    /// The agent refused the request otherwise.
    #[error("the guest's agent refused: {0}")]
    Agent(String),
    /// A file of the guest is not what was asked for. The guest's own words.
    #[error("in the guest: {reason}")]
    GuestFile {
        /// What kind of fault it is.
        kind: std::io::ErrorKind,
        /// The file and the guest's reason, made printable.
        reason: String,
    },
    /// A copy failed on this host's side: a file that cannot be read or written, or one of the guest's that is not let in.
    #[error("on this host")]
    Tree(#[from] msb_tree::Error),
    /// A file or list of the guest is larger than what is collected in memory. Copy it instead.
    #[error("it has more than {limit} bytes; copy it to this host instead")]
    FileLimit {
        /// The limit in bytes.
        limit: usize,
    },
    /// The guest lives and its agent says nothing: it hangs, or is busy beyond use. The sandbox still runs; end it with
    /// [`Sandbox::kill`](crate::Sandbox::kill).
    #[error(
        "the guest's agent did not answer within {} s; its last lines were:\n{console}", waited.as_secs()
    )]
    NoAnswer {
        /// How long was waited.
        waited: Duration,
        /// The last lines of the guest's console and of QEMU.
        console: String,
    },
    /// The sandbox has ended: stopped, killed, or its guest has powered off.
    #[error("the sandbox has ended: {reason}")]
    Ended {
        /// Why.
        reason: String,
    },
    /// A program wrote more than [`Sandbox::exec`](crate::Sandbox::exec) collects. Use
    /// [`Command::spawn`](crate::Command::spawn) and take it piece by piece.
    #[error("the program wrote more than {limit} bytes; read its output piece by piece instead")]
    OutputLimit {
        /// The limit in bytes.
        limit: usize,
    },
    /// The program's output is not UTF-8. Its bytes are in [`Output`](crate::Output).
    #[error("the program's {stream} is not UTF-8 from byte {valid_up_to}")]
    NotUtf8 {
        /// `stdout` or `stderr`.
        stream: &'static str,
        /// How many bytes before that are.
        valid_up_to: usize,
    },
    /// The host refused a resource.
    #[error("the host refused {what}")]
    Host {
        /// What was asked for.
        what: &'static str,
        /// Why it was refused.
        source: std::io::Error,
    },
    /// What is on disk of detached sandboxes does not allow it: no such name, a name that is taken, damage.
    #[error(transparent)]
    State(#[from] msb_state::Error),
    /// A detached sandbox is not running.
    #[error("the sandbox {name} is not running; {state}")]
    NotRunning {
        /// Its name.
        name: String,
        /// How it stands, and what to do.
        state: String,
    },
    /// A detached sandbox did not come up.
    #[error("{text}")]
    Supervisor {
        /// The exit status for it: 126 and 127 as in [`ProgramNotExecutable`](Self::ProgramNotExecutable) and
        /// [`ProgramNotFound`](Self::ProgramNotFound), else 125.
        code: u8,
        /// What its supervisor said.
        text: String,
    },
    /// The program that should hold detached sandboxes cannot be run.
    #[error("cannot run {} to hold the sandbox", program.display())]
    SupervisorMissing {
        /// The program.
        program: std::path::PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The files that guests boot from are older or newer than this program.
    #[error(
        "the guest's files are of another version of msb; `cargo xtask image` of this version makes them anew"
    )]
    GuestFilesDiffer,
    /// A sandbox's supervisor refused.
    #[error("{0}")]
    Control(String),
}

impl Error {
    /// The error with its causes, in one text.
    pub(crate) fn whole(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    }
}
