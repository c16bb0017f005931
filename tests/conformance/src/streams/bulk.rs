//! Bodies that are long, slow, or come without a length, with curl; many streams at once, with h2load.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{BOTH, case};
use crate::case::{Case, Mode, Protocol};
use crate::check::settled;
use crate::lab::{API, CONNECT, LIMIT, Lab, PLACEHOLDER, VALUE};
use crate::process::{self, Running};
use crate::record::Record;

/// Beyond what any part of the way holds at once.
const LARGE: usize = 8 << 20;
const UPLOAD: usize = 4 << 20;

pub(super) fn cases(lab: &Lab) -> Vec<Case> {
    let mut rows = Vec::new();
    let tool = lab.tool("curl", &["curl", "--version"]);
    for protocol in [Protocol::H1, Protocol::H2] {
        for mode in BOTH {
            let how = (mode, protocol);
            let mut add = |claim, work: fn(&Lab, (Mode, Protocol), &str) -> Result<()>| {
                rows.push(case(&tool, how, "own", claim, move |lab, id| {
                    work(lab, how, id)
                }));
            };
            add("events arrive before the stream ends", events);
            add("8 MiB come down whole", download);
            add(
                "4 MiB with a placeholder at their end go up, after 100 Continue",
                upload,
            );
            add(
                "4 MiB without a length and with a placeholder go up",
                unannounced,
            );
            add("204 and HEAD end where they should", bodiless);
            add(
                "a value twice escaped in JSON is taken out of the answer",
                quoted,
            );
        }
    }
    let tool = lab.tool("h2load", &["h2load", "--version"]);
    for protocol in [Protocol::H1, Protocol::H2] {
        let how = (Mode::Transparent, protocol);
        let claim = "1000 requests over 8 connections, up to 16 at once each, all with the value";
        rows.push(case(&tool, how, "own", claim, move |lab, id| {
            load(lab, how, id)
        }));
    }
    rows
}

fn curl(lab: &Lab, (mode, protocol): (Mode, Protocol)) -> Command {
    let mut command = lab.command("curl");
    command.args([
        "--silent",
        "--show-error",
        "--fail",
        "--no-buffer",
        "--max-time",
        "50",
        "--cacert",
    ]);
    command.arg(lab.trust());
    command.arg(match protocol {
        Protocol::H2 => "--http2",
        _ => "--http1.1",
    });
    if mode == Mode::Connect {
        command.args(["--suppress-connect-headers", "--proxy"]);
        command.arg(format!("http://{CONNECT}"));
    }
    command
}

fn url(id: &str, what: &str) -> String {
    format!("https://{API}/{id}{what}")
}

/// The only request with `id`, in the protocol it should have come in.
fn only(lab: &Lab, protocol: Protocol, id: &str) -> Result<Record> {
    let records = settled(lab, API, id);
    ensure!(records.len() == 1, "{} requests arrived", records.len());
    let record = records.into_iter().next().context("no request")?;
    check_version(protocol, &record)?;
    Ok(record)
}

fn check_version(protocol: Protocol, record: &Record) -> Result<()> {
    let expected = match protocol {
        Protocol::H2 => "HTTP/2",
        _ => "HTTP/1.1",
    };
    ensure!(
        record.version.starts_with(expected),
        "{} was spoken",
        record.version
    );
    Ok(())
}

/// The origin sends the second event only after a request that is made once the first one is there.
fn events(lab: &Lab, how: (Mode, Protocol), id: &str) -> Result<()> {
    let out = lab.path(&format!("{id}events"));
    let mut command = curl(lab, how);
    let mut running = Running::start(command.arg(url(id, "events")), &out)?;
    let said = || std::fs::read_to_string(&out).unwrap_or_default();
    process::wait_for("the first event", Duration::from_secs(20), || {
        said().contains("data: 0")
    })?;
    let mut release = curl(lab, how);
    let released = process::run(release.arg(url(id, "release")), b"", LIMIT)?;
    ensure!(released.success, "{}", released.said());
    process::wait_for("the end", Duration::from_secs(20), || running.has_ended())?;
    ensure!(said() == "data: 0\n\ndata: 1\n\n", "{:?} arrived", said());
    only(lab, how.1, &format!("{id}events")).map(drop)
}

fn download(lab: &Lab, how: (Mode, Protocol), id: &str) -> Result<()> {
    let ended = process::run(curl(lab, how).arg(url(id, "large")), b"", LIMIT)?;
    ensure!(ended.success, "{}", ended.stderr);
    ensure!(
        ended.stdout.len() == LARGE,
        "{} bytes came",
        ended.stdout.len()
    );
    ensure!(
        ended.stdout.bytes().all(|byte| byte == b'x'),
        "other bytes came"
    );
    only(lab, how.1, id).map(drop)
}

