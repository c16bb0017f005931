//! Trees there and back, and archives that mean harm.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use msb_tree::{Error, Modes, Place, pack, unpack};
use proptest::prelude::*;

/// What a tree looks like: name, and kind, mode, time and contents.
fn look(root: &Path) -> BTreeMap<String, String> {
    fn below(dir: &Path, root: &Path, seen: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("there");
            let what = if meta.is_symlink() {
                format!("-> {:?}", fs::read_link(&path).expect("a link"))
            } else if meta.is_dir() {
                "dir".to_owned()
            } else {
                format!("{:?}", fs::read(&path).expect("a file"))
            };
            let mode = if meta.is_symlink() {
                0
            } else {
                meta.mode() & 0o7777
            };
            let name = path.strip_prefix(root).expect("below").display();
            seen.insert(
                name.to_string(),
                format!("{mode:o} {} {what}", meta.mtime()),
            );
            if meta.is_dir() {
                below(&path, root, seen);
            }
        }
    }
    let mut seen = BTreeMap::new();
    below(root, root, &mut seen);
    seen
}

fn packed(source: &Path, name: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    pack(source, name.as_bytes(), &mut archive).expect("packed");
    archive
}

fn place(dir: &Path, name: Option<&str>) -> Place {
    Place::new(dir, name.map(AsRef::as_ref)).expect("a place")
}

/// A tree with one of everything that is kept.
fn sample(root: &Path) {
    let long = "n".repeat(150);
    fs::create_dir_all(root.join("dir/empty")).expect("made");
    fs::create_dir_all(root.join(&long)).expect("made");
    for (name, mode, data) in [
        ("plain", 0o644, b"data".to_vec()),
        ("script", 0o751, vec![b'#'; 100_000]),
        ("dir/secret", 0o400, Vec::new()),
        (&format!("{long}/{long}"), 0o600, vec![0; 512]),
        ("dir/odd \u{1b}\nname", 0o644, vec![1; 511]),
    ] {
        let path = root.join(name);
        fs::write(&path, data).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
        let file = fs::File::open(&path).expect("open");
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        file.set_modified(time).expect("a time");
    }
    fs::hard_link(root.join("plain"), root.join("dir/again")).expect("linked");
    symlink("../plain", root.join("dir/link")).expect("linked");
    symlink("/etc/passwd", root.join("absolute")).expect("linked");
    symlink("x".repeat(300), root.join("far")).expect("linked");
    fs::set_permissions(root.join("dir"), fs::Permissions::from_mode(0o555)).expect("mode");
}

#[test]
fn a_tree_comes_out_as_it_went_in() {
    let (from, to) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    sample(from.path());
    let archive = packed(from.path(), "tree");
    for _ in 0..2 {
        // Over itself as well.
        unpack(&archive[..], &place(to.path(), Some("copy")), Modes::All).expect("unpacked");
        assert_eq!(look(&to.path().join("copy")), look(from.path()));
    }
    let ino = |name: &str| {
        fs::metadata(to.path().join("copy").join(name))
            .expect("there")
            .ino()
    };
    assert_eq!(ino("plain"), ino("dir/again"));
    // Into a directory that is there, without a name of its own.
    let here = to.path().join("here");
    fs::create_dir(&here).expect("made");
    let archive = packed(from.path(), ".");
    unpack(&archive[..], &place(&here, None), Modes::All).expect("unpacked");
    assert_eq!(look(&here), look(from.path()));
    for root in [from.path(), &to.path().join("copy"), &here] {
        let writable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(root.join("dir"), writable).expect("mode");
    }
}

