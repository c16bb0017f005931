//! What the state directory does where the disk is full, or somebody has changed what is in it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use msb_state::{Error, Name, Phase, State, StateDir, Stream};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use serde_json::json;
use tempfile::TempDir;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn states() -> (TempDir, StateDir) {
    let temporary = tempfile::tempdir().unwrap();
    let states = StateDir::open(temporary.path().join("state")).unwrap();
    (temporary, states)
}

/// A file system of one megabyte, for as long as this lives.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None`, and said so, where this user cannot mount one.
    fn new() -> Option<Self> {
        if !geteuid().is_root() {
            eprintln!("skipped: only root can mount a small file system");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        match mount(
            "tmpfs",
            dir.path(),
            "tmpfs",
            MountFlags::empty(),
            Some(c"size=1m"),
        ) {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                eprintln!("skipped: no small file system can be mounted: {error}");
                None
            }
        }
    }

    /// Leaves not one byte.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.path().join("filler")).unwrap();
        while file.write_all(&[b'x'; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn on_a_full_disk_sandboxes_are_listed_and_removed_and_nothing_half_made_is_left() {
    let Some(disk) = SmallDisk::new() else { return };
    let states = StateDir::open(disk.0.path().join("state")).unwrap();
    for crashed in ["one", "two"] {
        states.create(&name(crashed), json!({})).unwrap();
        let mut owned = states.own(&name(crashed)).unwrap();
        owned.set_phase(Phase::Running).unwrap();
    }
    states.create(&name("idle"), json!({})).unwrap();
    disk.fill();
    let error = states.create(&name("new"), json!({})).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    let error = states.own(&name("one")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    // What cannot be repaired now is seen as it is all the same.
    let seen = states.list().unwrap();
    let seen = seen.iter().map(|seen| (seen.name.as_str(), seen.state));
    let expected = [
        ("idle", State::Created),
        ("one", State::Crashed),
        ("two", State::Crashed),
    ];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
    states.remove(&name("one")).unwrap();
    disk.free();
    assert_eq!(states.look(&name("two")).unwrap().state, State::Crashed);
    states.remove(&name("two")).unwrap();
    states.remove(&name("idle")).unwrap();
    let left: Vec<_> = fs::read_dir(states.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn what_cannot_be_removed_keeps_nobody_from_looking() {
    let (_temporary, states) = states();
    states.create(&name("worker"), json!({})).unwrap();
    let gone = states.path().join(".gone");
    fs::create_dir(&gone).unwrap();
    if !geteuid().is_root() {
        eprintln!("skipped: only root can mount what keeps a directory from being removed");
        return;
    }
    if let Err(error) = mount(
        "tmpfs",
        &gone,
        "tmpfs",
        MountFlags::empty(),
        Some(c"size=64k"),
    ) {
        eprintln!("skipped: no file system can be mounted: {error}");
        return;
    }
    let (listed, removed) = (states.list(), states.remove(&name("worker")));
    unmount(&gone, UnmountFlags::DETACH).unwrap();
    assert_eq!(listed.unwrap().len(), 1);
    let error = removed.unwrap_err().to_string();
    assert!(
        error.contains("cannot remove") && error.contains(".gone"),
        "{error}"
    );
    states.remove(&name("worker")).unwrap();
}

/// Whoever waits for a pipe that nobody opens would wait with the directory's lock in hand.
#[track_caller]
fn within<T: Send + 'static>(what: String, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    match outcome.recv_timeout(Duration::from_secs(30)) {
        Ok(outcome) => outcome,
        Err(_) => panic!("{what}: hangs"),
    }
}

#[test]
fn files_of_another_kind_hide_nobody_and_hold_up_nobody() {
    type Make = fn(&Path);
    let kinds: [(&str, Make); 4] = [
        ("pipe", |path| {
            assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
        ("directory", |path| fs::create_dir(path).unwrap()),
        ("link", |path| {
            std::os::unix::fs::symlink("/dev/zero", path).unwrap()
        }),
        ("socket", |path| {
            drop(std::os::unix::net::UnixListener::bind(path).unwrap())
        }),
    ];
    for file in [
        "lock",
        "record.json",
        "record.tmp",
        "log",
        "log.1",
        "supervisor.log",
    ] {
        for (kind, make) in kinds {
            let claim = format!("a {kind} as {file}");
            let (_temporary, states) = states();
            for each in ["other", "worker"] {
                states.create(&name(each), json!({})).unwrap();
            }
            let path = states.dir_of(&name("worker")).join(file);
            let _ = fs::remove_file(&path);
            make(&path);
            within(claim.clone(), move || {
                let seen = states.list().unwrap();
                let shown: Vec<_> = seen.iter().map(|seen| seen.name.as_str()).collect();
                assert_eq!(shown, ["other", "worker"], "{claim}");
                assert_eq!(seen[0].state, State::Created, "{claim}");
                let damaged = ["lock", "record.json"].contains(&file);
                assert_eq!(
                    seen[1].state == State::Damaged,
                    damaged,
                    "{claim}: {seen:?}"
                );
                // Each either works or is refused.
                let _ = states
                    .owner(&name("worker"))
                    .map(|owner| assert!(owner.is_none()));
                let _ = states.log(&name("worker")).and_then(|mut log| log.tail(10));
                let _ = states.early_lines(&name("worker"), 10);
                let _ = states.early_log(&name("worker"));
                if let Ok(mut owned) = states.own(&name("worker")) {
                    let _ = owned.set_phase(Phase::Running);
                    let _ = owned.log();
                }
                states.remove(&name("worker")).unwrap();
                assert_eq!(states.list().unwrap().len(), 1, "{claim}");
            });
        }
    }
}

#[test]
fn a_log_longer_than_any_that_is_written_is_read_in_part() {
    let (_temporary, states) = states();
    states.create(&name("worker"), json!({})).unwrap();
    let path = states.dir_of(&name("worker")).join("log");
    let entry = [&b"1 out 65536\n"[..], &[b'x'; 65536], b"\n"].concat();
    let file = fs::File::create(&path).unwrap();
    // 32 MiB of it are there; the rest is a hole of 1 TiB.
    for at in 0..512_u64 {
        file.write_all_at(&entry, at * entry.len() as u64).unwrap();
    }
    file.set_len(1 << 40).unwrap();
    let mut log = states.log(&name("worker")).unwrap();
    let read: usize = log
        .tail(usize::MAX)
        .unwrap()
        .iter()
        .map(|entry| entry.bytes.len())
        .sum();
    assert!(read <= 9 << 20, "{read} bytes are held at once");
    let owned = states.own(&name("worker")).unwrap();
    owned.log().unwrap().write(Stream::Msb, b"again").unwrap();
    assert!(fs::metadata(&path).unwrap().len() <= 9 << 20);
    let last = states.log(&name("worker")).unwrap().tail(1).unwrap();
    assert_eq!(last.last().unwrap().bytes, b"again");
}

#[test]
fn a_holder_whose_directory_was_replaced_leaves_the_new_one_alone() {
    let (_temporary, states) = states();
    let worker = name("worker");
    states.create(&worker, json!({ "whose": "old" })).unwrap();
    let mut old = states.own(&worker).unwrap();
    let mut log = old.log().unwrap();
    assert!(old.is_in_place());
    fs::remove_dir_all(states.dir_of(&worker)).unwrap();
    assert!(!old.is_in_place());
    old.set_phase(Phase::Running).unwrap_err();
    states.create(&worker, json!({ "whose": "new" })).unwrap();
    let mut new = states.own(&worker).unwrap();
    let _listener = new.listen().unwrap();
    let mut new_log = new.log().unwrap();
    new_log.write(Stream::Msb, b"new").unwrap();
    new.set_phase(Phase::Running).unwrap();

    let reason = "stopped".to_owned();
    let error = old
        .set_phase(Phase::Ended { reason, code: None })
        .unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    old.listen().unwrap_err();
    old.unlisten();
    // More than one file of a log holds.
    for _ in 0..200 {
        let _ = log.write(Stream::Stdout, &[b'x'; 64 * 1024]);
    }
    drop(old);
    let seen = states.look(&worker).unwrap();
    assert_eq!(seen.state, State::Running);
    assert_eq!(seen.record.unwrap().config["whose"], "new");
    states.connect(&worker).unwrap();
    let entries = states.log(&worker).unwrap().tail(usize::MAX).unwrap();
    assert_eq!(entries.len(), 1);
}

/// Set in the process whose files may be only so long.
const CHILD: &str = "MSB_STATE_TEST_SHORT_FILES";

/// Not a test by itself: the process that cannot write on for a while.
#[test]
fn a_log_that_could_not_be_written_for_a_while_is_read_on() {
    if std::env::var_os(CHILD).is_none() {
        let line = "trap '' XFSZ; exec \"$0\" --exact --nocapture \
                    a_log_that_could_not_be_written_for_a_while_is_read_on";
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .arg(std::env::current_exe().unwrap());
        let output = command
            .env(CHILD, "1")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        return;
    }
    let (_temporary, states) = states();
    states.create(&name("worker"), json!({})).unwrap();
    let owned = states.own(&name("worker")).unwrap();
    let mut log = owned.log().unwrap();
    let mut reader = states.log(&name("worker")).unwrap();
    log.write(Stream::Stdout, b"before").unwrap();
    assert_eq!(reader.read_entry().unwrap().unwrap().bytes, b"before");
    let hard = getrlimit(Resource::Fsize).maximum;
    let limit = |current| {
        let limit = Rlimit {
            current,
            maximum: hard,
        };
        setrlimit(Resource::Fsize, limit).unwrap();
    };
    limit(Some(5000));
    log.write(Stream::Stdout, &[b'x'; 60_000]).unwrap_err();
    assert_eq!(reader.read_entry().unwrap(), None);
    limit(hard);
    for number in 0..3 {
        log.write(Stream::Stdout, format!("after {number}").as_bytes())
            .unwrap();
        let entry = reader.read_entry().unwrap().map(|entry| entry.bytes);
        assert_eq!(entry, Some(format!("after {number}").into_bytes()));
        assert_eq!(reader.read_entry().unwrap(), None);
    }
}
