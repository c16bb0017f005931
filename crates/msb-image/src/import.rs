//! Images of other makes into root disks.
//!
//! ```text
//! OCI layout (directory or tar) ─┐ blobs verified → layers read, merged into a tree of names (tree.rs)
//! docker archive (tar)          ─┘   → layers read again, what won of each goes to mksquashfs → disk
//! directory ──────────────────────── mksquashfs → disk
//! squashfs file ──────────────────── copied
//! ```
//!
//! Files are never unpacked: no path of a layer is ever opened on this machine, nothing needs root, and the disk is the
//! only thing written. What layers hide is read once and goes nowhere.

mod entries;
mod error;
mod layer;
mod limits;
mod oci;
mod pack;
mod source;
mod tree;

pub use error::{ImportError, LayerError};
pub use limits::ImportLimits;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use tar::EntryType;

use self::entries::EntryKind;
use self::limits::Budget;
use self::oci::Image;
use self::pack::{Out, Packer};
use self::source::Source;
use self::tree::{Kind, Place, Tree};
use crate::config::ImageConfig;
use crate::content::{self, Content};
use crate::error::Error;
use crate::format;
use crate::manifest::{Artefact, ImageName, Manifest};
use crate::store::Store;

/// Raise when equal images would become other disks than before.
const RECIPE_VERSION: u32 = 1;

/// What to import an image as.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Its name in the store. Default: made of the file's own.
    pub name: Option<ImageName>,
    /// Which image, where there are several: a reference of the layout's index, or a tag of the docker archive.
    pub reference: Option<String>,
    /// What it may take.
    pub limits: ImportLimits,
}

/// An image that was imported.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Its name in the store.
    pub name: ImageName,
    /// Its disk and how it is run.
    pub manifest: Manifest,
    /// Whether a disk was made, rather than found in the store.
    pub is_new: bool,
}

/// What is at a path.
enum Input {
    Oci(Source),
    Docker(Source),
    Directory,
    Squashfs,
}

impl Store {
    /// Brings the image at `path` into the store: an OCI image layout (a directory, or a tar archive of one), a docker
    /// archive, a directory with a root file system, or a squashfs file. An image of that name is replaced once the new
    /// one is whole; one that was imported before is not made again.
    ///
    /// # Errors
    ///
    /// [`Error::Import`] says what of the image is wrong; [`Error::NotImported`], [`Error::ImageName`],
    /// [`Error::NoSpace`], [`Error::Io`]. The store is then as it was.
    pub fn import(&self, path: &Path, options: &ImportOptions) -> Result<Imported, Error> {
        let name = match &options.name {
            Some(name) => name.clone(),
            None => name_of(path)?,
        };
        let artefact = Artefact::Image(name.clone());
        let existing = self.manifest(&artefact)?;
        if existing.as_ref().is_some_and(|manifest| !manifest.imported) {
            return Err(Error::NotImported {
                name,
                action: "replaced",
            });
        }
        let failed = |source| refusal(path, source);
        let reference = options.reference.as_deref();
        let image = match recognise(path).map_err(failed)? {
            Input::Oci(source) => Some((oci::layout(&source, reference).map_err(failed)?, source)),
            Input::Docker(source) => {
                Some((oci::docker(&source, reference).map_err(failed)?, source))
            }
            Input::Directory | Input::Squashfs => None,
        };
        let (recipe, config) = match &image {
            Some((image, _)) => (
                format!("import {RECIPE_VERSION} {:?}", image.digest),
                image.config.clone(),
            ),
            None => (String::new(), ImageConfig::default()),
        };
        let known = self.made_by(&recipe)?;
        let is_new = known.is_none();
        let (staged, content) = match known {
            Some(content) => (None, content),
            None => {
                let staged = self.temporary()?;
                match &image {
                    Some((image, source)) => merge(image, source, staged.path(), options.limits),
                    None => plain(path, staged.path()),
                }
                .map_err(failed)?;
                let content = File::open(staged.path())
                    .and_then(|mut disk| content::copy(&mut disk, &mut io::sink()))
                    .map_err(Error::io("read", staged.path()))?;
                (Some(staged), content)
            }
        };
        let manifest = Manifest {
            content,
            recipe,
            origin: path.display().to_string(),
            config,
            imported: true,
        };
        let manifest = self.publish_staged(&artefact, staged, manifest)?;
        if existing.is_some_and(|former| former.content != manifest.content) {
            // The former disk is nobody's now; one that stays takes space and no more.
            let _ = self.prune();
        }
        Ok(Imported {
            manifest,
            name,
            is_new,
        })
    }

