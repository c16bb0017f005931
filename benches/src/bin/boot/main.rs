//! `cargo xtask bench boot [PAIRS [MIB]]`: `msb run base -- true` from process start to exit, beside a bare boot; then
//! what programs, MIB (1024 if not said) of their input and output, and copies cost in a sandbox that runs.
//!
//! The bare boot is the same kernel under the same accelerator with an initramfs whose init powers off at once (see
//! `msb_benches::Bare`): what is over 1.0 is what msb, its devices, its guest's set-up, one exec and its teardown
//! take.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the figures are the program's output")]

mod running;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use msb_benches::{Bare, Finished, Running, Spread, accelerator, facts, msb};
use msb_vmm::Accelerator;

const PAIRS: usize = 10;
const MIB: usize = 1024;
/// At most this many times the bare boot, by the median.
const GOAL: f64 = 1.25;
/// A boot takes a few seconds under TCG; one that takes this long has failed.
const LIMIT: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut number = |default: usize| match args.next() {
        Some(text) => text
            .parse()
            .context("the arguments are the number of pairs and of MiB"),
        None => Ok(default),
    };
    let (pairs, mib) = (number(PAIRS)?, number(MIB)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let accelerator = runtime.block_on(accelerator())?;
    println!("{}", facts());
    println!("{pairs} pairs of a bare boot and `msb run base -- true`, {accelerator:?}");
    // Files come into the page cache.
    let bare_machine = Bare::new(accelerator)?;
    bare(&bare_machine)?;
    ours(accelerator)?;

    let mut measured = Vec::new();
    for pair in 0..pairs {
        // Alternating which goes first evens out a load that grows or shrinks.
        let (bare, ours) = if pair % 2 == 0 {
            let bare = bare(&bare_machine)?;
            (bare, ours(accelerator)?)
        } else {
            let ours = ours(accelerator)?;
            (bare(&bare_machine)?, ours)
        };
        println!(
            "  {:>2}: bare {:.2} s, msb {:.2} s, ratio {:.2}; processor time {:.2} s, {:.2} s, ratio {:.2}",
            pair + 1,
            bare.took.as_secs_f64(),
            ours.took.as_secs_f64(),
            ratio(ours.took, bare.took),
            bare.cpu.as_secs_f64(),
            ours.cpu.as_secs_f64(),
            ratio(ours.cpu, bare.cpu),
        );
        measured.push((bare, ours));
    }
    report(&measured)?;
    running::measure(accelerator, mib)
}

fn report(measured: &[(Finished, Finished)]) -> Result<()> {
    let spread = |value: fn(&(Finished, Finished)) -> f64| {
        Spread::of(measured.iter().map(value)).context("no pair was measured")
    };
    println!(
        "bare boot, s:          {}",
        spread(|(bare, _)| bare.took.as_secs_f64())?
    );
    println!(
        "msb run, s:            {}",
        spread(|(_, ours)| ours.took.as_secs_f64())?
    );
    let ratios = spread(|(bare, ours)| ratio(ours.took, bare.took))?;
    println!("ratio:                 {ratios}");
    println!(
        "processor time, ratio: {}",
        spread(|(bare, ours)| ratio(ours.cpu, bare.cpu))?
    );
    let verdict = if ratios.median <= GOAL {
        "met"
    } else {
        "missed"
    };
    println!("goal: at most {GOAL} by the median: {verdict}");
    Ok(())
}

fn ratio(ours: Duration, bare: Duration) -> f64 {
    ours.as_secs_f64() / bare.as_secs_f64()
}

fn bare(machine: &Bare) -> Result<Finished> {
    let finished = Running::start(&mut machine.command())?.finish(LIMIT)?;
    ensure!(
        finished.status.success() && finished.stdout.contains(Bare::LAST_WORD),
        "the bare boot ended with {}:\n{}{}",
        finished.status,
        finished.stdout,
        finished.stderr
    );
    Ok(finished)
}

fn ours(accelerator: Accelerator) -> Result<Finished> {
    let mut command = msb(accelerator)?;
    let finished = Running::start(command.args(["base", "--", "true"]))?.finish(LIMIT)?;
    ensure!(
        finished.status.success() && finished.stdout.is_empty(),
        "msb ended with {}:\n{}{}",
        finished.status,
        finished.stdout,
        finished.stderr
    );
    Ok(finished)
}
