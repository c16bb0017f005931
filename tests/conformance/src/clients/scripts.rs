//! Libraries, each with a script that reads requests and writes a line of JSON for each answer.

use std::path::PathBuf;

use anyhow::{Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::{BOTH, Client};
use crate::case::{Case, Mode, Protocol, Tool};
use crate::check::{ALL, Send};
use crate::lab::{CONNECT, LIMIT, Lab};
use crate::process;
use crate::request::{Answer, Request};

const PYTHON: &str = include_str!("../../clients/python.py");
const NODE: &str = include_str!("../../clients/node.mjs");
const JAVA: &str = include_str!("../../clients/Client.java");

pub(super) fn add(lab: &Lab, rows: &mut Vec<Case>) {
    for (name, protocol) in [
        ("requests", Protocol::H1),
        ("httpx", Protocol::H1),
        ("httpx", Protocol::H2),
        ("aiohttp", Protocol::H1),
    ] {
        let script = Script {
            line: words(&[&lab.python(), "python.py", name]),
            file: ("python.py", PYTHON),
            input: as_json,
        };
        let tool = lab.python_tool(name, name);
        add_script(lab, rows, tool, protocol, script);
    }
    for (name, kind, protocol) in [
        ("Node fetch", "fetch", Protocol::H1),
        ("Node http", "http", Protocol::H1),
        ("Node http2", "http2", Protocol::H2),
    ] {
        let script = Script {
            line: words(&["node", "node.mjs", kind]),
            file: ("node.mjs", NODE),
            input: as_json,
        };
        let tool = lab.tool(name, &["node", "--version"]);
        add_script(lab, rows, tool, protocol, script);
    }
    for protocol in [Protocol::H1, Protocol::H2] {
        let script = Script {
            line: words(&["java", "Client.java"]),
            file: ("Client.java", JAVA),
            input: as_lines,
        };
        let tool = lab.tool("Java HttpClient", &["java", "--version"]);
        add_script(lab, rows, tool, protocol, script);
    }
}

fn add_script(lab: &Lab, rows: &mut Vec<Case>, tool: Tool, protocol: Protocol, send: Script) {
    let client = Client {
        foreign_origins: tool.name == "requests" || protocol == Protocol::H2,
        tool,
        protocol,
        modes: BOTH,
        places: ALL,
        send,
    };
    client.add(lab, rows);
}

fn words(line: &[&str]) -> Vec<String> {
    line.iter().map(|word| (*word).to_owned()).collect()
}

#[derive(Clone)]
struct Script {
    line: Vec<String>,
    /// Name and contents.
    file: (&'static str, &'static str),
    input: fn(&Work<'_>) -> String,
}

/// What a script is told.
struct Work<'a> {
    proxy: Option<&'static str>,
    trust: PathBuf,
    modules: PathBuf,
    protocol: Protocol,
    requests: &'a [Request],
}

impl Send for Script {
    fn send(
        &self,
        lab: &Lab,
        mode: Mode,
        protocol: Protocol,
        requests: &[Request],
    ) -> Result<Vec<Answer>> {
        let work = Work {
            proxy: (mode == Mode::Connect).then_some(CONNECT),
            trust: lab.trust(),
            modules: lab.tools.join("npm/node_modules"),
            protocol,
            requests,
        };
        let Some((program, args)) = self.line.split_first() else {
            bail!("no program");
        };
        lab.write_once(self.file.0, self.file.1)?;
        let mut command = lab.command(program);
        command.args(args).env("NODE_EXTRA_CA_CERTS", lab.trust());
        let input = (self.input)(&work);
        let ended = process::run(&mut command, input.as_bytes(), LIMIT)?;
        let answers: Vec<_> = ended.stdout.lines().filter_map(Answer::from_json).collect();
        if answers.len() != requests.len() {
            bail!("the script failed: {}", ended.said());
        }
        Ok(answers)
    }
}

fn as_json(work: &Work<'_>) -> String {
    let requests: Vec<_> = work.requests.iter().map(Request::json).collect();
    let work = json!({
        "proxy": work.proxy,
        "ca": work.trust,
        "modules": work.modules,
        "h2": work.protocol == Protocol::H2,
        "requests": requests,
    });
    work.to_string()
}

/// For a language without JSON: words in base64.
fn as_lines(work: &Work<'_>) -> String {
    let version = match work.protocol {
        Protocol::H2 => "h2",
        _ => "h1",
    };
    let mut text = format!(
        "{}\n{}\n{version}\n",
        work.proxy.unwrap_or("-"),
        work.trust.display()
    );
    for request in work.requests {
        let word = |text: &str| BASE64_STANDARD.encode(text);
        let body = request.body.as_deref().map_or_else(|| "-".to_owned(), word);
        let mut words = vec![word(request.method), word(&request.url()), body];
        for (name, value) in &request.headers {
            words.extend([word(name), word(value)]);
        }
        text += &format!("{}\n", words.join(" "));
    }
    text
}
