//! The guest's init (process 1) and agent: brings the machine up, then serves the host's calls until power-off.
//!
//! It runs as `/init` of the initramfs. It is not a general init: it starts nothing of the image's own.
//! Whatever stops the boot is written to the console, where the host finds it, and the machine powers off.
// One exception, in `child`: what happens between fork and exec.
#![deny(unsafe_code)]

mod boot;
mod child;
mod clock;
mod configure;
mod error;
mod exec;
mod files;
mod measure;
mod network;
mod port;
mod power;
mod reaper;
mod service;
mod shortage;
mod terminal;
mod timings;
mod users;

use std::io::Write as _;

use crate::error::Error;

fn main() {
    let outcome = run();
    if let Err(error) = &outcome {
        let mut line = format!("msb-agent: {error}");
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            line.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        // Standard error is the console; if it is gone nobody is left to tell.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    if rustix::process::getpid().is_init() {
        power::off();
    }
    if outcome.is_err() {
        std::process::exit(1);
    }
}

fn run() -> Result<(), Error> {
    if !rustix::process::getpid().is_init() {
        return Err(Error::NotInit);
    }
    timings::mark("init started");
    boot::prepare()?;
    let port = boot::open_agent_port()?;
    timings::mark("agent port open");
    boot::enter_root()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(service::serve(port))
}
