//! The same output for every way of cutting the input, and what the reference says where nothing is escaped.
#![no_main]

use libfuzzer_sys::fuzz_target;
use msb_fuzz::{PLAIN, SECRETS, cut, reference, request, stream};
use msb_secrets::BodyKind;

fuzz_target!(|data: &[u8]| {
    let (whole, chunks) = cut(data);
    for kind in [BodyKind::Json, BodyKind::Form, BodyKind::Other] {
        let rewriter = || request(&SECRETS).rewrite_body(kind);
        let at_once = stream(rewriter(), [whole.clone()]);
        assert_eq!(stream(rewriter(), chunks.clone()), at_once);
        let bytes = whole.chunks(1).map(|byte| whole.slice_ref(byte));
        assert_eq!(stream(rewriter(), bytes), at_once);
    }
    if !whole.iter().any(|byte| b"%\\".contains(byte)) {
        let output = stream(
            request(&PLAIN).rewrite_body(BodyKind::Other),
            chunks.clone(),
        );
        assert_eq!(output, reference::replaced(&reference::raw(&whole)));
    }
    assert_eq!(stream(request(&SECRETS).body(), chunks), whole);
});
