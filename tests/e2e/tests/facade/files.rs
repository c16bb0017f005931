//! Files of the guest, and copies of trees both ways.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use msb::{Error, FileKind};
use msb_e2e::{Guest, on_guests};

#[test]
fn files_are_read_written_and_copied_both_ways() {
    on_guests(async {
        let guest = Guest::boot("files", |builder| builder).await;
        contents_come_back_as_they_were_written(&guest).await;
        entries_are_told_made_and_removed(&guest).await;
        what_a_user_may_not_a_user_cannot(&guest).await;
        trees_come_back_as_they_went(&guest).await;
        copies_go_where_cp_puts_them(&guest).await;
        what_cannot_be_is_told_by_kind(&guest).await;
        a_hostile_tree_stays_in_its_place(&guest).await;
        the_guest_is_measured(&guest).await;
        guest.stop().await;
    });
}

async fn contents_come_back_as_they_were_written(guest: &Guest) {
    let files = guest.sandbox.fs();
    let large: Vec<u8> = (0..1_000_003_u32).flat_map(u32::to_le_bytes).collect();
    for (name, contents) in [
        ("empty", Vec::new()),
        ("small", b"x".to_vec()),
        ("large", large),
    ] {
        let path = format!("/tmp/{name}");
        files.write(&path, contents.clone()).await.expect("written");
        assert!(files.read(&path).await.expect("read") == contents, "{name}");
    }
    guest
        .sh("chmod 751 /tmp/small; ln -s small /tmp/link")
        .await;
    files.write("/tmp/link", "through").await.expect("written");
    let look = guest
        .sh("cat /tmp/small; stat -c ' %a' /tmp/small; readlink /tmp/link")
        .await;
    look.check("a link and a mode stay", 0, "through 751\nsmall\n", "");
    // Where the length of a file says nothing.
    let status = files.read("/proc/self/status").await.expect("read");
    assert!(status.starts_with(b"Name:"));
}

async fn entries_are_told_made_and_removed(guest: &Guest) {
    let files = guest.sandbox.fs();
    files.mkdir("/tmp/a/b/c").await.expect("made");
    files.mkdir("/tmp/a/b/c").await.expect("there");
    let make = "cd /tmp/a; echo 12345 > file; chown 7:8 file; chmod 640 file; touch -d @1000000000 file; ln -s file link; mkfifo pipe; cd b/c; touch $(seq 1000)";
    guest.sh(make).await.check("made", 0, "", "");
    let meta = files.metadata("/tmp/a/link").await.expect("there");
    assert_eq!(meta.kind, FileKind::File);
    assert_eq!((meta.len, meta.mode, meta.uid, meta.gid), (6, 0o640, 7, 8));
    assert_eq!(
        meta.modified,
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
    );
    let link = files.symlink_metadata("/tmp/a/link").await.expect("there");
    assert_eq!(link.kind, FileKind::Symlink);
    assert_eq!(link.target.as_deref(), Some(Path::new("file")));
    let mut entries = files.list("/tmp/a").await.expect("listed");
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let entries = entries
        .iter()
        .map(|entry| format!("{} {}", entry.name.display(), entry.kind));
    let entries: Vec<_> = entries.collect();
    assert_eq!(
        entries,
        ["b directory", "file file", "link link", "pipe other"]
    );
    assert_eq!(files.list("/tmp/a/b/c").await.expect("listed").len(), 1000);
    files.remove("/tmp/a/link").await.expect("removed");
    files.remove_all("/tmp/a").await.expect("removed");
    files.remove_all("/tmp/a").await.expect("nothing there");
    guest
        .sh("test -e /tmp/a")
        .await
        .check("it is gone", 1, "", "");
}

async fn what_a_user_may_not_a_user_cannot(guest: &Guest) {
    let files = guest.sandbox.fs().user("nobody");
    kind_of(
        files.write("/root/x", "x").await,
        ErrorKind::PermissionDenied,
    );
    kind_of(files.read("/etc/shadow").await, ErrorKind::PermissionDenied);
    files.write("/tmp/mine", "x").await.expect("written");
    let copied = tempfile::tempdir().expect("a directory");
    fs::write(copied.path().join("f"), "x").expect("written");
    files
        .copy_in(copied.path(), "/tmp/copied")
        .await
        .expect("copied");
    let owners = guest
        .sh("stat -c %U /tmp/mine /tmp/copied /tmp/copied/f | uniq -c")
        .await;
    owners.check("all of it is the user's", 0, "3 nobody\n", "");
    // The agent is who it was.
    guest
        .sandbox
        .fs()
        .read("/etc/shadow")
        .await
        .expect("root reads");
    let nobody = guest.sandbox.fs().user("mallory").read("/etc/passwd").await;
    let error = nobody.expect_err("there is none").to_string();
    assert!(error.contains("knows no user \"mallory\""), "{error}");
}

