//! What the state directory promises, from outside.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Barrier;

use msb_state::{Error, Name, Phase, State, StateDir};
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn states() -> (TempDir, StateDir) {
    let temporary = tempfile::tempdir().unwrap();
    let states = StateDir::open(temporary.path().join("a/b")).unwrap();
    (temporary, states)
}

#[test]
fn one_of_many_gets_a_name() {
    let (_temporary, states) = states();
    let barrier = Barrier::new(16);
    let won = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..16)
            .map(|number| {
                let (states, barrier) = (states.clone(), &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    states.create(&name("worker"), json!(number))
                })
            })
            .collect();
        let outcomes = takers.into_iter().map(|taker| taker.join().unwrap());
        outcomes
            .filter_map(|outcome| match outcome {
                Ok(record) => Some(record.config),
                Err(Error::Taken { .. }) => None,
                Err(error) => panic!("{error}"),
            })
            .collect::<Vec<_>>()
    });
    assert_eq!(won.len(), 1);
    let seen = states.look(&name("worker")).unwrap();
    assert_eq!(seen.record.unwrap().config, won[0]);
}

#[test]
fn one_of_many_holds_a_sandbox_while_others_look() {
    let (_temporary, states) = states();
    states.create(&name("worker"), json!({})).unwrap();
    let barrier = Barrier::new(12);
    let held = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..12)
            .map(|number| {
                let (states, barrier) = (states.clone(), &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    if number % 2 == 0 {
                        for _ in 0..20 {
                            states.list().unwrap();
                        }
                        return None;
                    }
                    match states.own(&name("worker")) {
                        Ok(owned) => Some(owned),
                        Err(Error::InUse { .. }) => None,
                        Err(error) => panic!("{error}"),
                    }
                })
            })
            .collect();
        let outcomes = takers.into_iter().map(|taker| taker.join().unwrap());
        outcomes.flatten().collect::<Vec<_>>()
    });
    assert_eq!(held.len(), 1, "a look never takes the place of a holder");
    assert!(states.look(&name("worker")).unwrap().is_held);
    assert_eq!(
        states.owner(&name("worker")).unwrap().unwrap().pid(),
        std::process::id()
    );
    drop(held);
    assert!(!states.look(&name("worker")).unwrap().is_held);
    assert!(states.owner(&name("worker")).unwrap().is_none());
}

#[test]
fn states_are_told_by_lock_and_record() {
    let (_temporary, states) = states();
    let name = name("worker");
    let ended = |code| Phase::Ended {
        reason: "told".into(),
        code,
    };
    states.create(&name, json!({})).unwrap();
    assert_eq!(states.look(&name).unwrap().state, State::Created);
    for (phase, held, free) in [
        (Phase::Starting, State::Starting, State::Crashed),
        (Phase::Running, State::Running, State::Crashed),
        (Phase::Paused, State::Paused, State::Crashed),
        (ended(Some(3)), State::Starting, State::Ended),
        (ended(None), State::Starting, State::Ended),
    ] {
        let mut owned = states.own(&name).unwrap();
        owned.set_phase(phase.clone()).unwrap();
        assert_eq!(states.look(&name).unwrap().state, held, "{phase:?}");
        for outcome in [states.own(&name).err(), states.remove(&name).err()] {
            assert!(matches!(outcome, Some(Error::InUse { .. })), "{outcome:?}");
        }
        drop(owned);
        for _ in 0..2 {
            assert_eq!(states.look(&name).unwrap().state, free, "{phase:?}");
        }
    }
}

#[test]
fn nothing_of_it_is_for_others() {
    let (_temporary, states) = states();
    let name = name("worker");
    states.create(&name, json!({})).unwrap();
    let owned = states.own(&name).unwrap();
    let _listener = owned.listen().unwrap();
    owned
        .log()
        .unwrap()
        .write(msb_state::Stream::Msb, b"x")
        .unwrap();
    drop(states.early_log(&name).unwrap());
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(states.path()), 0o700);
    assert_eq!(mode(&states.dir_of(&name)), 0o700);
    let mut files = 0;
    for entry in fs::read_dir(states.dir_of(&name)).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files += 1;
    }
    assert_eq!(files, 5);
    let shared = states.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let error = StateDir::open(&shared).unwrap_err();
    assert!(matches!(error, Error::NotOurs { .. }), "{error}");
}

