//! Shows a sandbox at work, for a person to read; `cargo xtask demo` runs it.
//!
//! Everything is real: the microVM, the guest's own curl, the TLS servers on this host. Each claim is checked where
//! it would fail; the exit status is 1 if one does not hold.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    reason = "what it prints is what it is there for"
)]

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use msb::{Output, Sandbox};
use msb_e2e::{API, OTHER, Origins, PINNED, certificates, is_signed_by};

/// The port of the issue that asks for this demonstration.
const PORT: u16 = 8443;
/// The whole demonstration takes about 10 s on two slow cores.
const AT_MOST: Duration = Duration::from_secs(85);

#[tokio::main]
async fn main() -> ExitCode {
    let demo = tokio::time::timeout(AT_MOST, demo());
    let outcome = tokio::select! {
        outcome = demo => outcome.unwrap_or_else(|_| bail_after(AT_MOST)),
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!();
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bail_after(limit: Duration) -> Result<()> {
    bail!("not finished after {} s", limit.as_secs())
}

async fn demo() -> Result<()> {
    let start = Instant::now();
    let origins = Origins::start(free_port()).await;
    // New in each run, so that nothing can have seen it before.
    let value = format!("sk-demo-{:016x}", random());
    let sandbox = Sandbox::builder("demo")
        .image("base")
        .secret(|s| s.env("API_KEY").value(&value).allow_host(API))
        .network(|n| origins.network(n))
        .create()
        .await
        .context("the sandbox does not start")?;
    let boot = start.elapsed();
    let shell = Shell { sandbox: &sandbox };
    introduce(&shell, &origins, &value, boot).await?;
    let mut claims = Claims::default();
    claims.next("The guest holds a placeholder, not the value");
    claims.check(placeholder(&shell, &value).await);
    claims.next("The guest's own curl trusts this sandbox's authority: no -k");
    claims.check(intercepted(&shell, &origins).await);
    claims.next("The server behind it received the real value");
    claims.check(received(&origins, &value));
    claims.next("The same request to a server that may not have the value is reset");
    claims.check(reset(&shell, &origins).await);
    claims.next("A bypassed server shows its own certificate");
    claims.check(bypassed(&shell, &origins).await);
    let qemu = PathBuf::from(format!("/proc/{}", sandbox.vmm_pid()));
    sandbox.stop().await?;
    ensure!(
        !qemu.exists(),
        "QEMU is still there after the sandbox was stopped"
    );
    claims.conclude(start.elapsed())
}

async fn introduce(
    shell: &Shell<'_>,
    origins: &Origins,
    value: &str,
    boot: Duration,
) -> Result<()> {
    let system = shell
        .quiet(". /etc/os-release; echo \"$PRETTY_NAME, Linux $(uname -r)\"")
        .await?;
    println!("A microVM runs: {}", system.stdout()?.trim());
    println!(
        "  QEMU is process {}, accelerated by {}, up after {:.1} s",
        shell.sandbox.vmm_pid(),
        shell.sandbox.accelerator(),
        boot.as_secs_f64()
    );
    println!("Three TLS servers run on this host, under a root that only the proxy was given:");
    for (name, role) in [
        (API, "may have the secret API_KEY"),
        (OTHER, "may not"),
        (PINNED, "is bypassed"),
    ] {
        println!("  {:<26} {role}", format!("{name}:{}", origins.port(name)));
    }
    println!("The value of API_KEY is {value}. The guest was never given it.");
    Ok(())
}

async fn placeholder(shell: &Shell<'_>, value: &str) -> Result<()> {
    let out = shell.run("env | grep API_KEY").await?;
    ensure!(
        out.stdout()? == "API_KEY=$MSB_API_KEY\n",
        "the environment holds {:?}",
        out.stdout()?
    );
    let all = shell
        .quiet("cat /proc/[0-9]*/environ /proc/cmdline")
        .await?;
    let all = String::from_utf8_lossy(all.stdout_bytes()).into_owned();
    ensure!(
        all.contains("API_KEY=$MSB_API_KEY"),
        "the environment of the guest's processes cannot be read"
    );
    ensure!(
        !all.contains(value),
        "a process of the guest has the value in its environment"
    );
    say("no process of the guest has the value in its environment");
    Ok(())
}

async fn intercepted(shell: &Shell<'_>, origins: &Origins) -> Result<()> {
    let out = shell.run(&request(origins, API)).await?;
    ensure!(out.status().success(), "curl ended with {}", out.status());
    ensure!(
        out.stdout()?.starts_with(&format!("hello from {API}\n")),
        "the answer was {:?}",
        out.stdout()?
    );
    let ca = shell
        .sandbox
        .ca_certificate()
        .context("the sandbox has no authority")?;
    let ca = certificates(ca);
    let ca = ca.first().context("the authority has no certificate")?;
    is_signed_by(&certificates(out.stdout()?), ca, API).map_err(|reason| {
        anyhow::anyhow!("the certificate curl saw is not of this sandbox's authority: {reason}")
    })?;
    say("that certificate is signed by sandbox.ca_certificate()");
    Ok(())
}

fn received(origins: &Origins, value: &str) -> Result<()> {
    let requests = origins.api.requests();
    let [request] = requests.as_slice() else {
        bail!("{API} received {} requests", requests.len());
    };
    let authorization = request.only_header("authorization").unwrap_or_default();
    println!("   {API}: {} {}", request.method, request.target);
    println!("   {API}: Authorization: {authorization}");
    ensure!(
        authorization == format!("Bearer {value}"),
        "the value is {value}"
    );
    Ok(())
}

async fn reset(shell: &Shell<'_>, origins: &Origins) -> Result<()> {
    let out = shell.run(&request(origins, OTHER)).await?;
    let error = out.stderr()?;
    ensure!(
        matches!(out.status().code(), Some(35 | 56)) && error.contains("reset"),
        "curl ended with {}, not with a reset connection",
        out.status()
    );
    let bytes = origins.other.received().len();
    ensure!(
        bytes == 0 && origins.other.requests().is_empty(),
        "{OTHER} received {bytes} bytes"
    );
    say(&format!("{OTHER} received 0 bytes"));
    Ok(())
}

async fn bypassed(shell: &Shell<'_>, origins: &Origins) -> Result<()> {
    let save = "printf %s \"$ROOT\" > /tmp/root.pem";
    let saved = shell
        .sandbox
        .command("/bin/sh")
        .args(["-c", save])
        .env("ROOT", origins.root.pem())
        .output()
        .await?;
    ensure!(saved.status().success(), "the root cannot be saved");
    let line = format!(
        "curl -sS --cacert /tmp/root.pem -w '%{{certs}}' {}/",
        origins.url(PINNED)
    );
    let out = shell.run(&line).await?;
    ensure!(out.status().success(), "curl ended with {}", out.status());
    let seen = certificates(out.stdout()?);
    let stream = msb_testkit::connect_tls(origins.pinned.address(), PINNED, &origins.root.der())
        .await
        .context("the server does not answer this host")?;
    let own = stream.get_ref().1.peer_certificates();
    ensure!(
        own.is_some_and(|own| !own.is_empty() && own == seen),
        "the certificate curl saw is another"
    );
    say("that certificate is, byte for byte, what this host sees");
    Ok(())
}

/// What an API's client sends. `%{certs}` has curl print the certificates it was shown.
fn request(origins: &Origins, name: &str) -> String {
    format!(
        "curl -sS -w '%{{certs}}' {}/v1 -H \"Authorization: Bearer $API_KEY\"",
        origins.url(name)
    )
}

/// Runs lines in the guest.
struct Shell<'a> {
    sandbox: &'a Sandbox,
}

impl Shell<'_> {
    async fn quiet(&self, line: &str) -> Result<Output> {
        Ok(self.sandbox.exec("/bin/sh", ["-c", line]).await?)
    }

    /// Shows the line and what came of it, of certificates only who issued the first.
    async fn run(&self, line: &str) -> Result<Output> {
        println!("   guest$ {line}");
        let out = self.quiet(line).await?;
        let mut issued = false;
        for line in out.stdout()?.lines() {
            if line.starts_with("Subject:") && issued {
                break;
            }
            if let Some(issuer) = line.strip_prefix("Issuer:") {
                println!("     certificate issued by {issuer}");
                issued = true;
            } else if !issued && !line.starts_with("Subject:") {
                println!("     {line}");
            }
        }
        for line in out.stderr()?.lines() {
            println!("     {line}");
        }
        if !out.status().success() {
            println!("     ({})", out.status());
        }
        Ok(out)
    }
}

#[derive(Default)]
struct Claims {
    made: usize,
    claim: &'static str,
    failed: Vec<&'static str>,
}

impl Claims {
    fn next(&mut self, claim: &'static str) {
        self.made += 1;
        self.claim = claim;
        println!("\n{}. {claim}", self.made);
    }

    fn check(&mut self, outcome: Result<()>) {
        match outcome {
            Ok(()) => println!("   yes"),
            Err(error) => {
                println!("   NOT SO: {error:#}");
                self.failed.push(self.claim);
            }
        }
    }

    fn conclude(self, took: Duration) -> Result<()> {
        if !self.failed.is_empty() {
            bail!("not so: {}", self.failed.join("; "));
        }
        println!(
            "\nAll {} hold. The guest is stopped and QEMU is gone, {:.1} s after the start.",
            self.made,
            took.as_secs_f64()
        );
        Ok(())
    }
}

fn say(line: &str) {
    println!("   {line}");
}

/// The wanted port, or another when something on this host uses it.
fn free_port() -> u16 {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)) {
        Ok(_) => PORT,
        Err(error) => {
            println!("Port {PORT} cannot be used ({error}); another takes its place.");
            0
        }
    }
}

fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0)
}
