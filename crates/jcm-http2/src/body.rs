//! The body of a request, on its way from the connection to whoever answers.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// So much is read before the connection hears of it. Streams that each keep less to themselves leave most of the connection's
/// window to others.
pub(crate) const RELEASE_BYTES: u32 = 2 * 1024;

/// What is smaller is put together while nobody reads: a chunk for each byte would take a hundred times its size.
const CHUNK_BYTES: usize = 8 * 1024;

/// The body of a request.
#[derive(Debug, Default)]
pub struct Incoming {
    /// `None`: there is none.
    intake: Option<Arc<Intake>>,
}

/// The request did not come to its end: its client reset the stream, or the connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request broke off")]
pub struct Broken;

/// What is shared by the connection and the reader.
#[derive(Debug)]
pub(crate) struct Intake {
    inner: Mutex<Inner>,
    /// Rings for the stream.
    stream: Waker,
}

#[derive(Debug, Default)]
struct Inner {
    chunks: VecDeque<Vec<u8>>,
    end: Option<End>,
    reader: Option<Waker>,
    /// Bytes that were read since the connection asked.
    released: u32,
    /// As the client announced it, less what came.
    left: Option<u64>,
    /// Nobody reads any more.
    unwanted: bool,
}

#[derive(Debug)]
enum End {
    Trailers(HeaderMap),
    Whole,
    Broken,
}

impl Intake {
    pub(crate) fn new(stream: Waker, length: Option<u64>) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::new(Inner { left: length, ..Inner::default() }), stream })
    }

    /// Takes what came in. False: nobody wants it.
    pub(crate) fn push(&self, chunk: &[u8]) -> bool {
        self.change(|inner| {
            if inner.unwanted {
                return false;
            }
            match inner.chunks.back_mut().filter(|last| last.len() + chunk.len() <= CHUNK_BYTES) {
                Some(last) => last.extend_from_slice(chunk),
                None => inner.chunks.push_back(chunk.to_vec()),
            }
            true
        })
    }

    pub(crate) fn finish(&self, trailers: Option<HeaderMap>) {
        self.change(|inner| inner.end = Some(trailers.map_or(End::Whole, End::Trailers)));
    }

    /// It comes to no end, unless it has come to one.
    pub(crate) fn break_off(&self) {
        self.change(|inner| _ = inner.end.get_or_insert(End::Broken));
    }

    /// Bytes that were read since this was asked last.
    pub(crate) fn take_released(&self) -> u32 {
        std::mem::take(&mut self.inner().released)
    }

    /// Whether anybody reads on.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.inner().unwanted
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner();
        let changed = change(&mut inner);
        let reader = inner.reader.take();
        drop(inner);
        if let Some(reader) = reader {
            reader.wake();
        }
        changed
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Incoming {
    pub(crate) fn new(intake: Arc<Intake>) -> Self {
        Self { intake: Some(intake) }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(intake) = &self.intake else { return Poll::Ready(None) };
        let mut inner = intake.inner();
        if let Some(chunk) = inner.chunks.pop_front() {
            if inner.chunks.is_empty() {
                // There may be no other for days.
                inner.chunks = VecDeque::new();
            }
            let bytes = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            inner.released = inner.released.saturating_add(bytes);
            inner.left = inner.left.map(|left| left.saturating_sub(u64::from(bytes)));
            let is_due = inner.released >= RELEASE_BYTES;
            drop(inner);
            if is_due {
                intake.stream.wake_by_ref();
            }
            return Poll::Ready(Some(Ok(Frame::data(chunk.into()))));
        }
        match inner.end {
            None => {
                match &mut inner.reader {
                    Some(reader) => reader.clone_from(context.waker()),
                    None => inner.reader = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            // Each is said once.
            Some(_) => match inner.end.replace(End::Whole) {
                Some(End::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Some(End::Broken) => Poll::Ready(Some(Err(Broken))),
                Some(End::Whole) | None => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.intake.as_ref().is_none_or(|intake| {
            let inner = intake.inner();
            inner.chunks.is_empty() && matches!(inner.end, Some(End::Whole))
        })
    }

    fn size_hint(&self) -> SizeHint {
        let Some(intake) = &self.intake else { return SizeHint::with_exact(0) };
        intake.inner().left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let Some(intake) = &self.intake else { return };
        let mut inner = intake.inner();
        inner.unwanted = true;
        let unread: usize = std::mem::take(&mut inner.chunks).iter().map(Vec::len).sum();
        inner.released = inner.released.saturating_add(u32::try_from(unread).unwrap_or(u32::MAX));
        drop(inner);
        intake.stream.wake_by_ref();
    }
}
