//! Origins that others wrote: nginx, HAProxy, gRPC's own server, the one of `websockets`.

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use msb_testkit::{CertificateKind, TestRoot};

use crate::case::Tool;
use crate::lab::{
    self, GRPC, HAPROXY, HOSTS, Lab, MQTT, NGINX, REDIS, REVERSING, SMTP, WEBSOCKET, WEBSOCKET_H2,
};
use crate::process::{self, Running};

const START: Duration = Duration::from_secs(30);

const NGINX_CONF: &str = include_str!("../servers/nginx.conf");
const HAPROXY_CONF: &str = include_str!("../servers/haproxy.cfg");
const MOSQUITTO_CONF: &str = include_str!("../servers/mosquitto.conf");
const GRPC_SERVER: &str = include_str!("../servers/grpc_server.py");
const WEBSOCKET_SERVER: &str = include_str!("../servers/websocket_server.py");
const WEBSOCKET_H2_SERVER: &str = include_str!("../servers/websocket_h2_server.mjs");

/// The servers that run.
#[derive(Default)]
pub(crate) struct Servers(Vec<Server>);

struct Server {
    host: &'static str,
    tool: Tool,
    _running: Option<Running>,
}

impl Servers {
    /// Names and versions.
    pub(crate) fn text(&self) -> String {
        let names = self.0.iter().map(|server| match &server.tool.version {
            Ok(version) => format!("{} {version}", server.tool.name),
            Err(_) => format!("no {}", server.tool.name),
        });
        names.collect::<Vec<_>>().join(", ")
    }

    /// Why nothing serves `host`.
    pub(crate) fn without(&self, host: &str) -> Option<String> {
        let port = lab::address(host).port();
        let same = |server: &&Server| lab::address(server.host).port() == port;
        self.0.iter().find(same)?.tool.version.clone().err()
    }
}

/// Starts all there are.
pub(crate) fn start(lab: &Lab, root: &TestRoot) -> Result<Servers> {
    let names: Vec<&str> = HOSTS.iter().map(|(name, _)| *name).collect();
    let (chain, key) = root.issue(&names, CertificateKind::Good);
    let mut pem: String = chain.iter().map(|der| block("CERTIFICATE", der)).collect();
    pem += &block("PRIVATE KEY", key.secret_der());
    for (name, text) in [
        ("server.pem", pem.as_str()),
        ("nginx.conf", NGINX_CONF),
        ("haproxy.cfg", HAPROXY_CONF),
        ("mosquitto.conf", MOSQUITTO_CONF),
        ("grpc_server.py", GRPC_SERVER),
        ("websocket_server.py", WEBSOCKET_SERVER),
        ("websocket_h2_server.mjs", WEBSOCKET_H2_SERVER),
    ] {
        fs::write(lab.path(name), text)?;
    }
    let (python, dir) = (lab.python(), lab.path("").display().to_string());
    let nginx = ["nginx", "-p", &dir, "-e", "stderr", "-c", "nginx.conf"];
    let haproxy = ["haproxy", "-db", "-f", "haproxy.cfg"];
    let script = |program: &str, name: &str, host| {
        let port = lab::address(host).port().to_string();
        [program.to_owned(), name.to_owned(), port]
    };
    let grpc = script(&python, "grpc_server.py", GRPC);
    let websocket = script(&python, "websocket_server.py", WEBSOCKET);
    let websocket_h2 = script("node", "websocket_h2_server.mjs", WEBSOCKET_H2);
    let (redis, aiosmtpd, openssl) = (redis(), aiosmtpd(&python), openssl());
    let mosquitto = ["mosquitto", "-c", "mosquitto.conf"];
    let servers = [
        (NGINX, lab.tool("nginx", &["nginx", "-v"]), words(&nginx)),
        (
            HAPROXY,
            lab.tool("HAProxy", &["haproxy", "-v"]),
            words(&haproxy),
        ),
        (GRPC, lab.python_tool("grpcio", "grpcio"), words(&grpc)),
        (
            WEBSOCKET,
            lab.python_tool("websockets", "websockets"),
            words(&websocket),
        ),
        (
            WEBSOCKET_H2,
            lab.tool("Node http2", &["node", "--version"]),
            words(&websocket_h2),
        ),
        (
            REDIS,
            lab.tool("Redis", &["redis-server", "--version"]),
            redis,
        ),
        (
            MQTT,
            lab.tool("Mosquitto", &["mosquitto", "-h"]),
            words(&mosquitto),
        ),
        (SMTP, lab.python_tool("aiosmtpd", "aiosmtpd"), aiosmtpd),
        (
            REVERSING,
            lab.tool("openssl s_server", &["openssl", "version"]),
            openssl,
        ),
    ];
    let mut started = Vec::new();
    for (host, tool, line) in servers {
        let running = match &tool.version {
            Ok(_) => Some(listen(lab, host, &line)?),
            Err(_) => None,
        };
        started.push(Server {
            host,
            tool,
            _running: running,
        });
    }
    Ok(Servers(started))
}

fn redis() -> Vec<String> {
    let port = lab::address(REDIS).port().to_string();
    words(&[
        "redis-server",
        "--bind",
        "127.0.0.1",
        "--port",
        "0",
        "--tls-port",
        &port,
        "--tls-cert-file",
        "server.pem",
        "--tls-key-file",
        "server.pem",
        "--tls-auth-clients",
        "no",
        "--save",
        "",
    ])
}

/// Speaks TLS from the first byte, and writes down the messages it gets.
fn aiosmtpd(python: &str) -> Vec<String> {
    let address = lab::address(SMTP).to_string();
    words(&[
        python,
        "-u",
        "-m",
        "aiosmtpd",
        "--nosetuid",
        "--listen",
        &address,
        "--smtpscert",
        "server.pem",
        "--smtpskey",
        "server.pem",
        "--class",
        "aiosmtpd.handlers.Debugging",
        "stdout",
    ])
}

fn openssl() -> Vec<String> {
    let address = lab::address(REVERSING).to_string();
    words(&[
        "openssl",
        "s_server",
        "-rev",
        "-accept",
        &address,
        "-cert",
        "server.pem",
        "-cert_chain",
        "server.pem",
        "-key",
        "server.pem",
    ])
}

fn words(line: &[impl AsRef<str>]) -> Vec<String> {
    line.iter().map(|word| word.as_ref().to_owned()).collect()
}

fn listen(lab: &Lab, host: &str, line: &[String]) -> Result<Running> {
    let (program, args) = line.split_first().context("no program")?;
    let (address, log) = (lab::address(host), lab.path(&format!("{host}.out")));
    let mut running = Running::start(lab.command(program).args(args), &log)?;
    process::wait_for(host, START, || {
        TcpStream::connect(address).is_ok() || running.has_ended()
    })?;
    if running.has_ended() {
        bail!("the server for {host} ended: {}", fs::read_to_string(log)?);
    }
    Ok(running)
}

/// PEM (RFC 7468).
fn block(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}
