//! Reads the facts from a mounted root.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::tree::{Place, Tree};
use crate::certificate::is_entry_name;
use crate::environment::BUNDLE_VARIABLES;
use crate::error::{Failure, Problem, Purpose};
use crate::facts::{BundleFacts, DirectoryFacts, Facts, NodeExtra, StoreFacts};
use crate::places::{
    ANCHOR_DIRECTORIES, AnchorDirectory, BUNDLES, HASHED_DIRECTORIES, JAVA_PARENTS, KEY_STORES,
    KEY_STORES_OF_JAVA, NEW_BUNDLES, RUNTIME_DIRECTORY,
};

/// More than anyone has versions of Java, users, or profiles of a browser.
pub(super) const MAX_ENTRIES: usize = 256;

impl Facts {
    /// Looks at the root whose guest has no variables yet. See [`Facts::read_with`].
    #[must_use]
    pub fn read(root: &Path) -> Self {
        Self::read_with(root, &|_name| None)
    }

    /// Looks at the root that is mounted at `root`, and at the files that the guest's own environment names.
    ///
    /// `existing` is the environment of the image and of the user. A bundle that it names is changed like the system's,
    /// for clients that are told to read no other; what `NODE_EXTRA_CA_CERTS` names is only read.
    ///
    /// Nothing is changed, and nothing ends the reading: what cannot be read is a failure in the report later.
    #[must_use]
    pub fn read_with(root: &Path, existing: &dyn Fn(&str) -> Option<String>) -> Self {
        let tree = Tree::new(root);
        let mut facts = Self {
            bundles: Vec::new(),
            new_bundles: Vec::new(),
            anchors: Vec::new(),
            hashed: Vec::new(),
            key_stores: Vec::new(),
            nss_databases: Vec::new(),
            firefox: Vec::new(),
            chromium: Vec::new(),
            runtime: match tree.find(Path::new(RUNTIME_DIRECTORY)) {
                Ok(place) => Ok(place.path),
                Err(error) => Err(failure(
                    RUNTIME_DIRECTORY,
                    Purpose::Runtime,
                    Problem::io("resolve it", &error),
                )),
            },
            node_extra: None,
            failures: Vec::new(),
        };
        for name in BUNDLES {
            facts.read_bundle(&tree, name, true);
        }
        for value in BUNDLE_VARIABLES.iter().filter_map(|name| existing(name)) {
            facts.read_named_bundle(&tree, &value);
        }
        facts.find_new_bundles(&tree);
        for directory in ANCHOR_DIRECTORIES {
            facts.read_anchors(&tree, directory);
        }
        for name in HASHED_DIRECTORIES {
            facts.read_hashed(&tree, name);
        }
        facts.read_key_stores(&tree, existing("JAVA_HOME").as_deref());
        facts.read_nss_databases(&tree);
        facts.read_policies(&tree);
        if let Some(value) = existing("NODE_EXTRA_CA_CERTS").filter(|value| !value.is_empty()) {
            facts.read_node_extra(&tree, value);
        }
        facts
    }

    fn read_bundle(&mut self, tree: &Tree, name: &str, system: bool) {
        let place = match tree.find(Path::new(name)) {
            Ok(place) if place.metadata.is_some() => place,
            // A missing or dangling bundle, or a path that leads through something other than a directory.
            Ok(_) => return,
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return,
            Err(error) => {
                return self.fail(name, Purpose::Bundle, Problem::io("resolve it", &error));
            }
        };
        if let Some(known) = self
            .bundles
            .iter_mut()
            .find(|bundle| bundle.path == place.path)
        {
            known.names.push(name.to_owned());
            return;
        }
        match tree.read(&place) {
            Ok(content) => self.bundles.push(BundleFacts {
                names: vec![name.to_owned()],
                system,
                blocked: tree.blocked(place.path.parent().unwrap_or(&place.path)),
                path: place.path,
                content,
            }),
            Err(problem) => self.fail(name, Purpose::Bundle, problem),
        }
    }

    fn read_named_bundle(&mut self, tree: &Tree, value: &str) {
        let known = |bundle: &BundleFacts| bundle.names.iter().any(|name| name == value);
        if value.is_empty() || self.bundles.iter().any(known) {
            return;
        }
        if !value.starts_with('/') {
            return self.fail(value, Purpose::Bundle, Problem::RelativePath);
        }
        if !tree.exists(value) {
            return self.fail(value, Purpose::Bundle, Problem::Missing);
        }
        self.read_bundle(tree, value, false);
    }

    fn find_new_bundles(&mut self, tree: &Tree) {
        for new in NEW_BUNDLES {
            if !new.evidence.is_empty() && !new.evidence.iter().any(|path| tree.exists(path)) {
                continue;
            }
            let found = match tree.find(Path::new(new.path)) {
                // It is a bundle already, or something that cannot be one.
                Ok(place) if place.metadata.is_some() => continue,
                Ok(place) => match tree.blocked(&place.path) {
                    Some(problem) => Err(failure(new.path, Purpose::Bundle, problem)),
                    None => Ok(place.path),
                },
                Err(error) => Err(failure(
                    new.path,
                    Purpose::Bundle,
                    Problem::io("resolve it", &error),
                )),
            };
            self.new_bundles.push((new.path.to_owned(), found));
        }
    }

