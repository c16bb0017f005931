//! What the network reports: refusals and failures with their reasons. Text comes from the guest's
//! packets only as parsed names and addresses, never as raw bytes.

use std::net::SocketAddr;
use std::sync::Arc;

use msb_name::HostName;
use msb_policy::Cause;

/// Takes events. It is called from the network's tasks and must not block.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;

/// Something a user may want to know about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A connection was established to the host's side and handed on.
    Connected {
        /// What the guest dialled.
        destination: SocketAddr,
        /// Names the guest was told resolve to it.
        names: Vec<HostName>,
        /// Whether it is the host itself.
        to_host: bool,
        /// What the policy allowed it by; `None` where the server name is still to decide.
        cause: Option<Cause>,
    },
    /// The policy refused a connection; the guest got RST.
    Denied {
        /// What the guest dialled.
        destination: SocketAddr,
        /// Names the guest was told resolve to it.
        names: Vec<HostName>,
        /// What the policy denied it by.
        cause: Cause,
        /// The policy's reason.
        reason: String,
    },
    /// The host could not connect; the guest got RST or ICMP unreachable.
    ConnectFailed {
        /// What the guest dialled.
        destination: SocketAddr,
        /// Names the guest was told resolve to it.
        names: Vec<HostName>,
        /// The operating system's error.
        reason: String,
    },
    /// The guest has as many connections as it may; new ones are reset. Once per burst.
    FlowLimit {
        /// The limit.
        max_flows: usize,
    },
    /// A name was answered with NXDOMAIN because the policy forbids every address it resolved to, or has nothing
    /// that a name could lead to.
    NameDenied {
        /// The name asked for, in presentation format.
        name: String,
        /// What the policy denied it by.
        cause: Cause,
        /// What was refused.
        reason: String,
    },
    /// A name could not be resolved; the guest got SERVFAIL.
    NameFailed {
        /// The name asked for, in presentation format.
        name: String,
        /// The resolver's error.
        reason: String,
    },
    /// The link to the guest ended, and the network with it.
    LinkClosed {
        /// End of file, or the operating system's error.
        reason: String,
    },
}
