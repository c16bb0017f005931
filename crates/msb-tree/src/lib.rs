//! A tree of files as one stream of bytes: [`pack`] on one side, [`unpack`] on the other.
//!
//! The stream is a tar archive (POSIX ustar with pax records for long names), so other programs can make and read it.
//! Both sides keep a bounded part of it in memory, whatever it holds.
//!
//! ```
//! # fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use msb_tree::{Modes, Place, pack, unpack};
//!
//! let (from, to) = (tempfile::tempdir()?, tempfile::tempdir()?);
//! std::fs::write(from.path().join("note"), "hello")?;
//! let mut archive = Vec::new();
//! pack(&from.path().join("note"), b"note", &mut archive)?;
//! unpack(&archive[..], &Place::new(to.path(), Some("copy".as_ref()))?, Modes::Permissions)?;
//! assert_eq!(std::fs::read(to.path().join("copy"))?, b"hello");
//! # Ok(())
//! # }
//! # run().unwrap();
//! ```
//!
//! # What is kept
//! Contents, permission bits, times of change in whole seconds, symbolic links as they are, hard links within the tree.
//! Files belong to whoever unpacks. Set-id and sticky bits are kept only where that is asked for ([`Modes::All`]), which is in
//! a guest. Extended attributes and holes are not kept. Sockets, pipes and devices are passed over, and told.
//!
//! # A hostile archive
//! [`unpack`] writes below its [`Place`] and nowhere else: no name with `..`, absolute or empty gets through, no link is
//! followed on the way to a file, and a hard link's target is found the same way. Devices and pipes are refused. Nothing
//! is allocated or reserved for what an archive announces, only for what arrives.
#![forbid(unsafe_code)]

mod error;
mod pack;
mod pieces;
mod unpack;

pub use error::Error;
pub use pack::{Packed, pack};
pub use pieces::{PieceReader, PieceWriter};
pub use unpack::{Modes, Place, Unpacked, unpack};

/// The deepest nesting of directories, on either side. Each level holds a descriptor.
pub const MAX_DEPTH: usize = 200;

/// Of an entry's name and link, with what else an archive says of it. Linux' paths end at 4096.
const EXTENSION_LIMIT: u64 = 64 << 10;
