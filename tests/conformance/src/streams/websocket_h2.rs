//! WebSocket over HTTP/2 (RFC 8441) with Node's `http2` on both sides.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{case, run_script};
use crate::case::{Case, Mode, Protocol};
use crate::lab::{Lab, OTHER_WEBSOCKET_H2, PLACEHOLDER, VALUE, WEBSOCKET_H2};

const CLIENT: (&str, &str) = (
    "websocket_h2.mjs",
    include_str!("../../clients/websocket_h2.mjs"),
);

pub(super) fn cases(lab: &Lab) -> Vec<Case> {
    let tool = lab.tool("Node http2", &["node", "--version"]);
    let how = (Mode::Transparent, Protocol::WebSocketH2);
    vec![
        case(
            &tool,
            how,
            "Node http2",
            "the value in a header and a text message",
            values,
        ),
        case(
            &tool,
            how,
            "Node http2",
            "a placeholder in a message to another host ends the stream",
            elsewhere,
        ),
    ]
}

fn exchange(lab: &Lab, host: &str, id: &str, (header, message): (&str, &str)) -> Result<Value> {
    let work = json!({
        "host": host,
        "ca": lab.trust(),
        "target": format!("/{id}"),
        "authorization": format!("Bearer {header}"),
        "message": message,
    });
    run_script(lab, "node", CLIENT, &work)
}

fn values(lab: &Lab, id: &str) -> Result<()> {
    let got = exchange(lab, WEBSOCKET_H2, id, (PLACEHOLDER, PLACEHOLDER))?;
    ensure!(got == json!({ "message": PLACEHOLDER }), "{got}");
    let records = lab.received(WEBSOCKET_H2, id);
    let value = format!("Bearer {VALUE}");
    ensure!(
        records.len() == 1
            && records[0].header("authorization") == Some(&value)
            && records[0].body == VALUE.as_bytes(),
        "{records:?} arrived"
    );
    Ok(())
}

fn elsewhere(lab: &Lab, id: &str) -> Result<()> {
    let without = exchange(lab, OTHER_WEBSOCKET_H2, id, ("none", "hello"))?;
    ensure!(
        without == json!({ "message": "hello" }),
        "without a placeholder: {without}"
    );
    let with = exchange(lab, OTHER_WEBSOCKET_H2, id, ("none", PLACEHOLDER))?;
    ensure!(with["broken"].is_string(), "{with}");
    let records = lab.received(OTHER_WEBSOCKET_H2, id);
    ensure!(records.len() == 1, "{records:?} arrived");
    Ok(())
}
