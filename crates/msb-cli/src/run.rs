//! `msb run`: one sandbox, one command, and nothing left behind.

use std::ffi::OsString;

use anyhow::{Context as _, Result, anyhow, bail};
use msb::{EventFile, EventWriter, Sandbox, SandboxBuilder};
use tokio::runtime::Handle;

use crate::args::Run;
use crate::interrupt::Interrupts;
use crate::program::ProgramArgs;
use crate::{image, report};

const NO_COMMAND: &str = "there is no command: the image says none, so write one behind `--`, as in `msb run IMAGE -- sh`";

/// Runs the command to its end and returns the exit status for it.
///
/// # Errors
/// What kept the command from running or cut it off.
pub(crate) async fn run(args: Run) -> Result<u8> {
    let mut interrupts = Interrupts::new().context("cannot watch for signals")?;
    let command = utf8(&args.command)?;
    let program = args.program.clone();
    program.check()?;
    let sets_term = args.env.iter().any(|text| names(text, "TERM"));
    if args.no_command {
        bail!("--no-command is for sandboxes in the background: add -d");
    }
    let name = args.name.clone().unwrap_or_else(|| "sandbox".to_owned());
    let asked_for_any = args.ports_of_any_number();
    let events = args.engine.events.as_deref().map(EventFile::open);
    let events = events.transpose().context("--events")?;
    let writer = events.as_ref().map(EventFile::writer);
    // A command that tells a value may take its time.
    let building = tokio::task::spawn_blocking(move || {
        let args = with_image(args)?;
        check_command(&args)?;
        builder(args, &name, writer, true)
    });
    let builder = tokio::select! {
        builder = building => builder??,
        code = interrupts.next() => return Ok(code),
    };
    let sandbox = tokio::select! {
        sandbox = builder.create() => sandbox?,
        code = interrupts.next() => return Ok(code),
    };
    for port in sandbox
        .ports()
        .filter(|port| asked_for_any.contains(&port.guest_port))
    {
        report::note(&format!("published {port}"));
    }
    let outcome = tokio::select! {
        outcome = execute(&sandbox, &command, &program, sets_term) => outcome,
        code = interrupts.next() => Ok(code),
    };
    // Nothing of the guest is kept, so it need not be powered off in order.
    sandbox.kill().await;
    outcome
}

/// Whether there is something to run, before a guest is booted for nothing.
fn check_command(args: &Run) -> Result<()> {
    let says = |image: &String| image::says_command(image);
    match args.command.is_empty() && !args.image.as_ref().is_some_and(says) {
        true => bail!(NO_COMMAND),
        false => Ok(()),
    }
}

/// The same with the name of an image that is in the store, after importing or pulling what was named. For a thread that
/// may wait.
fn with_image(mut args: Run) -> Result<Run> {
    if let Some(image) = args.image.take() {
        let resolved = Handle::current().block_on(image::resolve(&image, &args.registry))?;
        args.image = Some(resolved);
    }
    Ok(args)
}

/// The sandbox that the flags describe; with the values of its secrets, or without.
pub(crate) fn builder(
    args: Run,
    name: &str,
    events: Option<EventWriter>,
    with_values: bool,
) -> Result<SandboxBuilder> {
    let args = with_image(args)?;
    let ulimits = args.program.ulimits.iter().copied();
    let mut builder = ulimits
        .fold(Sandbox::builder(name), SandboxBuilder::ulimit)
        .cpus(args.cpus)
        .memory(args.memory)
        .accelerator(args.accel);
    if let Some(bytes) = args.disk {
        builder = builder.scratch_disk(bytes);
    }
    builder = args
        .volumes
        .into_iter()
        .fold(builder, SandboxBuilder::mount);
    if let Some(bound) = args.max_duration {
        builder = builder.max_duration(bound);
    }
    if let Some(bound) = args.idle_timeout {
        builder = builder.idle_timeout(bound);
    }
    if let Some(image) = args.image {
        builder = builder.image(image);
    }
    for (path, set) in [
        (args.rootfs, SandboxBuilder::rootfs as fn(_, _) -> _),
        (args.kernel, SandboxBuilder::kernel),
        (args.initramfs, SandboxBuilder::initramfs),
        (args.qemu, SandboxBuilder::qemu),
    ] {
        if let Some(path) = path {
            builder = set(builder, path);
        }
    }
    for text in args.env {
        let (name, value) = variable(&text)?;
        builder = builder.env(name, value);
    }
    for spec in args.engine.secrets.specs()? {
        let secret = match with_values {
            true => spec.builder(spec.read()?, None),
            false => spec.settings(None),
        };
        builder = builder.secret(|_| secret);
    }
    if let Some(events) = events {
        builder = builder.on_event(move |event| events.write(event));
    }
    let engine = args.engine;
    let intercept = args.tls_allow_quic
        || args.tls_intercept
        || !args.tls_intercept_ports.is_empty()
        || engine.wants_tls();
    Ok(builder.network(|network| {
        let network = engine.network(network).trust_host_cas(args.trust_host_cas);
        let network = args.limits.network(network);
        if !intercept {
            return network;
        }
        network.tls(|mut tls| {
            if !args.tls_intercept_ports.is_empty() {
                tls = tls.intercepted_ports(args.tls_intercept_ports);
            }
            engine.tls(tls.block_quic(!args.tls_allow_quic))
        })
    }))
}

/// `NAME=VALUE`, or `NAME` for the value it has here.
pub(crate) fn variable(text: &str) -> Result<(String, String)> {
    if let Some((name, value)) = text.split_once('=') {
        return Ok((name.to_owned(), value.to_owned()));
    }
    let value = host_variable(text)
        .with_context(|| format!("--env {text}: export {text} first or write {text}=VALUE"))?;
    Ok((text.to_owned(), value))
}

/// Whether `text` sets the variable `name`.
pub(crate) fn names(text: &str, name: &str) -> bool {
    text.split_once('=').map_or(text, |(name, _)| name) == name
}

/// A variable of msb's own environment. The errors do not show it.
fn host_variable(name: &str) -> Result<String> {
    let value =
        std::env::var_os(name).ok_or_else(|| anyhow!("the environment has no variable {name}"))?;
    value
        .into_string()
        .map_err(|_| anyhow!("the value of the environment variable {name} is not UTF-8"))
}

pub(crate) fn utf8(command: &[OsString]) -> Result<Vec<String>> {
    command
        .iter()
        .map(|word| match word.to_str() {
            Some(word) => Ok(word.to_owned()),
            None => bail!("the command's argument {word:?} is not UTF-8"),
        })
        .collect()
}

async fn execute(
    sandbox: &Sandbox,
    command: &[String],
    program: &ProgramArgs,
    sets_term: bool,
) -> Result<u8> {
    let config = sandbox.image_config();
    let command = config.command(command);
    let (name, args) = command.split_first().context(NO_COMMAND)?;
    let mut command = sandbox.command(name).args(args).user(&config.user);
    if !config.working_dir.is_empty() {
        command = command.cwd(&config.working_dir);
    }
    program.run(command, sets_term).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_given_or_taken_from_here() {
        let path = std::env::var("PATH").expect("set");
        for (text, expected) in [
            ("A=b", Some(("A", "b"))),
            ("A=", Some(("A", ""))),
            ("A=b=c", Some(("A", "b=c"))),
            ("PATH", Some(("PATH", path.as_str()))),
            ("MSB_TEST_NOT_SET", None),
        ] {
            let got = variable(text).ok();
            let expected = expected.map(|(n, v): (&str, &str)| (n.to_owned(), v.to_owned()));
            assert_eq!(got, expected, "{text}");
        }
    }
}
