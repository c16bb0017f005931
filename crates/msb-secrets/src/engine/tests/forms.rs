//! Each form in which a needle is found, and what only looks like one.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE};

use super::{Engine, engine, find_all};
use crate::Form;

/// `expected`: (needle, form, matched text) of each match.
#[track_caller]
fn check(needles: &[&str], input: &str, expected: &[(&str, Form, &str)]) {
    let found: Vec<_> = find_all(&engine(needles), input.as_bytes())
        .into_iter()
        .map(|found| {
            (
                needles[found.needle],
                found.form,
                &input[found.start..found.end],
            )
        })
        .collect();
    assert_eq!(found, expected, "in {input:?}");
}

const KEY: &str = "$MSB_KEY";

#[test]
fn raw_needles_are_found_anywhere() {
    check(&[KEY], "$MSB_KEY", &[(KEY, Form::Raw, KEY)]);
    check(
        &[KEY],
        "a $MSB_KEY b$MSB_KEY$MSB_KEY.",
        &[(KEY, Form::Raw, KEY); 3],
    );
    check(&[KEY], "$MSB_KE", &[]);
    check(&[KEY], "$msb_key", &[]);
    check(&[KEY], "$$MSB_KEY", &[(KEY, Form::Raw, KEY)]);
    check(&[KEY], "$MSB_$MSB_KEY", &[(KEY, Form::Raw, KEY)]);
    check(&[], "$MSB_KEY", &[]);
}

#[test]
fn only_whole_tokens_match() {
    check(&["$MSB_API"], "$MSB_API_KEY", &[]);
    check(&["$MSB_API"], "$MSB_API2 $MSB_APIX", &[]);
    check(
        &["$MSB_API"],
        "$MSB_API-KEY",
        &[("$MSB_API", Form::Raw, "$MSB_API")],
    );
    check(
        &["$MSB_API"],
        "$MSB_APIé",
        &[("$MSB_API", Form::Raw, "$MSB_API")],
    );
    check(&["KEY"], "MONKEY KEYS _KEY", &[]);
    check(&["KEY"], "-KEY-", &[("KEY", Form::Raw, "KEY")]);
    check(&["key}"], "{key}x", &[("key}", Form::Raw, "key}")]);
}

#[test]
fn the_longest_needle_wins() {
    let needles = ["$MSB_API", "$MSB_API_KEY", "$MSB_API-2"];
    check(
        &needles,
        "$MSB_API_KEY",
        &[("$MSB_API_KEY", Form::Raw, "$MSB_API_KEY")],
    );
    check(
        &needles,
        "$MSB_API-2",
        &[("$MSB_API-2", Form::Raw, "$MSB_API-2")],
    );
    check(
        &needles,
        "$MSB_API-23",
        &[("$MSB_API", Form::Raw, "$MSB_API")],
    );
    check(
        &needles,
        "$MSB_API%5fKEY",
        &[("$MSB_API_KEY", Form::Percent, "$MSB_API%5fKEY")],
    );
    check(&["abc", "bcd"], "abcd", &[]);
    check(
        &["{a}", "{a}{b}"],
        "{a}{b}{a}",
        &[("{a}{b}", Form::Raw, "{a}{b}"), ("{a}", Form::Raw, "{a}")],
    );
}

