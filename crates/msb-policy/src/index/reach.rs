//! Which flows each rule is the first to match: rules that are the first for none are shadowed.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use msb_name::{HostName, HostPattern};

use super::blocks::{Blocks, BothBuilder};
use super::first::{Uses, UsesBuilder};
use crate::classify::{borders, groups_behind};
use crate::flow::subject;
use crate::ports::PortSet;
use crate::rule::holds;
use crate::{Action, Direction, Group, Protocol, Rule, Target, classify};

/// How much of a rule the rules before it take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// All: nothing can reach it.
    All,
    /// All public addresses, and so everything a name can lead to that the sandbox has to resolve. Only a name that is
    /// configured for an inner address reaches it.
    PublicAddresses,
}

/// A rule that others leave too little for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shadow {
    /// The rule's place, from 0.
    pub rule: usize,
    /// How much of it.
    pub extent: Extent,
}

/// Addresses that all rules treat alike; one stands for them.
struct Atom {
    address: IpAddr,
    group: Group,
    /// By direction and protocol: the ports at which rules already matched.
    taken: [[PortSet; 3]; 2],
}

impl Atom {
    fn new(address: IpAddr, group: Group) -> Self {
        Self {
            address,
            group,
            taken: Default::default(),
        }
    }

    fn is_target(&self, target: &Target) -> bool {
        match target {
            Target::Any => self.group != Group::Metadata,
            Target::Group(group) => *group == self.group,
            Target::Addresses(block) => holds(block, self.address, self.group),
            Target::Domain(_) => false,
        }
    }

    /// Whether a name that had to be resolved can lead here.
    fn can_be_answered(&self) -> bool {
        !matches!(self.group, Group::Host | Group::Metadata)
    }
}

/// Addresses as they differ for these rules.
fn atoms(rules: &[&Rule]) -> Vec<Atom> {
    let blocks = rules.iter().filter_map(|rule| match rule.target {
        Target::Addresses(net) => Some((net, BothBuilder::default())),
        _ => None,
    });
    let blocks = Blocks::new(blocks.collect());
    let mut atoms = vec![Atom::new(Ipv4Addr::UNSPECIFIED.into(), Group::Host)];
    let mut seen = HashSet::new();
    for is_v4 in [true, false] {
        let mut starts: Vec<_> = blocks.borders(is_v4).chain(borders(is_v4)).collect();
        starts.sort_unstable();
        starts.dedup();
        for start in starts {
            let address: IpAddr = match u32::try_from(start) {
                Ok(bits) if is_v4 => Ipv4Addr::from_bits(bits).into(),
                _ => Ipv6Addr::from_bits(start).into(),
            };
            if subject(address) != address {
                continue;
            }
            let innermost = blocks.innermost(address);
            for group in groups_behind(address) {
                if seen.insert((is_v4, innermost, group)) {
                    atoms.push(Atom::new(address, group));
                }
            }
        }
    }
    debug_assert!(
        atoms
            .iter()
            .any(|atom| atom.group == classify(atom.address))
    );
    atoms
}

/// Ports at which patterns already matched, by protocol.
#[derive(Default)]
struct TakenNames {
    exact: HashMap<HostName, [PortSet; 3]>,
    suffixes: HashMap<HostName, [PortSet; 3]>,
}

impl TakenNames {
    /// The ports at which every name of `pattern` was matched. Names below a domain have no end, so neither hosts nor
    /// domains further down can add up to all of them.
    fn of(&self, pattern: &HostPattern, protocol: Protocol) -> PortSet {
        let mut taken = PortSet::default();
        let mut add = |ports: Option<&[PortSet; 3]>| {
            if let Some(ports) = ports {
                taken.union(&ports[protocol as usize]);
            }
        };
        let mut rest = pattern.domain().as_str();
        match pattern {
            HostPattern::Exact(name) => add(self.exact.get(name)),
            HostPattern::Suffix(domain) => add(self.suffixes.get(domain)),
        }
        while let Some((_, parent)) = rest.split_once('.') {
            add(self.suffixes.get(parent));
            rest = parent;
        }
        taken
    }

    fn take(&mut self, pattern: &HostPattern, protocol: Protocol, ports: &PortSet) {
        let (map, name) = match pattern {
            HostPattern::Exact(name) => (&mut self.exact, name),
            HostPattern::Suffix(domain) => (&mut self.suffixes, domain),
        };
        map.entry(name.clone()).or_default()[protocol as usize].union(ports);
    }
}

/// What all rules so far have taken.
struct Sweep {
    atoms: Vec<Atom>,
    allowing: TakenNames,
    denying: TakenNames,
    /// Egress ports at which every address was matched that a domain rule can be about; kept until a rule about
    /// addresses takes more.
    everywhere: [Option<PortSet>; 3],
    uses: UsesBuilder,
}

