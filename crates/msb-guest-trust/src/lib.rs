//! Puts certificate authorities into a guest's trust stores.
//!
//! A sandbox whose TLS is intercepted must trust the sandbox's own authority before its first process runs, in
//! whatever distribution the image holds. The work is cut in three, so that all decisions are in one pure function:
//!
//! 1. [`Facts::read_with`] looks at the mounted root: which bundles, anchor directories and hashed directories exist.
//! 2. [`plan`] says which files to write, link or remove. It does no input or output.
//! 3. [`apply()`] does that, never gives up, and says what it could not do.
//!
//! [`environment`] then names the variables for clients that bring a bundle of their own (Python's certifi, Node, ...).
//!
//! ```no_run
//! # fn main() -> Result<(), msb_guest_trust::Error> {
//! # let pem = b"";
//! # let image_environment = |_name: &str| -> Option<String> { None };
//! use std::path::Path;
//! use msb_guest_trust::{CaCertificate, Facts, TrustRequest, apply, environment, plan};
//!
//! let cas = CaCertificate::from_pem(pem)?;
//! let root = Path::new("/");
//! let facts = Facts::read_with(root, &image_environment);
//! let report = apply(root, &plan(&facts, &TrustRequest { cas: &cas }));
//! for failure in &report.failed {
//!     eprintln!("{failure}");
//! }
//! for (name, value) in environment(&report.trusted, &image_environment) {
//!     println!("{name}={value}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is written
//! - A marked block at the end of every system bundle. The next boot replaces it, so a persistent root does not grow,
//!   and the same authority gives the same bytes.
//! - One file per authority in the distribution's anchor directory, for a later `update-ca-certificates` or
//!   `update-ca-trust`. It carries the markers too: a bundle that such a tool puts together can still be cleaned.
//! - One file and one `<hash>.N` link per authority in directories that are hashed.
//! - One entry per authority in key stores of Java that have Java's own password or none, JKS or PKCS#12.
//! - A certificate and its trust per authority in databases of NSS (`cert9.db`) whose password is empty.
//! - Policies of Firefox and of kinds of Chromium that are installed: merged, or in a file of their own.
//! - Files below [`RUNTIME_DIRECTORY`], for the variables and for roots that cannot be written.
//!
//! # Limits
//! - Links are resolved inside the root and never lead out of it, but only against what was there when the facts were
//!   read: nothing else may change the root between reading and applying.
//! - A file on another file system than the root's is never changed: it may be the host's, mounted into the guest.
//! - Extended attributes of a replaced bundle are not kept, and a hard link to it keeps the former content.
//! - What `update-ca-trust` puts together from an anchor has no markers: it is there until that is run again.
//! - Databases of NSS with a password, and those of the format before SQLite's (`cert8.db`), are told as failures.
//! - Policies of Firefox that the image holds are written anew, with their keys in order, when ours are put in.
//! - An entry of a Java key store that `keytool` has since moved into an encrypted part is not found again.
#![forbid(unsafe_code)]

mod asn1;
mod block;
mod certificate;
mod environment;
mod error;
mod facts;
mod io;
mod java;
mod nss;
mod places;
mod plan;
mod policies;
mod roots;
mod subject_hash;
mod x509;

pub use certificate::CaCertificate;
pub use environment::{Trusted, environment};
pub use error::{Error, Failure, Problem, Purpose};
pub use facts::Facts;
pub use io::apply::{Report, apply};
pub use places::RUNTIME_DIRECTORY;
pub use plan::{Action, Change, Plan, TrustRequest, plan};