#[track_caller]
fn kind_of<T: std::fmt::Debug>(outcome: Result<T, Error>, expected: ErrorKind) {
    match outcome {
        Err(Error::GuestFile { kind, .. }) if kind == expected => {}
        other => panic!("{other:?}, not {expected:?}"),
    }
}

/// Name, and mode, time and contents.
fn look(root: &Path) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory").flatten() {
            let path = entry.path();
            let meta = path.symlink_metadata().expect("there");
            let what = match meta.file_type() {
                kind if kind.is_symlink() => format!("{:?}", fs::read_link(&path)),
                kind if kind.is_dir() => {
                    dirs.push(path.clone());
                    format!("dir {:o} {}", meta.mode(), meta.mtime())
                }
                _ => format!("{:o} {} {:?}", meta.mode(), meta.mtime(), fs::read(&path)),
            };
            let name = path
                .strip_prefix(root)
                .expect("below")
                .display()
                .to_string();
            seen.insert(name, what);
        }
    }
    seen
}

async fn trees_come_back_as_they_went(guest: &Guest) {
    let host = tempfile::tempdir().expect("a directory");
    let tree = host.path().join("tree");
    let long = "n".repeat(200);
    fs::create_dir_all(tree.join("dir/empty")).expect("made");
    fs::create_dir_all(tree.join(&long)).expect("made");
    for n in 0..300_usize {
        fs::write(tree.join(format!("dir/{n}")), vec![b'0'; n * 100]).expect("written");
    }
    fs::write(tree.join(&long).join(&long), "deep").expect("written");
    fs::set_permissions(tree.join("dir/7"), fs::Permissions::from_mode(0o751)).expect("mode");
    fs::hard_link(tree.join("dir/8"), tree.join("eight")).expect("linked");
    symlink("dir/9", tree.join("nine")).expect("linked");
    symlink("/etc/hostname", tree.join("absolute")).expect("linked");
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).expect("bound");
    let files = guest.sandbox.fs();
    let copied = files.copy_in(&tree, "/tmp").await.expect("copied");
    assert_eq!((copied.skipped, copied.entries), (1, 308));
    fs::remove_file(tree.join("socket")).expect("removed");
    let same = "cd /tmp/tree && test dir/8 -ef eight && readlink absolute && stat -c %a:%U dir/7";
    guest
        .sh(same)
        .await
        .check("links and modes", 0, "/etc/hostname\n751:root\n", "");
    files
        .copy_out("/tmp/tree", host.path().join("back"))
        .await
        .expect("copied");
    // Its own time changed with the socket's end.
    assert_eq!(look(&host.path().join("back")), look(&tree));
    let ino = |name: &str| {
        fs::metadata(host.path().join("back").join(name))
            .expect("there")
            .ino()
    };
    assert_eq!(ino("dir/8"), ino("eight"));
    guest
        .sh("cd /tmp/tree && rm -r * && mkfifo pipe && cp /bin/true su && chmod 4755 su")
        .await;
    let copied = files
        .copy_out("/tmp/tree/.", host.path().join("special"))
        .await;
    let copied = copied.expect("copied");
    assert_eq!((copied.skipped, copied.skipped_names.len()), (1, 1));
    let mode = fs::metadata(host.path().join("special/su"))
        .expect("there")
        .mode();
    assert_eq!(mode & 0o7777, 0o755, "no set-id program comes to the host");
}

