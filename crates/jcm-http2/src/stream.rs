//! The streams of one connection.

use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use http::Response;
use slab::Slab;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::body::Intake;

/// One request and its answer.
#[derive(Debug)]
pub(crate) struct Stream<B, E> {
    pub(crate) id: u32,
    pub(crate) waker: Waker,
    pub(crate) phase: Phase<B, E>,
    /// What is left of a frame of the answer, for which there was no room.
    pub(crate) pending: Bytes,
    /// Behind it comes nothing.
    pub(crate) is_last: bool,
    /// Since when nothing of it went away.
    pub(crate) blocked_since: Option<Instant>,
    /// So much the client has made room for beyond what every stream has at first, less what was said.
    pub(crate) window: i64,
    pub(crate) request: Option<Request>,
}

#[derive(Debug)]
pub(crate) enum Phase<B, E> {
    /// Somebody works at the answer, in a task.
    Answering(JoinHandle<Result<Response<B>, E>>),
    Telling(B),
    /// All of it was written; the request may go on.
    Told,
}

/// A request that has a body, until all of that came.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) intake: Arc<Intake>,
    /// So much more may come.
    pub(crate) window: i64,
    /// What was read of it, and was not credited to the client yet.
    pub(crate) credit: u32,
    /// What came, and was not read: it stands against the window of the connection.
    pub(crate) unread: u32,
    /// As the client announced it, less what came.
    pub(crate) left: Option<u64>,
    /// All of it came.
    pub(crate) is_whole: bool,
}

impl<B, E> Drop for Stream<B, E> {
    fn drop(&mut self) {
        if let Phase::Answering(task) = &self.phase {
            task.abort();
        }
        if let Some(request) = &self.request {
            request.intake.break_off();
        }
    }
}

/// All streams that are open. Each has a place, by which it rings.
#[derive(Debug)]
pub(crate) struct Streams<B, E> {
    slab: Slab<Stream<B, E>>,
    /// Places by number, in the order of numbers.
    places: Vec<(u32, u16)>,
}

impl<B, E> Streams<B, E> {
    pub(crate) fn new() -> Self {
        Self { slab: Slab::new(), places: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The place of the next one.
    pub(crate) fn vacant(&self) -> usize {
        self.slab.vacant_key()
    }

    /// Takes in one whose number is higher than all others.
    pub(crate) fn insert(&mut self, stream: Stream<B, E>) {
        if self.places.capacity() == 0 {
            // Most connections have one stream.
            self.slab.reserve_exact(1);
            self.places.reserve_exact(1);
        }
        let id = stream.id;
        let place = self.slab.insert(stream);
        self.places.push((id, u16::try_from(place).expect("a connection has few streams")));
    }

    pub(crate) fn remove(&mut self, place: usize) -> Option<Stream<B, E>> {
        let stream = self.slab.try_remove(place)?;
        if let Ok(at) = self.at(stream.id) {
            self.places.remove(at);
        }
        Some(stream)
    }

    pub(crate) fn place(&self, id: u32) -> Option<usize> {
        self.at(id).ok().map(|at| usize::from(self.places[at].1))
    }

    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut Stream<B, E>> {
        self.slab.get_mut(place)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Stream<B, E>)> {
        self.slab.iter_mut()
    }

    fn at(&self, id: u32) -> Result<usize, usize> {
        self.places.binary_search_by_key(&id, |(id, _)| *id)
    }
}
