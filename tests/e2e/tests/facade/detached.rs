//! A program that is not the CLI lets sandboxes outlive it, and finds them again.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use msb::{
    Detach, Error, LogStream, Piece, Sandbox, SandboxHandle, SandboxState, Sandboxes, SecretValues,
    Supervisor,
};
use msb_e2e::{HostProcess, on_guests};

fn supervisor() -> Supervisor {
    Supervisor::msb(env!("CARGO_BIN_EXE_msb-under-test"))
}

async fn sh(sandbox: &SandboxHandle, line: &str) -> String {
    let out = sandbox
        .exec("/bin/sh", ["-c", line])
        .await
        .expect("it runs");
    assert!(out.status().success(), "{line}: {out:?}");
    out.stdout().expect("text").trim().to_owned()
}

#[test]
fn a_program_makes_finds_uses_and_ends_a_sandbox_that_is_not_its_own() {
    on_guests(async {
        let dir = tempfile::tempdir().expect("a directory");
        let sandboxes = Sandboxes::open(dir.path()).expect("a state directory");
        let builder = Sandbox::builder("found")
            .env("GREETING", "hello")
            // For the case that this test does not get to its end.
            .max_duration(Duration::from_secs(200))
            .network(|n| n.publish("0:80".parse().expect("a port")));
        let line = "echo $GREETING; read word; echo \"$word\"; exec sleep 1000";
        let detach = Detach::new().command(["sh", "-c", line]).keep_stdin(true);
        let made = sandboxes.run(builder, &detach, &supervisor()).await;
        drop(made.expect("it is up"));

        let sandbox = sandboxes.connect("found").await.expect("it runs");
        let facts = sandbox.inspect().await.expect("told");
        assert_eq!(facts.programs, 1, "{facts:?}");
        assert_eq!(facts.ports.len(), 1);
        assert_ne!(facts.ports[0].host.port(), 0);
        let qemu = HostProcess::open(facts.vmm_pid).expect("QEMU");
        assert_eq!(
            sh(&sandbox, "echo $GREETING $(hostname)").await,
            "hello found"
        );

        programs_have_streams_and_signals(&sandbox).await;
        its_command_has_input_and_a_log(&sandbox).await;
        a_paused_guest_does_nothing_and_knows_the_time_afterwards(&sandbox).await;

        // A handle that is dropped, as its program's end drops it, leaves the sandbox as it is.
        drop(sandbox);
        let listed = sandboxes.list().await.expect("listed");
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].state, SandboxState::Running);
        let sandbox = sandboxes.connect("found").await.expect("it runs");
        let waiting = sandboxes.connect("found").await.expect("it runs");
        let (stopped, waited) = tokio::join!(sandbox.stop(Duration::from_secs(10)), waiting.wait());
        assert_eq!(stopped.expect("ended"), waited.expect("ended"));
        assert!(qemu.ends_within(Duration::ZERO), "QEMU is left");
        let gone = sandbox.exec("true", [""; 0]).await;
        assert!(matches!(gone, Err(Error::Ended { .. })), "{gone:?}");
        let info = sandboxes.info("found").await.expect("known");
        assert_eq!((info.state, info.code), (SandboxState::Ended, Some(143)));
        sandboxes.remove("found").await.expect("removed");
        assert!(sandboxes.list().await.expect("listed").is_empty());
    });
}

async fn programs_have_streams_and_signals(sandbox: &SandboxHandle) {
    let mut cat = sandbox.command("cat").spawn().await.expect("it starts");
    let stdin = cat.take_stdin().expect("once");
    let sent = Bytes::from(vec![b'x'; 3_000_000]);
    let feed = tokio::spawn({
        let sent = sent.clone();
        async move {
            stdin.write(sent).await?;
            stdin.close().await
        }
    });
    let mut received = Vec::new();
    let status = loop {
        match cat.next().await.expect("it runs") {
            Piece::Stdout(bytes) => received.extend_from_slice(&bytes),
            Piece::Stderr(bytes) => panic!("{bytes:?}"),
            Piece::Exit(status) => break status,
        }
    };
    feed.await.expect("no panic").expect("all was taken");
    assert!(received == sent, "{} bytes", received.len());
    assert!(status.success());

    let mut sleep = sandbox
        .command("sleep")
        .args(["1000"])
        .spawn()
        .await
        .expect("it starts");
    sleep.signal(10).await.expect("it runs");
    let piece = sleep.next().await.expect("it ends");
    assert!(
        matches!(piece, Piece::Exit(status) if status.signal() == Some(10)),
        "{piece:?}"
    );
    // Dropped, it is killed.
    let mut sleep = sandbox
        .command("sleep")
        .args(["1000"])
        .spawn()
        .await
        .expect("it starts");
    let pid = sleep.pid();
    let _ = sleep.take_stdin();
    drop(sleep);
    sh(
        sandbox,
        &format!("while kill -0 {pid} 2>/dev/null; do sleep 0.05; done"),
    )
    .await;
    let missing = sandbox.exec("no-such-program", [""; 0]).await;
    assert!(
        matches!(missing, Err(Error::ProgramNotFound(_))),
        "{missing:?}"
    );
}

