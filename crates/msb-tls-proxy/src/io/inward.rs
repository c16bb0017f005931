//! A task's wake-ups of itself, heeded without asking the runtime.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Polls a future again, at once, where one part of it has woken another.
///
/// Both HTTP connections of an exchange live in one task and hand requests and answers to each other. A runtime takes a
/// wake-up from within a task for a wish to yield: it queues the task behind others and wakes a thread to look after it,
/// which takes longer than the exchange itself.
pub(super) struct Inward<F> {
    inner: F,
    wakes: Arc<Wakes>,
    waker: Waker,
}

/// As often it is polled in a row before others get their turn.
const ROUNDS: usize = 8;

const IDLE: u8 = 0;
const POLLING: u8 = 1;
const WOKEN: u8 = 2;

struct Wakes {
    state: AtomicU8,
    task: Mutex<Waker>,
}

impl<F> Inward<F> {
    pub(super) fn new(inner: F) -> Self {
        let wakes = Arc::new(Wakes {
            state: AtomicU8::new(IDLE),
            task: Mutex::new(Waker::noop().clone()),
        });
        let waker = Waker::from(Arc::clone(&wakes));
        Self {
            inner,
            wakes,
            waker,
        }
    }
}

impl Wakes {
    fn is_for(&self, waker: &Waker) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !task.will_wake(waker) {
            task.clone_from(waker);
        }
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Whoever polls sees the mark when it is done; whoever was woken has not begun to poll.
        if self.state.fetch_or(WOKEN, Ordering::SeqCst) == IDLE {
            let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            task.wake_by_ref();
        }
    }
}

impl<F: Future + Unpin> Future for Inward<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.wakes.is_for(context.waker());
        let state = &this.wakes.state;
        for _ in 0..ROUNDS {
            // Not merely stored: what was done before a wake-up has to be seen by this poll.
            state.swap(POLLING, Ordering::SeqCst);
            let inner = Pin::new(&mut this.inner).poll(&mut Context::from_waker(&this.waker));
            if inner.is_ready() {
                return inner;
            }
            let slept = state.compare_exchange(POLLING, IDLE, Ordering::SeqCst, Ordering::SeqCst);
            if slept.is_ok() {
                return Poll::Pending;
            }
        }
        state.store(WOKEN, Ordering::SeqCst);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// How often the future was polled and its task woken in one poll, if the future wakes itself `times` times; and its
    /// waker.
    #[track_caller]
    fn check(times: usize, polled: usize, woken: usize) {
        let count = Arc::new(Count::default());
        let task = Waker::from(Arc::clone(&count));
        let (mut polls, mut inner) = (0, None);
        {
            let mut future = Inward::new(poll_fn(|context| {
                polls += 1;
                if polls <= times {
                    context.waker().wake_by_ref();
                }
                inner = Some(context.waker().clone());
                Poll::<()>::Pending
            }));
            let poll = Pin::new(&mut future).poll(&mut Context::from_waker(&task));
            assert!(poll.is_pending());
        }
        assert_eq!((polls, count.0.load(Ordering::SeqCst)), (polled, woken));
        let inner = inner.expect("it was polled");
        let slept = usize::from(woken == 0);
        for _ in 0..3 {
            inner.wake_by_ref();
            assert_eq!(count.0.load(Ordering::SeqCst), woken + slept, "once");
        }
    }

    #[test]
    fn a_part_that_wakes_another_is_heeded_in_the_same_poll_within_bounds() {
        check(0, 1, 0);
        check(1, 2, 0);
        check(ROUNDS - 1, ROUNDS, 0);
        check(ROUNDS, ROUNDS, 1);
        check(usize::MAX, ROUNDS, 1);
    }

    #[tokio::test]
    async fn wake_ups_from_other_threads_are_not_lost() {
        for _ in 0..1_000 {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let sent = std::thread::spawn(move || sender.send(7));
            let received = Inward::new(Box::pin(receiver)).await;
            assert_eq!(received, Ok(7));
            sent.join().expect("no panic").expect("received");
        }
    }
}
