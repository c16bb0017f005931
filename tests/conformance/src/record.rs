//! What an origin received, from its own memory or from its log.

use std::sync::{Arc, Mutex};

use serde_json::Value;

/// One request as an origin received it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) method: String,
    pub(crate) version: String,
    /// As written.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) is_complete: bool,
}

impl Record {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(is, _)| is == name);
        found.map(|(_, value)| value.as_str())
    }

    /// All of it, for a search.
    pub(crate) fn text(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        format!("{} {} {:?} {body}", self.method, self.target, self.headers)
    }

    /// From a line of JSON in a foreign server's log.
    pub(crate) fn from_json(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        Some(Self {
            method: text("method"),
            version: text("version"),
            target: text("target"),
            headers: vec![("authorization".into(), text("authorization"))],
            body: text("body").into_bytes(),
            is_complete: true,
        })
    }
}

/// The requests of our own origins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Record>>>);

impl Log {
    pub(crate) fn push(&self, record: Record) {
        if let Ok(mut records) = self.0.lock() {
            records.push(record);
        }
    }

    /// Those whose target contains `id`.
    pub(crate) fn of(&self, id: &str) -> Vec<Record> {
        let Ok(records) = self.0.lock() else {
            return Vec::new();
        };
        let of_id = |record: &&Record| record.target.contains(id);
        records.iter().filter(of_id).cloned().collect()
    }
}
