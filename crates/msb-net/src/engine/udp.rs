//! Datagrams of the guest.

use super::Engine;
use super::dns::DNS_PORT;
use crate::packet::Datagram;
use crate::reply::{self, Unreachable};
use crate::table::Ends;

impl Engine {
    pub(super) fn handle_datagram(&mut self, datagram: &Datagram<'_>) {
        let ends = Ends {
            source: datagram.source,
            destination: datagram.destination,
        };
        if ends.destination.port() != DNS_PORT {
            let from = ends.destination.ip();
            reply::unreachable(
                &mut self.out,
                self.link,
                from,
                datagram.packet,
                Unreachable::Port,
            );
            return;
        }
        self.handle_query(ends, datagram.payload);
    }
}
