//! One layer from the registry into its file: tried again, gone on with where it ended, hashed as it comes.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use reqwest::header::{CONTENT_RANGE, HeaderMap};
use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::blobs::{Blob, Found};
use super::client::{self, Client, Next};
use super::{PullError, PullEvent, finished};
use crate::content::Digest;
use crate::store::Store;

/// Pieces of a layer between network and disk.
const QUEUE: usize = 16;
/// A try that brought this much was not in vain and is not counted.
const PROGRESS: u64 = 1 << 20;

/// What a connection has to bring of a layer within the time that it may be silent for, in bytes.
const PACE: u64 = 16 << 10;

/// A layer that is to be fetched.
pub(super) struct Wanted {
    pub(super) store: Store,
    pub(super) client: Arc<Client>,
    /// Counted from 0.
    pub(super) layer: usize,
    /// For errors.
    pub(super) what: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Set when there is no room for it.
    pub(super) full: Arc<AtomicBool>,
}

/// How a try to fetch a layer ended.
enum Try {
    /// All bytes that were to come came.
    Done,
    Failed(Next),
}

impl Wanted {
    pub(super) async fn fetch(self) -> Result<Blob, PullError> {
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
                        Next::Retry(error, wait) => match *error {
                            PullError::Unreachable { host, .. } if blob.len() > 0 => {
                                Next::Retry(Box::new(self.cut(host, blob.len())), wait)
                            }
                            error => Next::Retry(Box::new(error), wait),
                        },
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
        let (response, range) = loop {
            let headers = HeaderMap::from_iter(client::range(blob.len()));
            match self.client.get(&self.what, &url, &headers).await {
                Ok(response) => {
                    let range = Range::of(&response);
                    match range.map_or(0, |range| range.from) {
                        from if from == blob.len() => break (response, range),
                        // All of it.
                        0 => {
                            blob.restart().map_err(|error| self.cannot_store(error))?;
                            break (response, range);
                        }
                        _ if blob.len() == 0 => {
                            let error = PullError::Protocol {
                                registry: client::origin(response.url()),
                                problem: format!(
                                    "sends another part of the {} than asked for",
                                    self.what
                                ),
                            };
                            return Ok((blob, Try::Failed(Next::Fail(error))));
                        }
                        _ => {}
                    }
                }
                // Not what the registry has a rest of.
                Err(Next::Fail(PullError::Status { status: 416, .. })) if blob.len() > 0 => {}
                Err(next) => return Ok((blob, Try::Failed(next))),
            }
            blob.restart().map_err(|error| self.cannot_store(error))?;
        };
        let rest = self.size - blob.len();
        // A part of the part that was asked for is one too, and a body of unknown length may be cut unseen.
        let may_be_short = match response.content_length() {
            Some(_) => range.is_some_and(|range| range.of.is_none_or(|of| of == self.size)),
            None => true,
        };
        if let Some(announced) = response.content_length()
            && (announced > rest || announced < rest && !may_be_short)
        {
            let found = blob.len().saturating_add(announced);
            return Ok((blob, Try::Failed(Next::Fail(self.wrong_size(found)))));
        }
        self.receive(response, blob, may_be_short).await
    }

    /// Writes what comes, on a thread of its own.
    async fn receive(
        &self,
        mut response: Response,
        blob: Blob,
        may_be_short: bool,
    ) -> Result<(Blob, Try), PullError> {
        let host = client::origin(response.url());
        let mut at = blob.len();
        let mut pace = (Instant::now(), at);
        self.tell(at);
        let (pieces, mut queue) = mpsc::channel::<bytes::Bytes>(QUEUE);
        let full = Arc::clone(&self.full);
        let writer = spawn_blocking(move || {
            let mut blob = blob;
            while let Some(piece) = queue.blocking_recv() {
                // Where there was no room for another layer, what came of this one takes it from others.
                let written = match full.load(Ordering::Relaxed) {
                    true => Err(ErrorKind::StorageFull.into()),
                    false => blob.write(&piece),
                };
                if let Err(error) = written {
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
                    if pace.0.elapsed() >= self.client.retries.silence {
                        if at - pace.1 < PACE {
                            break Try::Failed(client::too_slow(host, &self.what));
                        }
                        pace = (Instant::now(), at);
                    }
                }
                Ok(None) if at < self.size && may_be_short => {
                    let error = Box::new(self.cut(host, at));
                    break Try::Failed(Next::Retry(error, None));
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

    /// The error of a connection that ended after so many bytes.
    fn cut(&self, host: String, received: u64) -> PullError {
        PullError::Cut {
            host,
            what: self.what.clone(),
            received,
            expected: self.size,
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

/// Which bytes an answer has, if it says that it has not all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    from: u64,
    /// Bytes of the whole, if that is said.
    of: Option<u64>,
}

impl Range {
    fn of(response: &Response) -> Option<Self> {
        let field = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
        let (bytes, of) = field.strip_prefix("bytes ")?.split_once('/')?;
        let (from, _) = bytes.split_once('-')?;
        let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
        is_part.then_some(Self {
            from: from.trim().parse().ok()?,
            of: of.trim().parse().ok(),
        })
    }
}
