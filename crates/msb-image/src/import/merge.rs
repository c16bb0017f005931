//! From layers to a disk: each is read once for its entries, which are merged, and those with files that are left once
//! more for their data.
//!
//! ```text
//! layers, several at once: blob hashed → decompressed → hashed → entries
//! entries, from the lowest layer up: whiteouts, then the rest → tree → plan
//! layers that have files in the plan, one after another: decompressed → mksquashfs
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::entries::Entry;
use super::error::{ImportError, LayerError, shown};
use super::layer::Layer;
use super::limits::{Budget, ImportLimits, ReadBudget};
use super::oci::Image;
use super::pack::Packer;
use super::source::{Source, Stamp};
use super::tree::{self, Kind, Place, Tree};

/// More layers at once than this do not go faster: unpacking one is bound by memory and disk then.
const WORKERS: usize = 8;

/// What one reading of a layer found.
struct Scanned {
    entries: Vec<Entry>,
    /// Of the file it is in, when the reading began.
    stamp: Stamp,
}

/// Makes the disk of `image`.
pub(crate) fn merge(
    image: &Image,
    source: &Source,
    disk: &Path,
    limits: ImportLimits,
) -> Result<(), ImportError> {
    let scanned = scan(image, source, limits)?;
    let stamps: Vec<Stamp> = scanned.iter().map(|layer| layer.stamp).collect();
    let tree = apply(image, scanned, limits)?;
    let plan = Plan::of(&tree);
    plan.check(&tree, limits)?;
    let mut packer = Packer::start(disk, &tree.node(Tree::ROOT).meta)?;
    let written = write(image, source, &tree, &plan, &mut packer, limits)
        .and_then(|()| Ok(check_unchanged(image, source, &stamps)?));
    match written {
        Ok(()) => packer.finish(),
        Err(Failure::Layer(error)) => {
            packer.abandon();
            Err(error)
        }
        Err(Failure::Packer(error)) => {
            let complaint = packer.complaint();
            Err(complaint.unwrap_or_else(|| ImportError::Pack {
                output: error.to_string(),
            }))
        }
    }
}

/// Reads and checks every layer. Of several that are wrong the lowest is told.
fn scan(image: &Image, source: &Source, limits: ImportLimits) -> Result<Vec<Scanned>, ImportError> {
    let budget = ReadBudget::new(limits);
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let work = || {
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(layer) = image.layers.get(at) else {
                break;
            };
            match scan_one(layer, source, &budget, &stop).transpose() {
                Some(outcome) => {
                    stop.fetch_or(outcome.is_err(), Ordering::Relaxed);
                    done.push((at, outcome));
                }
                // Stopped, because another is wrong.
                None => break,
            }
        }
        done
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = workers.clamp(1, WORKERS).min(image.layers.len().max(1));
    let mut all = std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work);
        let threads: Vec<_> = (1..workers)
            .map_while(|worker| spawn(worker).ok())
            .collect();
        let mut all = work();
        for thread in threads {
            match thread.join() {
                Ok(done) => all.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    // One that is wrong is here, and errors come out below, the lowest layer's first.
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, outcome)| outcome).collect()
}

fn scan_one(
    layer: &Layer,
    source: &Source,
    budget: &ReadBudget,
    stop: &AtomicBool,
) -> Result<Option<Scanned>, ImportError> {
    let stamp = layer.stamp(source)?;
    let entries = layer.scan(source, budget, stop)?;
    Ok(entries.map(|entries| Scanned { entries, stamp }))
}

