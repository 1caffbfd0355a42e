//! When a server may share in the checks: not at once after a start, and later when its last runs were short, so that
//! one that crashes again and again does not move everybody's nodes each time.
//!
//! What is kept is how many runs in a row were short. No clock is asked for it: a run that has lasted is told so by its
//! own monotonic time, and a run that was stopped on purpose is not held against anybody.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jcm_storage::Membership;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::data_dir::write_whole;

/// After a start: enough to hear the others, and less than anybody waits for.
const DAMPING_MIN: Duration = Duration::from_secs(2);

/// After any number of short runs.
const DAMPING_MAX: Duration = Duration::from_mins(1);

/// A run that lasted this long was not short.
const RUN_MIN: Duration = Duration::from_mins(1);

/// The format that is written.
const FORMAT: u32 = 1;

/// How the runs before this one ended.
#[derive(Debug)]
pub(crate) struct Runs {
    file: PathBuf,
    /// Runs in a row that were short and not stopped on purpose, up to the one before this.
    short: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    short_runs: u32,
}

impl Runs {
    /// Reads how the last runs ended, and counts this one as short until it has lasted.
    pub(crate) fn begin(file: PathBuf) -> Self {
        let short = read(&file);
        let runs = Self { file, short };
        runs.write(short.saturating_add(1));
        runs
    }

    /// How long to wait before sharing in the checks while others do them.
    fn damping(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.short).filter(|factor| *factor > 0).unwrap_or(u32::MAX);
        DAMPING_MIN.saturating_mul(factor).min(DAMPING_MAX)
    }

    fn write(&self, short_runs: u32) {
        let text = serde_json::to_vec(&Record { format: FORMAT, short_runs }).expect("a record is JSON");
        if let Err(error) = write_whole(&self.file, &text) {
            // The next start will join sooner than it should: no more than that.
            warn!(%error, file = %self.file.display(), "how this run went could not be written");
        }
    }
}

/// What cannot be read is no reason to wait.
fn read(file: &Path) -> u32 {
    let record = std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
    record.filter(|record| record.format <= FORMAT).map_or(0, |record| record.short_runs)
}

/// Lets this server share in the checks once that is due, and notes when its run was long enough. Ends when told to stop,
/// which is on purpose.
pub(crate) async fn share(runs: Runs, membership: Arc<dyn Membership>, stop: CancellationToken) {
    let wait = runs.damping();
    if runs.short > 0 {
        info!(
            short_runs = runs.short,
            wait_secs = wait.as_secs(),
            "joining the ring is damped: the last runs were short"
        );
    }
    let lasted = tokio::time::sleep(RUN_MIN);
    let join = async {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = nobody_checks(membership.as_ref()) => {}
        }
        membership.share_checks(true).await;
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = async { tokio::join!(join, lasted); } => {
            write(runs, 0).await;
            stop.cancelled().await;
            return;
        }
    }
    write(runs, 0).await;
}

/// File IO, away from the reactor.
async fn write(runs: Runs, short_runs: u32) {
    // The runtime is going down: then the file does not matter.
    let _ = tokio::task::spawn_blocking(move || runs.write(short_runs)).await;
}

/// Waits until it is known that the ring is empty: then there is nothing to disturb.
async fn nobody_checks(membership: &dyn Membership) {
    let mut roster = membership.roster();
    // Members are known, so the ring is too.
    let is_empty =
        |roster: &Arc<jcm_storage::Roster>| !roster.members.is_empty() && roster.ring.servers.is_empty();
    if roster.wait_for(is_empty).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_short_run_doubles_the_wait_and_a_run_that_lasted_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("runs.json");
        let mut waits = Vec::new();
        for _ in 0..40 {
            waits.push(Runs::begin(file.clone()).damping().as_secs());
        }
        assert_eq!(waits[..7], [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits[39], 60);
        Runs::begin(file.clone()).write(0);
        assert_eq!(Runs::begin(file.clone()).damping(), DAMPING_MIN);
        std::fs::write(&file, "{").unwrap();
        assert_eq!(Runs::begin(file).damping(), DAMPING_MIN);
    }
}
