//! Decides which files to write, link and remove. Pure: facts in, actions out.

use std::collections::{BTreeMap, BTreeSet};
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

/// What the guest is to trust.
#[derive(Debug, Clone, Copy)]
pub struct TrustRequest<'a> {
    /// The authorities to add: the sandbox's own, and the host's if they are to be trusted. Those of a former boot
    /// which are not among them are taken out. If there are none, nothing else is done.
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
    let mut planner = Planner {
        facts,
        cas: request.cas,
        plan: Plan {
            actions: Vec::new(),
            failures: facts.failures.clone(),
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
    planner.node_extra();
    planner.plan
}

struct Planner<'a> {
    facts: &'a Facts,
    cas: &'a [CaCertificate],
    plan: Plan,
}

impl Planner<'_> {
    fn runtime_ca_file(&mut self) {
        if self.cas.is_empty() {
            return;
        }
        match &self.facts.runtime {
            Ok(directory) => {
                let content = block::with_blocks(b"", self.cas);
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
        let facts = self.facts;
        let is_full = |bundle: &&BundleFacts| {
            block::has_certificates(&block::without_blocks(&bundle.content))
        };
        let has_roots = facts
            .bundles
            .iter()
            .filter(|bundle| bundle.system)
            .any(|bundle| is_full(&bundle));
        let mozilla = if has_roots || self.cas.is_empty() {
            Vec::new()
        } else {
            roots::mozilla()
        };
        let cas = self.cas;
        let trusted = || mozilla.iter().chain(cas);

        let mut best = None;
        for bundle in &facts.bundles {
            let content: Arc<[u8]> = if bundle.system {
                block::with_blocks(&bundle.content, trusted()).into()
            } else {
                block::with_blocks(&bundle.content, cas).into()
            };
            if bundle.system
                && (best.is_none() || (is_full(&bundle) && !matches!(best, Some((true, _)))))
            {
                best = Some((is_full(&bundle), Arc::clone(&content)));
            }
            self.bundle(bundle, content);
        }
        if self.cas.is_empty() {
            return;
        }
        if !facts.bundles.iter().any(|bundle| bundle.system) {
            let content: Arc<[u8]> = block::with_blocks(b"", trusted()).into();
            best = Some((false, Arc::clone(&content)));
            self.new_bundles(&content);
        }
        if let (Ok(directory), Some((_, content))) = (&facts.runtime, best) {
            let action = Action {
                path: directory.join(RUNTIME_BUNDLE),
                purpose: Purpose::Runtime,
                change: Change::Write(content),
            };
            self.plan.fallback = Some((format!("{RUNTIME_DIRECTORY}/{RUNTIME_BUNDLE}"), action));
        }
    }

    fn bundle(&mut self, bundle: &BundleFacts, content: Arc<[u8]>) {
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
                        needs: Some(vec![needs]),
                    });
                }
                Err(failure) => self.plan.failures.push(failure.clone()),
            }
        }
    }

    fn anchors(&mut self, directory: &DirectoryFacts) {
        let Some(needs) = self.our_files(directory, "crt", Purpose::Anchor) else {
            return;
        };
        // A single file holds a single authority.
        if let [ca] = self.cas {
            let name = format!("{}/{}", directory.name, file_name(ca, "crt"));
            self.plan.ca_files.push((name, needs));
        }
    }

    fn hashed(&mut self, directory: &DirectoryFacts) {
        let Some(mut needs) = self.our_files(directory, "pem", Purpose::HashedDirectory) else {
            return;
        };
        let wanted: BTreeSet<_> = self.cas.iter().map(|ca| file_name(ca, "pem")).collect();
        let mut links: BTreeMap<&str, Option<String>> = BTreeMap::new();
        for (name, target) in &directory.hashes {
            let target = target
                .as_deref()
                .and_then(Path::file_name)
                .map(|name| name.to_string_lossy());
            let ours = target.filter(|target| target.starts_with(FILE_PREFIX));
            match ours {
                Some(target) if !wanted.contains(target.as_ref()) => {}
                ours => {
                    links.insert(name, ours.map(Into::into));
                }
            }
        }

        let mut added = BTreeMap::new();
        let mut complete = true;
        for ca in self.cas {
            let file = file_name(ca, "pem");
            let Some(hash) = ca.subject_hash() else {
                self.fail(
                    &directory.path.join(&file),
                    Purpose::HashedDirectory,
                    Problem::SubjectNotHashable,
                );
                complete = false;
                continue;
            };
            // OpenSSL tries .0, .1, ... up to the first that is missing.
            let slots = (0_u32..).map(|number| format!("{hash:08x}.{number}"));
            let free = slots
                .map(|slot| (links.get(slot.as_str()).cloned(), slot))
                .find(|(taken, slot)| match taken {
                    Some(ours) => ours.as_ref() == Some(&file),
                    None => !added.contains_key(slot),
                });
            if let Some((None, slot)) = free {
                added.insert(slot, file);
            }
        }
        for name in directory.hashes.keys() {
            if !links.contains_key(name.as_str()) && !added.contains_key(name) {
                self.plan.act(
                    directory.path.join(name),
                    Purpose::HashedDirectory,
                    Change::Remove,
                );
            }
        }
        for (slot, file) in added {
            let path = directory.path.join(slot);
            needs.push(
                self.plan
                    .act(path, Purpose::HashedDirectory, Change::Link(file.into())),
            );
        }
        if complete && !self.cas.is_empty() {
            self.plan.hashed.push(PlannedHashed {
                name: directory.name.clone(),
                needs,
            });
        }
    }

    /// Writes one file per authority that lacks one and removes those of a former boot. `None` if it must not.
    fn our_files(
        &mut self,
        directory: &DirectoryFacts,
        extension: &str,
        purpose: Purpose,
    ) -> Option<Needs> {
        let wanted: BTreeMap<_, _> = self
            .cas
            .iter()
            .map(|ca| (file_name(ca, extension), block::file(ca)))
            .collect();
        let stale: Vec<_> = directory
            .ours
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .collect();
        let missing: Vec<_> = wanted
            .into_iter()
            .filter(|(name, content)| {
                directory.ours.get(name).and_then(Option::as_ref) != Some(content)
            })
            .collect();
        if let Some(problem) = &directory.blocked {
            if !stale.is_empty() || !missing.is_empty() {
                self.fail(&directory.path, purpose, problem.clone());
                return None;
            }
            return Some(Needs::new());
        }
        for name in stale {
            self.plan
                .act(directory.path.join(name), purpose, Change::Remove);
        }
        let write = |(name, content)| self.write(directory.path.join(name), purpose, content);
        Some(missing.into_iter().map(write).collect())
    }

    fn node_extra(&mut self) {
        let (Some(extra), Ok(directory)) = (&self.facts.node_extra, &self.facts.runtime) else {
            return;
        };
        if self.cas.is_empty() {
            return;
        }
        let content = block::with_blocks(&extra.content, self.cas);
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
    format!("{FILE_PREFIX}{}.{extension}", ca.short_name())
}
