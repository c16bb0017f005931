//! A sandbox whose supervisor, or the command that starts it, is killed at any named moment can be looked at, started and
//! removed, and nothing of it is left.

use msb_e2e::on_guests;
use msb_state::crash::{OF_STARTER, OF_SUPERVISOR};

use crate::detached::{Background, Expected};
use crate::finish;

/// What `run -d` passes and `start` does not.
const OF_RUN: &str = "start-created";
/// Of the state directory's own moments, which it has tests for itself, some in the supervisor: the first record is that which
/// says `starting`.
const OF_STATE: [&str; 3] = ["record-written", "record-replaced#2", "log-half-written"];

fn points() -> impl Iterator<Item = &'static str> {
    let starter = OF_STARTER.iter().copied().filter(|point| *point != OF_RUN);
    let supervisor = OF_SUPERVISOR.iter().copied();
    starter.chain(supervisor).chain(OF_STATE)
}

async fn check_point(there: &Background, point: &str) {
    let command = "echo a word; sleep 600";
    there
        .check(
            "create --name box base -- sh -c",
            Some(command),
            Expected::says("box\n"),
        )
        .await;
    let mut start = there.command(["start", "box"]);
    start.env("MSB_CRASH_AT", point);
    let started = finish(start, Vec::new()).await;
    if started.code == Some(0) {
        // Some moments are those of its end, and some have passed already.
        there.msb("kill box", None).await;
    }
    // One whose starter was killed takes a moment to give up.
    let info = loop {
        let info = there.info("box").await;
        if info["state"] != "starting" {
            break info;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    let states = match point {
        // Nobody has heard that it is up, and it is.
        "start-told" => &["running"][..],
        _ => &["created", "crashed", "ended"],
    };
    assert!(
        states.iter().any(|state| info["state"] == *state),
        "{point}: {info} after {started:?}"
    );
    if info["state"] != "running" {
        there
            .check("start box", None, Expected::says("box\n"))
            .await;
    }
    there
        .check("exec box echo well", None, Expected::says("well\n"))
        .await;
    assert_eq!(there.info("box").await["state"], "running", "{point}");
    there
        .check("rm -f box", None, Expected::says("box\n"))
        .await;
    there.check_nothing_is_left(point).await;
}

fn check_points(part: usize, of: usize) {
    on_guests(async {
        let there = Background::new();
        for point in points().skip(part).step_by(of) {
            check_point(&there, point).await;
        }
    });
}

#[test]
fn a_kill_at_any_moment_leaves_a_sandbox_that_starts_again_1() {
    check_points(0, 4);
}

#[test]
fn a_kill_at_any_moment_leaves_a_sandbox_that_starts_again_2() {
    check_points(1, 4);
}

#[test]
fn a_kill_at_any_moment_leaves_a_sandbox_that_starts_again_3() {
    check_points(2, 4);
}

#[test]
fn a_kill_at_any_moment_leaves_a_sandbox_that_starts_again_4() {
    check_points(3, 4);
}

/// `run -d` itself: before there is a supervisor, and a supervisor that is killed while it waits.
#[test]
fn a_run_that_is_killed_or_loses_its_supervisor_leaves_what_can_be_removed() {
    on_guests(async {
        let there = Background::new();
        for (point, left) in [
            ("create-recorded", false),
            (OF_RUN, true),
            ("supervisor-begun", false),
            ("supervisor-booted", false),
        ] {
            let mut run = there.command(["run", "-d", "--name", "box", "base", "--", "true"]);
            run.env("MSB_CRASH_AT", point);
            let ended = finish(run, Vec::new()).await;
            assert_ne!(ended.code, Some(0), "{point}");
            assert_eq!(
                there.info("box").await.is_null(),
                !left,
                "{point}: {ended:?}"
            );
            if left {
                there.check("rm box", None, Expected::says("box\n")).await;
            } else if point.starts_with("supervisor") {
                assert!(ended.stderr.contains("SIGKILL"), "{point}: {ended:?}");
            }
            there.check_nothing_is_left(point).await;
        }
    });
}
