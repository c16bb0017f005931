//! `cargo xtask demo`: sets up what a sandbox needs, then shows one at work.

use anyhow::Result;

use crate::image::{self, Rebuild};
use crate::{process, setup};

/// Fails if anything the demonstration claims is not so.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    image::run(Rebuild::WhatChanged)?;
    let mut cargo = process::cargo();
    cargo.args(["run", "--quiet", "--package", "msb-e2e", "--bin", "demo"]);
    process::show(&mut cargo)
}
