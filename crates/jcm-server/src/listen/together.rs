//! A connection and the watch streams on it, in one task.
//!
//! hyper would give each stream a task of its own: for one event on one stream two tasks would be woken and run, and of a
//! hundred streams on one connection each would hand over its frame alone. Here one task polls the streams that have
//! something to say, then the connection, which writes all of it at once. Requests of any other kind still get
//! tasks of their own, so that one that works for long holds up nobody.
//!
//! Whatever the parts wait for rings a bell, which knows whether the task is at work anyway: a stream that hands a frame to
//! the connection wakes nobody. Each part is asked only when it rang: the end of a connection is waited for together with
//! ten thousand others, whose list nobody should have to look at for each message.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use futures_util::task::AtomicWaker;
use tokio::task::unconstrained;

use crate::views::Inbox;

/// Rounds of one turn. What has more to do lets other tasks work first.
const ROUNDS_MAX: usize = 4;

/// Rounds of the streams before the connection has its turn: enough for all that one connection may have.
const STREAM_ROUNDS_MAX: usize = 256;

const CONNECTION: u8 = 1;
const STREAMS: u8 = 2;
const BOUNDS: u8 = 4;
const AT_WORK: u8 = 8;

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where hyper brings the futures of one connection's streams.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams(Arc<Mutex<Coming>>);

#[derive(Default)]
struct Coming {
    /// The next future is that of the watch stream with this inbox.
    next: Option<Arc<Inbox>>,
    watches: Vec<Running>,
}

impl std::fmt::Debug for Coming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coming").field("next", &self.next).field("watches", &self.watches.len()).finish()
    }
}

impl Streams {
    /// The request at hand begins a watch stream: hyper brings its future as soon as it has called the service.
    pub(super) fn expect_watch(&self, inbox: &Arc<Inbox>) {
        self.coming().next = Some(Arc::clone(inbox));
    }

    fn coming(&self) -> MutexGuard<'_, Coming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut coming = self.coming();
        match coming.next.take() {
            Some(inbox) => coming.watches.push(Box::pin(watch(inbox, future))),
            None => drop(tokio::spawn(future)),
        }
    }
}

/// A watch stream, until it ends or is given up because nobody reads it: then nobody asks it for anything either.
async fn watch(inbox: Arc<Inbox>, future: impl Future<Output = ()>) {
    let mut future = pin!(future);
    poll_fn(|context| {
        inbox.attend(context);
        Poll::Ready(())
    })
    .await;
    poll_fn(|context| if inbox.is_over() { Poll::Ready(()) } else { future.as_mut().poll(context) }).await;
}

/// Wakes the one task, unless that is at work or was woken already.
#[derive(Debug)]
struct Bell {
    /// Who rang, and whether the task is at work.
    state: AtomicU8,
    task: AtomicWaker,
}

/// One part's way to the bell.
#[derive(Debug)]
struct Rope {
    bell: Arc<Bell>,
    part: u8,
}

impl Bell {
    fn ring(&self, part: u8) {
        if self.state.fetch_or(part, Ordering::AcqRel) == 0 {
            self.task.wake();
        }
    }

    fn begin(&self, task: &Waker) {
        self.task.register(task);
        self.state.fetch_or(AT_WORK, Ordering::AcqRel);
    }

    /// Whether this part rang since it was looked after.
    fn take(&self, part: u8) -> bool {
        self.state.fetch_and(!part, Ordering::AcqRel) & part != 0
    }

    /// The task will go on by itself.
    fn pause(&self) {
        self.state.fetch_and(!AT_WORK, Ordering::AcqRel);
    }

    /// The task has nothing to do, unless somebody rang in the meantime.
    fn rest(&self) -> bool {
        self.state.compare_exchange(AT_WORK, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.bell.ring(self.part);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bell.ring(self.part);
    }
}

/// When a connection ends that would go on.
pub(super) trait Bounds<C>: Send {
    /// Asked at every turn, before anything else: whether it ends at once.
    fn is_over(&self) -> bool;

