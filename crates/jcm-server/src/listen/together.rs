//! A connection and the watch streams on it, in one task.
//!
//! hyper would give each stream a task of its own: for one event on one stream two tasks would be woken and run, and of a
//! hundred streams on one connection each would hand over its frame alone. Here one task polls the streams that have
//! something to say, then the connection, which writes all of it at once. Requests of any other kind still get
//! tasks of their own, so that one that works for long holds up nobody.
//!
//! Whatever the parts wait for rings a bell, which knows whether the task is at work anyway: a stream that hands a frame to
//! the connection wakes nobody. Each part is asked only when it rang. What an event touches lies together: ten thousand
//! connections are in no processor's cache, and every line that is fetched costs as much as a hundred instructions.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use slab::Slab;
use tokio::task::coop::unconstrained;

use crate::views::Inbox;

/// Rounds of one turn, and of the streams before the connection has its turn. What has more to do lets others work first.
const ROUNDS_MAX: usize = 4;

/// Streams that are told apart when they ring: all that one connection may have. Where more of them linger that have ended,
/// some are asked in vain.
const PLACES: usize = WORDS * 64;
const WORDS: usize = 4;

const CONNECTION: u8 = 1;
const STREAMS: u8 = 2;
const BOUNDS: u8 = 4;
const AT_WORK: u8 = 8;

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where hyper brings the futures of one connection's streams, and where all parts ring.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    bell: Bell,
    coming: Mutex<Coming>,
}

#[derive(Default)]
struct Coming {
    /// The next future is that of the watch stream with this inbox.
    next: Option<Arc<Inbox>>,
    watches: Vec<(Arc<Inbox>, Running)>,
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
        self.0.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bell(&self) -> &Bell {
        &self.0.bell
    }

    fn waker(&self, part: Part) -> Waker {
        Waker::from(Arc::new(Rope { shared: Arc::clone(&self.0), part }))
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut coming = self.coming();
        match coming.next.take() {
            Some(inbox) => coming.watches.push((inbox, Box::pin(future))),
            None => drop(tokio::spawn(future)),
        }
    }
}

/// Wakes the one task, unless that is at work or was woken already.
#[derive(Debug)]
struct Bell {
    /// Who rang, and whether the task is at work.
    state: AtomicU8,
    /// Which of the streams rang.
    places: [AtomicU64; WORDS],
    task: AtomicWaker,
}

impl Default for Bell {
    /// The connection and its bounds are asked first, before anything can have rung.
    fn default() -> Self {
        Self {
            state: AtomicU8::new(BOUNDS | CONNECTION),
            places: Default::default(),
            task: AtomicWaker::new(),
        }
    }
}

impl Bell {
    fn ring(&self, part: u8) {
        if self.state.fetch_or(part, Ordering::AcqRel) == 0 {
            self.task.wake();
        }
    }

    fn ring_stream(&self, place: usize) {
        // First who it was: the task looks for that once it sees that it was one of them.
        self.places[place / 64].fetch_or(1 << (place % 64), Ordering::AcqRel);
        self.ring(STREAMS);
    }

    fn begin(&self, task: &Waker) {
        self.task.register(task);
        self.state.fetch_or(AT_WORK, Ordering::AcqRel);
    }

    /// Whether this part rang since it was looked after.
    fn take(&self, part: u8) -> bool {
        self.state.load(Ordering::Acquire) & part != 0
            && self.state.fetch_and(!part, Ordering::AcqRel) & part != 0
    }

    /// The places in one word that rang since they were looked after.
    fn take_places(&self, word: usize) -> u64 {
        let places = &self.places[word];
        if places.load(Ordering::Acquire) == 0 { 0 } else { places.swap(0, Ordering::AcqRel) }
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

/// One part's way to the bell.
#[derive(Debug)]
struct Rope {
    shared: Arc<Shared>,
    part: Part,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Connection,
    Bounds,
    /// The streams at this place.
    Stream(usize),
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let bell = &self.shared.bell;
        match self.part {
            Part::Connection => bell.ring(CONNECTION),
            Part::Bounds => bell.ring(BOUNDS),
            Part::Stream(place) => bell.ring_stream(place),
        }
    }
}

/// When a connection ends that would go on.
pub(super) trait Bounds<C>: Send {
    /// Whom to wake when they have come.
    fn call(&mut self, waker: Waker);

    /// Asked at every turn, before anything else: whether it ends at once.
    fn is_over(&self) -> bool;

