//! The files, the origin and the load generator that all sides share.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use msb_benches::{Running, origin};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustix::process::{Pid, Signal};

use crate::sides::Proxy;

/// The only name in use: every tool resolves it to the loopback interface.
pub(crate) const NAME: &str = "localhost";
pub(crate) const VALUE: &str = "the-real-value-of-the-key-0123456789";
pub(crate) const PLACEHOLDER: &str = "$MSB_BENCH_KEY";
/// Tells this program to be the origin.
pub(crate) const ORIGIN: &str = "--origin";
/// How long connections are left alone before they count as idle.
const UNTIL_IDLE: Duration = Duration::from_secs(5);
/// One run of the load generator; the transfer of 1 GiB is the longest.
const LIMIT: Duration = Duration::from_secs(180);

pub(crate) struct Lab {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) origin: SocketAddr,
    _origin: Process,
}

/// One run of the load generator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Per second: requests, connections, or MiB.
    pub(crate) rate: f64,
    pub(crate) p50_micros: f64,
    /// Processor seconds of the proxy for each request, connection or byte.
    pub(crate) cpu_per_unit: f64,
}

/// A process that ends with this one.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    /// Asks first, for nginx ends its own processes only then.
    fn drop(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        // All of it fails only when the process has ended.
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        let start = Instant::now();
        while start.elapsed() < PATIENCE && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Lab {
    pub(crate) fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let root = Authority::new("bench root")?;
        root.write(dir.path(), "root")?;
        // hudsucker, mitmdump and nginx sign with, or serve from, these; msb makes its own.
        let rival = Authority::new("bench rival")?;
        rival.write(dir.path(), "rival")?;
        root.issue(dir.path(), "origin")?;
        rival.issue(dir.path(), "front")?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg(ORIGIN)
            .args(["origin.pem", "origin.key"].map(|file| dir.path().join(file)))
            .arg(format!("authorization: Bearer {VALUE}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let process = Process(child);
        let origin = line.trim().parse().context("the origin did not start")?;
        Ok(Self {
            dir,
            origin,
            _origin: process,
        })
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, proxy: &Proxy) -> Result<Command> {
        let mut command = Command::new(beside("load")?);
        let header = if proxy.replaces { PLACEHOLDER } else { VALUE };
        let connect = proxy
            .connect
            .then(|| format!("connect={NAME}:{}", self.origin.port()));
        command.args(connect);
        command
            .arg(format!("address={}", proxy.address))
            .arg(format!("name={NAME}"));
        command
            .arg(format!("ca={}", proxy.ca.display()))
            .arg(format!("header=Authorization: Bearer {header}"));
        Ok(command)
    }

    /// One run of the load generator through `proxy`: its mode, then its settings.
    pub(crate) fn load(&self, proxy: &Proxy, load: &[String]) -> Result<Sample> {
        let [mode, settings @ ..] = load else {
            bail!("no mode");
        };
        let template = self.command(proxy)?;
        let mut command = Command::new(template.get_program());
        command.arg(mode).args(settings).args(template.get_args());
        let before = proxy.cpu_seconds()?;
        let finished = Running::start(&mut command)?.finish(LIMIT)?;
        let cpu = proxy.cpu_seconds()? - before;
        ensure!(
            finished.status.success(),
            "load through {}: {}",
            proxy.name,
            finished.stderr.trim()
        );
        let value = |key: &str| -> Option<f64> {
            let mut pairs = finished
                .stdout
                .split_whitespace()
                .filter_map(|pair| pair.split_once('='));
            pairs.find(|(name, _)| *name == key)?.1.parse().ok()
        };
        let units = value("count")
            .or_else(|| value("bytes"))
            .context("no count")?;
        Ok(Sample {
            rate: value("rate").context("no rate")?,
            p50_micros: value("p50_us").unwrap_or(f64::NAN),
            cpu_per_unit: cpu / units,
        })
    }

    /// The proxy's resident memory while `connections` idle.
    pub(crate) fn idle(&self, proxy: &Proxy, connections: usize) -> Result<f64> {
        let template = self.command(proxy)?;
        let mut command = Command::new(template.get_program());
        command
            .arg("idle")
            .arg(format!("connections={connections}"))
            .arg("path=/small")
            .args(template.get_args());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let mut stderr = BufReader::new(child.stderr.take().context("no output")?);
        let mut process = Process(child);
        stderr.read_line(&mut line)?;
        if line.trim() != "open" {
            stderr.read_to_string(&mut line)?;
            bail!("idle connections through {}: {}", proxy.name, line.trim());
        }
        // The last ones idle no longer than they took to be opened.
        std::thread::sleep(UNTIL_IDLE);
        let during = proxy.resident_kib()?;
        drop(process.0.stdin.take());
        process.0.wait()?;
        Ok(during)
    }
}

/// A program that cargo has put beside this one.
pub(crate) fn beside(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(
        path.is_file(),
        "{} is missing: run this through `cargo xtask bench`",
        path.display()
    );
    Ok(path)
}

pub(crate) fn serve_origin(args: &[String]) -> Result<()> {
    let [certificate, key, expected] = args else {
        bail!("write CERTIFICATE KEY HEADER");
    };
    origin::serve(
        Path::new(certificate),
        Path::new(key),
        expected,
        |address| println!("{address}"),
    )
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    fn write(&self, dir: &Path, name: &str) -> Result<()> {
        fs::write(dir.join(format!("{name}.pem")), self.certificate.pem())?;
        Ok(fs::write(
            dir.join(format!("{name}.key")),
            self.issuer.key().serialize_pem(),
        )?)
    }

    /// A server certificate for [`NAME`].
    fn issue(&self, dir: &Path, name: &str) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![NAME.to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(dir.join(format!("{name}.pem")), certificate.pem())?;
        Ok(fs::write(
            dir.join(format!("{name}.key")),
            key.serialize_pem(),
        )?)
    }
}
