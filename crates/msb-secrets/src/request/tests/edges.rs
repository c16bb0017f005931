//! Where one decision ends and the next begins.

use msb_policy::grant_injection;

use super::*;

#[test]
fn short_and_joined_words_are_no_basic_credentials() {
    let set = usual();
    let joined = format!("Basic{}", BASE64_STANDARD.encode("u:$MSB_A"));
    for value in ["", "a", "basi", "Basi$", &joined] {
        check(&set, "authorization", value, None);
    }
    check(&set, "authorization", "$MSB_A", Some("<>"));
}

/// Text of whole triples does not tell whether its writer pads; the RFC does.
#[test]
fn credentials_of_whole_triples_come_out_padded() {
    let set = set([secret("A", "a.test").value("1234")]);
    let given = format!("Basic {}", BASE64_STANDARD_NO_PAD.encode("us:$MSB_A"));
    let expected = format!("Basic {}", BASE64_STANDARD.encode("us:1234"));
    assert!(!given.contains('=') && expected.ends_with("=="));
    let rewritten = header(&set, "authorization", given.as_bytes());
    assert_eq!(rewritten, Ok(Some(expected.into_bytes())));
}

/// The question mark itself is not yet the query.
#[test]
fn a_placeholder_that_begins_with_the_question_mark_stands_in_the_path() {
    let builder = secret("A", "a.test").placeholder("?KEY!");
    let set = set([builder.inject_query(true)]);
    for (target, expected, place) in [
        ("/a?KEY!", None, Location::Path),
        ("/a?b=?KEY!", Some("/a?b=1%2F2"), Location::Query),
    ] {
        let live = crate::LiveSecrets::new(set.clone());
        live.rotate("A", "1/2").unwrap();
        let mut request = request(&live.load(), "a.test");
        let rewritten = request.rewrite_target(target).unwrap();
        let rewritten = rewritten.map(|it| String::from_utf8(it.into_bytes().to_vec()).unwrap());
        assert_eq!(rewritten.as_deref(), expected);
        assert_eq!(request.take_notes()[0].location(), &place);
    }
}

/// Growing would leave copies of the value behind.
#[test]
fn what_is_written_has_room_for_itself_alone() {
    let set = usual();
    for value in ["$MSB_A", "a $MSB_A, $MSB_A b", "$MSB_A$MSB_A$MSB_A$MSB_A"] {
        let Rewritten(written) = request(&set, "a.test")
            .header_value("x", value.as_bytes())
            .unwrap()
            .unwrap();
        assert_eq!(written.capacity(), written.len(), "{value}");
    }
}

#[test]
fn a_value_is_there_by_its_id_for_who_holds_a_grant() {
    let set = usual();
    for env in ["A", "B"] {
        let (id, scope) = set.scope(env).unwrap();
        let host = format!("{}.test", env.to_lowercase());
        let authority = host.parse().unwrap();
        let grant = grant_injection(id, scope, &connection(&host), &authority).unwrap();
        let value = set.value(id).unwrap();
        assert_eq!(value.expose(&grant), Some(VALUE.as_bytes()));
    }
    assert!(set.scope("C").is_none());
}
