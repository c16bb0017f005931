//! The way to a guest's agent, and how to learn why it ended.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use crate::Error;
use crate::agent::{Client, Connection};
use crate::detached::Remote;
use crate::sandbox::Running;

/// How long the agent may take to answer. A guest at the end of its memory takes seconds, a busy one under TCG too.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// A connection to an agent. Clones share it.
#[derive(Clone)]
pub(crate) struct Link {
    connection: Connection,
    end: End,
}

/// Who knows why the agent is gone.
#[derive(Clone)]
enum End {
    Machine(Arc<Running>),
    Supervisor(Arc<Remote>),
}

impl Link {
    pub(crate) fn to_machine(connection: Connection, machine: Arc<Running>) -> Self {
        Self {
            connection,
            end: End::Machine(machine),
        }
    }

    pub(crate) fn to_supervisor(connection: Connection, remote: Arc<Remote>) -> Self {
        Self {
            connection,
            end: End::Supervisor(remote),
        }
    }

    /// The connection itself.
    pub(crate) fn connection(&self) -> Connection {
        self.connection.clone()
    }

    /// Makes calls to the agent.
    pub(crate) fn client(&self) -> Client {
        self.connection.client()
    }

    /// A call's answer, or why there is none: the sandbox has ended, or nobody answers.
    pub(crate) async fn answer<T>(
        &self,
        call: impl Future<Output = Result<T, Status>>,
        explain: impl FnOnce(Status) -> Error,
    ) -> Result<T, Error> {
        let ended = async {
            match &self.end {
                End::Machine(machine) => machine.end_reason().await,
                // Its connection ends with it, and the call then.
                End::Supervisor(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            result = call => match result {
                Ok(answer) => Ok(answer),
                Err(status) => Err(self.refine(explain(status)).await),
            },
            reason = ended => Err(Error::Ended { reason }),
            () = tokio::time::sleep(ANSWER_WAIT) => Err(Error::NoAnswer {
                waited: ANSWER_WAIT,
                console: match &self.end {
                    End::Machine(machine) => machine.last_lines(),
                    End::Supervisor(remote) => remote.last_lines().await,
                },
            }),
        }
    }

    /// A lost connection usually is the sandbox's end seen first from another side.
    pub(crate) async fn refine(&self, error: Error) -> Error {
        match &self.end {
            End::Machine(machine) => machine.refine(error).await,
            End::Supervisor(remote) if matches!(error, Error::Ended { .. }) => {
                remote.why_gone().await
            }
            End::Supervisor(_) => error,
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}
