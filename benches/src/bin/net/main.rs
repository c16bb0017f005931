//! `cargo xtask bench net [ROUNDS] [SECONDS]`: a guest's network beside passt and slirp4netns.
//! `cargo xtask bench net soak [SECONDS]`: everything at once for as long.
//!
//! Each side has a network namespace as its guest, a process between it and the host's loopback, and an MTU of 65520; loads run
//! inside, services outside. msb's process is msb-net and a relay that copies, without interception. In each round both sides
//! of a comparison run one after the other, in turns.
#![forbid(unsafe_code)]

mod gateway;
mod load;
mod service;
mod sides;
mod soak;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use msb_benches::{Spread, facts};
use msb_testkit::NetnsGuest;
use service::Services;
use sides::Side;

const ROUNDS: usize = 5;
const SECONDS: u64 = 3;
const SOAK_SECONDS: u64 = 600;
/// Other flows while one is measured, and flows whose memory is.
const MANY: u64 = 10_000;
const DNS_PORT: u16 = 53;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("net: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let number = |at: usize, default: u64| match args.get(at) {
        Some(text) => text
            .parse()
            .with_context(|| format!("{text:?} is not a number")),
        None => Ok(default),
    };
    match args.first().map(String::as_str) {
        Some(gateway::GATEWAY) => return gateway::run(&args[1..]),
        Some(load::LOAD) => return say(&load::run(&args[1..])?),
        _ => {}
    }
    if let Some(reason) = NetnsGuest::missing() {
        return say(&format!("skipped: {reason}"));
    }
    raise_descriptor_limit()?;
    say(&facts())?;
    if args.first().is_some_and(|first| first == "soak") {
        return soak::run(number(1, SOAK_SECONDS)?);
    }
    let rounds = usize::try_from(number(0, ROUNDS as u64)?)?.max(1);
    compare_all(rounds, number(1, SECONDS)?.max(1))
}

fn compare_all(rounds: usize, seconds: u64) -> Result<()> {
    say(&format!("{rounds} rounds of {seconds} s for each side"))?;
    let services = Services::start()?;
    let ours = Side::msb(&services)?;
    let passt = rival("MSB_BENCH_PASTA", "passt", Side::pasta)?;
    let slirp = rival("MSB_BENCH_SLIRP4NETNS", "slirp4netns", Side::slirp4netns)?;
    for (rival, name, goal) in [(&passt, "passt", 0.7), (&slirp, "slirp4netns", 2.0)] {
        if std::env::var_os(service::IPERF).is_none() {
            say("iperf3: skipped, it is not installed")?;
            break;
        }
        for (streams, back) in [(1, false), (1, true), (8, false), (8, true)] {
            let way = if back {
                "host to guest"
            } else {
                "guest to host"
            };
            let what = format!("iperf3 {way}, {streams} streams, Gbit/s, against {name}");
            let measure = |side: &Side| Ok(side.iperf(seconds, streams, back)? / 1e9);
            compare(&what, rival.as_ref(), &ours, rounds, goal, measure)?;
        }
    }
    compare(
        "connect, request, response, close per second, against passt",
        passt.as_ref(),
        &ours,
        rounds,
        0.7,
        |side| side.load("exchanges", service::echo()?, seconds, "rate"),
    )?;
    flows(&services, rounds, seconds)?;
    names(&ours, &services, rounds, seconds)
}