#[test]
fn gnu_tar_reads_and_writes_the_same_archives() {
    let (from, to) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    sample(from.path());
    let tar = |args: &[&str], dir: &Path, archive: &Path| {
        let mut command = std::process::Command::new("tar");
        command.args(args).arg(archive).arg("-C").arg(dir);
        command
    };
    let file = to.path().join("ours.tar");
    fs::write(&file, packed(from.path(), ".")).expect("written");
    let theirs = to.path().join("theirs");
    fs::create_dir(&theirs).expect("made");
    match tar(&["-xpf"], &theirs, &file).status() {
        Ok(status) => assert!(status.success()),
        Err(error) => {
            eprintln!("skipped: there is no tar on this machine: {error}");
            return;
        }
    }
    assert_eq!(look(&theirs), look(from.path()));
    for format in ["gnu", "pax", "posix"] {
        let file = to.path().join(format);
        let made = tar(&["--format", format, "-cf"], from.path(), &file)
            .arg(".")
            .status();
        assert!(made.expect("tar").success());
        let ours = to.path().join(format!("{format}-tree"));
        fs::create_dir(&ours).expect("made");
        let archive = fs::File::open(&file).expect("an archive");
        unpack(archive, &place(&ours, None), Modes::All).expect("unpacked");
        assert_eq!(look(&ours), look(from.path()), "{format}");
    }
}

#[test]
fn set_id_bits_come_out_only_where_they_are_asked_for() {
    let (from, to) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    let program = from.path().join("su");
    fs::write(&program, "x").expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).expect("mode");
    let archive = packed(&program, "su");
    for (modes, expected) in [(Modes::Permissions, 0o755), (Modes::All, 0o6755)] {
        unpack(&archive[..], &place(to.path(), Some("su")), modes).expect("unpacked");
        let mode = fs::metadata(to.path().join("su")).expect("there").mode();
        assert_eq!(mode & 0o7777, expected, "{modes:?}");
    }
}

#[test]
fn a_directory_that_is_there_keeps_its_mode() {
    let (from, to) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
    };
    let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o7777;
    for dir in ["ssh", "ssh/deep", "ssh/new"] {
        fs::create_dir(from.path().join(dir)).expect("a directory");
        set(&from.path().join(dir), 0o777);
    }
    fs::write(from.path().join("ssh/deep/file"), "x").expect("a file");
    for (dir, own) in [("ssh", 0o700), ("ssh/deep", 0o1711)] {
        fs::create_dir(to.path().join(dir)).expect("a directory");
        set(&to.path().join(dir), own);
    }
    let archive = packed(&from.path().join("ssh"), "ssh");
    for modes in [Modes::Permissions, Modes::All] {
        unpack(&archive[..], &place(to.path(), Some("ssh")), modes).expect("unpacked");
        for (dir, expected) in [("ssh", 0o700), ("ssh/deep", 0o1711), ("ssh/new", 0o777)] {
            assert_eq!(mode(&to.path().join(dir)), expected, "{dir}");
        }
        assert!(to.path().join("ssh/deep/file").exists());
    }
}

#[test]
fn what_is_no_file_is_passed_over_and_told() {
    let from = tempfile::tempdir().expect("a directory");
    let _socket =
        std::os::unix::net::UnixListener::bind(from.path().join("socket")).expect("bound");
    fs::write(from.path().join("file"), "x").expect("written");
    let packed = pack(from.path(), b"t", &mut Vec::new()).expect("packed");
    assert_eq!((packed.entries, packed.bytes, packed.skipped), (2, 1, 1));
    assert_eq!(packed.skipped_names, [Path::new("t/socket")]);
}

/// One entry of a hostile archive.
#[derive(Clone, Debug)]
enum Evil {
    File(String),
    Dir(String),
    Symlink(String, String),
    HardLink(String, String),
    Device(String),
}

fn archive(entries: &[Evil]) -> Vec<u8> {
    let mut archive = Vec::new();
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        let (kind, name, link, size) = match entry {
            Evil::File(name) => (tar::EntryType::Regular, name, None, 4),
            Evil::Dir(name) => (tar::EntryType::Directory, name, None, 0),
            Evil::Symlink(name, to) => (tar::EntryType::Symlink, name, Some(to), 0),
            Evil::HardLink(name, to) => (tar::EntryType::Link, name, Some(to), 0),
            Evil::Device(name) => (tar::EntryType::Char, name, None, 0),
        };
        let fields = header.as_old_mut();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(to) = link {
            fields.linkname[..to.len()].copy_from_slice(to.as_bytes());
        }
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o666);
        header.set_mtime(1);
        header.set_cksum();
        archive.extend_from_slice(header.as_bytes());
        if size > 0 {
            archive.extend_from_slice(b"evil");
            archive.extend_from_slice(&[0; 508]);
        }
    }
    archive.extend_from_slice(&[0; 1024]);
    archive
}

