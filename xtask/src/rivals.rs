//! What `bench proxy` compares with: nginx from apt, mitmproxy from PyPI, hudsucker from crates.io.
//!
//! Each is kept below `target/rivals`, apart from nginx. One that cannot be had is left out with a word, and the benchmark
//! says "skipped" where it would stand.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{process, setup};

/// Variables that tell the benchmark where they are.
pub(crate) fn prepare() -> Vec<(&'static str, PathBuf)> {
    let mut found = Vec::new();
    for (variable, name, path) in [
        ("MSB_BENCH_NGINX", "nginx", nginx()),
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
    ] {
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

fn nginx() -> Result<PathBuf> {
    // Not in everybody's PATH.
    let find = || {
        process::find("nginx")
            .or_else(|| Some(PathBuf::from("/usr/sbin/nginx")).filter(|path| path.is_file()))
    };
    if find().is_none() {
        setup::install(&["nginx-light"])?;
    }
    find().context("apt installed no nginx")
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
