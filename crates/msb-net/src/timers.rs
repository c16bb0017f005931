//! When which flow next needs attention. A flow has at most a few entries: one is added only when
//! its deadline moves forward, and a deadline that moved back is found out when the entry is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use smoltcp::time::Instant;

use crate::table::FlowId;

/// Deadlines of all flows.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, FlowId)>>,
}

/// A flow's own view of its timer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timer {
    /// When the flow wants attention.
    deadline: Option<Instant>,
    /// The earliest entry in the heap.
    queued: Option<Instant>,
}

impl Timers {
    /// Sets the deadline of `flow`, whose timer is `timer`.
    pub(crate) fn set(&mut self, flow: FlowId, timer: &mut Timer, deadline: Option<Instant>) {
        timer.deadline = deadline;
        if let Some(at) = deadline
            && timer.queued.is_none_or(|queued| at < queued)
        {
            timer.queued = Some(at);
            self.heap.push(Reverse((at, flow)));
        }
    }

    /// When [`expired`](Self::expired) may have something.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next flow whose entry is due. Ask its [`Timer::fire`] whether its deadline is, too.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<FlowId> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, flow))| flow)
    }

    /// Entries in the heap.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.heap.len()
    }
}

impl Timer {
    /// An entry of `flow` came up: whether its deadline has passed. If it was moved back, the
    /// entry is renewed.
    pub(crate) fn fire(&mut self, timers: &mut Timers, flow: FlowId, now: Instant) -> bool {
        if self.queued.is_some_and(|queued| queued <= now) {
            self.queued = None;
        }
        let due = self.deadline.is_some_and(|deadline| deadline <= now);
        if !due {
            let deadline = self.deadline;
            timers.set(flow, self, deadline);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::table::{Ends, FlowTable};

    fn flow_ids(count: usize) -> Vec<FlowId> {
        let mut table = FlowTable::new();
        let any = "[::]:1".parse().unwrap();
        (0..count)
            .map(|_| {
                let ends = Ends {
                    source: any,
                    destination: any,
                };
                table.insert(ends, Direction::Egress, ())
            })
            .collect()
    }

    use msb_policy::Direction;
    #[test]
    fn a_deadline_that_keeps_moving_back_keeps_one_entry() {
        let (flow, mut timers, mut timer) = (flow_ids(1)[0], Timers::default(), Timer::default());
        for millis in 1..10_000 {
            timers.set(flow, &mut timer, Some(Instant::from_millis(millis)));
        }
        assert_eq!(timers.len(), 1);
    }

    proptest! {
        #[test]
        fn flows_fire_when_their_last_deadline_has_passed(
            sets in proptest::collection::vec((0_usize..4, proptest::option::of(1_i64..100)), 0..60),
        ) {
            let flows = flow_ids(4);
            let (mut timers, mut states) = (Timers::default(), [Timer::default(); 4]);
            let mut wanted = [None; 4];
            for (index, millis) in sets {
                let deadline = millis.map(Instant::from_millis);
                timers.set(flows[index], &mut states[index], deadline);
                wanted[index] = deadline;
            }
            for millis in 1..=100 {
                let now = Instant::from_millis(millis);
                while let Some(flow) = timers.expired(now) {
                    let index = flows.iter().position(|&known| known == flow).unwrap();
                    if states[index].fire(&mut timers, flow, now) {
                        prop_assert_eq!(wanted[index], Some(now));
                        wanted[index] = None;
                        timers.set(flow, &mut states[index], None);
                    }
                }
                prop_assert!(wanted.iter().flatten().all(|&deadline| deadline > now));
            }
        }
    }
}