/// Attack 17.
#[test]
fn percent_encoding_once_twice_and_in_part() {
    for input in [
        "%24MSB_KEY",
        "%24MSB%5FKEY",
        "%24%4D%53%42%5F%4b%45%59",
        "$%4DSB_KEY",
        "$M%53B_KEY",
        "$MSB_KE%59",
        "$MSB_K%45Y",
    ] {
        check(&[KEY], input, &[(KEY, Form::Percent, input)]);
    }
    for input in [
        "%2524MSB_KEY",
        "%25%32%34MSB_KEY",
        "%%32%34MSB_KEY",
        "%2%34MSB_KEY",
        "%%324MSB_KEY",
        "$%254DSB_KEY",
        "%2524%254d%2553%2542%255f%254B%2545%2559",
    ] {
        check(&[KEY], input, &[(KEY, Form::PercentTwice, input)]);
    }
    check(&[KEY], "%252524MSB_KEY %24MSB_KE%5 %2 %", &[]);
    check(
        &["a b"],
        "a+b a%20b a b",
        &[
            ("a b", Form::Percent, "a+b"),
            ("a b", Form::Percent, "a%20b"),
            ("a b", Form::Raw, "a b"),
        ],
    );
    check(
        &["{é}"],
        "%7B%C3%A9%7d",
        &[("{é}", Form::Percent, "%7B%C3%A9%7d")],
    );
}