async fn its_command_has_input_and_a_log(sandbox: &SandboxHandle) {
    let mut logs = sandbox.logs(None, true).await.expect("a log");
    let mut input = sandbox.input();
    input
        .write(Bytes::from_static(b"by hand\n"))
        .await
        .expect("taken");
    input.leave().await.expect("left");
    let mut text = String::new();
    while !text.contains("by hand") {
        let entry = logs.next().await.expect("readable").expect("more");
        assert_eq!(entry.stream, LogStream::Stdout);
        text.push_str(&String::from_utf8_lossy(&entry.bytes));
    }
    assert_eq!(text, "hello\nby hand\n");
}

/// What docs/lifecycle.md says about clocks is what happens.
async fn a_paused_guest_does_nothing_and_knows_the_time_afterwards(sandbox: &SandboxHandle) {
    const PAUSE: Duration = Duration::from_secs(4);
    let clocks = async || {
        let told = sh(sandbox, "cut -d' ' -f1 /proc/uptime; date +%s.%N").await;
        let (uptime, date) = told.split_once('\n').expect("two lines");
        let parse = |text: &str| text.parse::<f64>().expect("seconds");
        (parse(uptime), parse(date))
    };
    let before = clocks().await;
    let start = tokio::time::Instant::now();
    sandbox.pause().await.expect("paused");
    let refused = sandbox.exec("true", [""; 0]).await;
    assert!(matches!(refused, Err(Error::Control(_))), "{refused:?}");
    tokio::time::sleep(PAUSE).await;
    sandbox.resume().await.expect("it goes on");
    let after = clocks().await;
    let passed = start.elapsed().as_secs_f64();
    let uptime_behind = passed - (after.0 - before.0);
    let date_behind = passed - (after.1 - before.1);
    let told = format!("{passed} s with a pause of {PAUSE:?}: {uptime_behind}, {date_behind}");
    // The monotonic clock goes on from where it was; the time of day was set.
    assert!(uptime_behind > PAUSE.as_secs_f64() - 0.5, "{told}");
    assert!(date_behind < PAUSE.as_secs_f64() / 2.0, "{told}");
}

#[test]
fn a_sandbox_of_this_process_pauses_and_resumes() {
    on_guests(async {
        let guest = msb_e2e::Guest::boot("halted", |builder| builder).await;
        for _ in 0..2 {
            guest.sandbox.pause().await.expect("paused");
        }
        let waiting = guest.sandbox.exec("true", [""; 0]);
        let waited = tokio::time::timeout(Duration::from_millis(500), waiting).await;
        assert!(waited.is_err(), "{waited:?}");
        for _ in 0..2 {
            guest.sandbox.resume().await.expect("it goes on");
        }
        guest.sh("echo on").await.check("it goes on", 0, "on", "");
        guest.stop().await;
    });
}

/// None of it needs a guest to boot.
#[test]
fn what_cannot_be_detached_is_told_before_anything_starts() {
    on_guests(async {
        let dir = tempfile::tempdir().expect("a directory");
        let sandboxes = Sandboxes::open(dir.path()).expect("a state directory");
        let detach = Detach::new();
        let builder = || Sandbox::builder("kept");
        let secret = builder().secret_env("API_KEY", "sk-canary", "api.example.com");
        sandboxes
            .create(secret, &detach)
            .await
            .expect("written down");
        let record = std::fs::read_to_string(dir.path().join("kept/record.json"));
        assert!(!record.expect("a record").contains("sk-canary"));
        let gone = Supervisor::msb("/nowhere/msb");
        let values = || SecretValues::new().value("API_KEY", "sk-canary-value");
        assert!(!format!("{:?}", values()).contains("canary"));
        for (outcome, expected) in [
            (
                sandboxes.start("kept", &gone, SecretValues::new()).await,
                "API_KEY has no value",
            ),
            (
                sandboxes.start("kept", &gone, values()).await,
                "cannot run /nowhere/msb",
            ),
            (
                sandboxes
                    .start("kept", &Supervisor::program("/bin/true", [""; 0]), values())
                    .await,
                "its supervisor ended with exit status: 0",
            ),
            (
                sandboxes
                    .run(builder().on_event(|_| {}), &detach, &gone)
                    .await,
                "call back",
            ),
            (
                sandboxes.run(builder(), &detach, &gone).await,
                "the name kept is taken",
            ),
            (
                sandboxes
                    .run(
                        Sandbox::builder("zero").idle_timeout(Duration::ZERO),
                        &detach,
                        &gone,
                    )
                    .await,
                "idle_timeout of 0",
            ),
            (sandboxes.connect("kept").await, "msb start kept"),
        ] {
            let error = outcome.expect_err(expected).to_string();
            assert!(
                error
                    .replace("the sandbox's supervisor", "its supervisor")
                    .contains(expected),
                "{error}"
            );
        }
        let names: Vec<String> = entries(dir.path());
        assert_eq!(names, [".lock", "kept"]);
        sandboxes.remove("kept").await.expect("removed");
    });
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a directory").flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