/// Both sides in turns; the ratio is ours to theirs, so more is better.
fn compare(
    what: &str,
    rival: Option<&Side>,
    ours: &Side,
    rounds: usize,
    goal: f64,
    measure: impl Fn(&Side) -> Result<f64>,
) -> Result<()> {
    let Some(rival) = rival else {
        return say(&format!("{what}: skipped, it is not installed"));
    };
    let sample = |side: &Side| {
        let before = side.cpu_seconds()?;
        let rate = measure(side)?;
        let cpu_per_unit = (side.cpu_seconds()? - before) / rate;
        anyhow::Ok(Sample { rate, cpu_per_unit })
    };
    let mut pairs = Vec::new();
    for round in 0..rounds {
        pairs.push(if round % 2 == 0 {
            let theirs = sample(rival)?;
            (theirs, sample(ours)?)
        } else {
            let own = sample(ours)?;
            (sample(rival)?, own)
        });
    }
    let spread = |value: fn(&(Sample, Sample)) -> f64| {
        Spread::of(pairs.iter().map(value)).context("no round")
    };
    let ratio = spread(|(theirs, own)| own.rate / theirs.rate)?;
    say(&format!(
        "{what}: {ratio}; goal {goal}: {}",
        verdict(ratio.median >= goal)
    ))?;
    say(&format!(
        "    theirs {:.2}, ours {:.2}; processor time of the process between, theirs to ours: {}",
        spread(|(theirs, _)| theirs.rate)?.median,
        spread(|(_, own)| own.rate)?.median,
        spread(|(theirs, own)| theirs.cpu_per_unit / own.cpu_per_unit)?
    ))
}

/// What one side managed in one round.
struct Sample {
    rate: f64,
    cpu_per_unit: f64,
}

/// What many open flows cost: memory each, and time of a message on another.
fn flows(services: &Services, rounds: usize, seconds: u64) -> Result<()> {
    const GOAL_KIB: f64 = 20.0;
    const GOAL_RATIO: f64 = 1.2;
    // A side of its own, whose memory nothing else has touched.
    let (fresh, busy) = (Side::msb(services)?, Side::msb(services)?);
    let port = service::echo()?;
    drop(busy.hold(port, 1)?);
    let before = busy.resident_kib()?;
    let held = busy.hold(port, MANY)?;
    let each = (busy.resident_kib()? - before) / MANY as f64;
    let latency = |side: &Side| side.load("latency", port, seconds, "p50_us");
    compare_times(&latency, &fresh, &busy, rounds, GOAL_RATIO)?;
    drop(held);
    say(&format!(
        "memory of each of {MANY} open idle flows: {each:.1} KiB; goal {GOAL_KIB}: {}",
        verdict(each < GOAL_KIB)
    ))
}

fn compare_times(
    latency: &dyn Fn(&Side) -> Result<f64>,
    fresh: &Side,
    busy: &Side,
    rounds: usize,
    goal: f64,
) -> Result<()> {
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        pairs.push((latency(fresh)?, latency(busy)?));
    }
    let spread =
        |value: fn(&(f64, f64)) -> f64| Spread::of(pairs.iter().map(value)).context("no round");
    let ratio = spread(|(without, with)| with / without)?;
    say(&format!(
        "p50 of request and response, with {MANY} other open flows to without: {ratio}; goal {goal}: {}",
        verdict(ratio.median <= goal)
    ))?;
    say(&format!(
        "    without {:.1} us",
        spread(|(without, _)| *without)?.median
    ))
}

fn names(ours: &Side, services: &Services, rounds: usize, seconds: u64) -> Result<()> {
    const GOAL: f64 = 50_000.0;
    let before = services.queries.load(Ordering::Relaxed);
    let mut rates = Vec::new();
    for _ in 0..rounds {
        rates.push(ours.load("names", DNS_PORT, seconds, "rate")?);
    }
    let asked = services.queries.load(Ordering::Relaxed) - before;
    let rate = Spread::of(rates).context("no round")?;
    say(&format!(
        "DNS cache hits per second over UDP: {rate}; goal {GOAL}: {}",
        verdict(rate.median >= GOAL)
    ))?;
    say(&format!("    {asked} queries went upstream meanwhile"))
}

/// A rival whose program `cargo xtask bench` has found.
fn rival(
    variable: &str,
    name: &str,
    start: impl Fn(&std::path::Path) -> Result<Side>,
) -> Result<Option<Side>> {
    let Some(program) = std::env::var_os(variable).map(PathBuf::from) else {
        return Ok(None);
    };
    start(&program)
        .map(Some)
        .with_context(|| format!("{name} does not work here"))
}

/// Each flow of a case takes a descriptor on the host's side.
fn raise_descriptor_limit() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    Ok(setrlimit(Resource::Nofile, limit)?)
}

fn say(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}
