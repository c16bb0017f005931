//! What can go wrong with the state of sandboxes.

use std::io;
use std::path::PathBuf;

/// An error of the state directory. Every text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a name that a sandbox can have.
    #[error("{0:?} cannot be a sandbox's name: use 1 to 63 of a-z, 0-9 and inner hyphens")]
    BadName(String),
    /// There is no sandbox of this name.
    #[error("there is no sandbox {name}{}", near_names(near))]
    Unknown {
        /// The name.
        name: String,
        /// Names of sandboxes that differ little from it.
        near: Vec<String>,
    },
    /// A sandbox of this name is there.
    #[error(
        "the name {name} is taken by another sandbox: choose another, or remove that one with `msb rm {name}`"
    )]
    Taken {
        /// The name.
        name: String,
    },
    /// Some process holds the sandbox.
    #[error("the sandbox {name} is running: stop it first with `msb stop {name}`")]
    InUse {
        /// The name.
        name: String,
    },
    /// The record cannot be read. The sandbox can be removed.
    #[error(
        "the record of the sandbox {name} is damaged ({reason}): remove it with `msb rm -f {name}`"
    )]
    Damaged {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory of a sandbox that is held was removed, or is another's by now.
    #[error("the directory of the sandbox {name} was removed while it ran")]
    Lost {
        /// The name.
        name: String,
    },
    /// Nobody said where the state is to be.
    #[error("there is no place for the state of sandboxes: set MSB_STATE, XDG_STATE_HOME or HOME")]
    NoPlace,
    /// The directory is not the user's alone.
    #[error("the state directory {path} {reason}: set MSB_STATE to another", path = path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Whose it is, or who may write there.
        reason: &'static str,
    },
    /// The system refused.
    #[error("cannot {what} {path}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn near_names(near: &[String]) -> String {
    match near {
        [] => ": `msb ps -a` lists those that are there".to_owned(),
        [one] => format!("; did you mean {one}?"),
        [first @ .., last] => format!("; did you mean {} or {last}?", first.join(", ")),
    }
}
