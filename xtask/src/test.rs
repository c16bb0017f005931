//! `cargo xtask test`: every check there is, set-up included. What CI runs.
//!
//! A test that cannot run on this machine prints a line `skipped: WHY` and passes; those lines are
//! counted and repeated at the end, so that a skip is never taken for a pass.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::image::{self, Rebuild};
use crate::unpack::Program;
use crate::{fuzz, metadata, process, setup, unpack};

/// Whether to set up before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prepare {
    /// Tools and images.
    Everything,
    /// What is there has to do.
    Nothing,
}

/// Where below the target directory `--profile ci` writes its report, see `.config/nextest.toml`.
const JUNIT: &str = "nextest/ci/junit.xml";

/// Programs that tests run on guests made of network namespaces (crates/msb-net/tests/netns), and the packages that bring
/// them. PostgreSQL is used where it is installed: it is too large to be fetched on the way.
const NET_TOOLS: &[Program] = &[
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    ("iperf3", "iperf3"),
    ("kdig", "knot-dnsutils"),
    ("nc", "netcat-openbsd"),
    ("nmap", "nmap"),
    ("ping", "iputils-ping"),
    ("redis-cli", "redis-tools"),
    ("redis-server", "redis-server"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("sshd", "openssh-server"),
    ("traceroute", "traceroute"),
];
/// Where below the target directory those are that the machine lacks.
const NET_TOOLS_DIR: &str = "net-tools";

/// Programs that tests of msb-image and `bench image` run: a registry, and other makers and unpackers of images.
const IMAGE_TOOLS: &[Program] = &[
    ("docker-registry", "docker-registry"),
    ("htpasswd", "apache2-utils"),
    ("mkfs.ext4", "e2fsprogs"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
];
/// Where below the target directory those are that the machine lacks.
const IMAGE_TOOLS_DIR: &str = "image-tools";

/// Programs that tests of msb-guest-trust run: those of NSS on its databases, and the tool of distributions with p11-kit.
const TRUST_TOOLS: &[Program] = &[
    ("certutil", "libnss3-tools"),
    ("modutil", "libnss3-tools"),
    ("trust", "p11-kit"),
    ("vfychain", "libnss3-tools"),
];
/// Where below the target directory those are that the machine lacks.
const TRUST_TOOLS_DIR: &str = "trust-tools";

/// Bounds what `cargo nextest` would bound for each test.
const SUITE_AT_MOST: &str = "45m";
const EXAMPLE_AT_MOST: &str = "5m";

/// Runs everything; stops at the first check that fails.
pub(crate) fn run(prepare: Prepare) -> Result<()> {
    if prepare == Prepare::Everything {
        setup::run()?;
        image::run(Rebuild::WhatChanged)?;
        for tools in [net_tools(), image_tools().map(drop), trust_tools()] {
            if let Err(error) = tools {
                eprintln!("some tests will be skipped: {error:#}");
            }
        }
    }
    let mut report = Report::default();
    report.check("format", || {
        tool(
            "rustfmt",
            process::cargo().args(["fmt", "--all", "--check"]),
        )
    })?;
    report.check("format of the fuzz targets", || {
        let mut fmt = process::cargo();
        fmt.args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]);
        tool("rustfmt", &mut fmt)
    })?;
    report.check("clippy", || {
        let mut clippy = process::cargo();
        clippy.args([
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]);
        tool("cargo-clippy", &mut clippy)
    })?;
    report.check("documentation", || {
        let mut doc = process::cargo();
        doc.args(["doc", "--workspace", "--no-deps"]);
        process::show(doc.env("RUSTDOCFLAGS", "-D warnings")).map(|()| Vec::new())
    })?;
    report.check("tests", tests)?;
    report.check("documentation tests", || {
        let mut doctests = process::cargo();
        doctests.args(["test", "--quiet", "--workspace", "--doc"]);
        process::show(&mut doctests).map(|()| Vec::new())
    })?;
    report.check("fuzz targets", fuzz::smoke)?;
    for package in metadata::packages()? {
        for target in package
            .targets
            .iter()
            .filter(|target| target.kind == "example")
        {
            report.check(
                &format!("example {} of {}", target.name, package.name),
                || {
                    let mut run = bounded(EXAMPLE_AT_MOST);
                    run.args([
                        "run",
                        "--quiet",
                        "--package",
                        &package.name,
                        "--example",
                        &target.name,
                    ]);
                    process::show(&mut run).map(|()| Vec::new())
                },
            )?;
        }
    }
    report.print();
    Ok(())
}

/// Makes what is missing of the programs that msb-net's tests run available to them.
pub(crate) fn net_tools() -> Result<()> {
    unpack::prepare(&process::target_dir().join(NET_TOOLS_DIR), NET_TOOLS)
}

