//! HTTP clients, each in every way it can be pointed at the proxy.

mod scripts;
mod tools;

use crate::case::{Case, Mode, Protocol, Tool};
use crate::check::{self, Place, Send};
use crate::lab::{API, HAPROXY, Lab, NGINX};

const BOTH: &[Mode] = &[Mode::Connect, Mode::Transparent];

/// The rows of all clients.
pub(crate) fn cases(lab: &Lab) -> Vec<Case> {
    let mut rows = Vec::new();
    tools::add(lab, &mut rows);
    scripts::add(lab, &mut rows);
    rows
}

/// One client in one protocol.
#[derive(Clone)]
struct Client<S> {
    tool: Tool,
    protocol: Protocol,
    modes: &'static [Mode],
    places: &'static [Place],
    /// Whether it is pointed at nginx and HAProxy as well.
    foreign_origins: bool,
    send: S,
}

impl<S: Send + Clone + std::marker::Send + Sync + 'static> Client<S> {
    fn add(&self, lab: &Lab, rows: &mut Vec<Case>) {
        for &mode in self.modes {
            let how = (mode, self.protocol);
            let (send, places) = (self.send.clone(), self.places);
            rows.push(self.case(how, "own", "values", move |lab, id| {
                check::values(lab, &send, how, API, (places, id))
            }));
            let send = self.send.clone();
            rows.push(self.case(how, "own", "other host", move |lab, id| {
                check::other(lab, &send, how, id)
            }));
            let send = self.send.clone();
            rows.push(self.case(how, "own", "untrusted", move |lab, id| {
                check::untrusted(lab, &send, how, id)
            }));
            for (name, host) in [("nginx", NGINX), ("HAProxy", HAPROXY)] {
                if !self.foreign_origins {
                    continue;
                }
                let send = self.send.clone();
                let mut case = self.case(how, name, "values", move |lab, id| {
                    check::values(lab, &send, how, host, (places, id))
                });
                if let Some(reason) = lab.without(host) {
                    case.tool.version = Err(reason);
                }
                rows.push(case);
            }
        }
    }

    fn case(
        &self,
        (mode, protocol): (Mode, Protocol),
        origin: &'static str,
        claim: &str,
        work: impl Fn(&Lab, &str) -> anyhow::Result<()> + std::marker::Send + Sync + 'static,
    ) -> Case {
        Case {
            tool: self.tool.clone(),
            mode,
            protocol,
            origin,
            claim: claim.to_owned(),
            work: Box::new(work),
        }
    }
}
