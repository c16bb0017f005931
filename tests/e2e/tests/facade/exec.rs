//! Programs in the guest: their streams, their ends, many of them at once.

use std::time::{Duration, Instant};

use bytes::Bytes;
use msb::{Error, Piece, Sandbox};
use msb_e2e::{Guest, on_guests};
use sha2::{Digest as _, Sha256};

const MIB: usize = 1024 * 1024;

#[test]
fn programs_lose_nothing_and_end_as_they_ended() {
    on_guests(async {
        let guest = Guest::boot("worker", |builder| builder.env("MODE", "test")).await;
        exit_statuses_are_exact(&guest).await;
        environment_and_directory_are_those_asked_for(&guest).await;
        megabytes_on_both_streams_arrive_unmixed(&guest).await;
        megabytes_of_input_arrive_unharmed(&guest.sandbox).await;
        input_that_nobody_reads_does_not_block(&guest.sandbox).await;
        output_right_before_the_exit_is_never_lost(&guest.sandbox).await;
        many_programs_run_at_once(&guest.sandbox).await;
        a_process_left_behind_does_not_hold_exec(&guest).await;
        signals_reach_a_program_and_its_children(&guest).await;
        orphans_are_reaped(&guest).await;
        guest.stop().await;
    });
}

async fn exit_statuses_are_exact(guest: &Guest) {
    for (line, code) in [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 42", 42),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -SEGV $$", 139),
    ] {
        guest.sh(line).await.check(line, code, "", "");
    }
    let missing = guest.sandbox.exec("no-such-program", [""; 0]).await;
    assert!(
        matches!(missing, Err(Error::ProgramNotFound(_))),
        "{missing:?}"
    );
    let plain_file = guest.sandbox.exec("/etc/passwd", [""; 0]).await;
    assert!(
        matches!(plain_file, Err(Error::ProgramNotExecutable(_))),
        "{plain_file:?}"
    );
    let found = guest.sandbox.exec("true", [""; 0]).await.expect("in PATH");
    assert!(found.status().success());
}

async fn environment_and_directory_are_those_asked_for(guest: &Guest) {
    let out = guest
        .sandbox
        .command("/bin/sh")
        .args(["-c", "echo $MODE $EXTRA $(pwd)"])
        .env("EXTRA", "a b")
        .cwd("/usr/lib")
        .output()
        .await
        .expect("run");
    assert_eq!(out.stdout().expect("text"), "test a b /usr/lib\n");
    let again = guest.sh("echo $MODE $EXTRA $(pwd)").await;
    again.check("the next one starts afresh", 0, "test /\n", "");
}

async fn megabytes_on_both_streams_arrive_unmixed(guest: &Guest) {
    let make = "head -c 6000001 /dev/urandom > /tmp/a; head -c 5000003 /dev/urandom > /tmp/b; sha256sum /tmp/a /tmp/b";
    let sums = guest.sh(make).await.stdout;
    let out = guest
        .sandbox
        .exec("/bin/sh", ["-c", "cat /tmp/a & cat /tmp/b >&2; wait"])
        .await
        .expect("run");
    for (name, bytes, len) in [
        ("/tmp/a", out.stdout_bytes(), 6_000_001),
        ("/tmp/b", out.stderr_bytes(), 5_000_003),
    ] {
        assert_eq!(bytes.len(), len, "{name}");
        let line = format!("{}  {name}", hex(bytes));
        assert!(sums.contains(&line), "{name} was changed on its way");
    }
}

