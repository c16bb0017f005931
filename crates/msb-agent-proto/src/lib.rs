//! The contract between the host and the guest agent: gRPC over one byte stream.
//!
//! The source is `proto/agent.proto`; `src/generated/` is made from it by
//! `MSB_REGENERATE=1 cargo test -p msb-agent-proto`, and the same test without the variable fails when the two differ.
//! So neither the host nor the guest build needs a protocol compiler.
//!
//! The stream is the virtio-serial port named [`PORT_NAME`]. The host is the client, the guest the server.
#![forbid(unsafe_code)]

/// The name of the virtio-serial port in the guest (`/sys/class/virtio-ports/*/name`).
pub const PORT_NAME: &str = "dev.msb.agent";

/// The largest piece of standard input, output or error in one message, in bytes.
///
/// Small enough that a signal or another exec's output is never long behind it, large enough that the
/// per-message cost does not show.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// Which contract this is: another one for every change of `agent.proto`. The agent says it when it is configured, for
/// the guest's files are made apart from the host's programs and may be older or newer.
pub const CONTRACT: u64 = fingerprint(include_bytes!("../proto/agent.proto"));

/// FNV-1a (<https://datatracker.ietf.org/doc/html/rfc9923>), which compilers can compute.
const fn fingerprint(text: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < text.len() {
        hash = (hash ^ text[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

/// The HTTP/2 window of one call, in bytes: what may be in flight before its reader has to keep up.
pub const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;

/// The largest HTTP/2 frame either side takes, in bytes: a whole piece of output, so that it is not cut in four.
pub const FRAME_BYTES: u32 = 512 * 1024;

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
    reason = "generated code; the documents are in proto/agent.proto"
)]
#[rustfmt::skip]
#[path = "generated/msb.agent.v1.rs"]
pub mod v1;

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the specification's appendix.
    #[test]
    fn contracts_are_told_apart_by_fnv_1a() {
        assert_eq!(fingerprint(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fingerprint(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fingerprint(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
