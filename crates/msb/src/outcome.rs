//! How a program of the guest ended, and what it wrote.

use std::fmt;

use msb_agent_proto::v1::exit;

use crate::Error;

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    how: How,
    timed_out: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Code(u8),
    Signal(u8),
}

impl ExitStatus {
    pub(crate) fn new(how: Option<exit::How>, timed_out: bool) -> Result<Self, Error> {
        let how = match how {
            Some(exit::How::Code(code)) => u8::try_from(code).map(How::Code),
            Some(exit::How::Signal(signal)) => u8::try_from(signal).map(How::Signal),
            None => return Err(Error::Agent("it did not say how the program ended".into())),
        };
        how.map(|how| Self { how, timed_out })
            .map_err(|_| Error::Agent("it told an impossible exit status".into()))
    }

    /// Whether the program exited with 0.
    pub fn success(self) -> bool {
        self.how == How::Code(0)
    }

    /// The exit status, unless a signal ended the program.
    pub fn code(self) -> Option<u8> {
        match self.how {
            How::Code(code) => Some(code),
            How::Signal(_) => None,
        }
    }

    /// The signal that ended the program.
    pub fn signal(self) -> Option<u8> {
        match self.how {
            How::Code(_) => None,
            How::Signal(signal) => Some(signal),
        }
    }

    /// Whether it ended because its [timeout](crate::Command::timeout) was over. How it ended then is its own matter: it
    /// may have exited in its own way.
    pub fn timed_out(self) -> bool {
        self.timed_out
    }

    /// As a shell tells it: the exit status, or 128 and the signal's number.
    pub fn shell_code(self) -> u8 {
        match self.how {
            How::Code(code) => code,
            How::Signal(signal) => signal.saturating_add(128),
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.how {
            How::Code(code) => write!(f, "exit status {code}"),
            How::Signal(signal) => write!(f, "signal {signal}"),
        }?;
        match self.timed_out {
            true => f.write_str(", after its time was over"),
            false => Ok(()),
        }
    }
}

/// What a program wrote, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) killed_for_memory: Vec<String>,
}

impl Output {
    /// How the program ended.
    pub fn status(&self) -> ExitStatus {
        self.status
    }

    /// Its standard output as text.
    ///
    /// # Errors
    /// [`Error::NotUtf8`]; the bytes are in [`stdout_bytes`](Self::stdout_bytes).
    pub fn stdout(&self) -> Result<&str, Error> {
        text("stdout", &self.stdout)
    }

    /// Its standard error as text.
    ///
    /// # Errors
    /// [`Error::NotUtf8`]; the bytes are in [`stderr_bytes`](Self::stderr_bytes).
    pub fn stderr(&self) -> Result<&str, Error> {
        text("stderr", &self.stderr)
    }

    /// As [`Process::killed_for_memory`](crate::Process::killed_for_memory).
    pub fn killed_for_memory(&self) -> &[String] {
        &self.killed_for_memory
    }

    /// Its standard output.
    pub fn stdout_bytes(&self) -> &[u8] {
        &self.stdout
    }

    /// Its standard error.
    pub fn stderr_bytes(&self) -> &[u8] {
        &self.stderr
    }
}

fn text<'a>(stream: &'static str, bytes: &'a [u8]) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes).map_err(|error| Error::NotUtf8 {
        stream,
        valid_up_to: error.valid_up_to(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_are_told_as_a_shell_does() {
        for (how, shell, code, signal, display) in [
            (exit::How::Code(0), 0, Some(0), None, "exit status 0"),
            (
                exit::How::Code(255),
                255,
                Some(255),
                None,
                "exit status 255",
            ),
            (exit::How::Signal(9), 137, None, Some(9), "signal 9"),
            (exit::How::Signal(15), 143, None, Some(15), "signal 15"),
        ] {
            let status = ExitStatus::new(Some(how), false).expect("possible");
            assert_eq!(status.shell_code(), shell);
            assert_eq!(status.code(), code);
            assert_eq!(status.signal(), signal);
            assert_eq!(status.to_string(), display);
            assert_eq!(status.success(), shell == 0);
            assert!(!status.timed_out());
            let late = ExitStatus::new(Some(how), true).expect("possible");
            assert_eq!(
                late.to_string(),
                format!("{display}, after its time was over")
            );
            assert!(late.timed_out());
        }
    }

    #[test]
    fn an_agent_that_tells_nonsense_is_not_believed() {
        for how in [
            None,
            Some(exit::How::Code(256)),
            Some(exit::How::Signal(-1)),
        ] {
            assert!(
                matches!(ExitStatus::new(how, false), Err(Error::Agent(_))),
                "{how:?}"
            );
        }
    }

    #[test]
    fn output_that_is_not_text_says_where() {
        let output = Output {
            status: ExitStatus::new(Some(exit::How::Code(0)), false).expect("possible"),
            stdout: b"ok\xff".to_vec(),
            stderr: b"fine".to_vec(),
            killed_for_memory: Vec::new(),
        };
        let error = output.stdout().expect_err("not UTF-8").to_string();
        assert_eq!(error, "the program's stdout is not UTF-8 from byte 2");
        assert_eq!(output.stderr().expect("text"), "fine");
    }
}
