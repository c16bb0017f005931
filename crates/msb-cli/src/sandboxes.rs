//! Sandboxes that outlive the command that made them: one subcommand each.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use msb::{Detach, SandboxHandle, SandboxInfo, SandboxState, Sandboxes, SecretValues, Supervisor};
use tokio::io::AsyncWriteExt as _;

use crate::args::Run;
use crate::interrupt::Interrupts;
use crate::secrets::SecretArgs;
use crate::{report, run};

mod attach;
mod keys;
mod show;

pub(crate) use attach::{Attach, Logs, attach, logs};
pub(crate) use show::{List, inspect, list};

/// What is kept with a sandbox of where values of its secrets are: the flags, which hold none.
const SECRET_FLAGS: &str = "msb.secret-flags";

#[derive(Debug, Args)]
pub(crate) struct Names {
    /// The names of sandboxes.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    names: Names,

    /// How many seconds the command, and then the guest, may take before they are ended by force.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    #[command(flatten)]
    names: Names,

    /// Sends this signal to the command instead: a name such as HUP, or a number.
    #[arg(short, long, value_name = "SIGNAL", value_parser = parse_signal)]
    signal: Option<i32>,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    names: Names,

    /// Ends those that run first.
    #[arg(short, long)]
    force: bool,
}

/// `msb run -d` and `msb create`.
pub(crate) async fn make(args: Run, start: bool) -> Result<u8> {
    let name = args.name.clone().unwrap_or_else(new_name);
    let detach = detach(&args)?;
    let mut interrupts = Interrupts::new().context("cannot watch for signals")?;
    let ports = args.ports_of_any_number();
    let building = tokio::task::spawn_blocking({
        let name = name.clone();
        move || run::builder(args, &name, None, start)
    });
    let builder = tokio::select! {
        builder = building => builder??,
        code = interrupts.next() => return Ok(code),
    };
    let sandboxes = Sandboxes::open_default()?;
    let supervisor = supervisor()?;
    // Until it is written down the name may be another's.
    let values = tokio::select! {
        values = sandboxes.create(builder, &detach) => values?,
        code = interrupts.next() => return Ok(code),
    };
    if !start {
        return print(&name).await;
    }
    let sandbox = tokio::select! {
        sandbox = sandboxes.start_new(&name, &supervisor, values) => sandbox?,
        code = interrupts.next() => {
            // Its supervisor ends by itself, since nobody waits for it.
            let _ = sandboxes.force_remove(&name).await;
            return Ok(code);
        }
    };
    tell_ports(&sandbox, &ports).await;
    print(&name).await
}

fn detach(args: &Run) -> Result<Detach> {
    let mut detach = Detach::new()
        .command(run::utf8(&args.command)?)
        .keep_stdin(args.program.interactive)
        .annotation(SECRET_FLAGS, serde_json::to_string(&args.engine.secrets)?);
    if args.no_command {
        detach = detach.no_command();
    }
    detach = args.program.detach(detach);
    if let Some(file) = &args.engine.events {
        detach = detach.events(file);
    }
    Ok(detach)
}

async fn tell_ports(sandbox: &SandboxHandle, asked_for_any: &[u16]) {
    if asked_for_any.is_empty() {
        return;
    }
    // It may have ended already.
    for port in sandbox.ports().await.unwrap_or_default() {
        if asked_for_any.contains(&port.guest_port) {
            report::note(&format!("published {port}"));
        }
    }
}

/// A name that nobody has, as good as surely.
fn new_name() -> String {
    use std::hash::{BuildHasher as _, Hasher as _};
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("sandbox-{:08x}", random & 0xffff_ffff)
}

/// This very program.
fn supervisor() -> Result<Supervisor> {
    let program = std::env::current_exe().context("cannot find this program")?;
    Ok(Supervisor::msb(program))
}

/// `msb start`.
pub(crate) async fn start(names: Names) -> Result<u8> {
    let sandboxes = Sandboxes::open_default()?;
    let supervisor = supervisor()?;
    let mut interrupts = Interrupts::new().context("cannot watch for signals")?;
    let started = each(&names, async |name| {
        let info = sandboxes.info(name).await?;
        let reading = tokio::task::spawn_blocking(move || values(&info));
        let values = reading.await??;
        sandboxes.start(name, &supervisor, values).await?;
        Ok(())
    });
    tokio::select! {
        started = started => started,
        code = interrupts.next() => Ok(code),
    }
}

/// Does it for each of them and prints its name. One that fails keeps the others from nothing; the first failure's exit status
/// is that of all.
async fn each(names: &Names, act: impl AsyncFn(&str) -> Result<()>) -> Result<u8> {
    let mut code = None;
    for name in &names.names {
        match act(name).await {
            Ok(()) => drop(print(name).await?),
            // Alone it is told as any other failure is.
            Err(error) if names.names.len() == 1 => return Err(error),
            Err(error) => {
                let told = report::tell(&error);
                code = code.or(Some(told));
            }
        }
    }
    Ok(code.unwrap_or_default())
}

/// The values of a sandbox's secrets, from where its flags say they are.
fn values(info: &SandboxInfo) -> Result<SecretValues> {
    let Some(flags) = info.annotations.get(SECRET_FLAGS) else {
        return Ok(SecretValues::new());
    };
    let flags: SecretArgs = serde_json::from_str(flags).with_context(|| {
        format!(
            "the sandbox {} was not made by this version of msb",
            info.name
        )
    })?;
    let mut values = SecretValues::new();
    for spec in flags.specs()? {
        values = values.of(spec.builder(spec.read()?, None));
    }
    Ok(values)
}

