//! Of a list of rules that differ in protocol and ports only: the first for a port, by one binary search.

use crate::ports::PortSet;
use crate::{Protocol, Rule};

/// No rule. Larger than the number of any.
pub(crate) const NONE: u32 = u32::MAX;

/// A number for each port, in pieces.
#[derive(Clone, Debug, Default)]
pub(crate) struct PortMap {
    /// Where a piece begins, in order, and the number for it. Before the first: none.
    pieces: Vec<(u16, u32)>,
}

impl PortMap {
    pub(crate) fn at(&self, port: u16) -> u32 {
        let after = self.pieces.partition_point(|(start, _)| *start <= port);
        match after.checked_sub(1) {
            Some(index) => self.pieces[index].1,
            None => NONE,
        }
    }

    /// Where pieces begin; port 0 may be missing.
    pub(crate) fn starts(&self) -> impl Iterator<Item = u16> {
        self.pieces.iter().map(|(start, _)| *start)
    }
}

/// Collects pieces; what was taken first stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct PortMapBuilder {
    taken: PortSet,
    ranges: Vec<(u16, u16, u32)>,
}

impl PortMapBuilder {
    /// Gives `number` to those of `ports` that have none yet.
    pub(crate) fn add(&mut self, ports: &PortSet, number: u32) {
        let new = ports.difference(&self.taken);
        if !new.is_empty() {
            let ranges = new.ranges().iter();
            self.ranges
                .extend(ranges.map(|(first, last)| (*first, *last, number)));
            self.taken.union(&new);
        }
    }

    pub(crate) fn taken(&self) -> &PortSet {
        &self.taken
    }

    pub(crate) fn build(mut self) -> PortMap {
        self.ranges.sort_unstable();
        let mut pieces: Vec<(u16, u32)> = Vec::new();
        let mut next = 0_u32;
        for (first, last, number) in self.ranges {
            if u32::from(first) > next {
                pieces.push((u16::try_from(next).unwrap_or(u16::MAX), NONE));
            }
            pieces.push((first, number));
            next = u32::from(last) + 1;
        }
        pieces.extend(u16::try_from(next).ok().map(|start| (start, NONE)));
        pieces.dedup_by_key(|(_, number)| *number);
        PortMap { pieces }
    }
}

/// The first rule for a protocol and a port. ICMP has no ports: all flows of it have port 0 here.
#[derive(Clone, Debug, Default)]
pub(crate) struct First([PortMap; 3]);

impl First {
    pub(crate) fn at(&self, protocol: Protocol, port: u16) -> u32 {
        self.0[protocol as usize].at(if protocol == Protocol::Icmp { 0 } else { port })
    }

    pub(crate) fn starts(&self, protocol: Protocol) -> impl Iterator<Item = u16> {
        self.0[protocol as usize].starts()
    }
}

/// Collects rules in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct FirstBuilder([PortMapBuilder; 3]);

impl FirstBuilder {
    pub(crate) fn add(&mut self, rule: &Rule, number: u32) {
        for protocol in rule.protocols.iter() {
            self.0[protocol as usize].add(&rule.ports_of(protocol), number);
        }
    }

    pub(crate) fn add_ports(&mut self, protocol: Protocol, ports: &PortSet, number: u32) {
        self.0[protocol as usize].add(ports, number);
    }

    pub(crate) fn taken(&self, protocol: Protocol) -> &PortSet {
        self.0[protocol as usize].taken()
    }

    pub(crate) fn build(self) -> First {
        First(self.0.map(PortMapBuilder::build))
    }
}
