//! The `msb` command: its arguments, its exit codes, and nothing that a Rust program could not do with the crate `msb`.
#![forbid(unsafe_code)]

mod args;
mod copy;
mod descriptors;
mod dumps;
mod engine;
mod exec;
mod image;
mod interrupt;
mod limits;
mod policy;
mod program;
mod progress;
mod proxy;
mod report;
mod run;
mod sandboxes;
mod secrets;
mod terminal;
mod why;

use std::alloc::System;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;
use zeroizing_alloc::ZeroAlloc;

use crate::args::{Cli, Task};

/// What is freed is overwritten: a value that was copied on its way, by whatever library, does not stay behind (SPEC S10).
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

/// Our own failures, as against the command's own exit status: what `env`, `timeout` and container tools use too.
const OWN_FAILURE: u8 = 125;

/// Of `msb policy`, which answers with 0 and 1.
const MISUNDERSTOOD: u8 = 2;

/// Whether the command is `policy`, where the arguments as a whole cannot be understood.
fn asks_for_policy() -> bool {
    let mut words = std::env::args_os().skip(1);
    let mut word = words.next();
    while word.as_ref().is_some_and(|word| word == "--log") {
        word = words.nth(1);
    }
    word.is_some_and(|word| word == "policy")
}

fn main() -> ExitCode {
    // A supervisor would hold open for its whole life what a shell has left to this program.
    if let Err(error) = msb::vmm::keep_descriptors() {
        let error = anyhow::Error::new(error);
        return report::failure(&error.context("cannot tell which descriptors are open"));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are not failures. A reader who has gone is nobody to tell.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ if asks_for_policy() => ExitCode::from(MISUNDERSTOOD),
                _ => ExitCode::from(OWN_FAILURE),
            };
        }
    };
    let is_supervisor = matches!(cli.task, Task::Supervise { .. });
    report::start_log(&cli.log, is_supervisor);
    // Before anything secret is read.
    if let Err(error) = dumps::forbid() {
        return report::failure(&anyhow::Error::new(error).context("cannot forbid core dumps"));
    }
    let task = match cli.task {
        Task::Policy(task) => {
            return match why::run(task) {
                Ok(code) => ExitCode::from(code),
                Err(error) => {
                    report::failure(&error);
                    ExitCode::from(MISUNDERSTOOD)
                }
            };
        }
        Task::Image(task) => {
            return match image::run(task) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => report::failure(&error),
            };
        }
        task => task,
    };
    descriptors::raise_limit();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if !matches!(task, Task::Proxy(_)) {
        // A guest wants the processors; a proxy may have them all.
        runtime.worker_threads(2);
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report::failure(&anyhow::Error::new(error).context("cannot start")),
    };
    let outcome = match task {
        // Answered above.
        Task::Policy(_) | Task::Image(_) => Ok(MISUNDERSTOOD),
        Task::Run(run) if run.detach => runtime.block_on(sandboxes::make(*run, true)),
        Task::Run(run) => runtime.block_on(run::run(*run)),
        Task::Create(run) => runtime.block_on(sandboxes::make(*run, false)),
        Task::Start(names) => runtime.block_on(sandboxes::start(names)),
        Task::Ps(args) => runtime.block_on(sandboxes::list(args)),
        Task::Exec(args) => runtime.block_on(exec::exec(args)),
        Task::Cp(args) => runtime.block_on(copy::copy(args)),
        Task::Attach(args) => runtime.block_on(sandboxes::attach(args)),
        Task::Logs(args) => runtime.block_on(sandboxes::logs(args)),
        Task::Inspect(names) => runtime.block_on(sandboxes::inspect(names)),
        Task::Stop(args) => runtime.block_on(sandboxes::stop(args)),
        Task::Kill(args) => runtime.block_on(sandboxes::kill(args)),
        Task::Pause(names) => runtime.block_on(sandboxes::set_paused(names, true)),
        Task::Resume(names) => runtime.block_on(sandboxes::set_paused(names, false)),
        Task::Wait { name } => runtime.block_on(sandboxes::wait(&name)),
        Task::Rm(args) => runtime.block_on(sandboxes::remove(args)),
        Task::Supervise { states, name } => runtime.block_on(sandboxes::supervise(states, &name)),
        Task::Proxy(args) => runtime.block_on(proxy::run(*args)),
    };
    // A read of standard input that nobody waits for any more must not hold the process back.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => report::failure(&error),
    }
}
