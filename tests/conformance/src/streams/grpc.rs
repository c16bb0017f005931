//! gRPC, with its own implementation in C on both sides.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{BOTH, case, proxy, python};
use crate::case::{Case, Mode, Protocol};
use crate::check::settled;
use crate::lab::{GRPC, Lab, OTHER_GRPC, PLACEHOLDER, VALUE};

const CLIENT: (&str, &str) = (
    "grpc_client.py",
    include_str!("../../clients/grpc_client.py"),
);

pub(super) fn cases(lab: &Lab) -> Vec<Case> {
    let tool = lab.python_tool("grpcio", "grpcio");
    let mut rows = Vec::new();
    for mode in BOTH {
        let how = (mode, Protocol::Grpc);
        let mut add = |claim: &str, method: &'static str, expected: Value| {
            rows.push(case(&tool, how, "grpcio", claim, move |lab, id| {
                call(lab, mode, id, method, &expected)
            }));
        };
        let seen = json!({ "answer": "echo hello", "trailers": { "seen": "unary" } });
        add("unary, the value in metadata, trailers", "unary", seen);
        add(
            "client stream, the value in metadata",
            "client stream",
            json!({ "answer": "a b c" }),
        );
        let three = json!({ "answer": ["go 0", "go 1", "go 2"] });
        add(
            "server stream, the value in metadata",
            "server stream",
            three,
        );
        let three = json!({ "answer": ["echo 0", "echo 1", "echo 2"] });
        add(
            "both ways, each message after the answer to the last",
            "both ways",
            three,
        );
        let failed = json!({ "code": "FAILED_PRECONDITION", "details": "as asked", "trailers": { "why": "because" } });
        add("an error with trailers", "fail", failed);
        rows.push(case(
            &tool,
            how,
            "grpcio",
            "a placeholder in a message arrives as it is, and the message whole",
            move |lab, id| message(lab, mode, id),
        ));
        rows.push(case(
            &tool,
            how,
            "grpcio",
            "a placeholder for another host, in metadata or a message, ends the call",
            move |lab, id| elsewhere(lab, mode, id),
        ));
    }
    rows
}

fn ask(
    lab: &Lab,
    mode: Mode,
    (host, id): (&str, &str),
    method: &str,
    (secret, message): (Option<&str>, &str),
) -> Result<Value> {
    let mut metadata = vec![json!(["case", id])];
    metadata.extend(secret.map(|text| json!(["authorization", format!("Bearer {text}")])));
    let work = json!({
        "target": format!("{host}:443"),
        "proxy": proxy(mode),
        "ca": lab.trust(),
        "method": method,
        "metadata": metadata,
        "message": message,
    });
    python(lab, CLIENT, &work)
}

fn call(lab: &Lab, mode: Mode, id: &str, method: &str, expected: &Value) -> Result<()> {
    let got = ask(lab, mode, (GRPC, id), method, (Some(PLACEHOLDER), "hello"))?;
    ensure!(got == *expected, "{got}");
    let records = settled(lab, GRPC, id);
    let value = format!("Bearer {VALUE}");
    ensure!(
        records.len() == 1 && records[0].header("authorization") == Some(&value),
        "{records:?} arrived"
    );
    Ok(())
}

/// Lengths stand before messages, and inside of them: whoever wrote something else there would break them.
fn message(lab: &Lab, mode: Mode, id: &str) -> Result<()> {
    let message = format!("key {PLACEHOLDER} end");
    let got = ask(lab, mode, (GRPC, id), "unary", (None, &message))?;
    ensure!(got["answer"] == format!("echo {message}"), "{got}");
    let records = settled(lab, GRPC, id);
    let body = json!([message]).to_string();
    ensure!(
        records.len() == 1 && records[0].body == body.as_bytes(),
        "{records:?} arrived"
    );
    Ok(())
}

fn elsewhere(lab: &Lab, mode: Mode, id: &str) -> Result<()> {
    let to = |what: &str| format!("{id}{what}-");
    let got = ask(
        lab,
        mode,
        (OTHER_GRPC, &to("without")),
        "unary",
        (None, "hello"),
    )?;
    ensure!(
        got["answer"] == "echo hello",
        "without a placeholder: {got}"
    );
    for (what, carried) in [
        ("metadata", (Some(PLACEHOLDER), "hello")),
        ("message", (None, PLACEHOLDER)),
    ] {
        let got = ask(lab, mode, (OTHER_GRPC, &to(what)), "unary", carried)?;
        ensure!(got["broken"].is_string(), "in {what}: {got}");
        let received = lab.received(OTHER_GRPC, &to(what));
        ensure!(received.is_empty(), "in {what}, it arrived: {received:?}");
    }
    Ok(())
}
