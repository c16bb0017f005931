//! What the TLS engine tells, as records.

use msb_secrets::ViolationAction;
use msb_tls_proxy::{DeniedRequests, Event};

use super::Record;

pub(super) fn record(event: &Event) -> Record {
    match event {
        Event::Intercepted { host, destination } => Record::new("intercepted")
            .host(host)
            .destination(destination),
        Event::Bypassed { host, destination } => {
            Record::new("bypassed").host(host).destination(destination)
        }
        Event::ServedLocally { host, destination } => Record::new("served_locally")
            .host(host)
            .destination(destination),
        Event::OutOfScope { host, destination } => Record::new("out_of_scope")
            .host(host)
            .destination(destination),
        Event::Relayed { host, destination } => {
            Record::new("relayed").host(host).destination(destination)
        }
        Event::RelayRefused {
            host,
            destination,
            reason,
        } => Record::new("relay_refused")
            .host(host)
            .destination(destination)
            .reason(reason),
        Event::HelloFailed {
            destination,
            failure,
        } => Record::new("hello_failed")
            .destination(destination)
            .reason(failure),
        Event::UpstreamFailed {
            host,
            destination,
            reason,
        } => Record::new("upstream_failed")
            .host(host)
            .destination(destination)
            .reason(reason),
        Event::GuestRejectedLeaf { host, port, hint } => Record::new("certificate_rejected")
            .host(host)
            .port(*port)
            .reason(hint),
        Event::GuestHungUp { host, port, hint } => Record::new("guest_hung_up")
            .host(host)
            .port(*port)
            .reason(hint),
        Event::GuestHandshakeFailed { host, port, reason } => Record::new("handshake_failed")
            .host(host)
            .port(*port)
            .reason(reason),
        Event::Request {
            host,
            port,
            method,
            path,
            status,
        } => Record {
            method: Some(method.clone()),
            path: Some(path.clone()),
            ..Record::new("request")
                .host(host)
                .port(*port)
                .status(*status)
        },
        Event::RequestRefused {
            host,
            port,
            status,
            reason,
        } => Record::new("request_refused")
            .host(host)
            .port(*port)
            .status(*status)
            .reason(reason),
        Event::RequestDenied {
            host,
            port,
            method,
            path,
            decision,
            action,
        } => Record {
            method: Some(method.clone()),
            path: Some(path.clone()),
            rule: Some(decision.cause().to_string()),
            action: Some(match action {
                DeniedRequests::Forbid => "forbid",
                DeniedRequests::Reset => "reset",
            }),
            ..Record::new("request_denied")
                .host(host)
                .port(*port)
                .reason(decision)
        },
        Event::Substituted {
            host,
            port,
            secret,
            location,
            form,
        } => Record::new("substituted")
            .host(host)
            .port(*port)
            .place(secret, location, form),
        Event::LeftAlone {
            host,
            port,
            secret,
            location,
            form,
        } => Record::new("left_alone")
            .host(host)
            .port(*port)
            .place(secret, location, form),
        Event::Scrubbed {
            host,
            port,
            secret,
            location,
            form,
        } => Record::new("scrubbed")
            .host(host)
            .port(*port)
            .place(secret, location, form),
        Event::ResponseRefused { host, port, reason } => Record::new("response_refused")
            .host(host)
            .port(*port)
            .reason(reason),
        Event::Violation {
            host,
            port,
            method,
            path,
            violation,
            action,
        } => Record {
            method: method.clone(),
            path: path.clone(),
            action: Some(action_text(*action)),
            ..Record::new("violation")
                .host(host)
                .port(*port)
                .place(violation.env(), violation.location(), violation.form())
                .reason(violation.refusal())
        },
        // As above.
        _ => Record::new("tls"),
    }
}

fn action_text(action: ViolationAction) -> &'static str {
    match action {
        ViolationAction::Block => "block",
        ViolationAction::BlockAndLog => "block-and-log",
        ViolationAction::BlockAndTerminate => "block-and-terminate",
    }
}
