//! Requests: what is replaced where, what is refused, what is left alone.

use base64::prelude::{
    BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD,
};
use msb_name::{Authority, HostName};
use msb_policy::{Destination, InterceptedConnection, UpstreamTrust};
use proptest::prelude::*;

mod edges;

use super::*;
use crate::{NoteKind, SecretBuilder, SecretSet};

const VALUE: &str = "s3cr3t\"&= é";

fn connection(host: &str) -> InterceptedConnection {
    let name: HostName = host.parse().unwrap();
    InterceptedConnection::new(
        name.clone(),
        Destination::DialledByName(name.clone()),
        UpstreamTrust::Verified(name.into()),
    )
}

fn secret(env: &str, host: &str) -> SecretBuilder {
    SecretBuilder::new().env(env).value(VALUE).allow_host(host)
}

fn set(builders: impl IntoIterator<Item = SecretBuilder>) -> SecretSet {
    SecretSet::new(
        builders
            .into_iter()
            .map(|builder| builder.build().unwrap())
            .collect(),
    )
    .unwrap()
}

/// `A` is for a.test, `B` for b.test.
fn usual() -> SecretSet {
    set([secret("A", "a.test"), secret("B", "b.test")])
}

fn request(set: &SecretSet, host: &str) -> RequestRewriter {
    set.request(&connection(host), &host.parse().unwrap())
}

fn header(set: &SecretSet, name: &str, value: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let rewritten = request(set, "a.test").header_value(name, value);
    rewritten
        .map(|rewritten| rewritten.map(|value| value.into_bytes().to_vec()))
        .map_err(|violation| violation.to_string())
}

/// `expected`: the new value, with `<>` for the secret's; `None` if it stays.
#[track_caller]
fn check(set: &SecretSet, name: &str, value: &str, expected: Option<&str>) {
    let expected = expected.map(|text| text.replace("<>", VALUE).into_bytes());
    assert_eq!(
        header(set, name, value.as_bytes()),
        Ok(expected),
        "{name}: {value}"
    );
}

#[test]
fn raw_placeholders_in_header_values_are_replaced() {
    let set = usual();
    check(&set, "Authorization", "Bearer $MSB_A", Some("Bearer <>"));
    check(&set, "x-api-key", "$MSB_A", Some("<>"));
    check(&set, "cookie", "a=$MSB_A; b=$MSB_A", Some("a=<>; b=<>"));
    check(&set, "cookie", "a=$MSB_A2", None);
    check(&set, "accept", "*/*", None);
    check(&set, "empty", "", None);
}

#[test]
fn trailers_are_rewritten_like_headers() {
    let set = usual();
    let rewritten = request(&set, "a.test")
        .trailer_value("x-sum", b"$MSB_A")
        .unwrap()
        .unwrap();
    assert_eq!(rewritten.into_bytes(), VALUE.as_bytes());
    let violation = request(&set, "a.test")
        .trailer_value("x-sum", b"$MSB_B")
        .unwrap_err();
    assert_eq!(
        violation.to_string(),
        "placeholder of secret B in trailer x-sum (raw): host a.test is not allowed for this secret"
    );
}

/// Attack 17: Latin-1 bytes are left as they are.
#[test]
fn other_bytes_are_kept() {
    let mut expected = b"\xe9 ".to_vec();
    expected.extend_from_slice(VALUE.as_bytes());
    expected.push(0xff);
    assert_eq!(
        header(&usual(), "x", b"\xe9 $MSB_A\xff"),
        Ok(Some(expected))
    );
    assert_eq!(header(&usual(), "x", b"\xe9\xff"), Ok(None));
}

#[test]
fn framing_headers_are_never_rewritten_but_searched() {
    for name in [
        "Host",
        "content-length",
        "Transfer-Encoding",
        "connection",
        ":authority",
        ":path",
        "te",
        "upgrade",
        "trailer",
        "expect",
    ] {
        check(&usual(), name, "$MSB_A", None);
        assert!(header(&usual(), name, b"$MSB_B").is_err(), "{name}");
    }
}

