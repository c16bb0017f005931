//! `msb exec`: one program in a sandbox that runs already.

use anyhow::{Context as _, Result};
use msb::Sandboxes;

use crate::args::Exec;
use crate::interrupt::Interrupts;
use crate::run;

/// Runs the program to its end and returns the exit status for it.
///
/// # Errors
/// What kept the program from running or cut it off.
pub(crate) async fn exec(args: Exec) -> Result<u8> {
    let mut interrupts = Interrupts::new().context("cannot watch for signals")?;
    args.program.check()?;
    let words = run::utf8(&args.command)?;
    let (program, rest) = words.split_first().context("there is no program")?;
    let sandbox = Sandboxes::open_default()?.connect(&args.name).await?;
    let mut command = sandbox.command(program).args(rest);
    for text in &args.env {
        let (name, value) = run::variable(text)?;
        command = command.env(name, value);
    }
    for ulimit in &args.program.ulimits {
        command = command.ulimit(*ulimit);
    }
    let sets_term = args.env.iter().any(|text| run::names(text, "TERM"));
    tokio::select! {
        outcome = args.program.run(command, sets_term) => outcome,
        code = interrupts.next() => Ok(code),
    }
}
