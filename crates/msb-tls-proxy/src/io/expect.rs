//! The wait of a request with `Expect: 100-continue` (RFC 9110 section 10.1.1).
//!
//! The HTTP library tells the guest to continue as soon as its body is asked for. So the body is
//! not asked for until the server has said 100, or has kept silent for a while; and never, if the
//! server gave its final answer first.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, StatusCode};
use tokio::sync::Notify;

use super::interim::Informing;

/// A wait before the first byte of a body is asked for; true if it may be asked for.
pub(crate) type Gate = Pin<Box<dyn Future<Output = bool> + Send>>;

/// One request's wait, if it has one.
#[derive(Clone)]
pub(crate) struct Continue(Option<Arc<Waiting>>);

#[derive(Default)]
struct Waiting {
    word: Mutex<Word>,
    said: Notify,
}

/// What the server has said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Word {
    #[default]
    Nothing,
    Continue,
    FinalAnswer,
}

impl Waiting {
    fn word(&self) -> MutexGuard<'_, Word> {
        self.word.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the server's first word; later ones change nothing. Gives what holds.
    fn say(&self, new: Word) -> Word {
        let mut word = self.word();
        if *word == Word::Nothing {
            *word = new;
            self.said.notify_one();
        }
        *word
    }
}

impl Continue {
    /// A wait if the request asks for one.
    pub(crate) fn new(expected: bool) -> Self {
        Self(expected.then(Arc::default))
    }

    /// Holds the body back until the server has said something or `wait` is over.
    pub(crate) fn gate(&self, wait: Duration) -> Option<Gate> {
        let waiting = Arc::clone(self.0.as_ref()?);
        Some(Box::pin(async move {
            let _ = tokio::time::timeout(wait, waiting.said.notified()).await;
            waiting.say(Word::Continue) == Word::Continue
        }))
    }

    /// Listens for the server's 100, and has all others passed on.
    pub(crate) fn watch<B>(&self, request: &mut Request<B>, informing: Option<Informing>) {
        let waiting = self.0.clone();
        if let Some(informing) = informing.clone() {
            // For HTTP/2.
            request.extensions_mut().insert(informing);
        }
        if waiting.is_none() && informing.is_none() {
            return;
        }
        hyper::ext::on_informational(request, move |response| {
            if let Some(waiting) = &waiting
                && response.status() == StatusCode::CONTINUE
            {
                waiting.say(Word::Continue);
            }
            if let Some(informing) = &informing {
                informing.pass(response.status(), response.headers());
            }
        });
    }

    /// The server gave its final answer. True if the guest was never told to continue: its body
    /// will not be read, so no request can follow on its connection.
    pub(crate) fn answered(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|waiting| waiting.say(Word::FinalAnswer) == Word::FinalAnswer)
    }
}