#[test]
fn escaped_placeholders_are_left_and_noted() {
    let set = usual();
    let mut request = request(&set, "a.test");
    for value in ["%24MSB_A", "\\u0024MSB_A", "JE1TQl9B"] {
        assert!(
            request
                .header_value("x", value.as_bytes())
                .unwrap()
                .is_none()
        );
    }
    let notes: Vec<_> = request
        .take_notes()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        notes,
        [
            "placeholder of secret A left in header x (percent-encoded): the secret is not injected there",
            "placeholder of secret A left in header x (JSON-escaped): the secret is not injected there",
            "placeholder of secret A left in header x (base64): the secret is not injected there",
        ]
    );
    assert!(request.take_notes().is_empty());
}

#[test]
fn basic_credentials_are_replaced_in_their_own_style() {
    let set = usual();
    for name in ["Authorization", "PROXY-AUTHORIZATION"] {
        for credentials in [
            "user:$MSB_A",
            "us:$MSB_A",
            "u:$MSB_A",
            "$MSB_A:",
            "??>>??:$MSB_A",
            "$MSB_A:$MSB_A",
        ] {
            for codec in [
                BASE64_STANDARD,
                BASE64_STANDARD_NO_PAD,
                BASE64_URL_SAFE,
                BASE64_URL_SAFE_NO_PAD,
            ] {
                let given = codec.encode(credentials);
                // Text without a trace of its style is taken for the RFC's own.
                let url_safe = given.contains(['-', '_']);
                let padded = given.ends_with('=') || given.len() % 4 == 0;
                let expected = credentials.replace("$MSB_A", VALUE);
                let expected = match (url_safe, padded) {
                    (false, true) => BASE64_STANDARD.encode(expected),
                    (false, false) => BASE64_STANDARD_NO_PAD.encode(expected),
                    (true, true) => BASE64_URL_SAFE.encode(expected),
                    (true, false) => BASE64_URL_SAFE_NO_PAD.encode(expected),
                };
                assert_eq!(
                    header(&set, name, format!("bAsIc  {given}").as_bytes()),
                    Ok(Some(format!("bAsIc  {expected}").into_bytes()))
                );
            }
        }
    }
}

#[test]
fn basic_credentials_need_not_be_utf8() {
    let value = [
        b"Basic ".as_slice(),
        BASE64_STANDARD.encode(b"\xff\xfe:$MSB_A").as_bytes(),
    ]
    .concat();
    let decoded = [b"\xff\xfe:".as_slice(), VALUE.as_bytes()].concat();
    let expected = [
        b"Basic ".as_slice(),
        BASE64_STANDARD.encode(decoded).as_bytes(),
    ]
    .concat();
    assert_eq!(
        header(&usual(), "authorization", &value),
        Ok(Some(expected))
    );
}

#[test]
fn what_is_not_basic_is_an_ordinary_value() {
    let set = usual();
    for (value, expected) in [
        ("Basic $MSB_A", Some("Basic <>")),
        ("Basic", None),
        ("Basic ", None),
        ("Basic ===", None),
        ("Basic!$MSB_A", Some("Basic!<>")),
        ("Basicish $MSB_A", Some("Basicish <>")),
        ("Basic dTpw", None),
    ] {
        check(&set, "authorization", value, expected);
    }
    check(
        &set,
        "x-auth",
        &format!("Basic {}", BASE64_STANDARD.encode("u:$MSB_A")),
        None,
    );
}

#[test]
fn with_headers_off_only_credentials_are_rewritten() {
    let set = set([secret("A", "a.test").inject_headers(false)]);
    let basic = BASE64_STANDARD.encode("u:$MSB_A");
    let expected = format!("Basic {}", BASE64_STANDARD.encode(format!("u:{VALUE}")));
    check(
        &set,
        "authorization",
        &format!("Basic {basic}"),
        Some(&expected),
    );
    check(&set, "authorization", "Bearer $MSB_A", Some("Bearer <>"));
    check(&set, "x-api-key", "$MSB_A", None);
}

