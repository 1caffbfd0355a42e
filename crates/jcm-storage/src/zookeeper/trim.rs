//! Trimming the change log: what is old, or too much, is deleted by the leader.
//!
//! Invariant: every deletion is conditional on the epoch that this leader began and on the identity of the store, in
//! the same transaction: one that was paused, and wakes when another leads, deletes nothing. There is at most one
//! transaction an interval.
//!
//! Ages are told by the monotonic clock of this process, from when it began to lead: a new leader starts them anew, and
//! so remembers operations for longer, never for shorter.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_model::{Revision, StoreId};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use zookeeper_client as zk;

use super::fetch::{self, REQUEST_PATIENCE, ReadError};
use super::inner::{Bound, Inner};
use super::layout::{IDENTITY, block_of};
use super::membership::{EPOCH, ZooKeeperMembership};
use super::session::CallError;
use crate::membership::Membership as _;
use crate::store::{OPERATIONS_KEPT_MAX, chain};

/// The pause between two trims: each costs the ensemble a transaction.
const INTERVAL: Duration = Duration::from_secs(10);

/// What is kept.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Longer than anybody repeats a write whose outcome he did not learn.
    age: Duration,
    /// Each revision is one mutation, and has at most one operation of its own.
    revisions: u64,
    /// ZooKeeper keeps all of it in memory.
    log_bytes: u64,
}

impl Limits {
    const DEFAULT: Self = Self {
        age: Duration::from_mins(10),
        revisions: OPERATIONS_KEPT_MAX as u64,
        log_bytes: 64 * 1024 * 1024,
    };
}

/// Records that one trim deletes: more than are committed in an interval, and well below what one request may take.
const RECORDS_MAX: usize = 4_000;

/// In which leadership, of which store, the marks were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reign {
    store: StoreId,
    epoch: u64,
}

/// Where the log was at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    head: Revision,
    /// The bytes of all records that this process saw the log grow by.
    log_bytes: u64,
}

impl Inner {
    /// The store that is followed, and where its log is.
    fn mark(&self) -> Option<(Bound, Mark)> {
        let state = self.state();
        let (Some(bound), Some(held), None) = (&state.bound, &state.held, state.refusal()) else {
            return None;
        };
        Some((bound.clone(), Mark { head: held.tail.head(), log_bytes: held.log_bytes }))
    }
}

/// Decides up to where to trim. Pure.
#[derive(Debug)]
struct Retention {
    limits: Limits,
    reign: Option<Reign>,
    /// Oldest first, one an interval, and one that is old.
    marks: VecDeque<(Instant, Mark)>,
}

impl Retention {
    fn new(limits: Limits) -> Self {
        Self { limits, reign: None, marks: VecDeque::new() }
    }

    /// Everything up to the answer may go.
    fn next(&mut self, reign: Reign, mark: Mark, now: Instant) -> Revision {
        let grew = self.marks.back().is_none_or(|(_, last)| mark.log_bytes >= last.log_bytes);
        if self.reign != Some(reign) || !grew {
            self.reign = Some(reign);
            self.marks.clear();
        }
        self.marks.push_back((now, mark));
        let limits = self.limits;
        let is_over = |(made, old): &(Instant, Mark)| {
            now.saturating_duration_since(*made) >= limits.age
                || mark.log_bytes - old.log_bytes >= limits.log_bytes
        };
        while self.marks.get(1).is_some_and(is_over) {
            self.marks.pop_front();
        }
        let over =
            self.marks.front().filter(|front| is_over(front)).map_or(Revision::ZERO, |(_, mark)| mark.head);
        over.max(Revision(mark.head.0.saturating_sub(limits.revisions)))
    }
}

/// Trims whenever this server leads.
pub(super) async fn run(inner: Arc<Inner>, membership: Arc<ZooKeeperMembership>, stop: CancellationToken) {
    let mut retention = Retention::new(Limits::DEFAULT);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let Some(epoch) = membership.leads_in() else { continue };
        let Some((bound, mark)) = inner.mark() else { continue };
        let reign = Reign { store: bound.identity.store, epoch };
        let until = retention.next(reign, mark, Instant::now());
        if until == Revision::ZERO {
            continue;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            done = trim(&inner, &bound, epoch, mark.head, until) => match done {
                Ok(0) => {}
                Ok(records) => debug!(records, until = until.0, "the change log was trimmed"),
                Err(TrimError::Fenced) => info!(epoch, "the change log is left to a later leader"),
                Err(error) => warn!(reason = chain(&error), "the change log could not be trimmed; trying on"),
            },
        }
    }
}

