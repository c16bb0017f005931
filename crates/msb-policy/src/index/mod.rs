//! Rules compiled, so that the first that matches a flow is found without asking each.

mod blocks;
mod first;
mod names;
mod port_map;
mod reach;

pub(crate) use first::Index;
pub(crate) use first::Uses;
pub(crate) use port_map::NONE;
pub(crate) use reach::sweep;
pub use reach::{Extent, Shadow};
