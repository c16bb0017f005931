//! Attack 19: a change between two requests, and in the middle of one.

use bytes::Bytes;
use msb_name::HostName;
use msb_policy::{Destination, InterceptedConnection, UpstreamTrust};

use super::*;
use crate::{BodyKind, RequestRewriter, SecretBuilder};

const OLD: &str = "old-canary-1";
const NEW: &str = "new-canary-22";

fn live() -> LiveSecrets {
    let secret = |env: &str| {
        let builder = SecretBuilder::new().env(env).value(OLD).inject_body(true);
        builder
            .allow_host("a.test")
            .allow_host_pattern("*.b.test")
            .build()
            .unwrap()
    };
    LiveSecrets::new(SecretSet::new(vec![secret("A"), secret("B")]).unwrap())
}

fn request(set: &SecretSet, host: &str) -> RequestRewriter {
    let name: HostName = host.parse().unwrap();
    let connection = InterceptedConnection::new(
        name.clone(),
        Destination::DialledByName(name.clone()),
        UpstreamTrust::Verified(name.into()),
    );
    set.request(&connection, &host.parse().unwrap())
}

#[track_caller]
fn check(set: &SecretSet, host: &str, placeholder: &str, expected: Result<&str, &str>) {
    let answer = request(set, host).header_value("x", placeholder.as_bytes());
    let answer =
        answer.map(|value| String::from_utf8(value.unwrap().into_bytes().to_vec()).unwrap());
    let answer = answer.map_err(|violation| violation.refusal().to_string());
    assert_eq!(answer.as_deref().map_err(|reason| &**reason), expected);
}

#[test]
fn a_rotated_value_counts_from_the_next_request_on() {
    let live = live();
    let before = live.load();
    live.rotate("A", NEW).unwrap();
    let after = live.load();
    check(&before, "a.test", "$MSB_A", Ok(OLD));
    check(&after, "a.test", "$MSB_A", Ok(NEW));
    check(&after, "a.test", "$MSB_B", Ok(OLD));
    let scrubbed = |set: &SecretSet| set.response().header_value("x", NEW.as_bytes());
    assert_eq!(scrubbed(&after).as_deref(), Some(&b"$MSB_A"[..]));
    assert_eq!(scrubbed(&before), None);
}

#[test]
fn a_revoked_secret_is_gone_at_once() {
    let live = live();
    let before = live.load();
    let mut body = request(&before, "a.test").rewrite_body(BodyKind::Text);
    let mut pushed = |text: &'static str| {
        body.push(Bytes::from(text))
            .map(|pieces| pieces.flatten().collect::<Vec<u8>>())
    };
    assert_eq!(pushed("$MSB_A.").unwrap(), format!("{OLD}.").as_bytes());
    live.revoke("A").unwrap();
    let violation = pushed("$MSB_A.").unwrap_err();
    assert_eq!(violation.refusal().to_string(), "the secret was revoked");
    for set in [before, live.load()] {
        check(&set, "a.test", "$MSB_A", Err("the secret was revoked"));
        check(&set, "a.test", "$MSB_B", Ok(OLD));
    }
    let set = live.load();
    assert!(set.value(set.scope("A").unwrap().0).is_none());
    assert_eq!(set.env().count(), 2);
    assert!(matches!(live.revoke("A"), Err(Error::UnknownSecret { .. })));
    assert!(matches!(
        live.rotate("A", NEW),
        Err(Error::UnknownSecret { .. })
    ));
}

#[test]
fn hosts_can_be_narrowed_and_not_widened() {
    let live = live();
    live.narrow("A", ["x.b.test", "*.y.b.test"]).unwrap();
    let set = live.load();
    check(&set, "x.b.test", "$MSB_A", Ok(OLD));
    check(&set, "z.y.b.test", "$MSB_A", Ok(OLD));
    check(
        &set,
        "a.test",
        "$MSB_A",
        Err("host a.test is not allowed for this secret"),
    );
    check(&set, "a.test", "$MSB_B", Ok(OLD));
    for wider in ["a.test", "*.b.test", "c.test", "*.evilb.test", "b.test"] {
        let error = live.narrow("A", [wider]).unwrap_err().to_string();
        assert!(error.contains(wider) && error.contains("\"A\""), "{error}");
    }
    assert!(matches!(
        live.narrow("A", ["*"]),
        Err(Error::AnyHostPattern { .. })
    ));
    live.narrow("A", [""; 0]).unwrap();
    check(
        &live.load(),
        "x.b.test",
        "$MSB_A",
        Err("host x.b.test is not allowed for this secret"),
    );
}

#[test]
fn what_cannot_be_a_value_changes_nothing() {
    let live = live();
    for (value, expected) in [
        ("", "has no value"),
        ("new-canary\n", "cannot stand in a header"),
        ("MSB_B", "contains the value"),
    ] {
        let error = live.rotate("A", value).unwrap_err().to_string();
        assert!(
            error.contains(expected) && !error.contains("canary"),
            "{error}"
        );
    }
    assert!(matches!(
        live.rotate("C", NEW),
        Err(Error::UnknownSecret { .. })
    ));
    check(&live.load(), "a.test", "$MSB_A", Ok(OLD));
    assert!(!format!("{live:?}").contains("canary"));
}

#[test]
fn where_a_header_may_get_it_a_new_value_has_to_fit_one() {
    for (headers, basic_auth, fits) in [
        (true, true, false),
        (true, false, false),
        (false, true, false),
        (false, false, true),
    ] {
        let secret = SecretBuilder::new().env("A").value(OLD).inject_body(true);
        let secret = secret
            .allow_host("a.test")
            .inject_headers(headers)
            .inject_basic_auth(basic_auth);
        let live = LiveSecrets::new(SecretSet::new(vec![secret.build().unwrap()]).unwrap());
        assert_eq!(
            live.rotate("A", "two\nlines").is_ok(),
            fits,
            "{headers} {basic_auth}"
        );
    }
}

#[test]
fn changes_from_many_threads_are_all_kept() {
    let live = live();
    std::thread::scope(|scope| {
        for env in ["A", "B"] {
            let live = &live;
            scope.spawn(move || {
                for i in 0..20 {
                    live.rotate(env, format!("value-{env}-{i}")).unwrap();
                }
            });
        }
    });
    check(&live.load(), "a.test", "$MSB_A", Ok("value-A-19"));
    check(&live.load(), "a.test", "$MSB_B", Ok("value-B-19"));
}
