//! Images from registries (OCI Distribution Specification 1.1): the documents of one, then its layers, several at
//! once, then its disk.
//!
//! ```text
//! reference → manifest or index → manifest → configuration     checked against their digests, in memory
//!           → layers → blobs/sha256/<digest>, hashed as they come, gone on with where they ended
//!           → disk (import/merge.rs), published under the reference; the layers are removed
//! ```

mod auth;
mod blobs;
mod client;
mod documents;
mod error;
mod layers;
mod tls;
mod token;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

pub use self::auth::Credentials;
pub use self::error::PullError;

use self::blobs::{Blob, Turn};
use self::client::Client;
use self::documents::documents;
use self::layers::Wanted;
use crate::content::Digest;
use crate::error::Error;
use crate::import::oci::Image;
use crate::import::source::Source;
use crate::import::{self, ImportError, ImportLimits, Imported, Made};
use crate::manifest::ImageName;
use crate::reference::Reference;
use crate::store::Store;

/// More connections at once than this gain nothing and offend registries.
const LAYERS_AT_ONCE: usize = 4;

/// How to pull.
#[derive(Clone, Default)]
pub struct PullOptions {
    /// Who asks.
    pub login: Login,
    /// Files with authorities (PEM) that may sign for the registry, besides those of this machine.
    pub ca_files: Vec<PathBuf>,
    /// Registries, as `HOST` or `HOST:PORT`, that may be spoken to in plain http where they speak no TLS. Those on this
    /// machine always may.
    pub insecure: Vec<String>,
    /// What the image may take.
    pub limits: ImportLimits,
    /// How often and after how long to try again.
    pub retries: Retries,
    /// Hears how it goes, from the pull's own tasks: it must not block.
    pub on_event: Option<Sink>,
}

/// Who asks a registry.
#[derive(Clone, Debug, Default)]
pub enum Login {
    /// Whom docker or podman have stored for it, else nobody.
    #[default]
    Stored,
    /// Nobody.
    Anonymous,
    /// This user.
    As(Credentials),
}

/// Takes what happens in a pull.
pub type Sink = Arc<dyn Fn(&PullEvent) + Send + Sync>;

/// When to try again after a failure that may pass: no connection, a cut, 429, 5xx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Tries after the first, for each document and layer; those that brought 1 MiB of a layer do not count. Default: 5.
    pub attempts: u32,
    /// Before the first of them, doubled before each further one. Default: 0.5 s.
    pub first_wait: Duration,
    /// No wait is longer; a registry that asks for a longer one is not asked again. Default: 60 s.
    pub longest_wait: Duration,
    /// A connection that brings nothing of an answer for so long has ended, and so has one that brings less than 16 KiB of a
    /// layer in it. Default: 60 s.
    pub silence: Duration,
}

/// What happens in a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PullEvent {
    /// Another process pulls the image; this one goes on when that has ended.
    Waiting,
    /// The image is known: bytes of each layer, from the lowest.
    Layers(Vec<u64>),
    /// So much of a layer, counted from 0, is there. Less than before where it had to begin anew.
    Received {
        /// Which layer.
        layer: usize,
        /// Bytes of it.
        bytes: u64,
    },
    /// Something failed and is tried again.
    Retrying {
        /// What was asked for.
        what: String,
        /// Why it failed.
        reason: String,
        /// How long is waited before.
        wait: Duration,
    },
    /// All layers are there; the disk is being made.
    Building,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
            silence: Duration::from_secs(60),
        }
    }
}

