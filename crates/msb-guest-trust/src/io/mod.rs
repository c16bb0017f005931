//! The only modules that touch files: reading the facts, and applying the plan.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "input and output live here and nowhere else in this crate"
)]

pub(crate) mod apply;
mod nss;
mod policies;
mod read;
mod tree;