#[test]
fn with_basic_off_headers_still_cover_it() {
    let set = set([secret("A", "a.test").inject_basic_auth(false)]);
    let expected = format!("Basic {}", BASE64_STANDARD.encode(format!("u:{VALUE}")));
    check(
        &set,
        "authorization",
        &format!("Basic {}", BASE64_STANDARD.encode("u:$MSB_A")),
        Some(&expected),
    );
}

/// S7: every form in every place.
#[test]
fn placeholders_for_other_hosts_are_violations_in_every_form_and_place() {
    let set = usual();
    let basic = format!("Basic {}", BASE64_STANDARD.encode("u:$MSB_B"));
    for (value, form) in [
        ("Bearer $MSB_B", "raw"),
        ("%24MSB_B", "percent-encoded"),
        ("%2524MSB_B", "percent-encoded twice"),
        ("\\u0024MSB_B", "JSON-escaped"),
        ("x JE1TQl9C", "base64"),
        (basic.as_str(), "Basic credentials"),
    ] {
        let expected = |place: &str, form: &str| {
            format!(
                "placeholder of secret B in {place} ({form}): host a.test is not allowed for this secret"
            )
        };
        assert_eq!(
            header(&set, "authorization", value.as_bytes()),
            Err(expected("header authorization", form))
        );
        let form = if value == basic { "base64" } else { form };
        let (path, query) = (format!("/{value}?q"), format!("/p?q={value}"));
        assert_eq!(
            request(&set, "a.test")
                .target(&path)
                .unwrap_err()
                .to_string(),
            expected("path", form)
        );
        assert_eq!(
            request(&set, "a.test")
                .target(&query)
                .unwrap_err()
                .to_string(),
            expected("query", form)
        );
        let mut body = request(&set, "a.test").body();
        let pushed = body
            .push(Bytes::copy_from_slice(value.as_bytes()))
            .and_then(|_| body.finish());
        assert_eq!(pushed.unwrap_err().to_string(), expected("body", form));
    }
}

/// Attack 16: a secret in a path is never injected.
#[test]
fn targets_and_bodies_are_not_injected_in() {
    let set = usual();
    let mut request = request(&set, "a.test");
    assert_eq!(request.target("/$MSB_A?x=$MSB_A"), Ok(()));
    let mut body = request.body();
    let pieces: Vec<_> = body
        .push(Bytes::from_static(b"{\"k\": \"$MSB_A\"}"))
        .unwrap()
        .chain(body.finish().unwrap())
        .collect();
    assert_eq!(pieces.concat(), b"{\"k\": \"$MSB_A\"}");
    let locations: Vec<_> = request
        .take_notes()
        .iter()
        .chain(&body.take_notes())
        .map(|note| (note.kind(), note.location().clone()))
        .collect();
    assert_eq!(
        locations,
        [Location::Path, Location::Query, Location::Body]
            .map(|location| (NoteKind::LeftAlone, location))
    );
}

/// Attack 1 and 2: without every gate, a placeholder for the right host is a violation as well.
#[test]
fn every_gate_counts_per_request() {
    let set = usual();
    let name: HostName = "a.test".parse().unwrap();
    let good = connection("a.test");
    let verified = || UpstreamTrust::Verified(name.clone().into());
    let cases = [
        (
            good.clone(),
            "b.test",
            "the request is for b.test, the connection for a.test",
        ),
        (
            InterceptedConnection::new(
                name.clone(),
                Destination::Unpinned([6, 6, 6, 6].into()),
                verified(),
            ),
            "a.test",
            "the address 6.6.6.6 was not resolved from a.test by this sandbox's DNS",
        ),
        (
            InterceptedConnection::new(
                name.clone(),
                Destination::DialledByName(name.clone()),
                UpstreamTrust::VerificationOff,
            ),
            "a.test",
            "the certificate of a.test is not verified",
        ),
    ];
    for (connection, authority, reason) in cases {
        let violation = set
            .request(&connection, &authority.parse().unwrap())
            .header_value("x", b"$MSB_A")
            .unwrap_err();
        assert_eq!(violation.refusal().to_string(), reason);
        assert!(
            set.request(&connection, &authority.parse().unwrap())
                .header_value("x", b"no placeholder")
                .unwrap()
                .is_none()
        );
    }
    let accepts = self::set([secret("A", "a.test").allow_unverified_upstream_dangerous(true)]);
    let unverified = InterceptedConnection::new(
        name.clone(),
        Destination::DialledByName(name),
        UpstreamTrust::VerificationOff,
    );
    let authority = Authority::parse("a.test:8443").unwrap();
    assert!(
        accepts
            .request(&unverified, &authority)
            .header_value("x", b"$MSB_A")
            .unwrap()
            .is_some()
    );
}