/// The rules that others shadow, and what names could be of use for.
pub(crate) fn sweep(rules: &[&Rule], default: Action) -> (Vec<Shadow>, Uses) {
    let mut sweep = Sweep {
        atoms: atoms(rules),
        allowing: TakenNames::default(),
        denying: TakenNames::default(),
        everywhere: Default::default(),
        uses: UsesBuilder::default(),
    };
    let mut shadows = Vec::new();
    let mut count = 0;
    for (rule, number) in rules.iter().zip(0..) {
        let extent = match &rule.target {
            Target::Domain(pattern) => sweep.take_names(rule, pattern),
            _ => (!sweep.take_addresses(rule, number)).then_some(Extent::All),
        };
        let place = usize::try_from(number).unwrap_or(usize::MAX);
        shadows.extend(extent.map(|extent| Shadow {
            rule: place,
            extent,
        }));
        count = number + 1;
    }
    (shadows, sweep.finish(default, count))
}

impl Sweep {
    /// Whether a rule about addresses is the first to match anything.
    fn take_addresses(&mut self, rule: &Rule, number: u32) -> bool {
        let mut is_first = false;
        for protocol in rule.protocols.iter() {
            let ports = rule.ports_of(protocol);
            let mut is_new = false;
            for direction in [Direction::Egress, Direction::Ingress] {
                if !rule.directions.contains(direction) {
                    continue;
                }
                for atom in self.atoms.iter_mut().filter(|a| a.is_target(&rule.target)) {
                    let answered = atom.can_be_answered();
                    let taken = &mut atom.taken[direction as usize][protocol as usize];
                    let new = ports.difference(taken);
                    if new.is_empty() {
                        continue;
                    }
                    taken.union(&new);
                    is_first = true;
                    if direction == Direction::Egress {
                        is_new = true;
                        if answered && rule.action == Action::Allow {
                            let allowed = &mut self.uses.first_allowed;
                            allowed.add_ports(protocol, &new, number);
                        }
                    }
                }
            }
            if is_new {
                self.everywhere[protocol as usize] = None;
                let public = self.taken_at(protocol, |atom| atom.group == Group::Public);
                self.uses.last_reached.add_ports(protocol, &public, number);
            }
        }
        is_first
    }

    /// The egress ports at which each of these atoms was matched.
    fn taken_at(&self, protocol: Protocol, which: impl Fn(&Atom) -> bool) -> PortSet {
        let mut common = PortSet::full();
        for atom in self.atoms.iter().filter(|atom| which(atom)) {
            common =
                common.intersection(&atom.taken[Direction::Egress as usize][protocol as usize]);
            if common.is_empty() {
                break;
            }
        }
        common
    }

    /// How much of a domain rule is shadowed.
    fn take_names(&mut self, rule: &Rule, pattern: &HostPattern) -> Option<Extent> {
        let (mut is_first, mut is_public_first) = (false, false);
        for protocol in rule.protocols.iter() {
            let ports = rule.ports_of(protocol);
            // A flow that is for no known name is denied by what it claims, and allowed by nothing.
            let mut taken = self.denying.of(pattern, protocol);
            if rule.action == Action::Allow {
                taken.union(&self.allowing.of(pattern, protocol));
            }
            let left = ports.difference(&taken);
            let public = self.uses.last_reached.taken(protocol);
            is_public_first |= !left.difference(public).is_empty();
            is_first |= !left.difference(&self.taken_everywhere(protocol)).is_empty();
            let own = match rule.action {
                Action::Allow => &mut self.allowing,
                Action::Deny => &mut self.denying,
            };
            own.take(pattern, protocol, &ports);
        }
        match (is_first, is_public_first) {
            (false, _) => Some(Extent::All),
            (true, false) => Some(Extent::PublicAddresses),
            (true, true) => None,
        }
    }

    fn taken_everywhere(&mut self, protocol: Protocol) -> PortSet {
        if let Some(known) = &self.everywhere[protocol as usize] {
            return known.clone();
        }
        let taken = self.taken_at(protocol, |atom| atom.group != Group::Metadata);
        self.everywhere[protocol as usize] = Some(taken.clone());
        taken
    }

    fn finish(mut self, default: Action, number: u32) -> Uses {
        for protocol in Protocol::ALL {
            if default == Action::Allow {
                let taken = self.taken_at(protocol, Atom::can_be_answered);
                let left = PortSet::full().difference(&taken);
                self.uses.first_allowed.add_ports(protocol, &left, number);
            }
            let all = PortSet::full();
            self.uses.last_reached.add_ports(protocol, &all, number);
        }
        self.uses.build()
    }
}
