//! When which flow next needs attention. An entry is added only when a deadline moves forward, and a deadline that moved
//! back is found out when the entry is due. What that leaves behind, and what flows leave that are gone, is cleared away
//! before it is many times what is needed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use smoltcp::time::Instant;

use crate::table::FlowId;

/// Entries that may be there besides four for each flow.
const SPARE: usize = 64;

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

    /// Whether there are many more entries than so many flows need: then call [`rebuild`](Self::rebuild), which costs no
    /// more than adding the entries did.
    pub(crate) fn is_crowded(&self, flows: usize) -> bool {
        self.heap.len() > SPARE + 4 * flows
    }

    /// Leaves one entry for each of `flows`, which are all there are.
    pub(crate) fn rebuild<'a>(&mut self, flows: impl Iterator<Item = (FlowId, &'a mut Timer)>) {
        self.heap.clear();
        for (flow, timer) in flows {
            timer.queued = timer.deadline;
            self.heap
                .extend(timer.deadline.map(|at| Reverse((at, flow))));
        }
        self.heap.shrink_to(SPARE);
    }

    /// Entries in the heap.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
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
    use msb_policy::Direction;
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

    #[test]
    fn a_deadline_that_keeps_moving_back_keeps_one_entry() {
        let (flow, mut timers, mut timer) = (flow_ids(1)[0], Timers::default(), Timer::default());
        for millis in 1..10_000 {
            timers.set(flow, &mut timer, Some(Instant::from_millis(millis)));
        }
        assert_eq!(timers.len(), 1);
    }

    /// As a connection has it whose segments are acknowledged, again and again, before its keep-alive is due.
    #[test]
    fn deadlines_that_come_and_go_leave_few_entries() {
        let (flow, mut timers, mut timer) = (flow_ids(1)[0], Timers::default(), Timer::default());
        for millis in 1..10_000 {
            let at = |after: i64| Some(Instant::from_millis(millis + after));
            timers.set(flow, &mut timer, at(1));
            timers.set(flow, &mut timer, at(75_000));
            while timers.expired(at(1).unwrap()).is_some() {
                timer.fire(&mut timers, flow, at(1).unwrap());
            }
            if timers.is_crowded(1) {
                timers.rebuild(std::iter::once((flow, &mut timer)));
            }
            assert!(timers.len() <= 1 + 4 + SPARE);
        }
        let due = Instant::from_millis(9_999 + 75_000);
        while timers.expired(due).is_some() {}
        assert!(timer.fire(&mut timers, flow, due));
    }

    proptest! {
        #[test]
        fn flows_fire_when_their_last_deadline_has_passed(
            sets in proptest::collection::vec((0_usize..4, proptest::option::of(1_i64..100)), 0..60),
            rebuilt_at in 0_usize..60,
        ) {
            let flows = flow_ids(4);
            let (mut timers, mut states) = (Timers::default(), [Timer::default(); 4]);
            let mut wanted = [None; 4];
            for (at, (index, millis)) in sets.into_iter().enumerate() {
                if at == rebuilt_at {
                    timers.rebuild(flows.iter().copied().zip(&mut states));
                }
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
