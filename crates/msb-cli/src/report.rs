//! What msb itself says, on standard error.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

/// Starts the log at `filter`; one that does not parse is told, and `warn` is used. That of a supervisor goes into the log
/// of its sandbox.
pub(crate) fn start_log(filter: &str, is_supervisor: bool) {
    let (filter, complaint) = match EnvFilter::try_new(filter) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("warn"), Some(error)),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false);
    match is_supervisor {
        true => log
            .with_ansi(false)
            .without_time()
            .with_writer(|| msb::SupervisorLog)
            .init(),
        false => log
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .init(),
    }
    if let Some(error) = complaint {
        tracing::warn!("the log filter does not parse, using `warn`: {error}");
    }
}

/// Tells a failure with its causes on one line (a console's lines follow it) and gives its exit code.
pub(crate) fn failure(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(tell(error))
}

/// The same, where more is to be done: gives the number of the exit code.
pub(crate) fn tell(error: &anyhow::Error) -> u8 {
    // With standard error gone nobody is left to tell.
    let _ = writeln!(std::io::stderr(), "msb: {error:#}");
    exit_code(error)
}

/// Tells something that is no failure, on one line.
pub(crate) fn note(text: &str) {
    // As above.
    let _ = writeln!(std::io::stderr(), "msb: {text}");
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<msb::Error>() {
        Some(msb::Error::ProgramNotFound(_)) => 127,
        Some(msb::Error::ProgramNotExecutable(_)) => 126,
        Some(msb::Error::Supervisor { code, .. }) => *code,
        _ => crate::OWN_FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_env_and_timeout() {
        for (error, expected) in [
            (msb::Error::ProgramNotFound("x".into()), 127),
            (msb::Error::ProgramNotExecutable("x".into()), 126),
            (msb::Error::Config("x".into()), 125),
        ] {
            assert_eq!(exit_code(&error.into()), expected);
        }
        assert_eq!(exit_code(&anyhow::anyhow!("x")), 125);
    }
}
