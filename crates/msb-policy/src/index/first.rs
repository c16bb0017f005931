//! The first rule that matches.

use std::collections::HashMap;
use std::net::IpAddr;

use msb_name::HostName;

use super::blocks::{Blocks, Both, BothBuilder};
use super::names::{Domains, DomainsBuilder};
use super::port_map::{First, FirstBuilder, NONE};
use crate::flow::subject;
use crate::{Action, Direction, Flow, Group, Protocol, Rule, Target};

/// Rules, compiled. Numbers of rules are their places; [`NONE`] stands for the default.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    /// Rules for a group and for any.
    groups: [Both; Group::ALL.len()],
    blocks: Blocks,
    domains: Domains,
}

impl Index {
    pub(crate) fn new<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Self {
        let mut groups: [BothBuilder; Group::ALL.len()] = Default::default();
        let mut blocks: HashMap<_, BothBuilder> = HashMap::new();
        let mut domains = DomainsBuilder::default();
        for (number, rule) in (0..NONE).zip(rules) {
            match &rule.target {
                Target::Any => {
                    for group in Group::ALL.into_iter().filter(|g| *g != Group::Metadata) {
                        groups[group as usize].add(rule, number);
                    }
                }
                Target::Group(group) => groups[*group as usize].add(rule, number),
                Target::Addresses(net) => blocks.entry(*net).or_default().add(rule, number),
                Target::Domain(pattern) => domains.add(pattern, rule, number),
            }
        }
        Self {
            groups: groups.map(BothBuilder::build),
            blocks: Blocks::new(blocks),
            domains: domains.build(),
        }
    }

    /// The first rule that matches.
    pub(crate) fn first(&self, flow: &Flow<'_>, group: Group) -> u32 {
        let by_address = self.first_by_address(flow, group);
        if !flow.has_domain(group) {
            return by_address;
        }
        let (protocol, port) = (flow.protocol, flow.port);
        let (allow, deny) = (&self.domains.allow, &self.domains.deny);
        by_address
            .min(allow.first(flow.allowing_names(group), protocol, port))
            .min(deny.first(flow.denying_names(), protocol, port))
    }

    /// The first rule that matches whatever name the flow is for.
    pub(crate) fn first_by_address(&self, flow: &Flow<'_>, group: Group) -> u32 {
        let rules = self.by_address(flow.direction, flow.address, group);
        let numbers = rules.map(|first| first.at(flow.protocol, flow.port));
        numbers.min().unwrap_or(NONE)
    }

    /// The first rule that allows a flow whose claim is not known yet, if its name turns out to be the right one.
    pub(crate) fn first_allowing(&self, flow: &Flow<'_>, group: Group) -> u32 {
        if !flow.has_domain(group) {
            return NONE;
        }
        let names = flow.allowing_names(group);
        self.domains.allow.first(names, flow.protocol, flow.port)
    }

    /// The first rule that denies a flow whose claim is not known yet, if its name turns out to be the wrong one.
    pub(crate) fn first_denying(&self, flow: &Flow<'_>, group: Group) -> u32 {
        if !flow.has_domain(group) {
            return NONE;
        }
        self.domains.deny_any.at(flow.protocol, flow.port)
    }

    /// The rules about an address as such.
    fn by_address(
        &self,
        direction: Direction,
        address: IpAddr,
        group: Group,
    ) -> impl Iterator<Item = &First> {
        let is_block = group != Group::Host;
        let blocks = is_block.then(|| self.blocks.around(subject(address)));
        let named = move |single: bool| group != Group::Metadata || single;
        let blocks = blocks.into_iter().flatten();
        let blocks = blocks.filter(move |block| named(block.is_single()));
        let groups = &self.groups[group as usize];
        std::iter::once(groups)
            .chain(blocks.map(|block| &block.rules))
            .map(move |both| both.of(direction))
    }

    /// Whether some flow to `address` is allowed, `action` being what a rule or the default does: by a rule about
    /// addresses, or about `configured`, a name that the configuration leads there.
    ///
    /// # Errors
    /// The first rule that denies it, or [`NONE`].
    pub(crate) fn allows_address(
        &self,
        address: IpAddr,
        group: Group,
        configured: Option<&HostName>,
        action: impl Fn(u32) -> Action,
    ) -> Result<(), u32> {
        let mut rules: Vec<_> = self.by_address(Direction::Egress, address, group).collect();
        if let Some(name) = configured.filter(|_| group != Group::Metadata) {
            rules.extend(self.domains.allow.about(name));
            rules.extend(self.domains.deny.about(name));
        }
        let mut refused = NONE;
        for protocol in Protocol::ALL {
            for port in ports(protocol, rules.iter().map(|first| first.starts(protocol))) {
                let first = rules.iter().map(|first| first.at(protocol, port)).min();
                let first = first.unwrap_or(NONE);
                if action(first) == Action::Allow {
                    return Ok(());
                }
                refused = refused.min(first);
            }
        }
        Err(refused)
    }

    /// Whether some flow that is for `name` is allowed, wherever the name may lead.
    ///
    /// # Errors
    /// The first rule that denies the name, or [`NONE`].
    pub(crate) fn allows_name(&self, name: &HostName, uses: &Uses) -> Result<(), u32> {
        let allow: Vec<_> = self.domains.allow.about(name).collect();
        let deny: Vec<_> = self.domains.deny.about(name).collect();
        let mut refused = NONE;
        for protocol in Protocol::ALL {
            let own = allow
                .iter()
                .chain(&deny)
                .map(|first| first.starts(protocol));
            let own = own.map(|starts| Box::new(starts) as Box<dyn Iterator<Item = u16>>);
            let general =
                [&uses.first_allowed, &uses.last_reached].map(|first| first.starts(protocol));
            let general = general
                .into_iter()
                .map(|starts| Box::new(starts) as Box<dyn Iterator<Item = u16>>);
            for port in ports(protocol, own.chain(general)) {
                let first = |rules: &[&First]| {
                    let numbers = rules.iter().map(|first| first.at(protocol, port));
                    numbers.min().unwrap_or(NONE)
                };
                let (allowed, denied) = (first(&allow), first(&deny));
                let by_address = uses.first_allowed.at(protocol, port);
                let reached = allowed < uses.last_reached.at(protocol, port);
                if by_address < denied || (allowed < denied && reached) {
                    return Ok(());
                }
                refused = refused.min(denied);
            }
        }
        Err(refused)
    }
}

/// The ports at which something may change, 0 included.
fn ports(protocol: Protocol, starts: impl Iterator<Item = impl Iterator<Item = u16>>) -> Vec<u16> {
    if protocol == Protocol::Icmp {
        return vec![0];
    }
    let mut ports: Vec<_> = std::iter::once(0).chain(starts.flatten()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// What names could be of use for at all, by port. Numbers are those of rules; that of the default is behind them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Uses {
    /// The first rule about addresses, or the default, that allows an address it is the first to match: all but the
    /// host and metadata, to which no name leads that has to be asked for.
    pub(crate) first_allowed: First,
    /// The last rule about addresses, or the default, that is the first to match some public address. A domain rule
    /// before it allows something.
    pub(crate) last_reached: First,
}

#[derive(Clone, Debug, Default)]
pub(super) struct UsesBuilder {
    pub(super) first_allowed: FirstBuilder,
    pub(super) last_reached: FirstBuilder,
}

impl UsesBuilder {
    pub(super) fn build(self) -> Uses {
        Uses {
            first_allowed: self.first_allowed.build(),
            last_reached: self.last_reached.build(),
        }
    }
}
