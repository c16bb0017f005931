//! Sandboxes in the background when something around them fails: QEMU hangs, the disk is full, the guest's memory is, its
//! clock has stood still, somebody removes what is theirs.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use msb_e2e::{HostProcess, on_guests};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;

use crate::detached::{Background, Expected};
use crate::{finish, list, process};

async fn facts(there: &Background, name: &str) -> serde_json::Value {
    let ended = there.msb(&format!("inspect {name}"), None).await;
    let told: serde_json::Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    told[0]["running"].clone()
}

async fn process_of(there: &Background, name: &str, field: &str) -> HostProcess {
    let facts = facts(there, name).await;
    let pid = facts[field]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok());
    HostProcess::open(pid.expect("a process id")).expect("a process")
}

#[test]
fn a_qemu_that_hangs_is_ended_by_stop_and_by_kill() {
    on_guests(async {
        let there = Background::new();
        let line = "run -d --name box base -- sleep 600";
        there.check(line, None, Expected::says("box\n")).await;
        for end in ["stop --timeout 1 box", "kill box"] {
            let qemu = process_of(&there, "box", "vmm_pid").await;
            qemu.signal(Signal::STOP);
            // The monitor is waited for, and must hold up nothing that ends the sandbox.
            let pausing = tokio::spawn(finish(there.command(["pause", "box"]), Vec::new()));
            let waiting = tokio::spawn(finish(there.command(["wait", "box"]), Vec::new()));
            there.check(end, None, Expected::says("box\n")).await;
            Expected::code(137).check(end, &waiting.await.expect("ended"));
            let paused = pausing.await.expect("ended");
            assert_eq!(paused.code, Some(crate::OWN_FAILURE), "{end}: {paused:?}");
            assert!(qemu.ends_within(Duration::ZERO), "{end}: QEMU is left");
            there
                .check("start box", None, Expected::says("box\n"))
                .await;
        }
        there
            .check("rm -f box", None, Expected::says("box\n"))
            .await;
        there.check_nothing_is_left("after both").await;
    });
}

#[test]
fn a_sandbox_whose_directory_is_removed_ends_and_its_name_is_free() {
    on_guests(async {
        let there = Background::new();
        let line = "run -d --name box base -- sleep 600";
        there.check(line, None, Expected::says("box\n")).await;
        let old = process_of(&there, "box", "supervisor_pid").await;
        fs::remove_dir_all(there.state().join("box")).expect("removed");
        there.check(line, None, Expected::says("box\n")).await;
        assert!(old.ends_within(Duration::from_secs(30)), "it goes on");
        // The one that ended has touched nothing of the other.
        assert_eq!(there.info("box").await["state"], "running");
        there.check("exec box true", None, Expected::code(0)).await;
        there
            .check("rm -f box", None, Expected::says("box\n"))
            .await;
        there.check_nothing_is_left("after its removal").await;
    });
}

