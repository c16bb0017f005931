//! What a guest has besides its image: a scratch disk, and directories of the host.

use std::fs;
use std::path::Path;

use msb::{BindMount, Error, Sandbox};
use msb_e2e::{Guest, on_guests};

#[test]
fn a_guest_writes_its_disk_and_the_directories_it_may_and_nothing_is_left() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: QEMU's own virtiofsd serves directories as root only");
        return;
    }
    on_guests(async {
        let dir = tempfile::tempdir().expect("a directory");
        let (open, closed) = (dir.path().join("open, to all"), dir.path().join("closed"));
        for dir in [&open, &closed] {
            fs::create_dir(dir).expect("a directory");
            fs::write(dir.join("from-host"), "hello\n").expect("a file");
        }
        let guest = Guest::boot("stores", |builder| {
            builder
                .memory(144)
                .scratch_disk(1 << 30)
                .mount(BindMount::new(&open, "/work/deep"))
                .mount(BindMount::new(&closed, "/closed").read_only())
        })
        .await;
        more_than_its_memory_fits_onto_the_disk(&guest).await;
        files_pass_both_ways(&guest, &open).await;
        what_is_read_only_stays_so_whatever_the_guest_does(&guest, &closed).await;
        assert_eq!(servers(dir.path()), 2);
        guest.stop().await;
        assert_eq!(servers(dir.path()), 0, "a virtiofsd is left");
    });
}

async fn more_than_its_memory_fits_onto_the_disk(guest: &Guest) {
    let line = "dd if=/dev/urandom of=/big bs=1M count=160 2> /dev/null && sync && \
                sha256sum < /big > /sum && echo 3 > /proc/sys/vm/drop_caches && \
                sha256sum < /big | cmp - /sum && df -m / | awk 'END { print ($2 > 900) }'";
    guest.sh(line).await.check("a large file", 0, "1", "");
}

async fn files_pass_both_ways(guest: &Guest, open: &Path) {
    let claim = "a file of the host's, and one of the guest's";
    let line = "cat /work/deep/from-host; echo there > /work/deep/from-guest; chmod 600 /work/deep/from-guest; \
                mkdir /work/deep/d && mv /work/deep/from-guest /work/deep/d/moved && ln -s moved /work/deep/d/link";
    guest.sh(line).await.check(claim, 0, "hello", "");
    let read = fs::read_to_string(open.join("d/moved")).expect("the guest's file");
    assert_eq!(read, "there\n");
    fs::write(open.join("later"), "later\n").expect("a file");
    let claim = "a file that came while the guest was running";
    guest
        .sh("cat /work/deep/later")
        .await
        .check(claim, 0, "later", "");
    let claim = "neither devices nor the identity of others";
    let line = "cp /bin/busybox /work/deep/b; chmod 4755 /work/deep/b; findmnt -no OPTIONS /work/deep || grep ' /work/deep ' /proc/mounts";
    let ran = guest.sh(line).await;
    assert!(
        ran.stdout.contains("nosuid") && ran.stdout.contains("nodev"),
        "{claim}: {ran:?}"
    );
}

async fn what_is_read_only_stays_so_whatever_the_guest_does(guest: &Guest, closed: &Path) {
    let line = "cat /closed/from-host; mount -o remount,rw /closed || busybox mount -o remount,rw /closed; \
                (echo changed > /closed/from-host) 2> /dev/null && echo WRITTEN; \
                (touch /closed/new) 2> /dev/null && echo MADE; \
                rm -f /closed/from-host 2> /dev/null && echo REMOVED; true";
    let ran = guest.sh(line).await;
    assert_eq!(ran.stdout, "hello\n", "{ran:?}");
    let read = fs::read_to_string(closed.join("from-host")).expect("still there");
    assert_eq!(read, "hello\n");
    assert!(!closed.join("new").exists());
}

/// Processes that serve a directory below this one.
fn servers(dir: &Path) -> usize {
    let dir = dir.to_string_lossy();
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let serves = |line: &Vec<u8>| {
        let line = String::from_utf8_lossy(line);
        line.contains("virtiofsd") && line.contains(&*dir)
    };
    // QEMU's own has a second process, which does the work.
    let count = lines.filter(serves).count();
    count.div_ceil(2)
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_told_before_anything_starts() {
    let mount = BindMount::new("/no/such/directory", "/work");
    let builder = Sandbox::builder("worker").mount(mount);
    let error = Box::pin(builder.create())
        .await
        .expect_err("nothing to mount");
    assert!(matches!(error, Error::Config(_)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("/no/such/directory:/work") && text.contains("No such file"),
        "{text}"
    );
}