/// S7: a transcript that mentions the placeholder may go to the hosts named for that, and to no other.
#[test]
fn a_placeholder_passes_to_passthrough_hosts_as_it_is() {
    let set = set([
        secret("A", "a.test")
            .passthrough_host("llm.test")
            .passthrough_host("a.test"),
        secret("B", "b.test"),
    ]);
    let mut passed = request(&set, "llm.test");
    assert!(
        passed
            .header_value("x", b"$MSB_A JE1TQl9B")
            .unwrap()
            .is_none()
    );
    assert!(passed.rewrite_target("/%24MSB_A?$MSB_A").unwrap().is_none());
    let mut body = passed.rewrite_body(BodyKind::Json);
    let text = Bytes::from_static(b"{\"q\":\"$MSB_A\"}");
    let sent: Vec<u8> = body.push(text.clone()).unwrap().flatten().collect();
    assert_eq!(sent, text);
    assert!(!passed.wrote_secret() && !body.wrote_secret());
    assert_eq!(body.length_change(), crate::LengthChange::Never);
    let notes = passed.take_notes().into_iter().chain(body.take_notes());
    assert_eq!(
        notes.map(|note| note.to_string()).collect::<Vec<_>>(),
        [
            "placeholder of secret A passed through in header x (raw)",
            "placeholder of secret A passed through in header x (base64)",
            "placeholder of secret A passed through in path (percent-encoded)",
            "placeholder of secret A passed through in query (raw)",
            "placeholder of secret A passed through in body (raw)",
        ]
    );
    passed.header_value("x", b"$MSB_B").unwrap_err();
    request(&set, "c.test")
        .header_value("x", b"$MSB_A")
        .unwrap_err();
    set.plain()
        .push(Bytes::from_static(b"$MSB_A "))
        .unwrap_err();
    // Where the value may go, it does.
    check(&set, "x", "$MSB_A", Some("<>"));
    let misdirected = set.request(&connection("llm.test"), &"c.test".parse().unwrap());
    { misdirected }.header_value("x", b"$MSB_A").unwrap_err();
    let live = crate::LiveSecrets::new(set);
    live.revoke("A").unwrap();
    let mut revoked = request(&live.load(), "llm.test");
    revoked.header_value("x", b"$MSB_A").unwrap_err();
}

/// S6: the secret that says so goes into plaintext HTTP to its hosts.
#[test]
fn plaintext_requests_get_only_secrets_that_say_so() {
    let set = set([
        secret("A", "a.test").require_tls_identity(false),
        secret("B", "a.test"),
    ]);
    let plaintext = |host: &str| {
        let name: HostName = host.parse().unwrap();
        let destination = Destination::DialledByName(name.clone());
        let connection = InterceptedConnection::new(name, destination, UpstreamTrust::Plaintext);
        set.request(&connection, &host.parse().unwrap())
    };
    let value = plaintext("a.test").header_value("x", b"$MSB_A").unwrap();
    assert_eq!(value.unwrap().into_bytes(), VALUE);
    let refused = plaintext("a.test")
        .header_value("x", b"$MSB_B")
        .unwrap_err();
    assert_eq!(
        refused.refusal().to_string(),
        "the connection to a.test is plaintext, without TLS"
    );
    plaintext("b.test")
        .header_value("x", b"$MSB_A")
        .unwrap_err();
    check(&set, "x", "$MSB_A $MSB_B", Some("<> <>"));
}

