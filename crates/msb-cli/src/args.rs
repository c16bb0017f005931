//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use msb::AcceleratorChoice;
use msb::ViolationAction;
use msb::name::HostName;

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
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// A secret for the guest as NAME@HOST[,HOST...]: the value is that of the environment variable NAME of msb, the
    /// guest's NAME holds a placeholder, and only these hosts (or `*.suffix` patterns) get the value.
    // Parsed later: clap repeats what it refuses, and a value may be in it.
    #[arg(long = "secret", value_name = "NAME@HOST[,HOST..]")]
    pub(crate) secrets: Vec<String>,

    /// What happens when a placeholder heads for a host its secret is not allowed for.
    #[arg(long, value_name = "ACTION", default_value = "block", value_parser = parse_action)]
    pub(crate) on_secret_violation: ViolationAction,

    /// What the guest may reach: a comma-separated list of public, private, host, metadata, all, none. `host` opens
    /// every service on the host, those listening on its loopback interface only included.
    #[arg(long = "net", value_name = "PROFILES", default_value = "public")]
    pub(crate) net: String,

    /// Makes a name resolve to an address in the guest, or to the host itself (`host-gateway`).
    #[arg(long = "add-host", value_name = "NAME:ADDRESS", value_parser = parse_host)]
    pub(crate) add_hosts: Vec<HostArg>,

    /// Intercept TLS, even without a secret.
    #[arg(long)]
    pub(crate) tls_intercept: bool,

    /// A TCP port on which TLS is intercepted, instead of 443; switches interception on. May be repeated.
    #[arg(long = "tls-intercept-port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) tls_intercept_ports: Vec<u16>,

    /// Hosts whose TLS is left alone: a name or `*.suffix`. May be repeated.
    #[arg(long = "tls-bypass", value_name = "PATTERN")]
    pub(crate) tls_bypass: Vec<String>,

    /// A PEM file of authorities to trust when servers are verified, besides the host's own. May be repeated.
    #[arg(long = "tls-upstream-ca-cert", value_name = "FILE")]
    pub(crate) tls_upstream_ca_certs: Vec<PathBuf>,

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

    /// The image, such as `base`.
    #[arg(required_unless_present = "rootfs", value_name = "IMAGE")]
    pub(crate) image: Option<String>,

    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// `NAME@HOST[,HOST...]`; the value stays where it is, in the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretArg {
    pub(crate) name: String,
    pub(crate) hosts: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostArg {
    pub(crate) name: String,
    pub(crate) address: msb::HostAddress,
}

pub(crate) fn parse_secret(text: &str) -> Result<SecretArg, String> {
    let (name, hosts) = text.split_once('@').unwrap_or((text, ""));
    if name.contains('=') {
        // The text holds the value: it is not repeated.
        return Err(
            "a value on the command line shows in process lists and shell history; export it as an \
             environment variable and write NAME@HOST"
                .into(),
        );
    }
    if name.is_empty() || hosts.is_empty() || hosts.split(',').any(str::is_empty) {
        return Err("write NAME@HOST[,HOST...], for example API_KEY@api.example.com".into());
    }
    Ok(SecretArg {
        name: name.to_owned(),
        hosts: hosts.split(',').map(str::to_owned).collect(),
    })
}

fn parse_action(text: &str) -> Result<ViolationAction, String> {
    match text {
        "block" => Ok(ViolationAction::Block),
        "block-and-log" => Ok(ViolationAction::BlockAndLog),
        "block-and-terminate" => Ok(ViolationAction::BlockAndTerminate),
        _ => Err("use block, block-and-log or block-and-terminate".into()),
    }
}

fn parse_host(text: &str) -> Result<HostArg, String> {
    let (name, address) = text
        .split_once(':')
        .ok_or("write NAME:ADDRESS or NAME:host-gateway")?;
    HostName::parse(name).map_err(|error| error.to_string())?;
    let bare = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    let address = match bare {
        "host-gateway" => msb::HostAddress::HostGateway,
        _ => msb::HostAddress::Ip(
            bare.parse()
                .map_err(|_| format!("{address:?} is neither an IP address nor host-gateway"))?,
        ),
    };
    Ok(HostArg {
        name: name.to_owned(),
        address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn secrets_parse_or_say_what_to_write() {
        for (text, expected) in [
            ("KEY@a.example", Some(vec!["a.example"])),
            (
                "KEY@a.example,*.b.example",
                Some(vec!["a.example", "*.b.example"]),
            ),
            ("KEY", None),
            ("KEY@", None),
            ("@a.example", None),
            ("KEY@a.example,", None),
            ("KEY=value@a.example", None),
            ("KEY=a@b.example", None),
        ] {
            let hosts = parse_secret(text).ok().map(|secret| secret.hosts);
            let expected = expected.map(|hosts| hosts.into_iter().map(str::to_owned).collect());
            assert_eq!(hosts, expected, "{text}");
        }
    }

    #[test]
    fn a_value_on_the_command_line_is_refused_and_not_repeated() {
        for text in ["KEY=sk-canary@a.example", "KEY=sk-canary", "sk-canary"] {
            let error = parse_secret(text).expect_err("refused");
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn added_hosts_parse_or_say_what_to_write() {
        let ip = |text: &str| Some(msb::HostAddress::Ip(text.parse().expect("an address")));
        for (text, expected) in [
            (
                "a.example:host-gateway",
                Some(msb::HostAddress::HostGateway),
            ),
            ("a.example:192.0.2.1", ip("192.0.2.1")),
            ("a.example:2001:db8::1", ip("2001:db8::1")),
            ("a.example:[2001:db8::1]", ip("2001:db8::1")),
            ("a.example", None),
            ("a.example:", None),
            ("a example:192.0.2.1", None),
            (":192.0.2.1", None),
        ] {
            let address = parse_host(text).ok().map(|host| host.address);
            assert_eq!(address, expected, "{text}");
        }
    }
}
