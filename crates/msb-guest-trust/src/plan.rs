//! Decides which files to write, link and remove. Pure: facts in, actions out.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::block;
use crate::certificate::CaCertificate;
use crate::error::{Failure, Problem, Purpose};
use crate::facts::{BundleFacts, DirectoryFacts, Facts};
use crate::places::{
    FILE_PREFIX, RUNTIME_BUNDLE, RUNTIME_CA_FILE, RUNTIME_DIRECTORY, RUNTIME_NODE_EXTRA,
};
use crate::roots;

mod stores;

/// What the guest is to trust.
#[derive(Debug, Clone, Copy)]
pub struct TrustRequest<'a> {
    /// The authorities to add: the sandbox's own, and the host's if they are to be trusted. Those of a former boot
    /// which are not among them are taken out; those that the guest trusts already are not added again. If there are
    /// none, nothing else is done.
    pub cas: &'a [CaCertificate],
}

/// One change of one file, all or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// The guest's path: absolute, without links, inside the root. Its directory is made if it is missing.
    pub path: PathBuf,
    /// What the change is for.
    pub purpose: Purpose,
    /// The change.
    pub change: Change,
}

/// What becomes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It gets this content. A file that is there keeps its mode and owner; a new one has mode 0644.
    Write(Arc<[u8]>),
    /// It becomes a symbolic link with this target, in place of what is there.
    Link(PathBuf),
    /// It is removed, if it is there.
    Remove,
}

/// What is to be done in a root, and what is known beforehand to be impossible. Only made by [`plan()`].
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) failures: Vec<Failure>,
    /// Whether any authority is to be trusted.
    pub(crate) requested: bool,
    pub(crate) bundles: Vec<PlannedBundle>,
    pub(crate) hashed: Vec<PlannedHashed>,
    /// Files that hold all authorities, to be offered in the order of preference.
    pub(crate) ca_files: Vec<(String, Needs)>,
    /// The user's value of `NODE_EXTRA_CA_CERTS`, and what replaces it.
    pub(crate) node_extra: Option<(String, String, Needs)>,
    /// Done if no bundle of the system can be trusted after the other actions.
    pub(crate) fallback: Option<(String, Action)>,
}

/// Indices of the actions that must have succeeded.
pub(crate) type Needs = Vec<usize>;

#[derive(Debug, Clone)]
pub(crate) struct PlannedBundle {
    pub(crate) names: Vec<String>,
    pub(crate) system: bool,
    /// Whether it had any before.
    pub(crate) has_roots: bool,
    /// `None` if it will lack an authority.
    pub(crate) needs: Option<Needs>,
}

#[derive(Debug, Clone)]
pub(crate) struct PlannedHashed {
    pub(crate) name: String,
    pub(crate) needs: Needs,
}

impl Plan {
    /// The changes in the order in which they are made, without the bundle for the case that none can be changed.
    #[must_use]
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }
}

/// Decides what to do so that the guest trusts what is requested and nothing of a former boot.
///
/// A root that is as it should be gives no action outside of [`RUNTIME_DIRECTORY`].
#[must_use]
pub fn plan(facts: &Facts, request: &TrustRequest<'_>) -> Plan {
    let unknown = |ca: &&CaCertificate| roots::mozilla().all(|known| known != ca.der());
    let for_clients: Vec<_> = request.cas.iter().filter(unknown).cloned().collect();
    let cas = lacking(facts, request.cas);
    let mut planner = Planner {
        facts,
        cas: &cas,
        for_clients: &for_clients,
        plan: Plan {
            actions: Vec::new(),
            // Where nothing is to be trusted, nobody needs what could not be read.
            failures: match request.cas {
                [] => Vec::new(),
                _ => facts.failures.clone(),
            },
            requested: !request.cas.is_empty(),
            bundles: Vec::new(),
            hashed: Vec::new(),
            ca_files: Vec::new(),
            node_extra: None,
            fallback: None,
        },
    };
    planner.runtime_ca_file();
    planner.bundles();
    for directory in &facts.anchors {
        planner.anchors(directory);
    }
    for directory in &facts.hashed {
        planner.hashed(directory);
    }
    for store in &facts.key_stores {
        planner.key_store(store);
    }
    for database in &facts.nss_databases {
        planner.nss_database(database);
    }
    planner.firefox();
    for policies in &facts.chromium {
        planner.chromium(policies);
    }
    planner.node_extra();
    planner.plan
}

/// The authorities that the guest does not trust by itself, each once. What it trusts is in the bundle that most of its
/// programs read: the first one of the system that has any roots.
fn lacking(facts: &Facts, cas: &[CaCertificate]) -> Vec<CaCertificate> {
    if cas.is_empty() {
        return Vec::new();
    }
    let mut of_system = facts.bundles.iter().filter(|bundle| bundle.system);
    let own = of_system.find_map(|bundle| {
        let own = block::without_blocks(&bundle.content);
        block::has_certificates(&own).then_some(own)
    });
    let mut there: HashSet<Vec<u8>> = match own {
        Some(own) => block::certificates(&own).collect(),
        // It will get these.
        None => roots::mozilla().map(<[u8]>::to_vec).collect(),
    };
    // What the distribution's tool has put together since a former boot has its anchors in it, ours too.
    let is_our_anchor = |ca: &CaCertificate| {
        let name = file_name(ca, "crt");
        let mut anchors = facts.anchors.iter();
        anchors.any(|directory| directory.ours.contains_key(&name))
    };
    for ca in cas.iter().filter(|ca| is_our_anchor(ca)) {
        there.remove(ca.der());
    }
    cas.iter()
        .filter(|ca| there.insert(ca.der().to_vec()))
        .cloned()
        .collect()
}

