//! What a proxy tells about its connections. No secret value can be in it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use msb_name::{Host, HostName};
use msb_policy::HttpDecision;
use msb_secrets::{Form, Location, Violation, ViolationAction};

use crate::DeniedRequests;

/// Receives events.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;

/// One thing that happened on a connection.
///
/// Texts may repeat what the guest or the server sent (a path, a reason); they hold no control
/// characters, no query and no value of a secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Both TLS handshakes are done; requests are inspected from here on.
    Intercepted {
        /// The host, as the guest asked for it.
        host: Host,
        /// Where the connection goes.
        destination: SocketAddr,
    },
    /// The guest's handshake is done on a connection that ends here
    /// ([`TlsProxy::serve_locally`](crate::TlsProxy::serve_locally)).
    ServedLocally {
        /// The host, as the guest asked for it.
        host: Host,
        /// What the guest dialled.
        destination: SocketAddr,
    },
    /// The host is on the bypass list; the connection is spliced.
    Bypassed {
        /// The host, as the guest asked for it.
        host: HostName,
        /// Where the connection goes.
        destination: SocketAddr,
    },
    /// No secret is for the host and no HTTP rule names it, and only hosts with one are intercepted; the connection is spliced.
    OutOfScope {
        /// The host, as the guest asked for it.
        host: Host,
        /// Where the connection goes.
        destination: SocketAddr,
    },
    /// What is said on an intercepted connection is not HTTP: it is relayed, and searched both ways.
    Relayed {
        /// The host, as the guest asked for it.
        host: Host,
        /// Where the connection goes.
        destination: SocketAddr,
    },
    /// What must not be relayed: a connection that turned out to carry HTTP, of which both sides were cut off; or one whose
    /// requests HTTP rules would be about and that could not be read, of which nothing was sent.
    RelayRefused {
        /// The host.
        host: Host,
        /// Where the connection went, or was to go.
        destination: SocketAddr,
        /// One line.
        reason: String,
    },
    /// The guest did not send a ClientHello that can be used; it was reset or got an alert.
    HelloFailed {
        /// Where the connection was to go.
        destination: SocketAddr,
        /// Why.
        failure: HelloFailure,
    },
    /// The server could not be reached or verified; the guest was answered 502 with the reason.
    UpstreamFailed {
        /// The host.
        host: Host,
        /// Where the connection was to go.
        destination: SocketAddr,
        /// One line.
        reason: String,
    },
    /// The guest refused the certificate of this sandbox's CA: it pins another, or does not use
    /// the system's trust store.
    GuestRejectedLeaf {
        /// The host.
        host: Host,
        /// The port that the connection goes to.
        port: u16,
        /// What to do: the bypass option for this host.
        hint: String,
    },
    /// The guest ended several connections to a host in a row without a word, during the handshake or right after it. It may
    /// pin another certificate, or may have had no use for them.
    GuestHungUp {
        /// The host.
        host: Host,
        /// The port that the connection goes to.
        port: u16,
        /// What to do if it pins: the bypass option for this host.
        hint: String,
    },
    /// The guest's TLS handshake failed for another reason.
    GuestHandshakeFailed {
        /// The host.
        host: Host,
        /// The port that the connection goes to.
        port: u16,
        /// One line.
        reason: String,
    },
    /// A request was answered.
    Request {
        /// The host.
        host: Host,
        /// The port that the connection goes to.
        port: u16,
        /// The method.
        method: String,
        /// The path, without its query.
        path: String,
        /// The status code the guest got.
        status: u16,
    },
    /// A request was refused before anything of it was sent to the server.
    RequestRefused {
        /// The host of the connection.
        host: Host,
        /// The port that the connection goes to.
        port: u16,
        /// The status code the guest got: 400, 421 or 501.
        status: u16,
        /// One line.
        reason: String,
    },
    /// A rule about requests denied one before anything of it was sent to the server.
    RequestDenied {
        /// The host of the request.
        host: Host,
        /// The port that the connection goes to.
        port: u16,
        /// The method.
        method: String,
        /// The path, without its query.
        path: String,
        /// What was decided by, and in a sentence why.
        decision: HttpDecision,
        /// What the guest got.
        action: DeniedRequests,
    },
    /// A response broke off because of how the server had coded its body; the guest was reset, so that it does not take
    /// what it got for the whole.
    ResponseRefused {
        /// The host.
        host: Host,
        /// The port that the connection goes to.
        port: u16,
        /// One line.
        reason: String,
    },
    /// A placeholder was replaced in a request.
    Substituted {
        /// The host that received the value.
        host: Host,
        /// The port that the connection goes to.
        port: u16,
        /// The secret's environment variable.
        secret: String,
        /// Where in the request.
        location: Location,
        /// How it was written.
        form: Form,
    },
    /// A placeholder went to a host that may have the secret, in a place where it is not replaced.
    LeftAlone {
        /// The host that received the placeholder.
        host: Host,
        /// The port that the connection goes to.
        port: u16,
        /// The secret's environment variable.
        secret: String,
        /// Where in the request.
        location: Location,
        /// How it was written.
        form: Form,
    },
    /// A secret's value was taken out of a response.
    Scrubbed {
        /// The host that sent the value.
        host: Host,
        /// The port that the connection goes to.
        port: u16,
        /// The secret's environment variable.
        secret: String,
        /// Where in the response.
        location: Location,
        /// How it was written.
        form: Form,
    },
    /// A placeholder was on its way to a host that its secret is not allowed for. The request was
    /// dropped and the guest reset; what more `action` asks for is up to the receiver.
    Violation {
        /// The host; an address where the connection is not intercepted.
        host: Host,
        /// The port that the connection goes to.
        port: u16,
        /// The method, on HTTP.
        method: Option<String>,
        /// The path without its query, on HTTP, unless the placeholder is in it.
        path: Option<String>,
        /// Which secret, where and in what form.
        violation: Violation,
        /// What the configuration asks for.
        action: ViolationAction,
    },
}

/// Why no ClientHello came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HelloFailure {
    /// The guest speaks something other than TLS.
    NotTls,
    /// It is larger than [`Limits::hello_len`](crate::Limits::hello_len).
    TooLarge,
    /// It did not come within [`Limits::hello_timeout`](crate::Limits::hello_timeout).
    TimedOut,
    /// The guest ended the connection before it was whole.
    Closed,
    /// It is malformed, in one line.
    Malformed(String),
    /// It names no server, and the server was to be found by its name.
    NoServerName,
    /// It names another server than the one that was asked for and dialled.
    OtherServerName {
        /// The name in it.
        named: HostName,
        /// What was dialled.
        dialled: HostName,
    },
}

impl fmt::Display for HelloFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTls => f.write_str("not TLS, on a port where TLS is intercepted"),
            Self::TooLarge => f.write_str("the ClientHello is too large"),
            Self::TimedOut => f.write_str("the ClientHello did not come in time"),
            Self::Closed => f.write_str("the connection ended before a ClientHello"),
            Self::Malformed(reason) => write!(f, "malformed ClientHello: {reason}"),
            Self::NoServerName => f.write_str("the ClientHello names no server"),
            Self::OtherServerName { named, dialled } => {
                write!(
                    f,
                    "the ClientHello names {named}, but {dialled} was asked for"
                )
            }
        }
    }
}

/// One line without control characters, of bounded length: fit for an event and for a header.
pub(crate) fn one_line(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    text.chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .take(MAX_CHARS)
        .collect()
}
