//! Malformed requests in HTTP/2 (RFC 9113 section 8.1.1): an intermediary must not forward them.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{ORIGINS, payloads, settled};
use crate::case::{Case, Mode, Protocol};
use crate::lab::Lab;
use crate::streams;

const CLIENT: (&str, &str) = (
    "http2_bytes.py",
    include_str!("../../clients/http2_bytes.py"),
);

/// A request with something wrong: a name for it, its fields, and its body. Pseudo-fields that are not given are right.
struct Malformed {
    name: &'static str,
    /// A pseudo-field without a value is left out.
    fields: &'static [(&'static str, Option<&'static str>)],
    body: Option<&'static str>,
}

const fn field(
    name: &'static str,
    fields: &'static [(&'static str, Option<&'static str>)],
) -> Malformed {
    Malformed {
        name,
        fields,
        body: None,
    }
}

const fn body(
    name: &'static str,
    fields: &'static [(&'static str, Option<&'static str>)],
    body: &'static str,
) -> Malformed {
    Malformed {
        name,
        fields,
        body: Some(body),
    }
}

/// `@1` is the target, `@2` a second request in HTTP/1.1, `@H` the host.
const MALFORMED: &[Malformed] = &[
    field(
        "a value with CR LF",
        &[("x", Some("a\r\nTransfer-Encoding: chunked"))],
    ),
    field("a value with a request", &[("x", Some("a\r\n\r\n@2"))]),
    field("a value with LF", &[("x", Some("a\nb: c"))]),
    field("a value with CR", &[("x", Some("a\rb: c"))]),
    field("a value with NUL", &[("x", Some("a\0b"))]),
    field("a name with CR LF", &[("x: a\r\ny", Some("b"))]),
    field("a name with a colon", &[("x:", Some("a"))]),
    field("a name with a space", &[("x y", Some("a"))]),
    field("a name in upper case", &[("X", Some("a"))]),
    field("an empty name", &[("", Some("a"))]),
    field(
        "a path with CR LF",
        &[(":path", Some("@1 HTTP/1.1\r\nHost: @H\r\n\r\n@2"))],
    ),
    field("a path with a space", &[(":path", Some("@1 x"))]),
    field("an empty path", &[(":path", Some(""))]),
    field("no path", &[(":path", None)]),
    field(
        "two paths",
        &[(":path", Some("@1")), (":path", Some("@1-"))],
    ),
    field(
        "a method with CR LF",
        &[(":method", Some("GET @1 HTTP/1.1\r\nHost: @H\r\n\r\nGET"))],
    ),
    field("a method with a space", &[(":method", Some("GET @1"))]),
    field("no method", &[(":method", None)]),
    field(
        "an authority with CR LF",
        &[(":authority", Some("@H\r\nx: y"))],
    ),
    field(
        "an authority with a user",
        &[(":authority", Some("user@@H"))],
    ),
    field("a host that differs", &[("host", Some("other.test"))]),
    field(
        "a pseudo-field behind a field",
        &[("x", Some("a")), (":scheme", Some("https"))],
    ),
    field("a pseudo-field nobody knows", &[(":x", Some("a"))]),
    field(
        "transfer-encoding",
        &[("transfer-encoding", Some("chunked"))],
    ),
    field("connection", &[("connection", Some("keep-alive"))]),
    field("upgrade", &[("upgrade", Some("websocket"))]),
    field("te that is not trailers", &[("te", Some("gzip"))]),
    body(
        "transfer-encoding and a body",
        &[
            (":method", Some("POST")),
            ("transfer-encoding", Some("chunked")),
        ],
        "0\r\n\r\n@2",
    ),
    body(
        "a length below the body's",
        &[(":method", Some("POST")), ("content-length", Some("0"))],
        "@2",
    ),
    body(
        "a length above the body's",
        &[(":method", Some("POST")), ("content-length", Some("1000"))],
        "@2",
    ),
    body(
        "two lengths",
        &[
            (":method", Some("POST")),
            ("content-length", Some("0")),
            ("content-length", Some("5")),
        ],
        "hello",
    ),
    body(
        "a length that is no number",
        &[(":method", Some("POST")), ("content-length", Some("+5"))],
        "hello",
    ),
];

pub(super) fn cases(lab: &Lab) -> Vec<Case> {
    let tool = lab.python_tool("h2 (Python)", "h2");
    let mut rows = Vec::new();
    for (name, host) in ORIGINS {
        let mut add = |claim: String, malformed: &'static Malformed, expected| {
            let mut case = Case {
                tool: tool.clone(),
                mode: Mode::Transparent,
                protocol: Protocol::H2,
                origin: name,
                claim,
                work: Box::new(move |lab, id| send(lab, host, id, malformed, expected)),
            };
            if let Some(reason) = lab.without(host) {
                case.tool.version = Err(reason);
            }
            rows.push(case);
        };
        for malformed in MALFORMED {
            add(format!("{} does not arrive", malformed.name), malformed, 0);
        }
        const RIGHT: &Malformed = &field("nothing", &[("x", Some("a b"))]);
        add(
            "control: a request without a fault arrives".to_owned(),
            RIGHT,
            1,
        );
    }
    rows
}

fn send(
    lab: &Lab,
    host: &'static str,
    id: &str,
    malformed: &Malformed,
    expected: usize,
) -> Result<()> {
    let fill = |text: &str| {
        text.replace("@1", &format!("/{id}first"))
            .replace("@2", &payloads::get(host, id, "second"))
            .replace("@H", host)
    };
    let own = |name: &str| malformed.fields.iter().any(|(own, _)| *own == name);
    let usual = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "@H"),
        (":path", "@1"),
    ];
    // A scheme of its own is one too many, and not instead.
    let usual = usual
        .iter()
        .filter(|(name, _)| *name == ":scheme" || !own(name));
    let mut headers: Vec<Value> = usual
        .map(|(name, value)| json!([name, fill(value)]))
        .collect();
    for (name, value) in malformed.fields {
        headers.extend(value.map(|value| json!([name, fill(value)])));
    }
    let work = json!({
        "host": host,
        "ca": lab.trust(),
        "headers": headers,
        "body": malformed.body.map(fill),
    });
    let got = streams::python(lab, CLIENT, &work)?;
    ensure!(got["ended"].is_string(), "it was left without an answer");
    let (first, second) = settled(lab, host, id)?;
    ensure!(
        (first, second) == (expected, 0),
        "the server read {first} and {second} requests, and the client got {got}"
    );
    Ok(())
}
