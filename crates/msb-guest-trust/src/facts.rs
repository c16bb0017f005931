//! What a guest's root holds that has to do with trust. `src/io/read.rs` fills it in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Failure, Problem};

/// What was found in a guest's root: the contents of its bundles, its anchor directories, its hashed directories.
///
/// All paths are the guest's: absolute, without links, `.` and `..`, and inside the root.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Distinct files, the system's in the order of preference, then those that the environment names.
    pub(crate) bundles: Vec<BundleFacts>,
    /// Where a bundle can be made if there is none: what programs call it, and what that resolves to.
    pub(crate) new_bundles: Vec<(String, Result<PathBuf, Failure>)>,
    pub(crate) anchors: Vec<DirectoryFacts>,
    pub(crate) hashed: Vec<DirectoryFacts>,
    /// Key stores of Java.
    pub(crate) key_stores: Vec<StoreFacts>,
    pub(crate) nss_databases: Vec<NssFacts>,
    /// Policies of each Firefox that is installed.
    pub(crate) firefox: Vec<PolicyFacts>,
    /// Policies of each kind of Chromium that is installed.
    pub(crate) chromium: Vec<ChromiumFacts>,
    pub(crate) runtime: Result<PathBuf, Failure>,
    pub(crate) node_extra: Option<NodeExtra>,
    /// What could not be found out.
    pub(crate) failures: Vec<Failure>,
}

#[derive(Debug, Clone)]
pub(crate) struct BundleFacts {
    /// What programs call it. Never empty.
    pub(crate) names: Vec<String>,
    /// Whether the system's programs read it, and not only those that the environment directs to it.
    pub(crate) system: bool,
    pub(crate) path: PathBuf,
    pub(crate) content: Vec<u8>,
    /// Why it must not be changed.
    pub(crate) blocked: Option<Problem>,
}

/// A file of a kind that has to be edited.
#[derive(Debug, Clone)]
pub(crate) struct StoreFacts {
    pub(crate) path: PathBuf,
    pub(crate) content: Vec<u8>,
    /// Why it must not be changed.
    pub(crate) blocked: Option<Problem>,
}

/// A database of NSS.
#[derive(Debug, Clone)]
pub(crate) struct NssFacts {
    /// `cert9.db`.
    pub(crate) certificates: StoreFacts,
    /// `key4.db`, which there may be none of.
    pub(crate) keys: Option<StoreFacts>,
}

#[derive(Debug, Clone)]
pub(crate) struct DirectoryFacts {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Files that are ours by their name, with what reading them (through links) gave; `None` if nothing.
    pub(crate) ours: BTreeMap<String, Option<Vec<u8>>>,
    /// Names of the form `<hash>.N`, with the target of those that are links.
    pub(crate) hashes: BTreeMap<String, Option<PathBuf>>,
    /// Why nothing in it must be changed.
    pub(crate) blocked: Option<Problem>,
}

/// The file that `NODE_EXTRA_CA_CERTS` already names.
#[derive(Debug, Clone)]
pub(crate) struct NodeExtra {
    /// The variable's value, as it is.
    pub(crate) value: String,
    pub(crate) content: Vec<u8>,
}

/// A file of policies, which there may be none of.
#[derive(Debug, Clone)]
pub(crate) struct PolicyFacts {
    pub(crate) path: PathBuf,
    pub(crate) content: Option<Vec<u8>>,
    /// Why it must not be changed.
    pub(crate) blocked: Option<Problem>,
}

/// A directory of policies.
#[derive(Debug, Clone)]
pub(crate) struct ChromiumFacts {
    pub(crate) ours: PolicyFacts,
    /// The other files, by name.
    pub(crate) others: BTreeMap<String, Vec<u8>>,
}
