//! One certificate authority per sandbox, and the leaves it signs.
//!
//! [`SandboxCa`] is either generated for a sandbox or taken from the user. [`LeafMinter`] signs
//! server certificates with it, all with one leaf key, so that a new name costs one signature.
//! [`LeafCache`] keeps the leaves that are in use. Time is an argument everywhere; keys stay in
//! memory and are wiped when their owner is dropped.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use msb_ca::{LeafCache, LeafMinter, SandboxCa};
//!
//! let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
//! let ca = SandboxCa::generate("worker", now)?;
//! assert!(ca.cert_pem().starts_with("-----BEGIN CERTIFICATE-----"));
//!
//! let cache = LeafCache::new(LeafMinter::new(ca)?);
//! let leaf = cache.leaf(&"api.example.test".parse()?, now)?;
//! assert!(leaf.not_after() > now);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Limits
//!
//! No revocation lists, no OCSP, no intermediate between a generated CA and its leaves: a leaf
//! lives a day, and trust in the CA ends with its sandbox.

#![forbid(unsafe_code)]

mod authority;
mod cache;
mod error;
mod leaf;
mod time;

pub use authority::SandboxCa;
pub use cache::{DEFAULT_CAPACITY, LeafCache};
pub use error::Error;
pub use leaf::{Leaf, LeafMinter};
