//! The leaves in use, bounded, each minted once.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use lru::LruCache;
use msb_name::Host;

use crate::{Error, Leaf, LeafMinter};

/// How many leaves a [`LeafCache`] keeps unless told otherwise (SPEC T2).
pub const DEFAULT_CAPACITY: NonZeroUsize = NonZeroUsize::new(1000).expect("1000 is not zero");

/// Leaves by host, the least recently used dropped first.
///
/// Callers may share it between threads: those who ask for one host at the same time get one leaf,
/// minted once, and nobody waits for another host's signature.
pub struct LeafCache {
    minter: LeafMinter,
    /// Held only to find a slot, never while signing.
    slots: Mutex<LruCache<Host, Slot>>,
}

type Slot = Arc<Mutex<Option<Arc<Leaf>>>>;

impl LeafCache {
    /// A cache of [`DEFAULT_CAPACITY`] leaves.
    pub fn new(minter: LeafMinter) -> Self {
        Self::with_capacity(minter, DEFAULT_CAPACITY)
    }

    /// A cache of at most `capacity` leaves.
    pub fn with_capacity(minter: LeafMinter, capacity: NonZeroUsize) -> Self {
        Self {
            minter,
            slots: Mutex::new(LruCache::new(capacity)),
        }
    }

    /// The minter behind the cache: its CA and its key.
    pub fn minter(&self) -> &LeafMinter {
        &self.minter
    }

    /// The leaf for `host`, minted now if there is none that is still good for a while at `now`.
    ///
    /// # Errors
    ///
    /// As [`LeafMinter::mint`]; a failure is not remembered.
    pub fn leaf(&self, host: &Host, now: SystemTime) -> Result<Arc<Leaf>, Error> {
        let slot = self.slot(host);
        let mut slot = lock(&slot);
        if let Some(leaf) = slot.as_ref().filter(|leaf| !leaf.is_due(now)) {
            return Ok(Arc::clone(leaf));
        }
        let leaf = Arc::new(self.minter.mint(host, now)?);
        *slot = Some(Arc::clone(&leaf));
        Ok(leaf)
    }

    /// How many hosts have a place now.
    pub fn len(&self) -> usize {
        lock(&self.slots).len()
    }

    /// Whether nothing was asked for yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn slot(&self, host: &Host) -> Slot {
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get(host) {
            return Arc::clone(slot);
        }
        let slot = Slot::default();
        slots.put(host.clone(), Arc::clone(&slot));
        slot
    }
}

impl fmt::Debug for LeafCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeafCache")
            .field("minter", &self.minter)
            .field("leaves", &self.len())
            .finish()
    }
}

/// A thread that died while it held the lock left a map or an empty slot that is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
