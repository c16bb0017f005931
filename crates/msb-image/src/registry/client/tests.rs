//! Waits, forms and addresses.

use super::*;

#[test]
fn waits_double_up_to_a_bound_and_are_the_registrys_own_where_it_says_so() {
    let second = Duration::from_secs;
    let retries = Retries {
        attempts: 4,
        first_wait: second(1),
        longest_wait: second(5),
    };
    let waits: Vec<_> = (1..6).map(|attempt| retries.wait(attempt, None)).collect();
    let expected = [Some(1), Some(2), Some(4), Some(5), None].map(|wait| wait.map(second));
    assert_eq!(waits, expected);
    assert_eq!(retries.wait(1, Some(second(3))), Some(second(3)));
    assert_eq!(retries.wait(1, Some(second(6))), None);
    assert_eq!(retries.wait(5, Some(second(0))), None);
    let many = Retries {
        attempts: u32::MAX,
        ..retries
    };
    assert_eq!(many.wait(u32::MAX, None), Some(second(5)));
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
    for (text, expected) in [
        ("7", Some(7)),
        (" 0 ", Some(0)),
        ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
        ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("", None),
    ] {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
        let got = retry_after(&headers, now);
        assert_eq!(got, expected.map(Duration::from_secs), "{text:?}");
    }
    assert_eq!(retry_after(&HeaderMap::new(), now), None);
}

#[test]
fn this_machines_addresses_are_known() {
    for (text, expected) in [
        ("http://localhost:5000/", true),
        ("http://127.0.0.1/", true),
        ("http://127.9.9.9:1/", true),
        ("http://[::1]:5/", true),
        ("http://localhost.example.com/", false),
        ("http://127.0.0.1.example.com/", false),
        ("http://10.0.0.1/", false),
        ("http://example.com/127.0.0.1", false),
    ] {
        assert_eq!(is_loopback(&Url::parse(text).unwrap()), expected, "{text}");
    }
}

#[test]
fn forms_are_encoded() {
    assert_eq!(
        form(&[("a", "b c&d=é"), ("e", "-._~9")]),
        "a=b%20c%26d%3D%C3%A9&e=-._~9"
    );
}
