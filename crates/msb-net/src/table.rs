//! The open flows: found by 4-tuple or by id, in constant time. Ids are never used twice, so a late
//! message about a flow that is gone finds nothing.

use std::collections::HashMap;
use std::net::SocketAddr;

/// The two ends of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    /// The guest's end.
    pub(crate) source: SocketAddr,
    /// The end the guest talks to.
    pub(crate) destination: SocketAddr,
}

/// Names one flow for the life of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FlowId(u64);

/// Flows of type `F`.
#[derive(Debug)]
pub(crate) struct FlowTable<F> {
    flows: HashMap<FlowId, F>,
    /// Only flows that still take segments: a closed one whose stream lives on has left it.
    by_ends: HashMap<Ends, FlowId>,
    next_id: u64,
}

impl<F> FlowTable<F> {
    pub(crate) fn new() -> Self {
        Self {
            flows: HashMap::new(),
            by_ends: HashMap::new(),
            next_id: 0,
        }
    }

    /// Number of flows that still take segments.
    pub(crate) fn connected(&self) -> usize {
        self.by_ends.len()
    }

    /// Number of flows, those included that take no more segments.
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(crate) fn find(&self, ends: Ends) -> Option<FlowId> {
        self.by_ends.get(&ends).copied()
    }

    pub(crate) fn get_mut(&mut self, id: FlowId) -> Option<&mut F> {
        self.flows.get_mut(&id)
    }

    /// Adds a flow that `make` builds from its id.
    pub(crate) fn insert(&mut self, ends: Ends, make: impl FnOnce(FlowId) -> F) -> FlowId {
        let id = FlowId(self.next_id);
        self.next_id += 1;
        self.flows.insert(id, make(id));
        self.by_ends.insert(ends, id);
        id
    }

    /// Lets `ends` be used by a new flow; the old one stays reachable by id.
    pub(crate) fn disconnect(&mut self, ends: Ends, id: FlowId) {
        if self.find(ends) == Some(id) {
            self.by_ends.remove(&ends);
        }
    }

    pub(crate) fn remove(&mut self, ends: Ends, id: FlowId) -> Option<F> {
        self.disconnect(ends, id);
        self.flows.remove(&id)
    }

    /// The ids of all flows.
    pub(crate) fn ids(&self) -> Vec<FlowId> {
        self.flows.keys().copied().collect()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &F> {
        self.flows.values()
    }
}
