//! TLS interception for one sandbox.
//!
//! A connection comes in as two byte streams, the guest's and one that is already connected to the
//! server. [`TlsProxy::serve`] reads the guest's ClientHello and then either splices the two
//! ([bypassed](msb_policy::BypassList) hosts), or terminates TLS on both sides: first the server's
//! certificate is verified, then the guest gets a leaf of the sandbox's CA, and HTTP/1.1 requests
//! are bridged one by one, each checked for identity and for secret placeholders.
//!
//! `session/` decides and does no I/O; `io/` moves bytes and decides nothing. How connections come
//! here, and what becomes of the [`Event`]s, is the caller's business; see `examples/` for a whole
//! program.
//!
//! # Limits
//!
//! HTTP/1.1 only: a client that insists on `h2` gets a TLS alert, and a request for an upgrade
//! (WebSocket) or a CONNECT inside is answered 501. Response bodies are not scrubbed. There is one
//! upstream connection for each guest connection.
//!
//! A connection that cannot be intercepted is never turned into a raw tunnel.

#![forbid(unsafe_code)]

mod config;
mod error;
mod event;
mod io;
mod session;
mod upstream;

pub use config::{Client, Config, Connection, DialError, Dialled, Limits, Reset};
pub use error::Error;
pub use event::{Event, EventSink, HelloFailure};
pub use io::plain::relay_plain;
pub use io::proxy::TlsProxy;
pub use upstream::{UpstreamTls, UpstreamTlsBuilder};
