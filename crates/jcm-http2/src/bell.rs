//! Who of a connection has something to do.
//!
//! Whatever the parts wait for rings a bell, which knows whether the task is at work anyway: a stream that is told something
//! in the middle of a turn wakes nobody. Each part is asked only when it rang. What an event touches lies together: ten thousand
//! connections are in no processor's cache, and every line that is fetched costs as much as a hundred instructions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Wake, Waker};

use futures_util::task::AtomicWaker;

/// The socket may have something to read, or room.
pub(crate) const SOCKET: u8 = 1;
/// A stream has something to do.
pub(crate) const STREAMS: u8 = 2;
/// A deadline may have come.
pub(crate) const CLOCK: u8 = 4;
/// Whoever runs the connection has called.
pub(crate) const CALL: u8 = 8;
const AT_WORK: u8 = 16;

/// Streams that are told apart when they ring: all that one connection may have.
pub(crate) const PLACES: usize = WORDS * 64;
pub(crate) const WORDS: usize = 4;

/// Wakes the one task, unless that is at work or was woken already.
#[derive(Debug)]
pub(crate) struct Bell {
    /// Who rang, and whether the task is at work.
    state: AtomicU8,
    /// Which of the streams rang.
    places: [AtomicU64; WORDS],
    task: AtomicWaker,
    /// Whoever runs the connection was called, and has not looked since.
    called: AtomicBool,
}

impl Bell {
    /// Everything but the streams is asked at first, before anything can have rung.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU8::new(SOCKET | CLOCK),
            places: Default::default(),
            task: AtomicWaker::new(),
            called: AtomicBool::new(true),
        })
    }

    pub(crate) fn ring(&self, part: u8) {
        if self.state.fetch_or(part, Ordering::AcqRel) == 0 {
            self.task.wake();
        }
    }

    pub(crate) fn ring_stream(&self, place: usize) {
        // First who it was: the task looks for that once it sees that it was one of them.
        self.places[place / 64].fetch_or(1 << (place % 64), Ordering::AcqRel);
        self.ring(STREAMS);
    }

    /// Has whoever runs the connection look.
    fn call(&self) {
        self.called.store(true, Ordering::Release);
        self.ring(CALL);
    }

    pub(crate) fn take_call(&self) -> bool {
        self.is_called() && self.called.swap(false, Ordering::AcqRel)
    }

    /// Whoever runs the connection has not looked since it was called.
    pub(crate) fn is_called(&self) -> bool {
        self.called.load(Ordering::Acquire)
    }

    pub(crate) fn begin(&self, task: &Waker) {
        self.task.register(task);
        self.state.fetch_or(AT_WORK, Ordering::AcqRel);
    }

    /// Whether this part rang since it was looked after.
    pub(crate) fn take(&self, part: u8) -> bool {
        self.state.load(Ordering::Acquire) & part != 0
            && self.state.fetch_and(!part, Ordering::AcqRel) & part != 0
    }

    /// The places in one word that rang since they were looked after.
    pub(crate) fn take_places(&self, word: usize) -> u64 {
        let places = &self.places[word];
        if places.load(Ordering::Acquire) == 0 { 0 } else { places.swap(0, Ordering::AcqRel) }
    }

    /// The task will go on by itself.
    pub(crate) fn pause(&self) {
        self.state.fetch_and(!AT_WORK, Ordering::AcqRel);
    }

    /// The task has nothing to do, unless somebody rang in the meantime.
    pub(crate) fn rest(&self) -> bool {
        self.state.compare_exchange(AT_WORK, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(crate) fn caller(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::new(Rope { bell: Arc::clone(self), end: End::Call }))
    }

    pub(crate) fn waker(self: &Arc<Self>, part: u8) -> Waker {
        Waker::from(Arc::new(Rope { bell: Arc::clone(self), end: End::Part(part) }))
    }

    pub(crate) fn stream_waker(self: &Arc<Self>, place: usize) -> Waker {
        Waker::from(Arc::new(Rope { bell: Arc::clone(self), end: End::Stream(place) }))
    }
}

/// One part's way to the bell.
struct Rope {
    bell: Arc<Bell>,
    end: End,
}

enum End {
    Part(u8),
    Stream(usize),
    Call,
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match self.end {
            End::Part(part) => self.bell.ring(part),
            End::Stream(place) => self.bell.ring_stream(place),
            End::Call => self.bell.call(),
        }
    }
}