/// Makes what is missing of the programs that msb-image's tests and benchmark run available to them, and returns the
/// directory that they are in.
pub(crate) fn image_tools() -> Result<PathBuf> {
    let dir = process::target_dir().join(IMAGE_TOOLS_DIR);
    unpack::prepare(&dir, IMAGE_TOOLS)?;
    Ok(dir.join("bin"))
}

/// Makes what is missing of the programs that msb-guest-trust's tests run available to them.
pub(crate) fn trust_tools() -> Result<()> {
    let dir = process::target_dir().join(TRUST_TOOLS_DIR);
    unpack::prepare(&dir, TRUST_TOOLS)
}

/// Checks that passed, and what they left out.
#[derive(Debug, Default)]
struct Report {
    passed: usize,
    /// How often each reason was given.
    skipped: BTreeMap<String, usize>,
}

impl Report {
    /// Runs one check, which returns the reasons for what it skipped.
    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<Vec<String>>) -> Result<()> {
        eprintln!("== {name}");
        let start = Instant::now();
        let skipped = check().with_context(|| format!("{name} failed"))?;
        eprintln!(
            "== {name}: passed in {:.1} s",
            start.elapsed().as_secs_f64()
        );
        self.passed += 1;
        for reason in skipped {
            *self.skipped.entry(reason).or_default() += 1;
        }
        Ok(())
    }

    fn print(&self) {
        let skips: usize = self.skipped.values().sum();
        eprintln!("== {} checks passed, {skips} skips", self.passed);
        for (reason, count) in &self.skipped {
            eprintln!("   skipped {count}: {reason}");
        }
    }
}

/// Runs a check that needs a part of the toolchain which may be absent.
fn tool(program: &str, command: &mut Command) -> Result<Vec<String>> {
    if process::find(program).is_none() {
        let reason = format!("{program} is not installed: `rustup component add` brings it");
        return Ok(vec![reason]);
    }
    process::show(command).map(|()| Vec::new())
}

fn tests() -> Result<Vec<String>> {
    if process::find("cargo-nextest").is_some() {
        let mut nextest = process::cargo();
        nextest.args(["nextest", "run", "--workspace", "--profile", "ci"]);
        process::show(&mut nextest)?;
        let junit = process::target_dir().join(JUNIT);
        let report = std::fs::read_to_string(&junit)
            .with_context(|| format!("cannot read {}", junit.display()))?;
        return Ok(skips(&report));
    }
    eprintln!("cargo-nextest is not installed: tests run without a time limit for each");
    let mut test = bounded(SUITE_AT_MOST);
    test.args([
        "test",
        "--workspace",
        "--lib",
        "--bins",
        "--tests",
        "--",
        "--show-output",
    ]);
    let mut child = test
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start `timeout`, of coreutils")?;
    let mut output = String::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            if !line.is_empty() {
                eprintln!("{line}");
                output.push_str(&line);
                output.push('\n');
            }
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{}` failed: {status}", process::line(&test));
    }
    Ok(skips(&output))
}

/// Cargo, ended with all it started after `limit`.
fn bounded(limit: &str) -> Command {
    let cargo = process::cargo();
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=10s", limit])
        .arg(cargo.get_program())
        .current_dir(process::workspace());
    command
}

/// The reasons in lines `skipped: WHY`.
fn skips(output: &str) -> Vec<String> {
    output
        .lines()
        .filter_map(|line| {
            let (before, reason) = line.split_once("skipped: ")?;
            // JUnit files have the first line of an output behind its tag.
            (before.is_empty() || before.ends_with('>')).then_some(reason)
        })
        .map(|reason| {
            reason
                .split("</")
                .next()
                .unwrap_or(reason)
                .trim()
                .to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_are_found_in_plain_output_and_in_junit() {
        assert_eq!(
            skips("a\nskipped: no KVM\nnot skipped: x\nskipped: no KVM"),
            ["no KVM", "no KVM"]
        );
        let junit =
            "<system-out>running 1 test\n</system-out><system-err>skipped: no root</system-err>";
        assert_eq!(skips(junit), ["no root"]);
        assert!(skips("test result: ok. 1 passed").is_empty());
    }

    #[test]
    fn report_counts_passes_and_equal_reasons() {
        let mut report = Report::default();
        for _ in 0..2 {
            report.check("x", || Ok(vec!["no KVM".to_owned()])).unwrap();
        }
        assert!(report.check("y", || bail!("broken")).is_err());
        assert_eq!(report.passed, 2);
        assert_eq!(report.skipped["no KVM"], 2);
    }
}
