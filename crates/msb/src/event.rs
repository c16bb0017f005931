//! What a sandbox tells while it runs.

use std::sync::Arc;

use tokio::sync::watch;

/// Something that happened in or to a sandbox. Secret values cannot be in it: no part of it can hold one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// From the guest's network: connections, refusals, names.
    Network(msb_net::Event),
    /// From TLS interception: requests, substitutions, violations.
    Tls(msb_tls_proxy::Event),
    /// From a [`Proxy`](crate::Proxy): tunnels and connections it refused.
    Proxy(crate::ProxyEvent),
    /// Something is not as asked for, and the sandbox runs all the same: an overlap of patterns, a trust store in
    /// the guest that cannot be written.
    Warning(String),
    /// The sandbox ends because of this.
    Terminated {
        /// Why.
        reason: String,
    },
}

/// Takes events. Called from the sandbox's tasks; it must not block.
pub(crate) type Sink = Arc<dyn Fn(&Event) + Send + Sync>;

/// Where the parts' events go.
#[derive(Clone)]
pub(crate) struct Events {
    pub(crate) sandbox: String,
    pub(crate) sink: Option<Sink>,
    /// Takes the reason to end the sandbox; the first counts.
    pub(crate) terminate: watch::Sender<Option<String>>,
}

impl Events {
    /// Hands an event to the log and to the embedding program.
    pub(crate) fn emit(&self, event: &Event) {
        log(&self.sandbox, event);
        if let Some(sink) = &self.sink {
            sink(event);
        }
    }

    /// Ends the sandbox for this reason, if it is the first.
    pub(crate) fn end(&self, reason: &str) {
        let first = self.terminate.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert_with(|| reason.to_owned());
            first
        });
        if first {
            let reason = reason.to_owned();
            self.emit(&Event::Terminated { reason });
        }
    }

    pub(crate) fn network_sink(&self) -> msb_net::EventSink {
        let events = self.clone();
        Arc::new(move |event| events.emit(&Event::Network(event)))
    }

    pub(crate) fn tls_sink(&self) -> msb_tls_proxy::EventSink {
        let events = self.clone();
        Arc::new(move |event| {
            let violation = match &event {
                msb_tls_proxy::Event::Violation {
                    violation,
                    action: msb_secrets::ViolationAction::BlockAndTerminate,
                    ..
                } => Some(violation.to_string()),
                _ => None,
            };
            events.emit(&Event::Tls(event));
            if let Some(violation) = violation {
                events.end(&format!(
                    "a secret's placeholder was sent where it may not go: {violation}"
                ));
            }
        })
    }
}

/// Levels: an error ends the sandbox; a warning is something its user did not ask for; the rest explains.
fn log(sandbox: &str, event: &Event) {
    use msb_secrets::ViolationAction;
    use msb_tls_proxy::Event as Tls;

    use crate::ProxyEvent as Proxy;
    match event {
        Event::Terminated { reason } => tracing::error!(sandbox, "terminated: {reason}"),
        Event::Warning(text) => tracing::warn!(sandbox, "{text}"),
        Event::Tls(Tls::Violation {
            host,
            port,
            method,
            path,
            violation,
            action,
        }) => {
            let method = method.as_deref().unwrap_or("-");
            let path = path.as_deref().unwrap_or("-");
            match action {
                ViolationAction::Block => {
                    tracing::info!(sandbox, %host, port, method, path, "blocked: {violation}");
                }
                ViolationAction::BlockAndLog => {
                    tracing::warn!(sandbox, %host, port, method, path, "blocked: {violation}");
                }
                ViolationAction::BlockAndTerminate => {
                    tracing::error!(sandbox, %host, port, method, path, "blocked: {violation}");
                }
            }
        }
        Event::Tls(Tls::GuestRejectedLeaf { host, hint, .. }) => {
            tracing::warn!(sandbox, %host, "the guest rejected the sandbox's certificate: {hint}");
        }
        Event::Tls(Tls::GuestHungUp { host, hint, .. }) => {
            tracing::warn!(sandbox, %host, "{hint}");
        }
        Event::Proxy(event @ (Proxy::ConnectionLimit { .. } | Proxy::AcceptFailed { .. })) => {
            tracing::warn!(sandbox, ?event, "connections are refused");
        }
        Event::Proxy(Proxy::SecretsReplaced { count }) => {
            tracing::info!(sandbox, count, "other secrets are in use");
        }
        Event::Proxy(event) => tracing::info!(sandbox, ?event, "refused"),
        Event::Tls(event) => tracing::debug!(sandbox, ?event, "tls"),
        Event::Network(event) => tracing::debug!(sandbox, ?event, "network"),
    }
}