/// `msb stop`.
pub(crate) async fn stop(args: Stop) -> Result<u8> {
    let sandboxes = Sandboxes::open_default()?;
    let timeout = Duration::from_secs(args.timeout.into());
    each(&args.names, async |name| {
        match sandboxes.connect(name).await {
            Ok(sandbox) => sandbox.stop(timeout).await?,
            Err(error) => return ended_already(&sandboxes, name, error).await,
        };
        Ok(())
    })
    .await
}

/// To stop what has ended is no failure.
async fn ended_already(sandboxes: &Sandboxes, name: &str, error: msb::Error) -> Result<()> {
    let info = sandboxes.info(name).await?;
    match info.state {
        SandboxState::Created | SandboxState::Ended | SandboxState::Crashed => Ok(()),
        _ => Err(error.into()),
    }
}

/// `msb kill`.
pub(crate) async fn kill(args: Kill) -> Result<u8> {
    let sandboxes = Sandboxes::open_default()?;
    each(&args.names, async |name| {
        let sandbox = sandboxes.connect(name).await?;
        if let Some(signal) = args.signal {
            sandbox.signal(signal).await?;
        } else {
            sandbox.kill().await?;
        }
        Ok(())
    })
    .await
}

/// `msb pause` and `msb resume`.
pub(crate) async fn set_paused(names: Names, to: bool) -> Result<u8> {
    let sandboxes = Sandboxes::open_default()?;
    each(&names, async |name| {
        let sandbox = sandboxes.connect(name).await?;
        match to {
            true => Ok(sandbox.pause().await?),
            false => Ok(sandbox.resume().await?),
        }
    })
    .await
}

/// `msb wait`.
pub(crate) async fn wait(name: &str) -> Result<u8> {
    let sandboxes = Sandboxes::open_default()?;
    let mut interrupts = Interrupts::new().context("cannot watch for signals")?;
    let (reason, code) = match sandboxes.connect(name).await {
        Ok(sandbox) => tokio::select! {
            ended = sandbox.wait() => ended.map(|ended| (ended.reason, ended.code))?,
            code = interrupts.next() => return Ok(code),
        },
        Err(error) => match sandboxes.info(name).await? {
            info if info.state == SandboxState::Ended || info.state == SandboxState::Crashed => {
                (info.reason.unwrap_or_default(), info.code)
            }
            _ => return Err(error.into()),
        },
    };
    exit_code(name, &reason, code)
}

/// The exit status for a sandbox that has ended.
fn exit_code(name: &str, reason: &str, code: Option<u8>) -> Result<u8> {
    match code {
        Some(code) => Ok(code),
        None => bail!("the sandbox {name} has ended: {reason}"),
    }
}

/// `msb rm`.
pub(crate) async fn remove(args: Remove) -> Result<u8> {
    let sandboxes = Sandboxes::open_default()?;
    each(&args.names, async |name| match args.force {
        true => Ok(sandboxes.force_remove(name).await?),
        false => Ok(sandboxes.remove(name).await?),
    })
    .await
}

/// `msb supervise`, which nobody calls but msb.
pub(crate) async fn supervise(states: std::path::PathBuf, name: &str) -> Result<u8> {
    match msb::supervise(states, name).await {
        Ok(()) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

async fn print(line: &str) -> Result<u8> {
    let mut stdout = tokio::io::stdout();
    let write = async {
        stdout.write_all(format!("{line}\n").as_bytes()).await?;
        stdout.flush().await
    };
    write.await.context("cannot write to standard output")?;
    Ok(0)
}

/// Signals by name, as on Linux on x86-64, which is what guests are.
const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("WINCH", 28),
];

fn parse_signal(text: &str) -> Result<i32, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = SIGNALS.iter().find(|(known, _)| *known == name);
    let number = || text.parse().ok().filter(|number| (1..=64).contains(number));
    named
        .map(|(_, number)| *number)
        .or_else(number)
        .ok_or_else(|| "write a signal's name, such as HUP or USR1, or its number".into())
}

/// A length of time: `90`, `90s`, `5m`, `2h`, `1d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let scale = match &text[digits.len()..] {
        "" | "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    };
    let number = digits.parse::<u64>().ok().filter(|number| *number > 0);
    let seconds = number.zip(scale);
    let seconds = seconds.and_then(|(number, scale)| number.checked_mul(scale));
    // More than a clock can count is no bound either.
    let seconds = seconds.filter(|seconds| *seconds <= 100 * 366 * 86_400);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "write a number of seconds, or with m, h or d, such as 30s, 5m or 2h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_and_durations_parse_or_say_what_to_write() {
        for (text, expected) in [
            ("HUP", Some(1)),
            ("sigterm", Some(15)),
            ("9", Some(9)),
            ("64", Some(64)),
            ("0", None),
            ("65", None),
            ("-1", None),
            ("NOPE", None),
            ("", None),
        ] {
            assert_eq!(parse_signal(text).ok(), expected, "{text}");
        }
        for (text, expected) in [
            ("90", Some(90)),
            ("90s", Some(90)),
            ("5m", Some(300)),
            ("2h", Some(7200)),
            ("1d", Some(86_400)),
            ("0", None),
            ("", None),
            ("s", None),
            ("5x", None),
            ("-5", None),
            ("1.5h", None),
            ("99999999999999999d", None),
        ] {
            let expected = expected.map(Duration::from_secs);
            assert_eq!(parse_duration(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn new_names_are_names_and_differ() {
        let names: std::collections::BTreeSet<_> = (0..100).map(|_| new_name()).collect();
        assert_eq!(names.len(), 100);
        for name in names {
            assert!(name.len() <= 63 && name.starts_with("sandbox-"), "{name}");
        }
    }
}
