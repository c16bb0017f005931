//! The sides of a comparison: a guest each, and what connects it to the host.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use msb_net::{Addresses, DEFAULT_MTU};
use msb_testkit::{NetnsGuest, NetnsSettings};

use crate::gateway::GATEWAY;
use crate::load::LOAD;
use crate::service::{self, Iperf, Services};

/// How long a rival may take to set up its interface.
const PATIENCE: Duration = Duration::from_secs(20);
/// Kernel clock ticks a second (proc(5), `USER_HZ`).
const TICKS: f64 = 100.0;

pub(crate) struct Side {
    pub(crate) name: &'static str,
    /// Where the guest finds the host's loopback.
    pub(crate) host: IpAddr,
    guest: NetnsGuest,
    process: Process,
}

/// A process that ends with this value.
struct Process(Child);

/// A load that keeps something open. Dropping it ends it.
pub(crate) struct Held {
    process: Process,
}

impl Side {
    pub(crate) fn msb(services: &Services) -> Result<Self> {
        let Addresses {
            gateway_v4,
            gateway_v6,
            guest_v4,
            prefix_len_v4,
            guest_v6,
            prefix_len_v6,
            guest_mac,
            ..
        } = Addresses::default();
        let mut guest = NetnsGuest::start(&NetnsSettings {
            mtu: DEFAULT_MTU,
            mac: guest_mac,
            addresses: vec![
                (guest_v4.into(), prefix_len_v4),
                (guest_v6.into(), prefix_len_v6),
            ],
            gateways: vec![gateway_v4.into(), gateway_v6.into()],
            nameservers: vec![gateway_v4.into()],
        });
        let child = Command::new(std::env::current_exe()?)
            .args([GATEWAY, &services.names.to_string()])
            .stdin(guest.take_tap())
            .spawn()?;
        Ok(Self {
            name: "msb",
            host: gateway_v4.into(),
            guest,
            process: Process(child),
        })
    }

    /// passt's way into a namespace. It runs as root, without which the namespace would have to be its own.
    pub(crate) fn pasta(program: &Path) -> Result<Self> {
        let guest = NetnsGuest::unlinked(&[]);
        let namespace = fs::File::open(format!("/proc/{}/ns/net", guest.pid()))?;
        let mut command = Command::new(program);
        command
            .args(["--foreground", "--quiet", "--config-net", "--runas", "0"])
            .args(["--mtu", &DEFAULT_MTU.to_string()])
            .args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"])
            .args([
                "--netns-only",
                "--no-netns-quit",
                "--netns",
                "/proc/self/fd/0",
            ])
            .stdin(namespace);
        Self::rival("passt", guest, command, None)
    }

    pub(crate) fn slirp4netns(program: &Path) -> Result<Self> {
        let guest = NetnsGuest::unlinked(&[]);
        let mut command = Command::new(program);
        command
            .arg(format!("--mtu={DEFAULT_MTU}"))
            .args(["--configure", &guest.pid().to_string(), "tap0"])
            .stdin(Stdio::null());
        // slirp's fixed address for the host; the gateway is another.
        Self::rival("slirp4netns", guest, command, Some("10.0.2.2".parse()?))
    }

    fn rival(
        name: &'static str,
        guest: NetnsGuest,
        mut command: Command,
        host: Option<IpAddr>,
    ) -> Result<Self> {
        let log = tempfile::tempfile()?;
        command.stdout(log.try_clone()?).stderr(log.try_clone()?);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let mut process = Process(child);
        let start = Instant::now();
        let gateway = loop {
            let routes = guest.shell("ip -4 route show default");
            let mut words = routes.split(' ').skip_while(|word| *word != "via");
            if let Some(gateway) = words.nth(1) {
                break gateway.parse()?;
            }
            if let Some(status) = process.0.try_wait()? {
                bail!("{name} ended: {status}\n{}", text(log)?);
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{name} sets up no route\n{}",
                text(log)?
            );
            std::thread::sleep(Duration::from_millis(20));
        };
        Ok(Self {
            name,
            host: host.unwrap_or(gateway),
            guest,
            process,
        })
    }

    /// Bits a second through iperf3, as its receiver counts them.
    pub(crate) fn iperf(&self, seconds: u64, streams: usize, back: bool) -> Result<f64> {
        let program = std::env::var_os(service::IPERF).context("iperf3 is not installed")?;
        let server = Iperf::start()?;
        let mut command = self.guest.command(program);
        command
            .args(["--json", "--client", &self.host.to_string()])
            .args(["--port", &server.port.to_string()])
            .args(["--time", &seconds.to_string()])
            .args(["--parallel", &streams.to_string()]);
        if back {
            command.arg("--reverse");
        }
        let report: serde_json::Value = serde_json::from_slice(&command.output()?.stdout)?;
        report["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .with_context(|| format!("iperf3 against {}: {}", self.name, report["error"]))
    }

    /// Runs a load to its end; the value of `key` in what it says.
    pub(crate) fn load(&self, kind: &str, port: u16, number: u64, key: &str) -> Result<f64> {
        let output = self.load_command(kind, port, number)?.output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{kind} against {}: {said}{}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        let mut pairs = said
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='));
        let value = pairs
            .find(|(name, _)| *name == key)
            .context("no such figure")?;
        Ok(value.1.parse()?)
    }

    /// Opens so many connections and keeps them.
    pub(crate) fn hold(&self, port: u16, count: u64) -> Result<Held> {
        let child = self
            .load_command("hold", port, count)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut held = Held {
            process: Process(child),
        };
        let mut line = String::new();
        let stdout = held.process.0.stdout.take().context("no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(
            line.starts_with("open="),
            "{count} connections could not be opened"
        );
        Ok(held)
    }

    fn load_command(&self, kind: &str, port: u16, number: u64) -> Result<Command> {
        let mut command = self.guest.command(program()?);
        command
            .args([LOAD, kind, &SocketAddr::new(self.host, port).to_string()])
            .arg(number.to_string());
        Ok(command)
    }

    /// Resident memory of the process between guest and host.
    pub(crate) fn resident_kib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.context("no VmRSS")?.trim().trim_end_matches(" kB");
        Ok(number.parse()?)
    }

    /// Processor time of that process and of its children so far. What the kernel does for the guest when it is handed a frame is
    /// a part of it.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let pid = self.process.0.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let children = children.split_ascii_whitespace().map(str::parse);
        let mut seconds = 0.0;
        for pid in std::iter::once(Ok(pid)).chain(children) {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid?))?;
            // The program's name is in parentheses and may contain anything.
            let (_, fields) = stat.rsplit_once(')').context("proc(5) stat")?;
            let times = fields.split_ascii_whitespace().skip(11).take(2);
            let ticks = times.filter_map(|field| field.parse::<f64>().ok());
            seconds += ticks.sum::<f64>() / TICKS;
        }
        Ok(seconds)
    }

    /// Open descriptors of that process.
    pub(crate) fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.process.0.id()))?.count())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This program, by a path that the guest has as well.
fn program() -> Result<PathBuf> {
    Ok(std::env::current_exe()?)
}

fn text(mut log: fs::File) -> Result<String> {
    use std::io::Seek as _;

    let mut text = String::new();
    log.rewind()?;
    log.read_to_string(&mut text)?;
    Ok(text)
}
