//! Programs as users, by the guest's own files.

use msb::{Error, Output};
use msb_e2e::{Guest, on_guests};

#[test]
fn programs_run_as_whom_they_are_asked_to() {
    on_guests(async {
        let guest = Guest::boot("users", |builder| builder).await;
        let make = "echo 'worker:x:1000:1000::/home/worker:/bin/dash' >> /etc/passwd; \
            echo 'worker:x:1000:\nhelp:x:1001:worker\nothers:x:1002:nobody' >> /etc/group; \
            mkdir -p /home/worker; chown 1000:1000 /home/worker; echo own > /root/own; chmod 600 /root/own";
        guest.sh(make).await.check("users are made", 0, "", "");
        ids_are_those_of_the_guests_files(&guest).await;
        variables_are_those_of_a_login(&guest).await;
        what_is_roots_stays_roots(&guest).await;
        nobody_who_is_not_there_runs_anything(&guest).await;
        files_that_are_none_hold_nobody_up(&guest).await;
        guest.stop().await;
    });
}

async fn run(guest: &Guest, user: &str, line: &str) -> Result<Output, Error> {
    let command = guest.sandbox.command("sh").args(["-c", line]);
    command.user(user).output().await
}

async fn ids_are_those_of_the_guests_files(guest: &Guest) {
    for (user, expected) in [
        ("", "0 0 0"),
        ("root", "0 0 0"),
        ("worker", "1000 1000 1000 1001"),
        ("1000", "1000 1000 1000 1001"),
        ("worker:help", "1000 1001 1001"),
        ("worker:7", "1000 7 7"),
        ("4242", "4242 0 0"),
        ("4242:4243", "4242 4243 4243"),
    ] {
        let out = run(guest, user, "echo $(id -u) $(id -g) $(id -G)").await;
        let out = out.unwrap_or_else(|error| panic!("{user}: {error}"));
        assert_eq!(out.stdout().expect("text").trim_end(), expected, "{user}");
    }
}

async fn variables_are_those_of_a_login(guest: &Guest) {
    let line = "echo $HOME $USER $LOGNAME $SHELL";
    for (user, expected) in [
        ("", "/root root root /bin/bash\n"),
        ("worker", "/home/worker worker worker /bin/dash\n"),
        ("4242", "/ /bin/sh\n"),
    ] {
        let out = run(guest, user, line).await.expect("run");
        assert_eq!(out.stdout().expect("text"), expected, "{user}");
    }
    let set = guest.sandbox.command("sh").args(["-c", line]);
    let set = set.user("worker").env("HOME", "/tmp").output().await;
    let set = set.expect("run");
    assert_eq!(
        set.stdout().expect("text"),
        "/tmp worker worker /bin/dash\n"
    );
}

async fn what_is_roots_stays_roots(guest: &Guest) {
    let line = "cat /root/own; echo mine > /home/worker/mine && stat -c %U:%G /home/worker/mine; \
        kill -0 1; grep ^CapEff: /proc/self/status";
    let out = run(guest, "worker", line).await.expect("run");
    let text = out.stdout().expect("text");
    assert!(!text.contains("own\n"), "{text}");
    assert!(text.contains("worker:worker"), "{text}");
    assert!(text.contains("CapEff:\t0000000000000000"), "{text}");
    let complaints = out.stderr().expect("text");
    assert!(complaints.contains("Permission denied"), "{complaints}");
    assert!(complaints.contains("not permitted"), "{complaints}");
    let own = guest
        .sandbox
        .command("/root/own")
        .user("worker")
        .output()
        .await;
    assert!(
        matches!(own, Err(Error::ProgramNotExecutable(_))),
        "{own:?}"
    );
}

async fn nobody_who_is_not_there_runs_anything(guest: &Guest) {
    for (user, part) in [
        (
            "mallory",
            "the guest's /etc/passwd knows no user \"mallory\"",
        ),
        (
            "worker:mallory",
            "the guest's /etc/group knows no group \"mallory\"",
        ),
        ("worker:", "USER:GROUP"),
        ("4294967295", "4294967294"),
    ] {
        let error = run(guest, user, "true").await.expect_err("nobody");
        assert!(error.to_string().contains(part), "{user}: {error}");
    }
}

async fn files_that_are_none_hold_nobody_up(guest: &Guest) {
    let pipe = "mv /etc/passwd /etc/was && mkfifo /etc/passwd";
    guest.sh(pipe).await.check("a pipe", 0, "", "");
    let error = run(guest, "worker", "true").await.expect_err("no file");
    assert!(error.to_string().contains("is not a file"), "{error}");
    let mend = "rm /etc/passwd && mv /etc/was /etc/passwd && echo $HOME";
    guest
        .sh(mend)
        .await
        .check("root mends it", 0, "/root\n", "");
}
