//! Another policy while flows are open (SPEC P8): each is asked about again, and ends if it is denied.

use msb_policy::{Decision, Denial, Early, Protocol};
use smoltcp::time::Instant;

use super::Engine;
use super::ingress::admitted;
use super::tcp::{State, egress};
use crate::action::{Action, Flowing, Names};
use crate::event::Event;
use crate::reply::{self, Unreachable};
use crate::stream::Claim;
use crate::table::{Ends, FlowId};
use crate::tcp::Stage;

impl Engine {
    /// Asks the policy about all that is open.
    pub(super) fn review(&mut self, now: Instant) {
        for id in self.flows.ids() {
            match self.review_connection(id) {
                Ok(()) => {}
                Err(denial) => self.end_connection(id, &denial),
            }
        }
        for id in self.relays.flows.ids() {
            if let Err(denial) = self.review_relay(id) {
                self.end_relay(now, id, &denial);
            }
        }
    }

    /// The destination of a flow is an address of the host's own, which the policy denies.
    pub(crate) fn handle_own(&mut self, now: Instant, flowing: Flowing, denial: &Denial) {
        match flowing {
            Flowing::Connection(id) => self.end_connection(id, denial),
            Flowing::Relay(id) => self.end_relay(now, id, denial),
        }
    }

    fn review_connection(&mut self, id: FlowId) -> Result<(), Denial> {
        let policy = self.policy.get();
        let reads_server_names = self.config.reads_server_names;
        let port = self
            .flows
            .get_mut(id)
            .map(|entry| entry.ends.destination.port());
        if port.is_none_or(|port| self.serves_names(port)) {
            return Ok(());
        }
        let Some(entry) = self.flows.get_mut(id) else {
            return Ok(());
        };
        if let Some(client) = entry.client {
            let guest_port = entry.ends.source.port();
            return admitted(&policy, Protocol::Tcp, client, guest_port);
        }
        let claim = match &entry.state {
            State::Held { .. } => Claim::Pending,
            State::Open { flow, .. } if flow.tcp().stage() == Stage::Closed => return Ok(()),
            State::Open { flow, .. } => flow.claim(),
        };
        let flow = egress(
            Protocol::Tcp,
            entry.ends.destination,
            entry.to_host,
            &entry.names,
        );
        let early = match &claim {
            Claim::Known(name) => Early::Decided(policy.decide(&flow.claimed(name.as_ref()))),
            // Who reads the name will ask again, and before anything is sent on.
            Claim::Pending if reads_server_names => policy.decide_early(&flow),
            Claim::Pending => Early::Decided(policy.decide(&flow)),
        };
        let cause = match early {
            Early::Decided(Decision::Deny(denial)) => return Err(denial),
            Early::Decided(Decision::Permit(permit)) => Some(permit.grounds().cause().clone()),
            Early::NeedsName => None,
        };
        let (destination, to_host) = (entry.ends.destination, entry.to_host);
        let if_own = policy.decide(&flow.to_host(true));
        entry.names.cause = cause;
        if let (false, Decision::Deny(denial)) = (to_host, if_own) {
            self.actions.push_back(Action::CheckOwn {
                flowing: Flowing::Connection(id),
                address: destination.ip(),
                denial,
            });
        }
        Ok(())
    }

    fn review_relay(&mut self, id: FlowId) -> Result<(), Denial> {
        let policy = self.policy.get();
        let Some(relay) = self.relays.flows.get_mut(id) else {
            return Ok(());
        };
        let protocol = relay.carries.protocol();
        if let Some(client) = relay.client {
            let guest_port = relay.ends.source.port();
            return admitted(&policy, protocol, client.address, guest_port);
        }
        let (Ends { destination, .. }, to_host) = (relay.ends, relay.to_host);
        let flow = egress(protocol, destination, to_host, &relay.names);
        if let Decision::Deny(denial) = policy.decide(&flow) {
            return Err(denial);
        }
        if let (false, Decision::Deny(denial)) = (to_host, policy.decide(&flow.to_host(true))) {
            self.actions.push_back(Action::CheckOwn {
                flowing: Flowing::Relay(id),
                address: destination.ip(),
                denial,
            });
        }
        Ok(())
    }

    fn end_connection(&mut self, id: FlowId, denial: &Denial) {
        let Some(entry) = self.flows.get_mut(id) else {
            return;
        };
        // From now on it is nobody's, so that its end is told once.
        let (ends, client) = (entry.ends, entry.client.take());
        let names = match &mut entry.state {
            State::Held { syn } => {
                let syn = std::mem::take(syn);
                let names = std::mem::take(&mut entry.names);
                self.flows.remove(ends, id);
                self.actions.push_back(Action::Cancel(id));
                self.reset_syn(&syn);
                names
            }
            State::Open { flow, .. } => {
                flow.tcp().abort();
                flow.tell_broken();
                let names = entry.names.clone();
                self.queue(id);
                names
            }
        };
        match client {
            Some(client) => {
                self.tell_shut_out(Protocol::Tcp, client, ends.source.port(), denial);
            }
            None => self.tell_denied(Protocol::Tcp, ends, names, denial),
        }
    }

    fn end_relay(&mut self, now: Instant, id: FlowId, denial: &Denial) {
        let Some(relay) = self.relays.flows.get_mut(id) else {
            return;
        };
        let ends = relay.ends;
        let Some(relay) = self.relays.flows.remove(ends, id) else {
            return;
        };
        self.actions.push_back(Action::CloseRelay(id));
        if let Some(quote) = &relay.quote {
            let from = self.config.addresses.gateway_like(ends.source.ip());
            let prohibited = Unreachable::Prohibited;
            reply::unreachable(&mut self.out, self.link, from, quote, prohibited);
        }
        if let Some(client) = relay.client {
            self.clients.forget(client);
            let guest_port = ends.source.port();
            return self.tell_shut_out(Protocol::Udp, client.address, guest_port, denial);
        }
        if self.relays.reported.is_new(ends.destination, now) {
            self.tell_denied(relay.carries.protocol(), ends, relay.names, denial);
        }
    }

    pub(super) fn tell_denied(
        &self,
        protocol: Protocol,
        ends: Ends,
        names: Names,
        denial: &Denial,
    ) {
        self.emit(Event::Denied {
            protocol,
            destination: ends.destination,
            names: names.told,
            cause: denial.grounds().cause().clone(),
            reason: denial.to_string(),
        });
    }
}
