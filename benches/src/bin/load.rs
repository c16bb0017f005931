//! A load generator for HTTPS through a proxy or past it; `proxy` starts it, so that both do not share a process.
//!
//! `load MODE KEY=VALUE..` with the modes `requests`, `connections`, `download`, `upload` and `idle`; prints one line of
//! `key=value` pairs. Every answer is checked: its status, and that it is as long as the first one.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the figures are the program's output")]

use std::collections::HashMap;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use msb_benches::load::{self, Mode, Target};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<String> {
    let [mode, pairs @ ..] = args else {
        bail!("write `load MODE KEY=VALUE..`");
    };
    let mut pairs: HashMap<&str, &str> = pairs
        .iter()
        .map(|pair| {
            pair.split_once('=')
                .with_context(|| format!("{pair:?} is not KEY=VALUE"))
        })
        .collect::<Result<_>>()?;
    let mut take = |key: &str| pairs.remove(key);
    let number = |text: Option<&str>, default: u64| match text {
        Some(text) => text
            .parse()
            .with_context(|| format!("{text:?} is not a number")),
        None => Ok(default),
    };
    let connections = number(take("connections"), 1)?;
    let seconds = number(take("seconds"), 3)?;
    let len = number(take("len"), 0)?;
    let mode = match mode.as_str() {
        "requests" => Mode::Requests {
            connections,
            seconds,
        },
        "connections" => Mode::Connections {
            connections,
            seconds,
        },
        "download" => Mode::Download,
        "upload" => Mode::Upload { len },
        "idle" => Mode::Idle { connections },
        other => bail!("{other:?} is not a mode"),
    };
    let target = Target {
        address: take("address").context("no address=HOST:PORT")?.parse()?,
        name: take("name").context("no name=HOST")?.to_owned(),
        connect: take("connect").map(str::to_owned),
        ca: take("ca").context("no ca=FILE")?.into(),
        path: take("path").unwrap_or("/").to_owned(),
        header: take("header").map(str::to_owned),
        hybrid: take("hybrid") == Some("yes"),
    };
    ensure!(pairs.is_empty(), "unknown: {pairs:?}");
    load::run(mode, target)
}
