//! Any layers add up to what a plain model of the image specification says: paths in a map, whiteouts first.

#[allow(dead_code, reason = "shared with the other tests, which use the rest")]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use msb_image::{ImportOptions, Store};
use proptest::prelude::*;
use support::{Compressed, Entry, Layout, fault};

/// One entry of a layer, over few names so that layers meet.
#[derive(Clone, Debug)]
enum Op {
    File(String, u8),
    Dir(String, u32),
    /// Nothing is ever below it.
    Symlink(String),
    HardLink(String, String),
    Whiteout(String),
    Opaque(String),
}

/// What is at a path: text to compare, and which file it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    text: String,
    is_dir: bool,
    inode: u64,
}

#[derive(Clone, Default)]
struct Model {
    items: BTreeMap<String, Item>,
    inodes: u64,
}

impl Model {
    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.items
            .retain(|other, _| other != path && !other.starts_with(&below));
    }

    fn put(&mut self, path: &str, text: String, is_dir: bool) {
        self.inodes += 1;
        let inode = self.inodes;
        self.items.insert(
            path.to_owned(),
            Item {
                text,
                is_dir,
                inode,
            },
        );
    }

    /// Whether every directory above is one, or can be made.
    fn has_room(&self, path: &str) -> bool {
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        above
            .into_iter()
            .all(|above| self.items.get(above).is_none_or(|item| item.is_dir))
    }

    fn make_parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            if !self.items.contains_key(&path[..at]) {
                self.put(&path[..at], "dir 755".into(), true);
            }
        }
    }

    /// Applies a layer, and leaves out of it what cannot be part of one here. Whiteouts hide what is below, wherever in the
    /// layer they stand: first, or last.
    fn apply(&mut self, layer: &[Op], hiding_last: bool) -> Vec<Op> {
        // What is there at an entry's turn if nothing is hidden yet.
        let mut unhidden = self.clone();
        let (hiding, adding): (Vec<_>, Vec<_>) = layer
            .iter()
            .cloned()
            .partition(|op| matches!(op, Op::Whiteout(_) | Op::Opaque(_)));
        for op in &hiding {
            match op {
                Op::Whiteout(path) => self.remove(path),
                Op::Opaque(path) => {
                    let below = format!("{path}/");
                    self.items.retain(|other, _| !other.starts_with(&below));
                }
                _ => {}
            }
        }
        let mut kept = Vec::new();
        for op in adding {
            let (Op::File(path, _) | Op::Dir(path, _) | Op::Symlink(path) | Op::HardLink(path, _)) =
                &op
            else {
                continue;
            };
            if !self.has_room(path) || (hiding_last && !unhidden.has_room(path)) {
                continue;
            }
            match &op {
                Op::HardLink(path, target) => {
                    let Some(item) = self.items.get(target).filter(|item| !item.is_dir).cloned()
                    else {
                        continue;
                    };
                    if path.starts_with(&format!("{target}/")) {
                        continue;
                    }
                    self.make_parents(path);
                    self.remove(path);
                    self.items.insert(path.clone(), item);
                }
                Op::Dir(path, mode) => {
                    self.make_parents(path);
                    if self.items.get(path).is_some_and(|item| !item.is_dir) {
                        self.remove(path);
                    }
                    self.put(path, format!("dir {mode:o}"), true);
                }
                Op::File(path, content) => {
                    self.make_parents(path);
                    self.remove(path);
                    self.put(path, format!("file {content}"), false);
                }
                _ => {
                    self.make_parents(path);
                    self.remove(path);
                    self.put(path, "link".into(), false);
                }
            }
            unhidden.make_parents(path);
            let item = self.items[path].clone();
            if !(item.is_dir && unhidden.items.get(path).is_some_and(|item| item.is_dir)) {
                unhidden.remove(path);
            }
            unhidden.items.insert(path.clone(), item);
            kept.push(op.clone());
        }
        match hiding_last {
            true => [kept, hiding].concat(),
            false => [hiding, kept].concat(),
        }
    }

    fn summary(&self) -> (BTreeMap<String, String>, BTreeSet<Vec<String>>) {
        let files = self.items.iter().filter(|(_, item)| !item.is_dir);
        let groups = groups(files.map(|(path, item)| (item.inode, path.clone())));
        let texts = self
            .items
            .iter()
            .map(|(path, item)| (path.clone(), item.text.clone()));
        (texts.collect(), groups)
    }
}

