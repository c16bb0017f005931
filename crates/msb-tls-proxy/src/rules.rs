//! Rules about requests, as they are at the moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use h2::ext::Protocol;
use http::{Method, request};
use msb_name::Host;
use msb_policy::{HttpDecision, HttpPolicy};
use tokio::sync::watch;

use crate::event::one_line;
use crate::io::bridge::lock;
use crate::{DeniedRequests, Event};

/// Which requests may be sent; by default all. Clones see the same changes.
#[derive(Clone, Debug)]
pub struct HttpRules {
    policy: watch::Receiver<Arc<HttpPolicy>>,
    denied: DeniedRequests,
}

impl HttpRules {
    pub(crate) fn new(policy: watch::Receiver<Arc<HttpPolicy>>, denied: DeniedRequests) -> Self {
        Self { policy, denied }
    }

    pub(crate) fn current(&self) -> Arc<HttpPolicy> {
        Arc::clone(&self.policy.borrow())
    }

    /// Waits until rules are in place of which `says` is true.
    pub(crate) async fn until(&self, mut says: impl FnMut(&HttpPolicy) -> bool) {
        let mut policy = self.policy.clone();
        let reached = policy.wait_for(|policy| says(policy)).await.is_ok();
        if !reached {
            // Nobody is left who could change them.
            std::future::pending().await
        }
    }

    /// What becomes of requests that are denied.
    pub(crate) fn denied(&self) -> DeniedRequests {
        self.denied
    }
}

impl Default for HttpRules {
    fn default() -> Self {
        // Without a sender nobody changes it.
        let (_, policy) = watch::channel(Arc::default());
        Self::new(policy, DeniedRequests::default())
    }
}

/// What a request is judged by.
#[derive(Debug)]
pub(crate) struct Asked {
    method: Method,
    /// Those that may be at the other end, the request's own first.
    hosts: Vec<Host>,
    /// That the connection goes to.
    port: u16,
    /// Without its query.
    path: String,
}

/// Why a request may not be sent.
#[derive(Debug)]
pub(crate) struct Denial {
    /// Whose rules deny it.
    host: Host,
    pub(crate) decision: HttpDecision,
}

impl Asked {
    /// A WebSocket is asked for by GET in HTTP/1.1, and by CONNECT in HTTP/2 (RFC 8441 section 4): both are the former.
    pub(crate) fn new(head: &request::Parts, hosts: Vec<Host>, port: u16) -> Self {
        let opens = head.extensions.get::<Protocol>().is_some();
        Self {
            method: if opens {
                Method::GET
            } else {
                head.method.clone()
            },
            hosts,
            port,
            path: head.uri.path().to_owned(),
        }
    }

    /// What denies it, if anything does: all hosts have to allow it.
    pub(crate) fn denied(&self, rules: &HttpPolicy) -> Option<Denial> {
        if rules.is_empty() {
            return None;
        }
        self.hosts.iter().find_map(|host| {
            let decision = rules.decide(self.method.as_str(), host, &self.path);
            (!decision.is_allowed()).then(|| Denial {
                host: host.clone(),
                decision,
            })
        })
    }

    /// What to tell of its denial.
    pub(crate) fn event(&self, denial: Denial, action: DeniedRequests) -> Event {
        let Denial { host, decision } = denial;
        Event::RequestDenied {
            method: one_line(self.method.as_str()),
            path: visible(&self.path),
            host,
            port: self.port,
            decision,
            action,
        }
    }
}

/// The requests that are open on one connection.
#[derive(Debug, Default)]
pub(crate) struct OpenRequests(Mutex<HashMap<usize, Arc<Asked>>>);

impl OpenRequests {
    pub(crate) fn insert(&self, number: usize, asked: Arc<Asked>) {
        lock(&self.0).insert(number, asked);
    }

    pub(crate) fn remove(&self, number: usize) {
        lock(&self.0).remove(&number);
    }

    /// One that may not go on.
    pub(crate) fn denied(&self, rules: &HttpPolicy) -> Option<(Arc<Asked>, Denial)> {
        let open = lock(&self.0);
        let mut open = open.values();
        open.find_map(|asked| Some((Arc::clone(asked), asked.denied(rules)?)))
    }
}

/// What is not visible ASCII is percent-encoded, since it may steer a terminal or turn text around (attack 27).
pub(crate) fn visible(path: &str) -> String {
    let mut visible = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_graphic() {
            visible.push(char::from(byte));
        } else {
            visible.push_str(&format!("%{byte:02X}"));
        }
    }
    visible
}
