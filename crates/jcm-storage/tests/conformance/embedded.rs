//! What only a store in a file can do: be opened again, be damaged, be somebody else's.

use std::path::Path;

use jcm_model::{Mutation, Revision};
use jcm_storage::{CommitError, EmbeddedStore, LoadError, Store};
use redb::{ReadableTable, TableDefinition};
use serde_json::json;

use crate::backends::{Embedded, expect_reset, range};
use crate::written::{Expected, at, cluster, name, node, put_nodes, transaction};

// As they are in the file: a change of these is a change of the format.
const META: TableDefinition<'_, &str, u128> = TableDefinition::new("meta");
const CLUSTERS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("clusters");
const NODES: TableDefinition<'_, (&[u8], &[u8]), &[u8]> = TableDefinition::new("nodes");
const LOG: TableDefinition<'_, u64, (u32, &[u8])> = TableDefinition::new("log");

/// A file with clusters `good`, `bad` and `other`, two nodes each, closed.
async fn three_clusters(files: &Embedded) -> Expected {
    let store = files.open();
    let mut expected = Expected::default();
    for name in ["good", "bad", "other"] {
        let put = cluster(json!({ "check": { "kind": "tcp" }, "nodes": [node(1), node(2)] }));
        expected.commit(&store, &[(name, put)]).await;
    }
    expected
}

/// Does something to the tables behind the store's back.
fn tamper(path: &Path, work: impl FnOnce(&redb::WriteTransaction)) {
    let database = redb::Database::open(path).unwrap();
    let write = database.begin_write().unwrap();
    work(&write);
    write.commit().unwrap();
}

