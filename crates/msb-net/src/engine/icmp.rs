//! Echo requests of the guest.

use super::Engine;
use crate::packet::Echo;
use crate::reply::{self, Unreachable};

impl Engine {
    pub(super) fn handle_echo(&mut self, echo: &Echo<'_>) {
        let addresses = self.config.addresses;
        let is_link_local = echo.destination == addresses.gateway_link_local();
        if addresses.is_gateway(echo.destination) || is_link_local {
            reply::echo(&mut self.out, self.link, echo);
        } else {
            let from = addresses.gateway_like(echo.source);
            reply::unreachable(
                &mut self.out,
                self.link,
                from,
                echo.packet,
                Unreachable::Prohibited,
            );
        }
    }
}
