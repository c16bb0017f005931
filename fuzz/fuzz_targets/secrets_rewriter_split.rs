//! The same output for every way of cutting the input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use msb_fuzz::{cut, request, stream};
use msb_secrets::BodyKind;

fuzz_target!(|data: &[u8]| {
    let (whole, chunks) = cut(data);
    for kind in [BodyKind::Json, BodyKind::Form, BodyKind::Other] {
        let at_once = stream(request().rewrite_body(kind), [whole.clone()]);
        assert_eq!(
            stream(request().rewrite_body(kind), chunks.clone()),
            at_once
        );
        let bytes = whole.chunks(1).map(|byte| whole.slice_ref(byte));
        assert_eq!(stream(request().rewrite_body(kind), bytes), at_once);
    }
    assert_eq!(stream(request().body(), chunks), whole);
});
