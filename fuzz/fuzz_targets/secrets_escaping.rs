//! JSON stays JSON, and forms keep their fields, whatever is written into them.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use msb_fuzz::{request, stream};
use msb_secrets::BodyKind;

fuzz_target!(|text: &str| {
    let json = serde_json::json!([text, "$MSB_A"]).to_string();
    let output = stream(request().rewrite_body(BodyKind::Json), [Bytes::from(json)]);
    let output: Vec<String> = serde_json::from_slice(&output).expect("JSON stays JSON");
    assert_eq!(output.len(), 2);
    if !["MSB_", "{{", "u00", "%", "+"]
        .iter()
        .any(|part| text.contains(part))
        && !text.contains("TVNC")
    {
        assert_eq!(output[0].contains('$'), text.contains('$'));
    }
    let fields = |text: &[u8]| {
        text.split(|byte| *byte == b'&')
            .map(|field| field.split(|byte| *byte == b'=').count())
            .collect::<Vec<_>>()
    };
    // An escape of the placeholder may hold no `&` or `=` of its own.
    let output = stream(
        request().rewrite_body(BodyKind::Form),
        [Bytes::copy_from_slice(text.as_bytes())],
    );
    assert_eq!(fields(&output), fields(text.as_bytes()));
});
