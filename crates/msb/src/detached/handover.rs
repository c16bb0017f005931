//! What passes between the program that starts a sandbox and the supervisor that will hold it, over the socket that is the
//! supervisor's standard input: values of secrets one way, and how it went the other. Neither touches disk, arguments or
//! environment. The supervisor gives up when the other side is gone before it is up.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Stdio;

use msb_state::{Name, StateDir, crash};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use super::spec::Values;
use crate::{Error, Supervisor};

/// What a supervisor inherits of the environment: where things are, and how to say what goes wrong. Anything else may be a
/// secret.
const INHERITED: &[&str] = &[
    "HOME",
    "LANG",
    "MSB_HOME",
    "MSB_LOG",
    "MSB_STATE",
    "PATH",
    "RUST_BACKTRACE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "XDG_STATE_HOME",
];

/// First on the socket: whoever runs the hidden subcommand by hand has no such thing to say.
const GREETING: &[u8; 8] = b"msb-go-2";
/// The most secrets, and the longest name or value of one, in bytes.
const MAX_VALUES: u32 = 10_000;
const MAX_TEXT: u32 = 1 << 20;
/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// How many lines of a supervisor that said nothing are shown.
const LAST_LINES: usize = 10;

/// What a supervisor says once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    /// The sandbox is up.
    Up,
    /// It could not be brought up: the exit status for that, and why.
    Failed { code: u8, text: String },
}

/// What a supervisor is told. Without `Debug`, which would show values.
#[derive(PartialEq)]
pub(crate) struct Told {
    /// When the sandbox was created that is meant. Values are for that one, and not for another that has its name since.
    pub(crate) created_ms: u64,
    pub(crate) values: Values,
}

/// Starts a supervisor for the sandbox `name` and returns when the sandbox is up.
pub(crate) async fn start(
    states: &StateDir,
    name: &Name,
    supervisor: &Supervisor,
    told: &Told,
) -> Result<(), Error> {
    let host = |what: &'static str| move |source| Error::Host { what, source };
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(host("a socket pair"))?;
    let log = states.early_log(name)?;
    let mut child = spawn(states.path(), name, supervisor, theirs, log)?;
    crash::point("start-spawned");
    ours.set_nonblocking(true).map_err(host("a socket"))?;
    let ours = UnixStream::from_std(ours).map_err(host("a socket"))?;
    let (reader, mut writer) = ours.into_split();
    // One that has ended already is told below.
    let _ = hand_over(&mut writer, told).await;
    crash::point("start-handed-over");
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(MAX_ANSWER));
    let read = reader.read_until(b'\n', &mut line).await;
    match read.ok().and_then(|_| serde_json::from_slice(&line).ok()) {
        Some(Answer::Up) => {
            crash::point("start-told");
            Ok(())
        }
        Some(Answer::Failed { code, text }) => {
            let _ = child.wait().await;
            Err(Error::Supervisor { code, text })
        }
        None => {
            let status = child.wait().await;
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            let mut text = format!("the sandbox's supervisor ended with {status}");
            let lines = states.early_lines(name, LAST_LINES);
            if !lines.is_empty() {
                text.push_str(&format!("; its last lines were:\n{lines}"));
            }
            Err(Error::Supervisor { code: 125, text })
        }
    }
}

fn spawn(
    states: &Path,
    name: &Name,
    supervisor: &Supervisor,
    stdin: std::os::unix::net::UnixStream,
    log: File,
) -> Result<Child, Error> {
    let failed = |source| Error::SupervisorMissing {
        program: supervisor.program.clone(),
        source,
    };
    let mut command = Command::new(&supervisor.program);
    command
        .args(&supervisor.args)
        .arg(states)
        .arg(name.as_str())
        .current_dir("/")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(stdin)))
        .stdout(Stdio::from(log.try_clone().map_err(failed)?))
        .stderr(Stdio::from(log))
        .env_clear();
    for variable in INHERITED {
        command.envs(std::env::var_os(variable).map(|value| (variable, value)));
    }
    if cfg!(debug_assertions) {
        let armed = std::env::var_os(crash::VARIABLE);
        command.envs(armed.map(|value| (crash::VARIABLE, value)));
    }
    command.spawn().map_err(failed)
}

async fn hand_over(writer: &mut (impl AsyncWriteExt + Unpin), told: &Told) -> io::Result<()> {
    let len = |len: usize| {
        let len = u32::try_from(len).map_err(io::Error::other)?;
        io::Result::Ok(len.to_be_bytes())
    };
    writer.write_all(GREETING).await?;
    writer.write_u64(told.created_ms).await?;
    writer.write_all(&len(told.values.len())?).await?;
    for (name, value) in &told.values {
        for text in [name.as_bytes(), value.as_bytes()] {
            writer.write_all(&len(text.len())?).await?;
            writer.write_all(text).await?;
        }
    }
    writer.flush().await
}

