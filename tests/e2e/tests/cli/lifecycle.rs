//! Sandboxes in the background: each command, what it refuses, and that nothing is left.

use std::process::Stdio;
use std::time::Duration;

use msb_e2e::{API, HostProcess, Origins, on_guests};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::detached::{Background, Expected};
use crate::finish;
use crate::terminal::Screen;

const VALUE: &str = "sk-canary-7d1f5a90c3";

#[test]
fn a_sandbox_in_the_background_answers_every_command() {
    on_guests(async {
        let there = Background::new();
        let says = Expected::says;
        let code = Expected::code;
        let line = "echo up; echo complaint >&2; while read word; do echo got $word; done; exit 5";
        there
            .check(
                "run -d -i --name box base -- sh -c",
                Some(line),
                says("box\n"),
            )
            .await;
        let info = there.info("box").await;
        assert_eq!(info["state"], "running", "{info}");
        there.check("ps", None, says("box ")).await;

        for (line, expected) in [
            ("exec box echo hi", says("hi\n")),
            ("exec box -- hostname", says("box\n")),
            ("exec -w /usr/lib box pwd", says("/usr/lib\n")),
            ("exec -e A=b box printenv A", says("b\n")),
            ("exec box false", code(1)),
            ("exec box no-such-program", code(127)),
            ("exec box /etc/passwd", code(126)),
        ] {
            there.check(line, None, expected).await;
        }
        there
            .check("exec box sh -c", Some("kill -TERM $$"), code(143))
            .await;

        files_are_copied_both_ways(&there).await;
        streams_pass_through_many_execs_at_once(&there).await;
        pausing_refuses_programs_until_it_goes_on(&there).await;

        let ended = there.check("logs box", None, says("up\n")).await;
        assert_eq!(ended.stderr, "complaint\n");
        let ended = there
            .check("inspect box", None, says("\"supervisor_pid\""))
            .await;
        let told: serde_json::Value = serde_json::from_slice(&ended.stdout).expect("JSON");
        assert_eq!(told[0]["running"]["paused"], false, "{told}");

        // Its command reads what is attached, and the sandbox ends with it.
        let waiting = tokio::spawn(finish(there.command(["wait", "box"]), Vec::new()));
        let follow = tokio::spawn(finish(there.command(["logs", "-f", "box"]), Vec::new()));
        let attached = finish(there.command(["attach", "box"]), b"one\ntwo\n".to_vec()).await;
        code(5).check("attach", &attached);
        assert_eq!(attached.stdout, b"got one\ngot two\n");
        code(5).check("wait", &waiting.await.expect("ended"));
        let followed = follow.await.expect("ended");
        assert_eq!(followed.stdout, b"up\ngot one\ngot two\n", "{followed:?}");

        let info = there.info("box").await;
        assert_eq!(
            (&info["state"], &info["code"]),
            (&"ended".into(), &5.into())
        );
        for line in [
            "exec box true",
            "attach box",
            "pause box",
            "resume box",
            "kill box",
        ] {
            there
                .check(line, None, Expected::fails("`msb start box`"))
                .await;
        }
        there.check("wait box", None, code(5)).await;
        there.check("stop box", None, says("box\n")).await;
        there
            .check("logs --tail 1 box", None, says("got two\n"))
            .await;

        there.check("start box", None, says("box\n")).await;
        there
            .check("start box", None, Expected::fails("is running"))
            .await;
        there
            .check("rm box", None, Expected::fails("`msb stop box`"))
            .await;
        there
            .check("kill --signal HUP box", None, says("box\n"))
            .await;
        there.check("wait box", None, code(129)).await;
        there.check("start box", None, says("box\n")).await;
        there
            .check("stop --timeout 5 box", None, says("box\n"))
            .await;
        there.check("wait box", None, code(143)).await;
        there.check("rm box", None, says("box\n")).await;
        there.check_nothing_is_left("after its removal").await;
    });
}

