//! git over https, with the placeholder as a password.

use std::process::Command;

use anyhow::{Result, ensure};

use super::{BOTH, case};
use crate::case::{Case, Mode, Protocol};
use crate::lab::{API, CONNECT, LIMIT, Lab, OTHER};
use crate::process;

pub(super) fn cases(lab: &Lab) -> Vec<Case> {
    let tool = lab.tool("git", &["git", "--version"]);
    let mut rows = Vec::new();
    for mode in BOTH {
        for protocol in [Protocol::H1, Protocol::H2] {
            let how = (mode, protocol);
            let claim = "push, then clone: 2 MiB with the value as Basic password";
            rows.push(case(
                &tool,
                how,
                "git http-backend",
                claim,
                move |lab, id| push(lab, how, id),
            ));
            let claim = "the password does not reach another host";
            rows.push(case(&tool, how, "own", claim, move |lab, id| {
                elsewhere(lab, how, id)
            }));
        }
    }
    rows
}

/// The placeholder has a character that is escaped in URLs.
fn url(host: &str, repository: &str) -> String {
    format!("https://user:%24MSB_API_KEY@{host}/git/{repository}")
}

fn git(lab: &Lab, (mode, protocol): (Mode, Protocol)) -> Command {
    let mut command = lab.command("git");
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_SSL_CAINFO", lab.trust())
        .args([
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b.test",
            "-c",
            "init.defaultBranch=main",
        ]);
    command.args(match protocol {
        // libcurl 7.88 now and then stalls in uploads over HTTP/2 that have no length, without any proxy as well.
        Protocol::H2 => [
            "-c",
            "http.version=HTTP/2",
            "-c",
            "http.postBuffer=16777216",
        ],
        _ => ["-c", "http.version=HTTP/1.1", "-c", "http.postBuffer=65536"],
    });
    if mode == Mode::Connect {
        command.args(["-c", &format!("http.proxy=http://{CONNECT}")]);
    }
    command
}

fn run(command: &mut Command) -> Result<String> {
    let ended = process::run(command, b"", LIMIT)?;
    ensure!(ended.success, "{}", ended.said());
    Ok(ended.stdout)
}

fn push(lab: &Lab, how: (Mode, Protocol), id: &str) -> Result<()> {
    let name = format!("{id}repository");
    let bare = lab.path("git").join(&name);
    run(git(lab, how).args(["init", "--quiet", "--bare"]).arg(&bare))?;
    run(git(lab, how)
        .arg("-C")
        .arg(&bare)
        .args(["config", "http.receivepack", "true"]))?;
    let work = lab.path(&format!("{id}work"));
    run(git(lab, how).args(["init", "--quiet"]).arg(&work))?;
    // Not compressible.
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    })
    .take(2 << 20)
    .collect();
    std::fs::write(work.join("noise"), &noise)?;
    run(git(lab, how).arg("-C").arg(&work).args(["add", "noise"]))?;
    run(git(lab, how)
        .arg("-C")
        .arg(&work)
        .args(["commit", "--quiet", "-m", "noise"]))?;
    let url = url(API, &name);
    run(git(lab, how)
        .arg("-C")
        .arg(&work)
        .args(["push", "--quiet", &url, "main"]))?;
    let clone = lab.path(&format!("{id}clone"));
    run(git(lab, how)
        .args(["clone", "--quiet", "--branch", "main", &url])
        .arg(&clone))?;
    ensure!(
        std::fs::read(clone.join("noise"))? == noise,
        "the clone differs"
    );
    Ok(())
}

/// This host asks for a password as well.
fn elsewhere(lab: &Lab, how: (Mode, Protocol), id: &str) -> Result<()> {
    let mut command = git(lab, how);
    command.args(["ls-remote", &url(OTHER, &format!("{id}repository"))]);
    let ended = process::run(&mut command, b"", LIMIT)?;
    ensure!(!ended.success, "it was answered: {}", ended.said());
    let received = lab.received(OTHER, id);
    let with: Vec<_> = received
        .iter()
        .filter(|record| record.header("authorization").is_some())
        .collect();
    ensure!(with.is_empty(), "it arrived: {with:?}");
    ensure!(
        !received.is_empty(),
        "git was not asked for a password: {}",
        ended.said()
    );
    Ok(())
}
