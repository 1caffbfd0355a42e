//! The way of reports from an engine to whoever judges them.
//!
//! A thread of the engine has as many reports as a tick brings, all at once. They are handed over in one go, and wake the
//! receiver once: one that is woken by each of them is asleep again before the next is there, and to wake it fifty times
//! a tick costs more than half of what the probes themselves do. The order of each thread's reports is kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Report;

/// A way on which so many reports may wait.
pub fn channel(capacity: usize) -> (ReportSender, Reports) {
    let waiting = Waiting { reports: VecDeque::new(), senders: 1, is_heard: true };
    let way = Arc::new(Way { waiting: Mutex::new(waiting), came: Notify::new(), capacity });
    (ReportSender(Arc::clone(&way)), Reports(way))
}

/// Hands reports over.
#[derive(Debug)]
pub struct ReportSender(Arc<Way>);

/// Takes reports. There is one receiver.
#[derive(Debug)]
pub struct Reports(Arc<Way>);

/// Nobody takes reports any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unheard;

#[derive(Debug)]
struct Way {
    waiting: Mutex<Waiting>,
    came: Notify,
    capacity: usize,
}

#[derive(Debug)]
struct Waiting {
    reports: VecDeque<Report>,
    senders: usize,
    is_heard: bool,
}

impl Way {
    fn locked(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that is done under the lock leaves it half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReportSender {
    /// Hands over as many as there is room for, and leaves the rest.
    pub(crate) fn send(&self, reports: &mut VecDeque<Report>) -> Result<(), Unheard> {
        let mut waiting = self.0.locked();
        if !waiting.is_heard {
            return Err(Unheard);
        }
        let room = self.0.capacity.saturating_sub(waiting.reports.len());
        let was_empty = waiting.reports.is_empty();
        waiting.reports.extend(reports.drain(..room.min(reports.len())));
        let is_news = was_empty && !waiting.reports.is_empty();
        drop(waiting);
        // Whoever finds some does not sleep before it has taken all.
        if is_news {
            self.0.came.notify_one();
        }
        Ok(())
    }
}

impl Clone for ReportSender {
    fn clone(&self) -> Self {
        self.0.locked().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl Drop for ReportSender {
    fn drop(&mut self) {
        self.0.locked().senders -= 1;
        self.0.came.notify_one();
    }
}

impl Reports {
    /// Waits for reports, and adds at most so many to `into`. Answers how many: 0 once every sender is gone. Nothing is
    /// lost when it is not waited for to the end.
    pub async fn recv_many(&mut self, into: &mut Vec<Report>, limit: usize) -> usize {
        loop {
            {
                let mut waiting = self.0.locked();
                let count = waiting.reports.len().min(limit);
                if count > 0 || waiting.senders == 0 {
                    into.extend(waiting.reports.drain(..count));
                    return count;
                }
            }
            // A permit is kept for whoever comes to wait after the last look.
            self.0.came.notified().await;
        }
    }

    /// The next report. `None` once every sender is gone.
    pub async fn recv(&mut self) -> Option<Report> {
        let mut one = Vec::with_capacity(1);
        self.recv_many(&mut one, 1).await;
        one.pop()
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        let mut waiting = self.0.locked();
        waiting.is_heard = false;
        waiting.reports.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::engine::TargetKey;
    use crate::outcome::{Outcome, Phases};

    fn report(key: u64) -> Report {
        Report {
            key: TargetKey(key),
            generation: 1,
            at: Instant::now(),
            latency: Duration::ZERO,
            phases: Phases::default(),
            lateness: Duration::ZERO,
            outcome: Outcome::Connected,
        }
    }

    fn keys(reports: &[Report]) -> Vec<u64> {
        reports.iter().map(|report| report.key.0).collect()
    }

    #[tokio::test]
    async fn what_finds_no_room_stays_with_its_sender_in_its_order() {
        let (sender, mut receiver) = channel(3);
        let mut unsent: VecDeque<_> = (0..5).map(report).collect();
        sender.send(&mut unsent).unwrap();
        assert_eq!(unsent.len(), 2);
        let mut taken = Vec::new();
        assert_eq!(receiver.recv_many(&mut taken, 2).await, 2);
        sender.send(&mut unsent).unwrap();
        assert!(unsent.is_empty());
        drop(sender);
        while receiver.recv_many(&mut taken, 2).await > 0 {}
        assert_eq!(keys(&taken), [0, 1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn a_receiver_that_sleeps_is_woken_by_reports_and_by_the_last_sender() {
        let (sender, mut receiver) = channel(8);
        let other = sender.clone();
        let thread = std::thread::spawn(move || {
            for key in 0..1_000 {
                let mut unsent = VecDeque::from([report(key)]);
                while !unsent.is_empty() {
                    sender.send(&mut unsent).unwrap();
                    std::thread::yield_now();
                }
            }
        });
        for key in 0..1_000 {
            assert_eq!(receiver.recv().await.map(|report| report.key), Some(TargetKey(key)));
        }
        thread.join().unwrap();
        let ends = tokio::spawn(async move { receiver.recv().await.is_none() });
        tokio::task::yield_now().await;
        drop(other);
        assert!(ends.await.unwrap());
    }

    #[tokio::test]
    async fn a_sender_learns_that_nobody_listens_any_more() {
        let (sender, receiver) = channel(8);
        drop(receiver);
        assert_eq!(sender.send(&mut VecDeque::from([report(1)])), Err(Unheard));
    }
}
