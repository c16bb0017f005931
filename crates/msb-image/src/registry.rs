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
mod error;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_RANGE, HeaderMap};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, spawn_blocking};

pub use self::auth::Credentials;
pub use self::error::PullError;

use self::blobs::{Blob, Found, Turn};
use self::client::{Client, Next};
use crate::content::Digest;
use crate::error::Error;
use crate::import::oci::{self, Chosen, INDEX_DEPTH, Image, Manifest};
use crate::import::source::{DOCUMENT_LIMIT, Source};
use crate::import::{self, ImportError, ImportLimits, Imported, Made};
use crate::manifest::ImageName;
use crate::reference::Reference;
use crate::store::Store;

/// More connections at once than this gain nothing and offend registries.
const LAYERS_AT_ONCE: usize = 4;
/// Pieces of a layer between network and disk.
const QUEUE: usize = 16;
/// A try that brought this much was not in vain and is not counted.
const PROGRESS: u64 = 1 << 20;
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

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
        if self.made_by(&recipe)?.is_none() {
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
            let kept = store.keep(name, made, |disk| {
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
                    failure = Some(error);
                    tasks.abort_all();
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

/// The image's documents, checked, and digests and sizes of its layers.
async fn documents(
    client: &Client,
    reference: &Reference,
) -> Result<(Image, Vec<(Digest, u64)>), PullError> {
    const ACCEPTED: [&str; 4] = [
        oci::OCI_INDEX,
        oci::OCI_MANIFEST,
        oci::DOCKER_LIST,
        oci::DOCKER_MANIFEST,
    ];
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        #[serde(default)]
        schema_version: u64,
        #[serde(default)]
        media_type: String,
    }
    let url = client.url("manifests", &reference.version())?;
    let (mut bytes, field) = client
        .document("manifest", &url, &ACCEPTED, DOCUMENT_LIMIT)
        .await?;
    let mut digest = Digest::of(&bytes);
    if let Some(expected) = reference.digest()
        && expected != digest
    {
        return Err(PullError::Digest {
            what: "manifest".into(),
            expected,
            found: digest,
        });
    }
    let head = serde_json::from_slice::<Head>(&bytes);
    let head = head.map_err(|error| ImportError::Document {
        what: "manifest".into(),
        problem: format!("does not parse: {error}"),
    })?;
    if head.schema_version == 1 || field.starts_with(SCHEMA_1) {
        return Err(PullError::SchemaOne);
    }
    let field = field.split(';').next().unwrap_or_default().trim();
    let media_type = match head.media_type.as_str() {
        "" => field,
        within => within,
    };
    let mut is_index = match media_type {
        oci::OCI_INDEX | oci::DOCKER_LIST => true,
        oci::OCI_MANIFEST | oci::DOCKER_MANIFEST => false,
        other => {
            return Err(ImportError::MediaType {
                what: "manifest".into(),
                media_type: other.chars().take(200).collect(),
            }
            .into());
        }
    };
    for _ in 0..=INDEX_DEPTH {
        if !is_index {
            break;
        }
        let chosen = oci::choose(&bytes, None)?;
        is_index = matches!(chosen, Chosen::Index(_));
        let (Chosen::Index(descriptor) | Chosen::Manifest(descriptor)) = chosen;
        let what = if is_index { "index" } else { "manifest" };
        digest = descriptor.digest(what)?;
        let url = client.url("manifests", &format!("{digest:?}"))?;
        (bytes, _) = client
            .document(what, &url, &ACCEPTED, DOCUMENT_LIMIT)
            .await?;
        check(&descriptor, what, &bytes)?;
    }
    if is_index {
        return Err(ImportError::Document {
            what: "index".into(),
            problem: format!("leads to indexes more than {INDEX_DEPTH} deep"),
        }
        .into());
    }
    let manifest = Manifest::parse(&bytes)?;
    let what = "configuration";
    let url = client.url("blobs", &format!("{:?}", manifest.config.digest(what)?))?;
    let (text, _) = client
        .document(what, &url, &["*/*"], DOCUMENT_LIMIT)
        .await?;
    check(&manifest.config, what, &text)?;
    let image = manifest.image(digest, &text)?;
    let layers = image.layers.iter().filter_map(|layer| layer.blob).collect();
    Ok((image, layers))
}

/// Checks a document against what names it.
fn check(descriptor: &oci::Descriptor, what: &str, bytes: &[u8]) -> Result<(), PullError> {
    let expected = descriptor.digest(what)?;
    let found = Digest::of(bytes);
    if bytes.len() as u64 != descriptor.size {
        return Err(PullError::Size {
            what: what.to_owned(),
            expected: descriptor.size,
            found: bytes.len() as u64,
        });
    }
    match found == expected {
        true => Ok(()),
        false => Err(PullError::Digest {
            what: what.to_owned(),
            expected,
            found,
        }),
    }
}

/// A layer that is to be fetched.
struct Wanted {
    store: Store,
    client: Arc<Client>,
    layer: usize,
    what: String,
    digest: Digest,
    size: u64,
    full: Arc<AtomicBool>,
}

/// How a try to fetch a layer ended.
enum Try {
    /// All bytes that were to come came.
    Done,
    Failed(Next),
}

impl Wanted {
    async fn fetch(self) -> Result<Blob, PullError> {
        loop {
            let (store, digest, size) = (self.store.clone(), self.digest, self.size);
            let taken = finished(spawn_blocking(move || Blob::take(&store, digest, size)).await);
            match taken.map_err(|error| self.cannot_store(error))? {
                Found::Whole(blob) => {
                    self.tell(self.size);
                    return Ok(blob);
                }
                Found::Part(blob) => {
                    if let Some(blob) = self.complete(blob).await? {
                        return Ok(blob);
                    }
                }
            }
        }
    }

    /// Fetches what is missing; None if the file was removed meanwhile.
    async fn complete(&self, mut blob: Blob) -> Result<Option<Blob>, PullError> {
        let mut was_resumed = blob.len() > 0;
        let mut may_begin_anew = true;
        let mut attempt = 0;
        let mut furthest = blob.len();
        loop {
            let (after, outcome) = self.try_once(blob).await?;
            blob = after;
            match outcome {
                Try::Done if blob.len() == self.size => {
                    let found = blob.digest();
                    if found == self.digest {
                        let shared = blob.share().map_err(|error| self.cannot_store(error))?;
                        return Ok(shared.then_some(blob));
                    }
                    blob.restart().map_err(|error| self.cannot_store(error))?;
                    // The beginning, which came at another time, may be what is wrong. Once.
                    if !(was_resumed && std::mem::take(&mut may_begin_anew)) {
                        blob.remove();
                        return Err(PullError::Digest {
                            what: self.what.clone(),
                            expected: self.digest,
                            found,
                        });
                    }
                    was_resumed = false;
                }
                Try::Done => {
                    let found = blob.len();
                    blob.remove();
                    return Err(PullError::Size {
                        what: self.what.clone(),
                        expected: self.size,
                        found,
                    });
                }
                Try::Failed(next) => {
                    if blob.len() >= furthest + PROGRESS {
                        attempt = 0;
                        furthest = blob.len();
                    }
                    let next = match next {
                        Next::Fail(error @ PullError::Size { .. }) => {
                            blob.remove();
                            return Err(error);
                        }
                        Next::Retry(error, wait) if blob.len() > 0 => {
                            Next::Retry(Box::new(self.cut(*error, blob.len())), wait)
                        }
                        next => next,
                    };
                    self.client.wait(&mut attempt, &self.what, next).await?;
                    was_resumed |= blob.len() > 0;
                }
            }
        }
    }

    async fn try_once(&self, mut blob: Blob) -> Result<(Blob, Try), PullError> {
        let url = self.client.url("blobs", &format!("{:?}", self.digest))?;
        let headers = HeaderMap::from_iter(client::range(blob.len()));
        let response = match self.client.get(&self.what, &url, &headers).await {
            Ok(response) => response,
            Err(Next::Fail(PullError::Status { status: 416, .. })) if blob.len() > 0 => {
                // Not what the registry has a rest of.
                blob.restart().map_err(|error| self.cannot_store(error))?;
                match self.client.get(&self.what, &url, &HeaderMap::new()).await {
                    Ok(response) => response,
                    Err(next) => return Ok((blob, Try::Failed(next))),
                }
            }
            Err(next) => return Ok((blob, Try::Failed(next))),
        };
        if blob.len() > 0 && !continues(&response, blob.len()) {
            blob.restart().map_err(|error| self.cannot_store(error))?;
        }
        let rest = self.size - blob.len();
        if let Some(announced) = response.content_length()
            && announced != rest
        {
            return Ok((
                blob,
                Try::Failed(Next::Fail(self.wrong_size(self.size - rest + announced))),
            ));
        }
        self.receive(response, blob).await
    }

    /// Writes what comes, on a thread of its own.
    async fn receive(&self, mut response: Response, blob: Blob) -> Result<(Blob, Try), PullError> {
        let mut at = blob.len();
        self.tell(at);
        let (pieces, mut queue) = mpsc::channel::<bytes::Bytes>(QUEUE);
        let writer = spawn_blocking(move || {
            let mut blob = blob;
            while let Some(piece) = queue.blocking_recv() {
                if let Err(error) = blob.write(&piece) {
                    return (blob, Err(error));
                }
            }
            (blob, Ok(()))
        });
        let outcome = loop {
            match self.client.chunk(&self.what, &mut response).await {
                Ok(Some(piece)) => {
                    at += piece.len() as u64;
                    if at > self.size {
                        break Try::Failed(Next::Fail(self.wrong_size(at)));
                    }
                    if pieces.send(piece).await.is_err() {
                        // It says why below.
                        break Try::Done;
                    }
                    self.tell(at);
                }
                Ok(None) => break Try::Done,
                Err(next) => break Try::Failed(next),
            }
        };
        drop(pieces);
        let (blob, written) = finished(writer.await);
        match written {
            Ok(()) => Ok((blob, outcome)),
            Err(error) => {
                let error = self.cannot_store(error);
                if matches!(error, PullError::NoSpace { .. }) {
                    self.full.store(true, Ordering::Relaxed);
                    blob.remove();
                }
                Err(error)
            }
        }
    }

    /// A connection that ended after so many bytes is told as that.
    fn cut(&self, error: PullError, received: u64) -> PullError {
        match error {
            PullError::Unreachable { host, .. } => PullError::Cut {
                host,
                what: self.what.clone(),
                received,
                expected: self.size,
            },
            other => other,
        }
    }

    fn wrong_size(&self, found: u64) -> PullError {
        PullError::Size {
            what: self.what.clone(),
            expected: self.size,
            found,
        }
    }

    fn cannot_store(&self, source: std::io::Error) -> PullError {
        use std::io::ErrorKind;

        let what = self.what.clone();
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                PullError::NoSpace { what, source }
            }
            _ => PullError::Store { what, source },
        }
    }

    fn tell(&self, bytes: u64) {
        self.client.tell(&PullEvent::Received {
            layer: self.layer,
            bytes,
        });
    }
}

/// Whether the answer is the rest from `at` on.
fn continues(response: &Response, at: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE);
    let range = range.and_then(|value| value.to_str().ok());
    let begins = range.and_then(|range| {
        let (from, _) = range.strip_prefix("bytes ")?.split_once('-')?;
        from.parse::<u64>().ok()
    });
    response.status() == StatusCode::PARTIAL_CONTENT && begins == Some(at)
}
