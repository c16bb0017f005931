//! Images made here by hand are imported, and compared with what GNU tar unpacks of the same layers, or refused.

#[allow(dead_code, reason = "shared with the other tests, which use the rest")]
mod support;

use std::path::Path;

use msb_image::{Error, ImportLimits, ImportOptions, Imported, Store};
use support::{
    Compressed, Entry, Layout, can_unpack, contents, fault, ordinary, reference, unpacked,
};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("test files"),
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn store(&self) -> Store {
        Store::open(self.path().join("store"))
    }

    fn import(&self, path: &Path, name: &str) -> Result<Imported, Error> {
        let options = ImportOptions {
            name: Some(name.parse().expect("test files")),
            ..ImportOptions::default()
        };
        self.store().import(path, &options)
    }
}

#[test]
fn layers_add_up_to_what_gnu_tar_unpacks() {
    if !can_unpack() {
        return;
    }
    for compressed in [Compressed::No, Compressed::Gzip, Compressed::Zstd] {
        let place = Place::new();
        let layers = ordinary();
        let layout = Layout::new(&place.path().join("layout"), &layers, compressed);
        let imported = place.import(layout.path(), "image").unwrap();
        let disk = place
            .store()
            .content_path(&imported.manifest.content.sha256);
        let expected = reference(&place.path().join("reference"), &layers);
        assert_eq!(
            unpacked(&place.path().join("unpacked"), &disk),
            expected,
            "{compressed:?}"
        );
        assert!(expected.len() > 40, "{}", expected.len());
        assert!(
            expected["caps"].contains("user.note=line"),
            "{}",
            expected["caps"]
        );
    }
}

#[test]
fn archives_of_a_layout_and_of_docker_give_the_same_disk() {
    let place = Place::new();
    let layout = Layout::new(&place.path().join("layout"), &ordinary(), Compressed::Gzip);
    let first = place.import(layout.path(), "first").unwrap();
    assert!(first.is_new);
    for (archive, is_new) in [(layout.archive(), false), (layout.docker_archive(), true)] {
        let path = place.path().join("archive.tar");
        std::fs::write(&path, archive).unwrap();
        let other = place.import(&path, "other").unwrap();
        assert_eq!(
            contents(&place.store(), &other),
            contents(&place.store(), &first)
        );
        assert_eq!(other.manifest.config, first.manifest.config);
        assert_eq!(other.is_new, is_new);
    }
    assert_eq!(
        first.manifest.config.command(&[]),
        ["/entry", "by", "default"]
    );
    assert_eq!(
        first.manifest.config.command(&["x".into()]),
        ["/entry", "x"]
    );
}

