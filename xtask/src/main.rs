//! Project tasks: `cargo xtask TASK`. Each sets up what it needs, says so, and touches nothing else.
#![forbid(unsafe_code)]

mod bench;
mod conformance;
mod demo;
mod elf;
mod fuzz;
mod image;
mod metadata;
mod process;
mod rivals;
mod setup;
mod test;
mod tidy;
mod trust;
mod unpack;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
Usage: cargo xtask TASK

  setup              install missing tools through apt, as root or through sudo
  image [--force]    fetch or build guest kernel, initramfs and the root disk `base`
  net-tools          unpack the programs that tests of msb-net run and this machine lacks, below target/net-tools
  image-tools        the same for tests of msb-image: a registry, umoci and skopeo, below target/image-tools
  trust-tools        the same for tests of msb-guest-trust: NSS's and p11-kit's, below target/trust-tools
  test [--no-setup]  setup, image and all of these tools, then format, lints, docs and every test
  tidy               check layers, lints, file heads and licences of the workspace
  demo               setup, image, then show a sandbox at work
  bench NAME [ARG..] setup, image, then run a benchmark
  fuzz [TARGET..] [--seconds N]
                     setup, then search for inputs that break a promise, 300 s for each target
  conformance [--only TEXT] [--write]
                     run the proxy against foreign clients, servers and scanners; --write renews docs/conformance.md
  trust [--only TEXT] [--write]
                     setup, image, then try programs of many kinds in a guest whose TLS is intercepted; --write
                     renews docs/trust.md

Images are kept in $MSB_HOME, else $XDG_CACHE_HOME/msb, else ~/.cache/msb.
MSB_DEBIAN_MIRROR and MSB_DEBIAN_SUITE override where Debian packages come from.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<()> {
    match args {
        ["setup"] => setup::run(),
        ["image"] => image::run(image::Rebuild::WhatChanged),
        ["image", "--force"] => image::run(image::Rebuild::Everything),
        ["net-tools"] => test::net_tools(),
        ["image-tools"] => test::image_tools().map(drop),
        ["trust-tools"] => test::trust_tools(),
        ["test"] => test::run(test::Prepare::Everything),
        ["test", "--no-setup"] => test::run(test::Prepare::Nothing),
        ["tidy"] => tidy::run(),
        ["demo"] => demo::run(),
        ["fuzz", rest @ ..] => fuzz::run(rest),
        ["conformance", rest @ ..] => conformance::run(rest),
        ["trust", rest @ ..] => trust::run(rest),
        ["bench", name, rest @ ..] => bench::run(name, rest),
        [] | ["help" | "-h" | "--help"] => {
            eprintln!("{USAGE}");
            Ok(())
        }
        _ => bail!("unknown task `{}`\n\n{USAGE}", args.join(" ")),
    }
}