async fn files_are_copied_both_ways(there: &Background) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::create_dir(path("tree")).expect("a directory");
    std::fs::write(path("tree/file"), "one\n").expect("a file");
    std::os::unix::fs::symlink("file", path("tree/link")).expect("a link");
    let copy = async |from: &str, to: &str, expected| {
        there
            .check(&format!("cp {from} {to}"), None, expected)
            .await;
    };
    copy(&path("tree"), "box:/root", Expected::code(0)).await;
    let line = "exec box cat /root/tree/link";
    there.check(line, None, Expected::says("one\n")).await;
    copy("box:/root/tree", &path("back"), Expected::code(0)).await;
    let read = std::fs::read_to_string(path("back/link"));
    assert_eq!(read.expect("the link"), "one\n");
    copy("box:/root/tree/file", &path("one"), Expected::code(0)).await;
    assert_eq!(
        std::fs::read_to_string(path("one")).expect("the file"),
        "one\n"
    );
    for (from, to, said) in [
        ("/etc", "/tmp/x", "both paths are of this host"),
        ("box:/etc", "box:/tmp", "both paths are in sandboxes"),
        ("box:etc", "x", "absolute path"),
        ("box:/no/such", "x", "/no/such"),
        ("/no/such", "box:/tmp", "/no/such"),
        ("bax:/etc", "x", "box"),
    ] {
        copy(from, to, Expected::fails(said)).await;
    }
}