#[test]
fn json_escapes() {
    for input in [
        "\\u0024MSB_KEY",
        "$MSB\\u005fKEY",
        "$MSB\\u005FKEY",
        "\\u0024\\u004d\\u0053\\u0042\\u005f\\u004b\\u0045\\u0059",
    ] {
        check(&[KEY], input, &[(KEY, Form::Json, input)]);
    }
    check(
        &["<a/\"b\">"],
        r#"<a\/\"b\">"#,
        &[("<a/\"b\">", Form::Json, r#"<a\/\"b\">"#)],
    );
    check(
        &[KEY],
        "\\u0024%4dSB_KEY",
        &[(KEY, Form::Percent, "\\u0024%4dSB_KEY")],
    );
    check(&[KEY], "\\u0124MSB_KEY \\u24MSB_KEY \\$MSB_KE", &[]);
}

#[test]
fn an_escaped_token_character_counts_at_the_ends_of_escaped_needles() {
    check(&["$MSB_API"], "%24MSB_API%5FKEY", &[]);
    check(&["$MSB_API"], "%24MSB_API%255FKEY", &[]);
    check(&["$MSB_API"], "\\u0024MSB_API\\u005fKEY", &[]);
    check(
        &["$MSB_API"],
        "%24MSB_API%2CKEY",
        &[("$MSB_API", Form::Percent, "%24MSB_API")],
    );
    check(
        &["$MSB_API"],
        "%24MSB_API%",
        &[("$MSB_API", Form::Percent, "%24MSB_API")],
    );
    check(
        &["$MSB_API"],
        "%24MSB_API%25",
        &[("$MSB_API", Form::Percent, "%24MSB_API")],
    );
    check(
        &["$MSB_API"],
        "\\u0024MSB_API\\n",
        &[("$MSB_API", Form::Json, "\\u0024MSB_API")],
    );
    // Behind one that is written as it is, escapes are not read.
    for input in ["$MSB_API%5FKEY", "$MSB_API\\u005fKEY"] {
        check(&["$MSB_API"], input, &[("$MSB_API", Form::Raw, "$MSB_API")]);
    }
    // The beginning of a needle is none.
    check(&["a b", "a%b"], "a ", &[]);
    check(&["a b", "a%b"], "a%", &[]);
    for input in ["%20KEY", "%2520KEY", "\\nKEY", "\\u0020KEY", "=KEY"] {
        check(&["KEY"], input, &[("KEY", Form::Raw, "KEY")]);
    }
    for input in ["%41KEY", "%2541KEY", "\\u0041KEY", "nKEY", "u0020KEY"] {
        check(&["KEY"], input, &[]);
    }
}

#[test]
fn base64_at_any_alignment_and_alphabet() {
    for before in ["", "u", "us", "use", "user", "ü:", "\u{7f}\u{ff}"] {
        for after in ["", ":", ": ", ":pw", "-", "\u{ff}"] {
            let text = format!("{before}{KEY}{after}");
            for encoded in [
                BASE64_STANDARD.encode(&text),
                BASE64_STANDARD_NO_PAD.encode(&text),
                BASE64_URL_SAFE.encode(&text),
            ] {
                let found = find_all(&engine(&[KEY]), format!("x: {encoded}").as_bytes());
                assert_eq!(
                    found.iter().map(|found| found.form).collect::<Vec<_>>(),
                    [Form::Base64],
                    "{text:?}"
                );
            }
        }
        for after in ["S", "_2", "0"] {
            let encoded = BASE64_STANDARD.encode(format!("{before}{KEY}{after}"));
            assert_eq!(
                find_all(&engine(&[KEY]), encoded.as_bytes()),
                [],
                "{before:?} {after:?}"
            );
        }
    }
    // `>>>?` has both characters in which the alphabets differ.
    for encoded in ["Pj4+Pz8_", "Pj4-Pz8/"] {
        check(&[">>>???"], encoded, &[(">>>???", Form::Base64, encoded)]);
    }
}

#[test]
fn in_base64_the_longest_needle_wins_too() {
    let needles = ["$MSB_API", "$MSB_API-KEY"];
    let found = find_all(
        &engine(&needles),
        BASE64_STANDARD.encode("u:$MSB_API-KEY").as_bytes(),
    );
    assert_eq!(
        found
            .iter()
            .map(|found| needles[found.needle])
            .collect::<Vec<_>>(),
        ["$MSB_API-KEY"]
    );
}

#[test]
fn needles_with_escape_characters_are_found_raw_and_escaped() {
    for needle in ["%KEY%", "%24", "\\KEY", "{{\\\\}}", "100%25"] {
        check(
            &[needle],
            &format!(".{needle}."),
            &[(needle, Form::Raw, needle)],
        );
        let escaped: String = needle.bytes().map(|byte| format!("%{byte:02X}")).collect();
        check(
            &[needle],
            &escaped,
            &[(needle, Form::Percent, escaped.as_str())],
        );
    }
}

#[test]
fn many_needles_fall_back_to_an_automaton() {
    let needles: Vec<String> = (0..100)
        .map(|i| {
            format!(
                "{}{}-key-{i}",
                char::from(b'a' + i % 26),
                char::from(b'A' + i / 26)
            )
        })
        .collect();
    let needles: Vec<&str> = needles.iter().map(String::as_str).collect();
    for needle in &needles {
        check(
            &needles,
            &format!("x {needle}, %{:02x}{}", needle.as_bytes()[0], &needle[1..]).clone(),
            &[
                (needle, Form::Raw, needle),
                (
                    needle,
                    Form::Percent,
                    &format!("%{:02x}{}", needle.as_bytes()[0], &needle[1..]),
                ),
            ],
        );
    }
}

/// `%2525` is a percent sign written twice-encoded, or one encoded once and two digits.
#[test]
fn the_longest_reading_of_a_percent_sign_is_tried_first() {
    let engine = Engine::for_values([b"100%25".as_slice()]);
    for (input, expected) in [
        ("100%25", 6),
        ("100%2525", 8),
        ("100%252525", 10),
        ("100%2525%32%35", 14),
    ] {
        let found = find_all(&engine, input.as_bytes());
        let ends: Vec<_> = found.iter().map(|found| found.end).collect();
        assert_eq!(ends, [expected], "{input}");
    }
}

#[test]
fn values_are_found_inside_words() {
    let engine = Engine::for_values(["sk-12".as_bytes(), b"sk-1234"]);
    let found = |input: &str| -> Vec<_> {
        let found = find_all(&engine, input.as_bytes()).into_iter();
        found
            .map(|found| input[found.start..found.end].to_owned())
            .collect()
    };
    assert_eq!(found("xsk-123 sk-12345x"), ["sk-12", "sk-1234"]);
    assert_eq!(found("asks%6b-12a"), ["s%6b-12"]);
    assert_eq!(found("task%73k%2D12a"), ["%73k%2D12"]);
    let encoded = BASE64_STANDARD.encode("a:sk-1234x");
    assert_eq!(found(&encoded).len(), 1, "{encoded}");
}
