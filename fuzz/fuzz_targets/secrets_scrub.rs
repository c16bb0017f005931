//! No value is left as it is, whatever the cuts; masks keep the length.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use msb_fuzz::{SECRETS, VALUE, cut};
use msb_secrets::BodyKind;

fn scrub(kind: BodyKind, chunks: impl IntoIterator<Item = Bytes>) -> Vec<u8> {
    let mut body = SECRETS.response().body(kind);
    let mut output: Vec<u8> = chunks
        .into_iter()
        .flat_map(|chunk| body.push(chunk))
        .flatten()
        .collect();
    output.extend(body.finish().flatten());
    output
}

fuzz_target!(|data: &[u8]| {
    let (whole, chunks) = cut(data);
    for kind in [BodyKind::Text, BodyKind::Json, BodyKind::Other] {
        let at_once = scrub(kind, [whole.clone()]);
        assert_eq!(scrub(kind, chunks.clone()), at_once);
    }
    let masked = scrub(BodyKind::Other, chunks);
    assert_eq!(masked.len(), whole.len());
    for value in [VALUE, "sk-0123456789", "odd-value"] {
        assert!(
            !masked
                .windows(value.len())
                .any(|window| window == value.as_bytes())
        );
    }
});