    /// What the store has under the name of an image.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownImage`], [`Error::Damaged`], [`Error::Io`].
    pub fn image(&self, name: &ImageName) -> Result<Manifest, Error> {
        let manifest = self.manifest(&Artefact::Image(name.clone()))?;
        manifest.ok_or_else(|| self.unknown(name.as_str()))
    }

    /// The disk of any image that was made by `recipe`.
    fn made_by(&self, recipe: &str) -> Result<Option<Content>, Error> {
        if recipe.is_empty() {
            return Ok(None);
        }
        for name in self.image_names()? {
            // A damaged image is made again.
            if let Ok(Some(manifest)) = self.manifest(&Artefact::Image(name))
                && manifest.recipe == recipe
            {
                return Ok(Some(manifest.content));
            }
        }
        Ok(None)
    }
}

/// The error of an import; a full disk is told as such.
fn refusal(path: &Path, source: ImportError) -> Error {
    Error::Import {
        path: path.to_owned(),
        source: Box::new(source),
    }
}

/// A name for what is at `path`: its last part in lower case without what an extension adds, anything else as `-`.
fn name_of(path: &Path) -> Result<ImageName, Error> {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = whole
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let known = [".tar", ".tar.gz", ".tgz", ".squashfs", ".sqfs", ".oci"];
    let stem = known
        .iter()
        .find_map(|extension| name.strip_suffix(extension))
        .unwrap_or(&name);
    let text: String = stem
        .chars()
        .map(|c| match c {
            'a'..='z' | '0'..='9' | '.' | '_' | '-' => c,
            _ => '-',
        })
        .take(128)
        .collect();
    Ok(text
        .trim_start_matches(['.', '_', '-'])
        .parse::<ImageName>()?)
}

fn recognise(path: &Path) -> Result<Input, ImportError> {
    let unreadable = |source| ImportError::Read {
        what: "it".into(),
        source,
    };
    if std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        let source = Source::Directory(path.to_owned());
        let is_layout = source.has("oci-layout") || source.has("index.json");
        return Ok(match is_layout {
            true => Input::Oci(source),
            false => Input::Directory,
        });
    }
    let mut head = Vec::new();
    source::open_file(path)
        .and_then(|file| {
            file.take(format::HEAD_BYTES as u64 * 2)
                .read_to_end(&mut head)
        })
        .map_err(unreadable)?;
    if format::squashfs_len(&head).is_some() {
        return Ok(Input::Squashfs);
    }
    let unrecognised = |hint| Err(ImportError::Unrecognised { hint });
    if head.starts_with(&[0x1f, 0x8b]) {
        return unrecognised(": it is compressed by gzip, unpack it with gunzip first");
    }
    if head.get(0x438..0x43a) == Some(&[0x53, 0xef]) {
        return unrecognised(
            ": it is an ext4 file system, which is not supported yet; mount it and import the directory",
        );
    }
    if head.get(257..262) != Some(b"ustar") {
        return unrecognised("");
    }
    let source = Source::archive(path)?;
    // Docker writes both; only the layout names blobs by digests.
    if source.has("index.json") && source.has("oci-layout") {
        Ok(Input::Oci(source))
    } else if source.has("manifest.json") {
        Ok(Input::Docker(source))
    } else {
        unrecognised(
            ": it is a tar archive without an image's index.json or manifest.json; unpack a root file system and import the directory",
        )
    }
}

fn plain(path: &Path, disk: &Path) -> Result<(), ImportError> {
    if path.is_dir() {
        return pack::directory(path, disk);
    }
    let read = |source| ImportError::Read {
        what: "it".into(),
        source,
    };
    let mut head = Vec::new();
    let mut file = source::open_file(path).map_err(read)?;
    let found = file.metadata().map_err(read)?.len();
    (&mut file)
        .take(format::HEAD_BYTES as u64)
        .read_to_end(&mut head)
        .map_err(read)?;
    let expected = format::squashfs_len(&head).unwrap_or(u64::MAX);
    if found < expected {
        return Err(ImportError::BlobSize {
            what: "squashfs file".into(),
            expected,
            found,
        });
    }
    let mut to = File::options().write(true).open(disk).map_err(read)?;
    io::copy(&mut io::Cursor::new(head).chain(file), &mut to).map_err(read)?;
    Ok(())
}

