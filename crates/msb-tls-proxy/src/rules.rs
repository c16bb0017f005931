//! Rules about requests, as they are at the moment.

use std::sync::Arc;

use msb_policy::{HttpDecision, HttpPolicy};
use tokio::sync::watch;

use crate::DeniedRequests;

/// Which requests may be sent; by default all. Clones see the same changes.
#[derive(Clone, Debug)]
pub struct HttpRules {
    policy: watch::Receiver<Arc<HttpPolicy>>,
    denied: DeniedRequests,
}

impl HttpRules {
    pub(crate) fn new(policy: watch::Receiver<Arc<HttpPolicy>>, denied: DeniedRequests) -> Self {
        Self { policy, denied }
    }

    pub(crate) fn current(&self) -> Arc<HttpPolicy> {
        Arc::clone(&self.policy.borrow())
    }

    /// What becomes of requests that are denied.
    pub(crate) fn denied(&self) -> DeniedRequests {
        self.denied
    }
}

impl Default for HttpRules {
    fn default() -> Self {
        // Without a sender nobody changes it.
        let (_, policy) = watch::channel(Arc::default());
        Self::new(policy, DeniedRequests::default())
    }
}

/// A request that is denied.
#[derive(Debug)]
pub(crate) struct DeniedRequest {
    pub(crate) decision: HttpDecision,
    /// Without its query, in visible ASCII.
    pub(crate) path: String,
}
