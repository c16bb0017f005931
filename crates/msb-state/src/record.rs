//! What is written down of one sandbox.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Name, files};

/// The version of the record that this crate writes, and the only one that it reads.
pub const VERSION: u32 = 1;

/// A record is some kilobytes; this is damage.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

pub(crate) const FILE: &str = "record.json";
pub(crate) const TEMPORARY: &str = "record.tmp";

/// What is written down of one sandbox. Values of secrets have no place in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    version: u32,
    /// The sandbox's name.
    pub name: Name,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// How far it has come, as the process that holds it last said.
    pub phase: Phase,
    /// When that was, in milliseconds since 1970.
    pub phase_ms: u64,
    /// What the sandbox is made of; the caller's.
    pub config: Value,
    /// What is known of it while it runs, and afterwards; the caller's.
    #[serde(default)]
    pub facts: Value,
}

/// How far a sandbox has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Phase {
    /// It has not been started since it was made.
    Created,
    /// Some process starts it.
    Starting,
    /// It is up.
    Running,
    /// It is up, and its processors are halted.
    Paused,
    /// It has ended in order.
    Ended {
        /// Why, for people.
        reason: String,
        /// The exit status of its command; absent if it had none, or it did not get to its end.
        code: Option<u8>,
    },
    /// The process that held it has ended without a word.
    Crashed,
}

impl Record {
    pub(crate) fn new(name: Name, config: Value) -> Self {
        let now = now_ms();
        Self {
            version: VERSION,
            name,
            created_ms: now,
            phase: Phase::Created,
            phase_ms: now,
            config,
            facts: Value::Null,
        }
    }

    pub(crate) fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
        self.phase_ms = now_ms();
    }

    /// Reads the record in `dir`, which is that of the sandbox `name`.
    pub(crate) fn read(dir: &Path, name: &Name) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |reason: String| Error::Damaged {
            name: name.to_string(),
            reason,
        };
        let bytes = files::read_bounded(&dir.join(FILE), MAX_BYTES);
        let bytes = bytes.map_err(|error| damaged(error.to_string()))?;
        match serde_json::from_slice::<Version>(&bytes) {
            Ok(Version { version }) if version != VERSION => {
                return Err(damaged(format!(
                    "it is of version {version}, and this msb reads {VERSION}"
                )));
            }
            _ => {}
        }
        let record: Self =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if record.name != *name {
            return Err(damaged(format!("it is that of {}", record.name)));
        }
        Ok(record)
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<(), Error> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| Error::Io {
            what: "write",
            path: dir.join(FILE),
            source: error.into(),
        })?;
        bytes.push(b'\n');
        files::replace(&dir.join(FILE), &dir.join(TEMPORARY), &bytes)
    }
}

/// Milliseconds since 1970; 0 before.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
