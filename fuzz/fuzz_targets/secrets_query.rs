//! Targets: the path stays, what is written is plain in a query, and the query reads back with the values in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use msb_fuzz::{PLAIN, SECRETS, reference, request};

fn query_of(target: &str) -> usize {
    target.find('?').map_or(target.len(), |at| at + 1)
}

fuzz_target!(|target: &str| {
    let rewritten = request(&SECRETS)
        .rewrite_target(target)
        .expect("every secret is for this host");
    if let Some(rewritten) = rewritten {
        let rewritten = rewritten.into_bytes();
        let query = query_of(target);
        assert!(query > 0 && query <= target.len() && target.contains('?'));
        assert_eq!(&rewritten[..query], &target.as_bytes()[..query]);
        let strange = |text: &[u8]| text.iter().filter(|byte| !byte.is_ascii_graphic()).count();
        assert!(strange(&rewritten) <= strange(target.as_bytes()));
    }
    let (path, query) = target.as_bytes().split_at(query_of(target));
    let query = reference::percent(query);
    // The other forms are found as well, and left. What begins in the path stays in it.
    let other_forms = |read: &reference::Read| b"%\\".contains(&read.0);
    if !query.iter().any(other_forms) && !path.iter().any(|byte| b"%\\$".contains(byte)) {
        let rewritten = request(&PLAIN)
            .rewrite_target(target)
            .expect("every secret is for this host")
            .map_or_else(|| target.as_bytes().to_vec(), |it| it.into_bytes().into());
        let output = reference::bytes(&reference::percent(&rewritten[path.len()..]));
        assert_eq!(output, reference::replaced(&query));
    }
});
