//! Tests of the store.

use std::collections::HashMap;
use std::io::Cursor;

use super::*;
use crate::{GuestPaths, RootDisk};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store"));
    (dir, store)
}

fn publish(store: &Store, artefact: &Artefact, bytes: &[u8]) -> Manifest {
    store
        .publish(artefact, &mut Cursor::new(bytes), "r".into(), "o".into())
        .unwrap()
}

fn base() -> Artefact {
    Artefact::Image(ImageName::base())
}

fn squashfs(payload: u8) -> Vec<u8> {
    let mut bytes = vec![payload; 96];
    bytes[..4].copy_from_slice(b"hsqs");
    bytes[28..30].copy_from_slice(&[4, 0]);
    bytes[40..48].copy_from_slice(&96_u64.to_le_bytes());
    bytes
}

fn files(store: &Store, below: &str) -> usize {
    list(&store.dir().join(below)).unwrap().len()
}

#[track_caller]
fn check_error<T>(result: Result<T, Error>, says: &str) {
    match result {
        Ok(_) => panic!("succeeded instead of saying `{says}`"),
        Err(error) => assert!(error.to_string().contains(says), "{error}"),
    }
}

#[test]
fn default_directory_follows_the_environment_in_order() {
    #[track_caller]
    fn check(env: &[(&str, &str)], expected: Option<&str>) {
        let env: HashMap<_, _> = env.iter().copied().collect();
        let found = default_dir(|name| env.get(name).map(OsString::from));
        assert_eq!(found.ok(), expected.map(PathBuf::from));
    }
    let all = [("MSB_HOME", "/m"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
    check(&all, Some("/m"));
    check(&all[1..], Some("/x/msb"));
    check(&all[2..], Some("/h/.cache/msb"));
    check(&[], None);
    check(&[("MSB_HOME", ""), ("HOME", "/h")], Some("/h/.cache/msb"));
    check(
        &[("XDG_CACHE_HOME", "x"), ("HOME", "/h")],
        Some("/h/.cache/msb"),
    );
    check(&[("HOME", "")], None);
}

#[test]
fn empty_store_says_what_to_run() {
    let (_dir, store) = store();
    check_error(
        store.guest(&GuestPaths::default()),
        "guest kernel is missing",
    );
    check_error(store.guest(&GuestPaths::default()), "cargo xtask image");
    check_error(
        store.root_disk("base"),
        "no image `base`: the store has none yet",
    );
    check_error(store.root_disk("a/b"), "no image `a/b`");
    check_error(store.root_disk("A/b"), "a path begins with");
    assert!(!store.dir().exists(), "reading creates nothing");
}

#[test]
fn unknown_image_lists_the_known_ones() {
    let (_dir, store) = store();
    publish(&store, &base(), &squashfs(0));
    publish(
        &store,
        &Artefact::Image("alpine".parse().unwrap()),
        &squashfs(0),
    );
    check_error(
        store.root_disk("foo"),
        "no image `foo`: known are alpine, base",
    );
}

#[test]
fn published_files_resolve_by_name() {
    let (_dir, store) = store();
    publish(&store, &Artefact::Kernel, b"kernel");
    check_error(
        store.guest(&GuestPaths::default()),
        "guest initramfs is missing",
    );
    publish(&store, &Artefact::Initramfs, b"initramfs");
    publish(&store, &Artefact::BareInitramfs, b"bare");
    publish(&store, &base(), &squashfs(1));

    let guest = store.guest(&GuestPaths::default()).unwrap();
    assert_eq!(fs::read(guest.kernel).unwrap(), b"kernel");
    assert_eq!(fs::read(guest.initramfs).unwrap(), b"initramfs");
    let bare = store.bare_guest().unwrap();
    assert_eq!(fs::read(bare.initramfs).unwrap(), b"bare");
    let root = store.root_disk("base").unwrap();
    assert_eq!(fs::read(root.path).unwrap(), squashfs(1));
    assert_eq!(files(&store, "tmp"), 0);
}

#[test]
fn newest_version_is_current_and_pruning_removes_the_former() {
    let (_dir, store) = store();
    publish(&store, &base(), &squashfs(1));
    let held = store.root_disk("base").unwrap();
    publish(&store, &base(), &squashfs(2));
    assert_eq!(
        fs::read(store.root_disk("base").unwrap().path).unwrap(),
        squashfs(2)
    );

    assert_eq!(store.prune().unwrap(), 0, "the former version is in use");
    assert_eq!(fs::read(&held.path).unwrap(), squashfs(1));
    drop(held);
    assert_eq!(store.prune().unwrap(), 1);
    assert_eq!(files(&store, "files"), 1);
}

#[test]
fn equal_content_is_stored_once() {
    let (_dir, store) = store();
    let first = publish(&store, &Artefact::Kernel, b"same");
    let second = publish(&store, &Artefact::Modules, b"same");
    assert_eq!(first, second);
    assert_eq!(files(&store, "files"), 1);
}

#[test]
fn dead_writer_leaves_nothing_for_long_and_a_live_one_is_left_alone() {
    let (_dir, store) = store();
    let live = store.temporary().unwrap();
    let dead = store.dir().join("tmp/left-by-kill-9");
    fs::write(&dead, b"half").unwrap();
    publish(&store, &Artefact::Kernel, b"kernel");
    assert!(!dead.exists());
    assert!(live.path().exists());
}

#[test]
fn writers_at_once_all_publish_whole_files() {
    let (_dir, store) = store();
    std::thread::scope(|scope| {
        for writer in 0..8_u8 {
            let store = &store;
            scope.spawn(move || {
                for _ in 0..5 {
                    publish(store, &base(), &squashfs(writer));
                    let root = store.root_disk("base").unwrap();
                    let bytes = fs::read(&root.path).unwrap();
                    assert_eq!(bytes, squashfs(bytes[4]));
                    store.prune().unwrap();
                }
            });
        }
    });
    assert_eq!(files(&store, "tmp"), 0);
    store.prune().unwrap();
    assert_eq!(files(&store, "files"), 1);
}

#[test]
fn failed_write_keeps_the_former_version() {
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
    let (_dir, store) = store();
    publish(&store, &base(), &squashfs(1));
    check_error(
        store.publish(&base(), &mut Fails, "r".into(), "o".into()),
        "no space left for images in",
    );
    assert_eq!(
        fs::read(store.root_disk("base").unwrap().path).unwrap(),
        squashfs(1)
    );
    assert_eq!(files(&store, "tmp"), 0);
}

#[test]
fn damage_is_named_and_repaired_by_publishing_again() {
    let (_dir, store) = store();
    let manifest = publish(&store, &base(), &squashfs(1));
    let path = store.content_path(&manifest.content.sha256);

    fs::write(&path, b"short").unwrap();
    check_error(store.root_disk("base"), "has 5 bytes instead of 96");
    check_error(store.root_disk("base"), "cargo xtask image --force");
    publish(&store, &base(), &squashfs(1));
    store.root_disk("base").unwrap();

    fs::remove_file(&path).unwrap();
    check_error(store.root_disk("base"), "no image `base`");

    fs::write(store.dir().join("images/base.json"), b"{}").unwrap();
    check_error(store.root_disk("base"), "base.json is not a manifest");
    check_error(store.prune(), "is not a manifest");
    publish(&store, &base(), &squashfs(1));
    store.root_disk("base").unwrap();
}

#[test]
fn a_disk_that_somebody_is_about_to_name_stays_when_its_other_name_is_removed() {
    let (dir, store) = store();
    let disk = dir.path().join("disk");
    fs::write(&disk, squashfs(1)).unwrap();
    let options = crate::ImportOptions {
        name: Some("first".parse().unwrap()),
        ..crate::ImportOptions::default()
    };
    let first = store.import(&disk, &options).unwrap();
    let made = || crate::import::Made {
        recipe: "recipe".into(),
        origin: "o".into(),
        config: ImageConfig::default(),
    };
    let build = |to: &Path| fs::write(to, squashfs(2)).map_err(Error::io("write", to));
    let second = store
        .keep("second".parse().unwrap(), made(), None, build)
        .unwrap();
    store.remove_image(&first.name).unwrap();
    let known = store.made_by("recipe").unwrap();
    store.remove_image(&second.name).unwrap();
    let third = store
        .keep("third".parse().unwrap(), made(), known, |_| {
            panic!("it is known")
        })
        .unwrap();
    assert!(!third.is_new);
    assert_eq!(
        fs::read(store.root_disk("third").unwrap().path).unwrap(),
        squashfs(2)
    );
    store.remove_image(&third.name).unwrap();
    assert_eq!(files(&store, "files"), 0);
}

#[test]
fn what_this_user_may_not_do_is_told_as_that() {
    let denied = io::Error::from(io::ErrorKind::PermissionDenied);
    let error = Error::io("open", Path::new("/store/lock"))(denied).to_string();
    assert!(
        error.contains("/store/lock") && error.contains("MSB_HOME"),
        "{error}"
    );
}

#[test]
fn given_files_win_over_stored_ones_and_are_checked() {
    let (dir, store) = store();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let mut vmlinux = vec![0; 64];
    vmlinux[..6].copy_from_slice(b"\x7fELF\x02\x01");
    vmlinux[18] = 62;
    let kernel = file("vmlinux", &vmlinux);
    let initramfs = file("initramfs", b"070701");
    let paths = |kernel: &Path, initramfs: &Path| GuestPaths {
        kernel: Some(kernel.to_owned()),
        initramfs: Some(initramfs.to_owned()),
    };

    let guest = store.guest(&paths(&kernel, &initramfs)).unwrap();
    assert_eq!(
        (guest.kernel, guest.initramfs),
        (kernel.clone(), initramfs.clone())
    );

    let text = file("text", b"hello");
    let empty = file("empty", b"");
    let absent = dir.path().join("absent");
    check_error(
        store.guest(&paths(&text, &initramfs)),
        "text is not a kernel",
    );
    check_error(store.guest(&paths(&kernel, &empty)), "is empty");
    check_error(
        store.guest(&paths(&absent, &initramfs)),
        "cannot read the kernel",
    );
    check_error(
        store.guest(&paths(&kernel, dir.path())),
        "cannot read the initramfs",
    );
}

#[test]
fn given_root_disk_is_a_whole_squashfs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root");
    fs::write(&path, squashfs(0)).unwrap();
    assert_eq!(RootDisk::from_path(&path).unwrap().path, path);
    fs::write(&path, &squashfs(0)[..90]).unwrap();
    check_error(RootDisk::from_path(&path), "says 96 bytes, the file has 90");
    fs::write(&path, b"hello").unwrap();
    check_error(RootDisk::from_path(&path), "is not a squashfs or ext4 file");
    check_error(
        RootDisk::from_path(&dir.path().join("absent")),
        "cannot read the root disk",
    );
}
