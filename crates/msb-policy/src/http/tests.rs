//! Paths, globs, rules and decisions about requests.

use msb_name::{Host, HostName};
use proptest::prelude::*;

use super::*;
use crate::{BypassList, Error};

fn host(text: &str) -> Host {
    text.parse().unwrap()
}

fn policy(rules: &[&str]) -> HttpPolicy {
    rules
        .iter()
        .map(|rule| rule.parse::<HttpRule>().unwrap())
        .collect()
}

#[track_caller]
fn check_path(path: &str, expected: Result<&str, AmbiguousPath>) {
    let got = CanonicalPath::parse(path);
    assert_eq!(
        got.as_ref().map(CanonicalPath::as_str),
        expected.as_ref().copied(),
        "{path}"
    );
}

#[test]
fn paths_have_one_spelling() {
    for (path, canonical) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/", "/a/"),
        ("/%61%7E%2d", "/a~-"),
        ("/a%c3%a9", "/a%C3%A9"),
        ("/a%20b%22", "/a%20b%22"),
        // Servers read these alike, so rules have to (attack 15).
        ("/a%20b%3a", "/a%20b:"),
        ("/%40me%21%24%26%27%28%29%2B%2c%3D", "/@me!$&'()+,="),
        ("/a*b%2ac", "/a%2Ab%2Ac"),
        ("/a?x=../%2f;\\//", "/a"),
        ("/a.b/..c/d../...", "/a.b/..c/d../..."),
        ("/100%25", "/100%25"),
        ("/100%25zz", "/100%25zz"),
        ("/a=b&c:@!$'()+,", "/a=b&c:@!$'()+,"),
    ] {
        check_path(path, Ok(canonical));
    }
}

/// Attack 15.
#[test]
fn paths_that_can_be_read_in_two_ways_are_refused() {
    use AmbiguousPath as Why;
    for (path, why) in [
        ("", Why::NoSlash),
        ("*", Why::NoSlash),
        ("a/b", Why::NoSlash),
        ("http://a/b", Why::NoSlash),
        ("?a", Why::NoSlash),
        ("//", Why::EmptySegment),
        ("//a", Why::EmptySegment),
        ("/a//b", Why::EmptySegment),
        ("/a//", Why::EmptySegment),
        ("/.", Why::DotSegment),
        ("/..", Why::DotSegment),
        ("/a/../b", Why::DotSegment),
        ("/a/./b", Why::DotSegment),
        ("/a/..", Why::DotSegment),
        ("/a/%2e%2e/b", Why::EncodedDot),
        ("/a/.%2E/b", Why::EncodedDot),
        ("/a%2eb", Why::EncodedDot),
        ("/a%2fb", Why::EncodedSlash),
        ("/a%2Fb", Why::EncodedSlash),
        ("/a%5cb", Why::EncodedSlash),
        ("/a\\b", Why::Backslash),
        ("/a/..\\b", Why::Backslash),
        ("/a;x=1/b", Why::Parameter),
        ("/a/..;/b", Why::Parameter),
        ("/a%3bb", Why::Parameter),
        ("/a%252e%252e/b", Why::EncodedTwice),
        ("/a%252f", Why::EncodedTwice),
        ("/a%25%32%66", Why::EncodedTwice),
        ("/a%2", Why::BadEncoding),
        ("/a%", Why::BadEncoding),
        ("/a%u002f", Why::BadEncoding),
        ("/a%zz", Why::BadEncoding),
        ("/a%00", Why::Control),
        ("/a%0d%0a", Why::Control),
        ("/a\tb", Why::Control),
        ("/a%7f", Why::Control),
        ("/a%c2%85", Why::Control),
        ("/a%c0%af", Why::NotUtf8),
        ("/a%c0%ae", Why::NotUtf8),
        ("/a%e0%80%af", Why::NotUtf8),
        ("/a%ff", Why::NotUtf8),
        ("/a b", Why::BadCharacter),
        ("/a#b", Why::BadCharacter),
        ("/aé", Why::BadCharacter),
        ("/a\"b", Why::BadCharacter),
    ] {
        check_path(path, Err(why));
    }
}

#[track_caller]
fn check_glob(glob: &str, path: &str, expected: bool) {
    let rule: HttpRule = format!("allow * a.test{glob}").parse().unwrap();
    let path = CanonicalPath::parse(path).unwrap();
    assert_eq!(
        rule.matches("GET", &host("a.test"), &path),
        expected,
        "{glob} on {path}"
    );
}

