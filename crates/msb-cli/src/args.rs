//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use msb::{AcceleratorChoice, BindMount};

use crate::copy::Copy;
use crate::engine::{EngineArgs, parse_size};
use crate::image::{ImageTask, RegistryArgs};
use crate::limits::LimitArgs;
use crate::program::ProgramArgs;
use crate::sandboxes::{Attach, Kill, List, Logs, Names, Remove, Stop, parse_duration};
use crate::why::PolicyTask;

/// Run untrusted code in a microVM that calls real APIs without holding a credential.
#[derive(Debug, Parser)]
#[command(name = "msb", version)]
pub(crate) struct Cli {
    /// What to log on standard error: error, warn, info, debug, or a filter such as `warn,msb=debug`.
    #[arg(
        long,
        global = true,
        env = "MSB_LOG",
        default_value = "warn",
        value_name = "LEVEL"
    )]
    pub(crate) log: String,
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Boot a sandbox, run one command in it, and end it.
    ///
    /// The exit status is the command's, 128 and the signal's number if a signal ended it, 126 and 127 if it cannot
    /// be executed or found, 124 if its --timeout is over, and 125 for a failure of msb itself.
    ///
    /// With -d the sandbox goes on in the background, held by a process of its own: its name is printed, and the commands
    /// below are for it. It ends with its command, or when it is ended if it has none.
    Run(Box<Run>),
    /// Write a sandbox down without starting it, and print its name.
    Create(Box<Run>),
    /// Start sandboxes that are not running. Values of their secrets are read anew, from where their flags say.
    Start(Names),
    /// List sandboxes.
    Ps(List),
    /// Run a program in a running sandbox.
    ///
    /// Its exit status is told as by `run`; when msb is interrupted, the program is ended.
    Exec(Exec),
    /// Copy files and trees between this host and a running sandbox, where one path is NAME:PATH.
    ///
    /// Modes, times and links are kept. What comes out belongs to whoever runs msb, without set-id bits; nothing is written
    /// outside of its place here.
    Cp(Copy),
    /// Follow what a sandbox's command writes, and hand it standard input, until the sandbox ends.
    ///
    /// The exit status is then the command's. Ctrl-C is handed on to the command; the sandbox goes on when this program is
    /// ended otherwise.
    Attach(Attach),
    /// Print what a sandbox's command has written; it is kept up to some 16 MiB, and while the sandbox is there.
    Logs(Logs),
    /// Tell all that is known of sandboxes, as JSON. Values of secrets are not.
    Inspect(Names),
    /// End sandboxes in order: SIGTERM for the command, power-off for the guest, force when that takes too long.
    Stop(Stop),
    /// End sandboxes at once, or send their commands a signal.
    Kill(Kill),
    /// Halt sandboxes. They keep their memory; their clocks stand still, and stay behind.
    Pause(Names),
    /// Let halted sandboxes go on.
    Resume(Names),
    /// Wait for a sandbox's end, and exit as its command did.
    Wait {
        /// The sandbox's name.
        name: String,
    },
    /// Remove sandboxes that are not running, with their logs.
    Rm(Remove),
    /// Hold a sandbox. For msb itself.
    #[command(hide = true)]
    Supervise {
        /// The state directory.
        states: PathBuf,
        /// The sandbox's name.
        name: String,
    },
    /// Bring images into the store, list them and remove them.
    #[command(subcommand)]
    Image(ImageTask),
    /// Put secrets into the requests of clients that need no sandbox: in containers, in CI, on this machine.
    ///
    /// The same engine as in `run`, as an HTTP proxy (mode connect) or for TLS connections that are led here (mode
    /// transparent). Clients trust the certificate in --ca-out and hold placeholders, `$MSB_NAME` for the secret NAME.
    /// SIGHUP reads all secrets again; SIGTERM lets open connections finish. The exit status is 0 after that, and 125 for
    /// a failure, and for a violation under block-and-terminate.
    Proxy(Box<ProxyArgs>),
    /// Explain and check the network policy of some flags, without sending anything.
    #[command(subcommand)]
    Policy(PolicyTask),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,

    /// Lets UDP pass on the ports on which TLS is intercepted. What a client sends there by QUIC is neither searched nor
    /// governed by rules about requests.
    #[arg(long)]
    pub(crate) tls_allow_quic: bool,

    /// Intercept TLS, even without a secret.
    #[arg(long)]
    pub(crate) tls_intercept: bool,

    /// A TCP port on which TLS is intercepted, instead of 443; switches interception on. May be repeated.
    #[arg(long = "tls-intercept-port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) tls_intercept_ports: Vec<u16>,

    /// Let the guest trust the roots that the host trusts, besides its image's own: those of SSL_CERT_FILE and
    /// SSL_CERT_DIR in msb's environment, else the system's.
    #[arg(long)]
    pub(crate) trust_host_cas: bool,

    /// Set a variable in the guest, or hand on that of msb's own environment.
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,

    #[command(flatten)]
    pub(crate) program: ProgramArgs,

    /// The sandbox's name, which is its host name. Default: `sandbox`, and one that nobody has where it goes on in the
    /// background.
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// Let the sandbox go on in the background, and print its name.
    #[arg(short, long)]
    pub(crate) detach: bool,

    /// Run no command, whatever the image says: the sandbox goes on until it is ended. In the background only.
    #[arg(long, conflicts_with = "command")]
    pub(crate) no_command: bool,

    /// End the sandbox when it has been up for so long: seconds, or with m, h or d, such as 30m.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) max_duration: Option<Duration>,

    /// End the sandbox when no program that was started from outside has run in it for so long.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) idle_timeout: Option<Duration>,

    /// Virtual processors.
    #[arg(long, default_value_t = 1)]
    pub(crate) cpus: u8,

    /// Guest memory in MiB.
    #[arg(long, default_value_t = 512, value_name = "MIB")]
    pub(crate) memory: u32,

    /// Puts what the guest writes to its root on a disk of this size instead of into its memory. It ends with the guest, and
    /// takes the room on the host that is really used.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) disk: Option<u64>,

    /// Shows the guest a directory of the host; with `:ro` it may only read it. May be repeated.
    #[arg(short = 'v', long = "volume", value_name = "HOST:GUEST[:ro]", value_parser = parse_mount)]
    pub(crate) volumes: Vec<BindMount>,

    /// What runs the guest's instructions: auto, kvm or tcg.
    #[arg(long, default_value = "auto", value_name = "ACCELERATOR")]
    pub(crate) accel: AcceleratorChoice,

    /// A kernel (vmlinux with a PVH entry) instead of the store's.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,

    /// An initramfs with the agent instead of the store's.
    #[arg(long, value_name = "FILE")]
    pub(crate) initramfs: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) registry: RegistryArgs,

    /// A squashfs or ext4 file as the root file system; IMAGE is then left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) rootfs: Option<PathBuf>,

    /// The QEMU program.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) qemu: Option<PathBuf>,

    /// The image: a path that begins with `/`, `./` or `../`, of what `msb image import` takes; or a name from `msb image
    /// ls`, such as `base`; or a reference, such as `debian:12`, which is pulled if it was not before.
    #[arg(required_unless_present = "rootfs", value_name = "IMAGE")]
    pub(crate) image: Option<String>,

    /// The command and its arguments, behind the image's entrypoint if it has one. Default: what the image says.
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