/// A place with files beside it that nobody may touch.
struct Fixture(tempfile::TempDir);

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("place/kept")).expect("made");
        fs::write(dir.path().join("outside"), "safe").expect("written");
        symlink("..", dir.path().join("place/up")).expect("linked");
        symlink("../outside", dir.path().join("place/out")).expect("linked");
        Self(dir)
    }

    fn unpack(&self, archive: &[u8], name: Option<&str>) -> Result<msb_tree::Unpacked, Error> {
        unpack(
            archive,
            &place(&self.0.path().join("place"), name),
            Modes::Permissions,
        )
    }

    /// All that is not in the place.
    fn outside(&self) -> BTreeMap<String, String> {
        let mut seen = look(self.0.path());
        seen.retain(|name, _| name != "place" && !name.starts_with("place/"));
        seen
    }
}

#[test]
fn no_entry_leads_out_of_the_place() {
    let name = |text: &str| text.to_owned();
    let file = |path: &str| Evil::File(name(path));
    let link = |path: &str, to: &str| Evil::Symlink(name(path), name(to));
    let hard = |path: &str, to: &str| Evil::HardLink(name(path), name(to));
    for (entries, part) in [
        (vec![file("../outside")], "leads out of the tree"),
        (vec![file("a/../../outside")], "leads out of the tree"),
        (vec![file("..")], "leads out of the tree"),
        (vec![file("/etc/x")], "is an absolute name"),
        (vec![Evil::Dir(name("../new"))], "leads out of the tree"),
        (
            vec![link("l", "../"), file("l/outside")],
            "leads through a link",
        ),
        (
            vec![link("l", "/"), Evil::Dir(name("l")), file("l/x")],
            "leads through a link",
        ),
        (
            vec![link("a", ".."), link("b", "a"), file("b/outside")],
            "leads through a link",
        ),
        (vec![file("up/outside")], "leads through a link"),
        (vec![hard("h", "../outside")], "leads out of the tree"),
        (vec![hard("h", "/etc/passwd")], "is an absolute name"),
        (vec![hard("h", "up/outside")], "leads through a link"),
        (
            vec![link("l", ".."), hard("h", "l/outside")],
            "leads through a link",
        ),
        (
            vec![file("f"), file("f/x")],
            "leads through a link or a file",
        ),
        (vec![file("kept")], "would replace a directory"),
        (vec![link("kept", "x")], "would replace a directory"),
        (vec![Evil::Device(name("d"))], "is a device"),
        (vec![file(".")], "has no name"),
        (vec![file(&format!("{}x", "a/".repeat(40)))], ""),
    ] {
        let fixture = Fixture::new();
        let before = fixture.outside();
        let outcome = fixture.unpack(&archive(&entries), None);
        match (outcome, part) {
            (Ok(_), "") => {}
            (Err(error), part) if !part.is_empty() => {
                assert!(error.to_string().contains(part), "{entries:?}: {error}");
            }
            (outcome, _) => panic!("{entries:?}: {outcome:?}"),
        }
        assert_eq!(fixture.outside(), before, "{entries:?}");
    }
}

#[test]
fn a_link_in_the_place_of_a_file_is_replaced_and_not_followed() {
    let fixture = Fixture::new();
    let before = fixture.outside();
    let entries = [
        Evil::File("out".into()),
        Evil::Symlink("l".into(), "../outside".into()),
        Evil::File("l".into()),
        // A hard link to a link is the link again.
        Evil::Symlink("m".into(), "../outside".into()),
        Evil::HardLink("n".into(), "m".into()),
        Evil::File("n".into()),
        Evil::HardLink("n".into(), "n".into()),
    ];
    fixture.unpack(&archive(&entries), None).expect("unpacked");
    assert_eq!(fixture.outside(), before);
    for name in ["out", "l", "n"] {
        let path = fixture.0.path().join("place").join(name);
        assert!(path.symlink_metadata().expect("there").is_file(), "{name}");
        assert_eq!(fs::read(path).expect("a file"), b"evil", "{name}");
    }
}