    /// Asked when it was woken. Tells the connection if it is to end by itself; ready when it ends at once.
    fn poll(&mut self, context: &mut Context<'_>, connection: Pin<&mut C>) -> Poll<()>;
}

/// Runs a connection and its watch streams, which end with it.
pub(super) struct Together<C, B> {
    connection: Pin<Box<C>>,
    bounds: B,
    coming: Streams,
    running: FuturesUnordered<Running>,
    bell: Arc<Bell>,
    connection_waker: Waker,
    streams_waker: Waker,
    bounds_waker: Waker,
}

impl<C: Future, B: Bounds<C>> Together<C, B> {
    /// `coming` is the executor of the connection.
    pub(super) fn new(connection: C, coming: Streams, bounds: B) -> Self {
        let bell = Arc::new(Bell { state: AtomicU8::new(BOUNDS | CONNECTION), task: AtomicWaker::new() });
        let waker = |part| Waker::from(Arc::new(Rope { bell: Arc::clone(&bell), part }));
        Self {
            connection: Box::pin(connection),
            bounds,
            coming,
            running: FuturesUnordered::new(),
            connection_waker: waker(CONNECTION),
            streams_waker: waker(STREAMS),
            bounds_waker: waker(BOUNDS),
            bell,
        }
    }

    /// Runs all streams that have something to do. Their set hands control back after every second one that woke itself,
    /// which each does that sends something: gone to the connection then, they would be written two at a time.
    fn poll_streams(&mut self) {
        let mut context = Context::from_waker(&self.streams_waker);
        // The runtime gives a task a budget, and has whoever is beyond it ask again. Streams would do so at once, and in vain:
        // what bounds their turn are the rounds here.
        let mut poll = pin!(unconstrained(poll_fn(|context| {
            while let Poll::Ready(Some(())) = self.running.poll_next_unpin(context) {}
            Poll::<()>::Pending
        })));
        for _ in 0..STREAM_ROUNDS_MAX {
            let _ = poll.as_mut().poll(&mut context);
            if !self.bell.take(STREAMS) {
                return;
            }
        }
        self.bell.ring(STREAMS);
    }

    fn poll_bounds(&mut self) -> Poll<()> {
        // What it does to the connection, that has to carry out.
        self.bell.ring(CONNECTION);
        self.bounds.poll(&mut Context::from_waker(&self.bounds_waker), self.connection.as_mut())
    }

    fn poll_connection(&mut self) -> Poll<C::Output> {
        let ended = self.connection.as_mut().poll(&mut Context::from_waker(&self.connection_waker));
        let watches = std::mem::take(&mut self.coming.coming().watches);
        if !watches.is_empty() {
            self.running.extend(watches);
            self.bell.ring(STREAMS);
        }
        ended
    }
}

impl<C: Future, B: Bounds<C> + Unpin> Future for Together<C, B> {
    /// `None`: it was ended.
    type Output = Option<C::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.bounds.is_over() {
            return Poll::Ready(None);
        }
        self.bell.begin(context.waker());
        for _ in 0..ROUNDS_MAX {
            if self.bell.take(BOUNDS) && self.poll_bounds().is_ready() {
                return Poll::Ready(None);
            }
            if self.bell.take(STREAMS) {
                self.poll_streams();
            }
            // After the streams: what they have handed over goes out at once.
            if self.bell.take(CONNECTION)
                && let Poll::Ready(ended) = self.poll_connection()
            {
                return Poll::Ready(Some(ended));
            }
            if self.bell.rest() {
                return Poll::Pending;
            }
        }
        self.bell.pause();
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use std::time::Instant;

    use hyper::rt::Executor as _;
    use tokio::sync::{mpsc, watch as level};

    use super::*;

    /// None.
    struct Unbound;

    impl<C> Bounds<C> for Unbound {
        fn is_over(&self) -> bool {
            false
        }

        fn poll(&mut self, _: &mut Context<'_>, _: Pin<&mut C>) -> Poll<()> {
            Poll::Pending
        }
    }

    /// What streams have handed over, and who takes it.
    #[derive(Default)]
    struct Outbox {
        handed: AtomicUsize,
        taker: AtomicWaker,
    }

