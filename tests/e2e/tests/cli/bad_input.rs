//! What goes wrong is said in one line that tells what to do, with 125, and nothing is left.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use msb::image::Store;
use msb_e2e::on_guests;

use crate::{Ended, OWN_FAILURE, Place, finish};

const CANARY: &str = "sk-canary-0d1e";

/// Arguments before `base -- true`, or all of them where there is a `--`; what the line says.
type Row<'a> = (&'a str, &'a [&'a str]);

#[test]
fn bad_input_is_told_in_one_line_and_leaves_nothing() {
    on_guests(async {
        let place = Place::new();
        let files = Files::new();
        let at = |name: &str| files.path(name);
        let [text, empty, garbage, squash] = ["text", "empty", "qemu-5", "squash"].map(at);
        let secret = "--secret API_KEY@api.example.com";
        let rows: &[Row<'_>] = &[
            ("run ./nope -- true", &["nope"]),
            ("run ../base -- true", &["../base"]),
            ("--qemu no-such", &["QEMU is missing", "apt-get install"]),
            (&format!("--qemu {garbage}"), &["5.2.0", "too old", "7.2"]),
            (&format!("--kernel {text}"), &["is not a kernel"]),
            (
                "--kernel /no/such",
                &["cannot read the kernel /no/such", "No such file"],
            ),
            (&format!("--initramfs {empty}"), &["initramfs", "empty"]),
            (
                &format!("run --rootfs {text} -- true"),
                &["is not a squashfs"],
            ),
            (&format!("run --rootfs {squash} -- true"), &["cut short"]),
            (
                "run --rootfs /no/such -- true",
                &["/no/such", "No such file"],
            ),
            (
                "--secret UNSET_KEY@api.example.com",
                &["UNSET_KEY", "export UNSET_KEY first"],
            ),
            (
                &format!("--secret API_KEY={CANARY}@api.example.com"),
                &["process lists", "NAME@HOST"],
            ),
            (&format!("--secret API_KEY={CANARY}"), &["process lists"]),
            ("--secret API_KEY", &["NAME@HOST"]),
            ("--secret API_KEY@a..b", &["a..b"]),
            ("--secret API_KEY@*.com.*", &["*.com.*"]),
            (&format!("{secret} --tls-bypass a*b"), &["a*b"]),
            (
                &format!("{secret} --tls-bypass api.example.com"),
                &["API_KEY", "bypass"],
            ),
            (
                &format!("{secret} --net none"),
                &["API_KEY", "policy allows nothing"],
            ),
            ("--net publik", &["publik", "public"]),
            ("--add-host nonsense", &["NAME:IP"]),
            (
                "--add-host a.example:nonsense",
                &["nonsense", "host-gateway"],
            ),
            (
                "--tls-upstream-ca-cert /no/such",
                &["/no/such", "No such file"],
            ),
            (&format!("--tls-upstream-ca-cert {empty}"), &["empty"]),
            (&format!("--tls-upstream-ca-cert {text}"), &["text"]),
            ("--tls-intercept-port 0", &["0"]),
            ("--tls-intercept-port 53", &["53"]),
            ("--name Bad_Name", &["Bad_Name"]),
            ("--memory 1", &["1 MiB", "128"]),
            ("--cpus 0", &["at least 1 cpu"]),
            ("--accel warp", &["warp", "tcg"]),
            ("--env UNSET_VARIABLE", &["UNSET_VARIABLE"]),
            ("run base", &["there is no command"]),
        ];
        for (args, parts) in rows {
            let args = if args.starts_with("run ") {
                (*args).to_owned()
            } else {
                format!("run {args} base -- true")
            };
            let mut command = place.msb(args.split(' '));
            command.env("API_KEY", CANARY);
            let ended = finish(command, Vec::new()).await;
            check(&args, &ended, parts);
        }
        place.check_nothing_is_left("after each refusal");
    });
}

#[test]
fn a_guest_that_dies_at_boot_shows_its_last_lines() {
    on_guests(async {
        let place = Place::new();
        let files = Files::new();
        let bare = Store::open_default()
            .and_then(|store| store.bare_guest())
            .expect("an initramfs that powers off at once");
        let bare = bare.initramfs.to_string_lossy().into_owned();
        let died = "the guest died while it booted";
        for (args, parts) in [
            (format!("--initramfs {bare} base"), vec![died]),
            (
                format!("--initramfs {} base", files.path("noise")),
                vec![died, "Kernel panic"],
            ),
            (
                format!("--rootfs {}", files.path("hollow")),
                vec![died, "root"],
            ),
        ] {
            let args = format!("run {args} -- true");
            let ended = finish(place.msb(args.split(' ')), Vec::new()).await;
            eprintln!("{args}\n{}", ended.stderr);
            assert_eq!(ended.code, Some(OWN_FAILURE), "{args}: {ended:?}");
            for part in parts {
                assert!(ended.stderr.contains(part), "{args}: {ended:?}");
            }
            assert!(ended.stderr.lines().count() < 30, "{ended:?}");
            place.check_nothing_is_left(&args);
        }
    });
}

