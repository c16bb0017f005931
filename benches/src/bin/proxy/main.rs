//! `cargo xtask bench proxy [ROUNDS] [SECONDS]`: the TLS proxy beside hudsucker, mitmdump, nginx and no proxy at all.
//!
//! Origin, proxy and load generator are processes of their own on the loopback interface; each proxy has as many worker
//! threads as the others. Every request carries a placeholder or, where nothing replaces one, nothing; the origin answers
//! 403 unless the real value reaches it, and the load generator takes nothing but 200. In each round both sides of a
//! comparison run one after the other, in turns. Beside requests per second stands the proxy's own processor time, which
//! other load on the machine disturbs less.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the figures are the program's output")]

mod lab;
mod sides;

use anyhow::{Context as _, Result};
use lab::{Lab, Sample};
use msb_benches::{Spread, facts};
use sides::{Proxy, Rivals};

const ROUNDS: usize = 5;
const SECONDS: usize = 3;
const MANY: usize = 16;
const IDLE: usize = 5_000;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = args.as_slice()
        && first == lab::ORIGIN
    {
        return lab::serve_origin(rest);
    }
    let number = |at: usize, default: usize| match args.get(at) {
        Some(text) => text
            .parse()
            .with_context(|| format!("{text:?} is not a number")),
        None => Ok(default),
    };
    let (rounds, seconds) = (number(0, ROUNDS)?, number(1, SECONDS)?);
    let rivals = Rivals::find();
    let lab = Lab::new()?;
    println!("{}", facts());
    println!(
        "{rounds} rounds of {seconds} s for each side, {MANY} connections, {} worker threads",
        sides::WORKERS
    );
    let keep_alive = vec![
        "requests".into(),
        format!("connections={MANY}"),
        format!("seconds={seconds}"),
        "path=/small".into(),
    ];
    let afresh = vec![
        "connections".into(),
        format!("connections={MANY}"),
        format!("seconds={seconds}"),
        "path=/small".into(),
    ];
    let download = vec!["download".into(), "path=/big".into()];
    let upload = vec![
        "upload".into(),
        "path=/up".into(),
        format!("len={}", msb_benches::origin::BIG),
    ];
    let run = |name: &str,
               rival: Option<Result<Proxy>>,
               ours: fn(&Lab) -> Result<Proxy>,
               load: &[String],
               goal|
     -> Result<()> {
        match rival {
            Some(rival) => compare(&lab, name, &rival?, &ours(&lab)?, load, rounds, goal),
            None => {
                println!("{name}: skipped, it is not installed");
                Ok(())
            }
        }
    };
    run(
        "keep-alive requests/s, against hudsucker",
        rivals.hudsucker(&lab),
        Proxy::msb_connect,
        &keep_alive,
        1.3,
    )?;
    run(
        "keep-alive requests/s, against mitmdump",
        rivals.mitmdump(&lab),
        Proxy::msb_connect,
        &keep_alive,
        20.0,
    )?;
    run(
        "keep-alive requests/s, against nginx",
        rivals.nginx(&lab),
        Proxy::msb_transparent,
        &keep_alive,
        0.5,
    )?;
    run(
        "new connections/s, against nginx",
        rivals.nginx(&lab),
        Proxy::msb_transparent,
        &afresh,
        0.6,
    )?;
    hybrid(&lab, &afresh, rounds)?;
    run(
        "1 GiB download, against nginx",
        rivals.nginx(&lab),
        Proxy::msb_transparent,
        &download,
        0.8,
    )?;
    run(
        "1 GiB upload, against nginx",
        rivals.nginx(&lab),
        Proxy::msb_transparent,
        &upload,
        0.8,
    )?;
    added_latency(&lab, rounds, seconds)?;
    minting()?;
    idle(&lab, &Proxy::msb_transparent(&lab)?, "msb")?;
    if let Some(nginx) = rivals.nginx(&lab) {
        idle(&lab, &nginx?, "nginx")?;
    }
    Ok(())
}

