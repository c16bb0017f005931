//! The QEMU Machine Protocol: one JSON object per line, greeting first
//! (QEMU documentation, "QEMU Machine Protocol Specification").

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

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
    /// QEMU hangs: a server of its disks or directories that does not answer, or whoever stopped it.
    #[error("QEMU did not answer its monitor within {0} s")]
    Silent(u64),
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
///
/// A task of its own reads what QEMU says as long as this lives: events come without being asked for, and QEMU keeps
/// for ever what nobody takes.
#[derive(Debug)]
pub struct Qmp {
    writer: OwnedWriteHalf,
    awaited: Arc<Mutex<Awaited>>,
    reader: AbortHandle,
    version: (u64, u64),
    next_id: u64,
}

type Answer = Result<Value, QmpError>;

/// Who waits for an answer.
#[derive(Debug, Default)]
enum Awaited {
    #[default]
    Nobody,
    /// The command with this id.
    Command(u64, oneshot::Sender<Answer>),
    /// Nothing will be answered any more.
    Ended,
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Refusal>,
    event: Option<String>,
    id: Option<u64>,
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
        let mut reader = BufReader::new(reader);
        let greeting = read(&mut reader)
            .await?
            .greeting
            .ok_or_else(|| QmpError::Malformed("no greeting".into()))?;
        let number = |part: &str| {
            greeting
                .pointer(&format!("/version/qemu/{part}"))
                .and_then(Value::as_u64)
                .ok_or_else(|| QmpError::Malformed("no version in the greeting".into()))
        };
        let version = (number("major")?, number("minor")?);
        let awaited = Arc::default();
        let reading = tokio::spawn(drive_reader(reader, Arc::clone(&awaited)));
        let mut qmp = Self {
            writer,
            awaited,
            reader: reading.abort_handle(),
            version,
            next_id: 0,
        };
        qmp.execute("qmp_capabilities").await?;
        Ok(qmp)
    }

    /// QEMU's major and minor version.
    pub fn version(&self) -> (u64, u64) {
        self.version
    }

    /// Runs a command without arguments and returns its answer.
    ///
    /// # Errors
    /// [`QmpError::Refused`] with QEMU's reason, or a failed connection.
    ///
    /// # Cancellation
    /// A command that was sent may still be carried out; its answer is dropped. One that was sent in part ends the
    /// connection with the next command, which QEMU cannot read then.
    pub async fn execute(&mut self, command: &str) -> Result<Value, QmpError> {
        let id = self.next_id;
        self.next_id += 1;
        let (sender, answer) = oneshot::channel();
        {
            let mut awaited = lock(&self.awaited);
            if matches!(*awaited, Awaited::Ended) {
                return Err(QmpError::Closed);
            }
            *awaited = Awaited::Command(id, sender);
        }
        let mut line = json!({ "execute": command, "id": id }).to_string();
        line.push('\n');
        self.writer.write_all(line.as_bytes()).await?;
        match answer.await {
            Ok(Err(QmpError::Refused { reason, .. })) => Err(QmpError::Refused {
                command: command.to_owned(),
                reason,
            }),
            Ok(answer) => answer,
            Err(_ended) => Err(QmpError::Closed),
        }
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Takes what QEMU says until it ends.
async fn drive_reader(mut reader: BufReader<OwnedReadHalf>, awaited: Arc<Mutex<Awaited>>) {
    let fault = loop {
        match read(&mut reader).await {
            Ok(message) => take(message, &awaited),
            Err(fault) => break fault,
        }
    };
    tracing::debug!(%fault, "QEMU's monitor ended");
    if let Awaited::Command(_, sender) = std::mem::replace(&mut *lock(&awaited), Awaited::Ended) {
        // Nobody may wait any more.
        let _ = sender.send(Err(fault));
    }
}

fn take(message: Message, awaited: &Mutex<Awaited>) {
    if let Some(event) = message.event {
        tracing::debug!(event, "QEMU event");
        return;
    }
    let answer = match (message.answer, message.error) {
        (Some(answer), _) => Ok(answer),
        (None, Some(refusal)) => Err(QmpError::Refused {
            command: String::new(),
            reason: refusal.desc,
        }),
        (None, None) => return,
    };
    let mut awaited = lock(awaited);
    match std::mem::take(&mut *awaited) {
        // QEMU answers without the id what it could not read.
        Awaited::Command(id, sender) if message.id.is_none_or(|answered| answered == id) => {
            let _ = sender.send(answer);
        }
        // To a command nobody waits for any more.
        other => *awaited = other,
    }
}

async fn read(reader: &mut BufReader<OwnedReadHalf>) -> Result<Message, QmpError> {
    let mut line = String::new();
    let read = reader.take(MESSAGE_LIMIT).read_line(&mut line).await?;
    if read == 0 {
        return Err(QmpError::Closed);
    }
    serde_json::from_str(&line).map_err(|error| QmpError::Malformed(error.to_string()))
}

fn lock(awaited: &Mutex<Awaited>) -> MutexGuard<'_, Awaited> {
    awaited.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": []}}"#;

    /// A monitor that greets with `greeting`, says each of `answers` when it is sent a line, and then closes.
    /// Returns what came of `command` after the capabilities were agreed on, and what the monitor was sent.
    async fn run(
        greeting: &str,
        answers: &[&str],
        command: &str,
    ) -> (Result<Value, QmpError>, String) {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let monitor = async {
            let (reader, mut writer) = theirs.into_split();
            let mut reader = BufReader::new(reader);
            let mut sent = String::new();
            writer.write_all(greeting.as_bytes()).await.expect("room");
            for answer in answers {
                reader.read_line(&mut sent).await.expect("UTF-8");
                writer.write_all(answer.as_bytes()).await.expect("room");
            }
            drop(writer);
            let _ = reader.read_to_string(&mut sent).await;
            sent
        };
        let client = async {
            let mut qmp = Qmp::connect(ours).await?;
            assert_eq!(qmp.version(), (7, 2));
            qmp.execute(command).await
        };
        tokio::join!(client, monitor)
    }

    fn greeting() -> String {
        format!("{GREETING}\n")
    }

    #[tokio::test]
    async fn a_command_gets_its_answer_past_events() {
        let (result, sent) = run(
            &greeting(),
            &[
                "{\"return\": {}, \"id\": 0}\n{\"event\": \"RESUME\"}\n",
                "{\"event\": \"STOP\"}\n{\"return\": {\"status\": \"running\"}, \"id\": 1}\n",
            ],
            "query-status",
        )
        .await;
        assert_eq!(result.expect("an answer")["status"], "running");
        assert_eq!(
            sent,
            "{\"execute\":\"qmp_capabilities\",\"id\":0}\n{\"execute\":\"query-status\",\"id\":1}\n"
        );
    }

    #[tokio::test]
    async fn each_bad_monitor_is_told_apart() {
        let agreed = "{\"return\": {}, \"id\": 0}\n";
        let refused = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 1}\n";
        let unread = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no JSON\"}}\n";
        for (greeting, answers, expected) in [
            ("", &[][..], "QEMU closed its monitor"),
            (
                "{}\n",
                &[],
                "the monitor said something that is not QMP: no greeting",
            ),
            (&greeting(), &[""], "QEMU closed its monitor"),
            (&greeting(), &[agreed, refused], "QEMU refused stop: no"),
            (&greeting(), &[agreed, unread], "QEMU refused stop: no JSON"),
        ] {
            let (result, _) = run(greeting, answers, "stop").await;
            assert_eq!(
                result.expect_err("a failure").to_string(),
                expected,
                "{answers:?}"
            );
        }
        let (result, _) = run(&greeting(), &[agreed, "garbage\n"], "stop").await;
        assert!(matches!(result, Err(QmpError::Malformed(_))), "{result:?}");
    }

    /// The monitor's socket holds some 200 KiB: more than that can only be written if somebody reads.
    #[tokio::test]
    async fn events_are_taken_while_no_command_runs() {
        let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
        let monitor = async {
            theirs.write_all(greeting().as_bytes()).await.expect("room");
            let read = theirs.read(&mut [0; 64]).await.expect("a command");
            assert!(read > 0);
            let answer = b"{\"return\": {}, \"id\": 0}\n";
            theirs.write_all(answer).await.expect("room");
            let event = "{\"event\": \"NIC_RX_FILTER_CHANGED\"}\n".repeat(100_000);
            theirs.write_all(event.as_bytes()).await.expect("taken");
        };
        let (qmp, ()) = tokio::time::timeout(std::time::Duration::from_secs(20), async {
            tokio::join!(Qmp::connect(ours), monitor)
        })
        .await
        .expect("the events are read");
        drop(qmp.expect("connected"));
    }

    #[tokio::test]
    async fn the_answer_to_a_cancelled_command_is_not_taken_for_the_next_ones() {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let (reader, mut writer) = theirs.into_split();
        let mut reader = BufReader::new(reader);
        let mut line = String::new();
        let agree = async {
            writer.write_all(greeting().as_bytes()).await.expect("room");
            reader.read_line(&mut line).await.expect("a command");
            let answer = b"{\"return\": {}, \"id\": 0}\n";
            writer.write_all(answer).await.expect("room");
        };
        let (qmp, ()) = tokio::join!(Qmp::connect(ours), agree);
        let mut qmp = qmp.expect("connected");
        tokio::select! {
            biased;
            _ = qmp.execute("stop") => panic!("answered"),
            _ = reader.read_line(&mut line) => {}
        }
        let both = async {
            reader.read_line(&mut line).await.expect("a command");
            let answers =
                b"{\"return\": {\"late\": 1}, \"id\": 1}\n{\"return\": {\"due\": 1}, \"id\": 2}\n";
            writer.write_all(answers).await.expect("room");
        };
        let (answer, ()) = tokio::join!(qmp.execute("query-status"), both);
        assert_eq!(answer.expect("an answer"), json!({ "due": 1 }));
    }
}
