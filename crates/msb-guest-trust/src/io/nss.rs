//! Reads the databases of NSS: the system's, each user's, and those of profiles of browsers.

use std::path::{Path, PathBuf};

use super::read::{MAX_ENTRIES, entries, store};
use super::tree::Tree;
use crate::error::{Failure, Problem, Purpose};
use crate::facts::{Facts, NssFacts};
use crate::places::{
    NSS_CERTIFICATES, NSS_JOURNALS, NSS_KEYS, NSS_OF_SYSTEM, NSS_OF_USER, NSS_OLD, NSS_PROFILES,
};

/// More than anyone has. Each takes some of the boot's time.
const MAX_DATABASES: usize = 64;
/// In which one is looked for.
const MAX_DIRECTORIES: usize = 4096;

impl Facts {
    pub(super) fn read_nss_databases(&mut self, tree: &Tree) {
        for (number, directory) in directories(tree).enumerate() {
            let read = match number {
                ..MAX_DIRECTORIES => self.read_nss_database(tree, &directory),
                _ => Err((NSS_CERTIFICATES, Problem::TooMany)),
            };
            let Err((name, problem)) = read else {
                continue;
            };
            let is_last = problem == Problem::TooMany;
            self.failures.push(Failure {
                path: directory.join(name),
                purpose: Purpose::NssDatabase,
                problem,
            });
            if is_last {
                return;
            }
        }
    }

    /// Reads the database in a directory, if there is one.
    ///
    /// # Errors
    /// The name of the file that has a problem.
    fn read_nss_database(
        &mut self,
        tree: &Tree,
        directory: &Path,
    ) -> Result<(), (&'static str, Problem)> {
        let find = |name| {
            let place = tree.find(&directory.join(name)).ok()?;
            place.metadata.is_some().then_some(place)
        };
        let Some(place) = find(NSS_CERTIFICATES) else {
            return match find(NSS_OLD) {
                Some(_) => Err((NSS_OLD, Problem::NotWritten)),
                None => Ok(()),
            };
        };
        let is_known = |known: &NssFacts| known.certificates.path == place.path;
        if self.nss_databases.iter().any(is_known) {
            return Ok(());
        }
        if self.nss_databases.len() == MAX_DATABASES {
            return Err((NSS_CERTIFICATES, Problem::TooMany));
        }
        // What they hold belongs to the database, and SQLite would put it there when it is next opened.
        for name in NSS_JOURNALS {
            let content = find(name).and_then(|place| place.metadata);
            if content.is_some_and(|metadata| metadata.len() > 0) {
                return Err((name, Problem::InUse));
            }
        }
        let certificates = store(tree, place).map_err(|problem| (NSS_CERTIFICATES, problem))?;
        let keys = find(NSS_KEYS).map(|place| store(tree, place)).transpose();
        self.nss_databases.push(NssFacts {
            certificates,
            keys: keys.map_err(|problem| (NSS_KEYS, problem))?,
        });
        Ok(())
    }
}

/// Where there may be a database.
fn directories(tree: &Tree) -> impl Iterator<Item = PathBuf> {
    let of_user = move |home: PathBuf| {
        let own: Vec<_> = NSS_OF_USER.iter().map(|below| home.join(below)).collect();
        let profiles = NSS_PROFILES.iter();
        own.into_iter()
            .chain(profiles.flat_map(move |below| entries(tree, home.join(below))))
    };
    let of_system = [PathBuf::from(NSS_OF_SYSTEM)].into_iter();
    of_system.chain(homes(tree).into_iter().flat_map(of_user))
}

/// The homes of all users, and root's even if no file says so.
fn homes(tree: &Tree) -> Vec<PathBuf> {
    let users = tree.find(Path::new("/etc/passwd")).ok();
    let users = users.and_then(|place| tree.read(&place).ok());
    let users = users.unwrap_or_default();
    let users = String::from_utf8_lossy(&users);
    let mut homes: Vec<_> = users
        .lines()
        .take(MAX_ENTRIES)
        .filter_map(|line| line.split(':').nth(5))
        .filter(|home| home.starts_with('/'))
        .map(PathBuf::from)
        .collect();
    homes.push(PathBuf::from("/root"));
    homes.sort_unstable();
    homes.dedup();
    homes
}
