//! Programs on a terminal of the guest's.

use msb::{Command, Error, ExitStatus, Piece, Process};
use msb_e2e::{Guest, on_guests};

#[test]
fn programs_on_a_terminal_have_one_of_their_own() {
    on_guests(async {
        let guest = Guest::boot("terminals", |builder| builder).await;
        the_terminal_is_what_was_asked_for(&guest).await;
        a_new_size_reaches_the_program(&guest).await;
        keys_are_signals_and_the_end_of_input(&guest).await;
        exit_statuses_are_exact(&guest).await;
        nothing_that_was_written_is_lost(&guest).await;
        a_dropped_program_takes_its_jobs_along(&guest).await;
        what_cannot_be_is_refused(&guest).await;
        guest.stop().await;
    });
}

fn sh<'a>(guest: &'a Guest, line: &str) -> Command<'a> {
    let command = guest.sandbox.command("sh").args(["-c", line]);
    command.tty(40, 120)
}

/// Reads on until the text ends with `until`.
async fn read_until(process: &mut Process, until: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(until) {
        match process.next().await.expect("a piece") {
            Piece::Stdout(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} behind {text:?}, not {until:?}"),
        }
    }
    text
}

async fn to_its_end(process: &mut Process) -> (String, ExitStatus) {
    let mut text = String::new();
    loop {
        match process.next().await.expect("a piece") {
            Piece::Stdout(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
            Piece::Exit(status) => return (text, status),
            Piece::Stderr(bytes) => panic!("{bytes:?}"),
        }
    }
}

async fn the_terminal_is_what_was_asked_for(guest: &Guest) {
    let line = "stty size; echo $TERM; tty | cut -c 1-9; stat -c '%U:%G %a' $(tty); echo x >&2; : > /dev/tty && echo own";
    let mut process = sh(guest, line).user("nobody").spawn().await.expect("run");
    let (text, status) = to_its_end(&mut process).await;
    assert!(status.success(), "{text}");
    let expected = [
        "40 120",
        "xterm",
        "/dev/pts/",
        "nobody:tty 620",
        "x",
        "own",
        "",
    ];
    assert_eq!(text, expected.join("\r\n"));
}

async fn a_new_size_reaches_the_program(guest: &Guest) {
    let line = "trap 'stty size' WINCH; stty -echo; echo ready; while :; do sleep 0.05; done";
    let mut process = sh(guest, line).spawn().await.expect("run");
    read_until(&mut process, "ready\r\n").await;
    for (rows, cols) in [(20, 60), (1, 1), (65535, 500)] {
        process.resize(rows, cols).await.expect("resized");
        let text = read_until(&mut process, "\r\n").await;
        assert_eq!(text, format!("{rows} {cols}\r\n"));
    }
    process.signal(9).await.expect("sent");
    let (_, status) = to_its_end(&mut process).await;
    assert_eq!(status.signal(), Some(9));
}

async fn keys_are_signals_and_the_end_of_input(guest: &Guest) {
    let sleep = sh(guest, "stty -echo; echo ready; exec sleep 1000");
    let mut process = sleep.spawn().await.expect("run");
    read_until(&mut process, "ready\r\n").await;
    let stdin = process.take_stdin().expect("once");
    stdin.write("\x03".into()).await.expect("typed");
    let (_, status) = to_its_end(&mut process).await;
    assert_eq!(status.shell_code(), 130);

    for (input, lines) in [
        ("one\ntwo\n", "one\r\ntwo\r\n"),
        ("one\nhalf", "one\r\nhalf"),
    ] {
        let cat = sh(guest, "stty -echo; echo ready; cat");
        let mut process = cat.spawn().await.expect("run");
        read_until(&mut process, "ready\r\n").await;
        let stdin = process.take_stdin().expect("once");
        stdin.write(input.into()).await.expect("typed");
        stdin.close().await.expect("ended");
        let (text, status) = to_its_end(&mut process).await;
        assert!(status.success());
        assert_eq!(text, lines, "{input:?}");
    }
}

async fn exit_statuses_are_exact(guest: &Guest) {
    for (line, code) in [("exit 0", 0), ("exit 42", 42), ("kill -TERM $$", 143)] {
        let mut process = sh(guest, line).spawn().await.expect("run");
        let (_, status) = to_its_end(&mut process).await;
        assert_eq!(status.shell_code(), code, "{line}");
    }
    let missing = guest.sandbox.command("no-such-program").tty(1, 1);
    let missing = missing.spawn().await.expect_err("missing");
    assert!(matches!(missing, Error::ProgramNotFound(_)), "{missing}");
    let plain = guest.sandbox.command("/etc/passwd").tty(1, 1);
    let plain = plain.spawn().await.expect_err("no program");
    assert!(matches!(plain, Error::ProgramNotExecutable(_)), "{plain}");
}

async fn nothing_that_was_written_is_lost(guest: &Guest) {
    let mut process = sh(guest, "seq 1 60000").spawn().await.expect("run");
    let (text, status) = to_its_end(&mut process).await;
    assert!(status.success());
    let expected: String = (1..=60000).map(|n| format!("{n}\r\n")).collect();
    assert!(text == expected, "{} of {}", text.len(), expected.len());
    for round in 0..40 {
        // With one that stays behind on the terminal, and without.
        let line = match round % 2 {
            0 => format!("echo round {round}"),
            _ => format!("(trap '' HUP; sleep 30) & echo round {round}"),
        };
        let mut process = sh(guest, &line).spawn().await.expect("run");
        let (text, _) = to_its_end(&mut process).await;
        assert_eq!(text, format!("round {round}\r\n"));
    }
}

async fn a_dropped_program_takes_its_jobs_along(guest: &Guest) {
    let line = "set -m; (trap '' HUP TERM; sleep 7717; true) & stty -echo; echo ready; wait";
    let mut process = sh(guest, line).spawn().await.expect("run");
    let text = read_until(&mut process, "ready\r\n").await;
    assert!(!text.contains("7717"), "{text}");
    drop(process);
    let gone = "for i in $(seq 100); do grep -qs '771[7]' /proc/[0-9]*/cmdline || exit 0; sleep 0.1; done; exit 1";
    let claim = "a job in a group of its own ends with its session";
    guest.sh(gone).await.check(claim, 0, "", "");
}

async fn what_cannot_be_is_refused(guest: &Guest) {
    let error = guest.sandbox.command("true").tty(0, 80).spawn().await;
    let error = error.expect_err("no rows").to_string();
    assert!(error.contains("1 to 65535"), "{error}");
    let mut cat = guest.sandbox.command("cat").spawn().await.expect("run");
    let error = cat.resize(10, 10).await.expect_err("no terminal");
    assert!(error.to_string().contains("has no terminal"), "{error}");
    drop(cat.take_stdin());
    let Piece::Exit(_) = cat.next().await.expect("a piece") else {
        panic!("not the end");
    };
    let error = cat.resize(10, 10).await.expect_err("it has ended");
    assert!(error.to_string().contains("no exec"), "{error}");
}
