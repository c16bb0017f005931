//! Blocks of addresses. Two blocks are disjoint, or one is inside the other: so those that hold an address are the
//! innermost and the ones around it.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::port_map::{First, FirstBuilder};
use crate::{Direction, Rule};

/// The first rules of both directions.
#[derive(Clone, Debug, Default)]
pub(super) struct Both([First; 2]);

impl Both {
    pub(super) fn of(&self, direction: Direction) -> &First {
        &self.0[direction as usize]
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct BothBuilder([FirstBuilder; 2]);

impl BothBuilder {
    pub(super) fn add(&mut self, rule: &Rule, number: u32) {
        for direction in [Direction::Egress, Direction::Ingress] {
            if rule.directions.contains(direction) {
                self.0[direction as usize].add(rule, number);
            }
        }
    }

    pub(super) fn build(self) -> Both {
        Both(self.0.map(FirstBuilder::build))
    }
}

/// One block that rules are about.
#[derive(Clone, Debug)]
pub(super) struct Block {
    net: IpNet,
    /// The smallest block around it, in `Blocks::all`.
    parent: Option<usize>,
    pub(super) rules: Both,
}

impl Block {
    /// Whether it is one address only.
    pub(super) fn is_single(&self) -> bool {
        self.net.prefix_len() == self.net.max_prefix_len()
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    /// Each before those inside of it.
    all: Vec<Block>,
    /// Where, in the order of addresses, which block begins to be the innermost one. One list for each family.
    v4: Vec<(u128, Option<usize>)>,
    v6: Vec<(u128, Option<usize>)>,
}

/// An address as a number, within its family.
pub(super) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Blocks {
    pub(super) fn new(builders: HashMap<IpNet, BothBuilder>) -> Self {
        let mut builders: Vec<_> = builders.into_iter().collect();
        builders.sort_by_key(|(net, _)| (bits(net.network()), net.prefix_len()));
        let mut blocks = Self::default();
        for is_v4 in [true, false] {
            let mut starts = Vec::new();
            // The blocks around the current one, outermost first.
            let mut around: Vec<usize> = Vec::new();
            let own = builders.iter_mut();
            for (net, builder) in own.filter(|(net, _)| net.addr().is_ipv4() == is_v4) {
                blocks.leave(&mut around, &mut starts, Some(bits(net.network())));
                let index = blocks.all.len();
                blocks.all.push(Block {
                    net: *net,
                    parent: around.last().copied(),
                    rules: std::mem::take(builder).build(),
                });
                around.push(index);
                starts.push((bits(net.network()), Some(index)));
            }
            blocks.leave(&mut around, &mut starts, None);
            // Of several that begin at one address the last is the innermost.
            let mut unique: Vec<(u128, Option<usize>)> = Vec::new();
            for start in starts {
                match unique.last_mut() {
                    Some(last) if last.0 == start.0 => *last = start,
                    _ => unique.push(start),
                }
            }
            *(if is_v4 {
                &mut blocks.v4
            } else {
                &mut blocks.v6
            }) = unique;
        }
        blocks
    }

    /// Ends the blocks of `around` that end before `next`, innermost first.
    fn leave(
        &self,
        around: &mut Vec<usize>,
        starts: &mut Vec<(u128, Option<usize>)>,
        next: Option<u128>,
    ) {
        while let Some(&innermost) = around.last() {
            let end = bits(self.all[innermost].net.broadcast());
            if next.is_some_and(|next| next <= end) {
                break;
            }
            around.pop();
            starts.extend(
                end.checked_add(1)
                    .map(|start| (start, around.last().copied())),
            );
        }
    }

    fn starts(&self, is_v4: bool) -> &[(u128, Option<usize>)] {
        if is_v4 { &self.v4 } else { &self.v6 }
    }

    /// The number of the innermost block that holds `address`.
    pub(super) fn innermost(&self, address: IpAddr) -> Option<usize> {
        let starts = self.starts(address.is_ipv4());
        let at = bits(address);
        let after = starts.partition_point(|(start, _)| *start <= at);
        starts[after.checked_sub(1)?].1
    }

    /// The blocks that hold `address`, innermost first.
    pub(super) fn around(&self, address: IpAddr) -> impl Iterator<Item = &Block> {
        let innermost = self.innermost(address).map(|index| &self.all[index]);
        std::iter::successors(innermost, |block| {
            block.parent.map(|index| &self.all[index])
        })
    }

    /// Every address at which another block begins to be the innermost one.
    pub(super) fn borders(&self, is_v4: bool) -> impl Iterator<Item = u128> {
        self.starts(is_v4).iter().map(|(start, _)| *start)
    }
}