/// A small file system in the place of the state directory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(dir: &Path) -> Option<Self> {
        fs::create_dir_all(dir).expect("a directory");
        let options = Some(c"size=1m,mode=0700");
        match mount("tmpfs", dir, "tmpfs", MountFlags::empty(), options) {
            Ok(()) => Some(Self(dir.to_owned())),
            Err(error) => {
                eprintln!("skipped: no small file system can be mounted: {error}");
                None
            }
        }
    }

    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).expect("a file");
        while file.write_all(&[b'x'; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_disk_that_is_full_when_the_guest_is_up_is_told_and_loses_no_sandbox() {
    on_guests(async {
        let there = Background::new();
        let Some(disk) = SmallDisk::mount(&there.state()) else {
            return;
        };
        // So long that what is known of a running one takes another page.
        let variable = "x".repeat(2048);
        let mut create = there.command(["create", "--name", "box", "base", "-e"]);
        create.arg(format!("LONG={variable}"));
        let created = finish(create, Vec::new()).await;
        Expected::says("box\n").check("create", &created);
        let starting = tokio::spawn(finish(there.command(["start", "box"]), Vec::new()));
        let record = there.state().join("box/record.json");
        while !fs::read_to_string(&record).is_ok_and(|text| text.contains("\"starting\"")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        disk.fill();
        let started = starting.await.expect("ended");
        let expected = Expected::fails("No space left on device");
        expected.check("start", &started);
        there.check("ps -a", None, Expected::says("box ")).await;
        let state = there.info("box").await["state"].clone();
        assert!(state == "crashed" || state == "ended", "{state}");
        let expected = Expected::fails("No space left on device");
        there
            .check("create --name other base", None, expected)
            .await;
        fs::remove_file(there.state().join("filler")).expect("removed");
        there
            .check("start box", None, Expected::says("box\n"))
            .await;
        disk.fill();
        // What it writes is lost, and it goes on.
        there
            .check("exec box echo on", None, Expected::says("on\n"))
            .await;
        there.check("stop box", None, Expected::says("box\n")).await;
        there.check("rm box", None, Expected::says("box\n")).await;
        fs::remove_file(there.state().join("filler")).expect("removed");
        assert_eq!(list(&there.state()), [".lock"]);
        drop(disk);
        there.place.check_nothing_is_left("after its removal");
    });
}

fn host_seconds() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("after 1970").as_secs_f64()
}

/// How far the guest's time of day is behind, in seconds, as far as a call can tell.
async fn behind(there: &Background) -> f64 {
    let ended = there
        .check("exec box date +%s.%N", None, Expected::code(0))
        .await;
    let text = String::from_utf8(ended.stdout).expect("a number");
    host_seconds() - text.trim().parse::<f64>().expect("a number")
}

#[test]
fn the_guests_clock_is_right_after_a_pause() {
    on_guests(async {
        let there = Background::new();
        let line = "run -d --name box --no-command base";
        there.check(line, None, Expected::says("box\n")).await;
        let before = behind(&there).await;
        there
            .check("pause box", None, Expected::says("box\n"))
            .await;
        // Not to wait for something: this is how long it is paused.
        tokio::time::sleep(Duration::from_secs(5)).await;
        there
            .check("resume box", None, Expected::says("box\n"))
            .await;
        let after = behind(&there).await;
        assert!(
            after < before.abs() + 2.0,
            "{before} s before, {after} s after"
        );
        // It is not set back: what the guest does with its clock is its own business.
        let line = "exec box date -s @4000000000";
        there.check(line, None, Expected::code(0)).await;
        for line in ["pause box", "resume box"] {
            there.check(line, None, Expected::says("box\n")).await;
        }
        assert!(behind(&there).await < -1_000_000.0);
        there
            .check("rm -f box", None, Expected::says("box\n"))
            .await;
        there.check_nothing_is_left("after its removal").await;
    });
}

#[test]
fn limits_and_memory_of_a_sandbox_in_the_background_are_told() {
    on_guests(async {
        let there = Background::new();
        let eat = "x = []\nwhile True: x.append(b'x' * 10_000_000)";
        let line = "run -d --name box --memory 192 --ulimit nofile=77:88 base -- python3 -c";
        there.check(line, Some(eat), Expected::says("box\n")).await;
        there.check("wait box", None, Expected::code(137)).await;
        let logs = there.check("logs box", None, Expected::code(0)).await;
        assert!(
            logs.stderr
                .contains("ran out of memory, and its kernel killed python3 ("),
            "{logs:?}"
        );
        there.check("rm box", None, Expected::says("box\n")).await;

        let line = "run -d --name box --ulimit nofile=77:88 base -- sh -c";
        let command = Some("ulimit -n; sleep 600");
        there.check(line, command, Expected::says("box\n")).await;
        for (line, expected) in [
            ("exec box sh -c", "77 88\n"),
            ("exec --ulimit nofile=99 box sh -c", "99 99\n"),
        ] {
            let limits = Some("echo $(ulimit -Sn) $(ulimit -Hn)");
            there.check(line, limits, Expected::says(expected)).await;
        }
        there.check("logs box", None, Expected::says("77\n")).await;
        there
            .check("rm -f box", None, Expected::says("box\n"))
            .await;
        there.check_nothing_is_left("after its removal").await;
    });
}

/// Whether the process has this file open.
fn has_open(process: &HostProcess, file: &Path) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", process.pid()));
    let paths = descriptors.into_iter().flatten().flatten();
    let mut paths = paths.filter_map(|fd| fs::read_link(fd.path()).ok());
    paths.any(|path| path == file)
}

#[test]
fn a_run_that_is_interrupted_before_it_has_the_name_leaves_whose_it_is() {
    on_guests(async {
        let there = Background::new();
        let line = "create --name box base -- true";
        there.check(line, None, Expected::says("box\n")).await;
        let guard = there.state().join(".lock");
        let held = File::open(&guard).expect("the directory's lock");
        held.lock().expect("locked");
        let mut run = there.command(["run", "-d", "--name", "box", "base", "--", "true"]);
        let mut child = run.spawn().expect("msb starts");
        let msb = process(&child);
        // It waits for the lock, which is what it has that file open for.
        while !has_open(&msb, &guard) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        msb.signal(Signal::INT);
        let ended = tokio::time::timeout(Duration::from_secs(1), child.wait()).await;
        drop(held);
        let status = match ended {
            Ok(status) => status,
            Err(_) => child.wait().await,
        };
        assert_eq!(status.expect("an end").code(), Some(130));
        assert_eq!(there.info("box").await["state"], "created");
        there.check("rm box", None, Expected::says("box\n")).await;
        there.check_nothing_is_left("after its removal").await;
    });
}

#[test]
fn one_sandbox_that_fails_keeps_the_others_from_nothing() {
    on_guests(async {
        let there = Background::new();
        for name in ["one", "two"] {
            let line = format!("create --name {name} base -- true");
            there.check(&line, None, Expected::code(0)).await;
        }
        let fails = |stdout| Expected {
            code: crate::OWN_FAILURE,
            stdout,
            stderr: "there is no sandbox none",
        };
        there
            .check("stop one none two", None, fails("one\ntwo\n"))
            .await;
        there.check("rm none one", None, fails("one\n")).await;
        there.check("rm -f none two", None, fails("two\n")).await;
        there.check_nothing_is_left("after all were removed").await;
    });
}

#[test]
fn a_supervisor_that_is_killed_leaves_nobody_who_serves_its_directories() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: QEMU's own virtiofsd serves directories as root only");
        return;
    }
    on_guests(async {
        let there = Background::new();
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().display().to_string();
        let line = format!("run -d --name box -v {path}:/work base -- sleep 600");
        let servers = || {
            let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
            let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
            let of_ours = |line: &Vec<u8>| {
                let line = String::from_utf8_lossy(line);
                line.contains("virtiofsd") && line.contains(&path)
            };
            lines.filter(of_ours).count()
        };
        there.check(&line, None, Expected::says("box\n")).await;
        assert!(servers() > 0);
        let supervisor = process_of(&there, "box", "supervisor_pid").await;
        supervisor.signal(Signal::KILL);
        let gone = async {
            while servers() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(20), gone).await;
        assert!(gone.is_ok(), "a virtiofsd is left");
        assert_eq!(there.info("box").await["state"], "crashed");

        // One that is killed takes the sandbox with it, which would hang otherwise.
        there
            .check("start box", None, Expected::says("box\n"))
            .await;
        let waiting = tokio::spawn(finish(there.command(["wait", "box"]), Vec::new()));
        let supervisor = process_of(&there, "box", "supervisor_pid").await;
        let named = |child: &&HostProcess| child.read("comm").starts_with(b"virtiofsd");
        let children = supervisor.children();
        children
            .iter()
            .find(named)
            .expect("a virtiofsd")
            .signal(Signal::KILL);
        Expected::fails("one of its directories is lost")
            .check("wait", &waiting.await.expect("ended"));
        there.check("rm box", None, Expected::says("box\n")).await;
        there.check_nothing_is_left("after its removal").await;
    });
}

