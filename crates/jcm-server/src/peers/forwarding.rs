//! Writes on their way to another server: all that wait go together in one message, and their answers come back in the
//! same way.
//!
//! A server that is busy is not a silent one: while it gets on with what it has in hand it says so, and whoever waits
//! waits on. Without that, many writes at once would have every follower give its leader up and commit by itself, where
//! they would only be in one another's way.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jcm_model::ServerId;
use jcm_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use v1::carry_out_request::Write;

use super::line::Client;
use super::{PeerError, millis};
use crate::registry::{Patience, QUEUE_DEPTH_MAX};

/// Writes that may wait to be sent: as many as the other side takes.
const WAITING_MAX: usize = QUEUE_DEPTH_MAX;

/// Writes in one message: enough that a message costs little beside them. Several of them make a transaction.
const TOGETHER_MAX: usize = 512;

/// Bytes of writes after which no further one joins a message, so that the first ones need not wait for long.
const TOGETHER_BYTES_MAX: usize = 512 * 1024;

/// Messages that wait for the connection: what comes meanwhile gathers, and goes together.
const MESSAGES_MAX: usize = 1;

/// The other side gives its answer so long before its asker stops waiting: the way back, on a busy machine.
const WAY_BACK: Duration = Duration::from_millis(150);

/// Where writes for one server go. Clones lead to the same task.
#[derive(Debug, Clone)]
pub(super) struct Forwarder {
    queue: mpsc::Sender<Waiting>,
    /// When the server was last heard to get on.
    sign: watch::Receiver<Instant>,
}

/// The task behind it.
pub(super) struct Forwarding {
    server: ServerId,
    queue: mpsc::Receiver<Waiting>,
    sign: watch::Sender<Instant>,
    /// Taken from the queue, and not sent yet.
    waiting: VecDeque<Waiting>,
    /// Sent, and not answered yet.
    sent: HashMap<u64, Answer>,
    next: u64,
}

type Answer = oneshot::Sender<Result<Vec<u8>, PeerError>>;

/// A write that waits to be sent.
#[derive(Debug)]
struct Waiting {
    write: Vec<u8>,
    deadline: Instant,
    fate: Fate,
    answer: Answer,
}

/// What became of a write that waits: it is sent, or its asker has given it up, never both. So one that was given up in
/// time is not in doubt.
#[derive(Debug, Clone, Default)]
struct Fate(Arc<AtomicBool>);

impl Fate {
    /// Answers whether it was open until now.
    fn decide(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// The way to one server, and the task that keeps it.
pub(super) fn to(server: ServerId) -> (Forwarder, Forwarding) {
    let (sender, queue) = mpsc::channel(WAITING_MAX);
    let sign = watch::Sender::new(Instant::now());
    let forwarder = Forwarder { queue: sender, sign: sign.subscribe() };
    let waiting = VecDeque::new();
    (forwarder, Forwarding { server, queue, sign, waiting, sent: HashMap::new(), next: 0 })
}

impl Forwarder {
    /// One write and its answer.
    pub(super) async fn forward(
        &self,
        server: &ServerId,
        write: Vec<u8>,
        patience: Patience,
    ) -> Result<Vec<u8>, PeerError> {
        let begun = Instant::now();
        let deadline = begun + patience.in_all;
        let (fate, (answer, mut answered)) = (Fate::default(), oneshot::channel());
        let not_sent =
            |reason: &str| PeerError::NotSent { server: server.clone(), reason: reason.to_owned() };
        self.queue
            .try_send(Waiting { write, deadline, fate: fate.clone(), answer })
            .map_err(|_| not_sent("too many writes wait to be sent, or none can be"))?;
        loop {
            // What it does for others is a sign to all: it takes writes in the order in which they come.
            let silent_since = begun.max(*self.sign.borrow());
            let until = (silent_since + patience.without_a_sign).min(deadline);
            match tokio::time::timeout_at(until, &mut answered).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(_)) => return Err(broken(server, "it ended before the answer")),
                Err(_) if until < deadline && *self.sign.borrow() > silent_since => {}
                Err(_) if fate.decide() => {
                    return Err(not_sent("it waited too long for the writes before it"));
                }
                Err(_) => {
                    return Err(PeerError::TimedOut { server: server.clone(), within: begun.elapsed() });
                }
            }
        }
    }
}

impl Forwarding {
    /// Sends what waits and hands out answers until the stream breaks, and answers why. An older server that does not
    /// take writes this way is followed all the same: what is for it counts as not sent.
    pub(super) async fn run(mut self, mut client: Client) -> Status {
        let (messages, receiver) = mpsc::channel(MESSAGES_MAX);
        let ended = match client.carry_out(ReceiverStream::new(receiver)).await {
            Ok(answers) => self.pass_on(&messages, answers.into_inner()).await,
            Err(status) => status,
        };
        for (_, answer) in self.sent.drain() {
            let _ = answer.send(Err(broken(&self.server, ended.message())));
        }
        self.queue.close();
        while let Some(unsent) = self.waiting.pop_front().or_else(|| self.queue.try_recv().ok()) {
            let (server, reason) = (self.server.clone(), ended.message().to_owned());
            let _ = unsent.answer.send(Err(PeerError::NotSent { server, reason }));
        }
        if ended.code() == Code::Unimplemented {
            std::future::pending::<()>().await;
        }
        ended
    }

