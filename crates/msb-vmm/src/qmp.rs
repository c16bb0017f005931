//! The QEMU Machine Protocol: one JSON object per line, greeting first
//! (QEMU documentation, "QEMU Machine Protocol Specification").

use std::io;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// The longest message taken, in bytes. QEMU's longest answers (schema dumps) are never asked for.
const MESSAGE_LIMIT: u64 = 1024 * 1024;

/// A failure of the monitor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// The connection ended: QEMU has exited.
    #[error("QEMU closed its monitor")]
    Closed,
    /// The socket failed.
    #[error("the monitor's socket failed")]
    Io(#[from] io::Error),
    /// What came is not QMP.
    #[error("the monitor said something that is not QMP: {0}")]
    Malformed(String),
    /// QEMU refused a command.
    #[error("QEMU refused {command}: {reason}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's description.
        reason: String,
    },
}

/// A connection to one QEMU's monitor.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    version: (u64, u64),
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Refusal>,
    event: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

impl Qmp {
    /// Reads the greeting and enters command mode.
    ///
    /// # Errors
    /// [`QmpError::Closed`] when QEMU exits before it has greeted.
    pub async fn connect(stream: UnixStream) -> Result<Self, QmpError> {
        let (reader, writer) = stream.into_split();
        let mut qmp = Self {
            reader: BufReader::new(reader),
            writer,
            version: (0, 0),
        };
        let greeting = qmp
            .read()
            .await?
            .greeting
            .ok_or_else(|| QmpError::Malformed("no greeting".into()))?;
        let number = |part: &str| {
            greeting
                .pointer(&format!("/version/qemu/{part}"))
                .and_then(Value::as_u64)
                .ok_or_else(|| QmpError::Malformed("no version in the greeting".into()))
        };
        qmp.version = (number("major")?, number("minor")?);
        qmp.execute("qmp_capabilities").await?;
        Ok(qmp)
    }

    /// QEMU's major and minor version.
    pub fn version(&self) -> (u64, u64) {
        self.version
    }

    /// Runs a command without arguments and returns its answer. Events that come in between are dropped.
    ///
    /// # Errors
    /// [`QmpError::Refused`] with QEMU's reason, or a failed connection.
    pub async fn execute(&mut self, command: &str) -> Result<Value, QmpError> {
        let mut line = json!({ "execute": command }).to_string();
        line.push('\n');
        self.writer.write_all(line.as_bytes()).await?;
        loop {
            let message = self.read().await?;
            if let Some(answer) = message.answer {
                return Ok(answer);
            }
            if let Some(refusal) = message.error {
                return Err(QmpError::Refused {
                    command: command.to_owned(),
                    reason: refusal.desc,
                });
            }
            if let Some(event) = message.event {
                tracing::debug!(event, "QEMU event");
            }
        }
    }

    async fn read(&mut self) -> Result<Message, QmpError> {
        let mut line = String::new();
        let read = (&mut self.reader)
            .take(MESSAGE_LIMIT)
            .read_line(&mut line)
            .await?;
        if read == 0 {
            return Err(QmpError::Closed);
        }
        serde_json::from_str(&line).map_err(|error| QmpError::Malformed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": []}}"#;

    /// A monitor that says `lines` and then closes; returns what it was sent.
    async fn run(lines: &str, command: &str) -> (Result<Value, QmpError>, String) {
        let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
        theirs.write_all(lines.as_bytes()).await.expect("room");
        theirs.shutdown().await.expect("half-closed");
        let result = match Qmp::connect(ours).await {
            Ok(mut qmp) => {
                assert_eq!(qmp.version(), (7, 2));
                qmp.execute(command).await
            }
            Err(error) => Err(error),
        };
        let mut sent = String::new();
        theirs.read_to_string(&mut sent).await.expect("UTF-8");
        (result, sent)
    }

    #[tokio::test]
    async fn a_command_gets_its_answer_past_events() {
        let lines = format!(
            "{GREETING}\n{{\"return\": {{}}}}\n{{\"event\": \"RESUME\"}}\n{{\"return\": {{\"status\": \"running\"}}}}\n"
        );
        let (result, sent) = run(&lines, "query-status").await;
        assert_eq!(result.expect("an answer")["status"], "running");
        assert_eq!(
            sent,
            "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-status\"}\n"
        );
    }

    #[tokio::test]
    async fn each_bad_monitor_is_told_apart() {
        let refused = format!(
            "{GREETING}\n{{\"return\": {{}}}}\n{{\"error\": {{\"class\": \"GenericError\", \"desc\": \"no\"}}}}\n"
        );
        for (lines, expected) in [
            ("", "QEMU closed its monitor"),
            (
                "{}\n",
                "the monitor said something that is not QMP: no greeting",
            ),
            (GREETING, "QEMU closed its monitor"),
            (&refused, "QEMU refused stop: no"),
        ] {
            let (result, _) = run(lines, "stop").await;
            assert_eq!(
                result.expect_err("a failure").to_string(),
                expected,
                "{lines:?}"
            );
        }
        let (result, _) = run("garbage\n", "stop").await;
        assert!(matches!(result, Err(QmpError::Malformed(_))));
    }
}
