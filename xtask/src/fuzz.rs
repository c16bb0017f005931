//! `cargo xtask fuzz`: runs the targets of `fuzz/` with libFuzzer, for a given time each.
//!
//! Stable cargo builds them with the compiler's own coverage counters: nothing but a C++ compiler, for libFuzzer, is
//! needed. There are no sanitizers: the code under test has no `unsafe` that they could watch.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{metadata, process, setup};

const DEFAULT_SECONDS: u32 = 300;

/// What `cargo xtask test` spends on each target.
const SMOKE_SECONDS: u32 = 5;

/// What one input may take, and the whole process. Decoders are the largest: they hold at most 8 MiB of output.
const INPUT_AT_MOST_SECONDS: u32 = 20;
const MEMORY_AT_MOST_MIB: u32 = 1024;

/// Reading the corpus and finishing the last input, on a slow machine.
const SPARE_SECONDS: u32 = 120;

/// Counters and compared values at every edge, as cargo-fuzz asks for them.
const INSTRUMENT: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

const USAGE: &str = "\
Usage: cargo xtask fuzz [TARGET..] [--seconds N]
       cargo xtask fuzz TARGET --input FILE   run one input, such as a finding";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Task<'a> {
    Search {
        /// All, if empty.
        targets: Vec<&'a str>,
        seconds: u32,
    },
    Input {
        target: &'a str,
        file: &'a str,
    },
}

impl<'a> Task<'a> {
    fn parse(args: &[&'a str]) -> Result<Self> {
        let (mut targets, mut seconds, mut input) = (Vec::new(), None, None);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || {
                args.next()
                    .with_context(|| format!("{arg} needs a value\n\n{USAGE}"))
            };
            match *arg {
                "--seconds" => {
                    let text = value()?;
                    let number = text.parse::<u32>().ok().filter(|number| *number > 0);
                    seconds =
                        Some(number.with_context(|| {
                            format!("`{text}` is no number of seconds\n\n{USAGE}")
                        })?);
                }
                "--input" => input = Some(*value()?),
                option if option.starts_with('-') => bail!("unknown option `{option}`\n\n{USAGE}"),
                target => targets.push(target),
            }
        }
        match (input, &targets[..]) {
            (None, _) => Ok(Self::Search {
                targets,
                seconds: seconds.unwrap_or(DEFAULT_SECONDS),
            }),
            (Some(file), [target]) if seconds.is_none() => Ok(Self::Input { target, file }),
            (Some(_), _) => bail!("--input goes with one target and nothing else\n\n{USAGE}"),
        }
    }
}

/// Sets up, builds and runs what `args` ask for.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let task = Task::parse(args)?;
    let known = targets()?;
    let check = |target: &str| {
        ensure!(
            known.iter().any(|name| name == target),
            "no fuzz target `{target}`: known are {}",
            known.join(", ")
        );
        Ok(())
    };
    match task {
        Task::Search { targets, seconds } => {
            targets.iter().try_for_each(|target| check(target))?;
            setup::run()?;
            let chosen = known
                .iter()
                .filter(|name| targets.is_empty() || targets.contains(&name.as_str()));
            search(chosen, seconds, Seeds::Grown)
        }
        Task::Input { target, file } => {
            check(target)?;
            // Programs run in the workspace, people elsewhere.
            let file = Path::new(file)
                .canonicalize()
                .with_context(|| format!("cannot read {file}"))?;
            setup::run()?;
            let mut once = Command::new(build()?.join(target));
            process::show(once.args(limits()).arg(file))
        }
    }
}

/// Runs every target for a few seconds from the committed seeds. For `cargo xtask test`: returns why it was skipped.
pub(crate) fn smoke() -> Result<Vec<String>> {
    if process::find("c++").is_none() {
        return Ok(vec![
            "no C++ compiler to build libFuzzer with: `cargo xtask setup` installs one".to_owned(),
        ]);
    }
    search(&targets()?, SMOKE_SECONDS, Seeds::Committed).map(|()| Vec::new())
}

/// What a search begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seeds {
    /// The committed corpus, and the same random numbers each time.
    Committed,
    /// What earlier searches found on this machine, too.
    Grown,
}

fn search<'a>(
    targets: impl IntoIterator<Item = &'a String>,
    seconds: u32,
    seeds: Seeds,
) -> Result<()> {
    let programs = build()?;
    let mut table = vec![HEAD.map(str::to_owned)];
    let mut findings = Vec::new();
    for target in targets {
        eprintln!("fuzz: {target} for {seconds} s");
        let run = Run::of(target, &programs.join(target), seconds, seeds)?;
        eprint!("{}", run.complaint);
        table.push(run.row());
        let rerun = |file: &PathBuf| {
            format!(
                "\n  {}\n    once more: cargo xtask fuzz {target} --input {}",
                file.display(),
                file.display()
            )
        };
        findings.extend(run.finding.as_ref().map(rerun));
    }
    eprint!("{}", aligned(&table));
    ensure!(
        findings.is_empty(),
        "{} of the inputs tried break a promise:{}",
        findings.len(),
        findings.concat()
    );
    Ok(())
}