async fn streams_pass_through_many_execs_at_once(there: &Background) {
    let mut running = tokio::task::JoinSet::new();
    for number in 0..8_u32 {
        let input: Vec<u8> = (0..200_000_u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761 + number).to_le_bytes())
            .collect();
        let exec = finish(there.command(["exec", "-i", "box", "cat"]), input.clone());
        running.spawn(async move {
            let ended = exec.await;
            assert_eq!(ended.code, Some(0), "{:.300}", ended.stderr);
            assert!(ended.stdout == input, "{} bytes", ended.stdout.len());
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("whole");
    }
    // A client that is killed takes its program with it.
    let mut child = there
        .command(["exec", "box", "sh", "-c", "echo $$; exec sleep 1000"])
        .spawn()
        .expect("msb starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut pid = String::new();
    stdout.read_line(&mut pid).await.expect("UTF-8");
    child.kill().await.expect("killed");
    let gone = format!(
        "while kill -0 {} 2>/dev/null; do sleep 0.1; done",
        pid.trim()
    );
    there
        .check("exec box sh -c", Some(&gone), Expected::code(0))
        .await;
}

async fn pausing_refuses_programs_until_it_goes_on(there: &Background) {
    let says = Expected::says;
    for _ in 0..2 {
        there.check("pause box", None, says("box\n")).await;
    }
    assert_eq!(there.info("box").await["state"], "paused");
    there
        .check("exec box true", None, Expected::fails("`msb resume box`"))
        .await;
    for _ in 0..2 {
        there.check("resume box", None, says("box\n")).await;
    }
    assert_eq!(there.info("box").await["state"], "running");
    there.check("exec box echo on", None, says("on\n")).await;
}

/// None of it needs a guest to boot.
#[test]
fn what_cannot_be_done_says_what_to_do() {
    on_guests(async {
        let there = Background::new();
        let (says, fails) = (Expected::says, Expected::fails);
        there
            .check("create --name worker base", None, says("worker\n"))
            .await;
        there
            .check("create --name other base -- true", None, says("other\n"))
            .await;
        let ended = there.check("create base", None, says("sandbox-")).await;
        let generated = String::from_utf8_lossy(&ended.stdout).trim().to_owned();
        let hint = "`msb start worker`";
        for (line, expected) in [
            ("create --name worker base", "`msb rm worker`"),
            ("run -d --name worker base", "`msb rm worker`"),
            (
                "create --name Not_A_Name base",
                "cannot be a sandbox's name",
            ),
            ("create --cpus 0 --name cpus base", "1 cpu"),
            ("create --idle-timeout 0 base", "write a number of seconds"),
            ("run --no-command base", "add -d"),
            ("exec worker true", hint),
            ("attach worker", hint),
            ("kill worker", hint),
            ("wait worker", hint),
            ("exec wroker true", "did you mean worker?"),
            ("logs otter", "did you mean other?"),
            ("rm something", "`msb ps -a`"),
            ("start something", "`msb ps -a`"),
            ("stop something", "`msb ps -a`"),
            ("inspect ../worker", "cannot be a sandbox's name"),
            ("supervise /nowhere x", "standard input"),
        ] {
            let ended = there.check(line, None, fails(expected)).await;
            assert!(ended.stdout.is_empty(), "{line}: {ended:?}");
        }
        there.check("stop worker", None, says("worker\n")).await;
        there.check("logs worker", None, says("")).await;

        let record = there.state().join("worker/record.json");
        let whole = std::fs::read(&record).expect("a record");
        std::fs::write(&record, &whole[..whole.len() / 2]).expect("written");
        there.check("ps", None, says("worker")).await;
        assert_eq!(there.info("worker").await["state"], "damaged");
        for line in ["start worker", "exec worker true", "attach worker"] {
            there.check(line, None, fails("`msb rm -f worker`")).await;
        }
        there
            .check("rm -f worker other", None, says("worker\nother\n"))
            .await;
        there
            .check(&format!("rm {generated}"), None, says("sandbox-"))
            .await;
        there.check_nothing_is_left("after all were removed").await;
    });
}

#[test]
fn a_sandbox_that_does_not_come_up_is_told_and_leaves_nothing() {
    on_guests(async {
        let there = Background::new();
        for (line, code, stderr) in [
            ("run -d base -- no-such-program", 127, "no-such-program"),
            ("run -d base -- /etc/passwd", 126, "/etc/passwd"),
            ("run -d --qemu /nowhere/qemu base", 125, "/nowhere/qemu"),
            ("run -d --secret NOT_SET@a.example base", 125, "NOT_SET"),
            ("run -d ./no-such-file", 125, "no-such-file"),
        ] {
            let stdout = "";
            let expected = Expected {
                code,
                stdout,
                stderr,
            };
            let ended = there.check(line, None, expected).await;
            assert_eq!(ended.stderr.lines().count(), 1, "{line}: {ended:?}");
            there.check_nothing_is_left(line).await;
        }
    });
}

#[test]
fn bounds_on_its_life_end_a_sandbox() {
    on_guests(async {
        let there = Background::new();
        let bounds = ["--max-duration 2s", "--idle-timeout 2s"];
        let words = ["max_duration", "idle_timeout"];
        for (bound, word) in bounds.into_iter().zip(words) {
            let line = format!("run -d --name box {bound} --no-command base");
            there.check(&line, None, Expected::says("box\n")).await;
            there.check("wait box", None, Expected::fails(word)).await;
            assert_eq!(there.info("box").await["state"], "ended");
            there.check("rm box", None, Expected::says("box\n")).await;
        }
        let line = "run --max-duration 2s base -- sleep 600";
        there
            .check(line, None, Expected::fails("max_duration"))
            .await;
        // A program that runs is no idleness.
        let line = "run --idle-timeout 1s base -- sh -c";
        let line = there.check(line, Some("sleep 3; echo late"), Expected::says("late\n"));
        line.await;
        there.check_nothing_is_left("after each bound").await;
    });
}

#[test]
fn values_of_secrets_are_in_the_supervisors_memory_and_nowhere_else() {
    on_guests(async {
        let there = Background::new();
        let origins = Origins::start(0).await;
        let port = origins.port(API).to_string();
        let root = origins.root_file();
        let args = [
            "create",
            "--name=keeper",
            "--log=trace",
            &format!("--secret=API_KEY@{API}"),
            &format!("--add-host={API}:host-gateway"),
            "--net=public,host",
            "--tls-intercept-port",
            &port,
            "--tls-upstream-ca-cert",
            root.to_str().expect("UTF-8"),
            "--no-command",
            "base",
        ];
        // To make one takes no value; to start it does.
        let ended = finish(there.command(args), Vec::new()).await;
        Expected::says("keeper\n").check("create", &ended);
        there
            .check(
                "start keeper",
                None,
                Expected::fails("export API_KEY first"),
            )
            .await;
        for _ in 0..2 {
            let mut start = there.command(["start", "keeper"]);
            start.env("API_KEY", VALUE).env("MSB_LOG", "trace");
            Expected::says("keeper\n").check("start", &finish(start, Vec::new()).await);
            let line = format!(
                "env; curl -sS {}/v1 -H \"Authorization: Bearer $API_KEY\"",
                origins.url(API)
            );
            let ended = there
                .check(
                    "exec keeper sh -c",
                    Some(&line),
                    Expected::says("hello from"),
                )
                .await;
            absent(&ended.stdout, "the guest");
            let received = origins.api.received();
            assert!(
                String::from_utf8_lossy(&received).contains(VALUE),
                "it was sent"
            );
            scan_processes();
            scan_files(&there);
            there
                .check("stop keeper", None, Expected::says("keeper\n"))
                .await;
            scan_files(&there);
        }
        let log = there.msb("logs keeper", None).await;
        absent(log.stderr.as_bytes(), "the log");
        assert!(
            log.stderr.contains("TRACE"),
            "the log is not at trace: {:.300}",
            log.stderr
        );
        there
            .check("rm keeper", None, Expected::says("keeper\n"))
            .await;
        there.check_nothing_is_left("after its removal").await;
    });
}

#[track_caller]
fn absent(bytes: &[u8], place: &str) {
    let text = String::from_utf8_lossy(bytes);
    assert!(!text.contains(VALUE), "the value is in {place}");
}

/// Arguments and environment of every process; the test's own has the value in its memory only.
fn scan_processes() {
    let mut seen = 0;
    for entry in std::fs::read_dir("/proc")
        .expect("every Linux has it")
        .flatten()
    {
        let name = entry.file_name();
        let Some(process) = name
            .to_str()
            .and_then(|pid| HostProcess::open(pid.parse().ok()?))
        else {
            continue;
        };
        for file in ["cmdline", "environ"] {
            absent(&process.read(file), &format!("{file} of {}", process.pid()));
        }
        seen += 1;
    }
    assert!(seen > 3, "{seen}");
}

fn scan_files(there: &Background) {
    let mut waiting = vec![there.state()];
    let mut seen = 0;
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            let kind = entry.file_type().expect("a type");
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_file() {
                let bytes = std::fs::read(entry.path()).expect("a file");
                absent(&bytes, &entry.path().display().to_string());
                seen += 1;
            }
        }
    }
    assert!(seen >= 4, "{seen}");
}

