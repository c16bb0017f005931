//! What a sandbox tells while it runs.

use std::sync::Arc;

/// Something that happened in or to a sandbox. Secret values cannot be in it: no part of it can hold one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// From the guest's network: connections, refusals, names.
    Network(msb_net::Event),
    /// From TLS interception: requests, substitutions, violations.
    Tls(msb_tls_proxy::Event),
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

/// Hands an event to the log and to the embedding program.
pub(crate) fn emit(sandbox: &str, sink: Option<&Sink>, event: &Event) {
    log(sandbox, event);
    if let Some(sink) = sink {
        sink(event);
    }
}

/// Levels: an error ends the sandbox; a warning is something its user did not ask for; the rest explains.
fn log(sandbox: &str, event: &Event) {
    use msb_secrets::ViolationAction;
    use msb_tls_proxy::Event as Tls;
    match event {
        Event::Terminated { reason } => tracing::error!(sandbox, "terminated: {reason}"),
        Event::Warning(text) => tracing::warn!(sandbox, "{text}"),
        Event::Tls(Tls::Violation {
            host,
            method,
            path,
            violation,
            action,
        }) => {
            let method = method.as_deref().unwrap_or("-");
            let path = path.as_deref().unwrap_or("-");
            match action {
                ViolationAction::Block => {
                    tracing::info!(sandbox, %host, method, path, "blocked: {violation}");
                }
                ViolationAction::BlockAndLog => {
                    tracing::warn!(sandbox, %host, method, path, "blocked: {violation}");
                }
                ViolationAction::BlockAndTerminate => {
                    tracing::error!(sandbox, %host, method, path, "blocked: {violation}");
                }
            }
        }
        Event::Tls(Tls::GuestRejectedLeaf { host, hint }) => {
            tracing::warn!(sandbox, %host, "the guest rejected the sandbox's certificate: {hint}");
        }
        Event::Tls(event) => tracing::debug!(sandbox, ?event, "tls"),
        Event::Network(event) => tracing::debug!(sandbox, ?event, "network"),
    }
}
