//! Sets of ports.

use std::fmt;
use std::ops::RangeInclusive;

/// A set of ports, as ranges.
///
/// In order, disjoint, and not adjacent; no range is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    pub(crate) fn full() -> Self {
        Self(vec![(0, u16::MAX)])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    pub(crate) fn contains(&self, port: u16) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= port);
        after > 0 && self.0[after - 1].1 >= port
    }

    pub(crate) fn union(&mut self, other: &Self) {
        if other.0.iter().all(|range| self.covers(*range)) {
            return;
        }
        let mut ranges: Vec<_> = self.0.iter().chain(&other.0).copied().collect();
        ranges.sort_unstable();
        self.0.clear();
        for (first, last) in ranges {
            match self.0.last_mut() {
                Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
                _ => self.0.push((first, last)),
            }
        }
    }

    fn covers(&self, (first, last): (u16, u16)) -> bool {
        let after = self.0.partition_point(|(start, _)| *start <= first);
        after > 0 && self.0[after - 1].1 >= last
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut ranges = Vec::new();
        while let (Some(&&(a_first, a_last)), Some(&&(b_first, b_last))) = (a.peek(), b.peek()) {
            let (first, last) = (a_first.max(b_first), a_last.min(b_last));
            if first <= last {
                ranges.push((first, last));
            }
            if a_last <= b_last {
                a.next();
            } else {
                b.next();
            }
        }
        Self(ranges)
    }

    pub(crate) fn difference(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        for &(first, last) in &self.0 {
            let mut next = Some(first);
            let start = other.0.partition_point(|(_, end)| *end < first);
            for &(other_first, other_last) in &other.0[start..] {
                let Some(from) = next.filter(|_| other_first <= last) else {
                    break;
                };
                if other_first > from {
                    ranges.push((from, other_first - 1));
                }
                next = other_last.checked_add(1).filter(|from| *from <= last);
            }
            ranges.extend(next.map(|from| (from, last)));
        }
        Self(ranges)
    }
}

impl FromIterator<(u16, u16)> for PortSet {
    /// From ranges in any order; those whose last is below their first are empty.
    fn from_iter<I: IntoIterator<Item = (u16, u16)>>(ranges: I) -> Self {
        let mut set = Self::default();
        let ranges = ranges.into_iter().filter(|(first, last)| first <= last);
        let mut ranges: Vec<_> = ranges.collect();
        ranges.sort_unstable();
        // In order, so that a union only ever looks at the end.
        for range in ranges {
            set.union(&Self(vec![range]));
        }
        set
    }
}

/// The ports that a rule is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ports {
    /// Every port, and what has none (ICMP).
    #[default]
    All,
    /// These ports. What has no port is none of them.
    Some(SomePorts),
}

/// Ports and ranges of ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SomePorts(PortSet);

impl Ports {
    pub(crate) fn of(set: PortSet) -> Self {
        Self::Some(SomePorts(set))
    }

    /// The ports of a rule for TCP or UDP.
    pub(crate) fn set(&self) -> PortSet {
        match self {
            Self::All => PortSet::full(),
            Self::Some(SomePorts(set)) => set.clone(),
        }
    }

    /// Whether `port` is one of them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Some(SomePorts(set)) => set.contains(port),
        }
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self::from(port..=port)
    }
}

impl From<RangeInclusive<u16>> for Ports {
    /// An empty range is no port, so that the rule matches nothing.
    fn from(range: RangeInclusive<u16>) -> Self {
        Self::of([range.into_inner()].into_iter().collect())
    }
}

impl<const N: usize> From<[u16; N]> for Ports {
    fn from(ports: [u16; N]) -> Self {
        Self::of(ports.map(|port| (port, port)).into_iter().collect())
    }
}

impl fmt::Display for SomePorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.ranges().iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Ports near both ends of the range and in the middle.
    fn ranges() -> impl Strategy<Value = Vec<(u16, u16)>> {
        let port = prop_oneof![0u16..6, 100u16..106, 65_530u16..=65_535];
        proptest::collection::vec((port.clone(), port), 0..5)
    }

    /// Every port next to which a range can begin or end.
    fn probes() -> impl Iterator<Item = u16> {
        (0u16..8).chain(98..108).chain(65_528..=65_535)
    }

    fn oracle(ranges: &[(u16, u16)]) -> BTreeSet<u16> {
        let is_in = |port: &u16| {
            ranges
                .iter()
                .any(|(first, last)| (first..=last).contains(&port))
        };
        probes().filter(is_in).collect()
    }

    fn set(ranges: &[(u16, u16)]) -> PortSet {
        ranges.iter().copied().collect()
    }

    #[track_caller]
    fn check(got: &PortSet, expected: &BTreeSet<u16>) {
        assert_eq!(&oracle(got.ranges()), expected);
        assert!(
            got.ranges().iter().all(|(first, last)| first <= last),
            "{got:?}"
        );
        for pair in got.ranges().windows(2) {
            assert!(u32::from(pair[0].1) + 1 < u32::from(pair[1].0), "{got:?}");
        }
    }

    proptest! {
        #[test]
        fn sets_of_ranges_are_sets_of_ports(a in ranges(), b in ranges()) {
            let (left, right) = (oracle(&a), oracle(&b));
            let (a, b) = (set(&a), set(&b));
            check(&a, &left);
            check(&a.intersection(&b), &left.intersection(&right).copied().collect());
            check(&a.difference(&b), &left.difference(&right).copied().collect());
            let mut union = a.clone();
            union.union(&b);
            check(&union, &left.union(&right).copied().collect());
            prop_assert_eq!(a.is_empty(), left.is_empty());
            for port in probes() {
                prop_assert_eq!(a.contains(port), left.contains(&port));
            }
        }
    }
}
