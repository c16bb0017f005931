//! Waits, forms and addresses.

use super::super::token::form;
use super::*;

#[test]
fn waits_double_up_to_a_bound_and_are_the_registrys_own_where_it_says_so() {
    let second = Duration::from_secs;
    let retries = Retries {
        attempts: 4,
        first_wait: second(1),
        longest_wait: second(5),
        ..Retries::default()
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
fn ways_into_this_machine_are_known_however_they_are_written() {
    for (text, expected) in [
        ("https://localhost/", true),
        ("https://LOCALHOST./", true),
        ("https://a.localhost/", true),
        ("https://127.1/", true),
        ("https://0x7f000001/", true),
        ("https://0.0.0.0:6443/", true),
        ("https://[::]/", true),
        ("https://[::1]/", true),
        ("https://[::ffff:127.0.0.1]/", true),
        ("https://localhost.example.com/", false),
        ("https://10.0.0.1/", false),
        ("https://[2001:db8::1]/", false),
    ] {
        assert_eq!(leads_inward(&Url::parse(text).unwrap()), expected, "{text}");
    }
}

#[test]
fn insecure_registries_are_hosts_at_one_port_or_the_usual_ones() {
    #[track_caller]
    fn check(text: &str, urls: &[&str]) {
        let insecure = Insecure::parse(text).unwrap_or_else(|error| panic!("{error}"));
        let all = [
            "https://q.io/",
            "http://q.io/",
            "http://q.io:443/",
            "http://q.io:5000/",
            "https://q.io:5000/",
            "http://[2001:db8::1]:5000/",
            "http://[2001:db8::1]/",
        ];
        let is = |url: &&str| insecure.is(&Url::parse(url).unwrap());
        let found: Vec<_> = all.into_iter().filter(is).collect();
        assert_eq!(found, urls, "{text}");
    }
    check(
        "q.io",
        &["https://q.io/", "http://q.io/", "http://q.io:443/"],
    );
    check(
        "Q.io",
        &["https://q.io/", "http://q.io/", "http://q.io:443/"],
    );
    check("q.io:80", &["http://q.io/"]);
    check("q.io:443", &["https://q.io/", "http://q.io:443/"]);
    check("q.io:5000", &["http://q.io:5000/", "https://q.io:5000/"]);
    check("[2001:db8::1]:5000", &["http://[2001:db8::1]:5000/"]);
    check("[2001:db8::1]", &["http://[2001:db8::1]/"]);
    check("example.com", &[]);
    for wrong in [
        "",
        "http://q.io",
        "q.io/",
        "q.io/team",
        "u@q.io",
        "q.io:x",
        "q.io:99999",
        " q.io",
        "q.io?",
        "q io",
    ] {
        assert!(Insecure::parse(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_registrys_port_is_the_one_that_was_written_whatever_the_scheme() {
    for (reference, https, http) in [
        ("q.io/a", "https://q.io/v2/", "http://q.io/v2/"),
        ("q.io:443/a", "https://q.io/v2/", "http://q.io:443/v2/"),
        ("q.io:80/a", "https://q.io:80/v2/", "http://q.io/v2/"),
        (
            "q.io:5000/a",
            "https://q.io:5000/v2/",
            "http://q.io:5000/v2/",
        ),
        (
            "debian",
            "https://registry-1.docker.io/v2/",
            "http://registry-1.docker.io/v2/",
        ),
    ] {
        let reference = reference.parse().unwrap();
        assert_eq!(base("https", &reference).unwrap().as_str(), https);
        assert_eq!(base("http", &reference).unwrap().as_str(), http);
    }
}

#[test]
fn forms_are_encoded() {
    assert_eq!(
        form(&[("a", "b c&d=é"), ("e", "-._~9")]),
        "a=b%20c%26d%3D%C3%A9&e=-._~9"
    );
}
