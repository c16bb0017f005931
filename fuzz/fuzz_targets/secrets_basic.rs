//! Credentials of any kind: no panic, and nothing grows that holds no placeholder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use msb_fuzz::request;

fuzz_target!(|data: &[u8]| {
    let value = [b"Basic ", data].concat();
    let rewritten = request()
        .header_value("authorization", &value)
        .expect("every secret is for this host");
    if let Some(rewritten) = rewritten {
        assert_ne!(rewritten.into_bytes(), value);
    }
    let _ = request()
        .header_value("x", data)
        .expect("every secret is for this host");
});
