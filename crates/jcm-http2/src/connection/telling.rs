//! Answers, from those who give them into frames.

use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Buf;
use http::Response;
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{Answer, Connection};
use crate::bell::WORDS;
use crate::frame::{self, PAYLOAD_BYTES_MAX, Reason};
use crate::head;
use crate::stream::Phase;

/// Frames of one stream before others have their turn.
const FRAMES_A_TURN: usize = 4;

/// Rounds over the streams that ring, before what they have said is written.
const ROUNDS_MAX: usize = 4;

/// Whether a stream goes on.
enum Then {
    Rest,
    /// It has more to say, and others come first.
    Again,
    Reset(Reason),
    Ended,
}

impl<I: AsyncRead + AsyncWrite + Unpin, S: Answer> Connection<I, S> {
    /// Asks all streams that have something to do.
    pub(super) fn tell(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut places: [u64; WORDS] = std::array::from_fn(|word| self.bell.take_places(word));
            if places == [0; WORDS] {
                return;
            }
            while let Some(place) = next(&places, self.next_place) {
                if !self.writing.has_room() {
                    self.next_place = place;
                    return self.put_back(places);
                }
                if self.writing.window > 0 {
                    // Whoever comes when there is no room left for anybody comes first next time.
                    self.next_place = place + 1;
                }
                places[place / 64] &= !(1 << (place % 64));
                self.tell_stream(place);
            }
        }
        // Those who have more to say, after a write.
        self.streams_wait = true;
    }

    /// Those whose turn did not come ring again.
    fn put_back(&self, mut places: [u64; WORDS]) {
        while let Some(place) = next(&places, 0) {
            places[place / 64] &= !(1 << (place % 64));
            self.bell.ring_stream(place);
        }
    }

    fn tell_stream(&mut self, place: usize) {
        let Some(stream) = self.streams.get_mut(place) else { return };
        let id = stream.id;
        self.credit(place);
        match self.go_on(place) {
            Then::Rest => {}
            Then::Again => self.bell.ring_stream(place),
            Then::Ended => self.remove(place),
            Then::Reset(reason) => {
                frame::write_reset(&mut self.writing.out, id, reason);
                self.remove(place);
            }
        }
    }

    fn go_on(&mut self, place: usize) -> Then {
        for frames in 0.. {
            let Some(stream) = self.streams.get_mut(place) else { return Then::Rest };
            if matches!(stream.phase, Phase::Told) {
                return self.after(place);
            }
            if frames == FRAMES_A_TURN || !self.writing.has_room() {
                return Then::Again;
            }
            let context = &mut Context::from_waker(&stream.waker);
            match &mut stream.phase {
                Phase::Answering(task) => match Pin::new(task).poll(context) {
                    Poll::Pending => return Then::Rest,
                    Poll::Ready(Ok(Ok(answer))) => self.begin_answer(place, answer),
                    Poll::Ready(Ok(Err(error))) => return broke_off(stream.id, &error),
                    Poll::Ready(Err(error)) => return broke_off(stream.id, &error),
                },
                Phase::Telling(_) if !stream.pending.is_empty() => {
                    if !self.tell_pending(place) {
                        return Then::Rest;
                    }
                }
                Phase::Telling(body) => match Pin::new(&mut *body).poll_frame(context) {
                    Poll::Pending => return Then::Rest,
                    Poll::Ready(Some(Err(error))) => return broke_off(stream.id, &error),
                    Poll::Ready(None) => {
                        stream.phase = Phase::Told;
                        self.writing.data(stream.id, true, &[]);
                    }
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => {
                            stream.is_last = body.is_end_stream();
                            if data.is_empty() && stream.is_last {
                                stream.phase = Phase::Told;
                                self.writing.data(stream.id, true, &[]);
                            } else {
                                stream.pending = data;
                                if !self.tell_pending(place) {
                                    return Then::Rest;
                                }
                            }
                        }
                        Err(frame) => {
                            if let Ok(trailers) = frame.into_trailers() {
                                stream.phase = Phase::Told;
                                self.writing
                                    .fields(stream.id, true, |block| head::write_fields(block, &trailers));
                            }
                        }
                    },
                },
                Phase::Told => {}
            }
        }
        Then::Rest
    }

    fn begin_answer(&mut self, place: usize, answer: Response<S::Body>) {
        let Some(stream) = self.streams.get_mut(place) else { return };
        let is_last = answer.body().is_end_stream();
        let length = answer.body().size_hint().exact().filter(|_| !is_last);
        self.writing.fields(stream.id, is_last, |block| head::write_answer(block, &answer, length));
        stream.phase = if is_last { Phase::Told } else { Phase::Telling(answer.into_body()) };
    }

    /// Writes what waits, as far as the windows allow. True when nothing waits any more.
    fn tell_pending(&mut self, place: usize) -> bool {
        let Some(stream) = self.streams.get_mut(place) else { return true };
        while !stream.pending.is_empty() && self.writing.has_room() {
            let window = (self.writing.stream_window + stream.window).min(self.writing.window);
            let room = usize::try_from(window).unwrap_or(0).min(PAYLOAD_BYTES_MAX);
            let count = stream.pending.len().min(room);
            if count == 0 {
                if stream.blocked_since.is_none() {
                    let now = Instant::now();
                    stream.blocked_since = Some(now);
                    self.look_at(now + self.limits.unread);
                }
                return false;
            }
            let spent = i64::try_from(count).unwrap_or(i64::MAX);
            stream.window -= spent;
            self.writing.window -= spent;
            let is_last = stream.is_last && count == stream.pending.len();
            self.writing.data(stream.id, is_last, &stream.pending[..count]);
            stream.pending.advance(count);
            stream.blocked_since = None;
        }
        if !stream.pending.is_empty() {
            self.bell.ring_stream(place);
            return false;
        }
        stream.pending = bytes::Bytes::new();
        if stream.is_last {
            stream.phase = Phase::Told;
        }
        true
    }

    /// The answer is told. The rest of the request is waited for while somebody reads it, so that its sender gets to see the
    /// answer.
    fn after(&mut self, place: usize) -> Then {
        let Some(stream) = self.streams.get_mut(place) else { return Then::Rest };
        match &stream.request {
            Some(request) if !request.is_whole => {
                if request.intake.is_wanted() {
                    Then::Rest
                } else {
                    Then::Reset(Reason::NO_ERROR)
                }
            }
            _ => Then::Ended,
        }
    }

    /// Resets streams of which nothing went away for so long: for want of room on the stream itself, or because the client makes
    /// none for any of them. Answers when the next one is due.
    pub(super) fn reset_unread(&mut self, now: Instant, unread: Duration) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut over = Vec::new();
        for (place, stream) in self.streams.iter_mut() {
            let Some(mut since) = stream.blocked_since else { continue };
            if self.writing.stream_window + stream.window > 0 {
                since = since.max(self.writing.window_grew_at);
            }
            if since + unread <= now {
                over.push((place, stream.id));
            } else {
                next = Some(next.map_or(since + unread, |next| next.min(since + unread)));
            }
        }
        if !over.is_empty() {
            info!(
                streams = over.len(),
                limit_s = unread.as_secs(),
                "streams are reset: their client does not read"
            );
        }
        for (place, id) in over {
            frame::write_reset(&mut self.writing.out, id, Reason::CANCEL);
            self.remove(place);
        }
        next
    }

    /// Ends a stream. What came of its request and was not read makes room for others.
    pub(super) fn remove(&mut self, place: usize) {
        self.credit(place);
        let Some(stream) = self.streams.remove(place) else { return };
        if matches!(stream.phase, Phase::Answering(_)) {
            self.reading.given_up.add();
        }
        if let Some(request) = &stream.request {
            self.reading.credit += request.unread;
            self.credit_connection();
        }
    }

    /// All streams that wait for room may go on.
    pub(super) fn ring_blocked(&mut self) {
        let bell = &self.bell;
        self.streams
            .iter_mut()
            .filter(|(_, stream)| stream.blocked_since.is_some())
            .for_each(|(place, _)| bell.ring_stream(place));
    }
}

fn broke_off(stream: u32, error: &dyn Display) -> Then {
    debug!(stream, %error, "stream reset: its answer broke off");
    Then::Reset(Reason::INTERNAL_ERROR)
}

/// The first place at or behind this one, or else the first of all.
fn next(places: &[u64; WORDS], from: usize) -> Option<usize> {
    let (word, bit) = (from / 64 % WORDS, from % 64);
    let here = places[word] & u64::MAX << bit;
    if here != 0 {
        return Some(word * 64 + here.trailing_zeros() as usize);
    }
    (1..=WORDS)
        .map(|step| (word + step) % WORDS)
        .find(|word| places[*word] != 0)
        .map(|word| word * 64 + places[word].trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_in_turn_from_where_the_last_turn_ended() {
        let places = [1 << 3 | 1 << 60, 0, 1 << 5, 0];
        for (from, found) in [(0, 3), (3, 3), (4, 60), (61, 133), (133, 133), (134, 3), (255, 3), (256, 3)] {
            assert_eq!(next(&places, from), Some(found), "from {from}");
        }
        assert_eq!(next(&[1, 0, 0, 0], 1), Some(0));
        assert_eq!(next(&[0; WORDS], 17), None);
    }
}
