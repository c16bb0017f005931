//! The policy in force, shared by all that decide by it, and replaced for all of them at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use msb_policy::NetworkPolicy;

/// See the module's description.
#[derive(Clone, Debug)]
pub(crate) struct PolicyCell(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    policy: RwLock<Arc<NetworkPolicy>>,
    /// Whether what is open is still to be asked about.
    is_new: AtomicBool,
}

impl PolicyCell {
    pub(crate) fn new(policy: Arc<NetworkPolicy>) -> Self {
        Self(Arc::new(Inner {
            policy: RwLock::new(policy),
            is_new: AtomicBool::new(false),
        }))
    }

    pub(crate) fn get(&self) -> Arc<NetworkPolicy> {
        let policy = self.0.policy.read();
        Arc::clone(&policy.unwrap_or_else(PoisonError::into_inner))
    }

    /// What is decided from now on is decided by `policy`.
    pub(crate) fn replace(&self, policy: Arc<NetworkPolicy>) {
        *self
            .0
            .policy
            .write()
            .unwrap_or_else(PoisonError::into_inner) = policy;
        self.0.is_new.store(true, Ordering::Release);
    }

    /// Whether the policy was replaced since the last call.
    pub(crate) fn take_new(&self) -> bool {
        self.0.is_new.swap(false, Ordering::AcqRel)
    }
}