/// Makes the disk of `image`.
fn merge(
    image: &Image,
    source: &Source,
    disk: &Path,
    limits: ImportLimits,
) -> Result<(), ImportError> {
    let mut budget = Budget::new(limits);
    let mut tree = Tree::new();
    for (at, layer) in image.layers.iter().enumerate() {
        let refuse = |error| layer.refuse(error);
        let below = at > 0;
        if below {
            // What a layer hides is gone before anything of it is made, wherever in it that is said.
            let mut open = layer.open(source, &budget)?;
            while let Some(entry) = open.next(&budget).map_err(refuse)? {
                if tree::is_whiteout(&entry) {
                    let place = Place {
                        layer: at,
                        ordinal: 0,
                    };
                    tree.apply(place, entry, &mut budget).map_err(refuse)?;
                }
            }
        }
        let mut open = layer.open(source, &budget)?;
        let mut ordinal = 0;
        while let Some(entry) = open.next(&budget).map_err(refuse)? {
            let place = Place { layer: at, ordinal };
            if !(below && tree::is_whiteout(&entry)) {
                tree.apply(place, entry, &mut budget).map_err(refuse)?;
            }
            ordinal += 1;
        }
        open.finish(layer.diff_id, &mut budget).map_err(refuse)?;
    }
    let dir = &image.config.working_dir;
    if !dir.is_empty() {
        // Where it cannot be made, starting a program in it says so.
        tree.ensure_directory(dir.as_bytes(), image.layers.len(), &mut budget);
    }
    let plan = Plan::of(&tree);
    let mut packer = Packer::start(disk, &tree.node(Tree::ROOT).meta)?;
    match write(image, source, &tree, &plan, &mut packer, limits) {
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

/// Where each node goes.
struct Plan {
    /// The first name of each node: the directory it is in, and its name there.
    names: Vec<Option<(usize, Box<[u8]>)>>,
    directories: Vec<usize>,
    /// Neither directories nor files with data.
    special: Vec<usize>,
    /// Files by where their data come from.
    files: std::collections::BTreeMap<Place, usize>,
    /// Further names: directory, name, node.
    links: Vec<(usize, Box<[u8]>, usize)>,
}

impl Plan {
    fn of(tree: &Tree) -> Self {
        let mut plan = Self {
            names: vec![None; tree.len()],
            directories: Vec::new(),
            special: Vec::new(),
            files: std::collections::BTreeMap::new(),
            links: Vec::new(),
        };
        let mut rest = vec![Tree::ROOT];
        while let Some(directory) = rest.pop() {
            let Kind::Directory(children) = &tree.node(directory).kind else {
                continue;
            };
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
                        rest.push(node);
                    }
                    Kind::File { place, .. } => drop(plan.files.insert(*place, node)),
                    _ => plan.special.push(node),
                }
            }
        }
        plan
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
        packer.add(&out(tree, *node, &path), &mut nothing)?;
    }
    let mut budget = Budget::new(limits);
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
        let mut open = layer.open(source, &budget)?;
        let mut ordinal = 0;
        while let Some(entry) = open.next(&budget).map_err(refuse)? {
            let place = Place { layer: at, ordinal };
            ordinal += 1;
            let Some((_, node)) = wanted.next_if(|(next, _)| **next == place) else {
                continue;
            };
            let path = plan.path_of(*node);
            let out = out(tree, *node, &path);
            if entry.kind != EntryKind::File || entry.size != out.size {
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
        open.finish(layer.diff_id, &mut budget).map_err(refuse)?;
    }
    for (directory, name, node) in &plan.links {
        let path = plan.path(*directory, name);
        let target = plan.path_of(*node);
        let mut out = out(tree, *node, &path);
        out.kind = EntryType::Link;
        out.link = &target;
        out.size = 0;
        packer.add(&out, &mut nothing)?;
    }
    Ok(())
}

fn out<'a>(tree: &'a Tree, node: usize, path: &'a [u8]) -> Out<'a> {
    let node = tree.node(node);
    let mut out = Out {
        path,
        kind: EntryType::Regular,
        link: b"",
        device: (0, 0),
        size: 0,
        meta: &node.meta,
    };
    match &node.kind {
        Kind::Directory(_) => out.kind = EntryType::Directory,
        Kind::File { size, .. } => out.size = *size,
        Kind::Symlink(target) => (out.kind, out.link) = (EntryType::Symlink, target),
        Kind::CharDevice(major, minor) => {
            (out.kind, out.device) = (EntryType::Char, (*major, *minor))
        }
        Kind::BlockDevice(major, minor) => {
            (out.kind, out.device) = (EntryType::Block, (*major, *minor))
        }
        Kind::Fifo => out.kind = EntryType::Fifo,
    }
    out
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