/// Rates of both sides in turns; the ratio is ours to theirs, so more is better.
fn compare(
    lab: &Lab,
    name: &str,
    rival: &Proxy,
    ours: &Proxy,
    load: &[String],
    rounds: usize,
    goal: f64,
) -> Result<()> {
    let mut pairs = Vec::new();
    for round in 0..rounds {
        pairs.push(if round % 2 == 0 {
            let theirs = lab.load(rival, load)?;
            (theirs, lab.load(ours, load)?)
        } else {
            let own = lab.load(ours, load)?;
            (lab.load(rival, load)?, own)
        });
    }
    let spread = |value: &dyn Fn(&(Sample, Sample)) -> f64| {
        Spread::of(pairs.iter().map(value)).context("no round")
    };
    let ratio = spread(&|(theirs, own)| own.rate / theirs.rate)?;
    println!(
        "{name}: {ratio}; goal {goal}: {}",
        verdict(ratio.median >= goal)
    );
    println!(
        "    theirs {:.1}, ours {:.1}; processor time of the proxy, theirs to ours: {}",
        spread(&|(theirs, _)| theirs.rate)?.median,
        spread(&|(_, own)| own.rate)?.median,
        spread(&|(theirs, own)| theirs.cpu_per_unit / own.cpu_per_unit)?
    );
    Ok(())
}

/// What it costs that a client agrees on keys by X25519MLKEM768, which the comparisons leave out.
fn hybrid(lab: &Lab, load: &[String], rounds: usize) -> Result<()> {
    let ours = Proxy::msb_transparent(lab)?;
    let with = [load, &["hybrid=yes".into()]].concat();
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let (without, with) = (lab.load(&ours, load)?, lab.load(&ours, &with)?);
        ratios.push(with.rate / without.rate);
    }
    println!(
        "new connections/s with X25519MLKEM768 on the client's side, against X25519: {}",
        Spread::of(ratios).context("no round")?
    );
    Ok(())
}

/// What the proxy adds to a request on an open connection, one at a time.
fn added_latency(lab: &Lab, rounds: usize, seconds: usize) -> Result<()> {
    const GOAL: f64 = 60.0;
    let (direct, ours) = (Proxy::direct(lab), Proxy::msb_transparent(lab)?);
    let load = [
        "requests".into(),
        "connections=1".into(),
        format!("seconds={seconds}"),
        "path=/small".into(),
    ];
    let mut added = Vec::new();
    for _ in 0..rounds {
        let (direct, through) = (lab.load(&direct, &load)?, lab.load(&ours, &load)?);
        added.push((
            through.p50_micros - direct.p50_micros,
            through.p50_micros / direct.p50_micros,
        ));
    }
    let micros = Spread::of(added.iter().map(|(micros, _)| *micros)).context("no round")?;
    let ratio = Spread::of(added.iter().map(|(_, ratio)| *ratio)).context("no round")?;
    println!(
        "p50 added to a keep-alive request, us: {micros}; goal {GOAL}: {}",
        verdict(micros.median <= GOAL)
    );
    println!("    through msb to direct: {ratio}");
    Ok(())
}

/// A leaf for a name that was never asked for, which is what a first connection waits for more than a second one.
fn minting() -> Result<()> {
    const GOAL: f64 = 150.0;
    let now = std::time::SystemTime::now();
    let ca = msb_ca::SandboxCa::generate("bench", now)?;
    let minter = msb_ca::LeafMinter::new(ca)?;
    let mut micros = Vec::new();
    for i in 0..2_000 {
        let host = msb_ca_host(i)?;
        let start = std::time::Instant::now();
        minter.mint(&host, now)?;
        micros.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let micros = Spread::of(micros).context("nothing minted")?;
    println!(
        "minting a leaf, us: {micros}; goal {GOAL}: {}",
        verdict(micros.median <= GOAL)
    );
    Ok(())
}

fn msb_ca_host(i: usize) -> Result<msb_name::Host> {
    Ok(format!("host-{i}.example.test").parse()?)
}

/// Resident memory for each connection that was used once and stays open.
fn idle(lab: &Lab, proxy: &Proxy, name: &str) -> Result<()> {
    const GOAL: f64 = 40.0;
    // One connection first, so that what is set up once does not count.
    lab.load(
        proxy,
        &[
            "connections".into(),
            "connections=1".into(),
            "seconds=1".into(),
            "path=/small".into(),
        ],
    )?;
    let before = proxy.resident_kib()?;
    let during = lab.idle(proxy, IDLE)?;
    let each = (during - before) / IDLE as f64;
    println!(
        "memory of each of {IDLE} idle connections, {name}: {each:.1} KiB; goal {GOAL}: {}",
        verdict(each <= GOAL)
    );
    Ok(())
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}