impl Run {
    /// The guest's ports that are published at any free port of the host.
    pub(crate) fn ports_of_any_number(&self) -> Vec<u16> {
        let ports = self.limits.publish.iter();
        let any = ports.filter(|port| port.host.port() == 0);
        any.map(|port| port.guest_port).collect()
    }
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    pub(crate) program: ProgramArgs,

    /// Set a variable for the program, or hand on that of msb's own environment.
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,

    /// The sandbox's name.
    pub(crate) name: String,

    /// The program and its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Where to listen, as IP:PORT; with port 0 the system chooses one. The line `listening on IP:PORT` on standard
    /// output says that clients can connect.
    #[arg(long, value_name = "IP:PORT", value_parser = parse_listen)]
    pub(crate) listen: SocketAddr,

    /// How connections come here.
    #[arg(long, value_enum)]
    pub(crate) mode: Mode,

    /// Writes the certificate that clients have to trust to this file. It is made for this run, and its key is nowhere but
    /// in memory.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_out: PathBuf,

    /// The port of servers in the mode transparent.
    #[arg(long, value_name = "PORT", default_value_t = 443, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) upstream_port: u16,

    /// Allows an address to listen on that other machines can reach. Clients are not asked who they are: whoever reaches
    /// the proxy can use its secrets towards their hosts.
    #[arg(long)]
    pub(crate) allow_remote: bool,

    /// How many connections may be open at once; more are reset.
    #[arg(long, value_name = "NUMBER", default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_connections: u16,

    /// How long open connections may go on after SIGTERM or SIGINT. A second signal ends them at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub(crate) drain_timeout: u64,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// How connections come to the proxy.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Clients ask for tunnels with HTTP CONNECT, as HTTPS_PROXY makes them do, or for http:// URLs, as http_proxy does.
    Connect,
    /// TLS connections are led here by a firewall, a name server or a hosts file; the server is the one that the
    /// ClientHello names.
    Transparent,
}

impl From<Mode> for msb::ProxyMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Connect => Self::Connect,
            Mode::Transparent => Self::Transparent,
        }
    }
}

fn parse_mount(text: &str) -> Result<BindMount, String> {
    text.parse()
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "write an IP address and a port, such as 127.0.0.1:8080 or [::1]:0".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
