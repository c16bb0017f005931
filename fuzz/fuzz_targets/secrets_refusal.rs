//! Where a value may not go, every form of its placeholder is refused, and what is let through is what was sent.
#![no_main]

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use libfuzzer_sys::fuzz_target;
use msb_fuzz::{SECRETS, cut, reference, refused, streamed, to};
use msb_secrets::BodyKind;

/// What servers may read in it.
fn readings(text: &[u8]) -> Vec<Vec<u8>> {
    let once = reference::bytes(&reference::percent(text));
    let twice = reference::bytes(&reference::percent(&once));
    let mut all = vec![text.to_vec(), once, twice];
    all.extend(BASE64_STANDARD.decode(text));
    all.extend(BASE64_URL_SAFE.decode(text));
    let quoted = [b"\"", text, b"\""].concat();
    let json = serde_json::from_slice::<String>(&quoted);
    all.extend(json.map(String::into_bytes));
    all
}

fuzz_target!(|data: &[u8]| {
    let (whole, chunks) = cut(data);
    let plain = streamed(SECRETS.plain(), chunks.clone());
    let is_refused = plain.is_none();
    if readings(&whole)
        .iter()
        .any(|text| reference::holds_token(text))
    {
        assert!(is_refused);
    }
    assert!(plain.is_none_or(|output| output == whole));
    for mut request in refused(&SECRETS) {
        let body = streamed(request.rewrite_body(BodyKind::Form), chunks.clone());
        assert_eq!(body.is_none(), is_refused);
        assert!(body.is_none_or(|output| output == whole));
        // Credentials are decoded, and their ends are not those of the header.
        let header = request.header_value("x", &whole);
        assert_eq!(header.is_err(), is_refused);
        assert!(header.is_err() || header.is_ok_and(|rewritten| rewritten.is_none()));
        assert!(!request.wrote_secret());
    }
    let mut liked = to(&SECRETS, "likes.test");
    let body = streamed(liked.rewrite_body(BodyKind::Form), chunks);
    assert_eq!(body.as_deref(), Some(&whole[..]));
    let header = liked.header_value("x", &whole);
    assert!(header.is_ok_and(|rewritten| rewritten.is_none()));
});
