//! Everything at once, for a long time: what is left of it afterwards must be nothing.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::service::{self, IPERF, Services};
use crate::sides::Side;
use crate::{DNS_PORT, say};

/// Length of one turn of each load.
const TURN_SECONDS: u64 = 2;
/// Connections that are open throughout a turn.
const HELD: u64 = 500;
/// How long connections whose guest is gone may take to be noticed.
const PATIENCE: Duration = Duration::from_secs(90);
/// What the process may grow by in the second half whatever the first was like. Buffers that were used once are kept for other
/// connections, so memory grows while ever others of them are used for much, but ever less; what leaks grows on.
const GROWTH_KIB: f64 = 16.0 * 1024.0;

/// Runs all loads side by side for `seconds`; an error if one fails, or if descriptors or memory are kept.
pub(crate) fn run(seconds: u64) -> Result<()> {
    let services = Services::start()?;
    let side = Side::msb(&services)?;
    // Its descriptors can be counted when it answers, and names take none for long.
    side.load("names", DNS_PORT, 1, "rate")?;
    let descriptors = side.descriptors()?;
    turn(&side)?;
    let (start, mut turns) = (Instant::now(), 0);
    let mut resident = vec![side.resident_kib()?];
    for half in 1..=2 {
        while start.elapsed() < Duration::from_secs(seconds) * half / 2 {
            turn(&side)?;
            turns += 1;
        }
        resident.push(side.resident_kib()?);
    }
    let ended = Instant::now();
    let left = loop {
        let left = side.descriptors()?.saturating_sub(descriptors);
        if left == 0 || ended.elapsed() > PATIENCE {
            break left;
        }
        thread::sleep(Duration::from_millis(100));
    };
    let growth = [resident[1] - resident[0], resident[2] - resident[1]];
    say(&format!(
        "soak: {turns} turns in {} s; {left} descriptors left; memory grown by {:.0} KiB in the first half and {:.0} KiB in the second",
        (ended - start).as_secs(),
        growth[0],
        growth[1],
    ))?;
    ensure!(left == 0, "descriptors of connections are kept");
    ensure!(
        growth[1] < GROWTH_KIB.max(0.75 * growth[0]),
        "memory is kept"
    );
    Ok(())
}

/// Every load once, all at the same time.
fn turn(side: &Side) -> Result<()> {
    let echo = service::echo()?;
    let held = side.hold(echo, HELD)?;
    thread::scope(|scope| {
        let mut loads: Vec<thread::ScopedJoinHandle<'_, Result<f64>>> = Vec::new();
        for kind in ["exchanges", "latency", "names"] {
            let (port, key) = match kind {
                "names" => (DNS_PORT, "rate"),
                "latency" => (echo, "p50_us"),
                _ => (echo, "rate"),
            };
            loads.push(scope.spawn(move || side.load(kind, port, TURN_SECONDS, key)));
        }
        if std::env::var_os(IPERF).is_some() {
            loads.push(scope.spawn(|| {
                side.iperf(TURN_SECONDS, 4, false)?;
                side.iperf(TURN_SECONDS, 4, true)
            }));
        }
        for load in loads {
            let figure = load.join().ok().context("a load panicked")??;
            ensure!(figure > 0.0, "a load got nowhere");
        }
        Ok(())
    })?;
    drop(held);
    Ok(())
}
