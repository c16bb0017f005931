//! TLS interception for one sandbox.
//!
//! A connection comes in as two byte streams, the guest's and one that is already connected to the
//! server. [`TlsProxy::serve`] reads the guest's ClientHello and then either splices the two
//! ([bypassed](msb_policy::BypassList) hosts), or terminates TLS on both sides: first the server's
//! certificate is verified, then the guest gets a leaf of the sandbox's CA and the protocol that the
//! server chose of those the guest offers, and requests are bridged, in HTTP/1.1 one by one, in
//! HTTP/2 each on a stream of its own; each is checked for identity and for secret placeholders.
//!
//! `session/` decides and does no I/O; `io/` moves bytes and decides nothing. How connections come
//! here, and what becomes of the [`Event`]s, is the caller's business; see `examples/` for a whole
//! program.
//!
//! # Limits
//!
//! WebSocket is carried on HTTP/1.1, and on HTTP/2 where the server takes it there (RFC 8441). Offers to switch to another
//! version of HTTP or to TLS are removed, as who makes them goes on without; a request for any other upgrade, or a CONNECT
//! on HTTP/2, is answered 501: nobody could read what follows. There is one upstream connection
//! for each guest connection, and both speak the same protocol: a guest that insists on HTTP/2 where
//! the server does not speak it gets a TLS alert. A guest is not told `100 Continue` in HTTP/2, and
//! its server does not see that it waits. Other informational answers (103, 102) are passed on, up to 16 for a request; in
//! HTTP/1.1 one may get lost that comes while the answer before is still being written.
//!
//! # What is not intercepted
//!
//! Connections to bypassed hosts, and with [`InterceptScope::NamedHosts`] those to hosts that no secret is allowed for, are
//! spliced. They can never get a value, whatever the guest calls a server, and are not searched: a placeholder in them goes
//! where the guest sends it.
//!
//! # What is not HTTP
//!
//! ALPN says what is spoken: `h2` and `http/1.1` are HTTP, and so is whatever a client says that offers nothing else. Other
//! protocols are offered to the server as the guest offers them. Where HTTP was not agreed on, the beginning decides, and
//! [`NonHttp::Relay`] relays what is not HTTP, half-close by half-close:
//!
//! - What a server could read as an HTTP request is one, malformed ones and HTTP/0.9 included. It is checked as such, for
//!   good: a connection that was HTTP never becomes a relay.
//! - The server's first byte makes it a relay at once, and so does a guest that pauses for [`Limits::continue_wait`] within
//!   a first line that may still become anything. If it becomes a request after all, the guest is reset.
//! - A placeholder for another host is a violation, as anywhere. The secret's own host gets it as it is, for nothing is
//!   known of the protocol that a value could be written into; an event tells so. Nothing is held up by the search.
//! - Values that a host sends back which may have them are covered by `*` at the same length, since nothing is known of
//!   lengths and checksums either. A value that is cut by a pause of 20 ms is not found.
//! - An end without TLS's `close_notify` is passed on without one. There is no limit of time on a relay.
//!
//! A CONNECT on HTTP/1.1 is passed on to the server, which is a proxy then. Its fields are judged by the server's host, for
//! that is who reads them; where the tunnel leads is the server's business, as any use is that a server makes of a request.
//! What is in the tunnel is relayed and searched in the same way. TLS in it is the guest's own with who is at its end: no
//! value can get there, and no placeholder is seen. A tunnel that begins with an HTTP request is reset: a server that
//! answers every method with 200 has opened none, and would take it for a request that nobody checked. On HTTP/2, CONNECT is
//! answered 501.
//!
//! HTTP that is spoken inside some other protocol is not seen as such. [`NonHttp::Refuse`] takes everything for
//! HTTP, and answers 501 to CONNECT.
//!
//! A violation on one HTTP/2 stream ends the whole connection: the guest sees a reset in either protocol.
//!
//! # WebSocket
//!
//! Each message is searched and rewritten by itself, as a body is: texts that begin like JSON as JSON, other texts and
//! binary ones raw, control frames only searched. A message never waits for the next one. Where there are secrets no
//! extension is negotiated: to read compressed messages the state of all before them would have to be undone and made
//! again, and every server can do without. Where there are none, nothing is read.
//!
//! # Bodies
//!
//! | | what becomes of it |
//! |---|---|
//! | request, with a placeholder of a secret that is injected in bodies | the value, escaped for the content type; gzip, deflate, br and zstd are undone and done again |
//! | request, nothing to write | every byte as it was; what it decodes to is searched before it goes on |
//! | request in an unknown coding, or several | searched as it is, and passed on: the guest could always make one up, and some are in use (`aws-chunked`) |
//! | request that is not what its coding says | 400 |
//! | gRPC messages, which carry their own length | nothing is written into them that would change one |
//! | response of a host that may have a secret | values become placeholders in text, `*` elsewhere; no value in it, no change |
//! | response with a part of a representation (206) | same length, so that its ranges stay true; a value cut by a range is not found |
//! | response that is not what its coding says | 502 while it is held, else it breaks off and the guest is reset |
//!
//! A length that may change is counted first, for which up to [`Limits::body_hold`] bytes are held; a longer body, and
//! any stream of events, is sent without its length instead. A guest that waits for `100 Continue` is told to go on before
//! its body is held; the server then does not see the expectation. Digests of a body that was held and changed
//! (`Content-MD5`, `Digest`, `Content-Digest`, `Repr-Digest`) are removed; of one that streams they stay, and do not match
//! if something was replaced. `ETag` stays: it names what the server has, which is what it is compared with.
//!
//! # Without TLS
//!
//! [`relay_plain`] relays other connections byte for byte and searches what the guest sends: any placeholder is a violation.
//! Where a secret accepts plaintext HTTP, or its placeholder may be seen by some hosts, connections that begin with an
//! HTTP/1 request are bridged request by request as well; what each may carry is decided by its own authority, to which
//! this sandbox's DNS must have given the address.
//!
//! # Rules about requests
//!
//! Hosts that a rule of [`Config::http_policy`] names are governed: each request is decided about by its own method,
//! authority and path, in both protocols and without TLS too, before anything of it is sent. Nothing is carried to them that
//! cannot be read as requests: no other protocol, no tunnel, no TLS on a port that is not intercepted, and no bypass. Where
//! there are rules, what is spliced for other hosts has to go to an address that this sandbox's DNS gave for the name.
//!
//! A connection that cannot be intercepted is never turned into a raw tunnel.

#![forbid(unsafe_code)]

mod config;
mod crypto;
mod error;
mod event;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod io;
mod rules;
mod session;
mod upstream;

pub use config::{
    Client, Config, Connection, DeniedRequests, DialError, Dialled, Drain, InterceptScope, Limits,
    NonHttp, PlainConfig, Reset, Secrets,
};
pub use error::Error;
pub use event::{Event, EventSink, HelloFailure};
pub use io::datagram::may_send;
pub use io::local::LocalStream;
pub use io::plain::relay_plain;
pub use io::proxy::TlsProxy;
pub use rules::HttpRules;
pub use upstream::{UpstreamTls, UpstreamTlsBuilder};
