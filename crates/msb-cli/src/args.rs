//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use msb::AcceleratorChoice;

use crate::engine::EngineArgs;
use crate::image::ImageTask;
use crate::limits::LimitArgs;
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
    /// be executed or found, and 125 for a failure of msb itself.
    Run(Box<Run>),
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

    /// Set a variable in the guest, or hand on that of msb's own environment.
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,

    /// Hand standard input to the command.
    #[arg(short, long)]
    pub(crate) interactive: bool,

    /// The command's working directory in the guest.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,

    /// The sandbox's name, which is its host name.
    #[arg(long, default_value = "sandbox")]
    pub(crate) name: String,

    /// Virtual processors.
    #[arg(long, default_value_t = 1)]
    pub(crate) cpus: u8,

    /// Guest memory in MiB.
    #[arg(long, default_value_t = 512, value_name = "MIB")]
    pub(crate) memory: u32,

    /// What runs the guest's instructions: auto, kvm or tcg.
    #[arg(long, default_value = "auto", value_name = "ACCELERATOR")]
    pub(crate) accel: AcceleratorChoice,

    /// A kernel (vmlinux with a PVH entry) instead of the store's.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,

    /// An initramfs with the agent instead of the store's.
    #[arg(long, value_name = "FILE")]
    pub(crate) initramfs: Option<PathBuf>,

    /// A squashfs file as the root file system; IMAGE is then left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) rootfs: Option<PathBuf>,

    /// The QEMU program.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) qemu: Option<PathBuf>,

    /// The image: a name from `msb image ls`, such as `base`; or a path with a slash in it, of what `msb image import`
    /// takes, which is imported first.
    #[arg(required_unless_present = "rootfs", value_name = "IMAGE")]
    pub(crate) image: Option<String>,

    /// The command and its arguments, behind the image's entrypoint if it has one. Default: what the image says.
    #[arg(last = true, value_name = "COMMAND")]
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