async fn copies_go_where_cp_puts_them(guest: &Guest) {
    let host = tempfile::tempdir().expect("a directory");
    fs::write(host.path().join("file"), "x").expect("written");
    let files = guest.sandbox.fs();
    guest.sh("mkdir /tmp/into; echo old > /tmp/old").await;
    for (to, expected) in [
        ("/tmp/into", "/tmp/into/file"),
        ("/tmp/into/other", "/tmp/into/other"),
        ("/tmp/old", "/tmp/old"),
    ] {
        files
            .copy_in(host.path().join("file"), to)
            .await
            .expect("copied");
        assert_eq!(files.read(expected).await.expect("there"), b"x", "{to}");
        files.copy_out(expected, host.path()).await.expect("copied");
    }
    let missing = files.copy_in(host.path().join("file"), "/tmp/none/x").await;
    kind_of(missing, ErrorKind::NotFound);
    let directory = files.copy_in(host.path().join("file"), "/tmp/none/").await;
    kind_of(directory, ErrorKind::NotFound);
}

async fn what_cannot_be_is_told_by_kind(guest: &Guest) {
    let files = guest.sandbox.fs();
    kind_of(files.read("/none").await, ErrorKind::NotFound);
    kind_of(files.metadata("/none").await, ErrorKind::NotFound);
    kind_of(files.list("/etc/passwd").await, ErrorKind::InvalidInput);
    kind_of(files.read("/etc").await, ErrorKind::InvalidInput);
    kind_of(files.read("/dev/zero").await, ErrorKind::InvalidInput);
    kind_of(files.write("/etc", "x").await, ErrorKind::InvalidInput);
    kind_of(files.write("/none/x", "x").await, ErrorKind::NotFound);
    kind_of(files.remove("/etc").await, ErrorKind::InvalidInput);
    kind_of(files.mkdir("/etc/passwd").await, ErrorKind::AlreadyExists);
    guest
        .sh("mkfifo /tmp/pipe")
        .await
        .check("a pipe", 0, "", "");
    kind_of(files.read("/tmp/pipe").await, ErrorKind::InvalidInput);
    let host = tempfile::tempdir().expect("a directory");
    kind_of(
        files.copy_out("/none", host.path()).await,
        ErrorKind::NotFound,
    );
    assert_eq!(fs::read_dir(host.path()).expect("a directory").count(), 0);
    let ours = files.copy_in(host.path().join("none"), "/tmp").await;
    assert!(matches!(ours, Err(Error::Tree(_))), "{ours:?}");
    let small = "mkdir /tmp/s && busybox mount -t tmpfs -o size=1m none /tmp/s";
    guest.sh(small).await.check("a small disk", 0, "", "");
    kind_of(
        files.write("/tmp/s/full", vec![0; 8 << 20]).await,
        ErrorKind::StorageFull,
    );
    let left = guest.sh("ls -A /tmp/s").await;
    assert_eq!(left.stdout, "", "nothing half-made is left");
}

/// What the host finds where the tree goes is not followed; what the tree brings neither.
async fn a_hostile_tree_stays_in_its_place(guest: &Guest) {
    let host = tempfile::tempdir().expect("a directory");
    fs::write(host.path().join("outside"), "safe").expect("written");
    fs::create_dir(host.path().join("place")).expect("made");
    symlink("..", host.path().join("place/up")).expect("linked");
    guest
        .sh("mkdir -p /tmp/evil/up; echo evil > /tmp/evil/up/outside")
        .await;
    let files = guest.sandbox.fs();
    let copied = files
        .copy_out("/tmp/evil/.", host.path().join("place"))
        .await;
    let error = copied.expect_err("a link is in the way");
    let error = format!("{:#}", anyhow::Error::new(error));
    assert!(error.contains("leads through a link"), "{error}");
    assert_eq!(
        fs::read(host.path().join("outside")).expect("there"),
        b"safe"
    );
}

async fn the_guest_is_measured(guest: &Guest) {
    let before = guest.sandbox.metrics().await.expect("measured");
    assert!(before.memory_total > 400 << 20, "{before:?}");
    assert!(before.memory_available < before.memory_total, "{before:?}");
    assert!(before.disk_available <= before.disk_total, "{before:?}");
    assert!(
        before.processes > 1 && before.uptime > Duration::ZERO,
        "{before:?}"
    );
    guest.sh("head -c 50M /dev/zero > /srv/zeros").await;
    let after = guest.sandbox.metrics().await.expect("measured");
    assert!(after.uptime > before.uptime);
    assert!(
        after.disk_available + (40 << 20) < before.disk_available,
        "{before:?} {after:?}"
    );
}