/// Asserts that a file is refused for good, for this reason, and left as it is.
fn expect_unusable(path: &Path, reason: &str) {
    let before = std::fs::read(path).unwrap();
    let error = EmbeddedStore::open(path).expect_err(reason);
    assert!(matches!(error, LoadError::Unusable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(reason), "{text}");
    assert!(text.contains(&path.display().to_string()), "{text} names no file");
    assert!(before == std::fs::read(path).unwrap(), "a file that was refused was changed");
}

#[tokio::test]
async fn a_file_that_is_opened_again_is_the_same_store() {
    let files = Embedded::default();
    let mut expected = three_clusters(&files).await;
    let store = files.open();
    let before = expected.expect_in(&store).await;
    drop(store);
    let store = files.open();
    let after = expected.expect_in(&store).await;
    assert_eq!(before.store, after.store, "the store has another identity");
    assert_eq!(before.operations, after.operations);
    let mut feed = store.changes(at(store.id(), Revision(1))).await.unwrap();
    assert_eq!(range(&mut feed).await, (2, 2));
    expected.commit(&store, &[("good", put_nodes([5]))]).await;
    assert_eq!(range(&mut feed).await, (3, 3));
    assert_eq!(range(&mut feed).await, (4, 4));
}

#[tokio::test]
async fn a_restored_file_that_is_opened_again_is_the_restored_store() {
    let files = Embedded::default();
    let old = three_clusters(&files).await;
    let store = files.open();
    let first = store.id();
    let clusters: Vec<_> = old.clusters.values().take(2).cloned().collect();
    store.restore(clusters.clone(), Vec::new()).await.unwrap();
    let second = store.restore(clusters, Vec::new()).await.unwrap();
    let before = store.load().await.unwrap();
    let replaced = store.replaced();
    drop(store);
    let store = files.open();
    let after = store.load().await.unwrap();
    assert_eq!((store.id(), after.store, after.revision), (second, second, before.revision));
    assert_eq!((after.clusters, after.operations), (before.clusters, before.operations));
    assert_eq!((replaced.len(), replaced[0]), (2, first));
    assert_eq!(store.replaced(), replaced);
}

#[tokio::test]
async fn a_file_of_a_newer_format_is_refused() {
    let files = Embedded::default();
    three_clusters(&files).await;
    tamper(&files.path(), |write| {
        write.open_table(META).unwrap().insert("format", 2).unwrap();
    });
    let error = EmbeddedStore::open(&files.path()).expect_err("a newer format");
    let text = error.to_string();
    assert!(matches!(error, LoadError::Unusable { .. }), "{error:?}");
    assert!(text.contains("format 2 is newer than 1"), "{text}");
    tamper(&files.path(), |write| {
        write.open_table(META).unwrap().insert("format", 1).unwrap();
    });
    let store = files.open();
    assert_eq!(store.load().await.unwrap().clusters.len(), 3, "a refused file lost something");
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_as_it_is() {
    let files = Embedded::default();
    for (content, reason) in [
        (b"".to_vec(), "no store file"),
        (b"clusters: []\n".to_vec(), "no store file"),
        (vec![0; 100_000], "no store file"),
        ((0..100_000_u32).flat_map(u32::to_le_bytes).collect(), "no store file"),
    ] {
        std::fs::write(files.path(), content).unwrap();
        expect_unusable(&files.path(), reason);
    }
}

#[test]
fn a_database_of_another_program_is_refused() {
    let files = Embedded::default();
    let theirs: TableDefinition<'_, u64, u64> = TableDefinition::new("theirs");
    drop(redb::Database::create(files.path()).unwrap());
    for table in ["theirs", "meta"] {
        tamper(&files.path(), |write| {
            let theirs = TableDefinition::<u64, u64>::new(table);
            write.open_table(theirs).unwrap().insert(1, 1).unwrap();
        });
        let error = EmbeddedStore::open(&files.path()).expect_err(table);
        assert!(error.to_string().contains("not one of jcm-server"), "{table}: {error}");
    }
    tamper(&files.path(), |write| {
        assert_eq!(write.open_table(theirs).unwrap().get(1).unwrap().unwrap().value(), 1);
    });
}

#[tokio::test]
async fn a_damaged_page_is_refused_at_the_start() {
    let files = Embedded::default();
    {
        let store = files.open();
        let mut expected = Expected::default();
        expected.commit(&store, &[("a", cluster(json!({})))]).await;
        for number in 0..20 {
            expected.commit(&store, &[("a", put_nodes(number * 50..(number + 1) * 50))]).await;
        }
    }
    let mut bytes = std::fs::read(files.path()).unwrap();
    let node = b"n000500";
    let mut found = 0;
    for at in 0..bytes.len() - node.len() {
        if bytes[at..].starts_with(node) {
            bytes[at] ^= 0x80;
            found += 1;
        }
    }
    assert!(found > 0, "the node is nowhere in the file");
    std::fs::write(files.path(), bytes).unwrap();
    let error = EmbeddedStore::open(&files.path()).expect_err("a damaged page");
    assert!(matches!(error, LoadError::Unusable { .. }), "{error:?}");
    assert!(error.to_string().contains("damaged"), "{error}");
}

#[test]
fn a_file_that_is_open_elsewhere_is_refused_by_name() {
    let files = Embedded::default();
    let held = files.open();
    let error = EmbeddedStore::open(&files.path()).expect_err("the file is open");
    let text = error.to_string();
    assert!(text.contains("another jcm-server uses this data directory"), "{text}");
    assert!(text.contains(&files.path().display().to_string()), "{text}");
    drop(held);
    files.open();
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let files = Embedded::default();
    let path = files.path().join("missing").join("store.redb");
    let error = EmbeddedStore::open(&path).expect_err("there is no directory");
    assert!(error.to_string().contains("missing"), "{error}");
}

#[tokio::test]
async fn a_cluster_that_cannot_be_read_is_quarantined_and_the_others_are_served() {
    type Damage = fn(&redb::WriteTransaction);
    let cases: [(&str, Damage); 5] = [
        ("node `n000001` cannot be read", |write| {
            let mut nodes = write.open_table(NODES).unwrap();
            nodes.insert((&b"bad"[..], &b"n000001"[..]), &b"\x01\x00\xff\xff"[..]).unwrap();
        }),
        ("record is of another node", |write| {
            let mut nodes = write.open_table(NODES).unwrap();
            let row = nodes.get((&b"bad"[..], &b"n000001"[..])).unwrap().unwrap().value().to_vec();
            nodes.insert((&b"bad"[..], &b"n000003"[..]), row.as_slice()).unwrap();
        }),
        ("format version 9 is newer than the 1", |write| {
            let mut clusters = write.open_table(CLUSTERS).unwrap();
            clusters.insert(&b"bad"[..], &b"\x09whatever"[..]).unwrap();
        }),
        ("header cannot be read", |write| {
            let mut clusters = write.open_table(CLUSTERS).unwrap();
            clusters.insert(&b"bad"[..], &b""[..]).unwrap();
        }),
        ("nodes and no header", |write| {
            write.open_table(CLUSTERS).unwrap().remove(&b"bad"[..]).unwrap();
        }),
    ];
    for (reason, damage) in cases {
        let files = Embedded::default();
        let mut expected = three_clusters(&files).await;
        tamper(&files.path(), damage);
        let store = files.open();
        let snapshot = store.load().await.unwrap();
        let [(cluster_name, found)] = &snapshot.quarantined[..] else {
            panic!("{reason}: quarantined: {:?}", snapshot.quarantined);
        };
        assert_eq!(cluster_name, &name("bad"));
        assert!(found.contains(reason), "{found} instead of {reason}");
        let served: Vec<_> = snapshot.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
        assert_eq!(served, ["good", "other"], "{reason}");

        // Whoever loaded that believes that there is no such cluster.
        let mut belief = expected.clone();
        belief.clusters.remove(&name("bad"));
        let head = expected.head;
        let creation = belief.change("bad", &cluster(json!({ "nodes": [node(9)] })));
        let error = store.commit(transaction(vec![creation]), at(store.id(), head)).await.unwrap_err();
        assert!(matches!(error, CommitError::Refused { .. }), "{reason}: {error:?}");
        assert!(error.to_string().contains("cluster `bad` cannot be read"), "{reason}: {error}");
        assert_eq!(store.load().await.unwrap().quarantined, snapshot.quarantined, "{reason}");
        expected.commit(&store, &[("good", put_nodes([9]))]).await;

        // To delete it, on purpose, is the way out.
        expected.commit(&store, &[("bad", Mutation::DeleteCluster)]).await;
        expected.expect_in(&store).await;
        expected.commit(&store, &[("bad", cluster(json!({ "nodes": [node(9)] })))]).await;
        expected.expect_in(&store).await;
    }
}

#[tokio::test]
async fn rows_under_an_alien_name_are_left_alone() {
    let files = Embedded::default();
    let expected = three_clusters(&files).await;
    tamper(&files.path(), |write| {
        let mut clusters = write.open_table(CLUSTERS).unwrap();
        clusters.insert(&b"\xff\xfe"[..], &b"?"[..]).unwrap();
        clusters.insert(&b"not/a name"[..], &b"?"[..]).unwrap();
        write.open_table(NODES).unwrap().insert((&b""[..], &b"\xff"[..]), &b"?"[..]).unwrap();
    });
    expected.expect_in(&files.open()).await;
}

#[tokio::test]
async fn a_damaged_record_of_the_log_costs_its_followers_a_load_and_nothing_else() {
    let files = Embedded::default();
    let mut expected = three_clusters(&files).await;
    tamper(&files.path(), |write| {
        write.open_table(LOG).unwrap().insert(2, (1, &b"\x01\x00\xff"[..])).unwrap();
    });
    let store = files.open();
    let snapshot = expected.expect_in(&store).await;
    let remembered: Vec<_> = snapshot.operations.iter().map(|operation| operation.revision.0).collect();
    assert_eq!(remembered, [1, 3]);
    let mut early = store.changes(at(store.id(), Revision::ZERO)).await.unwrap();
    assert_eq!(range(&mut early).await, (1, 1));
    expect_reset(&mut early).await;
    let mut late = store.changes(at(store.id(), Revision(2))).await.unwrap();
    assert_eq!(range(&mut late).await, (3, 3));
    expected.commit(&store, &[("good", put_nodes([5]))]).await;
    assert_eq!(range(&mut late).await, (4, 4));
}