/// The supervisor's side.
#[derive(Debug)]
pub(crate) struct Starter(UnixStream);

impl Starter {
    /// Takes the socket from standard input, which nobody can read any more then.
    ///
    /// # Errors
    /// It is none: the supervisor was not started as it should be.
    pub(crate) fn from_stdin() -> io::Result<Self> {
        let own = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        let stream = std::os::unix::net::UnixStream::from(own);
        stream.peer_addr()?;
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream).map(Self)
    }

    /// Takes the values of the secrets, and whose they are.
    ///
    /// # Errors
    /// What came is something else.
    pub(crate) async fn told(&mut self) -> io::Result<Told> {
        let unexpected =
            || io::Error::other("it did not say what a program that starts a sandbox does");
        let mut greeting = [0; GREETING.len()];
        self.0.read_exact(&mut greeting).await?;
        let created_ms = self.0.read_u64().await?;
        let count = self.0.read_u32().await?;
        if greeting != *GREETING || count > MAX_VALUES {
            return Err(unexpected());
        }
        let mut values = Values::new();
        for _ in 0..count {
            let name = self.text().await?;
            let value = self.text().await?;
            values.insert(name.as_str().to_owned(), value);
        }
        Ok(Told { created_ms, values })
    }

    /// In one allocation: a growing one would leave copies behind.
    async fn text(&mut self) -> io::Result<Zeroizing<String>> {
        let len = self.0.read_u32().await?;
        if len > MAX_TEXT {
            return Err(io::Error::other("it said more than a value can be"));
        }
        let mut bytes = Zeroizing::new(vec![0; len as usize]);
        self.0.read_exact(&mut bytes).await?;
        let text = String::from_utf8(std::mem::take(&mut *bytes));
        text.map(Zeroizing::new).map_err(|error| {
            drop(Zeroizing::new(error.into_bytes()));
            io::Error::other("a value is not UTF-8")
        })
    }

    /// Waits until nobody wants the sandbox any more.
    pub(crate) async fn gone(&mut self) {
        // Nothing more is said.
        let _ = self.0.read_u8().await;
    }

    /// Says that the sandbox is up. Whoever does not hear it has ended since, and the sandbox goes on.
    pub(crate) async fn up(mut self) {
        self.say(&Answer::Up).await;
    }

    /// Says why it could not be brought up.
    pub(crate) async fn fail(mut self, error: &Error) {
        let code = match error {
            Error::ProgramNotFound(_) => 127,
            Error::ProgramNotExecutable(_) => 126,
            _ => 125,
        };
        let text = error.whole();
        self.say(&Answer::Failed { code, text }).await;
    }

    async fn say(&mut self, answer: &Answer) {
        if let Ok(mut line) = serde_json::to_vec(answer) {
            line.push(b'\n');
            let _ = self.0.write_all(&line).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        let value = |(name, value): &(&str, &str)| {
            ((*name).to_owned(), Zeroizing::new((*value).to_owned()))
        };
        pairs.iter().map(value).collect()
    }

    #[tokio::test]
    async fn values_arrive_as_they_were() {
        for pairs in [
            &[][..],
            &[("KEY", "value")],
            &[("A", ""), ("B", "line\nbreak\0"), ("C", "ü")],
        ] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let sent = Told {
                created_ms: u64::MAX - 1,
                values: values(pairs),
            };
            hand_over(&mut ours, &sent).await.unwrap();
            let mut starter = Starter(theirs);
            assert!(starter.told().await.unwrap() == sent, "{pairs:?}");
            drop(ours);
            starter.gone().await;
        }
    }

    #[tokio::test]
    async fn what_is_no_starter_is_refused() {
        let mut greeting = GREETING.to_vec();
        greeting.extend([0; 8]);
        greeting.extend([0, 0, 0, 1]);
        let with = |rest: &[u8]| [&greeting[..], rest].concat();
        for said in [
            b"".to_vec(),
            b"msb-go-".to_vec(),
            b"GET / HTTP/1.1\r\n".to_vec(),
            [&GREETING[..], &[0xff; 12]].concat(),
            with(&[0xff; 8]),
            with(&[0, 0, 0, 1, 0xff, 0, 0, 0, 0]),
            with(&[0, 0, 0, 9, b'x']),
        ] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(&said).await.unwrap();
            drop(ours);
            assert!(Starter(theirs).told().await.is_err(), "{said:?}");
        }
    }
}