    fn read_anchors(&mut self, tree: &Tree, directory: &AnchorDirectory) {
        let expected = directory.evidence.iter().any(|path| tree.exists(path))
            && !directory.instead.is_some_and(|path| tree.exists(path));
        match tree.find(Path::new(directory.path)) {
            Ok(place) if place.metadata.is_some() || expected => {
                let facts = self.read_directory(tree, directory.path, &place, Purpose::Anchor);
                self.anchors.extend(facts);
            }
            Ok(_) => {}
            Err(error) if expected => self.fail(
                directory.path,
                Purpose::Anchor,
                Problem::io("resolve it", &error),
            ),
            Err(_) => {}
        }
    }

    fn read_hashed(&mut self, tree: &Tree, name: &str) {
        let Ok(place) = tree.find(Path::new(name)) else {
            return;
        };
        if place
            .metadata
            .as_ref()
            .is_none_or(|metadata| !metadata.is_dir())
            || self.hashed.iter().any(|known| known.path == place.path)
        {
            return;
        }
        let facts = self.read_directory(tree, name, &place, Purpose::HashedDirectory);
        self.hashed
            .extend(facts.filter(|facts| !facts.hashes.is_empty()));
    }

    fn read_directory(
        &mut self,
        tree: &Tree,
        name: &str,
        place: &Place,
        purpose: Purpose,
    ) -> Option<DirectoryFacts> {
        let mut facts = DirectoryFacts {
            name: name.to_owned(),
            path: place.path.clone(),
            ours: BTreeMap::new(),
            hashes: BTreeMap::new(),
            blocked: tree.blocked(&place.path),
        };
        if place.metadata.is_none() {
            return Some(facts);
        }
        let entries = match fs::read_dir(tree.outside(&place.path)) {
            Ok(entries) => entries,
            Err(error) => {
                self.fail(name, purpose, Problem::io("list it", &error));
                return None;
            }
        };
        for entry in entries.flatten() {
            let Ok(file_name) = entry.file_name().into_string() else {
                continue;
            };
            if is_hash_name(&file_name) {
                facts
                    .hashes
                    .insert(file_name, fs::read_link(entry.path()).ok());
            } else if is_our_name(&file_name) {
                let content = tree.find(&place.path.join(&file_name)).ok();
                let content = content.and_then(|place| tree.read(&place).ok());
                facts.ours.insert(file_name, content);
            }
        }
        Some(facts)
    }

    fn read_key_stores(&mut self, tree: &Tree, java_home: Option<&str>) {
        let mut homes: Vec<_> = JAVA_PARENTS
            .iter()
            .flat_map(|parent| entries(tree, parent))
            .collect();
        homes.extend(
            java_home
                .filter(|home| home.starts_with('/'))
                .map(PathBuf::from),
        );
        let shared = KEY_STORES.iter().map(PathBuf::from);
        let own = homes
            .iter()
            .flat_map(|home| KEY_STORES_OF_JAVA.iter().map(|below| home.join(below)));
        for name in shared.chain(own) {
            // What leads nowhere is no key store.
            let Ok(place) = tree.find(&name) else {
                continue;
            };
            if place.metadata.is_none()
                || self.key_stores.iter().any(|known| known.path == place.path)
            {
                continue;
            }
            match store(tree, place) {
                Ok(store) => self.key_stores.push(store),
                Err(problem) => self.failures.push(Failure {
                    path: name,
                    purpose: Purpose::KeyStore,
                    problem,
                }),
            }
        }
    }

    fn read_node_extra(&mut self, tree: &Tree, value: String) {
        let content = if value.starts_with('/') {
            tree.find(Path::new(&value))
                .map_err(|error| Problem::io("resolve it", &error))
                .and_then(|place| tree.read(&place))
        } else {
            Err(Problem::RelativePath)
        };
        match content {
            Ok(content) => self.node_extra = Some(NodeExtra { value, content }),
            Err(problem) => self.fail(&value, Purpose::Runtime, problem),
        }
    }

    fn fail(&mut self, path: &str, purpose: Purpose, problem: Problem) {
        self.failures.push(failure(path, purpose, problem));
    }
}

/// A file that has to be edited.
pub(super) fn store(tree: &Tree, place: Place) -> Result<StoreFacts, Problem> {
    Ok(StoreFacts {
        content: tree.read(&place)?,
        blocked: tree.blocked(place.path.parent().unwrap_or(&place.path)),
        path: place.path,
    })
}

/// What is in a directory, in order, or the first of it: an image may hold any number.
pub(super) fn entries(tree: &Tree, directory: impl AsRef<Path>) -> Vec<PathBuf> {
    let Ok(place) = tree.find(directory.as_ref()) else {
        return Vec::new();
    };
    let found = fs::read_dir(tree.outside(&place.path))
        .into_iter()
        .flatten();
    let mut found: Vec<_> = found
        .flatten()
        .take(MAX_ENTRIES)
        .map(|entry| place.path.join(entry.file_name()))
        .collect();
    found.sort();
    found
}

pub(super) fn failure(path: &str, purpose: Purpose, problem: Problem) -> Failure {
    Failure {
        path: PathBuf::from(path),
        purpose,
        problem,
    }
}

/// `<hash>.N`, as `openssl rehash` names links: eight hexadecimal digits, a dot, a number.
fn is_hash_name(name: &str) -> bool {
    name.split_once('.').is_some_and(|(hash, number)| {
        hash.len() == 8
            && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// `msb-ca-<16 hexadecimal digits>.crt` or `.pem`.
fn is_our_name(name: &str) -> bool {
    name.rsplit_once('.')
        .is_some_and(|(stem, extension)| is_entry_name(stem) && matches!(extension, "crt" | "pem"))
}
