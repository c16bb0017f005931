//! A guest's frames, and what becomes of its flows: no panic, only frames that a kernel would take, nothing without bound,
//! and the gateway still answers afterwards.
#![no_main]

use libfuzzer_sys::fuzz_target;
use msb_net::fuzzing::Gateway;

/// An operation: what it is, how long its bytes are, and those.
fn operation<'a>(data: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let ([kind, high, low], rest) = data.split_first_chunk()?;
    let len = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
    let (bytes, rest) = rest.split_at(len);
    *data = rest;
    Some((*kind, bytes))
}

fuzz_target!(|data: &[u8]| {
    let mut gateway = Gateway::default();
    let mut rest = data;
    for _ in 0..64 {
        let Some((kind, bytes)) = operation(&mut rest) else {
            break;
        };
        match kind {
            b'f' => gateway.frame(bytes),
            b'F' => gateway.mended_frame(bytes),
            b't' => gateway.pass(10 * bytes.len() as u64),
            b'T' => gateway.pass(10_000 * bytes.len() as u64),
            b'c' => gateway.connected(true),
            b'C' => gateway.connected(false),
            b'r' => gateway.relayed(bytes),
            b'w' => gateway.write(bytes),
            b'd' => gateway.drop_stream(),
            b'p' => gateway.replace(bytes.is_empty()),
            _ => {}
        }
    }
    assert!(gateway.answers_ping(), "the gateway is gone");
});