fn upload(lab: &Lab, how: (Mode, Protocol), id: &str) -> Result<()> {
    let mut command = curl(lab, how);
    command.args([
        "--header",
        "Expect: 100-continue",
        "--header",
        "Content-Type: text/plain",
    ]);
    command.args(["--data-binary", "@-", &url(id, "length")]);
    send(lab, how.1, &mut command, id)
}

fn unannounced(lab: &Lab, how: (Mode, Protocol), id: &str) -> Result<()> {
    let mut command = curl(lab, how);
    // From standard input, so that it does not know the length.
    command.args(["--header", "Content-Type: text/plain", "--upload-file", "-"]);
    command.arg(url(id, "length"));
    send(lab, how.1, &mut command, id)
}

fn send(lab: &Lab, protocol: Protocol, command: &mut Command, id: &str) -> Result<()> {
    let body = "x".repeat(UPLOAD) + PLACEHOLDER;
    let expected = "x".repeat(UPLOAD) + VALUE;
    let ended = process::run(command, body.as_bytes(), LIMIT)?;
    ensure!(ended.success, "{}", ended.said());
    ensure!(
        ended.stdout == expected.len().to_string(),
        "{} bytes were read",
        ended.stdout
    );
    let record = only(lab, protocol, id)?;
    ensure!(record.body == expected.as_bytes(), "another body arrived");
    ensure!(record.is_complete, "the length is wrong");
    Ok(())
}

fn bodiless(lab: &Lab, how: (Mode, Protocol), id: &str) -> Result<()> {
    let mut command = curl(lab, how);
    // Over one connection, so that a body that is not theirs would be read as the next answer.
    command.args(["--include", &url(id, "empty"), &url(id, "empty")]);
    let ended = process::run(&mut command, b"", LIMIT)?;
    ensure!(
        ended.success && ended.stdout.matches(" 204").count() == 2,
        "{}",
        ended.said()
    );
    let mut command = curl(lab, how);
    command.args(["--head", &url(id, "large"), &url(id, "large")]);
    let ended = process::run(&mut command, b"", LIMIT)?;
    ensure!(
        ended.success && ended.stdout.matches(" 200").count() == 2,
        "{}",
        ended.said()
    );
    let length = format!("content-length: {LARGE}");
    let told = ended.stdout.to_lowercase().matches(&length).count();
    ensure!(
        told == 2,
        "the length is told {told} times: {}",
        ended.stdout
    );
    let records = settled(lab, API, id);
    ensure!(records.len() == 4, "{} requests arrived", records.len());
    records
        .iter()
        .try_for_each(|record| check_version(how.1, record))
}

/// Echo services answer with the body as a string in JSON.
fn quoted(lab: &Lab, how: (Mode, Protocol), id: &str) -> Result<()> {
    let mut command = curl(lab, how);
    command.args([
        "--header",
        "Content-Type: application/json",
        "--data-binary",
        "@-",
    ]);
    let body = format!("{{\"key\": \"{PLACEHOLDER}\"}}");
    let ended = process::run(command.arg(url(id, "quote")), body.as_bytes(), LIMIT)?;
    ensure!(ended.success, "{}", ended.said());
    ensure!(
        !ended.stdout.contains("sk-"),
        "the answer shows the value: {}",
        ended.stdout
    );
    only(lab, how.1, id).map(drop)
}

fn load(lab: &Lab, how: (Mode, Protocol), id: &str) -> Result<()> {
    let count = 1000;
    let mut command = lab.command("h2load");
    command.args([
        "--requests",
        &count.to_string(),
        "--clients=8",
        "--threads=1",
    ]);
    match how.1 {
        Protocol::H2 => command.arg("--max-concurrent-streams=16"),
        _ => command.arg("--h1"),
    };
    command.args(["--header", &format!("authorization: Bearer {PLACEHOLDER}")]);
    let ended = process::run(command.arg(url(id, "load")), b"", LIMIT)?;
    let all = format!("status codes: {count} 2xx, 0 3xx, 0 4xx, 0 5xx");
    ensure!(ended.stdout.contains(&all), "{}", ended.said());
    let records = lab.received(API, id);
    let value = format!("Bearer {VALUE}");
    let right = records
        .iter()
        .filter(|record| record.header("authorization") == Some(&value));
    let right = right.count();
    ensure!(
        records.len() == count && right == count,
        "{} requests arrived, {right} with the value",
        records.len()
    );
    records
        .iter()
        .try_for_each(|record| check_version(how.1, record))
}
