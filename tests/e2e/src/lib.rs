//! What the tests on real guests and the demonstration share: origins, certificates, processes of the host.
//!
//! What cannot be set up panics: a test without its fixture has nothing to say.
#![forbid(unsafe_code)]

mod certificates;
mod origins;

pub use certificates::{certificates, is_signed_by};
pub use origins::{API, OTHER, Origins, PINNED};