#[test]
fn an_unknown_name_is_told_with_those_near_it() {
    let (_temporary, states) = states();
    for known in ["worker", "web"] {
        states.create(&name(known), json!({})).unwrap();
    }
    for (asked, expected) in [
        ("wroker", "did you mean worker?"),
        ("wev", "did you mean web?"),
        ("something", "msb ps -a"),
    ] {
        let asked = name(asked);
        for error in [
            states.look(&asked).unwrap_err(),
            states.own(&asked).unwrap_err(),
            states.remove(&asked).unwrap_err(),
            states.owner(&asked).unwrap_err(),
        ] {
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}

/// A record that is anything at all is never a lost sandbox.
#[track_caller]
fn check_record(bytes: &[u8], is_damaged: bool) {
    let (_temporary, states) = states();
    let name = name("worker");
    states.create(&name, json!({})).unwrap();
    let path = states.dir_of(&name).join("record.json");
    fs::write(&path, bytes).unwrap();
    let seen = states.list().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        seen[0].state == State::Damaged,
        is_damaged,
        "{:?} of {:?}",
        seen[0],
        String::from_utf8_lossy(&bytes[..bytes.len().min(80)])
    );
    let owned = states.own(&name);
    if is_damaged {
        let error = owned.unwrap_err().to_string();
        assert!(error.contains("msb rm -f worker"), "{error}");
    } else {
        drop(owned.unwrap());
    }
    states.remove(&name).unwrap();
    assert!(states.list().unwrap().is_empty());
}

#[test]
fn a_damaged_record_is_listed_and_can_be_removed() {
    let (_temporary, made) = states();
    made.create(&name("worker"), json!({ "image": "base" }))
        .unwrap();
    let whole = fs::read(made.dir_of(&name("worker")).join("record.json")).unwrap();
    check_record(&whole, false);
    for cut in (0..whole.len() - 2).step_by(7) {
        check_record(&whole[..cut], true);
    }
    let text = String::from_utf8(whole).unwrap();
    for (from, to) in [
        ("\"version\": 1", "\"version\": 2"),
        ("\"worker\"", "\"walker\""),
        ("\"worker\"", "\"../worker\""),
        ("\"created\"", "\"dreamt\""),
        ("\"phase\":", "\"face\":"),
        ("{", "["),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        check_record(changed.as_bytes(), true);
    }
    check_record(&vec![b' '; 5 * 1024 * 1024], true);
    check_record("[".repeat(100_000).as_bytes(), true);
}

#[test]
fn directories_that_are_none_are_listed_and_can_be_removed() {
    let (_temporary, states) = states();
    fs::write(states.path().join("file"), "x").unwrap();
    std::os::unix::fs::symlink("/", states.path().join("link")).unwrap();
    fs::create_dir(states.path().join("empty")).unwrap();
    fs::write(states.path().join("Not A Name"), "x").unwrap();
    let seen = states.list().unwrap();
    let seen: Vec<_> = seen
        .iter()
        .map(|seen| (seen.name.as_str(), seen.state))
        .collect();
    let expected = ["empty", "file", "link"].map(|name| (name, State::Damaged));
    assert_eq!(seen, expected);
    for known in ["empty", "file", "link"] {
        states.own(&name(known)).unwrap_err();
        let taken = states.create(&name(known), json!({})).unwrap_err();
        assert!(matches!(taken, Error::Taken { .. }), "{taken}");
        states.remove(&name(known)).unwrap();
    }
    assert!(states.list().unwrap().is_empty());
    assert!(Path::new("/usr").exists());
}

proptest! {
    #[test]
    fn any_bytes_as_a_record_are_damage(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        check_record(&bytes, true);
    }
}
