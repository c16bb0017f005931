//! JSON and forms read back with the values in them, and nothing else is changed.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use msb_fuzz::{PLAIN, SECRETS, reference, request, stream};
use msb_secrets::{BodyKind, SecretSet};

fn rewritten(set: &SecretSet, kind: BodyKind, text: &str) -> Vec<u8> {
    let text = Bytes::copy_from_slice(text.as_bytes());
    stream(request(set).rewrite_body(kind), [text])
}

fn json(inside: &str) {
    let text = format!("[\"{inside}\",\"$MSB_A\"]");
    // What closes the string is not the inside of one.
    if !serde_json::from_str::<Vec<String>>(&text).is_ok_and(|strings| strings.len() == 2) {
        return;
    }
    let output = rewritten(&SECRETS, BodyKind::Json, &text);
    let strings = serde_json::from_slice::<Vec<String>>(&output).expect("JSON stays JSON");
    assert_eq!(strings.len(), 2);
    // The other forms are found as well, and left.
    if !inside.contains('%') {
        let output = rewritten(&PLAIN, BodyKind::Json, &text);
        let strings = serde_json::from_slice::<Vec<String>>(&output).expect("JSON stays JSON");
        let strings: Vec<_> = strings.into_iter().map(String::into_bytes).collect();
        let expected = [inside, "$MSB_A"].map(|text| reference::replaced(&reference::json(text)));
        assert_eq!(strings, expected);
    }
}

fn form(text: &str) {
    let fields = |text: &[u8]| {
        text.split(|byte| *byte == b'&')
            .map(|field| field.split(|byte| *byte == b'=').count())
            .collect::<Vec<_>>()
    };
    let output = rewritten(&SECRETS, BodyKind::Form, text);
    assert_eq!(fields(&output), fields(text.as_bytes()));
    let decoded = reference::form(text.as_bytes());
    let other_forms = |read: &reference::Read| b"%\\".contains(&read.0);
    if !decoded.iter().flatten().any(other_forms) {
        let output = reference::form(&rewritten(&PLAIN, BodyKind::Form, text));
        let output: Vec<_> = output.iter().map(|part| reference::bytes(part)).collect();
        let expected: Vec<_> = decoded
            .iter()
            .map(|part| reference::replaced(part))
            .collect();
        assert_eq!(output, expected);
    }
}

fuzz_target!(|text: &str| {
    json(text);
    form(text);
});
