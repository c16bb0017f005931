//! `cargo xtask conformance`: the proxy against clients, servers and scanners that nobody here wrote.
//!
//! Everything it needs is kept below `target/conformance`: nothing is installed. What cannot be had is left out with a
//! word, and its cases are counted as skipped.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::unpack::Program;
use crate::{process, unpack};

/// Where the table is committed.
const TABLE: &str = "docs/conformance.md";

/// Programs that cases run or are served by, and the packages that bring them.
const PROGRAMS: &[Program] = &[
    ("curl", "curl"),
    ("git", "git"),
    ("gnutls-cli", "gnutls-bin"),
    ("h2load", "nghttp2-client"),
    ("haproxy", "haproxy"),
    ("mosquitto", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("mosquitto_sub", "mosquitto-clients"),
    ("nghttp", "nghttp2-client"),
    ("nginx", "nginx"),
    ("openssl", "openssl"),
    ("redis-cli", "redis-tools"),
    ("redis-server", "redis-server"),
    ("testssl", "testssl.sh"),
    ("wget", "wget"),
];

/// What is too large to be unpacked on the way; it is taken where it is installed.
const NOT_FETCHED: &[Program] = &[
    ("java", "default-jdk-headless"),
    ("node", "nodejs"),
    ("unshare", "util-linux"),
    ("ip", "iproute2"),
];

/// Packages of PyPI, with their versions.
const PYTHON: &str = "tests/conformance/requirements.txt";

/// Packages of npm.
const NODE: &[&str] = &["undici@6.22.0"];

/// Runs all cases, or those whose row contains `--only TEXT`; `--write` brings the committed table up to date.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let tools = process::target_dir().join("conformance");
    fs::create_dir_all(&tools).with_context(|| format!("cannot make {}", tools.display()))?;
    for (what, prepared) in [
        ("programs of Debian", debian(&tools)),
        ("packages of PyPI", python(&tools)),
        ("packages of npm", node(&tools)),
    ] {
        if let Err(error) = prepared {
            eprintln!("conformance: without some {what}: {error:#}");
        }
    }
    process::show(process::cargo().args([
        "build",
        "--quiet",
        "--package",
        "msb-cli",
        "--package",
        "msb-conformance",
    ]))?;
    let built = process::target_dir().join("debug");
    let mut command = Command::new(built.join("msb-conformance"));
    command.arg("--tools").arg(&tools);
    command.arg("--msb").arg(built.join("msb"));
    let table = process::workspace().join(TABLE);
    command.args(args.iter().filter(|arg| **arg != "--write"));
    command.arg(match args.contains(&"--write") {
        true => "--write",
        false => "--compare",
    });
    process::show(command.arg(table))
}

fn debian(tools: &Path) -> Result<()> {
    for (program, package) in NOT_FETCHED {
        if process::find(program).is_none() {
            eprintln!("conformance: no {program}: Debian package {package} brings it");
        }
    }
    unpack::prepare(tools, PROGRAMS)
}

/// A virtual environment with what the list names, made anew when the list changes.
fn python(tools: &Path) -> Result<()> {
    let list = process::workspace().join(PYTHON);
    let wanted = fs::read_to_string(&list)?;
    let venv = tools.join("venv");
    let stamp = venv.join("requirements");
    if fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
        return Ok(());
    }
    eprintln!(
        "conformance: installing from PyPI into {}: {}",
        venv.display(),
        wanted.split_whitespace().collect::<Vec<_>>().join(" ")
    );
    process::capture(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&venv),
    )
    .context("cannot make a virtual environment (Debian package python3-venv)")?;
    process::capture(
        Command::new(venv.join("bin/pip"))
            .args(["install", "--quiet", "--requirement"])
            .arg(&list),
    )?;
    Ok(fs::write(stamp, wanted)?)
}

fn node(tools: &Path) -> Result<()> {
    let dir = tools.join("npm");
    let stamp = dir.join("packages");
    let wanted = NODE.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
        return Ok(());
    }
    ensure!(process::find("npm").is_some(), "npm is not installed");
    fs::create_dir_all(&dir)?;
    eprintln!(
        "conformance: installing from npm into {}: {}",
        dir.display(),
        NODE.join(" ")
    );
    let quiet = ["--no-save", "--no-audit", "--no-fund", "--prefix"];
    let mut npm = Command::new("npm");
    npm.arg("install").args(quiet).arg(&dir).args(NODE);
    process::capture(&mut npm)?;
    Ok(fs::write(stamp, wanted)?)
}
