//! `cargo xtask trust`: programs of many kinds in a real guest, with nothing set but what msb sets.

use anyhow::{Result, bail};

use crate::image::{self, Rebuild};
use crate::{process, setup};

/// Where the table is committed.
const TABLE: &str = "docs/trust.md";

/// Runs all programs, or those whose name contains `--only TEXT`; `--write` brings the committed table up to date.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    setup::run()?;
    image::run(Rebuild::WhatChanged)?;
    let image = image::runtimes()?;
    let mut command = process::cargo();
    command.args([
        "run",
        "--quiet",
        "--package",
        "msb-e2e",
        "--bin",
        "trust",
        "--",
    ]);
    command.args(["--image", image.as_str(), "--table", TABLE]);
    match args {
        [] => {}
        ["--write"] => _ = command.arg("--write"),
        ["--only", text] => _ = command.args(["--only", text]),
        _ => bail!("`cargo xtask trust` takes --write or --only TEXT"),
    }
    process::show(&mut command)
}