#[test]
fn substitutions_are_noted_once_and_bounded() {
    let set = usual();
    let mut request = request(&set, "a.test");
    for _ in 0..3 {
        request.header_value("x", b"$MSB_A $MSB_A").unwrap();
    }
    let notes = request.take_notes();
    assert_eq!(
        notes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["secret A written to header x (raw)"]
    );
    assert_eq!((notes[0].env(), notes[0].form()), ("A", Form::Raw));
    for i in 0..1000 {
        request.header_value(&format!("x-{i}"), b"$MSB_A").unwrap();
    }
    assert_eq!(request.take_notes().len(), 64);
}

#[test]
fn after_a_violation_there_are_no_notes_and_the_stream_stays_shut() {
    let set = usual();
    let mut request = request(&set, "a.test");
    request.header_value("x", b"$MSB_A").unwrap();
    request.header_value("y", b"$MSB_A $MSB_B").unwrap_err();
    assert!(request.take_notes().is_empty());
    let mut body = request.body();
    let violation = body.push(Bytes::from_static(b"$MSB_B ")).unwrap_err();
    assert_eq!(
        body.push(Bytes::from_static(b"clean")).unwrap_err(),
        violation
    );
    assert_eq!(body.finish().unwrap_err(), violation);
}

#[test]
fn on_plain_connections_every_placeholder_is_a_violation() {
    let mut plain = set([SecretBuilder::new()
        .env("A")
        .value(VALUE)
        .allow_any_host_dangerous(true)])
    .plain();
    assert_eq!(
        plain.push(Bytes::from_static(b"GET /$MS")).unwrap().count(),
        1
    );
    let violation = plain.push(Bytes::from_static(b"B_A HTTP/1.1")).unwrap_err();
    assert_eq!(
        violation.to_string(),
        "placeholder of secret A in plain connection (raw): the connection is not intercepted TLS"
    );
}

#[test]
fn header_names_in_reports_are_one_safe_line() {
    let violation = request(&usual(), "a.test")
        .header_value("x\u{1b}[31m\n", b"$MSB_B")
        .unwrap_err();
    assert!(
        violation
            .to_string()
            .contains(r"in header x\u{1b}[31m\n (raw)"),
        "{violation}"
    );
}

#[test]
fn any_host_means_any_named_host() {
    let set = set([SecretBuilder::new()
        .env("A")
        .value(VALUE)
        .allow_any_host_dangerous(true)]);
    check(&set, "x", "$MSB_A", Some("<>"));
}

proptest! {
    /// Nothing but exact placeholders is replaced, and the rest is kept byte for byte.
    #[test]
    fn rewriting_equals_replacing_tokens(parts in proptest::collection::vec(prop_oneof!["\\$MSB_A", "[ ;=.-]", "[a-c\u{e9}]{0,3}", "\\$MSB_", "\\$"], 0..8)) {
        let input = parts.concat();
        // Independent of the engine: split at the placeholder, and join where a word goes on.
        let mut pieces = input.split("$MSB_A");
        let mut expected = pieces.next().unwrap().to_owned();
        let mut replaced = false;
        for piece in pieces {
            let goes_on = piece.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            expected.push_str(if goes_on { "$MSB_A" } else { VALUE });
            expected.push_str(piece);
            replaced |= !goes_on;
        }
        let set = set([secret("A", "a.test")]);
        prop_assert_eq!(header(&set, "x", input.as_bytes()), Ok(replaced.then(|| expected.into_bytes())));
    }

    #[test]
    fn basic_round_trips(user in "[a-z?>~]{0,5}", padded: bool, url_safe: bool) {
        let credentials = format!("{user}:$MSB_A");
        let codec = codec(url_safe, padded);
        let value = format!("Basic {}", codec.encode(&credentials));
        let rewritten = header(&set([secret("A", "a.test")]), "authorization", value.as_bytes()).unwrap().unwrap();
        let decoded = codec.decode(&rewritten[6..]).or_else(|_| super::codec(!url_safe, padded).decode(&rewritten[6..])).unwrap();
        prop_assert_eq!(decoded, format!("{user}:{VALUE}").into_bytes());
    }
}
