//! `cargo xtask bench NAME`: a criterion benchmark or a benchmark program of `msb-benches`.

use anyhow::{Result, bail};

use crate::image::{self, Rebuild};
use crate::{metadata, process, rivals, setup, test};

const PACKAGE: &str = "msb-benches";
/// Need no guest, but others to compare with.
const PROXY: &str = "proxy";
const NET: &str = "net";
const IMAGE: &str = "image";

/// Runs the benchmark called `name` with `args`, after setting up what guests need.
pub(crate) fn run(name: &str, args: &[&str]) -> Result<()> {
    let packages = metadata::packages()?;
    let targets: Vec<_> = packages
        .iter()
        .filter(|package| package.name == PACKAGE)
        .flat_map(|package| &package.targets)
        .filter(|target| matches!(target.kind.as_str(), "bench" | "bin") && target.name != "load")
        .collect();
    let Some(target) = targets.iter().find(|target| target.name == name) else {
        let known: Vec<_> = targets.iter().map(|target| target.name.as_str()).collect();
        bail!("no benchmark `{name}`: known are {}", known.join(", "));
    };
    let rivals = match name {
        PROXY => rivals::of_proxy(),
        NET => rivals::of_net(),
        IMAGE => {
            setup::run()?;
            vec![("MSB_BENCH_IMAGE_TOOLS", test::image_tools()?)]
        }
        _ => {
            setup::run()?;
            image::run(Rebuild::WhatChanged)?;
            Vec::new()
        }
    };
    if name != NET {
        // Programs run the `msb` beside them; built apart, it has the features its users get.
        build(&["--package", "msb-cli"])?;
        build(&["--package", PACKAGE])?;
    }
    let mut cargo = process::cargo();
    cargo.envs(rivals);
    match target.kind.as_str() {
        "bench" => cargo.args(["bench", "--package", PACKAGE, "--bench", name]),
        _ => cargo.args([
            "run",
            "--quiet",
            "--release",
            "--package",
            PACKAGE,
            "--bin",
            name,
        ]),
    };
    process::show(cargo.arg("--").args(args))
}

fn build(what: &[&str]) -> Result<()> {
    process::show(
        process::cargo()
            .args(["build", "--quiet", "--release"])
            .args(what),
    )
}