#[test]
fn layers_that_no_tool_makes_are_refused_by_name_or_stay_inside() {
    #[track_caller]
    fn check(layers: &[Vec<Entry>], says: Option<&str>) {
        let place = Place::new();
        let layout = Layout::new(&place.path().join("layout"), layers, Compressed::Gzip);
        match (place.import(layout.path(), "image"), says) {
            (Ok(_), None) => {}
            (Err(error), Some(says)) => {
                let text = fault(&error);
                assert!(text.contains(says) && text.contains("layer "), "{text}");
                assert!(place.store().image_names().unwrap().is_empty());
            }
            (outcome, _) => panic!("{says:?}: {:?}", outcome.map_err(|error| fault(&error))),
        }
        assert!(!place.path().join("escaped").exists());
    }
    let one = |entry: Entry| vec![vec![entry]];
    check(&one(Entry::file("../escaped", b"")), Some("`..`"));
    check(&one(Entry::file("a/../../escaped", b"")), Some("`..`"));
    check(&one(Entry::file("/absolute", b"")), None);
    check(&one(Entry::symlink("out", "../../../../etc")), None);
    check(
        &one(Entry::hard_link("h", "../../etc/passwd")),
        Some("`..`"),
    );
    check(
        &one(Entry::hard_link("h", "/etc/passwd")),
        Some("not there"),
    );
    check(&one(Entry::hard_link("h", "h")), Some("not there"));
    check(
        &[vec![Entry::dir("d"), Entry::hard_link("h", "d")]],
        Some("hard link to a directory"),
    );
    check(
        &[vec![
            Entry::symlink("out", "/etc"),
            Entry::file("out/escaped", b""),
        ]],
        None,
    );
    check(
        &[vec![
            Entry::symlink("a", "b"),
            Entry::symlink("b", "a"),
            Entry::file("a/x", b""),
        ]],
        Some("circle"),
    );
    check(
        &[vec![Entry::file("f", b""), Entry::file("f/x", b"")]],
        Some("no directory"),
    );
    check(&one(Entry::file("./", b"")), Some("root directory"));
    check(&one(Entry::whiteout(".wh.")), Some("whiteout of nothing"));
    check(&one(Entry::whiteout(".wh...")), Some("whiteout of nothing"));
    check(&one(Entry::whiteout(".wh.never")), None);
    check(&one(Entry::file(".wh.x/y", b"")), Some("below a whiteout"));
    check(
        &one(Entry::file(&"n".repeat(256), b"")),
        Some("Linux does not allow"),
    );
    check(
        &one(Entry::file(&"n/".repeat(2100), b"")),
        Some("longer than Linux"),
    );
    check(
        &one(Entry::character("c", 1 << 20, 0)),
        Some("impossible numbers"),
    );
    check(&one(Entry::of_type("s", b'S')), Some("sparse"));
    check(
        &one(Entry::file("x", b"").xattr("user.big", &[1; (64 << 10) + 1])),
        Some("more than 64 KiB"),
    );
    check(
        &one(Entry::file("x", b"").xattr("user.big", &[1; 64 << 10])),
        None,
    );
    let many = (0..20).fold(Entry::file("x", b""), |entry, n| {
        entry.xattr(&format!("user.{n}"), &[1; 60 << 10])
    });
    check(&one(many), Some("too long"));
    // Nothing that squashfs, or a guest's kernel, could make sense of.
    let odd = [
        "user.",
        "system.posix_acl_access",
        "user.overlay.opaque",
        "x",
    ];
    let odd = odd
        .iter()
        .fold(Entry::file("x", b""), |entry, name| entry.xattr(name, b"y"));
    check(&one(odd), None);
    check(
        &one(Entry::file("x", b"").owner(1 << 40, 0)),
        Some("owner 1099511627776, more than Linux knows"),
    );
    check(
        &one(Entry::whiteout(".wh..wh..opq/x")),
        Some("below a whiteout"),
    );
    check(&one(Entry::whiteout(".wh..wh.plnk/x")), None);
    check(&one(Entry::dir(".wh.x")), None);
    check(&one(Entry::file("a\n\u{1b}[2J", b"")), None);
    // A directory that is replaced by a link, and written through: inside, where the link leads.
    check(
        &[
            vec![Entry::dir("d"), Entry::file("d/x", b"")],
            vec![
                Entry::symlink("d", "../../../.."),
                Entry::file("d/escaped", b""),
            ],
        ],
        None,
    );
    check(
        &[vec![
            Entry::symlink("l", "d"),
            Entry::hard_link("h", "l"),
            Entry::file("h/x", b""),
        ]],
        None,
    );
    check(
        &[vec![
            Entry::hard_link("early", "late"),
            Entry::file("late", b""),
        ]],
        Some("not there"),
    );
    check(&one(Entry::of_type("q", b'V')), Some("unknown type"));
    check(
        &[vec![
            Entry::file("x", b"1"),
            Entry::dir("x"),
            Entry::file("x", b"2"),
        ]],
        None,
    );
}

#[test]
fn layers_of_frames_to_pass_over_and_images_of_no_layers_are_images() {
    let place = Place::new();
    let path = place.path().join("layout");
    let layers = [vec![Entry::file("a", b"a")]];
    let plain = Layout::new(&path, &layers, Compressed::No);
    let plain = place.import(plain.path(), "plain").unwrap();
    for (front, behind) in [(true, false), (false, true), (true, true)] {
        let mut layout = Layout::new(&path, &layers, Compressed::Zstd);
        let skipped = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let blob = &mut layout.layers[0].blob;
        if front {
            blob.splice(..0, skipped.clone());
        }
        if behind {
            blob.extend(skipped);
        }
        layout.write();
        let imported = place.import(layout.path(), "skipped").unwrap();
        assert_eq!(
            contents(&place.store(), &imported),
            contents(&place.store(), &plain)
        );
    }
    let none = Layout::new(&path, &[], Compressed::No);
    assert!(place.import(none.path(), "none").unwrap().is_new);
}

