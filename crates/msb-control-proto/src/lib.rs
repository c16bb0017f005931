//! The contract between a sandbox's supervisor and those who connect to it: gRPC over a unix socket.
//!
//! The source is `proto/control.proto`; `src/generated/` is made from it by
//! `MSB_REGENERATE=1 cargo test -p msb-control-proto`, and the same test without the variable fails when the two differ.
#![forbid(unsafe_code)]

/// The largest piece of input or of a log in one message, in bytes.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// The HTTP/2 window of one call, in bytes: what may be in flight before its reader has to keep up.
pub const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;

/// The HTTP/2 window of the whole connection, in bytes: the largest there is (RFC 9113 section 6.9.1), so
/// that a call nobody reads never holds up another.
pub const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;

#[allow(
    missing_docs,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    clippy::or_fun_call,
    unused_qualifications,
    unreachable_pub,
    reason = "generated code; the documents are in proto/control.proto"
)]
#[rustfmt::skip]
#[path = "generated/msb.control.v1.rs"]
pub mod v1;
