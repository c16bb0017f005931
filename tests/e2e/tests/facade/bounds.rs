//! What bounds a program: its time, its limits, the guest's memory.

use std::time::{Duration, Instant};

use msb::Ulimit;
use msb_e2e::{Guest, on_guests};

#[test]
fn programs_keep_within_their_bounds() {
    on_guests(async {
        let guest = Guest::boot("bounds", |builder| {
            ["nofile=111:222", "core=5120:6144"]
                .iter()
                .fold(builder.memory(256), |builder, text| {
                    builder.ulimit(text.parse().expect("a limit"))
                })
        })
        .await;
        limits_of_the_sandbox_are_every_programs(&guest).await;
        programs_end_when_their_time_is_over(&guest).await;
        limits_are_those_asked_for(&guest).await;
        whom_the_kernel_killed_for_memory_is_told(&guest).await;
        a_writer_left_behind_does_not_hold_exec(&guest).await;
        guest.stop().await;
    });
}

async fn programs_end_when_their_time_is_over(guest: &Guest) {
    for (line, limit, code, timed_out) in [
        ("sleep 1000", 300, 143, true),
        ("sleep 1000 & wait", 300, 143, true),
        (
            "trap 'exit 7' TERM; while :; do sleep 0.05; done",
            5000,
            7,
            true,
        ),
        (
            "trap '' TERM; while :; do sleep 0.05; done",
            5000,
            137,
            true,
        ),
        ("exit 3", 60_000, 3, false),
    ] {
        let command = guest.sandbox.command("sh").args(["-c", line]);
        let command = command.timeout(Duration::from_millis(limit));
        let start = Instant::now();
        let out = command.output().await.expect("run");
        let status = out.status();
        assert_eq!(status.shell_code(), code, "{line}");
        assert_eq!(status.timed_out(), timed_out, "{line}");
        if timed_out {
            assert!(start.elapsed() >= Duration::from_millis(limit), "{line}");
        }
    }
}

async fn limits_of_the_sandbox_are_every_programs(guest: &Guest) {
    let line = "echo $(ulimit -Sn) $(ulimit -Hn) $(ulimit -Sc) $(ulimit -Hc)";
    for (own, expected) in [
        (None, "111 222 5 6\n"),
        (Some("nofile=1000:2000"), "1000 2000 5 6\n"),
        (Some("nofile=7"), "7 7 5 6\n"),
    ] {
        for user in ["root", "nobody"] {
            let mut command = guest.sandbox.command("bash").args(["-c", line]).user(user);
            if let Some(own) = own {
                command = command.ulimit(own.parse().expect("a limit"));
            }
            let out = command.output().await.expect("run");
            assert_eq!(out.stdout().expect("text"), expected, "{own:?} as {user}");
        }
    }
}

async fn limits_are_those_asked_for(guest: &Guest) {
    let limits: [Ulimit; 3] =
        ["nofile=123:456", "core=0", "nproc=50:60"].map(|text| text.parse().expect("a limit"));
    let mut command = guest.sandbox.command("bash");
    for limit in limits {
        command = command.ulimit(limit);
    }
    let line =
        "echo $(ulimit -Sn) $(ulimit -Hn) $(ulimit -Sc) $(ulimit -Su) $(ulimit -Hu) $(id -u)";
    let out = command.args(["-c", line]).user("nobody").output().await;
    let out = out.expect("run");
    assert_eq!(out.stdout().expect("text"), "123 456 0 50 60 65534\n");
}

async fn whom_the_kernel_killed_for_memory_is_told(guest: &Guest) {
    let eat = "x = []\nwhile True: x.append(b'x' * 10_000_000)";
    let out = guest.sandbox.exec("python3", ["-c", eat]).await;
    let out = out.expect("run");
    assert_eq!(out.status().signal(), Some(9), "{out:?}");
    assert_eq!(out.killed_for_memory().len(), 1, "{out:?}");
    assert!(
        out.killed_for_memory()[0].starts_with("python3 ("),
        "{out:?}"
    );
    let fine = guest.sandbox.exec("true", [""; 0]).await.expect("run");
    assert_eq!(fine.killed_for_memory(), [""; 0]);
}

/// What it writes after the end of its parent is nobody's output.
async fn a_writer_left_behind_does_not_hold_exec(guest: &Guest) {
    let ran = guest.sh("yes & sleep 0.2; exit 7").await;
    assert_eq!(ran.code, 7);
}