#[test]
fn names_in_errors_are_printable() {
    let fixture = Fixture::new();
    let entries = [Evil::Device("\u{1b}[2J\n\u{202e}x".into())];
    let error = fixture
        .unpack(&archive(&entries), None)
        .expect_err("a device");
    let text = error.to_string();
    assert!(
        !text.contains(|c: char| c.is_control() || c == '\u{202e}'),
        "{text:?}"
    );
}

#[test]
fn names_that_are_none_of_a_file_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["", ".", "..", "a/b", "/", "a\0"] {
        let place = Place::new(dir.path(), Some(name.as_ref()));
        assert!(matches!(place, Err(Error::Refused { .. })), "{name:?}");
    }
}

#[test]
fn places_are_taken_as_cp_takes_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("dir")).expect("made");
    fs::write(at("file"), "old").expect("written");
    fs::write(at("source"), "new").expect("written");
    let archive = packed(&at("source"), "source");
    for (path, expected) in [
        ("dir", Some("dir/source")),
        ("dir/", Some("dir/source")),
        ("dir/other", Some("dir/other")),
        ("file", Some("file")),
        ("new/", None),
        ("new/file", None),
        ("file/x", None),
    ] {
        let placed = Place::at(&at(path), Some("source".as_ref()));
        let placed = placed.and_then(|place| unpack(&archive[..], &place, Modes::All));
        assert_eq!(placed.is_ok(), expected.is_some(), "{path}: {placed:?}");
        if let Some(expected) = expected {
            assert_eq!(fs::read(at(expected)).expect("there"), b"new", "{path}");
        }
    }
    let tree = packed(&at("dir"), ".");
    let place = Place::at(&at("made"), None).expect("made");
    unpack(&tree[..], &place, Modes::All).expect("unpacked");
    assert_eq!(look(&at("made")), look(&at("dir")));
}

/// Ends in the middle of a file.
struct CutOff<'a>(&'a [u8]);

impl Read for CutOff<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer) {
            Ok(0) => Err(std::io::ErrorKind::ConnectionReset.into()),
            read => read,
        }
    }
}

#[test]
fn a_file_that_is_cut_off_is_not_left_behind() {
    let (from, to) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    fs::write(from.path().join("large"), vec![7; 300_000]).expect("written");
    let archive = packed(&from.path().join("large"), "large");
    let place = place(to.path(), Some("large"));
    let broken = unpack(CutOff(&archive[..200_000]), &place, Modes::All);
    assert!(matches!(broken, Err(Error::Stream(_))), "{broken:?}");
    let short = unpack(&archive[..200_000], &place, Modes::All);
    assert!(matches!(short, Err(Error::Archive { .. })), "{short:?}");
    assert_eq!(fs::read_dir(to.path()).expect("a directory").count(), 0);
}

proptest! {
    /// Whatever an archive says, what is beside the place stays as it is.
    #[test]
    fn nothing_outside_changes(entries in prop::collection::vec(evil(), 1..12), named in any::<bool>()) {
        let fixture = Fixture::new();
        let before = fixture.outside();
        let _ = fixture.unpack(&archive(&entries), named.then_some("top"));
        prop_assert_eq!(fixture.outside(), before);
    }
}

/// Entries with names that meet each other, and ways out.
fn evil() -> impl Strategy<Value = Evil> {
    let part = prop::sample::select(vec![
        "a", "b", "up", "out", "kept", "..", ".", "outside", "place", "",
    ]);
    let name = prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"));
    (0..5_u8, name.clone(), name).prop_map(|(kind, name, to)| match kind {
        0 => Evil::File(name),
        1 => Evil::Dir(name),
        2 => Evil::Symlink(name, to),
        3 => Evil::HardLink(name, to),
        _ => Evil::Device(name),
    })
}
