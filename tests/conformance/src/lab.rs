//! Everything the cases need: origins, proxies, certificates and where programs are.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use msb_testkit::{CertificateKind, TestRoot};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::case::{Mode, Tool};
use crate::namespace;
use crate::origin;
use crate::process::{self, Finished, Running};
use crate::record::{Log, Record};
use crate::servers::{self, Servers};

/// The host of our own origin, for which the secret is.
pub(crate) const API: &str = "api.test";
/// The same origin, under a name the secret is not for.
pub(crate) const OTHER: &str = "other.test";
/// An origin whose certificate nobody signed but itself.
pub(crate) const UNTRUSTED: &str = "untrusted.test";
pub(crate) const NGINX: &str = "nginx.test";
pub(crate) const HAPROXY: &str = "haproxy.test";
pub(crate) const GRPC: &str = "grpc.test";
pub(crate) const OTHER_GRPC: &str = "other-grpc.test";
pub(crate) const WEBSOCKET: &str = "websocket.test";
pub(crate) const OTHER_WEBSOCKET: &str = "other-websocket.test";

pub(crate) const WEBSOCKET_H2: &str = "websocket-h2.test";
pub(crate) const OTHER_WEBSOCKET_H2: &str = "other-websocket-h2.test";
pub(crate) const REDIS: &str = "redis.test";
pub(crate) const OTHER_REDIS: &str = "other-redis.test";
pub(crate) const MQTT: &str = "mqtt.test";
pub(crate) const OTHER_MQTT: &str = "other-mqtt.test";
pub(crate) const SMTP: &str = "smtp.test";
pub(crate) const OTHER_SMTP: &str = "other-smtp.test";
/// Sends every line back reversed.
pub(crate) const REVERSING: &str = "reversing.test";

/// Where each host is. Nothing else is in this network, so the ports are free.
pub(crate) const HOSTS: &[(&str, u16)] = &[
    (API, 8001),
    (OTHER, 8001),
    (UNTRUSTED, 8002),
    (NGINX, 8003),
    (HAPROXY, 8004),
    (GRPC, 8005),
    (OTHER_GRPC, 8005),
    (WEBSOCKET, 8006),
    (OTHER_WEBSOCKET, 8006),
    (WEBSOCKET_H2, 8007),
    (OTHER_WEBSOCKET_H2, 8007),
    (REDIS, 8008),
    (OTHER_REDIS, 8008),
    (MQTT, 8009),
    (OTHER_MQTT, 8009),
    (SMTP, 8010),
    (OTHER_SMTP, 8010),
    (REVERSING, 8011),
];

/// Those the secret is for.
const ALLOWED: &[&str] = &[
    API,
    NGINX,
    HAPROXY,
    GRPC,
    WEBSOCKET,
    WEBSOCKET_H2,
    REDIS,
    MQTT,
    SMTP,
];

/// Has to be escaped in JSON, queries and forms.
pub(crate) const VALUE: &str = "sk-\"live\"&a=b+c/d";
pub(crate) const PLACEHOLDER: &str = "$MSB_API_KEY";

pub(crate) const CONNECT: &str = "127.0.0.1:3128";
/// All names lead here.
pub(crate) const TRANSPARENT: &str = "127.0.0.2:443";

/// No client takes this long for what it is asked.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// A server on a busy machine takes some seconds to start.
const START: Duration = Duration::from_secs(60);

/// The running setting. Dropping it ends all of it.
pub(crate) struct Lab {
    dir: TempDir,
    pub(crate) tools: PathBuf,
    /// What our own origin received.
    pub(crate) log: Log,
    servers: Servers,
    _proxies: Vec<Running>,
}

impl Lab {
    /// Starts origins, then proxies.
    pub(crate) fn start(runtime: &Runtime, tools: &Path, msb: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("msb-conformance-")
            .tempdir()?;
        let root = TestRoot::new();
        fs::write(dir.path().join("root.pem"), root.pem())?;
        write_hosts(&dir.path().join("hosts"))?;
        let log = Log::default();
        for (host, kind) in [
            (API, CertificateKind::Good),
            (UNTRUSTED, CertificateKind::SelfSigned),
        ] {
            let config = origin::tls(root.server(&[API, OTHER, UNTRUSTED], kind));
            let repositories = dir.path().join("git");
            fs::create_dir_all(&repositories)?;
            runtime.block_on(origin::start(
                address(host),
                Arc::new(config),
                log.clone(),
                repositories,
            ))?;
        }
        let mut lab = Self {
            tools: tools.to_owned(),
            log,
            servers: Servers::default(),
            _proxies: Vec::new(),
            dir,
        };
        lab.servers = servers::start(&lab, &root)?;
        lab._proxies = vec![
            lab.proxy(msb, Mode::Connect, CONNECT)?,
            lab.proxy(msb, Mode::Transparent, TRANSPARENT)?,
        ];
        let authorities =
            ["connect.pem", "transparent.pem"].map(|name| fs::read_to_string(lab.path(name)));
        let [connect, transparent] = authorities;
        fs::write(lab.trust(), connect? + &transparent?)?;
        Ok(lab)
    }

