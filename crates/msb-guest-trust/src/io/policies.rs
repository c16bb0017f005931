//! Reads the policies of browsers that are installed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::read::{entries, failure, store};
use super::tree::{Place, Tree};
use crate::error::{Problem, Purpose};
use crate::facts::{ChromiumFacts, Facts, PolicyFacts};
use crate::places::{
    CHROMIUM_POLICY_FILE, CHROMIUMS, Chromium, FIREFOX_INSTALLATIONS, FIREFOX_IS_HERE,
    FIREFOX_POLICIES_OF_INSTALLATION, FIREFOX_POLICIES_OF_SYSTEM,
};

impl Facts {
    pub(super) fn read_policies(&mut self, tree: &Tree) {
        self.read_firefox(tree);
        for browser in CHROMIUMS {
            self.read_chromium(tree, browser);
        }
    }

    fn read_firefox(&mut self, tree: &Tree) {
        let installed = FIREFOX_INSTALLATIONS
            .iter()
            .map(Path::new)
            .filter(|directory| exists(tree, &directory.join(FIREFOX_IS_HERE)));
        let mut files: Vec<_> = installed
            .map(|directory| directory.join(FIREFOX_POLICIES_OF_INSTALLATION))
            .collect();
        if files.is_empty() {
            return;
        }
        // Where the system has one, Firefox reads no other; made here, it would hide the others.
        let of_system = Some(PathBuf::from(FIREFOX_POLICIES_OF_SYSTEM));
        files.extend(of_system.filter(|file| exists(tree, file)));
        for file in files {
            let known = |path: &Path| self.firefox.iter().any(|known| known.path == path);
            match tree.find(&file) {
                Ok(place) if known(&place.path) => {}
                Ok(place) => match policies(tree, place) {
                    Ok(facts) => self.firefox.push(facts),
                    Err(problem) => self.fail_path(&file, problem),
                },
                Err(error) => self.fail_path(&file, Problem::io("resolve it", &error)),
            }
        }
    }

    fn read_chromium(&mut self, tree: &Tree, browser: &Chromium) {
        if !browser.evidence.iter().any(|path| tree.exists(path)) {
            return;
        }
        let directory = Path::new(browser.managed);
        let ours = directory.join(CHROMIUM_POLICY_FILE);
        let place = match tree.find(&ours) {
            Ok(place) => place,
            Err(error) => return self.fail_path(&ours, Problem::io("resolve it", &error)),
        };
        if self
            .chromium
            .iter()
            .any(|known| known.ours.path == place.path)
        {
            return;
        }
        let mut others = BTreeMap::new();
        for path in entries(tree, directory) {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if name == CHROMIUM_POLICY_FILE || !name.ends_with(".json") {
                continue;
            }
            let content = tree
                .find(&path)
                .map_err(|error| Problem::io("resolve it", &error))
                .and_then(|place| tree.read(&place));
            match content {
                Ok(content) => _ = others.insert(name.to_owned(), content),
                Err(problem) => return self.fail_path(&path, problem),
            }
        }
        match policies(tree, place) {
            Ok(ours) => self.chromium.push(ChromiumFacts { ours, others }),
            Err(problem) => self.fail_path(&ours, problem),
        }
    }

    fn fail_path(&mut self, path: &Path, problem: Problem) {
        let path = path.to_string_lossy();
        self.failures
            .push(failure(&path, Purpose::BrowserPolicy, problem));
    }
}

fn exists(tree: &Tree, path: &Path) -> bool {
    tree.find(path).is_ok_and(|place| place.metadata.is_some())
}

/// A file, or what there is where it would be.
fn policies(tree: &Tree, place: Place) -> Result<PolicyFacts, Problem> {
    if place.metadata.is_none() {
        return Ok(PolicyFacts {
            blocked: tree.blocked(&place.path),
            path: place.path,
            content: None,
        });
    }
    let store = store(tree, place)?;
    Ok(PolicyFacts {
        path: store.path,
        content: Some(store.content),
        blocked: store.blocked,
    })
}
