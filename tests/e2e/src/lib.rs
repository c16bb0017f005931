//! What the tests on real guests and the demonstration share: origins, guests, certificates, processes of the host.
//!
//! What cannot be set up panics: a test without its fixture has nothing to say.
#![forbid(unsafe_code)]

mod certificates;
mod disk;
mod guest;
mod host;
mod origins;
mod suite;

pub use certificates::{certificates, is_signed_by};
pub use disk::{pack, unpack_base};
pub use guest::{Guest, Ran};
pub use host::{Home, HostProcess};
pub use origins::{API, OTHER, Origins, PINNED};
pub use suite::{on_guests, on_guests_within};