    /// Asked when it was called. Tells the connection if it is to end by itself; true when it ends at once.
    fn look(&mut self, connection: Pin<&mut C>) -> bool;
}

/// A watch stream.
struct Watch {
    inbox: Arc<Inbox>,
    waker: Waker,
    future: Running,
}

impl Watch {
    /// Ready when it ended, or was given up because nobody reads it: then nobody asks it for anything either.
    fn poll(&mut self) -> Poll<()> {
        if self.inbox.is_over() {
            return Poll::Ready(());
        }
        // The runtime gives a task a budget, and has whoever is beyond it ask again. Streams would do so at once, and in vain:
        // what bounds their turn are the rounds.
        let mut future = unconstrained(self.future.as_mut());
        Pin::new(&mut future).poll(&mut Context::from_waker(&self.waker))
    }
}

/// Runs a connection and its watch streams, which end with it.
pub(super) struct Together<C, B> {
    connection: C,
    bounds: B,
    watches: Slab<Watch>,
    streams: Streams,
    connection_waker: Waker,
}

impl<C: Future + Unpin, B: Bounds<C>> Together<C, B> {
    /// `streams` is the executor of the connection.
    pub(super) fn new(connection: C, streams: Streams, mut bounds: B) -> Self {
        bounds.call(streams.waker(Part::Bounds));
        let connection_waker = streams.waker(Part::Connection);
        // Most connections have one watch: room for it alone comes with it.
        Self { connection, bounds, watches: Slab::new(), streams, connection_waker }
    }

    /// Runs all streams that have something to do, also what they want to do next: a stream that sends something asks to be
    /// asked again.
    fn poll_streams(&mut self) {
        for _ in 0..ROUNDS_MAX {
            for word in 0..WORDS {
                let mut places = self.streams.bell().take_places(word);
                while places != 0 {
                    self.poll_place(word * 64 + places.trailing_zeros() as usize);
                    places &= places - 1;
                }
            }
            if !self.streams.bell().take(STREAMS) {
                return;
            }
        }
        self.streams.bell().ring(STREAMS);
    }

    fn poll_place(&mut self, place: usize) {
        for key in (place..self.watches.capacity()).step_by(PLACES) {
            if self.watches.get_mut(key).is_some_and(|watch| watch.poll().is_ready()) {
                self.watches.remove(key);
            }
        }
    }

    fn poll_connection(&mut self) -> Poll<C::Output> {
        let ended = Pin::new(&mut self.connection).poll(&mut Context::from_waker(&self.connection_waker));
        self.take_in();
        ended
    }

    /// Takes in the streams that have come.
    fn take_in(&mut self) {
        let mut coming = self.streams.coming();
        if coming.watches.is_empty() {
            return;
        }
        let watches = std::mem::take(&mut coming.watches);
        drop(coming);
        if self.watches.is_empty() {
            self.watches = Slab::with_capacity(watches.len());
        }
        for (inbox, future) in watches {
            let place = self.watches.vacant_key() % PLACES;
            let waker = self.streams.waker(Part::Stream(place));
            inbox.attend(&Context::from_waker(&waker));
            self.watches.insert(Watch { inbox, waker, future });
            self.streams.bell().ring_stream(place);
        }
    }
}

impl<C: Future + Unpin, B: Bounds<C> + Unpin> Future for Together<C, B> {
    /// `None`: it was ended.
    type Output = Option<C::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.bounds.is_over() {
            return Poll::Ready(None);
        }
        this.streams.bell().begin(context.waker());
        for _ in 0..ROUNDS_MAX {
            if this.streams.bell().take(BOUNDS) {
                if this.bounds.look(Pin::new(&mut this.connection)) {
                    return Poll::Ready(None);
                }
                // What it did to the connection, that has to carry out.
                this.streams.bell().ring(CONNECTION);
            }
            if this.streams.bell().take(STREAMS) {
                this.poll_streams();
            }
            // After the streams: what they have handed over goes out at once.
            if this.streams.bell().take(CONNECTION)
                && let Poll::Ready(ended) = this.poll_connection()
            {
                return Poll::Ready(Some(ended));
            }
            if this.streams.bell().rest() {
                return Poll::Pending;
            }
        }
        this.streams.bell().pause();
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use std::time::Instant;

    use hyper::rt::Executor as _;
    use tokio::sync::{mpsc, watch as level};

    use super::*;

    /// None.
    struct Unbound;

    impl<C> Bounds<C> for Unbound {
        fn call(&mut self, _: Waker) {}

        fn is_over(&self) -> bool {
            false
        }

        fn look(&mut self, _: Pin<&mut C>) -> bool {
            false
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
    fn connection(outbox: Arc<Outbox>, all: usize) -> impl Future<Output = Vec<usize>> + Unpin {
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
    async fn streams_are_heard_also_where_more_of_them_linger_than_there_are_places() {
        const STREAMS: usize = PLACES + 50;
        let (outbox, streams) = (Arc::new(Outbox::default()), Streams::default());
        let mut changes = Vec::new();
        for _ in 0..STREAMS {
            let ((change, mut changed), outbox) = (level::channel(()), Arc::clone(&outbox));
            bring(&streams, async move {
                changed.changed().await.unwrap();
                outbox.hand();
            });
            changes.push(change);
        }
        let together = tokio::spawn(Together::new(connection(outbox, STREAMS), streams, Unbound));
        for change in changes.into_iter().rev() {
            tokio::task::yield_now().await;
            change.send_replace(());
        }
        assert_eq!(together.await.unwrap().unwrap().last(), Some(&STREAMS));
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
