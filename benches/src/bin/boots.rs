//! `cargo xtask bench boots [N]`: N boots in a row (50 if not said) with every core busy. Every one must come up.
//!
//! A guest under emulation that measures time by itself on a busy host hangs at its start about every other time;
//! this shows that msb's guests do not. The load is threads of this program, which end with it.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the figures are the program's output")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use msb_benches::{Running, Spread, accelerator, facts, msb};
use msb_vmm::Accelerator;

const BOOTS: usize = 50;
/// msb itself gives a boot up after 120 s and then shows the console; this is for an msb that does not.
const LIMIT: Duration = Duration::from_secs(150);

fn main() -> Result<ExitCode> {
    let boots = match std::env::args().nth(1) {
        Some(text) => text
            .parse()
            .context("the argument is the number of boots")?,
        None => BOOTS,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let accelerator = runtime.block_on(accelerator())?;
    let spinners = std::thread::available_parallelism()?.get();
    println!("{}", facts());
    println!("{boots} boots in a row, {accelerator:?}, {spinners} threads spinning");

    let over = AtomicBool::new(false);
    let took = std::thread::scope(|scope| {
        for _ in 0..spinners {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let took: Vec<_> = (1..=boots).filter_map(|at| one(at, accelerator)).collect();
        over.store(true, Ordering::Relaxed);
        took
    });

    println!("{} of {boots} came up", took.len());
    if let Some(spread) = Spread::of(took.iter().map(Duration::as_secs_f64)) {
        println!("process start to exit, s: {spread}");
    }
    Ok(if took.len() == boots {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What it took, or nothing when it failed, which is told.
fn one(at: usize, accelerator: Accelerator) -> Option<Duration> {
    match boot(accelerator) {
        Ok(took) => {
            println!("  {at:>3}: {:.2} s", took.as_secs_f64());
            Some(took)
        }
        Err(error) => {
            println!("  {at:>3}: FAILED: {error:#}");
            None
        }
    }
}

fn boot(accelerator: Accelerator) -> Result<Duration> {
    let mut command = msb(accelerator)?;
    let arguments = ["base", "--", "sh", "-c", "true && echo up"];
    let finished = Running::start(command.args(arguments))?.finish(LIMIT)?;
    ensure!(
        finished.status.success() && finished.stdout == "up\n",
        "{} after {:.1} s\n{}{}",
        finished.status,
        finished.took.as_secs_f64(),
        finished.stdout,
        finished.stderr
    );
    Ok(finished.took)
}
