//! What the network hands on: established connections, and who decides about their server names.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use msb_name::HostName;
use msb_policy::{Decision, Early, Protocol};
use tokio::net::TcpStream;

use crate::event::{Event, EventSink};
use crate::policy::PolicyCell;
use crate::stream::{FlowReset, FlowStream, SharedFlow};

/// A guest connection the host has already connected for: the guest's handshake was answered only
/// when that had succeeded.
pub struct Flow {
    /// The guest's end.
    pub source: SocketAddr,
    /// What the guest dialled.
    pub destination: SocketAddr,
    /// Whether `destination` is the gateway, so that `upstream` is connected to the host's loopback.
    pub to_host: bool,
    /// Names the guest was told resolve to `destination`, in order.
    pub names: Vec<HostName>,
    /// Those of them that the configuration leads there.
    pub configured: Vec<HostName>,
    /// Whether the server name decides, so that no byte may be sent on before [`judge`](Self::judge) has heard it. Only where
    /// [`Config::reads_server_names`](crate::Config::reads_server_names) is set.
    pub needs_name: bool,
    /// The connection to the guest.
    pub guest: FlowStream,
    /// The connection to `destination` (to the host's loopback if `to_host`), with `TCP_NODELAY`.
    pub upstream: TcpStream,
    pub(super) policy: PolicyCell,
    pub(super) events: EventSink,
}

impl Flow {
    /// Who decides about this flow once its server name is known.
    #[must_use]
    pub fn judge(&self) -> Judge {
        Judge {
            flow: self.guest.shared(),
            reset: self.guest.reset_handle(),
            destination: self.destination,
            to_host: self.to_host,
            names: self.names.clone(),
            configured: self.configured.clone(),
            policy: self.policy.clone(),
            events: Arc::clone(&self.events),
        }
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("source", &self.source)
            .field("destination", &self.destination)
            .field("to_host", &self.to_host)
            .field("names", &self.names)
            .field("configured", &self.configured)
            .field("needs_name", &self.needs_name)
            .finish_non_exhaustive()
    }
}

/// Decides about a flow with the name that it claims, by the policy that is in force then; and again by each policy that
/// [comes after](crate::Network::replace_policy), for it remembers the claim.
pub struct Judge {
    flow: Arc<SharedFlow>,
    reset: FlowReset,
    destination: SocketAddr,
    to_host: bool,
    names: Vec<HostName>,
    configured: Vec<HostName>,
    policy: PolicyCell,
    events: EventSink,
}

impl Judge {
    /// Whether the flow may go on that claims the server name `claimed`, or none because it is not TLS or names nobody.
    /// If it may not, that is reported and the guest's connection reset.
    #[must_use]
    pub fn decide(&self, claimed: Option<&HostName>) -> bool {
        // First, so that a policy that comes in between finds it.
        self.flow.set_claim(claimed.cloned());
        let flow = self.asked_about().claimed(claimed);
        let Decision::Deny(denial) = self.policy.get().decide(&flow) else {
            return true;
        };
        (self.events)(Event::Denied {
            protocol: Protocol::Tcp,
            destination: self.destination,
            names: claimed.map_or_else(|| self.names.clone(), |name| vec![name.clone()]),
            cause: denial.grounds().cause().clone(),
            reason: denial.to_string(),
        });
        self.reset.reset();
        false
    }

    /// Whether the flow may go on whose first bytes two servers could read in two ways, as different names. Where the server
    /// name decides it may not, and the guest's connection is reset; else it counts as one that claims none.
    #[must_use]
    pub fn decide_ambiguous(&self) -> bool {
        let early = self.policy.get().decide_early(&self.asked_about());
        if matches!(early, Early::NeedsName) {
            self.reset.reset();
            return false;
        }
        self.decide(None)
    }

    fn asked_about(&self) -> msb_policy::Flow<'_> {
        msb_policy::Flow::egress(Protocol::Tcp, self.destination)
            .to_host(self.to_host)
            .resolved(&self.names)
            .configured(&self.configured)
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge")
            .field("destination", &self.destination)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}