    fn proxy(&self, msb: &Path, mode: Mode, listen: &str) -> Result<Running> {
        let mut command = Command::new(msb);
        command
            .args(["proxy", "--listen", listen, "--mode", &mode.to_string()])
            .args([
                "--ca-out",
                &format!("{mode}.pem"),
                "--events",
                &format!("{mode}.events"),
            ])
            .args(["--tls-upstream-ca-cert", "root.pem", "--net", "none"])
            .args(["--secret", &format!("API_KEY@{}", ALLOWED.join(","))])
            .args(["--secret-inject", "API_KEY=headers,basic,query,body"])
            .current_dir(self.dir.path())
            .env("API_KEY", VALUE);
        for (host, port) in HOSTS {
            command
                .arg("--add-host")
                .arg(format!("{host}:127.0.0.1:{port}"));
        }
        let log = self.path(&format!("{mode}.log"));
        let mut proxy = Running::start(&mut command, &log)?;
        let said = || fs::read_to_string(&log).unwrap_or_default();
        process::wait_for("the proxy listens", START, || {
            said().contains("listening on") || proxy.has_ended()
        })?;
        if proxy.has_ended() {
            anyhow::bail!("msb proxy did not start: {}", said());
        }
        Ok(proxy)
    }

    /// A file of this run.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file that several cases need; each writes the same.
    pub(crate) fn write_once(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        if !path.exists() {
            // Another case may be reading it.
            let new = tempfile::NamedTempFile::new_in(self.dir.path())?;
            fs::write(new.path(), text)?;
            new.persist(path)?;
        }
        Ok(())
    }

    /// What clients trust: the proxies' authorities.
    pub(crate) fn trust(&self) -> PathBuf {
        self.path("trust.pem")
    }

    /// The program, with an environment that says nothing about certificates and proxies.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", self.search_path())
            .env("HOME", self.dir.path())
            .env("LC_ALL", "C.UTF-8")
            .current_dir(self.dir.path());
        command
    }

    fn search_path(&self) -> std::ffi::OsString {
        let own = [self.tools.join("venv/bin"), self.tools.join("bin")];
        let path = std::env::var_os("PATH").unwrap_or_default();
        let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        let all = own
            .into_iter()
            .chain(std::env::split_paths(&path))
            .chain(system);
        std::env::join_paths(all).unwrap_or(path)
    }

    /// The tool with the version its command line `asked` tells.
    pub(crate) fn tool(&self, name: &'static str, asked: &[&str]) -> Tool {
        let (program, args) = asked.split_first().unwrap_or((&"", &[]));
        let missing = || format!("{name} is not there");
        let version = process::run(self.command(program).args(args), b"", LIMIT)
            .ok()
            .and_then(|finished| version(&finished))
            .ok_or_else(missing);
        Tool { name, version }
    }

    /// A package of PyPI.
    pub(crate) fn python_tool(&self, name: &'static str, package: &str) -> Tool {
        let code = format!("import importlib.metadata as m; print(m.version('{package}'))");
        self.tool(name, &[&self.python(), "-c", &code])
    }

    pub(crate) fn python(&self) -> String {
        self.tools.join("venv/bin/python").display().to_string()
    }

    /// Requests that the origin at `host` got with `id` in the target.
    pub(crate) fn received(&self, host: &str, id: &str) -> Vec<Record> {
        let file = match host {
            NGINX => "nginx.log".to_owned(),
            HAPROXY => format!("{HAPROXY}.out"),
            GRPC | OTHER_GRPC => format!("{GRPC}.out"),
            WEBSOCKET | OTHER_WEBSOCKET => format!("{WEBSOCKET}.out"),
            WEBSOCKET_H2 | OTHER_WEBSOCKET_H2 => format!("{WEBSOCKET_H2}.out"),
            _ => return self.log.of(id),
        };
        let text = fs::read_to_string(self.path(&file)).unwrap_or_default();
        let records = text.lines().filter_map(Record::from_json);
        records
            .filter(|record| record.target.contains(id))
            .collect()
    }

    /// Foreign servers and their versions.
    pub(crate) fn servers(&self) -> String {
        self.servers.text()
    }

    /// Why the server behind `host` is not there.
    pub(crate) fn without(&self, host: &str) -> Option<String> {
        self.servers.without(host)
    }
}

/// Where the origin of `host` listens.
pub(crate) fn address(host: &str) -> SocketAddr {
    let found = HOSTS.iter().find(|(name, _)| *name == host);
    (
        std::net::Ipv4Addr::LOCALHOST,
        found.map_or(0, |(_, port)| *port),
    )
        .into()
}

fn write_hosts(file: &Path) -> Result<()> {
    let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    for (host, _) in HOSTS {
        text += &format!("127.0.0.2 {host}\n");
    }
    fs::write(file, text)?;
    namespace::use_hosts(file).context("no hosts file of our own")
}

/// The first thing that looks like a version: digits with dots between.
fn version(finished: &Finished) -> Option<String> {
    let said = finished.said();
    said.split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .map(|word| word.trim_matches('.'))
        .find(|word| word.contains('.'))
        .map(str::to_owned)
}
