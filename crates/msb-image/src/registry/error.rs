//! Why an image cannot be fetched from its registry.

use std::io;
use std::time::Duration;

use crate::content::Digest;
use crate::import::ImportError;

/// What kept a pull from its end. Each message is one line, says what it is about and what to do, and shows no
/// credential.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The registry wants to know who asks, or does not know it (401).
    #[error(
        "{registry} {} for {repository} (401){detail}: {}",
        if *known { "does not accept the credentials" } else { "wants credentials, or has no such image," },
        if *known { "check user name and password, or log in again with `docker login` or `podman login`" }
        else { "check the name, log in with `docker login` or `podman login`, or give --username and --password-stdin" }
    )]
    Unauthorized {
        /// The registry.
        registry: String,
        /// Its repository.
        repository: String,
        /// Whether credentials were sent.
        known: bool,
        /// What the registry says; empty, or begins with `: `.
        detail: String,
    },
    /// The registry knows who asks and does not allow it (403).
    #[error(
        "{registry} does not allow this user to read {repository} (403){detail}: ask its owner for access"
    )]
    Forbidden {
        /// The registry.
        registry: String,
        /// Its repository.
        repository: String,
        /// What the registry says.
        detail: String,
    },
    /// The registry does not have it (404).
    #[error(
        "{registry} has no {what} of it (404){detail}: {}",
        match what.as_str() {
            "manifest" => "check the image's name and tag",
            _ => "its copy is incomplete, push the image again",
        }
    )]
    NotFound {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// What the registry says.
        detail: String,
    },
    /// The registry limits how often it is asked (429).
    #[error(
        "{registry} limits how often it is asked, here for the {what} (429){detail}: {}",
        match wait {
            Some(wait) => format!("try again in {} s", wait.as_secs()),
            None => "try again later, or log in: many registries allow more then".into(),
        }
    )]
    TooManyRequests {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// How long it wants to be left alone.
        wait: Option<Duration>,
        /// What the registry says.
        detail: String,
    },
    /// The registry fails (5xx).
    #[error("{registry} failed to give the {what} ({status}){detail}: try again later")]
    Server {
        /// The registry, or the host that it refers to.
        registry: String,
        /// What was asked for.
        what: String,
        /// Its status.
        status: u16,
        /// What the registry says.
        detail: String,
    },
    /// An answer that no registry gives.
    #[error("{registry} answered {status} when asked for the {what}{detail}: is it a registry?")]
    Status {
        /// The registry, or the host that it refers to.
        registry: String,
        /// What was asked for.
        what: String,
        /// The status.
        status: u16,
        /// What the registry says.
        detail: String,
    },
    /// An answer that no registry gives.
    #[error("{registry} {problem}")]
    Protocol {
        /// The registry, or the host that it refers to.
        registry: String,
        /// What is wrong, and where.
        problem: String,
    },
    /// No connection, or it ends without an answer.
    #[error(
        "{host} cannot be reached for the {what}: check the name, the network and the proxy's variables"
    )]
    Unreachable {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// The reason.
        source: reqwest::Error,
    },
    /// A connection that brings nothing, or next to nothing.
    #[error(
        "{host} sends nothing of the {what}, or next to nothing: try again later; what came of layers is kept"
    )]
    TooSlow {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// Its certificate is not signed by anybody who is trusted here.
    #[error(
        "the certificate of {host} is signed by an authority that is not trusted here: if it is the right one, give its \
         certificate with --registry-ca FILE"
    )]
    UnknownAuthority {
        /// The host.
        host: String,
    },
    /// Its certificate is no proof.
    #[error("{host} does not prove who it is: {problem}")]
    Certificate {
        /// The host.
        host: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It refers to where it must not.
    #[error("{registry} leads to {to} for the {what}, which is not followed: {problem}")]
    Redirect {
        /// The registry.
        registry: String,
        /// Scheme and host.
        to: String,
        /// What was asked for.
        what: String,
        /// Why not.
        problem: &'static str,
    },
    /// A blob is not what its digest says.
    #[error(
        "the {what} has the digest {found:?} instead of {expected:?}: the registry, or something on the way to it, \
         changed it; nothing of it is kept, so pull again, \
         and tell who runs the registry if it stays so"
    )]
    Digest {
        /// Which blob.
        what: String,
        /// Its name.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// A blob is longer or shorter than the manifest says.
    #[error(
        "the {what} has {found} bytes instead of {expected}: the registry's copy is damaged, push the image again; nothing of \
         it is kept"
    )]
    Size {
        /// Which blob.
        what: String,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes that came or were announced.
        found: u64,
    },
    /// The connection ended within a blob, again and again.
    #[error(
        "the connection to {host} ended within the {what}, after {received} of {expected} bytes: what came is kept, so \
         pull again to go on from there"
    )]
    Cut {
        /// The host.
        host: String,
        /// Which blob.
        what: String,
        /// Bytes that are kept.
        received: u64,
        /// Bytes by the manifest.
        expected: u64,
    },
    /// A manifest of before 2016.
    #[error(
        "its manifest is of schema 1, which names no configuration and is not used any more: push the image again with a \
         newer tool"
    )]
    SchemaOne,
    /// Stored credentials, or a certificate given, cannot be used.
    #[error("{problem}")]
    Settings {
        /// What and why.
        problem: String,
    },
    /// What was fetched is no image, or not one for here.
    #[error(transparent)]
    Image(#[from] ImportError),
    /// The file system of the store is full. What was fetched is removed.
    #[error("no space is left for the {what}")]
    NoSpace {
        /// Which blob.
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// The store cannot be written.
    #[error("cannot store the {what}")]
    Store {
        /// Which blob.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
}
