//! One server's stream of writes that this one carries out: each in a task of its own, answers together as they come.

use std::sync::Arc;
use std::time::Duration;

use jcm_proto::v1;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use v1::carry_out_response::Answer;

use crate::pause::{Stretch, come_in};
use crate::registry::{Registry, WriteError};

/// Messages between a stream's task and its connection: answers that come while it is full go together.
pub(super) const MESSAGES_MAX: usize = 1;

/// Answers in one message.
const TOGETHER_MAX: usize = 512;

/// How often whoever waits is told that this server gets on: several times within its patience.
const SIGN_PAUSE: Duration = Duration::from_millis(100);

type Sender = mpsc::Sender<Result<v1::CarryOutResponse, Status>>;

/// One server's stream of writes.
pub(super) struct Carrying {
    registry: Registry,
    /// The writes belong to the stretch of their connection.
    stretch: Stretch,
    sender: Sender,
    stopping: CancellationToken,
}

impl Carrying {
    pub(super) fn new(registry: &Registry, sender: Sender, stopping: CancellationToken) -> Self {
        let stretch = registry.pulse().came_in();
        Self { registry: registry.clone(), stretch, sender, stopping }
    }

    /// Carries out what comes, until the stream ends. What is under way then is seen through, and answered to nobody.
    pub(super) async fn run(self, mut requests: Streaming<v1::CarryOutRequest>) {
        // Without a bound: it holds no more than the answers to what was taken in, and the registry bounds that.
        let (answered, mut answers) = mpsc::unbounded_channel();
        let answered = Arc::new(answered);
        let mut ready = Vec::new();
        let (mut in_hand, mut seen) = (0_usize, self.registry.progress());
        let mut signs = tokio::time::interval(SIGN_PAUSE);
        signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                () = self.sender.closed() => return,
                room = self.sender.reserve(), if !ready.is_empty() => {
                    let Ok(room) = room else { return };
                    while ready.len() < TOGETHER_MAX && let Ok(more) = answers.try_recv() {
                        ready.push(more);
                    }
                    in_hand = in_hand.saturating_sub(ready.len());
                    room.send(Ok(v1::CarryOutResponse { answers: std::mem::take(&mut ready) }));
                }
                count = answers.recv_many(&mut ready, TOGETHER_MAX), if ready.is_empty() => {
                    if count == 0 {
                        return;
                    }
                }
                _ = signs.tick(), if in_hand > 0 => {
                    let progress = self.registry.progress();
                    let got_on = std::mem::replace(&mut seen, progress) != progress;
                    if got_on || self.registry.is_in_time() {
                        // A full connection tells as much.
                        let _ = self.sender.try_send(Ok(v1::CarryOutResponse::default()));
                    }
                }
                message = requests.message() => {
                    let Ok(Some(message)) = message else { return };
                    in_hand += message.writes.len();
                    for write in message.writes {
                        let answered = Arc::clone(&answered);
                        let carry_out = carry_out(self.registry.clone(), write);
                        let stretch = self.stretch;
                        self.registry.spawn(async move {
                            let _ = answered.send(come_in(stretch, carry_out).await);
                        });
                    }
                }
            }
        }
    }
}

async fn carry_out(registry: Registry, write: v1::carry_out_request::Write) -> Answer {
    let v1::carry_out_request::Write { number, write, within_ms } = write;
    let answer = match serde_json::from_slice(&write) {
        Ok(write) => registry.carry_out(write, Duration::from_millis(within_ms)).await,
        Err(error) => Err(WriteError::unavailable(format!("the forwarded write cannot be read: {error}"))),
    };
    Answer { number, answer: serde_json::to_vec(&answer).unwrap_or_default() }
}