#[test]
fn an_empty_store_says_how_to_fill_it() {
    on_guests(async {
        let place = Place::new();
        let empty = tempfile::tempdir().expect("a directory");
        for home in [empty.path(), Path::new("/proc/no/such")] {
            let mut command = place.msb(["run", "base", "--", "true"]);
            command.env("MSB_HOME", home);
            let ended = finish(command, Vec::new()).await;
            check("an empty store", &ended, &["cargo xtask image", "missing"]);
        }
        assert_eq!(fs::read_dir(empty.path()).expect("readable").count(), 0);
    });
}

/// Nothing is written to run a command, so a store that cannot be written to is enough.
#[test]
fn a_read_only_store_and_a_full_disk_are_enough_to_run() {
    on_guests(async {
        let place = Place::new();
        let home = place.home.path().to_string_lossy().into_owned();
        let msb = env!("CARGO_BIN_EXE_msb-under-test");
        let unshare = |script: &str| {
            let mut command = tokio::process::Command::new("unshare");
            command
                .args([
                    "--user",
                    "--map-root-user",
                    "--mount",
                    "sh",
                    "-e",
                    "-c",
                    script,
                ])
                .env("MSB_HOME", &home)
                .stdin(Stdio::null())
                .kill_on_drop(true);
            command
        };
        let probe = unshare("mount -t tmpfs none /mnt").output().await;
        if !probe.is_ok_and(|probe| probe.status.success()) {
            eprintln!("skipped: this host lets no user mount file systems");
            return;
        }
        for mount in [
            "mount --bind $H $H; mount -o remount,ro,bind $H; ! touch $H/x 2> /dev/null",
            "mount -t tmpfs -o size=64k none /mnt; cp -r $H/guest $H/images /mnt; cp $H/*.json /mnt 2> /dev/null || true; ln -s $(readlink $H/files) /mnt/files; \
             MSB_HOME=/mnt; cat /dev/zero > /mnt/fill 2> /dev/null || true; ! echo x 2> /dev/null > /mnt/x",
        ] {
            let script = format!(
                "H=$MSB_HOME; {mount}; export MSB_HOME TMPDIR=$MSB_HOME; exec {msb} run base -- echo up"
            );
            let out = unshare(&script).output().await.expect("started");
            assert_eq!(out.stdout, b"up\n", "{mount}: {out:?}");
            assert_eq!(out.stderr, b"", "{mount}: {out:?}");
        }
        place.check_nothing_is_left("a store that cannot be written to");
    });
}

/// One line, or clap's few; what to do is in it; the value of a secret is not.
#[track_caller]
fn check(args: &str, ended: &Ended, parts: &[&str]) {
    let stderr = &ended.stderr;
    assert_eq!(ended.code, Some(OWN_FAILURE), "{args}: {stderr}");
    assert_eq!(ended.stdout, b"", "{args}");
    for part in parts {
        assert!(stderr.contains(part), "{args}: {part:?} is not in {stderr}");
    }
    assert!(!stderr.contains(CANARY), "{args}: the value is shown");
    let usage = stderr.contains("--help");
    assert!(usage || stderr.lines().count() == 1, "{args}: {stderr}");
}

/// Files that are not what they are taken for.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, bytes: &[u8]| {
            fs::write(dir.path().join(name), bytes).expect("written");
        };
        write("text", b"This is a text, and nothing else.\n");
        write("empty", b"");
        write("noise", &vec![0x5a; 100_000]);
        write(
            "qemu-5",
            b"#!/bin/sh\n[ \"$1\" = --version ] && echo 'QEMU emulator version 5.2.0'\nexit 1\n",
        );
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path().join("qemu-5"), executable).expect("mode");
        let store = Store::open_default().expect("a store");
        let base = store.root_disk("base").expect("the image").path;
        let mut head = fs::read(base).expect("readable");
        let len = head.len();
        head.truncate(4096);
        write("squash", &head);
        // The right length, and nothing behind the header.
        head.truncate(96);
        head.resize(len, 0);
        write("hollow", &head);
        Self(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_string_lossy().into_owned()
    }
}
