//! Programs with a command line of their own.

use std::process::Command;

use anyhow::Result;

use super::{BOTH, Client};
use crate::case::{Case, Mode, Protocol};
use crate::check::{ALL, Place, Send};
use crate::lab::{CONNECT, LIMIT, Lab};
use crate::process;
use crate::request::{Answer, Request};

pub(super) fn add(lab: &Lab, rows: &mut Vec<Case>) {
    for protocol in [Protocol::H1, Protocol::H2] {
        let client = Client {
            tool: lab.tool("curl", &["curl", "--version"]),
            protocol,
            modes: BOTH,
            places: ALL,
            foreign_origins: true,
            send: OneShot(curl),
        };
        client.add(lab, rows);
    }
    let wget = Client {
        tool: lab.tool("wget", &["wget", "--version"]),
        protocol: Protocol::H1,
        modes: BOTH,
        places: ALL,
        foreign_origins: false,
        send: OneShot(wget),
    };
    wget.add(lab, rows);
    let openssl = Client {
        tool: lab.tool("openssl s_client", &["openssl", "version"]),
        protocol: Protocol::H1,
        modes: BOTH,
        places: ALL,
        foreign_origins: false,
        send: OneShot(openssl),
    };
    openssl.add(lab, rows);
    let gnutls = Client {
        tool: lab.tool("gnutls-cli", &["gnutls-cli", "--version"]),
        protocol: Protocol::H1,
        modes: &[Mode::Transparent],
        places: ALL,
        foreign_origins: false,
        send: OneShot(gnutls),
    };
    gnutls.add(lab, rows);
    let nghttp = Client {
        tool: lab.tool("nghttp", &["nghttp", "--version"]),
        protocol: Protocol::H2,
        modes: &[Mode::Transparent],
        places: &[Place::Header, Place::Query],
        foreign_origins: true,
        send: OneShot(nghttp),
    };
    nghttp.add(lab, rows);
}

/// A program that is started for each request.
#[derive(Clone, Copy)]
struct OneShot(fn(&Lab, Mode, Protocol, &Request) -> Result<Answer>);

impl Send for OneShot {
    fn send(
        &self,
        lab: &Lab,
        mode: Mode,
        protocol: Protocol,
        requests: &[Request],
    ) -> Result<Vec<Answer>> {
        let send = |request| (self.0)(lab, mode, protocol, request);
        requests.iter().map(send).collect()
    }
}

fn curl(lab: &Lab, mode: Mode, protocol: Protocol, request: &Request) -> Result<Answer> {
    let mut command = lab.command("curl");
    command.args(["--silent", "--show-error", "--max-time", "40", "--cacert"]);
    command.arg(lab.trust());
    command.args(["--request", request.method]);
    command.args(["--write-out", "\n%{http_version} %{http_code}"]);
    command.arg(match protocol {
        Protocol::H2 => "--http2",
        _ => "--http1.1",
    });
    if mode == Mode::Connect {
        command.args(["--proxy", &format!("http://{CONNECT}")]);
    }
    for (name, value) in &request.headers {
        command.args(["--header", &format!("{name}: {value}")]);
    }
    if let Some(body) = &request.body {
        command.args(["--data-binary", body]);
    }
    let ended = process::run(command.arg(request.url()), b"", LIMIT)?;
    let told = ended.stdout.rsplit_once('\n');
    let parsed = told.and_then(|(body, told)| {
        let (version, status) = told.split_once(' ')?;
        let status = status.parse().ok().filter(|_| ended.success)?;
        Some(Answer::Status {
            status,
            version: version.to_owned(),
            body: body.to_owned(),
        })
    });
    Ok(parsed.unwrap_or_else(|| Answer::Broken(ended.said())))
}

fn wget(lab: &Lab, mode: Mode, _: Protocol, request: &Request) -> Result<Answer> {
    let mut command = lab.command("wget");
    command.args([
        "--no-config",
        "--quiet",
        "--save-headers",
        "--content-on-error",
    ]);
    command.args(["--tries=1", "--timeout=40", "--output-document=-"]);
    command.arg(format!("--ca-certificate={}", lab.trust().display()));
    command.arg(format!("--method={}", request.method));
    if mode == Mode::Connect {
        command.env("https_proxy", format!("http://{CONNECT}"));
    }
    for (name, value) in &request.headers {
        command.arg(format!("--header={name}: {value}"));
    }
    if let Some(body) = &request.body {
        command.arg(format!("--body-data={body}"));
    }
    let ended = process::run(command.arg(request.url()), b"", LIMIT)?;
    Ok(match Answer::from_http1(&ended.stdout) {
        Answer::Broken(_) => Answer::Broken(ended.said()),
        answer => answer,
    })
}

fn openssl(lab: &Lab, mode: Mode, _: Protocol, request: &Request) -> Result<Answer> {
    let mut command = lab.command("openssl");
    command.args(["s_client", "-ign_eof", "-verify_return_error", "-CAfile"]);
    command.arg(lab.trust());
    command.args([
        "-servername",
        request.host,
        "-verify_hostname",
        request.host,
    ]);
    command.args([
        "-connect",
        &format!("{}:443", request.host),
        "-alpn",
        "http/1.1",
    ]);
    if mode == Mode::Connect {
        command.args(["-proxy", CONNECT]);
    }
    http1(&mut command, request)
}

fn gnutls(lab: &Lab, _: Mode, _: Protocol, request: &Request) -> Result<Answer> {
    let mut command = lab.command("gnutls-cli");
    command.arg("--x509cafile").arg(lab.trust());
    command.args(["--port", "443", "--alpn", "http/1.1", request.host]);
    http1(&mut command, request)
}

/// What a bare TLS client shows of the answer.
fn http1(command: &mut Command, request: &Request) -> Result<Answer> {
    let ended = process::run(command, &request.bytes(), LIMIT)?;
    Ok(match Answer::from_http1(&ended.stdout) {
        Answer::Broken(_) => Answer::Broken(ended.said()),
        answer => answer,
    })
}

fn nghttp(lab: &Lab, _: Mode, _: Protocol, request: &Request) -> Result<Answer> {
    let mut command = lab.command("nghttp");
    command.args(["--verbose", "--timeout=40"]);
    for (name, value) in &request.headers {
        command.arg(format!("--header={name}: {value}"));
    }
    let ended = process::run(command.arg(request.url()), b"", LIMIT)?;
    let status = ended.stdout.split(":status: ").nth(1);
    let status = status.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    Ok(match status {
        Some(status) => Answer::Status {
            status,
            version: "2".to_owned(),
            body: ended.stdout,
        },
        None => Answer::Broken(ended.said()),
    })
}
