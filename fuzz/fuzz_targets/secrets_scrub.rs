//! No value is left as it is, whatever the cuts; masks keep the length; JSON stays JSON, and reads back without values.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use msb_fuzz::{LONG_VALUE, ODD_VALUE, SECRETS, VALUE, cut};
use msb_secrets::BodyKind;

const VALUES: [&str; 3] = [VALUE, LONG_VALUE, ODD_VALUE];

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

fn json(inside: &[u8]) {
    let text = [b"[\"", inside, b"\"]"].concat();
    let Ok(before) = serde_json::from_slice::<Vec<String>>(&text) else {
        return;
    };
    let output = scrub(BodyKind::Json, [text.into()]);
    let after = serde_json::from_slice::<Vec<String>>(&output).expect("JSON stays JSON");
    assert_eq!(after.len(), before.len());
    for text in after {
        assert!(!VALUES.iter().any(|value| text.contains(value)), "{text}");
    }
}

fuzz_target!(|data: &[u8]| {
    let (whole, chunks) = cut(data);
    for kind in [BodyKind::Text, BodyKind::Json, BodyKind::Other] {
        let at_once = scrub(kind, [whole.clone()]);
        assert_eq!(scrub(kind, chunks.clone()), at_once);
    }
    let masked = scrub(BodyKind::Other, chunks);
    assert_eq!(masked.len(), whole.len());
    for value in VALUES {
        assert!(
            !masked
                .windows(value.len())
                .any(|window| window == value.as_bytes())
        );
    }
    json(&whole);
});
