//! Entries of tar archives (POSIX ustar with pax records, GNU's long names): read as a stream within bounds, and written.
//!
//! ```
//! # fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use msb_tar::{Entry, Kind, Reader, padding, write, write_end};
//!
//! let mut archive = Vec::new();
//! let note = Entry { mode: 0o644, ..Entry::new("note", Kind::File(5)) };
//! write(&note, &mut archive)?;
//! archive.extend_from_slice(b"hello");
//! archive.extend_from_slice(padding(5));
//! write_end(&mut archive)?;
//!
//! let mut reader = Reader::new(archive.as_slice(), 64 << 10);
//! assert_eq!(reader.next()?, Some(note));
//! assert_eq!(reader.data(&mut [0; 64])?, b"hello");
//! assert_eq!(reader.next()?, None);
//! # Ok(())
//! # }
//! # run().unwrap();
//! ```
//!
//! # Limits
//! Header blocks are the `tar` crate's; its own reader is not used, because it keeps names and attributes of any length in
//! memory. Here all that describes one entry, however many headers it is spread over, has the length that the caller allows.
//! What a path means, and whether an entry may be there at all, is the caller's to decide. Sparse files are refused: their
//! contents would come out other than they are. Global pax headers are passed over, as Go's archive/tar does, which the
//! tools that make images are written with.
#![forbid(unsafe_code)]

mod extensions;
mod read;
mod write;

use std::collections::BTreeMap;
use std::io;

pub use read::Reader;
pub use write::{padding, write, write_end};

/// Bytes that headers and data are in multiples of.
const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file; so many bytes of data follow.
    File(u64),
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// Another name of the entry with this one.
    HardLink(Vec<u8>),
    /// A character device: major number below 2^12, minor below 2^20, which is what Linux has room for.
    CharDevice(u32, u32),
    /// A block device, likewise.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One entry without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As the archive says it: any bytes, `..` and NUL among them where pax records have them.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner. An archive can say more than Linux knows.
    pub uid: u64,
    /// Group, likewise.
    pub gid: u64,
    /// Seconds since 1970; what is before is 0.
    pub mtime: u64,
    /// Extended attributes by name (`SCHILY.xattr.` records).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Entry {
    /// An entry of this name, of root's, with neither permissions nor attributes, of 1970.
    pub fn new(path: impl Into<Vec<u8>>, kind: Kind) -> Self {
        Self {
            path: path.into(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: BTreeMap::new(),
        }
    }
}

/// Why there is no next entry, or no more of its data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stream is no tar archive, or is cut off.
    #[error("the archive is wrong at byte {at}: {problem}")]
    Archive {
        /// How far it was read, in bytes.
        at: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// An entry that cannot be one. Its path is shown escaped, and no more than 200 bytes of it.
    #[error("the archive's entry \"{}\" {problem}", path[..path.len().min(200)].escape_ascii())]
    Entry {
        /// Its path as the archive says it.
        path: Vec<u8>,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The stream fails.
    #[error("the archive cannot be read")]
    Read(#[from] io::Error),
}
