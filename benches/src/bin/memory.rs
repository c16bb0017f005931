//! `cargo xtask bench memory`: what the process that holds net, proxy and secrets keeps in memory when it idles.
//!
//! Two base lines stand beside it: this program with nothing but an idle tokio runtime, and `msb run` that intercepts
//! nothing. The figure is the resident set; how much of it is private anonymous memory, as against pages of
//! the program's file that others can share, is told too.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the figures are the program's output")]

use std::fs;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use msb_benches::{accelerator, facts, msb};
use msb_testkit::{CertificateKind, Origin, TestRoot};
use msb_vmm::Accelerator;

const HOST: &str = "api.example.test";
const GOAL_KIB: u64 = 30 * 1024;
/// From the last request to the sample: timers of closed connections run out, the allocator returns what it will.
const IDLE: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(120);
/// Tells this program to be the idle runtime.
const IDLE_RUNTIME: &str = "--idle-runtime";

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    if std::env::args().nth(1).as_deref() == Some(IDLE_RUNTIME) {
        println!("ready");
        // Ends with its parent, which holds the other end.
        std::io::stdin().read_to_end(&mut Vec::new())?;
        return Ok(());
    }
    println!("{}", facts());
    println!("KiB idle                               VmRSS  RssAnon  RssFile      Pss");
    let mut bare = Command::new(std::env::current_exe()?);
    sample("idle tokio runtime", bare.arg(IDLE_RUNTIME))?;

    let accelerator = runtime.block_on(accelerator())?;
    let mut plain = msb(accelerator)?;
    sample(
        "msb run, nothing intercepted",
        plain.args(["base", "--", "sh", "-c", "echo ready; exec sleep 1000"]),
    )?;
    let intercepting = runtime.block_on(intercept(accelerator))?;
    let verdict = if intercepting <= GOAL_KIB {
        "met"
    } else {
        "missed"
    };
    println!("goal: at most {GOAL_KIB} KiB VmRSS after an intercepted request: {verdict}");
    Ok(())
}

/// One request with a secret through the proxy to an origin of this process, then idle.
async fn intercept(accelerator: Accelerator) -> Result<u64> {
    let root = TestRoot::new();
    let origin = Origin::start(root.server(&[HOST], CertificateKind::Good)).await;
    let dir = tempfile::tempdir()?;
    let pem = dir.path().join("root.pem");
    fs::write(&pem, root.pem())?;
    let port = origin.address().port().to_string();
    let script = format!(
        "curl -sS https://{HOST}:{port}/v1 -H \"Authorization: Bearer $API_KEY\" >/dev/null && echo ready && exec sleep 1000"
    );
    let mut command = msb(accelerator)?;
    command
        .env("API_KEY", "sk-of-the-memory-bench")
        .args(["--secret", &format!("API_KEY@{HOST}")])
        .args(["--add-host", &format!("{HOST}:host-gateway")])
        .args(["--net", "public,host", "--tls-intercept-port", &port])
        .arg("--tls-upstream-ca-cert")
        .arg(&pem)
        .args(["base", "--", "sh", "-c", &script]);
    let rss = tokio::task::spawn_blocking(move || {
        sample("msb run, after an intercepted request", &mut command)
    })
    .await??;
    let seen = origin.wait_for(1).await;
    ensure!(
        seen[0].only_header("authorization").as_deref() == Some("Bearer sk-of-the-memory-bench"),
        "the origin did not get the secret"
    );
    Ok(rss)
}

/// Starts `command`, waits for its `ready`, lets it idle, prints its memory, ends it.
fn sample(name: &str, command: &mut Command) -> Result<u64> {
    let mut child = Ending(
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start")?,
    );
    wait_for_ready(&mut child.0)?;
    std::thread::sleep(IDLE);
    let pid = child.0.id();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let rss = kib(&status, "VmRSS")?;
    println!(
        "{name:<38} {rss:>5}  {:>7}  {:>7}  {:>7}",
        kib(&status, "RssAnon")?,
        kib(&status, "RssFile")?,
        kib(&rollup, "Pss")?
    );
    Ok(rss)
}

fn wait_for_ready(child: &mut Child) -> Result<()> {
    let mut stdout = child.stdout.take().context("no output")?;
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut said = [0; 6];
        let read = stdout.read_exact(&mut said).map(|()| said);
        // The other end may have given up.
        let _ = sender.send((read, stdout));
    });
    let start = Instant::now();
    let Ok((said, _stdout)) = receiver.recv_timeout(LIMIT) else {
        bail!("it was not ready after {} s", start.elapsed().as_secs());
    };
    ensure!(
        said.context("it ended too early")? == *b"ready\n",
        "it said something else than `ready`"
    );
    Ok(())
}

/// The value of a line `NAME:  N kB`.
fn kib(text: &str, name: &str) -> Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
        .with_context(|| format!("the kernel does not tell {name}"))
}

/// Killed when dropped; QEMU ends with it.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
