//! What is known on disk of sandboxes that outlive the command that made them: one directory for each, with a record, a
//! lock, a log and a socket. What a sandbox is made of is the caller's business.
//!
//! ```
//! use msb_state::{Phase, State, StateDir};
//!
//! # let temporary = tempfile::tempdir()?;
//! # let path = temporary.path().join("state");
//! let states = StateDir::open(path)?;
//! let name = "worker".parse()?;
//! states.create(&name, serde_json::json!({ "image": "base" }))?;
//!
//! // The process that holds the sandbox, for all its life:
//! let mut owned = states.own(&name)?;
//! owned.set_phase(Phase::Starting)?;
//! owned.set_phase(Phase::Running)?;
//! assert_eq!(states.look(&name)?.state, State::Running);
//!
//! // However that process ends, the next look tells.
//! drop(owned);
//! assert_eq!(states.look(&name)?.state, State::Crashed);
//! states.remove(&name)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//! - A sandbox runs exactly as long as somebody holds the lock of its directory. A process id, which the system gives to
//!   others in time, decides nothing.
//! - `kill -9` at any moment leaves what the next look repairs: directories appear and vanish by one rename, records are
//!   replaced by one rename after they have reached the disk. [`crash`] has the moments that tests kill at.
//! - No sandbox is lost: a directory whose record cannot be read is listed as [`State::Damaged`] and can be removed.
//! - Directories are the user's alone (0700), and so are the files in them (0600).
//!
//! # Limits
//! One machine and one user: locks are the kernel's (`flock`), and a directory of somebody else's is refused. Looks,
//! creations and removals of one state directory wait for each other; each takes milliseconds.
#![forbid(unsafe_code)]

pub mod crash;
mod dir;
mod error;
mod files;
mod log;
mod name;
mod owned;
mod record;
mod socket;

pub use dir::{Owner, Seen, State, StateDir};
pub use error::Error;
pub use log::{Entry, LogReader, LogWriter, Stream};
pub use name::Name;
pub use owned::Owned;
pub use record::{Phase, Record, VERSION};
pub use socket::connect_below;
