//! The open flows: found by 4-tuple or by id, in constant time. Ids are never used twice, so a late
//! message about a flow that is gone finds nothing. Those of the guest and those of clients are counted apart, so that
//! neither takes the other's places.

use std::collections::HashMap;
use std::net::SocketAddr;

use msb_policy::Direction;

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
    flows: HashMap<FlowId, (Direction, F)>,
    /// Only flows that still take segments: a closed one whose stream lives on has left it.
    by_ends: HashMap<Ends, FlowId>,
    /// For each direction, the flows in `flows` and those of them in `by_ends`.
    counts: [Count; 2],
    next_id: u64,
}

/// How many flows there are of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// That still take segments.
    pub(crate) connected: usize,
    /// Those included that take no more.
    pub(crate) all: usize,
}

impl<F> FlowTable<F> {
    pub(crate) fn new() -> Self {
        Self {
            flows: HashMap::new(),
            by_ends: HashMap::new(),
            counts: [Count::default(); 2],
            next_id: 0,
        }
    }

    /// The flows that were opened by the guest, or by clients.
    pub(crate) fn count(&self, direction: Direction) -> Count {
        self.counts[direction as usize]
    }

    /// Number of all flows.
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(crate) fn find(&self, ends: Ends) -> Option<FlowId> {
        self.by_ends.get(&ends).copied()
    }

    pub(crate) fn get_mut(&mut self, id: FlowId) -> Option<&mut F> {
        self.flows.get_mut(&id).map(|(_, flow)| flow)
    }

    /// Adds a flow.
    pub(crate) fn insert(&mut self, ends: Ends, direction: Direction, flow: F) -> FlowId {
        if let Some(before) = self.find(ends) {
            self.disconnect(ends, before);
        }
        let id = FlowId(self.next_id);
        self.next_id += 1;
        self.flows.insert(id, (direction, flow));
        self.by_ends.insert(ends, id);
        let count = &mut self.counts[direction as usize];
        count.connected += 1;
        count.all += 1;
        id
    }

    /// Lets `ends` be used by a new flow; the old one stays reachable by id.
    pub(crate) fn disconnect(&mut self, ends: Ends, id: FlowId) {
        if self.find(ends) == Some(id) {
            self.by_ends.remove(&ends);
            if let Some((direction, _)) = self.flows.get(&id) {
                self.counts[*direction as usize].connected -= 1;
            }
        }
    }

    pub(crate) fn remove(&mut self, ends: Ends, id: FlowId) -> Option<F> {
        self.disconnect(ends, id);
        let (direction, flow) = self.flows.remove(&id)?;
        self.counts[direction as usize].all -= 1;
        Some(flow)
    }

    /// The ids of all flows.
    pub(crate) fn ids(&self) -> Vec<FlowId> {
        self.flows.keys().copied().collect()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &F> {
        self.flows.values().map(|(_, flow)| flow)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (FlowId, &mut F)> {
        self.flows.iter_mut().map(|(id, (_, flow))| (*id, flow))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends(port: u16) -> Ends {
        Ends {
            source: ([192, 0, 0, 2], port).into(),
            destination: ([8, 8, 8, 8], 80).into(),
        }
    }

    proptest! {
        /// The oracle counts by looking at each flow.
        #[test]
        fn places_are_taken_and_given_back_once(
            ops in proptest::collection::vec((0_u8..3, 0_u16..4, any::<bool>()), 0..60),
        ) {
            let mut table = FlowTable::new();
            // Ends, direction, and whether it still takes segments.
            let mut known: HashMap<FlowId, (Ends, Direction, bool)> = HashMap::new();
            for (op, port, by_guest) in ops {
                let ends = ends(port);
                let direction = if by_guest { Direction::Egress } else { Direction::Ingress };
                let mut of_ends = known.iter().filter(|(_, (of, ..))| *of == ends).map(|(id, _)| *id);
                match (op, of_ends.next()) {
                    (0, _) => {
                        for (of, _, connected) in known.values_mut() {
                            *connected &= *of != ends;
                        }
                        known.insert(table.insert(ends, direction, ()), (ends, direction, true));
                    }
                    (1, Some(id)) => {
                        table.disconnect(ends, id);
                        known.get_mut(&id).unwrap().2 = false;
                    }
                    (_, Some(id)) => {
                        prop_assert!(table.remove(ends, id).is_some());
                        prop_assert!(table.remove(ends, id).is_none());
                        known.remove(&id);
                    }
                    (_, None) => {}
                }
                for direction in [Direction::Egress, Direction::Ingress] {
                    let all = known.values().filter(|(_, of, _)| *of == direction);
                    let count = Count {
                        connected: all.clone().filter(|(.., connected)| *connected).count(),
                        all: all.count(),
                    };
                    prop_assert_eq!(table.count(direction), count);
                }
                prop_assert_eq!(table.len(), known.len());
            }
        }
    }
}
