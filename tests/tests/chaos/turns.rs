//! Follows what is pushed of some clusters, and notes every turn of a verdict in it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jcm_tests::{Client, Event, Events, eventually};
use tokio::task::JoinHandle;

/// How often the end is looked for while nothing comes.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
const TURN_DEADLINE: Duration = Duration::from_mins(2);
const MINUTE: Duration = Duration::from_mins(1);

/// A turn as it was pushed: when, and to what.
pub(crate) type Turn = (Duration, String);

/// A stream that is followed. Ends with [`Self::stop`].
#[derive(Debug)]
pub(crate) struct Turns {
    seen: Arc<Mutex<Seen>>,
    begun: Instant,
    is_over: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    verdicts: BTreeMap<String, String>,
    turns: BTreeMap<String, Vec<Turn>>,
}

impl Turns {
    pub(crate) async fn follow(client: Client, clusters: &str) -> Self {
        let (seen, is_over, begun) =
            (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)), Instant::now());
        let mut events = Events::open(&client, clusters, None).await;
        let (noted, over, clusters) = (Arc::clone(&seen), Arc::clone(&is_over), clusters.to_owned());
        let task = tokio::spawn(async move {
            let mut silent_since = Instant::now();
            while !over.load(Ordering::Relaxed) {
                if let Some(event) = events.try_next(LOOK_PAUSE).await {
                    silent_since = Instant::now();
                    let mut seen = noted.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.note(&event, begun.elapsed());
                } else if silent_since.elapsed() > Duration::from_secs(10) {
                    // Heartbeats are not events: perhaps nothing happened, perhaps the stream has ended.
                    if let Ok(again) = Events::try_open(&client, &clusters, None).await {
                        events = again;
                    }
                    silent_since = Instant::now();
                }
            }
        });
        Self { seen, begun, is_over, task }
    }

    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// The turns of a node since the stream began.
    pub(crate) fn of(&self, node: SocketAddr) -> Vec<Turn> {
        self.locked().turns.get(&node.to_string()).cloned().unwrap_or_default()
    }

    /// Waits until the node turned to this after that moment, and answers how long after it.
    pub(crate) async fn until(&self, node: SocketAddr, verdict: &str, from: Duration) -> Duration {
        let what = format!("{node} turns to {verdict}");
        eventually(TURN_DEADLINE, &what, async || {
            let turns = self.of(node);
            let found = turns.iter().find(|(at, to)| *at >= from && to == verdict);
            found.map(|(at, _)| at.saturating_sub(from)).ok_or_else(|| format!("{turns:?}"))
        })
        .await
    }

    /// How many nodes were ever said to be this.
    pub(crate) fn ever(&self, nodes: &[SocketAddr], verdict: &str) -> usize {
        let is = |node: &&SocketAddr| self.of(**node).iter().any(|(_, to)| to == verdict);
        nodes.iter().filter(is).count()
    }

    pub(crate) async fn stop(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.await.expect("the follower does not panic");
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn note(&mut self, event: &Event, at: Duration) {
        for node in event.data["nodes"].as_array().into_iter().flatten() {
            let (Some(id), Some(verdict)) = (node["id"].as_str(), node["verdict"].as_str()) else { continue };
            let before = self.verdicts.insert(id.to_owned(), verdict.to_owned());
            if before.is_some_and(|before| before != verdict) {
                self.turns.entry(id.to_owned()).or_default().push((at, verdict.to_owned()));
            }
        }
    }
}

/// The most turns in any minute.
pub(crate) fn in_the_worst_minute(turns: &[Turn]) -> usize {
    let within = |end: Duration| turns.iter().filter(|(at, _)| *at <= end && *at + MINUTE > end).count();
    turns.iter().map(|(at, _)| within(*at)).max().unwrap_or_default()
}