async fn megabytes_of_input_arrive_unharmed(sandbox: &Sandbox) {
    let input: Bytes = (0..2 * 1024 * 1024_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let mut cat = sandbox.command("cat").spawn().await.expect("started");
    let stdin = cat.take_stdin().expect("once");
    let sent = input.clone();
    let feed = tokio::spawn(async move {
        stdin.write(sent).await.expect("taken");
        stdin.close().await.expect("closed");
    });
    let mut output = Vec::new();
    loop {
        match cat.next().await.expect("a piece") {
            Piece::Stdout(bytes) => output.extend_from_slice(&bytes),
            Piece::Stderr(bytes) => panic!("{bytes:?}"),
            Piece::Exit(status) => {
                assert!(status.success(), "{status}");
                break;
            }
        }
    }
    feed.await.expect("fed");
    assert!(output == input, "{} bytes came back", output.len());
}

async fn input_that_nobody_reads_does_not_block(sandbox: &Sandbox) {
    let mut head = sandbox
        .command("/bin/sh")
        .args(["-c", "head -c 3"])
        .spawn()
        .await
        .expect("started");
    let stdin = head.take_stdin().expect("once");
    let feed = tokio::spawn(async move { stdin.write(Bytes::from(vec![b'x'; 8 * MIB])).await });
    let mut output = Vec::new();
    let status = loop {
        match head.next().await.expect("a piece") {
            Piece::Exit(status) => break status,
            Piece::Stdout(bytes) | Piece::Stderr(bytes) => output.extend_from_slice(&bytes),
        }
    };
    assert!(status.success());
    assert_eq!(output, b"xxx");
    drop(head);
    // Whether it was all taken is of no interest; that it does not wait for ever is.
    let _ = feed.await.expect("the writer ends");
}

async fn output_right_before_the_exit_is_never_lost(sandbox: &Sandbox) {
    const AT_ONCE: usize = 4;
    for round in 0..200 / AT_ONCE {
        let one = async |n: usize| {
            let text = format!("round {round} program {n}");
            let line = format!("echo '{text}'; echo 'E {text}' >&2; exit 3");
            // A static program: most of the others' time is spent on being loaded.
            let out = sandbox.exec("busybox", ["sh", "-c", &line]).await;
            let out = out.expect("run");
            assert_eq!(out.stdout().expect("text"), format!("{text}\n"));
            assert_eq!(out.stderr().expect("text"), format!("E {text}\n"));
            assert_eq!(out.status().code(), Some(3));
        };
        tokio::join!(one(0), one(1), one(2), one(3));
    }
}

async fn many_programs_run_at_once(sandbox: &Sandbox) {
    const PROGRAMS: usize = 40;
    let mut running = Vec::new();
    for n in 0..PROGRAMS {
        let program = sandbox
            .command("/bin/sh")
            .args(["-c", "read word; echo \"got $word\"; exit $word"])
            .spawn()
            .await
            .expect("started");
        running.push((n, program));
    }
    // All of them wait; the last one started is fed first.
    for (n, program) in running.iter_mut().rev() {
        let stdin = program.take_stdin().expect("once");
        stdin.write(format!("{n}\n").into()).await.expect("taken");
    }
    for (n, mut program) in running {
        let mut text = Vec::new();
        let status = loop {
            match program.next().await.expect("a piece") {
                Piece::Exit(status) => break status,
                Piece::Stdout(bytes) | Piece::Stderr(bytes) => text.extend_from_slice(&bytes),
            }
        };
        assert_eq!(text, format!("got {n}\n").as_bytes());
        assert_eq!(usize::from(status.shell_code()), n);
    }
}

async fn a_process_left_behind_does_not_hold_exec(guest: &Guest) {
    let ran = guest.sh("sleep 1000 & echo started; exit 7").await;
    ran.check(
        "a background process holds the streams open",
        7,
        "started\n",
        "",
    );
    assert!(ran.took < Duration::from_secs(10), "{:?}", ran.took);
}

async fn signals_reach_a_program_and_its_children(guest: &Guest) {
    // The shell would tell of the end of its `sleep`, which gets the signal too.
    let line = "exec 2> /dev/null; trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut program = guest
        .sandbox
        .command("/bin/sh")
        .args(["-c", line])
        .spawn()
        .await
        .expect("started");
    assert_eq!(
        program.next().await.expect("a piece"),
        Piece::Stdout("ready\n".into())
    );
    program.signal(15).await.expect("sent");
    assert_eq!(
        program.next().await.expect("a piece"),
        Piece::Stdout("caught\n".into())
    );
    let Piece::Exit(status) = program.next().await.expect("a piece") else {
        panic!("not the exit");
    };
    assert_eq!(status.code(), Some(9));
    let dropped = guest
        .sandbox
        .command("/bin/sh")
        .args(["-c", "sleep 7777; true"])
        .spawn()
        .await
        .expect("started");
    drop(dropped);
    let gone = "for i in $(seq 100); do grep -qs '7777' /proc/[0-9]*/cmdline || exit 0; sleep 0.1; done; exit 1";
    let gone = gone.replace("'7777'", "777[7]");
    guest
        .sh(&gone)
        .await
        .check("dropping a program ends its children", 0, "", "");
}

async fn orphans_are_reaped(guest: &Guest) {
    let start = Instant::now();
    let make = "for i in $(seq 20); do (sleep 0.2 &) ; done";
    guest.sh(make).await.check("orphans", 0, "", "");
    let none = "for i in $(seq 100); do cat /proc/[0-9]*/stat 2> /dev/null | grep -q ') Z ' || exit 0; sleep 0.1; done; ps; exit 1";
    guest.sh(none).await.check("no zombie stays", 0, "", "");
    assert!(start.elapsed() < Duration::from_secs(12));
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
