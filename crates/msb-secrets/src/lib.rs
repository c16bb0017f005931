//! Secret placeholders: finding, replacing and refusing them.
//!
//! A guest holds a placeholder (`$MSB_API_KEY`) where a program expects a credential. On its way out, the placeholder is
//! replaced by the real value in requests to the hosts the secret is allowed for; towards any other host it is a
//! violation, in whatever form it is written. This crate does no I/O: bytes go in, bytes and verdicts come out. The one
//! exception is the feature `sources`, which reads values from the environment, files, commands and descriptors.
//!
//! ```
//! use msb_secrets::name::{Authority, HostName};
//! use msb_secrets::policy::InterceptedConnection;
//! use msb_secrets::{SecretBuilder, SecretSet};
//!
//! let secret = SecretBuilder::new().env("API_KEY").value("s3cr3t").allow_host("api.example.com").build()?;
//! let secrets = SecretSet::new(vec![secret])?;
//! assert_eq!(secrets.env().collect::<Vec<_>>(), [("API_KEY", "$MSB_API_KEY")]);
//!
//! // What a proxy knows once it has dialled a host and verified its certificate; the authority is that of the request.
//! let connection = InterceptedConnection::dialled(HostName::parse("api.example.com")?);
//! let mut request = secrets.request(&connection, &Authority::parse("api.example.com")?);
//! let value = request.header_value("authorization", b"Bearer $MSB_API_KEY")?.expect("the placeholder is replaced");
//! assert_eq!(&value.into_bytes()[..], b"Bearer s3cr3t");
//!
//! let connection = InterceptedConnection::dialled(HostName::parse("evil.example")?);
//! let mut request = secrets.request(&connection, &Authority::parse("evil.example")?);
//! let violation = request.header_value("x-note", b"JE1TQl9BUElfS0VZ").unwrap_err();
//! assert_eq!(violation.to_string(), "placeholder of secret API_KEY in header x-note (base64): host evil.example is not allowed for this secret");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is found
//! A placeholder matches as a whole token only (`$MSB_API` is not in `$MSB_API_KEY`), and the longest one wins. It is
//! found raw, percent-encoded (once, twice, partly), with JSON escapes, and in base64 at any alignment, wherever the
//! input is cut.
//!
//! # What is replaced
//! Raw placeholders in header values and inside Basic credentials; raw and percent-encoded ones in queries; in bodies raw
//! ones, with JSON escapes in JSON, and percent-encoded ones in forms. What goes in is escaped for its place.
//!
//! # What comes back
//! Values in responses are looked for in the same forms, inside words too, and replaced by their placeholders in text, or
//! covered by as many `*` elsewhere: [`ResponseScrubber`].
//!
//! # Limits
//! - Compressed bodies have to be taken through [`CodedBody`]; base64 is not looked for across line breaks, nor inside another
//!   encoding, nor for placeholders of fewer than 4 bytes.
//! - A placeholder that itself contains `%` or `\` is found raw and fully escaped, but not in every mixture.

#![forbid(unsafe_code)]

mod builder;
mod coding;
mod content;
mod engine;
mod env;
mod error;
mod hosts;
mod judge;
mod length;
mod likeness;
mod live;
mod request;
mod scrub;
mod set;
#[cfg(feature = "sources")]
mod source;
mod stream;
mod value;
mod violation;
mod watch;

pub use msb_name as name;
pub use msb_policy as policy;

pub use builder::{MAX_PLACEHOLDER_LEN, Secret, SecretBuilder, SecretSettings};
pub use coding::{
    CodedBody, CodedError, CodingError, ContentCoding, DecodeLimits, Decoder, Encoder, Rewrite,
};
pub use content::BodyKind;
pub use error::Error;
pub use judge::{Note, NoteKind};
pub use length::{LengthChange, LengthPlan};
pub use live::LiveSecrets;
pub use request::{RequestRewriter, Rewritten};
pub use scrub::{BodyScrubber, ResponseScrubber, SHORTEST_SCRUBBED};
pub use set::SecretSet;
#[cfg(feature = "sources")]
pub use source::{MAX_SOURCE_LEN, Source, SourceError, SourceValue};
pub use stream::{Pieces, StreamRewriter};
pub use value::SecretValue;
pub use violation::{Form, Location, Violation, ViolationAction};
pub use watch::StreamWatcher;