/// Builds all targets and returns where they are.
fn build() -> Result<PathBuf> {
    let host = process::capture_text(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let output = process::target_dir().join("fuzz");
    let mut cargo = process::cargo();
    cargo
        .args(["build", "--quiet", "--release", "--bins"])
        .arg("--manifest-path")
        .arg(manifest())
        // With a target given, build scripts and macros are not instrumented.
        .args(["--target", &host, "--target-dir"])
        .arg(&output)
        .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENT.join("\x1f"));
    process::show(&mut cargo)?;
    Ok(output.join(host).join("release"))
}

fn manifest() -> PathBuf {
    directory().join("Cargo.toml")
}

fn directory() -> PathBuf {
    process::workspace().join("fuzz")
}

/// The names of all targets.
fn targets() -> Result<Vec<String>> {
    let packages = metadata::packages_of(&manifest())?;
    let targets = packages.into_iter().flat_map(|package| package.targets);
    let programs = targets.filter(|target| target.kind == "bin");
    Ok(programs.map(|target| target.name).collect())
}

fn limits() -> [String; 2] {
    [
        format!("-timeout={INPUT_AT_MOST_SECONDS}"),
        format!("-rss_limit_mb={MEMORY_AT_MOST_MIB}"),
    ]
}

/// How one target fared.
#[derive(Debug)]
struct Run {
    target: String,
    seconds: f64,
    stats: Stats,
    /// The input that broke a promise.
    finding: Option<PathBuf>,
    /// Why it did.
    complaint: String,
}

const HEAD: [&str; 7] = [
    "target", "runs", "seconds", "edges", "features", "corpus", "finding",
];

impl Run {
    fn of(target: &str, program: &Path, seconds: u32, seeds: Seeds) -> Result<Self> {
        let output = process::target_dir().join("fuzz");
        let artifacts = directory().join("artifacts").join(target);
        let corpus = output.join("corpus").join(target);
        let log = output.join(format!("{target}.log"));
        if seeds == Seeds::Committed && corpus.exists() {
            fs::remove_dir_all(&corpus)?;
        }
        for directory in [&artifacts, &corpus] {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=10s", &format!("{}s", seconds + SPARE_SECONDS)])
            .arg(program)
            .args(limits())
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(format!(
                "-dict={}",
                directory().join("dictionary").display()
            ))
            .args((seeds == Seeds::Committed).then_some("-seed=1"))
            // Only the first is written to.
            .args([&corpus, &directory().join("corpus").join(target)])
            .stderr(File::create(&log).with_context(|| format!("cannot write {}", log.display()))?);
        let start = Instant::now();
        let status = command
            .status()
            .context("cannot start `timeout`, of coreutils")?;
        let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let finding = finding(&said);
        ensure!(
            status.success() || finding.is_some(),
            "`{}` failed: {status}; see {}",
            process::line(&command),
            log.display()
        );
        let stats = Stats::read(&said);
        ensure!(
            finding.is_some() || stats.features > 0,
            "{target} reports no coverage, so it searched blindly; see {}",
            log.display()
        );
        Ok(Self {
            target: target.to_owned(),
            seconds: start.elapsed().as_secs_f64(),
            stats,
            complaint: complaint(&said),
            finding,
        })
    }

    fn row(&self) -> [String; 7] {
        let stats = &self.stats;
        [
            self.target.clone(),
            stats.runs.to_string(),
            format!("{:.0}", self.seconds),
            stats.edges.to_string(),
            format!("{} -> {}", stats.features_of_seeds, stats.features),
            format!("{} -> {}", stats.seeds, stats.corpus),
            self.finding
                .as_ref()
                .and_then(|file| file.file_name())
                .map_or_else(|| "none".into(), |name| name.display().to_string()),
        ]
    }
}

/// What libFuzzer counted, at the end and once it had read the seeds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stats {
    runs: u64,
    edges: u64,
    features: u64,
    features_of_seeds: u64,
    corpus: u64,
    seeds: u64,
}