/// What becomes of files in one directory, by name.
type Changes = BTreeMap<String, Change>;

struct Planner<'a> {
    facts: &'a Facts,
    /// What the guest lacks.
    cas: &'a [CaCertificate],
    /// What clients lack that bring Mozilla's roots along.
    for_clients: &'a [CaCertificate],
    plan: Plan,
}

impl Planner<'_> {
    fn runtime_ca_file(&mut self) {
        if self.for_clients.is_empty() {
            return;
        }
        match &self.facts.runtime {
            Ok(directory) => {
                let content = block::with_blocks(b"", self.for_clients);
                let needs = self.write(directory.join(RUNTIME_CA_FILE), Purpose::Runtime, content);
                self.plan.ca_files.push((
                    format!("{RUNTIME_DIRECTORY}/{RUNTIME_CA_FILE}"),
                    vec![needs],
                ));
            }
            Err(failure) => self.plan.failures.push(failure.clone()),
        }
    }

    fn bundles(&mut self) {
        let (facts, requested) = (self.facts, self.plan.requested);
        let has_roots =
            |bundle: &BundleFacts| block::has_certificates(&block::without_blocks(&bundle.content));
        let has_roots: Vec<_> = facts.bundles.iter().map(has_roots).collect();
        let mut of_system = facts
            .bundles
            .iter()
            .zip(&has_roots)
            .filter(|(bundle, _)| bundle.system);
        let mozilla: Vec<_> = if !requested || of_system.any(|(_, has_roots)| *has_roots) {
            Vec::new()
        } else {
            let parsed = roots::mozilla().map(CaCertificate::from_der);
            parsed.filter_map(Result::ok).collect()
        };
        let for_system: Vec<_> = mozilla.iter().chain(self.cas).collect();

        let mut best: Option<(bool, Arc<[u8]>)> = None;
        for (bundle, has_roots) in facts.bundles.iter().zip(has_roots) {
            let content: Arc<[u8]> = if bundle.system {
                block::with_blocks(&bundle.content, for_system.iter().copied())
            } else {
                block::with_blocks(&bundle.content, self.for_clients)
            }
            .into();
            if bundle.system
                && best
                    .as_ref()
                    .is_none_or(|(best_has_roots, _)| has_roots && !best_has_roots)
            {
                best = Some((has_roots, Arc::clone(&content)));
            }
            self.bundle(bundle, has_roots, content);
        }
        if !requested {
            return;
        }
        let fallback = if let Some((_, content)) = best {
            content
        } else {
            let content = block::with_blocks(b"", for_system).into();
            self.new_bundles(&content);
            content
        };
        if let Ok(directory) = &facts.runtime {
            let action = Action {
                path: directory.join(RUNTIME_BUNDLE),
                purpose: Purpose::Runtime,
                change: Change::Write(fallback),
            };
            self.plan.fallback = Some((format!("{RUNTIME_DIRECTORY}/{RUNTIME_BUNDLE}"), action));
        }
    }

    fn bundle(&mut self, bundle: &BundleFacts, has_roots: bool, content: Arc<[u8]>) {
        let needs = if *content == *bundle.content {
            Some(Needs::new())
        } else if let Some(problem) = &bundle.blocked {
            self.fail(&bundle.path, Purpose::Bundle, problem.clone());
            None
        } else {
            Some(vec![self.write(
                bundle.path.clone(),
                Purpose::Bundle,
                content,
            )])
        };
        self.plan.bundles.push(PlannedBundle {
            names: bundle.names.clone(),
            system: bundle.system,
            has_roots,
            needs,
        });
    }

    fn new_bundles(&mut self, content: &Arc<[u8]>) {
        let mut made = BTreeMap::new();
        for (name, path) in &self.facts.new_bundles {
            match path {
                Ok(path) => {
                    let needs = *made.entry(path).or_insert_with(|| {
                        self.plan
                            .write(path.clone(), Purpose::Bundle, Arc::clone(content))
                    });
                    self.plan.bundles.push(PlannedBundle {
                        names: vec![name.clone()],
                        system: true,
                        has_roots: false,
                        needs: Some(vec![needs]),
                    });
                }
                Err(failure) => self.plan.failures.push(failure.clone()),
            }
        }
    }

    fn anchors(&mut self, directory: &DirectoryFacts) {
        let changes = self.file_changes(directory, "crt");
        let needs = self.change(directory, Purpose::Anchor, changes);
        // A single file holds a single authority.
        if let (Some(needs), [ca]) = (needs, self.cas)
            && self.cas == self.for_clients
        {
            let name = format!("{}/{}", directory.name, file_name(ca, "crt"));
            self.plan.ca_files.push((name, needs));
        }
    }

    fn hashed(&mut self, directory: &DirectoryFacts) {
        let mut changes = self.file_changes(directory, "pem");
        changes.extend(self.link_changes(directory));
        let needs = self.change(directory, Purpose::HashedDirectory, changes);
        let unhashable = self.cas.iter().find(|ca| ca.subject_hash().is_none());
        if let Some(ca) = unhashable {
            let path = directory.path.join(file_name(ca, "pem"));
            self.fail(&path, Purpose::HashedDirectory, Problem::SubjectNotHashable);
        } else if let Some(needs) = needs {
            self.plan.hashed.push(PlannedHashed {
                name: directory.name.clone(),
                needs,
            });
        }
    }

    /// One file per authority that lacks one, and none of a former boot.
    fn file_changes(&self, directory: &DirectoryFacts, extension: &str) -> Changes {
        let mut changes: Changes = directory
            .ours
            .keys()
            .map(|name| (name.clone(), Change::Remove))
            .collect();
        for ca in self.cas {
            let (name, content) = (file_name(ca, extension), block::file(ca));
            if directory.ours.get(&name) == Some(&Some(content.clone())) {
                changes.remove(&name);
            } else {
                changes.insert(name, Change::Write(content.into()));
            }
        }
        changes
    }

    /// One link per authority that lacks one, named after its subject's hash, and none of a former boot.
    fn link_changes(&self, directory: &DirectoryFacts) -> Changes {
        let wanted: BTreeSet<_> = self.cas.iter().map(|ca| file_name(ca, "pem")).collect();
        let mut changes = Changes::new();
        // What each name leads to, unless it is of a former boot: the file of an authority, or something of the image.
        let mut taken = BTreeMap::new();
        for (name, target) in &directory.hashes {
            let target = target
                .as_deref()
                .and_then(Path::file_name)
                .map(|name| name.to_string_lossy());
            if target
                .as_deref()
                .is_some_and(|target| target.starts_with(FILE_PREFIX) && !wanted.contains(target))
            {
                changes.insert(name.clone(), Change::Remove);
            } else {
                taken.insert(name.clone(), target.map(String::from));
            }
        }
        for ca in self.cas {
            let Some(hash) = ca.subject_hash() else {
                continue;
            };
            let file = file_name(ca, "pem");
            // OpenSSL tries .0, .1, ... up to the first that is missing.
            for slot in (0_u32..).map(|number| format!("{hash:08x}.{number}")) {
                match taken.get(&slot) {
                    Some(target) if target.as_ref() == Some(&file) => break,
                    Some(_) => {}
                    None => {
                        changes.insert(slot.clone(), Change::Link(PathBuf::from(&file)));
                        taken.insert(slot, Some(file));
                        break;
                    }
                }
            }
        }
        changes
    }

    /// Plans all changes in a directory. `None` if it must not be changed but would have to be.
    fn change(
        &mut self,
        directory: &DirectoryFacts,
        purpose: Purpose,
        changes: Changes,
    ) -> Option<Needs> {
        if let (Some(problem), false) = (&directory.blocked, changes.is_empty()) {
            self.fail(&directory.path, purpose, problem.clone());
            return None;
        }
        let mut needs = Needs::new();
        for (name, change) in changes {
            let removes = change == Change::Remove;
            let index = self.plan.act(directory.path.join(name), purpose, change);
            if !removes {
                needs.push(index);
            }
        }
        Some(needs)
    }

    fn node_extra(&mut self) {
        let (Some(extra), Ok(directory)) = (&self.facts.node_extra, &self.facts.runtime) else {
            return;
        };
        if self.for_clients.is_empty() {
            return;
        }
        let content = block::with_blocks(&extra.content, self.for_clients);
        let needs = self.write(
            directory.join(RUNTIME_NODE_EXTRA),
            Purpose::Runtime,
            content,
        );
        let merged = format!("{RUNTIME_DIRECTORY}/{RUNTIME_NODE_EXTRA}");
        self.plan.node_extra = Some((extra.value.clone(), merged, vec![needs]));
    }

    fn write(&mut self, path: PathBuf, purpose: Purpose, content: impl Into<Arc<[u8]>>) -> usize {
        self.plan.write(path, purpose, content.into())
    }

    fn fail(&mut self, path: &Path, purpose: Purpose, problem: Problem) {
        self.plan.failures.push(Failure {
            path: path.to_owned(),
            purpose,
            problem,
        });
    }
}

impl Plan {
    fn write(&mut self, path: PathBuf, purpose: Purpose, content: Arc<[u8]>) -> usize {
        self.act(path, purpose, Change::Write(content))
    }

    fn act(&mut self, path: PathBuf, purpose: Purpose, change: Change) -> usize {
        self.actions.push(Action {
            path,
            purpose,
            change,
        });
        self.actions.len() - 1
    }
}

fn file_name(ca: &CaCertificate, extension: &str) -> String {
    format!("{}.{extension}", ca.entry_name())
}
