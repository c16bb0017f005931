//! Makes the changes of a plan, each all or nothing, and goes on after what fails.

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};

use super::tree::Tree;
use crate::environment::Trusted;
use crate::error::{Failure, Problem, Purpose};
use crate::plan::{Action, Change, Plan};

/// What became of a plan.
#[derive(Debug, Clone)]
pub struct Report {
    /// The guest's paths that were changed, in order.
    pub done: Vec<(Purpose, PathBuf)>,
    /// What could not be done, including what was known before. None of it needs to stop a boot.
    pub failed: Vec<Failure>,
    /// Where the authorities are now, for [`environment`](crate::environment()).
    pub trusted: Trusted,
}

/// Makes the changes in the root that is mounted at `root`, the same that the facts were read from.
///
/// It never gives up: what fails is in the report. A file is written beside the old one and then takes its place, so
/// whoever reads it finds either, whole. It is not waited for until the disk has it.
#[must_use]
pub fn apply(root: &Path, plan: &Plan) -> Report {
    let mut applier = Applier {
        tree: Tree::new(root),
        made: HashSet::new(),
    };
    let mut report = Report {
        done: Vec::new(),
        failed: plan.failures.clone(),
        trusted: Trusted::default(),
    };
    let done: Vec<_> = plan
        .actions
        .iter()
        .map(|action| report.perform(&mut applier, action))
        .collect();
    report.trusted = Trusted::after(plan, &done);
    if report.trusted.bundle.is_none()
        && let Some((name, action)) = &plan.fallback
        && report.perform(&mut applier, action)
    {
        report.trusted.bundle = Some(name.clone());
    }
    report
}

impl Report {
    fn perform(&mut self, applier: &mut Applier, action: &Action) -> bool {
        match applier.perform(action) {
            Ok(()) => {
                self.done.push((action.purpose, action.path.clone()));
                true
            }
            Err(problem) => {
                self.failed.push(Failure {
                    path: action.path.clone(),
                    purpose: action.purpose,
                    problem,
                });
                false
            }
        }
    }
}

/// Where changes are made.
struct Applier {
    tree: Tree,
    /// Directories that are known to be there. Most changes are in few of them.
    made: HashSet<PathBuf>,
}

impl Applier {
    fn perform(&mut self, action: &Action) -> Result<(), Problem> {
        let target = self.tree.outside(&action.path);
        let (step, outcome) = match &action.change {
            Change::Remove => ("remove it", remove(&target)),
            Change::Write(content) => {
                self.make_parents(&action.path)?;
                (
                    "write it",
                    replace(&target, |new| write(new, &target, content)),
                )
            }
            Change::Link(to) => {
                self.make_parents(&action.path)?;
                ("link it", replace(&target, |new| symlink(to, new)))
            }
        };
        outcome.map_err(|error| Problem::io(step, &error))
    }

    /// Makes the missing directories above a path, with mode 0755 whatever the process's mask is.
    fn make_parents(&mut self, path: &Path) -> Result<(), Problem> {
        let above = path.ancestors().skip(1);
        let unknown: Vec<_> = above.take_while(|dir| !self.made.contains(*dir)).collect();
        for directory in unknown.into_iter().rev() {
            let outside = self.tree.outside(directory);
            let made = match fs::symlink_metadata(&outside) {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(&outside)
                    .and_then(|()| fs::set_permissions(&outside, Permissions::from_mode(0o755))),
                Err(error) => Err(error),
            };
            made.map_err(|error| Problem::io("make its directory", &error))?;
            self.made.insert(directory.to_owned());
        }
        Ok(())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Lets `make` put something beside `target` and moves it into its place. Leaves nothing behind if that fails.
fn replace(target: &Path, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".msb-new-");
    name.push(target.file_name().unwrap_or_default());
    let new = target.with_file_name(name);
    let mut made = make(&new);
    // A boot that was cut off may have left it.
    if matches!(&made, Err(error) if error.kind() == io::ErrorKind::AlreadyExists) {
        made = remove(&new).and_then(|()| make(&new));
    }
    made.and_then(|()| fs::rename(&new, target))
        .inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })
}

fn write(new: &Path, old: &Path, content: &[u8]) -> io::Result<()> {
    let old = fs::symlink_metadata(old).ok().filter(fs::Metadata::is_file);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(new)?;
    file.write_all(content)?;
    let made = file.metadata()?;
    if let Some(old) = &old
        && (old.uid(), old.gid()) != (made.uid(), made.gid())
    {
        fchown(&file, Some(old.uid()), Some(old.gid()))?;
    }
    // After the owner, because changing that takes set-user-ID away.
    let mode = old.map_or(0o644, |old| old.mode() & 0o7777);
    file.set_permissions(Permissions::from_mode(mode))
}