impl Stats {
    /// Reads the lines `#RUNS WHAT cov: EDGES ft: FEATURES corp: INPUTS/SIZE ..`.
    fn read(log: &str) -> Self {
        let mut stats = Self::default();
        for line in log.lines().filter(|line| line.starts_with('#')) {
            let words: Vec<_> = line.split_whitespace().collect();
            let after = |label: &str| {
                let at = words.iter().position(|word| *word == label)?;
                words.get(at + 1)?.split('/').next()?.parse().ok()
            };
            let runs = words[0].trim_start_matches('#').parse();
            if let (Ok(runs), Some(edges), Some(features)) = (runs, after("cov:"), after("ft:")) {
                (stats.runs, stats.edges, stats.features) = (runs, edges, features);
                stats.corpus = after("corp:").unwrap_or_default();
                if words[1] == "INITED" {
                    (stats.features_of_seeds, stats.seeds) = (features, stats.corpus);
                }
            }
        }
        stats
    }
}

/// The file with the input that ended a run.
fn finding(log: &str) -> Option<PathBuf> {
    log.lines()
        .filter_map(|line| line.split_once("Test unit written to "))
        .map(|(_, path)| PathBuf::from(path))
        // Inputs that are merely slow do not end a run.
        .rfind(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            !name.starts_with("slow-unit-")
        })
}

/// What the target or libFuzzer said when an input ended the run.
fn complaint(log: &str) -> String {
    let ends = ["note: run with", "stack backtrace:", "    #"];
    let panic = log
        .lines()
        .skip_while(|line| !line.contains(" panicked at ") && !line.contains("ERROR: libFuzzer"))
        .take_while(|line| !ends.iter().any(|end| line.starts_with(end)));
    panic.take(20).flat_map(|line| [line, "\n"]).collect()
}

/// Columns under one another, two spaces apart.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let line = |row: &[String; N]| {
        let cells = row.iter().enumerate();
        let cells = cells.map(|(column, cell)| format!("{cell:<width$}  ", width = width(column)));
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_seconds_come_in_any_order() {
        #[track_caller]
        fn check(args: &[&str], expected: Option<Task<'_>>) {
            assert_eq!(Task::parse(args).ok(), expected, "{args:?}");
        }
        let search = |targets: &[&'static str], seconds| {
            let targets = targets.to_vec();
            Some(Task::Search { targets, seconds })
        };
        check(&[], search(&[], DEFAULT_SECONDS));
        check(&["a"], search(&["a"], DEFAULT_SECONDS));
        check(&["a", "--seconds", "7", "b"], search(&["a", "b"], 7));
        let (target, file) = ("a", "f");
        check(&["--input", "f", "a"], Some(Task::Input { target, file }));
        check(&["--seconds"], None);
        check(&["--seconds", "0"], None);
        check(&["--seconds", "soon"], None);
        check(&["--jobs"], None);
        check(&["--input", "f"], None);
        check(&["a", "b", "--input", "f"], None);
        check(&["a", "--input", "f", "--seconds", "7"], None);
    }

    #[test]
    fn counts_are_those_after_the_seeds_and_at_the_end() {
        let log = "INFO: seed corpus: files: 8 min: 14b max: 26b total: 134b rss: 25Mb\n\
                   #9\tINITED cov: 512 ft: 880 corp: 8/134b exec/s: 0 rss: 28Mb\n\
                   #4096\tpulse  cov: 600 ft: 1200 corp: 31/512b lim: 43 exec/s: 2048 rss: 29Mb\n\
                   #35801\tDONE   cov: 700 ft: 2400 corp: 99/1024b lim: 43 exec/s: 3254 rss: 30Mb\n";
        let expected = Stats {
            runs: 35_801,
            edges: 700,
            features: 2400,
            features_of_seeds: 880,
            corpus: 99,
            seeds: 8,
        };
        assert_eq!(Stats::read(log), expected);
        assert_eq!(
            Stats::read("WARNING: no interesting inputs"),
            Stats::default()
        );
    }

    #[test]
    fn a_finding_is_told_from_a_slow_input() {
        let slow = "artifact_prefix='a/'; Test unit written to a/slow-unit-12\n";
        assert_eq!(finding(slow), None);
        let crash = format!(
            "thread '<unnamed>' (1) panicked at fuzz_targets/x.rs:9:5:\nleft: 1\nnote: run with `RUST_BACKTRACE=1`\n\
             ==1== ERROR: libFuzzer: deadly signal\n    #0 0x1\n\
             artifact_prefix='a/'; Test unit written to a/crash-34\n{slow}"
        );
        assert_eq!(finding(&crash), Some("a/crash-34".into()));
        assert!(
            complaint(&crash).ends_with("x.rs:9:5:\nleft: 1\n"),
            "{}",
            complaint(&crash)
        );
        assert_eq!(complaint(slow), "");
    }

    #[test]
    fn columns_stand_under_one_another() {
        let rows = [["a", "bbb", "c"], ["aaa", "b", "cc"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(&rows), "a    bbb  c\naaa  b    cc\n");
    }
}
