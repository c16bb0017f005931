//! Domain rules by name: one look-up for each label of a name, however many rules there are.

use std::collections::HashMap;

use msb_name::{HostName, HostPattern};

use super::port_map::{First, FirstBuilder, NONE};
use crate::{Action, Protocol, Rule};

/// The domain rules of one action.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    exact: HashMap<HostName, First>,
    suffixes: HashMap<HostName, First>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct NamesBuilder {
    exact: HashMap<HostName, FirstBuilder>,
    suffixes: HashMap<HostName, FirstBuilder>,
}

impl NamesBuilder {
    pub(super) fn add(&mut self, pattern: &HostPattern, rule: &Rule, number: u32) {
        let (map, name) = match pattern {
            HostPattern::Exact(name) => (&mut self.exact, name),
            HostPattern::Suffix(domain) => (&mut self.suffixes, domain),
        };
        map.entry(name.clone()).or_default().add(rule, number);
    }

    pub(super) fn build(self) -> Names {
        let build = |map: HashMap<HostName, FirstBuilder>| {
            let built = map.into_iter().map(|(name, first)| (name, first.build()));
            built.collect()
        };
        Names {
            exact: build(self.exact),
            suffixes: build(self.suffixes),
        }
    }
}

impl Names {
    /// The rules whose pattern covers `name`.
    pub(super) fn about<'a>(&'a self, name: &'a HostName) -> impl Iterator<Item = &'a First> {
        let exact = self.exact.get(name);
        let mut rest = if self.suffixes.is_empty() {
            ""
        } else {
            name.as_str()
        };
        let suffixes = std::iter::from_fn(move || {
            while let Some((_, parent)) = rest.split_once('.') {
                rest = parent;
                if let Some(first) = self.suffixes.get(parent) {
                    return Some(first);
                }
            }
            None
        });
        exact.into_iter().chain(suffixes)
    }

    /// The first rule for one of `names`.
    pub(super) fn first<'a>(
        &self,
        names: impl Iterator<Item = &'a HostName>,
        protocol: Protocol,
        port: u16,
    ) -> u32 {
        if self.exact.is_empty() && self.suffixes.is_empty() {
            return NONE;
        }
        let numbers = names.flat_map(|name| {
            let rules = self.about(name).map(|first| first.at(protocol, port));
            rules.min()
        });
        numbers.min().unwrap_or(NONE)
    }
}

/// The domain rules of both actions.
#[derive(Clone, Debug, Default)]
pub(super) struct Domains {
    pub(super) allow: Names,
    pub(super) deny: Names,
    /// The first rule that denies any name at all.
    pub(super) deny_any: First,
}

#[derive(Clone, Debug, Default)]
pub(super) struct DomainsBuilder {
    allow: NamesBuilder,
    deny: NamesBuilder,
    deny_any: FirstBuilder,
}

impl DomainsBuilder {
    pub(super) fn add(&mut self, pattern: &HostPattern, rule: &Rule, number: u32) {
        match rule.action {
            Action::Allow => self.allow.add(pattern, rule, number),
            Action::Deny => {
                self.deny.add(pattern, rule, number);
                self.deny_any.add(rule, number);
            }
        }
    }

    pub(super) fn build(self) -> Domains {
        Domains {
            allow: self.allow.build(),
            deny: self.deny.build(),
            deny_any: self.deny_any.build(),
        }
    }
}