#[test]
fn a_layer_may_end_right_behind_its_last_files_data_as_umoci_leaves_it() {
    let place = Place::new();
    let path = place.path().join("layout");
    let layers = [vec![Entry::dir("d"), Entry::file("d/a", b"abc")]];
    let whole = place.import(Layout::new(&path, &layers, Compressed::No).path(), "whole");
    let whole = contents(&place.store(), &whole.unwrap());
    for cut in [1024, 1024 + 509] {
        let mut layout = Layout::new(&path, &layers, Compressed::No);
        let layer = &mut layout.layers[0];
        layer.blob.truncate(layer.blob.len() - cut);
        layer.diff_id = msb_image::Digest::of(&layer.blob).to_string();
        layout.write();
        let imported = place.import(layout.path(), "cut").unwrap();
        assert_eq!(contents(&place.store(), &imported), whole);
    }
}

#[test]
fn an_archive_of_nothing_but_names_ends_at_a_limit() {
    let place = Place::new();
    let mut archive = Vec::new();
    let name = "n".repeat(1 << 19);
    for n in 0..40 {
        let entry = msb_tar::Entry::new(format!("{n}{name}"), msb_tar::Kind::Fifo);
        msb_tar::write(&entry, &mut archive).unwrap();
    }
    msb_tar::write_end(&mut archive).unwrap();
    let path = place.path().join("archive.tar");
    std::fs::write(&path, archive).unwrap();
    let error = fault(&place.import(&path, "names").unwrap_err());
    assert!(error.contains("bytes of their names"), "{error}");
}

#[test]
fn bombs_end_at_the_limits() {
    #[track_caller]
    fn check(layer: Vec<Entry>, limits: ImportLimits, says: &str) {
        let place = Place::new();
        let layout = Layout::new(&place.path().join("layout"), &[layer], Compressed::Gzip);
        let options = ImportOptions {
            limits,
            ..ImportOptions::default()
        };
        let error = place.store().import(layout.path(), &options).unwrap_err();
        let text = fault(&error);
        assert!(
            text.contains(says) && text.contains("layer 1 of 1"),
            "{text}"
        );
        let left = std::fs::read_dir(place.path().join("store/tmp")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "a half-made disk is left");
    }
    let limits = ImportLimits::default();
    let few = ImportLimits {
        unpacked_bytes: 1 << 20,
        ..limits
    };
    check(
        vec![Entry::file("zeros", &vec![0; 4 << 20])],
        few,
        "1048576 unpacked bytes",
    );
    let few = ImportLimits {
        entries: 100,
        ..limits
    };
    let many = (0..200).map(|n| Entry::character(&format!("dev/{n}"), 1, 3));
    check(many.collect(), few, "100 entries");
    check(
        vec![Entry::file(&"d/".repeat(150), b"")],
        few,
        "100 entries",
    );
    let same = (0..200).map(|_| Entry::file("same", b""));
    check(same.collect(), few, "100 entries");
    let few = ImportLimits {
        metadata_bytes: 10_000,
        ..limits
    };
    let big = Entry::file("x", b"").xattr("user.big", &[1; 20_000]);
    check(vec![big], few, "10000 bytes of names");
    let few = ImportLimits {
        steps: 10_000,
        ..limits
    };
    let mut deep: Vec<_> = vec![Entry::dir(&"d/".repeat(500))];
    deep.extend((0..200).map(|n| Entry::file(&format!("{}{n}", "d/".repeat(500)), b"")));
    check(deep, few, "10000 steps");
    // Links that unfold to thousands of names before they lead nowhere.
    let long = |n: usize| format!("{n}/{}", "x/".repeat(1000));
    let links = (0..30).map(|n| Entry::symlink(&n.to_string(), &long(n + 1)));
    let whiteout = Entry::whiteout("0/.wh.x");
    // Hidden is what is of the layers below.
    let place = Place::new();
    let layers = [links.collect(), vec![whiteout]];
    let layout = Layout::new(&place.path().join("layout"), &layers, Compressed::Gzip);
    let options = ImportOptions {
        limits: few,
        ..ImportOptions::default()
    };
    let error = fault(&place.store().import(layout.path(), &options).unwrap_err());
    assert!(error.contains("10000 steps"), "{error}");
}

#[test]
fn directories_that_would_take_hours_to_pack_are_refused() {
    let place = Place::new();
    let import = |names: usize, comparisons: u64| {
        let files = (0..names).map(|n| Entry::fifo(&format!("deep/full/{n}")));
        let layers = [vec![Entry::dir("deep")], files.collect()];
        let layout = Layout::new(&place.path().join("layout"), &layers, Compressed::No);
        let limits = ImportLimits {
            comparisons,
            ..ImportLimits::default()
        };
        let options = ImportOptions {
            limits,
            ..ImportOptions::default()
        };
        place.store().import(layout.path(), &options)
    };
    import(50, 10_000).unwrap();
    let error = fault(&import(200, 10_000).unwrap_err());
    assert!(
        error.contains("most in /deep/full (200)") && error.contains("several directories"),
        "{error}"
    );
}

