//! Protocols other than HTTP inside TLS: Redis, MQTT, SMTP, and lines that come back reversed.

use anyhow::{Result, ensure};

use super::{BOTH, case};
use crate::case::{Case, Mode, Protocol};
use crate::lab::{
    CONNECT, LIMIT, Lab, MQTT, OTHER_MQTT, OTHER_REDIS, OTHER_SMTP, PLACEHOLDER, REDIS, REVERSING,
    SMTP, VALUE,
};
use crate::process::{self, Finished};

type Work = fn(&Lab, Mode, &str) -> Result<()>;

pub(super) fn cases(lab: &Lab) -> Vec<Case> {
    let openssl = lab.tool("openssl s_client", &["openssl", "version"]);
    let curl = lab.tool("curl", &["curl", "--version"]);
    let redis = lab.tool("redis-cli", &["redis-cli", "--version"]);
    let mosquitto = lab.tool("mosquitto_pub", &["mosquitto_pub", "--version"]);
    let mut rows = Vec::new();
    let mut add = |tool, host, mode, origin, claim, work: Work| {
        let mut row = case(
            tool,
            (mode, Protocol::Other),
            origin,
            claim,
            move |lab, id| work(lab, mode, id),
        );
        if let Some(reason) = lab.without(host) {
            row.tool.version = Err(reason);
        }
        rows.push(row);
    };
    for mode in BOTH {
        let lines = "lines and their answers";
        add(
            &openssl,
            REVERSING,
            mode,
            "openssl s_server",
            lines,
            reversed,
        );
        let mail = "a message, with the server speaking first";
        add(&curl, SMTP, mode, "aiosmtpd", mail, mailed);
        let stolen = "a placeholder to another host ends the connection before it is whole";
        add(&curl, SMTP, mode, "aiosmtpd", stolen, mailed_elsewhere);
    }
    let mode = Mode::Transparent;
    let claims: [(&str, Work); 3] = [
        ("commands and their answers, 1 MiB among them", stored),
        (
            "a placeholder to another host ends the connection before it is whole",
            stored_elsewhere,
        ),
        ("a value that comes back is covered", covered),
    ];
    for (claim, work) in claims {
        add(&redis, REDIS, mode, "Redis", claim, work);
    }
    add(
        &mosquitto,
        MQTT,
        mode,
        "Mosquitto",
        "a message is published and received; a placeholder to another host is not",
        published,
    );
    rows
}

fn reversed(lab: &Lab, mode: Mode, id: &str) -> Result<()> {
    let mut command = lab.command("openssl");
    command.args(["s_client", "-quiet", "-verify_return_error", "-CAfile"]);
    command.arg(lab.trust());
    command.args([
        "-servername",
        REVERSING,
        "-connect",
        &format!("{REVERSING}:443"),
    ]);
    if mode == Mode::Connect {
        command.args(["-proxy", CONNECT]);
    }
    let input = format!("{id}first\n{id}second\nCLOSE\n");
    let ended = process::run(&mut command, input.as_bytes(), LIMIT)?;
    for line in [format!("{id}first"), format!("{id}second")] {
        let expected: String = line.chars().rev().collect();
        ensure!(
            ended.stdout.lines().any(|got| got == expected),
            "no {expected:?} in {}",
            ended.said()
        );
    }
    Ok(())
}

fn mail(lab: &Lab, mode: Mode, host: &str, text: &str) -> Result<Finished> {
    let mut command = lab.command("curl");
    command.args(["--silent", "--show-error", "--max-time", "40", "--cacert"]);
    command.arg(lab.trust());
    command.args(["--mail-from", "a@a.test", "--mail-rcpt", "b@b.test"]);
    command.args([
        "--upload-file",
        "-",
        &format!("smtps://{host}:443/client.test"),
    ]);
    if mode == Mode::Connect {
        command.args(["--proxytunnel", "--proxy", &format!("http://{CONNECT}")]);
    }
    process::run(&mut command, text.as_bytes(), LIMIT)
}

fn received_mail(lab: &Lab) -> String {
    std::fs::read_to_string(lab.path(&format!("{SMTP}.out"))).unwrap_or_default()
}