    async fn pass_on(
        &mut self,
        messages: &mpsc::Sender<v1::CarryOutRequest>,
        mut answers: Streaming<v1::CarryOutResponse>,
    ) -> Status {
        let mut together = Vec::new();
        loop {
            tokio::select! {
                biased;
                message = answers.message() => match message {
                    Ok(Some(message)) => self.hand_out(message),
                    Ok(None) => return Status::unavailable("it closed the stream"),
                    Err(status) => return status,
                },
                room = messages.reserve(), if !self.waiting.is_empty() => match room {
                    Ok(room) => room.send(self.message()),
                    Err(_) => return Status::unavailable("it reads no more"),
                },
                count = self.queue.recv_many(&mut together, TOGETHER_MAX), if self.waiting.is_empty() => {
                    if count == 0 {
                        return Status::cancelled("nobody writes any more");
                    }
                    self.waiting.extend(together.drain(..));
                }
            }
        }
    }

    /// The next message: what waits, with what came meanwhile.
    fn message(&mut self) -> v1::CarryOutRequest {
        let now = Instant::now();
        let (mut writes, mut size_bytes) = (Vec::new(), 0);
        while writes.len() < TOGETHER_MAX && size_bytes < TOGETHER_BYTES_MAX {
            let Some(next) = self.waiting.pop_front().or_else(|| self.queue.try_recv().ok()) else { break };
            // Whoever stopped waiting for it carries it out by himself.
            if next.answer.is_closed() || !next.fate.decide() {
                continue;
            }
            let left = next.deadline.saturating_duration_since(now).saturating_sub(WAY_BACK);
            self.next += 1;
            size_bytes += next.write.len();
            writes.push(Write { number: self.next, write: next.write, within_ms: millis(left) });
            self.sent.insert(self.next, next.answer);
        }
        v1::CarryOutRequest { writes }
    }

    fn hand_out(&mut self, message: v1::CarryOutResponse) {
        self.sign.send_replace(Instant::now());
        for answer in message.answers {
            if let Some(waits) = self.sent.remove(&answer.number) {
                // Whoever stopped waiting has gone on by himself.
                let _ = waits.send(Ok(answer.answer));
            }
        }
    }
}

fn broken(server: &ServerId, reason: &str) -> PeerError {
    PeerError::Broken { server: server.clone(), reason: jcm_model::invalid::quoted(reason) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_millis(400);
    const IN_ALL: Duration = Duration::from_secs(2);

    fn way() -> (ServerId, Forwarder, Forwarding) {
        let server = ServerId::parse("s2").unwrap();
        let (forwarder, forwarding) = to(server.clone());
        (server, forwarder, forwarding)
    }

    fn asking(forwarder: &Forwarder) -> tokio::task::JoinHandle<(Duration, Result<Vec<u8>, PeerError>)> {
        let (forwarder, begun) = (forwarder.clone(), Instant::now());
        let patience = Patience { without_a_sign: SILENCE, in_all: IN_ALL };
        tokio::spawn(async move {
            let server = ServerId::parse("s2").unwrap();
            let answer = forwarder.forward(&server, b"write".to_vec(), patience).await;
            (begun.elapsed(), answer)
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_gets_on_is_waited_for_and_a_silent_one_is_not() {
        let (_, forwarder, mut forwarding) = way();
        let asked = asking(&forwarder);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let message = forwarding.message();
        assert_eq!(message.writes.len(), 1);
        for _ in 0..4 {
            tokio::time::sleep(SILENCE * 9 / 10).await;
            forwarding.hand_out(v1::CarryOutResponse::default());
        }
        let number = message.writes[0].number;
        let answer = v1::carry_out_response::Answer { number, answer: b"done".to_vec() };
        forwarding.hand_out(v1::CarryOutResponse { answers: vec![answer] });
        assert_eq!(asked.await.unwrap().1.unwrap(), b"done");
        let asked = asking(&forwarder);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(forwarding.message().writes.len(), 1);
        let (took, silent) = asked.await.unwrap();
        assert!(matches!(silent, Err(PeerError::TimedOut { .. })), "{silent:?}");
        assert!(took >= SILENCE && took < SILENCE * 2, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_up_before_it_was_sent_is_not_in_doubt_and_not_sent() {
        let (_, forwarder, mut forwarding) = way();
        let (_, unsent) = asking(&forwarder).await.unwrap();
        assert!(unsent.as_ref().is_err_and(PeerError::is_undone), "{unsent:?}");
        assert!(forwarding.message().writes.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn signs_do_not_make_anybody_wait_for_longer_than_a_write_may_take() {
        let (_, forwarder, mut forwarding) = way();
        let asked = asking(&forwarder);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(forwarding.message().writes.len(), 1);
        let signs = tokio::spawn(async move {
            loop {
                tokio::time::sleep(SILENCE / 4).await;
                forwarding.hand_out(v1::CarryOutResponse::default());
            }
        });
        let (took, answer) = asked.await.unwrap();
        signs.abort();
        assert!(matches!(answer, Err(PeerError::TimedOut { .. })), "{answer:?}");
        assert!(took >= IN_ALL && took < IN_ALL + SILENCE, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_goes_together_without_what_nobody_waits_for_and_in_time_for_its_answer() {
        let (_, forwarder, mut forwarding) = way();
        let given_up = asking(&forwarder);
        tokio::time::sleep(Duration::from_millis(1)).await;
        given_up.abort();
        let _ = given_up.await;
        let asked: Vec<_> = (0..=TOGETHER_MAX).map(|_| asking(&forwarder)).collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let first = forwarding.message();
        assert_eq!(first.writes.len(), TOGETHER_MAX);
        let in_all = u64::try_from(IN_ALL.as_millis()).unwrap();
        assert!(first.writes.iter().all(|write| (1..in_all).contains(&write.within_ms)));
        assert_eq!(forwarding.message().writes.len(), 1);
        drop(forwarding);
        for asked in asked {
            let (_, answer) = asked.await.unwrap();
            assert!(matches!(answer, Err(PeerError::Broken { .. })), "what was sent is in doubt: {answer:?}");
        }
    }
}
