//! Rules: what they match, how they are built, and their text.

mod model;
mod parse;
#[cfg(test)]
mod tests;

pub(crate) use model::holds;
pub use model::{Action, Directions, Protocols, Rule, Target};
