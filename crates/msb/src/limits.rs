//! How much of the network a sandbox may use.

use std::num::NonZeroU16;

use crate::{Error, NetworkBuilder};

/// Bounds on a sandbox's network, as they were asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NetworkLimits {
    max_connections: Option<u16>,
}

impl NetworkLimits {
    /// # Errors
    /// The first bound that cannot be kept.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.max_connections {
            Some(0) => Err(Error::Config(
                "a sandbox with network needs at least 1 connection; for none, use the profile none"
                    .into(),
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn apply(&self, config: &mut msb_net::Config) {
        if let Some(max) = self.max_connections.and_then(NonZeroU16::new) {
            config.max_flows = usize::from(max.get());
            config.max_udp_flows = usize::from(max.get());
        }
    }
}

impl NetworkBuilder {
    /// How many TCP connections the guest may have open at once, 1 to 65,535, and how many flows of UDP (a flow is a pair
    /// of ends, and ends two minutes after its last datagram). More are refused, and those that are open not touched.
    /// Default: 256 of each.
    pub fn max_connections(mut self, connections: u16) -> Self {
        self.limits.max_connections = Some(connections);
        self
    }
}
