//! What benchmarks compare with: for `proxy` nginx from apt, mitmproxy from PyPI, hudsucker from crates.io, for `net` passt and
//! slirp4netns from apt.
//!
//! Each is kept below `target/rivals`, apart from those of apt. One that cannot be had is left out with a word, and the benchmark
//! says "skipped" where it would stand.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{process, setup};

/// A program to compare with: the variable that tells the benchmark where it is, its name, and where it is.
type Rival = (&'static str, &'static str, Result<PathBuf>);

/// The variables of `bench proxy`.
pub(crate) fn of_proxy() -> Vec<(&'static str, PathBuf)> {
    found([
        ("MSB_BENCH_NGINX", "nginx", of_apt("nginx", "nginx-light")),
        (
            "MSB_BENCH_MITMDUMP",
            "mitmdump",
            directory().and_then(|dir| mitmdump(&dir)),
        ),
        (
            "MSB_BENCH_HUDSUCKER",
            "hudsucker",
            directory().and_then(|dir| hudsucker(&dir)),
        ),
    ])
}

/// The variables of `bench net`: its rivals, and the program that loads them.
pub(crate) fn of_net() -> Vec<(&'static str, PathBuf)> {
    found([
        ("MSB_BENCH_PASTA", "passt", of_apt("pasta", "passt")),
        (
            "MSB_BENCH_SLIRP4NETNS",
            "slirp4netns",
            of_apt("slirp4netns", "slirp4netns"),
        ),
        ("MSB_BENCH_IPERF3", "iperf3", of_apt("iperf3", "iperf3")),
    ])
}

fn found<const N: usize>(rivals: [Rival; N]) -> Vec<(&'static str, PathBuf)> {
    let mut found = Vec::new();
    for (variable, name, path) in rivals {
        match path {
            Ok(path) => found.push((variable, path)),
            Err(error) => eprintln!("bench: without {name}: {error:#}"),
        }
    }
    found
}

fn directory() -> Result<PathBuf> {
    let dir = process::target_dir().join("rivals");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// `program`, installed with `package` if it is missing.
fn of_apt(program: &str, package: &str) -> Result<PathBuf> {
    // Not in everybody's PATH.
    let find = || {
        process::find(program).or_else(|| {
            let path = Path::new("/usr/sbin").join(program);
            path.is_file().then_some(path)
        })
    };
    if find().is_none() {
        setup::install(&[package])?;
    }
    find().with_context(|| format!("apt installed no {program}"))
}

fn mitmdump(dir: &Path) -> Result<PathBuf> {
    let venv = dir.join("mitmproxy");
    let program = venv.join("bin/mitmdump");
    if process::succeeds(Command::new(&program).arg("--version")) {
        return Ok(program);
    }
    if !process::succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"])) {
        setup::install(&["python3-venv"])?;
    }
    eprintln!("bench: installing mitmproxy into {}", venv.display());
    process::capture(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&venv),
    )?;
    process::capture(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "mitmproxy"]))?;
    ensure!(program.is_file(), "pip installed no mitmdump");
    Ok(program)
}

fn hudsucker(dir: &Path) -> Result<PathBuf> {
    let manifest = process::workspace().join("benches/rivals/hudsucker/Cargo.toml");
    process::show(
        process::cargo()
            .args(["build", "--quiet", "--release", "--manifest-path"])
            .arg(manifest)
            .arg("--target-dir")
            .arg(dir),
    )?;
    Ok(dir.join("release/rival-hudsucker"))
}
