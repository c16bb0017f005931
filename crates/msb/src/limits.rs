//! How much of the network a sandbox may use.

use std::num::{NonZeroU16, NonZeroU64};

use msb_net::{Rate, Rates};
use serde::{Deserialize, Serialize};

use crate::{Error, NetworkBuilder};

/// Bounds on a sandbox's network, as they were asked for.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkLimits {
    max_connections: Option<u16>,
    egress: RateLimits,
    ingress: RateLimits,
}

/// Units a second; `None`: no bound.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimits {
    bandwidth: Option<u64>,
    ops: Option<u64>,
}

impl NetworkLimits {
    /// # Errors
    /// The first bound that cannot be kept.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.max_connections == Some(0) {
            return Err(Error::Config(
                "a sandbox with network needs at least 1 connection; for none, use the profile none"
                    .into(),
            ));
        }
        let Self {
            egress, ingress, ..
        } = self;
        for (what, rate) in [
            ("egress bandwidth", egress.bandwidth),
            ("egress ops", egress.ops),
            ("ingress bandwidth", ingress.bandwidth),
            ("ingress ops", ingress.ops),
        ] {
            if rate == Some(0) {
                return Err(Error::Config(format!(
                    "the {what} of a sandbox's network cannot be 0 a second; to send nothing, use the profile none"
                )));
            }
        }
        Ok(())
    }

    pub(crate) fn apply(&self, config: &mut msb_net::Config) {
        if let Some(max) = self.max_connections.and_then(NonZeroU16::new) {
            config.max_flows = usize::from(max.get());
            config.max_udp_flows = usize::from(max.get());
        }
        config.egress = self.egress.rates();
        config.ingress = self.ingress.rates();
    }
}

impl RateLimits {
    fn rates(self) -> Rates {
        let rate = |units: Option<u64>| Some(Rate::per_second(NonZeroU64::new(units?)?));
        Rates {
            bandwidth: rate(self.bandwidth),
            ops: rate(self.ops),
        }
    }
}

impl NetworkBuilder {
    /// How much the guest may send, in bytes of Ethernet frames a second, at least 1. What is over it waits. Default: no
    /// bound.
    pub fn egress_bandwidth(mut self, bytes_per_second: u64) -> Self {
        self.limits.egress.bandwidth = Some(bytes_per_second);
        self
    }

    /// How many Ethernet frames the guest may send a second, at least 1. What is over it waits. Default: no bound.
    pub fn egress_ops(mut self, frames_per_second: u64) -> Self {
        self.limits.egress.ops = Some(frames_per_second);
        self
    }

    /// How much the guest is sent, in bytes of Ethernet frames a second, at least 1. What is over it waits. Default: no
    /// bound.
    pub fn ingress_bandwidth(mut self, bytes_per_second: u64) -> Self {
        self.limits.ingress.bandwidth = Some(bytes_per_second);
        self
    }

    /// How many Ethernet frames the guest is sent a second, at least 1. What is over it waits. Default: no bound.
    pub fn ingress_ops(mut self, frames_per_second: u64) -> Self {
        self.limits.ingress.ops = Some(frames_per_second);
        self
    }

    /// How many TCP connections the guest may have open at once, 1 to 65,535, and how many flows of UDP (a flow is a pair
    /// of ends, and ends two minutes after its last datagram); and as many of each with clients of published ports. More are
    /// refused, and those that are open not touched. Default: 256 of each.
    pub fn max_connections(mut self, connections: u16) -> Self {
        self.limits.max_connections = Some(connections);
        self
    }
}
