//! The file system that layers add up to, without the contents of files. Pure.
//!
//! Layers are applied in order, the last writer of a path wins. Nothing is written anywhere, so no path can lead out;
//! links are followed within the tree only, as in a root of its own.

use std::collections::{BTreeMap, VecDeque};

use msb_tar::Kind as EntryKind;

use super::entries::{Entry, Meta};
use super::error::{LayerError, shown};
use super::limits::Budget;

/// What Linux allows, in bytes.
const NAME_LIMIT: usize = 255;
const PATH_LIMIT: usize = 4095;
/// As in Linux.
const LINK_HOPS: usize = 40;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Of aufs for itself.
const AUFS: &[u8] = b".wh..wh.";

/// Where a file's data are: the layer, counted from 0, and the entry in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) layer: usize,
    pub(super) ordinal: u64,
}

/// What is at a path.
#[derive(Debug)]
pub(super) enum Kind {
    Directory(BTreeMap<Box<[u8]>, Link>),
    File { place: Place, size: u64 },
    Symlink(Box<[u8]>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) node: usize,
    /// The layer that put it there.
    layer: usize,
}

/// A file, which several names may share.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) meta: Meta,
    pub(super) kind: Kind,
    /// The last layer that put something into this directory.
    touched: usize,
    /// Length of a directory's path.
    path_len: usize,
}

/// A file system. Node 0 is its root.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

/// Whether an entry says what is hidden of the layers below.
pub(super) fn is_whiteout(entry: &Entry) -> bool {
    let mut parts = entry.path.rsplit(|byte| *byte == b'/');
    let name = parts.find(|part| !part.is_empty());
    name.is_some_and(|name| name.starts_with(WHITEOUT))
}

impl Tree {
    pub(super) const ROOT: usize = 0;

    pub(super) fn new() -> Self {
        let mut tree = Self { nodes: Vec::new() };
        tree.push(implied(), Kind::Directory(BTreeMap::new()), 0, 0);
        tree
    }

