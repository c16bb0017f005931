//! Queries over UDP: answered at once, or after upstream was asked.

use std::net::SocketAddr;
use std::sync::PoisonError;

use smoltcp::time::Instant;

use super::Engine;
use crate::action::{Action, Asker, Names};
use crate::config::Config;
use crate::dns::{Answer, Plan, Responder, Transport};
use crate::reply;
use crate::table::Ends;

/// Where names are asked for.
pub(super) const DNS_PORT: u16 = 53;
/// Where they are asked for over TLS (RFC 7858).
const DNS_OVER_TLS_PORT: u16 = 853;
/// Queries that may wait for upstream at once; more are answered with SERVFAIL.
const MAX_QUERIES: usize = 512;

impl Engine {
    /// Whether connections to `port` are for the gateway's own name service, whatever the address.
    pub(super) fn serves_names(&self, port: u16) -> bool {
        port == DNS_PORT || port == DNS_OVER_TLS_PORT && self.config.secure_names.is_some()
    }

    pub(super) fn handle_query(&mut self, ends: Ends, message: &[u8]) {
        match self.responder.plan(message, Transport::Udp) {
            Plan::Ignore => {}
            Plan::Reply(answer) => self.send_answer(ends, &answer),
            Plan::Ask(question) if self.queries >= MAX_QUERIES => {
                self.send_answer(ends, &Responder::failure(&question));
            }
            Plan::Ask(question) => {
                self.queries += 1;
                self.actions.push_back(Action::Resolve {
                    question,
                    asker: Asker { ends },
                });
            }
        }
    }

    /// A query that went upstream has its answer.
    pub(crate) fn handle_resolved(&mut self, asker: Asker, answer: &Answer) {
        self.queries = self.queries.saturating_sub(1);
        self.send_answer(asker.ends, answer);
    }

    fn send_answer(&mut self, ends: Ends, answer: &Answer) {
        record(&self.config, answer);
        reply::datagram(
            &mut self.out,
            self.link,
            ends.destination,
            ends.source,
            &answer.message,
        );
    }

    pub(super) fn names(&self, now: Instant, destination: SocketAddr) -> Names {
        let pins = self
            .config
            .pins
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let address = destination.ip();
        let told = pins.names(address, self.clock.to_std(now));
        drop(pins);
        let configured = told
            .iter()
            .filter(|name| self.responder.leads(name, address));
        Names {
            configured: configured.cloned().collect(),
            told,
            cause: None,
        }
    }
}

/// Pins what `answer` tells the guest and reports what it withholds. To be called before sending it.
pub(crate) fn record(config: &Config, answer: &Answer) {
    if !answer.pins.is_empty() {
        let now = std::time::Instant::now();
        let mut pins = config.pins.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, address, ttl) in &answer.pins {
            pins.insert(name.clone(), *address, *ttl, now);
        }
    }
    if let Some(event) = &answer.denied {
        (config.events)(event.clone());
    }
}