/// How many: `MSB_E2E_SANDBOXES=50`, for the full number; the time allowed follows.
fn how_many(usual: usize) -> usize {
    let asked = std::env::var("MSB_E2E_SANDBOXES").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn sandboxes_one_after_another_and_at_once_leave_nothing() {
    let one_after_another = how_many(3);
    let at_once = how_many(3).min(8);
    msb_e2e::on_guests_within(
        Duration::from_secs(220 + 20 * one_after_another as u64),
        async {
            let there = Background::new();
            for _ in 0..one_after_another {
                there
                    .check(
                        "run -d --name box base -- sleep 600",
                        None,
                        Expected::says("box\n"),
                    )
                    .await;
                there
                    .check("rm -f box", None, Expected::says("box\n"))
                    .await;
            }
            there.check_nothing_is_left("one after another").await;
            let mut running = Vec::new();
            for number in 0..at_once {
                let name = format!("box-{number}");
                let line = ["run", "-d", "--name", &name, "base", "--", "sleep", "600"];
                let mut command = there.command(line);
                command.stdin(Stdio::null());
                running.push((name, tokio::spawn(finish(command, Vec::new()))));
            }
            for (name, run) in running {
                let ended = run.await.expect("ended");
                assert_eq!(ended.code, Some(0), "{ended:?}");
                there
                    .check(&format!("exec {name} true"), None, Expected::code(0))
                    .await;
                there
                    .check(&format!("stop {name}"), None, Expected::code(0))
                    .await;
                there
                    .check(&format!("rm {name}"), None, Expected::code(0))
                    .await;
            }
            there.check_nothing_is_left("at once").await;
        },
    );
}

#[test]
fn a_guest_or_qemu_that_dies_is_told_with_its_last_words() {
    on_guests(async {
        let there = Background::new();
        let line = "run -d --name box --no-command base";
        there.check(line, None, Expected::says("box\n")).await;
        there
            .check(
                "exec box sh -c",
                Some("echo c > /proc/sysrq-trigger; sleep 600"),
                Expected::fails("the sandbox has ended"),
            )
            .await;
        there
            .check("wait box", None, Expected::fails("box has ended"))
            .await;
        let logs = there.check("logs box", None, Expected::says("")).await;
        assert!(logs.stderr.contains("Kernel panic"), "{logs:?}");

        there
            .check("start box", None, Expected::says("box\n"))
            .await;
        let told = there.msb("inspect box", None).await;
        let told: serde_json::Value = serde_json::from_slice(&told.stdout).expect("JSON");
        let pid = told[0]["running"]["vmm_pid"].as_u64().expect("a number");
        let pid = u32::try_from(pid).expect("a process id");
        let qemu = HostProcess::open(pid).expect("QEMU");
        let waiting = tokio::spawn(finish(there.command(["wait", "box"]), Vec::new()));
        qemu.signal(rustix::process::Signal::KILL);
        Expected::fails("QEMU ended with signal: 9").check("wait", &waiting.await.expect("ended"));
        assert_eq!(there.info("box").await["state"], "ended");
        there.check("rm box", None, Expected::says("box\n")).await;
        there.check_nothing_is_left("after both").await;
    });
}

#[test]
fn a_command_in_the_background_has_a_terminal_that_is_left_and_taken_up_again() {
    on_guests(async {
        let there = Background::new();
        there
            .check(
                "run -dit --name box base -- sh",
                None,
                Expected::says("box\n"),
            )
            .await;
        // What is typed is shown, too, so what is waited for is not in it.
        let size = |size: &str| {
            format!(
                "while [ \"$(stty size)\" != '{size}' ]; do sleep 0.1; done; echo it is $(stty size)\r"
            )
        };
        let mut screen = Screen::run(&there.command(["attach", "box"]));
        screen.type_keys(&size("33 99")).await;
        screen.shows("it is 33 99\r\n").await;
        screen.resize(20, 60);
        screen.type_keys(&size("20 60")).await;
        screen.shows("it is 20 60\r\n").await;
        screen.type_keys("\x10\x11").await;
        assert_eq!(screen.ends().await, Some(0), "{}", screen.shown);
        assert!(screen.shown.contains("left box"), "{}", screen.shown);
        assert_eq!(there.info("box").await["state"], "running");

        let mut program = Screen::run(&there.command(["exec", "-it", "box", "sh"]));
        program
            .type_keys("echo $((6 * 7)); stty size; exit 4\r")
            .await;
        program.shows("42\r\n33 99\r\n").await;
        assert_eq!(program.ends().await, Some(4), "{}", program.shown);

        let mut screen = Screen::run(&there.command(["attach", "--detach-keys=ctrl-]", "box"]));
        screen.type_keys("\x10\x11\x15echo $((6 * 7))\r").await;
        screen.shows("42\r\n").await;
        screen.type_keys("exit 6\r").await;
        assert_eq!(screen.ends().await, Some(6), "{}", screen.shown);
        there.check("rm box", None, Expected::says("box\n")).await;
        there.check_nothing_is_left("after its removal").await;
    });
}

#[test]
fn an_interrupted_start_leaves_nothing() {
    on_guests(async {
        let there = Background::new();
        let mut child = there
            .command(["run", "-d", "--name", "box", "base", "--", "sleep", "600"])
            .spawn()
            .expect("msb starts");
        let msb = crate::process(&child);
        while there.processes().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        msb.signal(rustix::process::Signal::INT);
        let status = child.wait().await.expect("an end");
        assert_eq!(status.code(), Some(130));
        there.check_nothing_is_left("after Ctrl-C").await;
    });
}

#[test]
fn input_that_nobody_reads_is_refused_and_output_outlives_its_reader() {
    on_guests(async {
        let there = Background::new();
        let line = "sleep 1; i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; exit 3";
        there
            .check(
                "run -d --name box base -- sh -c",
                Some(line),
                Expected::says("box\n"),
            )
            .await;
        // It was started without -i.
        let mut attach = there.command(["attach", "box"]);
        attach.stdin(Stdio::piped());
        let mut child = attach.spawn().expect("msb starts");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(b"anything\n").await.expect("written");
        let output = child.wait_with_output().await.expect("an end");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains("takes no input"), "{stderr}");
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        drop(stdin);
        let log = there.msb("logs box", None).await;
        let text = String::from_utf8_lossy(&log.stdout).into_owned();
        let expected: String = (0..2000).map(|i| format!("line {i}\n")).collect();
        assert!(text == expected, "{} bytes", text.len());
        let tail = there.msb("logs -n 2 box", None).await;
        assert_eq!(tail.stdout, b"line 1998\nline 1999\n");
        there.check("rm box", None, Expected::says("box\n")).await;
        there.check_nothing_is_left("after its removal").await;
    });
}
