//! Targets: the path stays, and what is written is plain in a query.
#![no_main]

use libfuzzer_sys::fuzz_target;
use msb_fuzz::request;

fuzz_target!(|target: &str| {
    let rewritten = request()
        .rewrite_target(target)
        .expect("every secret is for this host");
    let Some(rewritten) = rewritten else {
        return;
    };
    let rewritten = rewritten.into_bytes();
    let query_at = target.find('?').expect("nothing is written into paths");
    assert_eq!(&rewritten[..=query_at], &target.as_bytes()[..=query_at]);
    let strange = |text: &[u8]| text.iter().filter(|byte| !byte.is_ascii_graphic()).count();
    assert!(strange(&rewritten) <= strange(target.as_bytes()));
});
