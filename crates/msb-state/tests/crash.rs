//! A process that is killed at any moment leaves what the next look repairs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Stdio};

use msb_state::{Error, Name, Phase, State, StateDir, Stream, crash};
use serde_json::json;

/// Set in the process that is to be killed; where its state is.
const CHILD: &str = "MSB_STATE_TEST_DIR";

fn name() -> Name {
    "worker".parse().unwrap()
}

/// A sandbox's whole life, in order.
fn live(states: &StateDir) -> Result<(), Error> {
    let name = name();
    states.create(&name, json!({ "image": "base" }))?;
    let mut owned = states.own(&name)?;
    owned.set_phase(Phase::Starting)?;
    let _listener = owned.listen()?;
    owned.set_phase(Phase::Running)?;
    let mut log = owned.log()?;
    for _ in 0..200 {
        log.write(Stream::Stdout, &[b'x'; 64 * 1024])
            .map_err(|source| Error::Io {
                what: "log",
                path: owned.dir().to_owned(),
                source,
            })?;
    }
    // As if it had been killed: the socket is left, and the next look repairs.
    drop(owned);
    states.look(&name)?;
    let mut owned = states.own(&name)?;
    let reason = "stopped".to_owned();
    owned.set_phase(Phase::Ended { reason, code: None })?;
    drop(owned);
    states.remove(&name)
}

/// Not a test by itself: the process that is killed.
#[test]
fn a_life_without_a_crash_leaves_nothing() {
    let given = std::env::var_os(CHILD);
    let temporary = tempfile::tempdir().unwrap();
    let dir = given.map_or_else(|| temporary.path().join("state"), Into::into);
    let states = StateDir::open(&dir).unwrap();
    live(&states).unwrap();
    assert_eq!(left(&dir), [".lock"]);
}

fn left(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Whether a life was ended at `point`, passed the `count`th time.
fn killed_at(point: &str, count: usize, dir: &Path) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_life_without_a_crash_leaves_nothing"])
        .env(crash::VARIABLE, format!("{point}#{count}"))
        .env(CHILD, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert!(status.success() || signal == Some(9), "{point}: {status}");
    signal == Some(9)
}

/// What must hold whatever was killed, and that everything can go on from there.
#[track_caller]
fn check_repaired(point: &str, dir: &Path) {
    let states = StateDir::open(dir).unwrap();
    let seen = states.list().unwrap();
    assert!(seen.len() <= 1, "{point}: {seen:?}");
    if let Some(seen) = seen.first() {
        assert!(!seen.is_held, "{point}: {seen:?}");
        let expected = [State::Created, State::Crashed, State::Ended];
        assert!(expected.contains(&seen.state), "{point}: {seen:?}");
        let record = seen.record.as_ref().unwrap();
        assert_eq!(record.config["image"], "base", "{point}");
        for left in left(&states.dir_of(&name())) {
            let known = ["lock", "record.json", "log", "log.1"];
            assert!(known.contains(&left.as_str()), "{point}: {left}");
        }
        // It can be started again, and its log is written on.
        let mut owned = states.own(&name()).unwrap();
        owned.set_phase(Phase::Starting).unwrap();
        owned.log().unwrap().write(Stream::Msb, b"again").unwrap();
        drop((owned.listen().unwrap(), owned));
        assert_eq!(states.look(&name()).unwrap().state, State::Crashed);
        states.remove(&name()).unwrap();
    }
    assert_eq!(left(dir), [".lock"], "{point}");
    states.create(&name(), json!({})).unwrap();
    states.remove(&name()).unwrap();
}

#[test]
fn a_kill_at_any_moment_leaves_what_the_next_look_repairs() {
    let mut killed = 0;
    for point in crash::OF_STATE {
        let mut count = 1;
        loop {
            let temporary = tempfile::tempdir().unwrap();
            let dir = temporary.path().join("state");
            if !killed_at(point, count, &dir) {
                break;
            }
            check_repaired(&format!("{point}#{count}"), &dir);
            (count, killed) = (count + 1, killed + 1);
            if count > 6 {
                break;
            }
        }
        assert!(count > 1, "{point} was never passed");
    }
    assert!(killed >= 30, "{killed}");
}
