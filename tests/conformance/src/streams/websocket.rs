//! WebSocket (RFC 6455) with the `websockets` package on both sides.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{BOTH, case, proxy, python};
use crate::case::{Case, Mode, Protocol};
use crate::lab::{Lab, OTHER_WEBSOCKET, PLACEHOLDER, VALUE, WEBSOCKET};

const CLIENT: (&str, &str) = (
    "websocket_client.py",
    include_str!("../../clients/websocket_client.py"),
);

pub(super) fn cases(lab: &Lab) -> Vec<Case> {
    let tool = lab.python_tool("websockets", "websockets");
    let mut rows = Vec::new();
    for mode in BOTH {
        let how = (mode, Protocol::WebSocket);
        let mut add = |claim, work: fn(&Lab, Mode, &str) -> Result<()>| {
            rows.push(case(&tool, how, "websockets", claim, move |lab, id| {
                work(lab, mode, id)
            }));
        };
        add("the value in the handshake's header", header);
        add("the value in a text message", text);
        add(
            "the value in a text message, compression offered",
            compressed,
        );
        add(
            "a placeholder in a message to another host ends the connection",
            elsewhere,
        );
        add(
            "text, binary and 1 MiB come back, ping and close codes pass",
            whole,
        );
    }
    rows
}

fn exchange(lab: &Lab, mode: Mode, host: &str, id: &str, work: &Value) -> Result<Value> {
    let mut work = work.clone();
    work["url"] = json!(format!("wss://{host}/{id}"));
    work["proxy"] = json!(proxy(mode));
    work["ca"] = json!(lab.trust());
    python(lab, CLIENT, &work)
}

fn header(lab: &Lab, mode: Mode, id: &str) -> Result<()> {
    let work = json!({
        "headers": { "Authorization": format!("Bearer {PLACEHOLDER}") },
        "compression": null,
        "messages": [{ "text": "hello" }],
    });
    let got = exchange(lab, mode, WEBSOCKET, id, &work)?;
    ensure!(got["received"] == json!([{ "text": "hello" }]), "{got}");
    let records = lab.received(WEBSOCKET, id);
    let value = format!("Bearer {VALUE}");
    ensure!(
        records.len() == 1 && records[0].header("authorization") == Some(&value),
        "{records:?} arrived"
    );
    Ok(())
}

fn text(lab: &Lab, mode: Mode, id: &str) -> Result<()> {
    inject(lab, mode, id, None)
}

fn compressed(lab: &Lab, mode: Mode, id: &str) -> Result<()> {
    inject(lab, mode, id, Some("deflate"))
}

fn inject(lab: &Lab, mode: Mode, id: &str, compression: Option<&str>) -> Result<()> {
    let message = json!([{ "text": format!("key {PLACEHOLDER} end") }]);
    let work = json!({ "headers": {}, "compression": compression, "messages": message });
    let got = exchange(lab, mode, WEBSOCKET, id, &work)?;
    let records = lab.received(WEBSOCKET, id);
    let expected = format!("key {VALUE} end");
    ensure!(
        records.len() == 1 && records[0].body == expected.as_bytes(),
        "{records:?} arrived, {got}"
    );
    ensure!(got["received"] == message, "the echo is {got}");
    Ok(())
}

fn elsewhere(lab: &Lab, mode: Mode, id: &str) -> Result<()> {
    let work = json!({
        "headers": {},
        "compression": null,
        "messages": [{ "text": "hello" }, { "text": PLACEHOLDER }],
    });
    let got = exchange(lab, mode, OTHER_WEBSOCKET, id, &work)?;
    let records = lab.received(OTHER_WEBSOCKET, id);
    ensure!(records.len() == 1, "{records:?} arrived, {got}");
    ensure!(got["received"] == json!([{ "text": "hello" }]), "{got}");
    Ok(())
}

fn whole(lab: &Lab, mode: Mode, id: &str) -> Result<()> {
    let messages = json!([
        { "text": "" },
        { "text": "gr\u{fc}\u{df}e $MSB" },
        { "hex": "00ff80".repeat(1000) },
        { "text": "x".repeat(1 << 20) },
    ]);
    let mut sent = messages.clone();
    if let Some(list) = sent.as_array_mut() {
        list.push(json!({ "text": "close" }));
    }
    let work = json!({ "headers": {}, "compression": "deflate", "messages": sent });
    let got = exchange(lab, mode, WEBSOCKET, id, &work)?;
    ensure!(got["broken"].is_null(), "{got}");
    ensure!(got["received"] == messages, "other messages came back");
    ensure!(got["closed"] == 4321, "the close code is {}", got["closed"]);
    Ok(())
}
