//! What programs and copies cost in a sandbox that runs, beside what the guest itself or tar takes for the same.
//!
//! All is measured at the command line, from the start of an `msb` to its end, on one sandbox in the background.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use msb_benches::{Running, Spread, msb_program};
use msb_vmm::Accelerator;

const NAME: &str = "bench";
const EXECS: usize = 50;
const FILES: usize = 10_000;
const COPIES: usize = 3;
const STREAMS: usize = 3;
const PIECE: usize = 1 << 20;
const LIMIT: Duration = Duration::from_secs(600);

/// At most so many milliseconds, by the median.
const EXEC_GOAL_MS: f64 = 20.0;
/// At least so many megabytes a second, by the median.
const STREAM_GOAL: f64 = 50.0;
/// At most so many times as long as tar, by the median.
const COPY_GOAL: f64 = 5.0;

/// A sandbox in the background, in a state directory of its own. Dropping it ends it.
struct Sandbox {
    program: PathBuf,
    dir: tempfile::TempDir,
}

/// Measures all, with `mib` MiB through a program's standard input and output.
pub(crate) fn measure(accelerator: Accelerator, mib: usize) -> Result<()> {
    let sandbox = Sandbox::start(accelerator)?;
    execs(&sandbox)?;
    streams(&sandbox, mib)?;
    copies(&sandbox)
}

impl Sandbox {
    fn start(accelerator: Accelerator) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let sandbox = Self {
            program: msb_program()?,
            dir,
        };
        let accel = accelerator.to_string().to_lowercase();
        let run = ["run", "-d", "--name", NAME, "--accel", &accel];
        sandbox.finish(sandbox.msb(run).args(["--memory", "1024", "base"]))?;
        Ok(sandbox)
    }

    fn msb<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(&self.program);
        command.env("MSB_STATE", self.dir.path().join("state"));
        command.args(args);
        command
    }

    fn exec<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.msb(["exec", "-i", NAME, "--"]);
        command.args(args);
        command
    }

    /// Runs `command` to its end, and tells how long that took and what it wrote.
    fn finish(&self, command: &mut Command) -> Result<(Duration, String)> {
        let finished = Running::start(command)?.finish(LIMIT)?;
        ensure!(
            finished.status.success(),
            "{command:?} ended with {}: {}",
            finished.status,
            finished.stderr
        );
        Ok((finished.took, finished.stdout))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = self.finish(&mut self.msb(["rm", "-f", NAME])) {
            eprintln!("the sandbox is left over: {error}");
        }
    }
}

fn execs(sandbox: &Sandbox) -> Result<()> {
    let mut took = Vec::new();
    for _ in 0..=EXECS {
        let (time, _) = sandbox.finish(&mut sandbox.exec(["true"]))?;
        took.push(ms(time));
    }
    // The first brings files into the guest's page cache.
    let took = Spread::of(took.into_iter().skip(1)).context("nothing was measured")?;
    // The same program by the guest's own shell, many times in one exec.
    let script = format!("i=0; while [ $i -lt {EXECS} ]; do /bin/true; i=$((i+1)); done");
    let timed = format!("s=$(date +%s%N); {script}; e=$(date +%s%N); echo $((e-s))");
    let (_, text) = sandbox.finish(&mut sandbox.exec(["sh", "-c", &timed]))?;
    let own: f64 = text.trim().parse().context("the guest's own time")?;
    println!("exec of true, ms:      {took}");
    println!("  by the guest's own shell {:.1}", own / 1e6 / EXECS as f64);
    verdict("at most", EXEC_GOAL_MS, took.median <= EXEC_GOAL_MS);
    Ok(())
}

fn streams(sandbox: &Sandbox, mib: usize) -> Result<()> {
    let mut rates = Vec::new();
    for _ in 0..STREAMS {
        let took = through(&mut sandbox.exec(["cat"]), mib)?;
        rates.push((mib * PIECE) as f64 / 1e6 / took.as_secs_f64());
    }
    let rates = Spread::of(rates).context("nothing was measured")?;
    println!("{mib} MiB through cat, MB/s: {rates}");
    // What the guest's own pipes take for it: two copies into one, two out of it.
    let piped = format!("head -c {mib}M /dev/zero | cat >/dev/null");
    let (took, _) = sandbox.finish(&mut sandbox.exec(["sh", "-c", &piped]))?;
    println!(
        "  from pipe to pipe in the guest {:.0}",
        (mib * PIECE) as f64 / 1e6 / took.as_secs_f64()
    );
    verdict("at least", STREAM_GOAL, rates.median >= STREAM_GOAL);
    Ok(())
}

