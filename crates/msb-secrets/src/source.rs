//! Where values come from: the host's environment, files, commands, inherited descriptors. Feature `sources`.
//!
//! The only part of this crate that does I/O, and none of the others knows of it: a library user who has the value at
//! hand leaves the feature off and the crate is pure.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "reading values in is what this module is for; it is apart from the pure ones and behind a feature"
)]

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

/// The longest value in bytes that a source may give: more is a wrong file, not a credential.
pub const MAX_SOURCE_LEN: usize = 64 << 10;

/// How often a command that has said all is asked whether it ended.
const POLL: Duration = Duration::from_millis(2);

/// Where a value comes from.
///
/// One line break at the end is taken off, as files and commands have one that is not meant.
pub enum Source {
    /// A variable of the host's environment.
    Env(String),
    /// A file.
    File(PathBuf),
    /// What a command prints. It is run without a shell, with nothing to read, and its errors go to the host's.
    Command {
        /// The program, looked up in the host's `PATH`.
        program: OsString,
        /// Its arguments.
        arguments: Vec<OsString>,
        /// It is killed after this long.
        timeout: Duration,
    },
    /// What an inherited descriptor gives up to its end.
    Fd(OwnedFd),
}

/// A value that was read in; goes into [`SecretBuilder::source_value`](crate::SecretBuilder::source_value). It is wiped when
/// dropped, and `Debug` does not show it.
pub struct SourceValue(pub(crate) Zeroizing<String>);

/// Why no value could be read. Names the source, never what was read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// No such variable.
    #[error("the environment variable {name:?} is not set")]
    NotSet {
        /// Its name.
        name: String,
    },
    /// A file, descriptor or program that cannot be read or run.
    #[error("{from} cannot be read")]
    Io {
        /// What was to be read.
        from: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Not UTF-8.
    #[error("{from} is not text in UTF-8")]
    NotText {
        /// What was read.
        from: String,
    },
    /// Nothing, or a line break only.
    #[error("{from} is empty")]
    Empty {
        /// What was read.
        from: String,
    },
    /// More than [`MAX_SOURCE_LEN`] bytes.
    #[error("{from} is longer than {MAX_SOURCE_LEN} bytes, so it cannot be meant")]
    TooLong {
        /// What was read.
        from: String,
    },
    /// A command that did not succeed.
    #[error("{from} failed: {status}")]
    Failed {
        /// The command.
        from: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// A command that took too long, and was killed.
    #[error("{from} did not end within {timeout:?}")]
    TimedOut {
        /// The command.
        from: String,
        /// How long it was given.
        timeout: Duration,
    },
}

impl Source {
    /// Reads the value; blocks until it is there.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub fn read(self) -> Result<SourceValue, SourceError> {
        let from = self.to_string();
        let bytes = match self {
            Self::Env(name) => match std::env::var_os(&name) {
                Some(value) => Ok(Zeroizing::new(value.into_encoded_bytes())),
                None => return Err(SourceError::NotSet { name }),
            },
            Self::File(path) => File::open(path).and_then(read_bounded),
            Self::Fd(fd) => read_bounded(File::from(fd)),
            Self::Command {
                program,
                arguments,
                timeout,
            } => return run(from, Command::new(program).args(arguments), timeout),
        };
        match bytes {
            Ok(bytes) => text(from, &bytes),
            Err(source) => Err(SourceError::Io { from, source }),
        }
    }
}

/// At most one byte more than a value may have, in one allocation: a growing one would leave copies behind.
fn read_bounded(mut reader: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; MAX_SOURCE_LEN + 1]);
    let mut len = 0;
    while len < bytes.len() {
        match reader.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

fn text(from: String, bytes: &[u8]) -> Result<SourceValue, SourceError> {
    if bytes.len() > MAX_SOURCE_LEN {
        return Err(SourceError::TooLong { from });
    }
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok("") => Err(SourceError::Empty { from }),
        Ok(text) => Ok(SourceValue(Zeroizing::new(text.to_owned()))),
        Err(_) => Err(SourceError::NotText { from }),
    }
}

fn run(from: String, command: &mut Command, timeout: Duration) -> Result<SourceValue, SourceError> {
    let failed = |source| SourceError::Io {
        from: from.clone(),
        source,
    };
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (sender, receiver) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        // Ends with the pipe; a grandchild that holds it open holds this thread up, and nobody waits for it.
        thread::spawn(move || sender.send(read_bounded(output)));
    }
    let Ok(output) = receiver.recv_timeout(timeout) else {
        end(&mut child);
        return Err(SourceError::TimedOut { from, timeout });
    };
    let output = output.map_err(failed)?;
    if output.len() > MAX_SOURCE_LEN {
        end(&mut child);
        return Err(SourceError::TooLong { from });
    }
    // Its output has ended, so it is about to exit; there is no way to wait for that and a clock at once.
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if begin.elapsed() < timeout => thread::sleep(POLL),
            None => {
                end(&mut child);
                return Err(SourceError::TimedOut { from, timeout });
            }
        }
    };
    if !status.success() {
        return Err(SourceError::Failed { from, status });
    }
    text(from, &output)
}

fn end(child: &mut Child) {
    // It may be gone already, which is what is wanted.
    let _ = child.kill();
    let _ = child.wait();
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "the environment variable {name:?}"),
            Self::File(path) => write!(f, "the file {path:?}"),
            // Arguments may hold credentials.
            Self::Command { program, .. } => write!(f, "the command {program:?}"),
            Self::Fd(_) => f.write_str("the descriptor"),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({self})")
    }
}

impl fmt::Debug for SourceValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SourceValue([redacted])")
    }
}

#[cfg(test)]
mod tests;