/// What the layers add up to.
fn apply(image: &Image, scanned: Vec<Scanned>, limits: ImportLimits) -> Result<Tree, ImportError> {
    let mut budget = Budget::new(limits);
    let mut tree = Tree::new();
    for (at, (layer, scanned)) in image.layers.iter().zip(scanned).enumerate() {
        let places = (0..).map(|ordinal| Place { layer: at, ordinal });
        // What a layer hides is gone before anything of it is made, wherever in it that is said.
        let (hiding, making): (Vec<_>, Vec<_>) = places
            .zip(scanned.entries)
            .partition(|(_, entry)| tree::is_whiteout(entry));
        for (place, entry) in hiding.into_iter().chain(making) {
            tree.apply(place, entry, &mut budget)
                .map_err(|error| layer.refuse(error))?;
        }
    }
    let dir = &image.config.working_dir;
    if !dir.is_empty() {
        // Where it cannot be made, starting a program in it says so.
        tree.ensure_directory(dir.as_bytes(), image.layers.len(), &mut budget);
    }
    Ok(tree)
}

/// The second reading trusts the sums of the first.
fn check_unchanged(image: &Image, source: &Source, stamps: &[Stamp]) -> Result<(), ImportError> {
    for (layer, stamp) in image.layers.iter().zip(stamps) {
        if layer.stamp(source)? != *stamp {
            return Err(layer.refuse(LayerError::Changed));
        }
    }
    Ok(())
}

/// Where each node goes.
struct Plan {
    /// The first name of each node: the directory it is in, and its name there.
    names: Vec<Option<(usize, Box<[u8]>)>>,
    directories: Vec<usize>,
    /// Neither directories nor files with data.
    special: Vec<usize>,
    /// Files by where their data come from.
    files: BTreeMap<Place, usize>,
    /// Further names: directory, name, node.
    links: Vec<(usize, Box<[u8]>, usize)>,
    /// Names that `mksquashfs` compares, at most: it goes through every directory on the way to each name.
    comparisons: u64,
}

impl Plan {
    fn of(tree: &Tree) -> Self {
        let mut plan = Self {
            names: vec![None; tree.len()],
            directories: Vec::new(),
            special: Vec::new(),
            files: BTreeMap::new(),
            links: Vec::new(),
            comparisons: 0,
        };
        let mut rest = vec![(Tree::ROOT, 0_u64)];
        while let Some((directory, above)) = rest.pop() {
            let Kind::Directory(children) = &tree.node(directory).kind else {
                continue;
            };
            let count = children.len() as u64;
            let each = above.saturating_add(count);
            plan.comparisons = plan.comparisons.saturating_add(each.saturating_mul(count));
            for (name, link) in children {
                let node = link.node;
                if plan.names[node].is_some() {
                    plan.links.push((directory, name.clone(), node));
                    continue;
                }
                plan.names[node] = Some((directory, name.clone()));
                match &tree.node(node).kind {
                    Kind::Directory(_) => {
                        plan.directories.push(node);
                        rest.push((node, each));
                    }
                    Kind::File { place, .. } => drop(plan.files.insert(*place, node)),
                    _ => plan.special.push(node),
                }
            }
        }
        plan
    }

    /// Whether `mksquashfs` makes a disk of it in reasonable time.
    fn check(&self, tree: &Tree, limits: ImportLimits) -> Result<(), ImportError> {
        if self.comparisons <= limits.comparisons {
            return Ok(());
        }
        let entries = |node: usize| match &tree.node(node).kind {
            Kind::Directory(children) => children.len(),
            _ => 0,
        };
        let directories = self.directories.iter().copied().chain([Tree::ROOT]);
        let fullest = directories.max_by_key(|directory| entries(*directory));
        let fullest = fullest.unwrap_or(Tree::ROOT);
        Err(ImportError::Crowded {
            path: format!("/{}", shown(&self.path_of(fullest))),
            entries: entries(fullest),
        })
    }

    fn path(&self, directory: usize, name: &[u8]) -> Vec<u8> {
        let mut parts = vec![name];
        let mut at = directory;
        while let Some((parent, name)) = &self.names[at] {
            parts.push(name);
            at = *parent;
        }
        parts.reverse();
        parts.join(&b'/')
    }

    fn path_of(&self, node: usize) -> Vec<u8> {
        match &self.names[node] {
            Some((directory, name)) => self.path(*directory, name),
            None => Vec::new(),
        }
    }
}

