//! The way to a guest's agent, and how to learn why it ended.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tonic::Status;

use crate::Error;
use crate::agent::{Client, Connection};
use crate::detached::Remote;
use crate::exec::explain;
use crate::sandbox::Running;

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

    /// A call's outcome, or that the sandbox has ended.
    pub(crate) async fn or_ended<T>(
        &self,
        call: impl Future<Output = Result<T, Status>>,
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
        }
    }

    /// A lost connection usually is the sandbox's end seen first from another side.
    pub(crate) async fn refine(&self, error: Error) -> Error {
        match &self.end {
            End::Machine(machine) => machine.refine(error).await,
            End::Supervisor(remote) if matches!(error, Error::Ended { .. }) => Error::Ended {
                reason: remote.end_reason().await,
            },
            End::Supervisor(_) => error,
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}