fn mailed(lab: &Lab, mode: Mode, id: &str) -> Result<()> {
    let ended = mail(
        lab,
        mode,
        SMTP,
        &format!("Subject: {id}\r\n\r\ntext of {id}\r\n"),
    )?;
    ensure!(ended.success, "{}", ended.said());
    let expected = format!("text of {id}");
    let arrived = || received_mail(lab).contains(&expected);
    process::wait_for("the message arrives", LIMIT, arrived)
}

fn mailed_elsewhere(lab: &Lab, mode: Mode, id: &str) -> Result<()> {
    let ended = mail(
        lab,
        mode,
        OTHER_SMTP,
        &format!("Subject: {id}\r\n\r\n{PLACEHOLDER}\r\n"),
    )?;
    ensure!(!ended.success, "{}", ended.said());
    let received = received_mail(lab);
    ensure!(!received.contains("MSB_API_KEY"), "it arrived: {received}");
    Ok(())
}

fn redis(lab: &Lab, host: &str, input: &str, words: &[&str]) -> Result<Finished> {
    let mut command = lab.command("redis-cli");
    command.args(["--tls", "--cacert"]).arg(lab.trust());
    command
        .args(["--sni", host, "-h", host, "-p", "443"])
        .args(words);
    process::run(&mut command, input.as_bytes(), LIMIT)
}

fn stored(lab: &Lab, _: Mode, id: &str) -> Result<()> {
    let long = "x".repeat(1 << 20);
    for (key, value) in [("short", "a value"), ("long", &long)] {
        let key = format!("{id}{key}");
        let set = redis(lab, REDIS, value, &["-x", "SET", &key])?;
        ensure!(set.stdout.trim_end() == "OK", "{}", set.said());
        let got = redis(lab, REDIS, "", &["GET", &key])?;
        ensure!(got.stdout.trim_end() == value, "{key} is another");
    }
    Ok(())
}

fn stored_elsewhere(lab: &Lab, _: Mode, id: &str) -> Result<()> {
    let set = redis(lab, OTHER_REDIS, "", &["SET", id, PLACEHOLDER])?;
    ensure!(
        set.stdout.trim_end() != "OK",
        "it was answered: {}",
        set.said()
    );
    let got = redis(lab, REDIS, "", &["EXISTS", id])?;
    ensure!(got.stdout.trim_end() == "0", "it arrived: {}", got.said());
    Ok(())
}

/// However it got there.
fn covered(lab: &Lab, _: Mode, id: &str) -> Result<()> {
    let set = redis(lab, OTHER_REDIS, "", &["SET", id, &format!("<{VALUE}>")])?;
    ensure!(set.stdout.trim_end() == "OK", "{}", set.said());
    let got = redis(lab, REDIS, "", &["GET", id])?;
    let expected = format!("<{}>", "*".repeat(VALUE.len()));
    ensure!(got.stdout.trim_end() == expected, "{}", got.said());
    Ok(())
}

fn publish(lab: &Lab, host: &str, id: &str, text: &str) -> Result<Finished> {
    let mut command = lab.command("mosquitto_pub");
    command.arg("--cafile").arg(lab.trust());
    command.args([
        "-h", host, "-p", "443", "-t", id, "-q", "1", "-r", "-m", text,
    ]);
    process::run(&mut command, b"", LIMIT)
}

fn published(lab: &Lab, _: Mode, id: &str) -> Result<()> {
    let sent = publish(lab, MQTT, id, "a message")?;
    ensure!(sent.success, "{}", sent.said());
    // With the message at the very end of a packet, behind which nothing comes.
    let stolen = publish(lab, OTHER_MQTT, id, PLACEHOLDER)?;
    ensure!(!stolen.success, "{}", stolen.said());
    let mut command = lab.command("mosquitto_sub");
    command.arg("--cafile").arg(lab.trust());
    command.args(["-h", MQTT, "-p", "443", "-t", id, "-C", "1", "-W", "40"]);
    let got = process::run(&mut command, b"", LIMIT)?;
    ensure!(got.stdout.trim_end() == "a message", "{}", got.said());
    Ok(())
}