#[test]
fn stars_stay_in_their_segment_and_double_stars_do_not() {
    for (glob, path, expected) in [
        ("", "/", true),
        ("", "/a/b", true),
        ("/**", "/", true),
        ("/**", "/a/b/", true),
        ("/", "/", true),
        ("/", "/a", false),
        ("/a", "/a", true),
        ("/a", "/a/", false),
        ("/a", "/ab", false),
        ("/a/", "/a/", true),
        ("/a/*", "/a/b", true),
        ("/a/*", "/a/", false),
        ("/a/*", "/a", false),
        ("/a/*", "/a/b/c", false),
        ("/a/*", "/a/b/", false),
        ("/a/**", "/a", false),
        ("/a/**", "/a/", true),
        ("/a/**", "/a/b", true),
        ("/a/**", "/a/b/c/", true),
        ("/a/**", "/ab", false),
        ("/a/**/z", "/a/z", true),
        ("/a/**/z", "/a/b/c/z", true),
        ("/a/**/z", "/a/b/c/z/z", true),
        ("/a/**/z", "/a/b/c/z/y", false),
        ("/a/**/b/**/z", "/a/x/b/y/b/z", true),
        ("/a/**/b/**/z", "/a/x/y/z", false),
        ("/**/b/*", "/b/b/b", true),
        ("/**/b/**", "/b", false),
        ("/**/b/**", "/x/b/", true),
        ("/v*/x", "/v1/x", true),
        ("/v*/x", "/v/x", true),
        ("/v*/x", "/w/x", false),
        ("/*.json", "/a.b.json", true),
        ("/*.json", "/.json", true),
        ("/a*a", "/a", false),
        ("/a*a", "/aa", true),
        ("/a*b*c", "/a1b2b3c", true),
        ("/a*b*c", "/acb", false),
        ("/*a*a*", "/xa", false),
        ("/%61", "/a", true),
        ("/@me/**", "/%40me/x", true),
        ("/%40me/**", "/@me/x", true),
        ("/v1/*:delete", "/v1/x%3adelete", true),
        ("/a%2ab", "/a*b", true),
        ("/a%2ab", "/a%2Ab", true),
        ("/a%2ab", "/axb", false),
        ("/a*b", "/a%2ab", true),
        ("/a%20*", "/a%20b", true),
        ("/A", "/a", false),
    ] {
        check_glob(glob, path, expected);
    }
}

#[test]
fn what_is_no_rule_is_marked_with_what_was_expected() {
    for (text, marked, expected) in [
        ("", "", "allow|deny METHODS"),
        ("allow GET", "allow GET", "allow|deny METHODS"),
        ("permit GET a.test/", "permit", "allow or deny"),
        ("allow get a.test/", "get", "upper case"),
        ("allow GET, a.test/", "", "upper case"),
        ("allow GET a.test/ x", "x", "nothing behind"),
        ("allow GET https://a.test/", "https:", "without scheme"),
        (
            "allow GET a.test:443/",
            "a.test:443",
            "without scheme and port",
        ),
        ("allow GET *a.test/", "*a.test", "whole first label"),
        ("allow GET /a", "", "at least one label"),
        ("allow GET 1.2.3.4/a", "1.2.3.4", "not a number"),
        ("allow GET a.test/a**", "/a**", "a whole segment"),
        ("allow GET a.test/***", "/***", "a whole segment"),
        ("allow GET a.test/a?b", "/a?b", "no query"),
        ("allow GET a.test/a/../b", "/a/../b", "a dot segment"),
        ("allow GET a.test//a", "//a", "an empty segment"),
        ("allow GET a.test/%2fa", "/%2fa", "an encoded slash"),
    ] {
        let error = text.parse::<HttpRule>().unwrap_err();
        let Error::HttpRule(mark) = &error else {
            panic!("{error:?}");
        };
        assert_eq!(mark.marked(), marked, "{text}");
        assert!(mark.expected().contains(expected), "{text}: {error}");
    }
    let error = "allow get a.test/".parse::<HttpRule>().unwrap_err();
    let marks = "\n    allow get a.test/\n          ^^^ expected `*`";
    assert!(error.to_string().contains(marks), "{error}");
}

#[test]
fn rules_have_one_canonical_text() {
    for (text, canonical) in [
        (
            "allow GET,HEAD,GET API.Test./a",
            "allow GET,HEAD api.test/a",
        ),
        ("deny  *   *", "deny * */**"),
        ("allow * *.a.test/%61/**", "allow * *.a.test/a/**"),
    ] {
        let rule: HttpRule = text.parse().unwrap();
        assert_eq!(rule.to_string(), canonical);
        assert_eq!(canonical.parse::<HttpRule>().unwrap(), rule);
    }
}

