//! The snapshot on disk: a program starts and picks with every server down.

use std::fs;
use std::path::Path;
use std::time::Duration;

use jcm_model::{Revision, Verdict};
use jcm_subscriber::{Cluster, Status, Subscriber};

use crate::fake::Fake;
use crate::model::{healthy, id, state, token, view};
use crate::until_live;

async fn start(directory: &Path, server: &str) -> (Subscriber, Cluster) {
    let builder = Subscriber::builder()
        .servers([server])
        .snapshot_dir(directory)
        .ready_timeout(Duration::from_millis(50));
    let jcm = builder.build().await.unwrap();
    let cluster = jcm.cluster("orders").subscribe().await.unwrap();
    (jcm, cluster)
}

/// Runs a program until it has written the given views, one after another, then ends it and the server.
async fn run_once(directory: &Path, revisions: &[u64]) {
    let mut server = Fake::start().await;
    let (jcm, _cluster) = start(directory, &server.url()).await;
    let mut stream = server.welcome().await;
    stream.subscription().await;
    for revision in revisions {
        stream.send(view(&state(
            *revision,
            &[(1, Verdict::Healthy), (2, Verdict::Healthy), (3, Verdict::Down)],
        )));
        stream.acknowledged(*revision).await;
    }
    jcm.shutdown().await;
}

#[tokio::test]
async fn a_program_starts_from_disk_and_resumes_from_there() {
    let directory = tempfile::tempdir().unwrap();
    run_once(&directory.path().join("made/on/demand"), &[7]).await;
    let directory = directory.path().join("made/on/demand");

    let (jcm, orders) = start(&directory, "127.0.0.1:1").await;
    assert!(
        matches!(orders.status(), Status::Snapshot { age } if age < Duration::from_mins(10)),
        "{}",
        orders.status()
    );
    assert_eq!(orders.revision(), Some(Revision(7)));
    for _ in 0..10 {
        assert_ne!(orders.alloc().unwrap().id(), &id(3), "verdicts come from disk too");
    }
    jcm.shutdown().await;

    let mut server = Fake::start().await;
    let (_jcm, orders) = start(&directory, &server.url()).await;
    let mut stream = server.welcome().await;
    let resumed = stream.subscription().await;
    assert_eq!((resumed.revision, resumed.token), (7, token(&state(7, &[]))));
    stream.send(view(&state(8, &healthy(1..3))));
    until_live(&orders).await;
    assert_eq!(orders.revision(), Some(Revision(8)));
}

#[tokio::test]
async fn a_damaged_snapshot_gives_way_to_the_previous_one_then_to_nothing() {
    let directory = tempfile::tempdir().unwrap();
    run_once(directory.path(), &[7]).await;
    run_once(directory.path(), &[8]).await;
    let current = directory.path().join("orders.jcm");
    let previous = directory.path().join("orders.jcm.prev");

    let bytes = fs::read(&current).unwrap();
    for damage in [&bytes[..bytes.len() / 2], b"", b"nonsense that is longer than a header"] {
        fs::write(&current, damage).unwrap();
        let (jcm, orders) = start(directory.path(), "127.0.0.1:1").await;
        assert_eq!(orders.revision(), Some(Revision(7)));
        jcm.shutdown().await;
    }
    run_once(directory.path(), &[9]).await;
    fs::write(&current, b"").unwrap();
    let (jcm, orders) = start(directory.path(), "127.0.0.1:1").await;
    assert_eq!(orders.revision(), Some(Revision(7)), "a damaged file took the place of the previous one");
    jcm.shutdown().await;
    fs::write(&previous, b"").unwrap();
    let (jcm, orders) = start(directory.path(), "127.0.0.1:1").await;
    assert_eq!((orders.status(), orders.revision()), (Status::Unknown, None));
    jcm.shutdown().await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_any_more_stops_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("snapshots");
    let mut server = Fake::start().await;
    let (_jcm, orders) = start(&path, &server.url()).await;
    fs::remove_dir(&path).unwrap();
    fs::write(&path, b"in the way").unwrap();
    let stream = server.welcome().await;
    stream.send(view(&state(1, &healthy(1..2))));
    until_live(&orders).await;
    drop(orders.alloc().unwrap());
}
