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
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    method: Method,
    host: Host,
    /// Without its query.
    path: String,
}

impl Asked {
    /// A WebSocket is asked for by GET in HTTP/1.1, and by CONNECT in HTTP/2 (RFC 8441 section 4): both are the former.
    pub(crate) fn new(head: &request::Parts, host: &Host) -> Self {
        let opens = head.extensions.get::<Protocol>().is_some();
        Self {
            method: if opens {
                Method::GET
            } else {
                head.method.clone()
            },
            host: host.clone(),
            path: head.uri.path().to_owned(),
        }
    }

    /// What denies it, if anything does.
    pub(crate) fn denied(&self, rules: &HttpPolicy) -> Option<HttpDecision> {
        let decide = || rules.decide(self.method.as_str(), &self.host, &self.path);
        let decision = (!rules.is_empty()).then(decide)?;
        (!decision.is_allowed()).then_some(decision)
    }

    /// What to tell of its denial.
    pub(crate) fn event(&self, port: u16, decision: HttpDecision, action: DeniedRequests) -> Event {
        Event::RequestDenied {
            method: one_line(self.method.as_str()),
            path: visible(&self.path),
            host: self.host.clone(),
            port,
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
    pub(crate) fn denied(&self, rules: &HttpPolicy) -> Option<(Arc<Asked>, HttpDecision)> {
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
