//! The data directory: locked, recognised, and never replaced by something that merely starts.

use std::path::Path;

use jcm_tests::Server;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixtures::cluster;
use crate::lifecycle::check_refused;

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused() {
    let data = TempDir::new().unwrap();
    let first = Server::dev().data(data.path()).start().await;
    let exit = Server::dev().data(data.path()).try_start().await.expect_err("it must refuse");
    check_refused(&exit, &[&data.path().display().to_string()]);
    let client = first.client();
    client.put_cluster("orders", &json!({ "nodes": [] })).await.ok();
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_one_is_refused_by_name() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    let exit = Server::dev().data(&file).try_start().await.expect_err("it must refuse");
    check_refused(&exit, &[&file.display().to_string()]);
}

#[tokio::test]
async fn data_that_is_not_its_own_is_refused_and_left_alone() {
    let data = TempDir::new().unwrap();
    let first = Server::dev().data(data.path()).start().await;
    first.client().put_cluster("orders", &json!({ "nodes": [] })).await.ok();
    drop(first);
    // Every file in turn becomes something else.
    for entry in std::fs::read_dir(data.path()).unwrap() {
        let path = entry.unwrap().path();
        let Ok(kept) = std::fs::read(&path) else { continue };
        if kept.is_empty() {
            continue;
        }
        let alien = b"this was written by somebody else entirely".repeat(200);
        std::fs::write(&path, &alien).unwrap();
        match Server::dev().data(data.path()).try_start().await {
            Err(exit) => {
                check_refused(&exit, &[&data.path().display().to_string()]);
                assert_eq!(std::fs::read(&path).unwrap(), alien, "{} was changed", path.display());
            }
            // A file that it can do without, such as a lock: the definitions must still be there.
            Ok(server) => {
                server.client().get_cluster("orders").await.ok();
            }
        }
        std::fs::write(&path, kept).unwrap();
    }
    let server = Server::dev().data(data.path()).start().await;
    server.client().get_cluster("orders").await.ok();
}

/// A directory that a server has written two clusters to, and ended well.
async fn written() -> TempDir {
    let data = TempDir::new().expect("a temporary directory");
    let mut server = Server::dev().data(data.path()).start().await;
    let client = server.client();
    client.put_cluster("orders", &cluster(1..50)).await.ok();
    client.put_cluster("billing", &cluster(1..5)).await.ok();
    assert!(server.terminate().await.success());
    data
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a data directory") {
        let path = entry.expect("a file in it").path();
        std::fs::copy(&path, to.join(path.file_name().expect("it has a name"))).expect("copied");
    }
}

#[tokio::test]
async fn a_newer_format_is_refused_and_left_alone() {
    let data = written().await;
    let path = data.path().join("server.json");
    let mut identity: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let format = identity["format"].as_u64().expect("every format starts with its version");
    identity["format"] = json!(format + 1);
    // A later version knows fields that this one does not.
    identity["later"] = json!({ "more": true });
    let newer = serde_json::to_vec(&identity).unwrap();
    std::fs::write(&path, &newer).unwrap();
    let exit = Server::dev().data(data.path()).try_start().await.expect_err("it must refuse");
    check_refused(&exit, &["server.json", "newer", &(format + 1).to_string()]);
    assert_eq!(std::fs::read(&path).unwrap(), newer, "it was changed");
}

#[tokio::test]
async fn the_store_of_another_server_is_refused_and_left_alone() {
    let (data, other) = (written().await, written().await);
    let taken = data.path().join("definitions.redb");
    let home = other.path().join("definitions.redb");
    std::fs::copy(&home, &taken).unwrap();
    let exit = Server::dev().data(data.path()).try_start().await.expect_err("it must refuse");
    check_refused(&exit, &[&data.path().display().to_string()]);
    // Back where it belongs, it serves as if nothing had happened.
    std::fs::copy(&taken, &home).unwrap();
    let server = Server::dev().data(other.path()).start().await;
    let held = server.client().get_cluster("orders").await;
    assert_eq!(held.ok()["nodes"].as_array().map(Vec::len), Some(49), "{held}");
}

#[tokio::test]
async fn a_lost_store_is_not_replaced_by_an_empty_one() {
    let data = written().await;
    std::fs::remove_file(data.path().join("definitions.redb")).unwrap();
    let exit = Server::dev().data(data.path()).try_start().await.expect_err("it must refuse");
    check_refused(&exit, &[&data.path().display().to_string()]);
    // Refusing once must not prepare the ground for a second try.
    let exit = Server::dev().data(data.path()).try_start().await.expect_err("it must refuse again");
    check_refused(&exit, &[&data.path().display().to_string()]);
}

fn ports(cluster: &Value) -> Vec<Value> {
    let nodes = cluster["nodes"].as_array().expect("nodes");
    nodes.iter().map(|node| node["ports"]["http"].clone()).collect()
}

/// Starts on a damaged copy. Refusing is right, and so is serving what was written; anything else is not.
async fn check_damaged(data: &Path, what: &str) {
    match Server::dev().data(data).try_start().await {
        Err(exit) => check_refused(&exit, &[&data.display().to_string()]),
        Ok(server) => {
            let client = server.client();
            for (name, wanted) in [("orders", cluster(1..50)), ("billing", cluster(1..5))] {
                let held = client.get_cluster(name).await;
                assert_eq!(held.status, 200, "{what}: it serves, and {name} is gone: {held}");
                let (mut found, wanted) = (ports(&held.body), ports(&wanted));
                found.sort_by_key(Value::as_u64);
                assert_eq!(found, wanted, "{what}: {name} is not what was written: {held}");
            }
        }
    }
}

#[tokio::test]
async fn a_store_that_was_cut_is_refused() {
    let original = written().await;
    let length = std::fs::metadata(original.path().join("definitions.redb")).unwrap().len();
    for part in [0, 1, 2, 4, 8, 12, 15] {
        let data = TempDir::new().unwrap();
        copy(original.path(), data.path());
        let file = std::fs::File::options().write(true).open(data.path().join("definitions.redb")).unwrap();
        file.set_len(length * part / 16).unwrap();
        check_damaged(data.path(), &format!("cut at {part}/16")).await;
    }
}

#[tokio::test]
async fn a_store_with_flipped_bits_is_refused_or_harmless() {
    const FLIPS: usize = 48;
    let original = written().await;
    let path = original.path().join("definitions.redb");
    let bytes = std::fs::read(&path).unwrap();
    // Where there is something: pages that were never written are zero, and nobody reads them.
    let used: Vec<usize> = (0..bytes.len()).filter(|index| bytes[*index] != 0).collect();
    for flip in 0..FLIPS {
        let index = used[flip * used.len() / FLIPS];
        let data = TempDir::new().unwrap();
        copy(original.path(), data.path());
        let mut damaged = bytes.clone();
        damaged[index] ^= 0x10;
        std::fs::write(data.path().join("definitions.redb"), damaged).unwrap();
        check_damaged(data.path(), &format!("byte {index} flipped")).await;
    }
}
