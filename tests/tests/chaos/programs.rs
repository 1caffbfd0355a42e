//! Programs with `jcm-subscriber`, many of them, each with a connection of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jcm_subscriber::{Cluster, Policy, Subscriber};
use jcm_tests::eventually;
use jcm_tests::history::Violation;
use jcm_tests::history::followers::{Held, History};

/// Hundreds of programs that connect to debug builds on two busy cores.
const FOLLOWED_DEADLINE: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(crate) struct Programs {
    programs: Vec<(Subscriber, Cluster, Arc<Mutex<History>>)>,
    begun: Instant,
}

impl Programs {
    /// So many programs that follow one cluster, spread over these servers, and hold it.
    pub(crate) async fn start(count: usize, servers: &[String], cluster: &str) -> Self {
        let begun = Instant::now();
        let mut programs = Vec::new();
        for number in 0..count {
            let mut known = servers.to_vec();
            known.rotate_left(number % servers.len());
            let jcm = Subscriber::builder().servers(known).build().await.expect("good addresses");
            let followed = jcm.cluster(cluster).policy(Policy::p2c()).subscribe().await.expect("a good name");
            let history = Arc::new(Mutex::new(History::default()));
            let noted = Arc::clone(&history);
            followed.on_change(move |change| {
                let Some(revision) = change.revision() else { return };
                let state = Held::View { revision: revision.0, nodes: change.nodes().len() };
                noted.lock().unwrap_or_else(PoisonError::into_inner).states.push((begun.elapsed(), state));
            });
            // Only changes are called back for: what is held already begins the history, unless one came meanwhile.
            if let Some(revision) = followed.revision() {
                let state = Held::View { revision: revision.0, nodes: followed.nodes().len() };
                let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
                if history.states.is_empty() {
                    history.states.push((begun.elapsed(), state));
                }
            }
            programs.push((jcm, followed, history));
        }
        let programs = Self { programs, begun };
        programs.reached(1).await;
        programs
    }

    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Cluster> {
        self.programs.iter().map(|(_, cluster, _)| cluster)
    }

    /// Waits until all hold at least this revision. Answers when the last of them came to it.
    pub(crate) async fn reached(&self, revision: u64) -> Duration {
        eventually(FOLLOWED_DEADLINE, &format!("all programs hold revision {revision}"), async || {
            let mut last = Duration::ZERO;
            let mut missing = 0;
            for (_, _, history) in &self.programs {
                match history.lock().unwrap_or_else(PoisonError::into_inner).reached(revision) {
                    Some(at) => last = last.max(at),
                    None => missing += 1,
                }
            }
            if missing == 0 { Ok(last) } else { Err(format!("{missing} do not")) }
        })
        .await
    }

    pub(crate) async fn stop(self) -> Vec<Violation> {
        let mut violations = Vec::new();
        for (jcm, cluster, history) in self.programs {
            drop(cluster);
            jcm.shutdown().await;
            violations.extend(history.lock().unwrap_or_else(PoisonError::into_inner).violations());
        }
        violations
    }
}
