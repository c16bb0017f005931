//! A booted guest, and what a shell in it says.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use msb::{Event, Sandbox, SandboxBuilder};

/// A running sandbox and all its events so far.
#[derive(Debug)]
pub struct Guest {
    /// The sandbox.
    pub sandbox: Sandbox,
    events: Arc<Mutex<Vec<Event>>>,
}

/// What a command line did.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The line.
    pub line: String,
    /// Its exit status, or 128 and the number of the signal.
    pub code: u8,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it took, as the host sees it.
    pub took: Duration,
}

impl Guest {
    /// Boots the image `base` as `name`.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn boot(
        name: &str,
        configure: impl FnOnce(SandboxBuilder) -> SandboxBuilder,
    ) -> Self {
        let events = Arc::<Mutex<Vec<Event>>>::default();
        let sink = Arc::clone(&events);
        let builder = configure(Sandbox::builder(name).image("base"))
            .on_event(move |event| sink.lock().expect("events").push(event.clone()));
        match Box::pin(builder.create()).await {
            Ok(sandbox) => Self { sandbox, events },
            Err(error) => panic!("{name} does not boot: {error}"),
        }
    }

    /// Runs a line in the guest's `/bin/sh`.
    ///
    /// # Panics
    /// When the sandbox fails; a line that fails is a result.
    pub async fn sh(&self, line: &str) -> Ran {
        let start = Instant::now();
        let out = match self.sandbox.exec("/bin/sh", ["-c", line]).await {
            Ok(out) => out,
            Err(error) => panic!("{line}: {error}"),
        };
        eprintln!("{:6.2} s  {line}", start.elapsed().as_secs_f64());
        Ran {
            line: line.to_owned(),
            code: out.status().shell_code(),
            stdout: String::from_utf8_lossy(out.stdout_bytes()).into_owned(),
            stderr: String::from_utf8_lossy(out.stderr_bytes()).into_owned(),
            took: start.elapsed(),
        }
    }

    /// The events so far.
    ///
    /// # Panics
    /// When the sink has panicked.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().expect("events").clone()
    }

    /// Ends the guest in order, and checks that QEMU is gone.
    ///
    /// # Panics
    /// When it is not.
    pub async fn stop(self) {
        let qemu = crate::HostProcess::open(self.sandbox.vmm_pid());
        self.sandbox.stop().await.expect("stopped");
        assert!(
            qemu.is_none_or(|qemu| qemu.ends_within(Duration::ZERO)),
            "QEMU is left"
        );
    }
}

impl Ran {
    /// Checks the exit status and a part of what was written; the whole is shown if it is not so.
    ///
    /// # Panics
    /// When it is not so.
    #[track_caller]
    pub fn check(&self, claim: &str, code: u8, stdout: &str, stderr: &str) {
        let holds =
            self.code == code && self.stdout.contains(stdout) && self.stderr.contains(stderr);
        assert!(
            holds,
            "{claim}: expected {code}, {stdout:?} and {stderr:?} of {self:#?}"
        );
    }
}
