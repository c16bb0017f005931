//! How long a sandbox may go on: in all, and with nothing to do.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use crate::agent::Calls;
use crate::event::Events;
use crate::{Error, SandboxBuilder};

/// As it was asked for; `None`: no bound.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lifetime {
    pub(crate) max_duration: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
}

impl Lifetime {
    /// # Errors
    /// A bound that would end the sandbox before it has begun.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (what, bound) in [
            ("max_duration", self.max_duration),
            ("idle_timeout", self.idle_timeout),
        ] {
            if bound == Some(Duration::ZERO) {
                return Err(Error::Config(format!(
                    "a sandbox cannot have a {what} of 0; for none, leave it out"
                )));
            }
        }
        Ok(())
    }

    /// Ends the sandbox when a bound is reached. The time begins now.
    pub(crate) fn watch(
        &self,
        calls: &Calls,
        events: &Events,
    ) -> impl Iterator<Item = AbortHandle> + use<> {
        let duration = self.max_duration.map(|bound| {
            let events = events.clone();
            tokio::spawn(async move {
                tokio::time::sleep(bound).await;
                events.end(&format!(
                    "it has run for {}, its max_duration",
                    seconds(bound)
                ));
            })
        });
        let idle = self.idle_timeout.map(|bound| {
            let (events, mut open) = (events.clone(), calls.follow());
            tokio::spawn(async move {
                loop {
                    if open.wait_for(|open| *open == 0).await.is_err() {
                        return;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(bound) => break,
                        changed = open.changed() => if changed.is_err() { return },
                    }
                }
                events.end(&format!(
                    "no program has run in it for {}, its idle_timeout",
                    seconds(bound)
                ));
            })
        });
        [duration, idle]
            .into_iter()
            .flatten()
            .map(|task| task.abort_handle())
    }
}

fn seconds(bound: Duration) -> String {
    format!("{} s", bound.as_secs_f64())
}

impl SandboxBuilder {
    /// How long the sandbox may run in all, once it is up; then it is ended with everything in it. Default: no bound.
    pub fn max_duration(mut self, bound: Duration) -> Self {
        self.lifetime.max_duration = Some(bound);
        self
    }

    /// How long the sandbox may be up while no program that was started in it from outside runs; then it is ended. What such
    /// programs leave in the background does not count. Default: no bound.
    pub fn idle_timeout(mut self, bound: Duration) -> Self {
        self.lifetime.idle_timeout = Some(bound);
        self
    }
}
