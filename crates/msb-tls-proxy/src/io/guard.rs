//! A panic in one connection ends that connection.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::inward::Inward;
use crate::Reset;

/// Serves a connection; a panic ends it with a reset.
pub(super) async fn guarded(reset: Arc<dyn Reset>, serve: Pin<Box<impl Future<Output = ()>>>) {
    if CatchPanic(Inward::new(serve)).await.is_err() {
        reset.reset();
    }
}

/// Turns a panic in a future into an error.
struct CatchPanic<F>(F);

impl<F: Future + Unpin> Future for CatchPanic<F> {
    type Output = Result<F::Output, ()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // The future is not polled again after a panic, so its broken state is never seen.
        catch_unwind(AssertUnwindSafe(|| Pin::new(&mut self.0).poll(context)))
            .map_or(Poll::Ready(Err(())), |poll| poll.map(Ok))
    }
}
