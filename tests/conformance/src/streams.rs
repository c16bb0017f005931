//! What goes on for longer than one answer: uploads, events, WebSocket, gRPC, git, many streams at once, and what is not HTTP.

mod bulk;
mod git;
mod grpc;
mod relayed;
mod websocket;
mod websocket_h2;

use anyhow::Result;
use serde_json::Value;

use crate::case::{Case, Mode, Protocol, Tool};
use crate::lab::{CONNECT, LIMIT, Lab};
use crate::process;

const BOTH: [Mode; 2] = [Mode::Connect, Mode::Transparent];

pub(crate) fn cases(lab: &Lab) -> Vec<Case> {
    let mut rows = bulk::cases(lab);
    rows.extend(git::cases(lab));
    rows.extend(websocket::cases(lab));
    rows.extend(websocket_h2::cases(lab));
    rows.extend(grpc::cases(lab));
    rows.extend(relayed::cases(lab));
    rows
}

fn case(
    tool: &Tool,
    (mode, protocol): (Mode, Protocol),
    origin: &'static str,
    claim: &str,
    work: impl Fn(&Lab, &str) -> Result<()> + Send + Sync + 'static,
) -> Case {
    Case {
        tool: tool.clone(),
        mode,
        protocol,
        origin,
        claim: claim.to_owned(),
        work: Box::new(work),
    }
}

/// The proxy as a script is told of it.
fn proxy(mode: Mode) -> Option<&'static str> {
    (mode == Mode::Connect).then_some(CONNECT)
}

/// Runs a Python script with `work`, and reads the line of JSON it writes.
pub(crate) fn python(lab: &Lab, script: (&str, &str), work: &Value) -> Result<Value> {
    run_script(lab, &lab.python(), script, work)
}

fn run_script(
    lab: &Lab,
    program: &str,
    (name, script): (&str, &str),
    work: &Value,
) -> Result<Value> {
    lab.write_once(name, script)?;
    let mut command = lab.command(program);
    let ended = process::run(command.arg(name), work.to_string().as_bytes(), LIMIT)?;
    serde_json::from_str(&ended.stdout)
        .map_err(|_| anyhow::anyhow!("the script failed: {}", ended.said()))
}
