//! A watched stream: nothing is held up but what completes a placeholder, and that does not go on.

use bytes::Bytes;
use msb_policy::InterceptedConnection;
use proptest::prelude::*;

use crate::{Location, SecretBuilder, SecretSet, StreamWatcher};

const FORMS: [&str; 6] = [
    "$MSB_KEY",
    "%24MSB_KEY",
    "%2524MSB%255fKEY",
    "\\u0024MSB_KEY",
    "JE1TQl9LRVk=",
    "eCRNU0JfS0VZ",
];

/// `KEY` is for `a.test` and may be seen by `p.test`; `KEY_ID` is for nobody else.
fn set() -> SecretSet {
    let secret = |env: &str| {
        let secret = SecretBuilder::new().env(env).value("value-of-it");
        secret.allow_host("a.test").passthrough_host("p.test")
    };
    let secrets = ["KEY", "KEY_ID"].map(|env| secret(env).build().unwrap());
    SecretSet::new(secrets.into()).unwrap()
}

fn watcher(host: &str) -> StreamWatcher {
    set().payload(&InterceptedConnection::dialled(host.parse().unwrap()))
}

/// What gets through of `chunks` to a stranger, and the secret of the violation that ended it.
fn through<'a>(
    host: &str,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Option<String>) {
    let mut watcher = watcher(host);
    let mut out = Vec::new();
    for chunk in chunks {
        match watcher.push(Bytes::copy_from_slice(chunk)) {
            Ok(pieces) => out.extend(pieces.flatten()),
            Err(violation) => {
                assert_eq!(*violation.location(), Location::Payload);
                return (out, Some(violation.env().to_owned()));
            }
        }
    }
    match watcher.finish() {
        Ok(pieces) => out.extend(pieces.flatten()),
        Err(violation) => return (out, Some(violation.env().to_owned())),
    }
    (out, None)
}

#[test]
fn a_placeholder_never_gets_whole_through_however_it_is_cut() {
    for form in FORMS {
        for behind in ["", " ", "."] {
            let text = format!("login: {form}{behind}");
            for cut in 0..=text.len() {
                let (head, tail) = text.as_bytes().split_at(cut);
                let (out, violated) = through("b.test", [head, tail]);
                assert_eq!(violated.as_deref(), Some("KEY"), "{text:?} cut at {cut}");
                assert!(
                    out.len() < "login: ".len() + form.len(),
                    "{text:?}: {out:?}"
                );
                assert!(text.as_bytes().starts_with(&out));
            }
            let bytes = text.as_bytes().chunks(1);
            assert_eq!(
                through("b.test", bytes).1.as_deref(),
                Some("KEY"),
                "{text:?}"
            );
        }
    }
}

#[test]
fn every_beginning_of_a_placeholder_goes_on_at_once() {
    for form in FORMS {
        for end in 0..form.len() {
            // The last character of what is padded says nothing any more.
            let beginning = form[..end].trim_end_matches('=');
            if beginning.len() + 1 >= form.trim_end_matches('=').len() {
                continue;
            }
            let mut watcher = watcher("b.test");
            let pushed = watcher.push(Bytes::copy_from_slice(beginning.as_bytes()));
            let out: Vec<u8> = pushed.unwrap().flatten().collect();
            assert_eq!(out, beginning.as_bytes());
            assert!(!watcher.is_waiting());
        }
    }
}

#[test]
fn a_whole_one_waits_for_what_follows() {
    let mut watcher = watcher("b.test");
    let out = watcher.push(Bytes::from_static(b"$MSB_KEY")).unwrap();
    assert_eq!(out.count(), 0);
    assert!(watcher.is_waiting());
    // No placeholder after all.
    let out = watcher.push(Bytes::from_static(b"S")).unwrap();
    assert_eq!(out.flatten().collect::<Vec<_>>(), b"$MSB_KEYS");
    assert!(!watcher.is_waiting());
    // The longer one.
    let violated = through("b.test", [&b"$MSB_KEY"[..], b"_ID\n"]).1;
    assert_eq!(violated.as_deref(), Some("KEY_ID"));
}

#[test]
fn a_host_that_may_have_or_see_it_gets_it_as_it_is_and_at_once() {
    for host in ["a.test", "p.test"] {
        let mut watcher = watcher(host);
        let out = watcher.push(Bytes::from_static(b"auth $MSB_KEY")).unwrap();
        assert_eq!(
            out.flatten().collect::<Vec<_>>(),
            b"auth $MSB_KEY",
            "{host}"
        );
        assert!(!watcher.is_waiting());
        watcher.push(Bytes::from_static(b"\n")).unwrap();
        assert_eq!(watcher.take_notes().len(), 1, "{host}");
    }
}

proptest! {
    /// The rewriter, which holds back, is the oracle.
    #[test]
    fn cuts_change_nothing(
        parts in prop::collection::vec(
            prop_oneof![
                prop::sample::select(&FORMS[..]).prop_map(|form| form.as_bytes().to_vec()),
                prop::sample::select(&["$", "$MSB_", "_ID", "%2", "JE1T", "\\u00", " "][..]).prop_map(|text| text.as_bytes().to_vec()),
                prop::collection::vec(any::<u8>(), 0..3),
            ],
            0..6,
        ),
        cuts in prop::collection::vec(1usize..9, 1..40),
    ) {
        let text = parts.concat();
        let mut chunks = Vec::new();
        let mut rest = &text[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, more) = rest.split_at((*cut).min(rest.len()));
            chunks.push(chunk);
            rest = more;
        }
        let (out, violated) = through("b.test", chunks);
        let mut whole = set().plain();
        let expected = whole
            .push(Bytes::copy_from_slice(&text))
            .map(|pieces| pieces.flatten().count())
            .and_then(|count| Ok(count + whole.finish()?.flatten().count()));
        match expected {
            Ok(count) => {
                prop_assert_eq!(count, text.len());
                prop_assert_eq!((&out, violated), (&text, None));
            }
            Err(violation) => {
                prop_assert_eq!(violated.as_deref(), Some(violation.env()));
                prop_assert!(text.starts_with(&out));
                // What got through holds no placeholder.
                let mut seen = set().plain();
                let again = seen.push(out.into()).and_then(|_| seen.finish());
                prop_assert!(again.is_ok());
            }
        }
    }
}
