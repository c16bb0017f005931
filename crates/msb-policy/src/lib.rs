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
//! use msb_policy::{Flow, NetworkPolicy, Protocol};
//!
//! let policy = NetworkPolicy::parse("public,host")?;
//! let tcp = |to: &str| policy.decide(&Flow::egress(Protocol::Tcp, to.parse().unwrap()));
//!
//! assert!(tcp("93.184.215.14:443").is_permit());
//! let denied = tcp("[64:ff9b::7f00:1]:443");
//! assert!(!denied.is_permit() && denied.grounds().to_string().contains("loopback"));
//! # Ok::<(), msb_policy::Error>(())
//! ```
//!
//! # Limits
//! What is deliberately absent: resolving, sockets, clocks; the caller passes `now`. A rule that denies a name binds
//! those who tell it: a server that has another name, too, can be reached by that one.

#![forbid(unsafe_code)]

mod bypass;
mod classify;
mod decision;
mod error;
mod flow;
mod grant;
mod http;
mod index;
mod pin;
mod policy;
mod ports;
mod rule;

pub use bypass::BypassList;
pub use classify::{Group, classify};
pub use decision::{Cause, Decision, Denial, Early, Grounds, NameDenial, Permit};
pub use error::{Error, Mark};
pub use flow::{Direction, Flow, Protocol};
pub use grant::{
    Destination, HostScope, InjectGrant, InterceptedConnection, Misdirected, Refusal, SecretId,
    UpstreamTrust, check_identity, grant_injection,
};
pub use http::{
    AmbiguousPath, CanonicalPath, HttpCause, HttpDecision, HttpHosts, HttpPolicy, HttpRule, Methods,
};
pub use index::{Extent, Shadow};
pub use pin::{Pin, PinTable};
pub use policy::{NetworkPolicy, PolicyBuilder};
pub use ports::{Ports, SomePorts};
pub use rule::{Action, Directions, Protocols, Rule, Target};
