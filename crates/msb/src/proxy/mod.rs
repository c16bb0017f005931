//! The engine without a machine: a proxy that HTTP clients are pointed at (CONNECT), or that TLS connections are led to
//! (transparent). The server is dialled by name, by the host itself.

mod builder;
mod connect;
mod dial;
mod handle;
mod serve;

pub use builder::{ProxyBuilder, ProxyMode};
pub use handle::{CutOff, Proxy};

use msb_name::Host;
use msb_policy::Cause;

/// What a [`Proxy`] tells of its own doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyEvent {
    /// A request for a tunnel was refused before anything was dialled, or what it asked for could not be reached.
    TunnelRefused {
        /// What was asked for, if that could be read.
        host: Option<Host>,
        /// Its port.
        port: Option<u16>,
        /// The status code the client got; none if it does not speak HTTP and was reset.
        status: Option<u16>,
        /// One line.
        reason: String,
    },
    /// The network policy does not allow what was to be dialled.
    Denied {
        /// The host.
        host: Host,
        /// The port.
        port: u16,
        /// What the policy denied it by; `None` if it is no matter of policy, such as a connection to the proxy itself.
        cause: Option<Cause>,
        /// One line.
        reason: String,
    },
    /// What a transparent connection is for cannot be reached; its client was answered 502, or reset where the host is
    /// bypassed.
    DialFailed {
        /// The host.
        host: Host,
        /// The port.
        port: u16,
        /// One line.
        reason: String,
    },
    /// As many connections are open as may be; new ones are reset. Once per burst.
    ConnectionLimit {
        /// The limit.
        max_connections: usize,
    },
    /// Other secrets are in use; see [`Proxy::replace_secrets`].
    SecretsReplaced {
        /// How many.
        count: usize,
    },
    /// New connections cannot be accepted for a while. Once per burst.
    AcceptFailed {
        /// The system's reason.
        reason: String,
    },
}
