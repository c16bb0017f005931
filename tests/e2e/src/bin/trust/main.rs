//! Which programs trust a sandbox's authority with nothing set but what msb sets, and which of them need that;
//! `cargo xtask trust` runs it.
//!
//! Every program fetches something from an intercepted server three times: with the guest's environment, with an empty
//! one, and from a server that is not intercepted and whose certificate nobody in the guest trusts, which has to fail.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use http::header::CONTENT_TYPE;
use msb::HostAddress;
use msb_e2e::Guest;
use msb_testkit::{CertificateKind, Handler, Origin, RecordedRequest, TestRoot};

mod clients;

use clients::{CLIENTS, Client};

/// The intercepted server.
const INTERCEPTED: &str = "api.example.test";
/// The server that shows its own certificate.
const FOREIGN: &str = "foreign.example.test";
/// What only a served answer can say.
const ANSWER: &str = "served-4711";

#[derive(Debug, Parser)]
struct Args {
    /// The store's image that holds the programs.
    #[arg(long)]
    image: String,
    /// The table as it is committed.
    #[arg(long)]
    table: PathBuf,
    /// Write the table; otherwise a difference is an error.
    #[arg(long)]
    write: bool,
    /// Only programs whose name contains this; nothing is compared or written then.
    #[arg(long)]
    only: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trust: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<()> {
    let root = TestRoot::new();
    let serve = async |name: &str| {
        let config = root.server(&[name], CertificateKind::Good);
        Origin::start_with(config, Arc::new(answer) as Handler).await
    };
    let (intercepted, foreign) = tokio::join!(serve(INTERCEPTED), serve(FOREIGN));
    let dir = tempfile::tempdir()?;
    let root_file = dir.path().join("root.pem");
    std::fs::write(&root_file, root.pem())?;
    let ports = [intercepted.address().port(), foreign.address().port()];
    let guest = Guest::boot("trust", |builder| {
        let builder = builder.image(&args.image).memory(1536);
        builder.network(|network| {
            network
                .profiles("public,host")
                .add_host(INTERCEPTED, HostAddress::HostGateway)
                .add_host(FOREIGN, HostAddress::HostGateway)
                .tls(|tls| {
                    tls.intercepted_ports([ports[0]])
                        .upstream_ca_cert(&root_file)
                })
        })
    })
    .await;
    for event in guest.events() {
        if let msb::Event::Warning(text) = event {
            eprintln!("trust: {text}");
        }
    }
    let chosen = |client: &&Client| {
        let only = args.only.as_deref();
        only.is_none_or(|only| client.name.contains(only))
    };
    let mut rows = Vec::new();
    for client in CLIENTS.iter().filter(chosen) {
        rows.push(try_out(&guest, client, ports).await);
    }
    guest.stop().await;
    finish(args, &rows)
}

/// One line of the table.
async fn try_out(guest: &Guest, client: &Client, ports: [u16; 2]) -> String {
    let line = |host: &str, port: u16| {
        let address = format!("{host}:{port}");
        client
            .line
            .replace("{url}", &format!("https://{address}"))
            .replace("{host}", host)
            .replace("{port}", &port.to_string())
    };
    let expected = client.expected.unwrap_or(ANSWER);
    let served = async |line: String| {
        let ran = guest.sh(&line).await;
        let served =
            ran.code == 0 && (ran.stdout.contains(expected) || ran.stderr.contains(expected));
        (served, ran)
    };
    let version = guest.sh(client.version).await;
    let version = format!("{}{}", version.stdout, version.stderr);
    let version = number(&version).unwrap_or_else(|| "?".to_owned());
    let (with, ran) = served(line(INTERCEPTED, ports[0])).await;
    let needs = if !with {
        let said = format!("{}\n{}", ran.stdout, ran.stderr);
        eprintln!("{}: status {}\n{said}", client.name, ran.code);
        "**fails**"
    } else if served(line(FOREIGN, ports[1])).await.0 {
        "**does not verify**"
    } else {
        let bare = line(INTERCEPTED, ports[0]).replace('\'', r"'\''");
        let bare = format!("env -i PATH=\"$PATH\" HOME=/root sh -c '{bare}'");
        let (served, ran) = served(bare).await;
        if served {
            "nothing"
        } else {
            eprintln!(
                "{} without variables: status {}\n{}",
                client.name, ran.code, ran.stderr
            );
            "the environment"
        }
    };
    format!("| {} {version} | {needs} | {} |", client.name, client.reads)
}

/// The first number with a dot in it: the version in what a program says about itself.
fn number(text: &str) -> Option<String> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .map(|word| word.trim_matches('.'))
        .find(|word| word.contains('.'))
        .map(str::to_owned)
}

fn finish(args: &Args, rows: &[String]) -> Result<()> {
    let table = rows.join("\n");
    eprintln!("{table}");
    ensure!(
        !table.contains("**"),
        "a program fails that has to work, or works where it has to fail"
    );
    if args.only.is_some() {
        return Ok(());
    }
    let committed = std::fs::read_to_string(&args.table)
        .with_context(|| format!("cannot read {}", args.table.display()))?;
    const HEAD: &str = "| program | needs | reads |\n|---|---|---|\n";
    let (before, after) = committed
        .split_once(HEAD)
        .context("the document has no table of programs")?;
    let after = after.split_once("\n\n").map_or("", |(_, after)| after);
    let renewed = format!("{before}{HEAD}{table}\n\n{after}");
    if args.write {
        return Ok(std::fs::write(&args.table, renewed)?);
    }
    ensure!(
        renewed == committed,
        "{} differs: write it with --write",
        args.table.display()
    );
    Ok(())
}

/// What the server answers: enough of a registry of each kind for one question.
fn answer(request: &RecordedRequest) -> http::Response<http_body_util::Full<bytes::Bytes>> {
    let path = request.target.split('?').next().unwrap_or_default();
    let (kind, body) = match path {
        "/repository/info/refs" => (
            "text/plain",
            format!("{}\trefs/heads/{ANSWER}\n", "0123456789".repeat(4)),
        ),
        "/simple/demo/" => (
            "text/html",
            "<!DOCTYPE html><a href=\"demo-47.11-py3-none-any.whl\">demo-47.11-py3-none-any.whl</a>".to_owned(),
        ),
        "/demo" => (
            "application/json",
            format!(
                r#"{{"name":"demo","dist-tags":{{"latest":"1.0.0"}},"versions":{{"1.0.0":{{"name":"demo","version":"1.0.0","description":"{ANSWER}"}}}}}}"#
            ),
        ),
        "/config.json" => {
            let host = request.header("host").join("");
            (
                "application/json",
                format!(r#"{{"dl":"https://{host}/dl","api":"https://{host}"}}"#),
            )
        }
        "/api/v1/crates" => (
            "application/json",
            format!(
                r#"{{"crates":[{{"name":"demo","max_version":"1.0.0","description":"{ANSWER}"}}],"meta":{{"total":1}}}}"#
            ),
        ),
        _ => ("text/plain", format!("{ANSWER}\n")),
    };
    http::Response::builder()
        .header(CONTENT_TYPE, kind)
        .body(http_body_util::Full::new(body.into()))
        .expect("a field value that was one")
}
