//! The tasks of one connection, which end with it.

use std::future::Future;
use std::sync::{Arc, Mutex, Weak};

use tokio::task::{AbortHandle, JoinSet};

use crate::io::bridge::lock;

/// The tasks of one connection, which end when this is dropped.
#[derive(Default)]
pub(super) struct Tasks(Arc<Mutex<JoinSet<()>>>);

/// What the tasks themselves hold to start others. They must not keep each other alive.
#[derive(Clone)]
pub(crate) struct Spawner(Weak<Mutex<JoinSet<()>>>);

/// Ends a task when dropped.
pub(crate) struct EndOnDrop(Option<AbortHandle>);

impl Tasks {
    pub(super) fn spawner(&self) -> Spawner {
        Spawner(Arc::downgrade(&self.0))
    }

    pub(super) async fn finished(&self) {
        loop {
            let mut tasks = std::mem::take(&mut *lock(&self.0));
            if tasks.is_empty() {
                return;
            }
            while tasks.join_next().await.is_some() {}
        }
    }
}

impl Spawner {
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> EndOnDrop {
        // Where the connection is gone, so is what its tasks were for.
        let Some(tasks) = self.0.upgrade() else {
            return EndOnDrop(None);
        };
        let mut tasks = lock(&tasks);
        // What has ended needs no more room.
        while tasks.try_join_next().is_some() {}
        EndOnDrop(Some(tasks.spawn(task)))
    }
}

impl EndOnDrop {
    /// Lets the task go on.
    pub(crate) fn detach(mut self) {
        self.0 = None;
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_end_with_their_connection() {
        let (alive, mut dead) = tokio::sync::mpsc::channel::<()>(1);
        let tasks = Tasks::default();
        let spawner = tasks.spawner();
        let task = tasks.spawner().spawn(async move {
            let _held = (alive, spawner);
            std::future::pending::<()>().await;
        });
        task.detach();
        drop(tasks);
        assert_eq!(dead.recv().await, None);
    }
}
