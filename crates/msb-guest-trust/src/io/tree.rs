//! A mounted root seen as the guest sees it: links are resolved inside it and never lead out of it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::error::Problem;

/// As many as Linux follows in one path (`MAXSYMLINKS`, path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Far more than any bundle: Mozilla's, with all roots there are, is 220 KiB.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// All is in memory at once, which a guest has little of.
const MAX_TOTAL_BYTES: u64 = 64 << 20;

pub(crate) struct Tree {
    root: PathBuf,
    device: Option<u64>,
    /// How much has been read, at most [`MAX_TOTAL_BYTES`].
    read_bytes: Cell<u64>,
}

/// A place in the tree: its path as the guest would write it, without links, and what is there.
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) metadata: Option<Metadata>,
}

impl Tree {
    pub(crate) fn new(root: &Path) -> Self {
        let device = fs::metadata(root).ok().map(|metadata| metadata.dev());
        Self {
            root: root.to_owned(),
            device,
            read_bytes: Cell::new(0),
        }
    }

    /// The path outside of the guest. `path` must be free of links, as [`Tree::find`] returns it.
    pub(crate) fn outside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Follows `path` as a process with this root would. What is missing on the way is taken as it is written.
    pub(crate) fn find(&self, path: &Path) -> io::Result<Place> {
        let mut pending: VecDeque<Step> = steps(path).collect();
        let mut place = Place {
            path: PathBuf::from("/"),
            metadata: fs::symlink_metadata(&self.root).ok(),
        };
        let mut links = 0;
        while let Some(step) = pending.pop_front() {
            match step {
                Step::Root => place.path = PathBuf::from("/"),
                Step::Up => {
                    place.path.pop();
                }
                Step::Into(name) => {
                    let next = place.path.join(&name);
                    let metadata = self.metadata(&next)?;
                    if metadata.as_ref().is_some_and(Metadata::is_symlink) {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(io::Error::other("too many links"));
                        }
                        let target = fs::read_link(self.outside(&next))?;
                        for step in steps(&target).collect::<Vec<_>>().into_iter().rev() {
                            pending.push_front(step);
                        }
                    } else {
                        place.path = next;
                    }
                }
            }
        }
        place.metadata = self.metadata(&place.path)?;
        Ok(place)
    }

    /// What is at a path that is free of links up to its last component, or `None` if nothing is.
    pub(crate) fn metadata(&self, path: &Path) -> io::Result<Option<Metadata>> {
        match fs::symlink_metadata(self.outside(path)) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether any file, directory or link is there, however it can be reached.
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.find(Path::new(path))
            .is_ok_and(|place| place.metadata.is_some())
    }

    pub(crate) fn read(&self, place: &Place) -> Result<Vec<u8>, Problem> {
        let metadata = place.metadata.as_ref().ok_or(Problem::Missing)?;
        if !metadata.is_file() {
            return Err(Problem::NotAFile);
        }
        let too_large = |len_bytes| Problem::TooLarge { len_bytes };
        if metadata.len() > MAX_FILE_BYTES {
            return Err(too_large(metadata.len()));
        }
        let total = self.read_bytes.get() + metadata.len();
        if total > MAX_TOTAL_BYTES {
            return Err(Problem::TooMuch);
        }
        self.read_bytes.set(total);
        let mut content = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
        fs::File::open(self.outside(&place.path))
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content))
            .map_err(|error| Problem::io("read it", &error))?;
        match content.len() as u64 {
            len_bytes if len_bytes > MAX_FILE_BYTES => Err(too_large(len_bytes)),
            _ => Ok(content),
        }
    }

    /// Why nothing may be changed in this directory, which need not exist yet: it is not on the root's file system.
    ///
    /// Directories are asked, not files: in an overlay only they all say the overlay's device.
    pub(crate) fn blocked(&self, directory: &Path) -> Option<Problem> {
        let existing = directory
            .ancestors()
            .find_map(|ancestor| fs::symlink_metadata(self.outside(ancestor)).ok());
        (existing.map(|metadata| metadata.dev()) != self.device).then_some(Problem::OtherFileSystem)
    }
}

enum Step {
    Root,
    Up,
    Into(OsString),
}

fn steps(path: &Path) -> impl Iterator<Item = Step> {
    path.components().filter_map(|component| match component {
        Component::RootDir => Some(Step::Root),
        Component::ParentDir => Some(Step::Up),
        Component::Normal(name) => Some(Step::Into(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    })
}