/// SPEC P5.
#[test]
fn what_no_rule_of_a_named_host_allows_is_denied_and_other_hosts_are_left_alone() {
    let policy = policy(&[
        "deny * api.test/admin/**",
        "allow GET,HEAD api.test/**",
        "allow POST api.test/items",
        "allow * *.cdn.test",
    ]);
    for (method, asked, path, expected) in [
        (
            "GET",
            "api.test",
            "/items?admin=/../",
            Ok("HTTP rule 2 (allow GET,HEAD api.test/**)"),
        ),
        (
            "POST",
            "api.test",
            "/items",
            Ok("HTTP rule 3 (allow POST api.test/items)"),
        ),
        ("POST", "api.test", "/items/", Err("default")),
        (
            "GET",
            "api.test",
            "/admin/x",
            Err("HTTP rule 1 (deny * api.test/admin/**)"),
        ),
        (
            "GET",
            "api.test",
            "/%61dmin/x",
            Err("HTTP rule 1 (deny * api.test/admin/**)"),
        ),
        ("GET", "api.test", "/x/../admin/x", Err("ambiguous path")),
        ("GET", "api.test", "/x/..%2fadmin/x", Err("ambiguous path")),
        ("get", "api.test", "/items", Err("ambiguous method")),
        ("DELETE", "api.test", "/items", Err("default")),
        ("OPTIONS", "api.test", "*", Err("ambiguous path")),
        (
            "PUT",
            "x.cdn.test",
            "/a",
            Ok("HTTP rule 4 (allow * *.cdn.test/**)"),
        ),
        ("PUT", "cdn.test", "/a//b", Ok("default")),
        ("PUT", "1.2.3.4", "/a//b", Ok("default")),
    ] {
        let decision = policy.decide(method, &host(asked), path);
        let cause = decision.cause().to_string();
        let got = if decision.is_allowed() {
            Ok(cause)
        } else {
            Err(cause)
        };
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(got, expected, "{method} {asked}{path}: {decision}");
        assert!(decision.to_string().starts_with("the request is "));
    }
    assert!(policy.governs(&host("api.test")) && !policy.governs(&host("1.2.3.4")));
    assert!(HttpPolicy::default().is_empty());
}

#[test]
fn a_rule_for_every_host_governs_addresses_too() {
    let policy = policy(&["deny DELETE *", "allow * *"]);
    for asked in ["a.test", "1.2.3.4", "[::1]"] {
        assert!(policy.governs(&host(asked)));
        assert!(!policy.decide("DELETE", &host(asked), "/").is_allowed());
        assert!(policy.decide("GET", &host(asked), "/").is_allowed());
    }
}

#[test]
fn a_host_that_is_only_denied_things_is_warned_of() {
    let warnings: Vec<_> = policy(&[
        "deny DELETE a.test/**",
        "allow * b.test",
        "deny * *.c.test",
        "allow GET x.c.test",
        "deny * *.d.test",
        "allow GET d.test",
    ])
    .warnings()
    .collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for (warning, rule) in warnings.iter().zip([
        "HTTP rule 1 (deny DELETE a.test/**)",
        "HTTP rule 5 (deny * *.d.test/**)",
    ]) {
        assert!(warning.contains(rule), "{warnings:?}");
    }
}

#[test]
fn a_host_is_governed_by_what_is_claimed_and_what_was_resolved() {
    let policy = policy(&["allow GET a.test", "allow GET *.b.test"]);
    let name = |text: &str| text.parse::<HostName>().unwrap();
    let address = "192.0.2.1".parse().unwrap();
    for (claimed, resolved, expected) in [
        (Some("a.test"), &[][..], Some("a.test")),
        (Some("x.b.test"), &["c.test"], Some("x.b.test")),
        (Some("c.test"), &["c.test", "a.test"], None),
        (Some("c.test"), &["d.test", "a.test"], Some("a.test")),
        (Some("c.test"), &[], None),
        (None, &["c.test", "x.b.test"], Some("x.b.test")),
        (None, &["b.test"], None),
        (None, &[], None),
    ] {
        let claimed = claimed.map(name);
        let resolved: Vec<_> = resolved.iter().map(|text| name(text)).collect();
        let governed = policy.governed(claimed.as_ref(), &resolved, address);
        let expected = expected.map(host);
        assert_eq!(governed, expected, "{claimed:?} {resolved:?}");
    }
    let all = self::policy(&["allow GET *"]);
    assert_eq!(all.governed(None, &[], address), Some(Host::Ip(address)));
}