/// Names that are one file, by the file.
fn groups(files: impl Iterator<Item = (u64, String)>) -> BTreeSet<Vec<String>> {
    let mut by_inode = BTreeMap::<u64, Vec<String>>::new();
    for (inode, path) in files {
        by_inode.entry(inode).or_default().push(path);
    }
    by_inode
        .into_values()
        .map(|mut paths| {
            paths.sort();
            paths
        })
        .collect()
}

fn entry(op: &Op) -> Entry {
    match op {
        Op::File(path, content) => Entry::file(path, &[*content]),
        Op::Dir(path, mode) => Entry::dir(path).mode(*mode),
        Op::Symlink(path) => Entry::symlink(path, "nowhere"),
        Op::HardLink(path, target) => Entry::hard_link(path, target),
        Op::Whiteout(path) => match path.rsplit_once('/') {
            Some((parent, name)) => Entry::whiteout(&format!("{parent}/.wh.{name}")),
            None => Entry::whiteout(&format!(".wh.{path}")),
        },
        Op::Opaque(path) => Entry::whiteout(&format!("{path}/.wh..wh..opq")),
    }
}

/// What `unsquashfs` makes of the disk.
fn summary(root: &Path) -> (BTreeMap<String, String>, BTreeSet<Vec<String>>) {
    let mut texts = BTreeMap::new();
    let mut files = Vec::new();
    let mut rest = vec![root.to_owned()];
    while let Some(dir) = rest.pop() {
        for found in std::fs::read_dir(dir).expect("a directory") {
            let path = found.expect("an entry").path();
            let metadata = path.symlink_metadata().expect("metadata");
            let name = path
                .strip_prefix(root)
                .expect("below")
                .to_str()
                .expect("UTF-8")
                .to_owned();
            let text = if metadata.is_dir() {
                rest.push(path);
                format!("dir {:o}", metadata.permissions().mode() & 0o7777)
            } else {
                files.push((metadata.ino(), name.clone()));
                match metadata.is_symlink() {
                    true => "link".to_owned(),
                    false => format!("file {}", std::fs::read(&path).expect("a file")[0]),
                }
            };
            texts.insert(name, text);
        }
    }
    (texts, groups(files.into_iter()))
}

fn has_unsquashfs() -> bool {
    static HAS: LazyLock<bool> = LazyLock::new(|| {
        let has = Command::new("unsquashfs").arg("-version").output().is_ok();
        if !has {
            eprintln!("skipped: unsquashfs is not installed");
        }
        has
    });
    *HAS
}

fn ops() -> impl Strategy<Value = Op> {
    let path = || {
        proptest::collection::vec(prop_oneof!["a", "b", "c"], 1..4)
            .prop_map(|parts| parts.join("/"))
    };
    prop_oneof![
        4 => (path(), any::<u8>()).prop_map(|(path, content)| Op::File(path, content)),
        3 => (path(), prop_oneof![Just(0o700), Just(0o755), Just(0o1777)]).prop_map(|(path, mode)| Op::Dir(path, mode)),
        1 => path().prop_map(Op::Symlink),
        2 => (path(), path()).prop_map(|(path, target)| Op::HardLink(path, target)),
        2 => path().prop_map(Op::Whiteout),
        1 => path().prop_map(Op::Opaque),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_layers_add_up_to_the_models(layers in proptest::collection::vec((proptest::collection::vec(ops(), 0..12), any::<bool>()), 1..4)) {
        if !has_unsquashfs() {
            return Ok(());
        }
        let mut model = Model::default();
        let kept: Vec<Vec<Op>> = layers.iter().map(|(layer, hiding_last)| model.apply(layer, *hiding_last)).collect();
        let dir = tempfile::tempdir()?;
        let entries: Vec<Vec<Entry>> = kept.iter().map(|layer| layer.iter().map(entry).collect()).collect();
        let layout = Layout::new(&dir.path().join("layout"), &entries, Compressed::No);
        let store = Store::open(dir.path().join("store"));
        let imported = store.import(layout.path(), &ImportOptions::default());
        let imported = imported.map_err(|error| TestCaseError::fail(format!("{}: {kept:?}", fault(&error))))?;
        let unpacked = dir.path().join("unpacked");
        let output = Command::new("unsquashfs")
            .args(["-q", "-n", "-d"])
            .arg(&unpacked)
            .arg(store.content_path(&imported.manifest.content.sha256))
            .output()?;
        prop_assert!(output.status.success(), "{output:?}");
        prop_assert_eq!(summary(&unpacked), model.summary(), "{:?}", kept);
    }
}
