//! The config: file, environment, flags, and refusals that name the key and where it came from.

use std::time::Duration;

use jcm_tests::process::{self, Exit};
use jcm_tests::{Server, binary};
use serde_json::json;
use tempfile::TempDir;

use crate::lifecycle::check_refused;

const PROGRAM_DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn serve_takes_a_config_file() {
    let server =
        Server::serve("id = \"server-a\"\nzone = \"z7\"\n[store]\nkind = \"embedded\"\n").start().await;
    let servers = server.client().get("/v1/servers").await;
    assert_eq!(servers.ok()["servers"][0]["id"], "server-a", "{servers}");
    assert_eq!(servers.body["servers"][0]["zone"], "z7", "{servers}");
    server.client().put_cluster("orders", &json!({ "nodes": [] })).await.ok();
}

#[tokio::test]
async fn the_environment_overrides_the_file() {
    let server = Server::serve("zone = \"z7\"\n").environment("JCM__SERVER__ZONE", "z8").start().await;
    let servers = server.client().get("/v1/servers").await;
    assert_eq!(servers.ok()["servers"][0]["zone"], "z8", "{servers}");
}

#[tokio::test]
async fn a_bad_config_is_refused_with_key_source_and_what_is_allowed() {
    for (config, parts) in [
        ("zones = \"z7\"\n", ["zones", "jcm.toml"].as_slice()),
        ("[store]\nkind = \"postgres\"\n", &["kind", "embedded", "jcm.toml"]),
        ("[health]\nthreads = \"many\"\n", &["threads", "jcm.toml"]),
        ("[health]\nthreads = 0\n", &["threads"]),
        ("[nonsense]\n", &["nonsense"]),
        ("zone = \n", &["jcm.toml"]),
        ("zone = \"a\\nb\"\n", &["zone"]),
        ("id = \"a/b\"\n", &["id"]),
    ] {
        let exit = Server::serve(config).try_start().await.err();
        let exit = exit.unwrap_or_else(|| panic!("{config:?} was accepted"));
        check_refused(&exit, parts);
    }
    let refused = Server::serve("").environment("JCM__STORE__KIND", "postgres").try_start().await;
    check_refused(&refused.expect_err("it must refuse"), &["JCM__STORE__KIND", "embedded"]);
    let refused = Server::serve("").environment("JCM__STORE__KIMD", "embedded").try_start().await;
    check_refused(&refused.expect_err("it must refuse"), &["JCM__STORE__KIMD"]);
    for listen in ["nonsense", "127.0.0.1", "127.0.0.1:70000", "localhost:0"] {
        let refused = Server::serve("").listen(listen).try_start().await;
        check_refused(&refused.expect_err("it must refuse"), &["listen", listen]);
    }
}

async fn run(arguments: &[&str]) -> Exit {
    process::run(&binary::program("jcm-server"), arguments, PROGRAM_DEADLINE).await
}

#[tokio::test]
async fn the_default_config_is_a_config() {
    let defaults = run(&["config", "defaults"]).await;
    let text = defaults.expect_success();
    assert!(text.contains("[server]") && text.contains("listen"), "{text}");
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("jcm.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    run(&["config", "check", "--config", &path]).await.expect_success();
    std::fs::write(&path, "[server]\nlistn = \"127.0.0.1:1\"\n").unwrap();
    let checked = run(&["config", "check", "--config", &path]).await;
    check_refused(&checked, &["listn", &path]);
}

#[tokio::test]
async fn a_missing_config_is_named() {
    let exit = run(&["serve", "--config", "/nowhere/jcm.toml"]).await;
    check_refused(&exit, &["/nowhere/jcm.toml"]);
}

#[tokio::test]
async fn unknown_flags_are_a_usage_error() {
    let exit = run(&["dev", "--nonsense"]).await;
    check_refused(&exit, &["--nonsense"]);
    assert_eq!(exit.code, Some(2));
    run(&["--help"]).await.expect_success();
    run(&["--version"]).await.expect_success();
}