#[test]
fn a_bypass_that_covers_a_governed_host_is_told() {
    for (rule, bypass, covers) in [
        ("deny * a.test/x", "a.test", true),
        ("allow * *.b.test", "x.b.test", true),
        ("allow * x.b.test", "*.b.test", true),
        ("allow * *.b.test", "b.test", false),
        ("allow * a.test", "c.test", false),
        ("allow * *", "c.test", true),
    ] {
        let bypass = BypassList::parse([bypass]).unwrap();
        let found = policy(&[rule]).bypassed(&bypass);
        assert_eq!(found.is_some(), covers, "{rule} {bypass:?}");
        assert_eq!(HttpPolicy::default().bypassed(&bypass), None);
    }
}

/// Segments as bits of text, so that both sides meet often.
fn segments() -> impl Strategy<Value = Vec<String>> {
    let segment = proptest::sample::select(vec!["a", "b", "aa", "ab", ""]);
    proptest::collection::vec(segment, 1..6).prop_map(|mut segments| {
        let last = segments.len() - 1;
        for segment in &mut segments[..last] {
            if segment.is_empty() {
                *segment = "a";
            }
        }
        segments.into_iter().map(str::to_owned).collect()
    })
}

/// What a glob means, by trying everything.
fn naive(glob: &[String], path: &[String]) -> bool {
    match glob {
        [] => path.is_empty(),
        [any] if any == "**" => !path.is_empty(),
        [any, rest @ ..] if any == "**" => (0..=path.len()).any(|len| naive(rest, &path[len..])),
        [segment, rest @ ..] => match path {
            [first, others @ ..] => naive_segment(segment, first) && naive(rest, others),
            [] => false,
        },
    }
}

fn naive_segment(glob: &str, segment: &str) -> bool {
    fn stars(glob: &[u8], text: &[u8]) -> bool {
        match (glob, text) {
            ([], _) => text.is_empty(),
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|len| stars(rest, &text[len..])),
            ([own, rest @ ..], [first, others @ ..]) => own == first && stars(rest, others),
            _ => false,
        }
    }
    stars(glob.as_bytes(), segment.as_bytes()) && !(glob == "*" && segment.is_empty())
}

proptest! {
    #[test]
    fn a_canonical_path_is_its_own(path in "/[a-c.%/25eEfF0-9;\\\\~*?]{0,12}|/\\PC{0,8}|(/|%[0-9a-f]{2}|[a-z%.]){0,8}") {
        if let Ok(canonical) = CanonicalPath::parse(&path) {
            prop_assert_eq!(CanonicalPath::parse(canonical.as_str()), Ok(canonical.clone()));
            prop_assert!(!canonical.as_str().contains(['?', '#', ';', '\\']));
            let mut segments: Vec<_> = canonical.segments().collect();
            segments.pop();
            prop_assert!(segments.iter().all(|segment| !["", ".", ".."].contains(segment)));
        }
    }

    /// Whoever decodes a path that has a canonical form, once or twice, gets to the same segments.
    #[test]
    fn decoding_again_changes_no_segment(path in "(/|%2[0-9a-f]|%[4-7][0-9a-f]|[a-z%.]){1,10}") {
        if let Ok(canonical) = CanonicalPath::parse(&path) {
            let decode = |text: &str| {
                let bytes = text.replace('%', "\\x");
                let mut out = String::new();
                let mut rest = bytes.as_str();
                while let Some(at) = rest.find("\\x") {
                    out.push_str(&rest[..at]);
                    let digits = rest.get(at + 2..at + 4).and_then(|digits| u8::from_str_radix(digits, 16).ok());
                    match digits {
                        Some(byte) => { out.push(char::from(byte)); rest = &rest[at + 4..]; }
                        None => { out.push('%'); rest = &rest[at + 2..]; }
                    }
                }
                out + rest
            };
            let once = decode(canonical.as_str());
            let twice = decode(&once);
            prop_assert_eq!(once.split('/').count(), canonical.segments().count() + 1);
            prop_assert_eq!(twice.split('/').count(), canonical.segments().count() + 1);
            prop_assert!(!twice.contains('\\') && twice.split('/').all(|segment| segment != ".."));
        }
    }

    #[test]
    fn globs_match_what_trying_everything_matches(
        path in segments(),
        glob in proptest::collection::vec(proptest::sample::select(vec!["a", "b", "*", "a*", "*b", "a*b", "**", "**"]), 1..6),
    ) {
        let glob: Vec<String> = glob.into_iter().map(str::to_owned).collect();
        let rule: HttpRule = format!("allow * a.test/{}", glob.join("/")).parse().unwrap();
        let canonical = CanonicalPath::parse(&format!("/{}", path.join("/"))).unwrap();
        let matches = rule.matches("GET", &host("a.test"), &canonical);
        prop_assert_eq!(matches, naive(&glob, &path), "{:?} on {}", glob, canonical);
    }
}
