//! `msb-conformance`: the proxy against clients, servers and scanners that nobody here wrote. `cargo xtask conformance`
//! runs it, with what it needs in place.
//!
//! Everything happens in namespaces of its own: only loopback is there, names are those of its own hosts file, and no
//! process survives it.

#![forbid(unsafe_code)]

mod case;
mod check;
mod clients;
mod known;
mod lab;
mod namespace;
mod origin;
mod process;
mod record;
mod request;
mod scanners;
mod servers;
mod smuggling;
mod streams;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::case::Case;
use crate::lab::Lab;
use crate::table::{Row, Table};

/// Runs the cases and prints what came of each.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// The program under test.
    #[arg(long)]
    msb: PathBuf,
    /// Where `cargo xtask conformance` put foreign programs.
    #[arg(long)]
    tools: PathBuf,
    /// Runs only cases whose row contains this.
    #[arg(long)]
    only: Option<String>,
    /// Writes the table to this file as well.
    #[arg(long, conflicts_with = "only")]
    write: Option<PathBuf>,
    /// Says so if the table differs from this file.
    #[arg(long, conflicts_with = "write")]
    compare: Option<PathBuf>,
    /// Runs this shell command in the setting of the cases instead of them, in the directory with its logs.
    #[arg(long, conflicts_with_all = ["only", "write"])]
    shell: Option<String>,
    /// How many cases run at once.
    #[arg(long, default_value_t = 4)]
    jobs: usize,
}

fn main() -> ExitCode {
    let ended = namespace::inside().and_then(|inside| match inside {
        namespace::Place::Inside => run(&Args::parse()),
        namespace::Place::Ended(code) => Ok(code),
    });
    ended.unwrap_or_else(|error| {
        eprintln!("conformance: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(args: &Args) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    // Programs run in directories of their own.
    let [tools, msb] = [&args.tools, &args.msb].map(std::path::absolute);
    let lab = Lab::start(&runtime, &tools?, &msb?)?;
    if let Some(line) = &args.shell {
        let status = lab.command("sh").args(["-c", line]).status()?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
    }
    let mut cases = clients::cases(&lab);
    cases.extend(streams::cases(&lab));
    cases.extend(scanners::cases(&lab));
    cases.extend(smuggling::cases(&lab));
    if let Some(only) = &args.only {
        cases.retain(|case| case.row().contains(only.as_str()));
    }
    let rows = run_all(&lab, &cases, args.jobs);
    let table = Table::new(&lab, rows);
    println_out(&table.text())?;
    if let (Some(path), None) = (&args.compare, &args.only)
        && std::fs::read_to_string(path).ok() != Some(table.markdown())
    {
        eprintln!("conformance: {} is not what came out now", path.display());
    }
    if let Some(path) = &args.write {
        std::fs::write(path, table.markdown())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(match table.is_as_expected() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn run_all(lab: &Lab, cases: &[Case], jobs: usize) -> Vec<Row> {
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some((index, case)) = take(&next, cases) {
                    let row = case.run(lab, index);
                    eprintln!("{}", row.line());
                    if let Ok(mut rows) = rows.lock() {
                        rows.push((index, row));
                    }
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_default();
    rows.sort_by_key(|(index, _)| *index);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn take<'a>(next: &AtomicUsize, cases: &'a [Case]) -> Option<(usize, &'a Case)> {
    let index = next.fetch_add(1, Ordering::SeqCst);
    Some((index, cases.get(index)?))
}

fn println_out(text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