impl fmt::Debug for PullOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullOptions")
            .field("login", &self.login)
            .field("ca_files", &self.ca_files)
            .field("insecure", &self.insecure)
            .field("limits", &self.limits)
            .field("retries", &self.retries)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Fetches the image that `reference` means now, makes its disk where no image has the same, and keeps it under
    /// the reference, in place of what had that name.
    ///
    /// Needs a tokio runtime with time and network.
    ///
    /// # Errors
    /// [`Error::Pull`] says what kept it; [`Error::NoSpace`], [`Error::Io`]. The store has the images it had; layers that
    /// came in part are gone on with by the next pull.
    ///
    /// # Cancellation
    /// Dropping the future ends it after the piece, or the disk, that is being written; nothing half-made is used.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<Imported, Error> {
        let failed = |error| self.pull_failure(reference, error);
        let name = ImageName::from(reference.clone());
        let client = Client::new(reference, options).await.map_err(failed)?;
        let (mut image, layers) = documents(&client, reference).await.map_err(failed)?;
        let store = self.clone();
        let (digest, sink) = (image.digest, options.on_event.clone());
        let turn = spawn_blocking(move || {
            Turn::take(&store, digest, || {
                if let Some(sink) = &sink {
                    sink(&PullEvent::Waiting);
                }
            })
        });
        let turn = finished(turn.await).map_err(Error::io("lock", &self.dir().join("pulls")))?;
        let recipe = import::recipe(image.digest);
        let mut blobs = Vec::new();
        let known = self.made_by(&recipe)?;
        if known.is_none() {
            client.tell(&PullEvent::Layers(
                layers.iter().map(|(_, size)| *size).collect(),
            ));
            blobs = self
                .fetch(Arc::new(client), &image, &layers, options.limits)
                .await
                .map_err(failed)?;
            // Each was hashed as it came.
            image.layers.iter_mut().for_each(|layer| layer.blob = None);
            if let Some(sink) = &options.on_event {
                sink(&PullEvent::Building);
            }
        }
        let made = Made {
            recipe,
            origin: format!("{reference} ({digest:?})"),
            config: image.config.clone(),
        };
        let (store, reference, limits) = (self.clone(), reference.clone(), options.limits);
        let building = spawn_blocking(move || {
            let source = Source::Directory(store.dir().to_owned());
            let kept = store.keep(name, made, known, |disk| {
                import::merge(&image, &source, disk, limits)
                    .map_err(|error| store.pull_failure(&reference, error.into()))
            });
            // Those of an image that is refused would be refused again.
            blobs.into_iter().for_each(Blob::remove);
            drop(turn);
            kept
        });
        finished(building.await)
    }

    fn pull_failure(&self, reference: &Reference, error: PullError) -> Error {
        match error {
            PullError::NoSpace { source, .. } | PullError::Image(ImportError::NoSpace(source)) => {
                Error::NoSpace {
                    path: self.dir().to_owned(),
                    source,
                }
            }
            source => Error::Pull {
                image: reference.to_string(),
                source: Box::new(source),
            },
        }
    }

    /// Fetches all layers, some at once. Equal ones once.
    async fn fetch(
        &self,
        client: Arc<Client>,
        image: &Image,
        layers: &[(Digest, u64)],
        limits: ImportLimits,
    ) -> Result<Vec<Blob>, PullError> {
        let store = self.clone();
        // Nothing is lost if that does not work.
        let _ = spawn_blocking(move || blobs::sweep(&store, SystemTime::now())).await;
        let total = layers
            .iter()
            .fold(0_u64, |sum, (_, size)| sum.saturating_add(*size));
        if total > limits.unpacked_bytes {
            return Err(ImportError::Document {
                what: "manifest".into(),
                problem: format!(
                    "names layers of {total} bytes, more than the {} that an image may have",
                    limits.unpacked_bytes
                ),
            }
            .into());
        }
        let permits = Arc::new(Semaphore::new(LAYERS_AT_ONCE));
        let full = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for (at, (digest, size)) in layers.iter().enumerate() {
            if layers[..at].iter().any(|(earlier, _)| earlier == digest) {
                client.tell(&PullEvent::Received {
                    layer: at,
                    bytes: *size,
                });
                continue;
            }
            let wanted = Wanted {
                store: self.clone(),
                client: Arc::clone(&client),
                layer: at,
                what: format!("{} ({digest:?})", image.layers[at].what()),
                digest: *digest,
                size: *size,
                full: Arc::clone(&full),
            };
            let permits = Arc::clone(&permits);
            tasks.spawn(async move {
                let _permit = permits.acquire_owned().await;
                wanted.fetch().await
            });
        }
        let mut fetched = Vec::new();
        let mut failure = None;
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(Ok(blob)) => fetched.push(blob),
                Ok(Err(error)) if failure.is_none() => {
                    // Each of them sees to its own file where there is no room.
                    if !full.load(Ordering::Relaxed) {
                        tasks.abort_all();
                    }
                    failure = Some(error);
                }
                Ok(Err(_)) => {}
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
        }
        match failure {
            None => Ok(fetched),
            Some(error) => {
                if full.load(Ordering::Relaxed) {
                    // Others need the room more.
                    fetched.into_iter().for_each(Blob::remove);
                }
                Err(error)
            }
        }
    }
}

/// What a task of ours came to; a panic goes on here. None is ever aborted.
fn finished<T>(joined: Result<T, tokio::task::JoinError>) -> T {
    match joined {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