    impl Outbox {
        fn hand(&self) {
            self.handed.fetch_add(1, Ordering::AcqRel);
            self.taker.wake();
        }
    }

    /// A connection that ends when so much was handed to it. Notes how much there was each time that it was asked.
    fn connection(outbox: Arc<Outbox>, all: usize) -> impl Future<Output = Vec<usize>> {
        let mut seen = Vec::new();
        poll_fn(move |context| {
            outbox.taker.register(context.waker());
            let handed = outbox.handed.load(Ordering::Acquire);
            seen.push(handed);
            if handed == all { Poll::Ready(std::mem::take(&mut seen)) } else { Poll::Pending }
        })
    }

    fn bring(streams: &Streams, stream: impl Future<Output = ()> + Send + 'static) -> Arc<Inbox> {
        let inbox = Arc::default();
        streams.expect_watch(&inbox);
        streams.execute(stream);
        inbox
    }

    #[tokio::test]
    async fn what_all_streams_have_to_say_goes_out_at_once() {
        const STREAMS: usize = 200;
        let (outbox, streams) = (Arc::new(Outbox::default()), Streams::default());
        let (change, _) = level::channel(());
        for _ in 0..STREAMS {
            let (outbox, mut changes) = (Arc::clone(&outbox), change.subscribe());
            bring(&streams, async move {
                changes.changed().await.unwrap();
                // Whoever sends something asks to be asked again.
                tokio::task::yield_now().await;
                outbox.hand();
            });
        }
        let together = tokio::spawn(Together::new(connection(outbox, STREAMS), streams, Unbound));
        tokio::task::yield_now().await;
        change.send_replace(());
        assert_eq!(
            together.await.unwrap().unwrap(),
            [0, STREAMS],
            "once at the beginning, and once for all of them"
        );
    }

    /// If a bell that is rung while the task is at work, goes to rest or is woken were not heard, this would not end.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nothing_is_lost_that_is_said_while_the_task_is_at_work() {
        const STREAMS: usize = 50;
        const MESSAGES: usize = 2_000;
        let (outbox, streams) = (Arc::new(Outbox::default()), Streams::default());
        for number in 0..STREAMS {
            let (sender, mut messages) = mpsc::channel(1 + number % 3);
            let outbox = Arc::clone(&outbox);
            bring(&streams, async move {
                while messages.recv().await.is_some() {
                    outbox.hand();
                }
            });
            tokio::spawn(async move {
                for message in 0..MESSAGES {
                    sender.send(message).await.unwrap();
                }
            });
        }
        let all = STREAMS * MESSAGES;
        let seen = tokio::spawn(Together::new(connection(outbox, all), streams, Unbound)).await.unwrap();
        assert_eq!(seen.unwrap().last(), Some(&all));
    }

    #[tokio::test]
    async fn a_stream_that_nobody_reads_is_dropped_whatever_it_waits_for() {
        struct Dropped(Arc<AtomicBool>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        let (streams, dropped) = (Streams::default(), Arc::new(AtomicBool::new(false)));
        let guard = Dropped(Arc::clone(&dropped));
        let inbox = bring(&streams, async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        let together = tokio::spawn(Together::new(std::future::pending::<()>(), streams, Unbound));
        tokio::task::yield_now().await;
        // It was given something, and what came since then has woken it already.
        let given = Instant::now();
        inbox.answered(given);
        inbox.tell(1);
        inbox.nudge();
        tokio::task::yield_now().await;
        assert!(!dropped.load(Ordering::Acquire));
        assert!(inbox.cut_if_full_since(given));
        tokio::task::yield_now().await;
        assert!(dropped.load(Ordering::Acquire), "it is still there");
        assert!(!inbox.cut_if_full_since(given), "once is enough");
        together.abort();
    }

    #[tokio::test]
    async fn other_requests_have_tasks_of_their_own() {
        let (streams, (sender, mut done)) = (Streams::default(), mpsc::channel(1));
        streams.execute(async move { sender.send(()).await.unwrap() });
        done.recv().await.expect("it runs although nobody runs the connection");
        assert!(streams.coming().watches.is_empty());
    }
}
