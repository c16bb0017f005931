//! Credentials of any kind: no panic, and those that are Basic decode to what the reference says.
#![no_main]

use base64::Engine as _;
use base64::prelude::{
    BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD,
};
use libfuzzer_sys::fuzz_target;
use msb_fuzz::{PLAIN, SECRETS, reference, request};

fn header(value: &[u8]) -> Option<Vec<u8>> {
    let rewritten = request(&SECRETS)
        .header_value("authorization", value)
        .expect("every secret is for this host");
    rewritten.map(|rewritten| rewritten.into_bytes().to_vec())
}

fn credentials(choice: u8, plain: &[u8]) {
    let codec = [
        BASE64_STANDARD,
        BASE64_STANDARD_NO_PAD,
        BASE64_URL_SAFE,
        BASE64_URL_SAFE_NO_PAD,
    ];
    let codec = &codec[usize::from(choice % 4)];
    let value = format!("Basic {}", codec.encode(plain));
    let rewritten = request(&PLAIN)
        .header_value("authorization", value.as_bytes())
        .expect("every secret is for this host");
    let Some(rewritten) = rewritten else {
        if !plain.iter().any(|byte| b"%\\".contains(byte)) {
            assert_eq!(reference::replaced(&reference::raw(plain)), plain);
        }
        return;
    };
    let rewritten = rewritten.into_bytes();
    let encoded = rewritten.strip_prefix(b"Basic ").expect("the scheme stays");
    // The same alphabet, unless nothing told which it is; the same padding, unless there was no need for any.
    let decoded = [codec]
        .into_iter()
        .chain(&[BASE64_STANDARD, BASE64_STANDARD_NO_PAD])
        .chain(&[BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD])
        .find_map(|codec| codec.decode(encoded).ok())
        .expect("Basic credentials stay base64");
    if !plain.iter().any(|byte| b"%\\".contains(byte)) {
        assert_eq!(decoded, reference::replaced(&reference::raw(plain)));
    }
}

fuzz_target!(|data: &[u8]| {
    let value = [b"Basic ", data].concat();
    assert_ne!(header(&value), Some(value));
    let _ = request(&SECRETS)
        .header_value("x", data)
        .expect("every secret is for this host");
    if let Some((choice, plain)) = data.split_first() {
        credentials(*choice, plain);
    }
});
