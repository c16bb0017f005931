//! Network policy and the grants that let a secret be written.
//!
//! Decisions over facts that others establish: which group an address belongs to, whether the guest may connect to it,
//! whether a name was resolved to it, and whether a secret may go to the server at the other end. Nothing here does
//! I/O or asks what time it is.
//!
//! A passed check is a value that only this crate makes: [`Permit`] (the guest may open this flow), [`Pin`] (the
//! sandbox's DNS gave this address for this name) and [`InjectGrant`] (this secret may be written to this host).
//!
//! ```
//! use msb_policy::{Decision, Egress, NetworkPolicy, Protocol};
//!
//! let policy = NetworkPolicy::parse("public,host")?;
//! let egress = |destination: &str| Egress { destination: destination.parse().unwrap(), to_host: false, protocol: Protocol::Tcp };
//!
//! assert!(matches!(policy.decide(&egress("93.184.215.14:443")), Decision::Permit(_)));
//! let Decision::Deny(denial) = policy.decide(&egress("[64:ff9b::7f00:1]:443")) else { unreachable!() };
//! assert!(denial.to_string().contains("loopback"));
//! # Ok::<(), msb_policy::Error>(())
//! ```
//!
//! # Limits
//! Profiles only: ordered rules (address, domain, HTTP) come on top of the same types. What is deliberately absent:
//! resolving, sockets, clocks; the caller passes `now`.

#![forbid(unsafe_code)]

mod bypass;
mod classify;
mod egress;
mod error;
mod grant;
mod pin;

pub use bypass::BypassList;
pub use classify::{Group, classify};
pub use egress::{Decision, Denial, Egress, NetworkPolicy, Permit, Protocol};
pub use error::Error;
pub use grant::{
    Destination, HostScope, InjectGrant, InterceptedConnection, Misdirected, Refusal, SecretId,
    UpstreamTrust, check_identity, grant_injection,
};
pub use pin::{Pin, PinTable};
