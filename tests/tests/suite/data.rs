//! The data directory: locked, recognised, and never replaced by something that merely starts.

use jcm_tests::Server;
use serde_json::json;
use tempfile::TempDir;

use crate::lifecycle::check_refused;

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused() {
    let data = TempDir::new().unwrap();
    let first = Server::dev().data(data.path()).start().await;
    let exit = Server::dev()
        .data(data.path())
        .try_start()
        .await
        .expect_err("it must refuse");
    check_refused(&exit, &[&data.path().display().to_string()]);
    let client = first.client();
    client.put_cluster("orders", &json!({ "nodes": [] })).await.ok();
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_one_is_refused_by_name() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    let exit = Server::dev()
        .data(&file)
        .try_start()
        .await
        .expect_err("it must refuse");
    check_refused(&exit, &[&file.display().to_string()]);
}

#[tokio::test]
async fn data_that_is_not_its_own_is_refused_and_left_alone() {
    let data = TempDir::new().unwrap();
    let first = Server::dev().data(data.path()).start().await;
    first
        .client()
        .put_cluster("orders", &json!({ "nodes": [] }))
        .await
        .ok();
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
                assert_eq!(
                    std::fs::read(&path).unwrap(),
                    alien,
                    "{} was changed",
                    path.display()
                );
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