/// Sends `mib` MiB through `command`, and checks that they come back as they were.
fn through(command: &mut Command, mib: usize) -> Result<Duration> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no input")?;
    let mut stdout = child.stdout.take().context("no output")?;
    // A prime length: a piece that is lost or comes twice shifts all behind it.
    let pattern: Vec<u8> = (0..251_u8).cycle().take(PIECE + 251).collect();
    let sent = pattern.clone();
    let feed = std::thread::spawn(move || -> std::io::Result<()> {
        for piece in 0..mib {
            let at = piece * PIECE % 251;
            stdin.write_all(&sent[at..at + PIECE])?;
        }
        Ok(())
    });
    let mut came = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let len = stdout.read(&mut buffer)?;
        if len == 0 {
            break;
        }
        let at = came % 251;
        ensure!(
            buffer[..len] == pattern[at..at + len],
            "other bytes came back behind {came}"
        );
        came += len;
    }
    let status = end(child)?;
    ensure!(
        status.success() && came == mib * PIECE,
        "{came} bytes came back, {status}"
    );
    feed.join().ok().context("the feeder panicked")??;
    Ok(start.elapsed())
}

fn end(mut child: Child) -> Result<ExitStatus> {
    Ok(child.wait()?)
}

fn copies(sandbox: &Sandbox) -> Result<()> {
    let host = tempfile::tempdir()?;
    let tree = host.path().join("tree");
    make(&tree)?;
    let (mut into, mut out) = (Vec::new(), Vec::new());
    for pair in 0..COPIES {
        let ours = format!("{NAME}:/tmp/ours");
        let path = tree
            .to_str()
            .context("a temporary directory that is not UTF-8")?;
        let back = host.path().join("back");
        let back = back
            .to_str()
            .context("a temporary directory that is not UTF-8")?;
        let copy_in = || Ok(sandbox.finish(&mut sandbox.msb(["cp", path, &ours]))?.0);
        let tar_in = || untar(sandbox, host.path());
        let copy_out = || Ok(sandbox.finish(&mut sandbox.msb(["cp", &ours, back]))?.0);
        let tar_out = || tar_back(sandbox, host.path());
        let (ours_in, theirs_in) = both(pair, copy_in, tar_in)?;
        let (ours_out, theirs_out) = both(pair, copy_out, tar_out)?;
        ensure!(
            fs::read_dir(back)?.count() == fs::read_dir(host.path().join("theirs/tree"))?.count(),
            "the copies differ"
        );
        sandbox.finish(&mut sandbox.exec(["rm", "-rf", "/tmp/ours", "/tmp/tree"]))?;
        fs::remove_dir_all(back)?;
        fs::remove_dir_all(host.path().join("theirs"))?;
        into.push(ours_in.as_secs_f64() / theirs_in.as_secs_f64());
        out.push(ours_out.as_secs_f64() / theirs_out.as_secs_f64());
    }
    for (way, ratios) in [("in", into), ("out", out)] {
        let ratios = Spread::of(ratios).context("nothing was measured")?;
        println!("cp of {FILES} files {way}, against tar: {ratios}");
        verdict("at most", COPY_GOAL, ratios.median <= COPY_GOAL);
    }
    Ok(())
}

/// Alternating which goes first.
fn both(
    pair: usize,
    ours: impl Fn() -> Result<Duration>,
    theirs: impl Fn() -> Result<Duration>,
) -> Result<(Duration, Duration)> {
    if pair.is_multiple_of(2) {
        let ours = ours()?;
        Ok((ours, theirs()?))
    } else {
        let theirs = theirs()?;
        Ok((ours()?, theirs))
    }
}

/// `tar` here into `tar` there.
fn untar(sandbox: &Sandbox, dir: &Path) -> Result<Duration> {
    let mut pack = Command::new("tar");
    pack.args(["-cf", "-", "-C"]).arg(dir).arg("tree");
    piped(
        &mut pack,
        &mut sandbox.exec(["tar", "-xf", "-", "-C", "/tmp"]),
    )
}

/// `tar` there into `tar` here.
fn tar_back(sandbox: &Sandbox, dir: &Path) -> Result<Duration> {
    let theirs = dir.join("theirs");
    fs::create_dir(&theirs)?;
    let mut unpack = Command::new("tar");
    unpack.args(["-xf", "-", "-C"]).arg(theirs);
    piped(
        &mut sandbox.exec(["tar", "-cf", "-", "-C", "/tmp", "tree"]),
        &mut unpack,
    )
}

fn piped(from: &mut Command, to: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    let mut from = from.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let output = from.stdout.take().context("no output")?;
    let to = to.stdin(output).stdout(Stdio::null()).spawn()?;
    for child in [from, to] {
        let status = end(child)?;
        ensure!(status.success(), "a copy by tar ended with {status}");
    }
    Ok(start.elapsed())
}

fn make(tree: &Path) -> Result<()> {
    for n in 0..FILES {
        let dir = tree.join(format!("d{}", n % 100));
        if n < 100 {
            fs::create_dir_all(&dir)?;
        }
        let text = format!("{n}\n").repeat(n % 200);
        fs::write(dir.join(format!("file-{n}")), text)?;
    }
    Ok(())
}

fn verdict(bound: &str, goal: f64, met: bool) {
    let verdict = if met { "met" } else { "missed" };
    println!("goal: {bound} {goal} by the median: {verdict}");
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