/// Why the archive for `mksquashfs` is not whole.
enum Failure {
    Layer(ImportError),
    Packer(io::Error),
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        Self::Layer(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Packer(error)
    }
}

fn write(
    image: &Image,
    source: &Source,
    tree: &Tree,
    plan: &Plan,
    packer: &mut Packer,
    limits: ImportLimits,
) -> Result<(), Failure> {
    let mut nothing = io::empty();
    for node in plan.directories.iter().chain(&plan.special) {
        let path = plan.path_of(*node);
        packer.add(&out(tree, *node, path), &mut nothing)?;
    }
    for (at, layer) in image.layers.iter().enumerate() {
        let of_layer = Place {
            layer: at,
            ordinal: 0,
        }..Place {
            layer: at + 1,
            ordinal: 0,
        };
        let mut wanted = plan.files.range(of_layer).peekable();
        if wanted.peek().is_none() {
            continue;
        }
        let refuse = |error| layer.refuse(error);
        // Its entries and bytes were counted when it was read first.
        let budget = ReadBudget::new(limits);
        let mut open = layer.reopen(source, &budget)?;
        let mut ordinal = 0;
        while wanted.peek().is_some()
            && let Some(entry) = open.next().map_err(refuse)?
        {
            let place = Place { layer: at, ordinal };
            ordinal += 1;
            let Some((_, node)) = wanted.next_if(|(next, _)| **next == place) else {
                continue;
            };
            let path = plan.path_of(*node);
            let out = out(tree, *node, path);
            if entry.kind != out.kind {
                return Err(refuse(LayerError::Changed).into());
            }
            let mut data = Data::new(open.data());
            if let Err(error) = packer.add(&out, &mut data) {
                return Err(match data.failed {
                    Some(_) => refuse(LayerError::Changed).into(),
                    None => error.into(),
                });
            }
        }
        if wanted.next().is_some() {
            return Err(refuse(LayerError::Changed).into());
        }
    }
    for (directory, name, node) in &plan.links {
        let path = plan.path(*directory, name);
        let link = msb_tar::Entry {
            kind: msb_tar::Kind::HardLink(plan.path_of(*node)),
            ..out(tree, *node, path)
        };
        packer.add(&link, &mut nothing)?;
    }
    Ok(())
}

/// The node as an entry of the archive for `mksquashfs`.
fn out(tree: &Tree, node: usize, path: Vec<u8>) -> msb_tar::Entry {
    use msb_tar::Kind as Out;

    let node = tree.node(node);
    let kind = match &node.kind {
        Kind::Directory(_) => Out::Directory,
        Kind::File { size, .. } => Out::File(*size),
        Kind::Symlink(target) => Out::Symlink(target.to_vec()),
        Kind::CharDevice(major, minor) => Out::CharDevice(*major, *minor),
        Kind::BlockDevice(major, minor) => Out::BlockDevice(*major, *minor),
        Kind::Fifo => Out::Fifo,
    };
    let meta = &node.meta;
    msb_tar::Entry {
        mode: meta.mode,
        uid: u64::from(meta.uid),
        gid: u64::from(meta.gid),
        mtime: u64::from(meta.mtime),
        xattrs: meta.xattrs.iter().cloned().collect(),
        ..msb_tar::Entry::new(path, kind)
    }
}

/// Tells a layer that cannot be read from a `mksquashfs` that does not take it.
struct Data<R> {
    from: R,
    failed: Option<io::ErrorKind>,
}

impl<R: Read> Data<R> {
    fn new(from: R) -> Self {
        Self { from, failed: None }
    }
}

impl<R: Read> Read for Data<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer);
        match &read {
            Ok(0) if !buffer.is_empty() => self.failed = Some(io::ErrorKind::UnexpectedEof),
            Err(error) => self.failed = Some(error.kind()),
            Ok(_) => {}
        }
        read
    }
}
