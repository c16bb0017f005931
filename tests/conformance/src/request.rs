//! What a client is asked to send, and what it got back.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

/// A request, the same for every client.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) host: &'static str,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Option<String>,
}

impl Request {
    pub(crate) fn get(host: &'static str, target: impl Into<String>) -> Self {
        Self {
            method: "GET",
            host,
            target: target.into(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn post(mut self, content_type: &str, body: impl Into<String>) -> Self {
        self.method = "POST";
        self.body = Some(body.into());
        self.header("content-type", content_type)
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}{}", self.host, self.target)
    }

    /// As scripts read it.
    pub(crate) fn json(&self) -> Value {
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| json!([name, value]));
        json!({
            "method": self.method,
            "host": self.host,
            "target": self.target,
            "url": self.url(),
            "headers": headers.collect::<Vec<_>>(),
            "body": self.body,
        })
    }

    /// As HTTP/1.1 has it, for clients that send what they are given.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut text = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\n",
            self.method, self.target, self.host
        );
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        let body = self.body.as_deref().unwrap_or_default();
        if self.body.is_some() {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        format!("{text}Connection: close\r\n\r\n{body}").into_bytes()
    }
}

/// What a client got.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// A response.
    Status {
        status: u16,
        /// `1.1`, `2`; empty where the client does not tell.
        version: String,
        body: String,
    },
    /// The connection ended before there was one.
    Broken(String),
}

impl Answer {
    /// From what a client prints that shows whole HTTP/1 responses.
    pub(crate) fn from_http1(printed: &str) -> Self {
        let head = printed.rfind("HTTP/1.").map(|at| &printed[at..]);
        let Some((version, status)) = head.and_then(status_line) else {
            return Self::Broken(printed.to_owned());
        };
        let body = head.and_then(|head| head.split_once("\r\n\r\n"));
        Self::Status {
            status,
            version,
            body: body.map_or(String::new(), |(_, body)| body.to_owned()),
        }
    }

    /// From a line of a script.
    pub(crate) fn from_json(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        Some(match value["status"].as_u64().map(u16::try_from) {
            Some(Ok(status)) => Self::Status {
                status,
                version: text("version"),
                body: match value["base64"].as_str() {
                    Some(coded) => decode(coded)?,
                    None => text("body"),
                },
            },
            _ => Self::Broken(text("broken")),
        })
    }
}

fn decode(coded: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(coded).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn status_line(head: &str) -> Option<(String, u16)> {
    let mut words = head.lines().next()?.split(' ');
    let version = words.next()?.strip_prefix("HTTP/")?;
    Some((version.to_owned(), words.next()?.parse().ok()?))
}