    pub(super) fn node(&self, id: usize) -> &Node {
        &self.nodes[id]
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Applies one entry of a layer.
    ///
    /// # Errors
    /// The entry is not one that a layer can have, or is over the limits.
    pub(super) fn apply(
        &mut self,
        place: Place,
        entry: Entry,
        budget: &mut Budget,
    ) -> Result<(), LayerError> {
        budget.entry()?;
        let path = entry.path.clone();
        let components = components(&path, &path)?;
        let Some((name, parents)) = components.split_last() else {
            if entry.kind != EntryKind::Directory {
                return Err(LayerError::entry(
                    &entry.path,
                    "would replace the root directory",
                ));
            }
            self.nodes[Self::ROOT].meta = entry.meta;
            return Ok(());
        };
        if components
            .iter()
            .any(|name| name.starts_with(AUFS) && *name != OPAQUE)
        {
            return Ok(());
        }
        if parents.iter().any(|name| name.starts_with(WHITEOUT)) {
            return Err(LayerError::entry(&entry.path, "is below a whiteout"));
        }
        let layer = place.layer;
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            let Some(directory) = self.find(parents, None, &entry.path, budget)? else {
                return Ok(());
            };
            if *name == OPAQUE {
                return self.hide_below(directory, layer, budget);
            }
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(LayerError::entry(&entry.path, "is a whiteout of nothing"));
            }
            return self.hide(directory, hidden, layer, budget);
        }
        let directory = self.find(parents, Some(layer), &entry.path, budget)?;
        // Made where it was missing.
        let directory = directory.unwrap_or(Self::ROOT);
        self.put(directory, name, place, entry, budget)
    }

    /// Makes the directory `path` where nothing is there, as programs are started in it. Whether it is one now.
    pub(super) fn ensure_directory(
        &mut self,
        path: &[u8],
        layer: usize,
        budget: &mut Budget,
    ) -> bool {
        components(path, path)
            .is_ok_and(|parts| matches!(self.find(&parts, Some(layer), path, budget), Ok(Some(_))))
    }

    fn put(
        &mut self,
        directory: usize,
        name: &[u8],
        place: Place,
        entry: Entry,
        budget: &mut Budget,
    ) -> Result<(), LayerError> {
        let xattrs: usize = entry
            .meta
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        budget.metadata(name.len() + xattrs)?;
        let path_len = self.nodes[directory].path_len + 1 + name.len();
        if path_len > PATH_LIMIT {
            return Err(LayerError::entry(
                &entry.path,
                "has a path longer than Linux allows",
            ));
        }
        let layer = place.layer;
        let kind = match entry.kind {
            EntryKind::Directory => {
                let existing = self.child(directory, name).map(|link| link.node);
                if let Some(node) = existing.filter(|node| self.is_directory(*node)) {
                    self.nodes[node].meta = entry.meta;
                    self.nodes[node].touched = layer;
                    self.link(directory, name, node, layer);
                    return Ok(());
                }
                Kind::Directory(BTreeMap::new())
            }
            EntryKind::HardLink(target) => {
                let node = self.link_target(&target, &entry.path, budget)?;
                self.link(directory, name, node, layer);
                return Ok(());
            }
            EntryKind::Symlink(target) => {
                if target.len() > PATH_LIMIT || target.contains(&0) {
                    return Err(LayerError::entry(
                        &entry.path,
                        "is a link to an impossible path",
                    ));
                }
                budget.metadata(target.len())?;
                Kind::Symlink(target.into())
            }
            EntryKind::File(size) => Kind::File { place, size },
            EntryKind::CharDevice(major, minor) => Kind::CharDevice(major, minor),
            EntryKind::BlockDevice(major, minor) => Kind::BlockDevice(major, minor),
            EntryKind::Fifo => Kind::Fifo,
        };
        let node = self.push(entry.meta, kind, layer, path_len);
        self.link(directory, name, node, layer);
        Ok(())
    }

    fn link_target(
        &mut self,
        target: &[u8],
        path: &[u8],
        budget: &mut Budget,
    ) -> Result<usize, LayerError> {
        let unknown = || {
            let problem = format!("is a hard link to {:?}, which is not there", shown(target));
            LayerError::entry(path, problem)
        };
        let parts = components(target, path)?;
        let (name, parents) = parts.split_last().ok_or_else(unknown)?;
        let directory = self
            .find(parents, None, path, budget)?
            .ok_or_else(unknown)?;
        let node = self.child(directory, name).ok_or_else(unknown)?.node;
        if self.is_directory(node) {
            return Err(LayerError::entry(path, "is a hard link to a directory"));
        }
        Ok(node)
    }

    /// The directory at `parts`, through links. With `make`, missing ones are made for that layer.
    fn find(
        &mut self,
        parts: &[&[u8]],
        make: Option<usize>,
        path: &[u8],
        budget: &mut Budget,
    ) -> Result<Option<usize>, LayerError> {
        let mut stack = vec![Self::ROOT];
        let mut hops = 0;
        let mut rest: VecDeque<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        while let Some(part) = rest.pop_front() {
            budget.steps(1)?;
            let at = *stack.last().unwrap_or(&Self::ROOT);
            if part == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let Some(link) = self.child(at, &part) else {
                let Some(layer) = make else { return Ok(None) };
                let made = self.make(at, &part, layer, path, budget)?;
                stack.push(made);
                continue;
            };
            match &self.nodes[link.node].kind {
                Kind::Directory(_) => stack.push(link.node),
                Kind::Symlink(target) => {
                    hops += 1;
                    if hops > LINK_HOPS {
                        return Err(LayerError::entry(
                            path,
                            "is below links that lead in a circle",
                        ));
                    }
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    let names = target.split(|byte| *byte == b'/');
                    let names = names.filter(|name| !matches!(*name, b"" | b"."));
                    let before = rest.len();
                    for name in names.rev() {
                        rest.push_front(name.to_vec());
                    }
                    // Where it ends early they are never gone through.
                    budget.steps(rest.len() - before)?;
                }
                // Nothing can be there to be hidden or linked to.
                _ if make.is_none() => return Ok(None),
                _ => {
                    let problem = format!("is below {:?}, which is no directory", shown(&part));
                    return Err(LayerError::entry(path, problem));
                }
            }
        }
        if let Some(layer) = make {
            for directory in &stack {
                self.nodes[*directory].touched = layer;
            }
        }
        Ok(stack.last().copied())
    }

    fn make(
        &mut self,
        parent: usize,
        name: &[u8],
        layer: usize,
        path: &[u8],
        budget: &mut Budget,
    ) -> Result<usize, LayerError> {
        budget.entry()?;
        budget.metadata(name.len())?;
        let path_len = self.nodes[parent].path_len + 1 + name.len();
        if path_len > PATH_LIMIT || name.len() > NAME_LIMIT {
            return Err(LayerError::entry(
                path,
                "has a path longer than Linux allows",
            ));
        }
        let node = self.push(implied(), Kind::Directory(BTreeMap::new()), layer, path_len);
        self.link(parent, name, node, layer);
        Ok(node)
    }

    /// Hides what layers below put at `name`; what this layer put there stays.
    fn hide(
        &mut self,
        directory: usize,
        name: &[u8],
        layer: usize,
        budget: &mut Budget,
    ) -> Result<(), LayerError> {
        let Some(link) = self.child(directory, name) else {
            return Ok(());
        };
        if !self.stays(link, layer) {
            self.children_mut(directory).remove(name);
            return Ok(());
        }
        if !self.is_directory(link.node) {
            return Ok(());
        }
        if link.layer < layer {
            // Hidden as it was; it is there again for what this layer put into it.
            self.nodes[link.node].meta = implied();
            self.link(directory, name, link.node, layer);
        }
        self.hide_below(link.node, layer, budget)
    }

    fn hide_below(
        &mut self,
        directory: usize,
        layer: usize,
        budget: &mut Budget,
    ) -> Result<(), LayerError> {
        let mut directories = vec![directory];
        while let Some(directory) = directories.pop() {
            let mut children = std::mem::take(self.children_mut(directory));
            budget.steps(children.len() + 1)?;
            children.retain(|_, link| self.stays(*link, layer));
            let below = children.values().map(|link| link.node);
            directories.extend(below.filter(|node| self.is_directory(*node)));
            *self.children_mut(directory) = children;
        }
        Ok(())
    }

    /// Whether `layer` itself put this there, or something below it.
    fn stays(&self, link: Link, layer: usize) -> bool {
        let node = &self.nodes[link.node];
        link.layer == layer || (matches!(node.kind, Kind::Directory(_)) && node.touched == layer)
    }

    fn child(&self, directory: usize, name: &[u8]) -> Option<Link> {
        match &self.nodes[directory].kind {
            Kind::Directory(children) => children.get(name).copied(),
            _ => None,
        }
    }

    /// Of a directory; of anything else there are none.
    fn children_mut(&mut self, directory: usize) -> &mut BTreeMap<Box<[u8]>, Link> {
        let node = &mut self.nodes[directory];
        if !matches!(node.kind, Kind::Directory(_)) {
            node.kind = Kind::Directory(BTreeMap::new());
        }
        match &mut node.kind {
            Kind::Directory(children) => children,
            _ => unreachable!("made one above"),
        }
    }

    fn is_directory(&self, node: usize) -> bool {
        matches!(self.nodes[node].kind, Kind::Directory(_))
    }

    fn link(&mut self, directory: usize, name: &[u8], node: usize, layer: usize) {
        self.children_mut(directory)
            .insert(name.into(), Link { node, layer });
    }

    fn push(&mut self, meta: Meta, kind: Kind, touched: usize, path_len: usize) -> usize {
        self.nodes.push(Node {
            meta,
            kind,
            touched,
            path_len,
        });
        self.nodes.len() - 1
    }
}

/// Of a directory that no layer describes.
fn implied() -> Meta {
    Meta {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Vec::new(),
    }
}

/// The names of a path, from the root: `/a`, `./a` and `a` are the same.
fn components<'a>(path: &'a [u8], entry: &[u8]) -> Result<Vec<&'a [u8]>, LayerError> {
    if path.len() > PATH_LIMIT {
        return Err(LayerError::entry(
            entry,
            "has a path longer than Linux allows",
        ));
    }
    let names = path.split(|byte| *byte == b'/');
    let names: Vec<_> = names.filter(|name| !matches!(*name, b"" | b".")).collect();
    for name in &names {
        if *name == b".." {
            return Err(LayerError::entry(entry, "has `..` in its path"));
        }
        if name.contains(&0) || name.len() > NAME_LIMIT {
            return Err(LayerError::entry(
                entry,
                "has a name that Linux does not allow",
            ));
        }
    }
    Ok(names)
}