#[test]
fn images_that_do_not_hold_together_are_refused() {
    #[track_caller]
    fn check(break_it: impl FnOnce(&mut Layout), says: &[&str]) {
        let place = Place::new();
        let layers = [
            vec![Entry::file("a", b"a")],
            vec![Entry::file("b", &[b'b'; 2000])],
        ];
        let mut layout = Layout::new(&place.path().join("layout"), &layers, Compressed::Gzip);
        break_it(&mut layout);
        layout.write();
        let text = fault(&place.import(layout.path(), "image").unwrap_err());
        for part in says {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert!(place.store().image_names().unwrap().is_empty());
    }
    check(
        |image| image.damage_blob(1),
        &["layer 2 of 2", "digest", "damaged"],
    );
    check(
        |image| image.cut_blob(1),
        &["layer 2 of 2", "bytes instead of"],
    );
    check(|image| image.remove_blob(0), &["layer 1 of 2", "not there"]);
    check(
        |image| image.layers[1].media_type = "application/x-zip".into(),
        &["layer 2 of 2", "x-zip"],
    );
    check(
        |image| image.layers[0].media_type = "application/vnd.oci.image.layer.v1.tar+zstd".into(),
        &["layer 1 of 2", "zstd", "it is gzip"],
    );
    check(
        |image| image.layers[0].blob.truncate(20),
        &["layer 1 of 2", "gzip", "cut off"],
    );
    check(
        |image| image.layers[0].diff_id = "0".repeat(64),
        &["layer 1 of 2", "configuration says"],
    );
    check(
        |image| image.diff_ids_left_out = 1,
        &["names 1 layers, the manifest 2"],
    );
    check(
        |image| image.architecture = "arm64".into(),
        &["linux/arm64", "linux/amd64"],
    );
    check(
        |image| image.config_type = "application/x-helm".into(),
        &["configuration", "x-helm"],
    );
    check(
        |image| image.index = Some("{".into()),
        &["index", "does not parse"],
    );
    check(
        |image| image.index = Some(r#"{"manifests":[]}"#.into()),
        &["platform"],
    );
    let elsewhere = r#"{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:../../x","size":1}]}"#;
    check(
        |image| image.index = Some(elsewhere.into()),
        &["no SHA-256"],
    );
}

#[test]
fn every_cut_of_a_layer_is_an_error_and_no_panic() {
    let place = Place::new();
    let layers = [vec![
        Entry::file("a", b"a").xattr("user.x", b"y"),
        Entry::dir("d"),
    ]];
    let whole = Layout::new(&place.path().join("layout"), &layers, Compressed::No);
    let len = whole.layers[0].blob.len();
    for cut in (1..len).step_by(97) {
        let mut layout = Layout::new(&place.path().join("layout"), &layers, Compressed::No);
        layout.layers[0].blob.truncate(cut);
        layout.write();
        place.import(layout.path(), "image").unwrap_err();
    }
}

#[test]
fn other_sources_become_images_and_names_are_kept_apart() {
    let place = Place::new();
    let root = place.path().join("Root FS");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::write(root.join("bin/sh"), "#!").unwrap();
    let made = place
        .store()
        .import(&root, &ImportOptions::default())
        .unwrap();
    assert_eq!(made.name.as_str(), "root-fs");
    let disk = place.store().content_path(&made.manifest.content.sha256);
    let copied = place.import(&disk, "copy").unwrap();
    assert_eq!(copied.manifest.content, made.manifest.content);

    place.store().remove_image(&made.name).unwrap();
    assert!(disk.exists(), "the other name still has it");
    place.store().remove_image(&copied.name).unwrap();
    assert!(!disk.exists());
    let gone = place.store().remove_image(&copied.name).unwrap_err();
    assert!(gone.to_string().contains("no image `copy`"), "{gone}");

    let text = place.path().join("text");
    std::fs::write(&text, "hello").unwrap();
    let error = fault(&place.import(&text, "text").unwrap_err());
    assert!(error.contains("neither an OCI image layout"), "{error}");
    let mut built = std::io::Cursor::new(b"hsqs");
    let base = msb_image::Artefact::Image("base".parse().unwrap());
    place
        .store()
        .publish(&base, &mut built, "r".into(), "o".into())
        .unwrap();
    let error = place.import(&root, "base").unwrap_err();
    assert!(error.to_string().contains("was not imported"), "{error}");
}