/// Why nothing was trimmed.
#[derive(Debug, thiserror::Error)]
enum TrimError {
    #[error("a later leader has taken over, or the store was restored")]
    Fenced,
    #[error("the change log cannot be read")]
    Read(#[from] ReadError),
    #[error("the records cannot be deleted")]
    Delete(#[source] CallError<zk::MultiWriteError>),
}

/// Deletes the oldest records up to a revision, as many as one transaction takes, and answers how many.
async fn trim(
    inner: &Inner,
    bound: &Bound,
    epoch: u64,
    head: Revision,
    until: Revision,
) -> Result<usize, TrimError> {
    let layout = &bound.layout;
    let version = i32::try_from(epoch).map_err(|_| TrimError::Fenced)?;
    let (mut records, mut paths) = (0, Vec::new());
    for block in fetch::blocks(&inner.session, layout).await? {
        if block > block_of(until) || records >= RECORDS_MAX {
            break;
        }
        let ends = fetch::ends_in(&inner.session, layout, block).await?;
        let old: Vec<_> = ends.iter().filter(|last| **last <= until).take(RECORDS_MAX - records).collect();
        records += old.len();
        paths.extend(old.iter().map(|last| layout.change(**last)));
        // The block in which the head is takes the next commits.
        if old.len() == ends.len() && block < block_of(head) {
            paths.push(layout.block(block));
        }
    }
    if paths.is_empty() {
        return Ok(0);
    }
    let deleted = inner.session.call(Instant::now() + REQUEST_PATIENCE, |client| async move {
        let mut writer = client.new_multi_writer();
        writer.add_check_version(EPOCH, version)?;
        writer.add_check_version(IDENTITY, bound.version)?;
        for path in &paths {
            writer.add_delete(path, None)?;
        }
        writer.commit().await
    });
    match deleted.await {
        Ok(_) => Ok(records),
        Err(CallError::Refused(zk::MultiWriteError::OperationFailed { index: 0 | 1, .. })) => {
            Err(TrimError::Fenced)
        }
        Err(error) => Err(TrimError::Delete(error)),
    }
}

#[cfg(test)]
mod tests {
    use jcm_model::{Change, ClusterName, Effect, Head, OperationId};
    use jcm_proto::{Entry, Transaction};
    use uuid::Uuid;

    use super::super::testing::Ensemble;
    use super::super::{ZooKeeper, ZooKeeperStore};
    use super::*;
    use crate::{CommitError, Feed, Member, Membership, Store};

    fn ten_clusters(head: Head) -> Transaction {
        let entries = (head.revision.0 + 1..=head.revision.0 + 10).map(|revision| Entry {
            operation: OperationId(Uuid::new_v4()),
            fingerprint: 0,
            principal: String::new(),
            change: Change {
                cluster: ClusterName::parse(&format!("c{revision}")).unwrap(),
                revision: Revision(revision),
                effect: Effect::Updated { created: true, header: None, put: Vec::new(), removed: Vec::new() },
            },
            created: true,
        });
        Transaction { epoch: 1, entries: entries.collect() }
    }

    fn member() -> Member {
        Member {
            id: jcm_model::ServerId::parse("a").unwrap(),
            instance: Uuid::new_v4(),
            advertise: "a:1".to_owned(),
            zone: String::new(),
            version: String::new(),
        }
    }

    /// Commits transactions of ten clusters each.
    async fn commit(store: &ZooKeeperStore, transactions: u32) -> Head {
        for _ in 0..transactions {
            let head = store.head().await.unwrap();
            store.commit(Arc::new(ten_clusters(head)), head).await.unwrap();
        }
        store.head().await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_commit_for_the_leader_alone_is_refused_in_every_other_epoch() {
        let ensemble = Ensemble::new();
        let zookeeper = ZooKeeper::connect(ensemble.config(&ensemble.hosts, Duration::from_mins(1))).unwrap();
        let (store, membership) = (zookeeper.store(), zookeeper.membership());
        store.open(None).await.unwrap();
        store.load().await.unwrap();
        membership.join(member()).await.unwrap();
        let mut roster = membership.roster();
        let epoch = roster.wait_for(|roster| roster.leader.is_some()).await.unwrap().epoch;
        let head = commit(&store, 1).await;
        let transaction = Arc::new(ten_clusters(head));
        for other in [epoch + 1, epoch - 1, u64::MAX] {
            let refused = store.commit_as_leader(Arc::clone(&transaction), head, other).await;
            assert!(matches!(refused, Err(CommitError::Fenced { epoch }) if epoch == other), "{refused:?}");
        }
        assert_eq!(store.head().await.unwrap(), head, "nothing of it is there");
        // One that is behind is told so, and not that another leads.
        let behind = store.commit_as_leader(Arc::clone(&transaction), head.at(Revision(9)), epoch).await;
        assert!(
            matches!(behind, Err(CommitError::Refused { .. } | CommitError::Conflict { .. })),
            "{behind:?}"
        );
        store.commit_as_leader(transaction, head, epoch).await.unwrap();
        assert_eq!(store.head().await.unwrap(), head.at(Revision(20)));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn only_the_leader_of_the_epoch_trims_and_what_is_left_goes_on_without_a_gap() {
        let ensemble = Ensemble::new();
        let zookeeper = ZooKeeper::connect(ensemble.config(&ensemble.hosts, Duration::from_mins(1))).unwrap();
        let (store, membership) = (zookeeper.store(), zookeeper.membership());
        store.open(None).await.unwrap();
        store.load().await.unwrap();
        membership.join(member()).await.unwrap();
        let mut roster = membership.roster();
        let epoch = roster.wait_for(|roster| roster.leader.is_some()).await.unwrap().epoch;
        // Over the end of the first block.
        let last = commit(&store, 110).await;
        let head = last.revision;
        let inner = &store.inner;
        let (bound, mark) = inner.mark().unwrap();
        assert_eq!(mark.head, head);
        assert!(mark.log_bytes > 10_000, "{} bytes", mark.log_bytes);
        let all = fetch::all_ends(&inner.session, &bound.layout).await.unwrap();
        assert_eq!(all.len(), 110);

        for later in [epoch + 1, epoch - 1] {
            let refused = trim(inner, &bound, later, head, Revision(500)).await;
            assert!(matches!(refused, Err(TrimError::Fenced)), "{refused:?}");
        }
        let replaced = Bound { version: bound.version + 1, ..bound.clone() };
        let refused = trim(inner, &replaced, epoch, head, Revision(500)).await;
        assert!(matches!(refused, Err(TrimError::Fenced)), "{refused:?}");
        assert_eq!(fetch::all_ends(&inner.session, &bound.layout).await.unwrap(), all);

        assert_eq!(trim(inner, &bound, epoch, head, Revision(505)).await.unwrap(), 50);
        assert_eq!(trim(inner, &bound, epoch, head, Revision(505)).await.unwrap(), 0);
        assert_eq!(trim(inner, &bound, epoch, head, Revision(1_050)).await.unwrap(), 55);
        let left = fetch::all_ends(&inner.session, &bound.layout).await.unwrap();
        assert_eq!(left, [1_060, 1_070, 1_080, 1_090, 1_100].map(Revision));
        assert_eq!(
            fetch::blocks(&inner.session, &bound.layout).await.unwrap(),
            [1],
            "an empty block is left"
        );
        // All of the last block: it stays for the commits to come.
        assert_eq!(trim(inner, &bound, epoch, head, head).await.unwrap(), 5);
        commit(&store, 1).await;

        let fresh = ZooKeeper::connect(ensemble.config(&ensemble.hosts, Duration::from_mins(1))).unwrap();
        let fresh = fresh.store();
        fresh.open(None).await.unwrap();
        let snapshot = fresh.load().await.unwrap();
        assert_eq!((snapshot.clusters.len(), snapshot.revision), (1_110, Revision(1_110)));
        assert_eq!(snapshot.operations.len(), 10, "the operations of the last transaction");
        let mut feed = fresh.changes(last).await.unwrap();
        assert!(matches!(feed.next().await, Some(Feed::Committed(_))));
        let mut behind = fresh.changes(last.at(Revision(1_050))).await.unwrap();
        assert!(matches!(behind.next().await, Some(Feed::Reset)));
    }

    const LIMITS: Limits = Limits { age: Duration::from_mins(10), revisions: 1_000, log_bytes: 5_000 };

    fn reign(store: u128, epoch: u64) -> Reign {
        Reign { store: StoreId(Uuid::from_u128(store)), epoch }
    }

    fn mark(head: u64, log_bytes: u64) -> Mark {
        Mark { head: Revision(head), log_bytes }
    }

    #[test]
    fn what_was_there_ten_minutes_ago_goes_and_a_new_leader_counts_anew() {
        let mut retention = Retention::new(LIMITS);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(retention.next(reign(1, 1), mark(10, 0), at(0)), Revision::ZERO);
        assert_eq!(retention.next(reign(1, 1), mark(20, 0), at(300)), Revision::ZERO);
        assert_eq!(retention.next(reign(1, 1), mark(30, 0), at(600)), Revision(10));
        assert_eq!(retention.next(reign(1, 1), mark(40, 0), at(899)), Revision(10));
        assert_eq!(retention.next(reign(1, 1), mark(40, 0), at(900)), Revision(20));
        for (case, later) in [("another epoch", reign(1, 2)), ("another store", reign(2, 2))] {
            assert_eq!(retention.next(later, mark(50, 0), at(2_000)), Revision::ZERO, "{case}");
        }
    }

    #[test]
    fn more_than_the_limits_of_count_and_bytes_goes_whatever_its_age() {
        let mut retention = Retention::new(LIMITS);
        let now = Instant::now();
        assert_eq!(retention.next(reign(1, 1), mark(5_000, 100), now), Revision(4_000));
        assert_eq!(retention.next(reign(1, 1), mark(5_010, 5_099), now), Revision(4_010));
        assert_eq!(retention.next(reign(1, 1), mark(5_020, 5_100), now), Revision(5_000));
        assert_eq!(retention.next(reign(1, 1), mark(5_030, 10_098), now), Revision(5_000));
        assert_eq!(retention.next(reign(1, 1), mark(5_040, 10_100), now), Revision(5_020));
    }

    #[test]
    fn a_log_that_was_loaded_again_is_counted_anew() {
        let mut retention = Retention::new(LIMITS);
        let now = Instant::now();
        retention.next(reign(1, 1), mark(10, 4_000), now);
        assert_eq!(retention.next(reign(1, 1), mark(20, 0), now), Revision::ZERO);
    }
}
