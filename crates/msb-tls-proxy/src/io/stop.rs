//! One flag per connection: everything ends now.

use std::sync::OnceLock;

use tokio::sync::Notify;

/// Raised where a violation is found, which may be deep in a body; heeded where the connection is driven.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    raised: OnceLock<()>,
    notify: Notify,
}

impl Stop {
    /// Asks for the end. A second time it does nothing; true for the first.
    pub(crate) fn raise(&self) -> bool {
        let first = self.raised.set(()).is_ok();
        // Kept for the one driver if it is not waiting at the moment.
        self.notify.notify_one();
        first
    }

    /// Whether the end was asked for.
    pub(crate) fn is_raised(&self) -> bool {
        self.raised.get().is_some()
    }

    /// Waits until the end is asked for.
    pub(crate) async fn raised(&self) {
        while !self.is_raised() {
            self.notify.notified().await;
        }
    }
}