#[test]
fn a_run_whose_words_nobody_hears_goes_on() {
    on_guests(async {
        let place = crate::Place::new();
        let mut run = place.msb(["run", "-p", "0:80", "base", "--", "echo", "on"]);
        run.stderr(File::create("/dev/full").expect("every Linux has it"));
        let ended = finish(run, Vec::new()).await;
        assert_eq!((ended.code, &ended.stdout[..]), (Some(0), &b"on\n"[..]));
    });
}

#[test]
fn what_a_shell_has_left_open_is_closed_when_msb_has_ended() {
    on_guests(async {
        let there = Background::new();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let msb = there.command(["run", "-d", "--name", "box", "base", "--", "sleep", "600"]);
        let mut shell = tokio::process::Command::new("sh");
        shell.args(["-c", "file=$1; shift; exec \"$@\" 7> \"$file\"", "sh"]);
        shell.arg(file.path()).arg(msb.as_std().get_program());
        shell.args(msb.as_std().get_args());
        for (name, value) in msb.as_std().get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let ended = shell.output().await.expect("a shell");
        assert!(ended.status.success(), "{ended:?}");
        for field in ["supervisor_pid", "vmm_pid"] {
            let process = process_of(&there, "box", field).await;
            assert!(!has_open(&process, file.path()), "{field}");
        }
        there
            .check("rm -f box", None, Expected::says("box\n"))
            .await;
        there.check_nothing_is_left("after its removal").await;
    });
}
