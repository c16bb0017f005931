//! Bodies and queries: what is written into them, escaped for their place, and the length that is declared.

use bytes::Bytes;
use msb_name::HostName;
use msb_policy::{Destination, InterceptedConnection, UpstreamTrust};
use proptest::prelude::*;

use crate::{
    BodyKind, LengthChange, LengthPlan, RequestRewriter, SecretBuilder, SecretSet, StreamRewriter,
};

const VALUE: &str = "s3\"c\\r&=t %é+";

fn secret(env: &str, value: &str) -> SecretBuilder {
    SecretBuilder::new()
        .env(env)
        .value(value)
        .allow_host("a.test")
        .inject_query(true)
        .inject_body(true)
}

fn set(builders: impl IntoIterator<Item = SecretBuilder>) -> SecretSet {
    let secrets = builders.into_iter().map(|builder| builder.build().unwrap());
    SecretSet::new(secrets.collect()).unwrap()
}

/// `A` is injected everywhere, `H` in headers only, `B` is for another host.
fn usual() -> SecretSet {
    let headers = SecretBuilder::new()
        .env("H")
        .value("h")
        .allow_host("a.test");
    let foreign = SecretBuilder::new()
        .env("B")
        .value("b")
        .allow_host("b.test")
        .inject_body(true);
    set([secret("A", VALUE), headers, foreign])
}

fn request(set: &SecretSet) -> RequestRewriter {
    let name: HostName = "a.test".parse().unwrap();
    let connection = InterceptedConnection::new(
        name.clone(),
        Destination::DialledByName(name.clone()),
        UpstreamTrust::Verified(name.into()),
    );
    set.request(&connection, &"a.test".parse().unwrap())
}

fn streamed(
    mut body: StreamRewriter,
    chunks: impl IntoIterator<Item = Bytes>,
) -> Result<Vec<u8>, String> {
    let mut output = Vec::new();
    for chunk in chunks {
        let pieces = body
            .push(chunk)
            .map_err(|violation| violation.to_string())?;
        output.extend(pieces.flatten());
    }
    let pieces = body.finish().map_err(|violation| violation.to_string())?;
    output.extend(pieces.flatten());
    Ok(output)
}

fn rewritten(set: &SecretSet, kind: BodyKind, text: &str) -> Result<String, String> {
    let output = streamed(
        request(set).rewrite_body(kind),
        [Bytes::copy_from_slice(text.as_bytes())],
    )?;
    Ok(String::from_utf8(output).unwrap())
}

#[track_caller]
fn check(kind: BodyKind, text: &str, expected: &str) {
    assert_eq!(
        rewritten(&usual(), kind, text).as_deref(),
        Ok(expected),
        "{kind:?}: {text}"
    );
}

#[test]
fn values_are_escaped_for_their_body() {
    check(
        BodyKind::Json,
        r#"{"k":"$MSB_A"}"#,
        r#"{"k":"s3\"c\\r&=t %é+"}"#,
    );
    check(
        BodyKind::Form,
        "k=$MSB_A&l=1",
        "k=s3%22c%5Cr%26%3Dt%20%25%C3%A9%2B&l=1",
    );
    check(
        BodyKind::Form,
        "k=%24MSB_A",
        "k=s3%22c%5Cr%26%3Dt%20%25%C3%A9%2B",
    );
    for kind in [BodyKind::Multipart, BodyKind::Text, BodyKind::Other] {
        check(kind, "x $MSB_A y", &format!("x {VALUE} y"));
    }
}

