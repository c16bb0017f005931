//! The sides of a comparison: msb, its rivals, and no proxy.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::lab::{Lab, NAME, PLACEHOLDER, Process, VALUE, beside};

/// What `msb` runs with, and so the others.
pub(crate) const WORKERS: usize = 2;
/// Kernel clock ticks a second (proc(5), `USER_HZ`).
const TICKS: f64 = 100.0;

pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) ca: PathBuf,
    /// Whether it is asked by CONNECT.
    pub(crate) connect: bool,
    /// Whether it puts the value in the placeholder's place.
    pub(crate) replaces: bool,
    process: Option<Process>,
}

/// Programs to compare with, as `cargo xtask bench` has found or built them.
pub(crate) struct Rivals {
    hudsucker: Option<PathBuf>,
    mitmdump: Option<PathBuf>,
    nginx: Option<PathBuf>,
}

impl Proxy {
    pub(crate) fn direct(lab: &Lab) -> Self {
        Self {
            name: "nothing",
            address: lab.origin,
            ca: lab.file("root.pem"),
            connect: false,
            replaces: false,
            process: None,
        }
    }

    pub(crate) fn msb_connect(lab: &Lab) -> Result<Self> {
        Self::msb(lab, "connect")
    }

    pub(crate) fn msb_transparent(lab: &Lab) -> Result<Self> {
        Self::msb(lab, "transparent")
    }

    fn msb(lab: &Lab, mode: &str) -> Result<Self> {
        let ca = lab.file(&format!("msb-{mode}.pem"));
        let mut command = Command::new(beside("msb")?);
        command
            .args([
                "proxy",
                "--listen",
                "127.0.0.1:0",
                "--mode",
                mode,
                "--max-connections",
                "20000",
            ])
            .arg("--ca-out")
            .arg(&ca)
            .arg("--tls-upstream-ca-cert")
            .arg(lab.file("root.pem"))
            .args([
                "--secret",
                &format!("BENCH_KEY@{NAME}"),
                "--add-host",
                &format!("{NAME}:127.0.0.1:{}", lab.origin.port()),
            ])
            .env("BENCH_KEY", VALUE);
        if mode == "transparent" {
            command.args(["--upstream-port", &lab.origin.port().to_string()]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().context("no output")?);
        let process = Process(child);
        stdout.read_line(&mut line)?;
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .context("msb proxy did not start")?;
        Ok(Self {
            name: "msb",
            address: address.parse()?,
            ca,
            connect: mode == "connect",
            replaces: true,
            process: Some(process),
        })
    }

    /// Processor time of the process and its children so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let mut ticks = 0.0;
        for pid in self.processes()? {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let (_, fields) = stat.rsplit_once(')').context("proc(5) stat")?;
            let times = fields.split_ascii_whitespace().skip(11).take(2);
            ticks += times
                .filter_map(|field| field.parse::<f64>().ok())
                .sum::<f64>();
        }
        Ok(ticks / TICKS)
    }

    /// Resident memory of the process and its children.
    pub(crate) fn resident_kib(&self) -> Result<f64> {
        let mut all = 0.0;
        for pid in self.processes()? {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))
                .context("no VmRSS")?;
            all += line.trim().trim_end_matches(" kB").parse::<f64>()?;
        }
        Ok(all)
    }

    fn processes(&self) -> Result<Vec<u32>> {
        let Some(Process(child)) = &self.process else {
            return Ok(Vec::new());
        };
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()))?;
        let children = children
            .split_ascii_whitespace()
            .map(str::parse)
            .collect::<Result<Vec<u32>, _>>()?;
        Ok([child.id()].into_iter().chain(children).collect())
    }
}

impl Rivals {
    pub(crate) fn find() -> Self {
        let given = |variable: &str| {
            std::env::var_os(variable)
                .map(PathBuf::from)
                .filter(|path| path.is_file())
        };
        Self {
            hudsucker: given("MSB_BENCH_HUDSUCKER"),
            mitmdump: given("MSB_BENCH_MITMDUMP"),
            nginx: given("MSB_BENCH_NGINX"),
        }
    }

    pub(crate) fn hudsucker(&self, lab: &Lab) -> Option<Result<Proxy>> {
        let program = self.hudsucker.as_ref()?;
        Some(start("hudsucker", lab, true, |address| {
            let mut command = Command::new(program);
            command
                .arg(address.to_string())
                .args(["rival.pem", "rival.key", "root.pem"].map(|file| lab.file(file)));
            command
                .args([PLACEHOLDER, VALUE])
                .env("TOKIO_WORKER_THREADS", WORKERS.to_string());
            Ok(command)
        }))
    }

    pub(crate) fn mitmdump(&self, lab: &Lab) -> Option<Result<Proxy>> {
        let program = self.mitmdump.as_ref()?;
        Some(start("mitmdump", lab, true, |address| {
            let confdir = lab.file("mitmproxy");
            fs::create_dir_all(&confdir)?;
            let both = [
                fs::read(lab.file("rival.key"))?,
                fs::read(lab.file("rival.pem"))?,
            ]
            .concat();
            fs::write(confdir.join("mitmproxy-ca.pem"), both)?;
            let mut command = Command::new(program);
            command.args([
                "--quiet",
                "--listen-host",
                "127.0.0.1",
                "--listen-port",
                &address.port().to_string(),
            ]);
            command
                .arg("--set")
                .arg(format!("confdir={}", confdir.display()));
            command.arg("--set").arg(format!(
                "ssl_verify_upstream_trusted_ca={}",
                lab.file("root.pem").display()
            ));
            command.args([
                "--modify-headers",
                &format!("|~q|authorization|Bearer {VALUE}"),
            ]);
            Ok(command)
        }))
    }

    /// nginx as a server with TLS to both sides, which sets the header itself.
    pub(crate) fn nginx(&self, lab: &Lab) -> Option<Result<Proxy>> {
        let program = self.nginx.as_ref()?;
        Some(start("nginx", lab, false, |address| {
            let prefix = lab.dir.path().join(format!("nginx-{}", address.port()));
            fs::create_dir_all(&prefix)?;
            let path = |file: &str| lab.file(file).display().to_string();
            let config = include_str!("nginx.conf")
                .replace("@WORKERS@", &WORKERS.to_string())
                .replace("@ADDRESS@", &address.to_string())
                .replace("@ORIGIN@", &lab.origin.to_string())
                .replace("@CERTIFICATE@", &path("front.pem"))
                .replace("@KEY@", &path("front.key"))
                .replace("@ROOTS@", &path("root.pem"))
                .replace("@NAME@", NAME)
                .replace("@VALUE@", VALUE);
            fs::write(prefix.join("nginx.conf"), config)?;
            let mut command = Command::new(program);
            command
                .arg("-p")
                .arg(&prefix)
                .arg("-c")
                .arg(prefix.join("nginx.conf"))
                .args(["-e", "stderr"]);
            Ok(command)
        }))
    }
}

/// Starts a rival on a free port and waits until it accepts connections.
fn start(
    name: &'static str,
    lab: &Lab,
    connect: bool,
    command: impl FnOnce(SocketAddr) -> Result<Command>,
) -> Result<Proxy> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let child = command(address)?
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let mut process = Process(child);
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        if let Some(status) = process.0.try_wait()? {
            bail!("{name} ended: {status}");
        }
        if start.elapsed() > PATIENCE {
            bail!("{name} does not listen on {address}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(Proxy {
        name,
        address,
        ca: lab.file("rival.pem"),
        connect,
        replaces: connect,
        process: Some(process),
    })
}
