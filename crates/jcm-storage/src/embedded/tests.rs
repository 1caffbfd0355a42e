//! What needs a disk that fails, or a log that is trimmed sooner than one can wait for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use jcm_model::{Change, ClusterName, Effect, Head, OperationId, Revision};
use jcm_proto::{Entry, Transaction};
use redb::{Builder, StorageBackend};
use uuid::Uuid;

use super::file::DataFile;
use super::retention::Limits;
use super::{EmbeddedStore, TAIL_TRANSACTIONS_MAX, tables, writing};
use crate::submission::Submission;
use crate::{CommitError, Feed, LoadError, RestoreError, Store};

/// A disk in memory. What was written stays when it is closed.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Sectors>>);

#[derive(Debug, Default)]
struct Sectors {
    len: u64,
    written: BTreeMap<u64, Box<[u8; SECTOR]>>,
    is_full: bool,
    failing_syncs: u32,
    is_dead: bool,
}

const SECTOR: usize = 4096;

impl Disk {
    fn sectors(&self) -> MutexGuard<'_, Sectors> {
        self.0.lock().unwrap()
    }

    fn alive(&self) -> Result<MutexGuard<'_, Sectors>, Error> {
        let sectors = self.sectors();
        if sectors.is_dead {
            return Err(Error::other("the disk is dead"));
        }
        Ok(sectors)
    }

    fn file(&self) -> DataFile {
        let disk = self.clone();
        let opener = move || {
            let database = Builder::new()
                .set_cache_size(1024 * 1024)
                .create_with_backend(disk.clone())
                .map_err(|error| LoadError::Unavailable { reason: error.to_string() })?;
            Ok(database)
        };
        let file = DataFile::with_opener(Box::new(opener)).unwrap();
        if file.read(tables::identity).is_err() {
            file.with(tables::initialise).unwrap().unwrap();
        }
        file
    }

    fn store(&self, limits: Limits) -> EmbeddedStore {
        EmbeddedStore::assemble(self.file(), limits).unwrap()
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.alive()?.len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let sectors = self.alive()?;
        for (at, byte) in (offset..).zip(out) {
            let sector = sectors.written.get(&(at / SECTOR as u64));
            *byte = sector.map_or(0, |sector| sector[usize::try_from(at % SECTOR as u64).unwrap()]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        let mut sectors = self.alive()?;
        sectors.len = len;
        sectors.written.retain(|sector, _| sector * (SECTOR as u64) < len);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut sectors = self.alive()?;
        if sectors.failing_syncs > 0 {
            sectors.failing_syncs -= 1;
            return Err(Error::other("the disk did not sync"));
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut sectors = self.alive()?;
        for (at, byte) in (offset..).zip(data) {
            let number = at / SECTOR as u64;
            if sectors.is_full && !sectors.written.contains_key(&number) {
                return Err(Error::from(ErrorKind::StorageFull));
            }
            let sector = sectors.written.entry(number).or_insert_with(|| Box::new([0; SECTOR]));
            sector[usize::try_from(at % SECTOR as u64).unwrap()] = *byte;
        }
        Ok(())
    }
}

/// The creation of a cluster with a name as long as it may be, on a head.
fn creation(head: Revision) -> Arc<Transaction> {
    let revision = head.next();
    let name = format!("c{revision}-{}", "x".repeat(100));
    let change = Change {
        cluster: ClusterName::parse(&name).unwrap(),
        revision,
        effect: Effect::Updated { created: true, header: None, put: Vec::new(), removed: Vec::new() },
    };
    Arc::new(Transaction {
        epoch: 1,
        entries: vec![Entry {
            operation: OperationId(Uuid::from_u128(u128::from(revision.0))),
            fingerprint: 0,
            principal: "tester".repeat(100),
            change,
            created: true,
        }],
    })
}

fn at(store: &EmbeddedStore, revision: u64) -> Head {
    Head { store: store.id(), revision: Revision(revision) }
}

async fn commit(store: &EmbeddedStore, count: u64) {
    for _ in 0..count {
        let head = store.head().await.unwrap();
        store.commit(creation(head.revision), head).await.unwrap();
    }
}

/// A commit as it would be at another time.
fn commit_at(store: &EmbeddedStore, now: Instant) -> Result<(), CommitError> {
    let head = store.inner.current().head();
    let submission = Submission::parse(creation(head.revision), head.revision)?;
    store.writer.try_lock().unwrap().commit(&store.inner, submission, head, now)
}

/// Asserts that everything up to the head is there, in the definitions and in the feed.
async fn expect_whole(store: &EmbeddedStore) {
    let head = store.head().await.unwrap().revision;
    let snapshot = store.load().await.unwrap();
    assert_eq!(snapshot.revision, head);
    assert_eq!(snapshot.clusters.len() as u64, head.0);
    let mut feed = store.changes(at(store, 0)).await.unwrap();
    for revision in 1..=head.0 {
        match feed.next().await {
            Some(Feed::Committed(transaction)) => assert_eq!(transaction.last(), Revision(revision)),
            other => panic!("revision {revision} was due, and this came: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_loudly_and_goes_on_reading() {
    let disk = Disk::default();
    let store = disk.store(Limits::default());
    commit(&store, 5).await;
    disk.sectors().is_full = true;
    let mut now = Instant::now();
    let refusal = loop {
        // What is left of the sectors in use may take some more.
        match commit_at(&store, now) {
            Ok(()) => assert!(store.inner.current().tail.head() < Revision(1_000), "the disk never was full"),
            Err(error) => break error,
        }
    };
    assert!(matches!(refusal, CommitError::Unavailable { .. }), "{refusal:?}");
    assert!(refusal.to_string().contains("no storage space"), "{refusal}");
    expect_whole(&store).await;

    for _ in 0..3 {
        let refusal = commit_at(&store, now).expect_err("the disk is full");
        assert!(refusal.to_string().contains("no storage space"), "{refusal}");
        now += Duration::from_mins(1);
        let refusal = commit_at(&store, now).expect_err("the disk is full");
        assert!(matches!(refusal, CommitError::Unavailable { .. }), "{refusal:?}");
        expect_whole(&store).await;
    }

    disk.sectors().is_full = false;
    now += Duration::from_mins(1);
    commit_at(&store, now).expect("there is room again");
    expect_whole(&store).await;
}

#[tokio::test]
async fn a_commit_whose_sync_failed_is_told_by_the_log() {
    for failing_syncs in 1..4 {
        let disk = Disk::default();
        let store = disk.store(Limits::default());
        commit(&store, 5).await;
        let mut feed = store.changes(at(&store, 5)).await.unwrap();
        disk.sectors().failing_syncs = failing_syncs;
        let error = commit_at(&store, Instant::now()).expect_err("the sync failed");
        let later = Instant::now() + Duration::from_mins(1);
        disk.sectors().failing_syncs = 0;
        match error {
            CommitError::Unavailable { .. } => {
                // Known to have come to nothing, so the same revision is free.
                assert_eq!(
                    store.head().await.unwrap().revision,
                    Revision(5),
                    "{failing_syncs} failing syncs"
                );
                commit_at(&store, later).unwrap();
            }
            CommitError::Unknown { .. } => {
                store.load().await.unwrap();
            }
            other => panic!("{failing_syncs} failing syncs: {other:?}"),
        }
        if store.head().await.unwrap().revision == Revision(5) {
            commit_at(&store, later).unwrap();
        }
        let next = feed.next().await;
        assert!(
            matches!(&next, Some(Feed::Committed(transaction)) if transaction.last() == Revision(6)),
            "{failing_syncs} failing syncs: {next:?}"
        );
        expect_whole(&store).await;
    }
}

#[tokio::test]
async fn a_restore_that_the_disk_refuses_leaves_the_old_or_the_new_and_says_which() {
    let mut outcomes = HashSet::new();
    for failing_syncs in 0..4 {
        let disk = Disk::default();
        let store = disk.store(Limits::default());
        commit(&store, 5).await;
        let old = store.id();
        let clusters = store.load().await.unwrap().clusters[..2].to_vec();
        disk.sectors().failing_syncs = failing_syncs;
        let outcome = store.restore(clusters, Vec::new()).await;
        disk.sectors().failing_syncs = 0;
        let snapshot = store.load().await.unwrap();
        assert_eq!(snapshot.store, store.id());
        let is_restored = snapshot.store != old;
        assert_eq!(snapshot.clusters.len(), if is_restored { 2 } else { 5 }, "neither the old nor the new");
        outcomes.insert(match outcome {
            Ok(id) => (id == snapshot.store, "done"),
            Err(RestoreError::NotRestored { .. }) => (!is_restored, "not done"),
            Err(RestoreError::Unknown { .. }) => (true, "unknown"),
        });
    }
    assert!(outcomes.iter().all(|(is_true, _)| *is_true), "{outcomes:?}");
    assert!(outcomes.len() > 1, "no failure was met: {outcomes:?}");
}

#[tokio::test]
async fn a_dead_disk_is_said_to_be_and_comes_back() {
    let disk = Disk::default();
    let store = disk.store(Limits::default());
    commit(&store, 5).await;
    disk.sectors().is_dead = true;
    let error = commit_at(&store, Instant::now()).expect_err("the disk is dead");
    assert!(error.to_string().contains("the disk is dead"), "{error}");
    let later = Instant::now() + Duration::from_mins(1);
    let error = commit_at(&store, later).expect_err("the disk is dead");
    assert!(matches!(error, CommitError::Unavailable { .. }), "{error:?}");
    let error = store.load().await.expect_err("the disk is dead");
    assert!(matches!(error, LoadError::Unavailable { .. }), "{error:?}");
    let error = store.settle(at(&store, 5)).await.expect_err("a commit that failed may be there");
    assert!(matches!(error, CommitError::Unavailable { .. }), "{error:?}");

    disk.sectors().is_dead = false;
    commit_at(&store, later + Duration::from_mins(1)).unwrap();
    expect_whole(&store).await;
}

#[tokio::test]
async fn what_was_trimmed_from_the_log_resets_its_followers_and_is_forgotten() {
    let limits = Limits { operations_max: 10, ..Limits::default() };
    let disk = Disk::default();
    let store = disk.store(limits);
    commit(&store, 30).await;
    assert_eq!(store.load().await.unwrap().operations.len(), 30, "trimmed before it was time");

    let mut now = Instant::now() + limits.interval;
    commit_at(&store, now).unwrap();
    let remembered = |store: &EmbeddedStore| {
        let operations = store.inner.read(super::reading::snapshot).unwrap().operations;
        operations.iter().map(|operation| operation.revision.0).collect::<Vec<_>>()
    };
    assert_eq!(remembered(&store), (22..=31).collect::<Vec<_>>());
    commit_at(&store, now + limits.interval / 2).unwrap();
    assert_eq!(remembered(&store).len(), 11, "trimmed twice in one interval");

    // What this process has in memory it still tells; another one cannot.
    drop(store);
    let store = disk.store(limits);
    for (from, is_told) in [(0, false), (20, false), (21, true), (30, true)] {
        let mut feed = store.changes(at(&store, from)).await.unwrap();
        match feed.next().await {
            Some(Feed::Committed(transaction)) if is_told => {
                assert_eq!(transaction.first(), Revision(from + 1));
            }
            Some(Feed::Reset) if !is_told => {}
            other => panic!("from {from}: {other:?}"),
        }
    }
    // Ages start anew with the process; then old operations go, though they are few.
    now = Instant::now();
    for _ in 0..70 {
        now += limits.interval;
        commit_at(&store, now).unwrap();
        assert!(remembered(&store).len() <= 10);
    }
    commit_at(&store, now + limits.age_max).unwrap();
    // The last of the 70 was committed after the mark of its time.
    assert_eq!(remembered(&store), [102, 103], "old operations are still remembered");
    assert_eq!(store.load().await.unwrap().clusters.len(), 103);
}

#[tokio::test]
async fn a_large_log_is_trimmed_by_its_bytes_and_a_trim_is_bounded() {
    let limits = Limits { log_bytes_max: 2_000, rows_max: 5, ..Limits::default() };
    let disk = Disk::default();
    let store = disk.store(limits);
    commit(&store, 20).await;
    let mut now = Instant::now();
    let mut kept = HashSet::new();
    for _ in 0..8 {
        let before = store.load().await.unwrap().operations.len();
        now += limits.interval;
        commit_at(&store, now).unwrap();
        let after = store.load().await.unwrap().operations.len();
        assert!(after + 5 > before, "{before} to {after} operations in one trim");
        kept.insert(after);
    }
    // Each record is some 700 bytes.
    assert!(kept.contains(&2) && !kept.contains(&0), "{kept:?}");
}

#[tokio::test]
async fn a_follower_older_than_the_memory_reads_the_file() {
    let disk = Disk::default();
    let store = disk.store(Limits::default());
    commit(&store, TAIL_TRANSACTIONS_MAX as u64 + 300).await;
    expect_whole(&store).await;
}

/// Commits to the file and tells nobody yet: as the writer has it for a moment in each of its turns.
fn commit_unpublished(store: &EmbeddedStore) -> Submission {
    let head = store.inner.current().head().revision;
    let submission = Submission::parse(creation(head), head).unwrap();
    let write = |database: &_| writing::write(database, &submission, head, None, &HashMap::new());
    store.inner.file.with(write).unwrap().unwrap();
    submission
}

#[tokio::test]
async fn a_load_waits_for_the_publication_of_what_it_read() {
    let store = Disk::default().store(Limits::default());
    commit(&store, 3).await;
    let turn = store.writer.lock().await;
    let submission = commit_unpublished(&store);
    let mut load = store.load();
    let early = tokio::time::timeout(Duration::from_millis(50), &mut load).await;
    assert!(early.is_err(), "loaded at {:?} before the feeds were told", early.unwrap().unwrap().revision);
    store.inner.publish(submission);
    drop(turn);
    let snapshot = load.await.unwrap();
    assert_eq!(snapshot.revision, Revision(4));

    let mut feed = store.changes(at(&store, 4)).await.unwrap();
    commit(&store, 1).await;
    match feed.next().await {
        Some(Feed::Committed(transaction)) => assert_eq!(transaction.last(), Revision(5)),
        other => panic!("revision 5 was due, and this came: {other:?}"),
    }
}

#[tokio::test]
async fn a_follower_that_reads_the_file_is_told_nothing_before_its_publication() {
    let disk = Disk::default();
    let store = disk.store(Limits::default());
    commit(&store, 3).await;
    drop(store);
    // Nothing of it is in memory now.
    let store = disk.store(Limits::default());
    let mut feed = store.changes(at(&store, 0)).await.unwrap();
    let submission = commit_unpublished(&store);
    for revision in 1..=3 {
        match feed.next().await {
            Some(Feed::Committed(transaction)) => assert_eq!(transaction.last(), Revision(revision)),
            other => panic!("revision {revision} was due, and this came: {other:?}"),
        }
    }
    let early = tokio::time::timeout(Duration::ZERO, feed.next()).await;
    assert!(early.is_err(), "this came before the publication: {early:?}");
    store.inner.publish(submission);
    match feed.next().await {
        Some(Feed::Committed(transaction)) => assert_eq!(transaction.last(), Revision(4)),
        other => panic!("revision 4 was due, and this came: {other:?}"),
    }
}