/// Attack 17: escapes are read as JSON reads them, so that an escaped backslash begins none.
#[test]
fn escaped_placeholders_are_replaced_where_json_reads_them() {
    const WRITTEN: &str = r#"s3\"c\\r&=t %é+"#;
    for left in [
        r#"["\\u0024MSB_A"]"#,
        r#"["\\\\\\u0024MSB_A"]"#,
        r#"["\n\\u0024MSB_A"]"#,
    ] {
        check(BodyKind::Json, left, left);
    }
    for (before, token) in [
        ("", r"\u0024MSB_A"),
        ("", r"\u0024\u004d\u0053B_A"),
        ("", r"$MSB\u005fA"),
        (r"\\", r"\u0024MSB_A"),
        (r"\\\\", "$MSB_A"),
        (r"\\\n\\", r"\u0024MSB_A"),
        (r"\u005c", r"\u0024MSB_A"),
    ] {
        let text = format!(r#"["{before}{token}"]"#);
        let expected = format!(r#"["{before}{WRITTEN}"]"#);
        for at in 0..text.len() {
            let (first, second) = text.split_at(at);
            let chunks = [first, second].map(|part| Bytes::copy_from_slice(part.as_bytes()));
            let output = streamed(request(&usual()).rewrite_body(BodyKind::Json), chunks).unwrap();
            assert_eq!(
                String::from_utf8(output).unwrap(),
                expected,
                "{text} cut at {at}"
            );
        }
    }
    let brackets = set([secret("A", "v").placeholder(r"{\t}")]);
    for (text, expected) in [(r"{\t}", r"{\t}"), (r"{\\t}", "v"), (r"{\u005ct}", "v")] {
        let output = rewritten(&brackets, BodyKind::Json, text);
        assert_eq!(output.as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn forms_that_a_body_does_not_read_are_left_and_noted() {
    for (kind, text) in [
        (BodyKind::Text, "%24MSB_A"),
        (BodyKind::Text, r"\u0024MSB_A"),
        (BodyKind::Json, "%24MSB_A"),
        (BodyKind::Json, r"\\u0024MSB_A"),
        (BodyKind::Form, r"\u0024MSB_A"),
        (BodyKind::Form, "%2524MSB_A"),
        (BodyKind::Other, "JE1TQl9B"),
        (BodyKind::Json, "$MSB_H"),
    ] {
        check(kind, text, text);
        let set = usual();
        let mut body = request(&set).rewrite_body(kind);
        body.push(Bytes::from(text.as_bytes().to_vec())).unwrap();
        body.finish().unwrap();
        let notes = body.take_notes();
        assert_eq!(notes.len(), 1, "{kind:?} {text}");
        assert!(
            notes[0].to_string().contains("left in body"),
            "{}",
            notes[0]
        );
    }
}

#[test]
fn a_placeholder_for_another_host_stops_an_injected_body() {
    for kind in [BodyKind::Json, BodyKind::Form, BodyKind::Other] {
        let violation = rewritten(&usual(), kind, "$MSB_A $MSB_B ").unwrap_err();
        assert!(
            violation.starts_with("placeholder of secret B in body (raw)"),
            "{violation}"
        );
    }
}

#[track_caller]
/// Memory does not grow with the number of placeholders.
#[test]
fn a_stream_decides_once_for_each_way_of_writing() {
    let mut body = request(&usual()).rewrite_body(BodyKind::Json);
    for _ in 0..100 {
        let chunk = Bytes::from_static(b"\"$MSB_A\" \"\\u0024MSB_A\" ");
        let pieces = body.push(chunk).unwrap();
        assert_eq!((pieces.len(), pieces.size_hint()), (5, (5, Some(5))));
        assert_eq!(pieces.count(), 5);
    }
    assert_eq!(body.answers.0.len(), 2);
}

fn check_target(target: &str, expected: Option<&str>) {
    let set = usual();
    let answer = request(&set).rewrite_target(target).unwrap();
    let answer = answer.map(|target| String::from_utf8(target.into_bytes().to_vec()).unwrap());
    assert_eq!(answer.as_deref(), expected, "{target}");
}

/// Attacks 16 and 17.
#[test]
fn queries_get_the_percent_encoded_value_and_paths_get_none() {
    const WRITTEN: &str = "s3%22c%5Cr%26%3Dt%20%25%C3%A9%2B";
    check_target("/p?k=$MSB_A", Some(&format!("/p?k={WRITTEN}")));
    check_target("/p?k=%24MSB_A&l", Some(&format!("/p?k={WRITTEN}&l")));
    check_target("/p?$MSB_A?$MSB_A", Some(&format!("/p?{WRITTEN}?{WRITTEN}")));
    check_target(
        "http://a.test/p?k=$MSB_A",
        Some(&format!("http://a.test/p?k={WRITTEN}")),
    );
    check_target("/$MSB_A?k=$MSB_A", Some(&format!("/$MSB_A?k={WRITTEN}")));
    check_target("/$MSB_A", None);
    check_target("/?$MSB_H", None);
    check_target("/?%2524MSB_A", None);
    check_target("/p?q", None);
    let set = usual();
    let mut request = request(&set);
    request.rewrite_target("/?$MSB_B").unwrap_err();
    request.target("/?$MSB_A").unwrap();
}

#[test]
fn only_values_of_another_length_change_a_length() {
    let change = |builders: Vec<SecretBuilder>, kind| {
        request(&set(builders)).rewrite_body(kind).length_change()
    };
    let same = || secret("A", "123456").placeholder("@@@@@@");
    let never = LengthChange::Never;
    assert_eq!(change(vec![same()], BodyKind::Other), never);
    assert_eq!(
        change(vec![same(), secret("B", VALUE)], BodyKind::Other),
        LengthChange::Possible
    );
    assert_eq!(
        change(
            vec![same(), secret("B", VALUE).inject_body(false)],
            BodyKind::Text
        ),
        never
    );
    // Escapes can be longer than what they stand for.
    assert_eq!(change(vec![same()], BodyKind::Json), LengthChange::Possible);
    assert_eq!(change(vec![same()], BodyKind::Form), LengthChange::Possible);
    assert_eq!(change(vec![], BodyKind::Json), never);
    assert_eq!(request(&usual()).body().length_change(), never);
    assert_eq!(usual().plain().length_change(), never);
}

/// The obvious way: whole tokens, one after the other.
fn replaced(text: &str) -> String {
    let mut pieces = text.split("$MSB_A");
    let mut output = pieces.next().unwrap().to_owned();
    for piece in pieces {
        let goes_on = piece.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        output.push_str(if goes_on { "$MSB_A" } else { VALUE });
        output.push_str(piece);
    }
    output
}

fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => Just("$MSB_A".to_owned()),
        1 => "[ a-zA-Z_$&=/\"\\\\\u{e9}\n-]{0,6}",
    ];
    proptest::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

fn cut(text: &[u8], cuts: &[prop::sample::Index]) -> Vec<Bytes> {
    let places = cuts.iter().map(|cut| cut.index(text.len() + 1));
    let mut places: Vec<_> = places.chain([0, text.len()]).collect();
    places.sort_unstable();
    let whole = Bytes::copy_from_slice(text);
    let pairs = places.windows(2);
    pairs.map(|pair| whole.slice(pair[0]..pair[1])).collect()
}

fn form_encoded(text: &str) -> String {
    let unit = |byte: u8| match byte {
        b'$' | b'_' | b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
        byte => format!("%{byte:02x}"),
    };
    text.bytes().map(unit).collect()
}

fn form_decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let pair = std::str::from_utf8(&after[..2]).unwrap();
            bytes.push(u8::from_str_radix(pair, 16).unwrap());
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// A body as a proxy sends it: the declared length, if any, and the bytes.
fn sent(
    mut body: StreamRewriter,
    chunks: Vec<Bytes>,
    declared: Option<u64>,
    limit: u64,
) -> (Option<u64>, usize) {
    let plan = LengthPlan::decide(declared, body.length_change(), limit);
    let mut output = Vec::new();
    for chunk in chunks {
        output.extend(body.push(chunk).unwrap().flatten());
    }
    output.extend(body.finish().unwrap().flatten());
    let declared = match plan {
        LengthPlan::StreamInPlace => declared,
        LengthPlan::HoldAndCount => Some(output.len() as u64),
        LengthPlan::DropLength => None,
    };
    (declared, output.len())
}

type Cuts = Vec<prop::sample::Index>;

fn cuts() -> impl Strategy<Value = Cuts> {
    proptest::collection::vec(any::<prop::sample::Index>(), 0..6)
}

proptest! {
    #[test]
    fn json_reads_back_with_the_value_in_it(text in text(), cuts in cuts()) {
        let json = serde_json::json!({ "a": [text, 1], "b": "$MSB_A" }).to_string();
        let output = streamed(request(&usual()).rewrite_body(BodyKind::Json), cut(json.as_bytes(), &cuts)).unwrap();
        let output: serde_json::Value = serde_json::from_slice(&output).unwrap();
        // In JSON text an escape before the token or behind it is a character of its own.
        prop_assert_eq!(output, serde_json::json!({ "a": [replaced(&text), 1], "b": VALUE }));
    }

    /// Any character of the text may be written with an escape, which no reader sees.
    #[test]
    fn json_escapes_do_not_matter(text in text(), escaped: u64, cuts in cuts()) {
        let mut json = String::new();
        let mut before_token = false;
        for (i, unit) in text.encode_utf16().enumerate() {
            let plain = char::from_u32(unit.into()).filter(|c| !c.is_control() && !"\"\\".contains(*c));
            match plain {
                // An escaped letter behind a raw token is not taken for the token's own.
                Some(c) if escaped >> (i % 64) & 1 == 0 || before_token => json.push(c),
                _ => json.push_str(&format!("\\u{unit:04x}")),
            }
            before_token = plain.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        }
        let output = streamed(request(&usual()).rewrite_body(BodyKind::Json), cut(format!("\"{json}\"").as_bytes(), &cuts)).unwrap();
        let output: String = serde_json::from_slice(&output).unwrap();
        prop_assert_eq!(output, replaced(&text));
    }

    #[test]
    fn forms_read_back_with_the_value_in_them(text in text(), cuts in cuts()) {
        let form = form_encoded(&text);
        let output = streamed(request(&usual()).rewrite_body(BodyKind::Form), cut(form.as_bytes(), &cuts)).unwrap();
        prop_assert_eq!(form_decoded(&String::from_utf8(output).unwrap()), replaced(&text));
    }

    #[test]
    fn other_bodies_get_the_value_as_it_is(text in text(), cuts in cuts()) {
        let output = streamed(request(&usual()).rewrite_body(BodyKind::Other), cut(text.as_bytes(), &cuts)).unwrap();
        prop_assert_eq!(String::from_utf8(output).unwrap(), replaced(&text));
    }

    #[test]
    fn the_declared_length_is_what_is_sent(text in text(), cuts in cuts(), declares: bool, limit in 0..60u64, same: bool, kind in prop::sample::select(vec![BodyKind::Json, BodyKind::Form, BodyKind::Text, BodyKind::Other])) {
        let value = if same { "123456" } else { VALUE };
        let body = request(&set([secret("A", value)])).rewrite_body(kind);
        let declared = declares.then_some(text.len() as u64);
        let (declared, len) = sent(body, cut(text.as_bytes(), &cuts), declared, limit);
        prop_assert!(declared.is_none_or(|declared| declared == len as u64), "{:?} {}", declared, len);
    }
}
