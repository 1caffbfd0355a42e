//! `jcmctl` as a person and as a script see it: what it prints where, and how it exits.

use std::process::Stdio;
use std::time::Duration;

use jcm_tests::process::{self, Exit};
use jcm_tests::{Client, Server, Target, binary, eventually, loopback};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

const PROGRAM_DEADLINE: Duration = Duration::from_secs(45);

/// The exit codes are the contract with scripts.
const OK: i32 = 0;
const FAILURE: i32 = 1;
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const CONDITION_NOT_MET: i32 = 4;
const REVISION_CONFLICT: i32 = 5;
const UNREACHABLE: i32 = 7;

/// A server and a home directory without a configuration.
struct Shell {
    server: Server,
    client: Client,
    home: TempDir,
}

impl Shell {
    async fn start() -> Self {
        let server = Server::dev().start().await;
        let client = server.client();
        Self { server, client, home: TempDir::new().expect("a home directory") }
    }

    async fn run(&self, arguments: &[&str]) -> Exit {
        self.run_with(arguments, &[("JCM_SERVER", &self.server.url())], b"").await
    }

    async fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)], input: &[u8]) -> Exit {
        let home = self.home.path().display().to_string();
        let environment = [environment, &[("HOME", &home), ("XDG_CONFIG_HOME", &home)]].concat();
        let exit =
            process::run_with(&binary::program("jcmctl"), arguments, &environment, input, PROGRAM_DEADLINE)
                .await;
        assert!(!exit.stderr.contains("panicked"), "{arguments:?}: {exit:#?}");
        exit
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let exit = self.run(&[arguments, &["-o", "json"]].concat()).await;
        let text = exit.expect_success();
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {exit:#?}"))
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).expect("write a file");
        path.display().to_string()
    }
}

/// A failure says nothing on standard output, and names every part on standard error.
#[track_caller]
fn check_failure(exit: &Exit, code: i32, parts: &[&str]) {
    assert_eq!(exit.code, Some(code), "{exit:#?}");
    assert_eq!(exit.stdout, "", "data only on standard output: {exit:#?}");
    for part in parts {
        assert!(exit.stderr.contains(part), "it must name {part:?}: {exit:#?}");
    }
}

#[tokio::test]
async fn a_cluster_is_created_shown_listed_and_deleted() {
    let shell = Shell::start().await;
    let node = ["--node", "127.0.0.9:18080", "--node", "127.0.0.9:http=18081,grpc=19090"];
    let create =
        [["cluster", "create", "orders"].as_slice(), &node, &["--property", "timeout_ms=300"]].concat();
    shell.run(&create).await.expect_success();

    let held = shell.json(&["cluster", "get", "orders"]).await;
    assert_eq!(held, *shell.client.get_cluster("orders").await.ok(), "as the server sends it");
    assert_eq!(held["properties"], json!({ "timeout_ms": "300" }));
    assert_eq!(held["nodes"].as_array().map(Vec::len), Some(2));

    shell.client.put_cluster("billing", &json!({ "nodes": [] })).await.ok();
    let names = shell.run(&["cluster", "list", "-o", "name"]).await;
    assert_eq!(names.expect_success(), "billing\norders\n");
    let list = shell.json(&["cluster", "list"]).await;
    assert!(list.to_string().contains("\"orders\""), "{list}");
    let table = shell.run(&["cluster", "list"]).await;
    assert!(table.expect_success().contains("orders"), "{table:#?}");
    assert!(!table.stdout.contains('\u{1b}'), "no colours into a pipe: {table:#?}");

    shell.run(&["cluster", "delete", "orders", "--yes"]).await.expect_success();
    check_failure(&shell.run(&["cluster", "get", "orders"]).await, NOT_FOUND, &["orders"]);
    check_failure(&shell.run(&["cluster", "delete", "orders", "--yes"]).await, NOT_FOUND, &["orders"]);
}

#[tokio::test]
async fn creating_what_exists_exits_with_4_and_changes_nothing() {
    let shell = Shell::start().await;
    let revision =
        shell.client.put_cluster("orders", &json!({ "properties": { "a": "1" } })).await.revision();
    let exit = shell.run(&["cluster", "create", "orders", "--node", "127.0.0.9:1"]).await;
    check_failure(&exit, CONDITION_NOT_MET, &["orders"]);
    assert_eq!(shell.client.get_cluster("orders").await.etag(), revision);
}

#[tokio::test]
async fn nodes_are_added_listed_changed_and_removed() {
    let shell = Shell::start().await;
    shell.client.put_cluster("orders", &json!({ "nodes": [] })).await.ok();
    shell
        .run(&["node", "add", "orders", "127.0.0.9:1", "127.0.0.9:2", "[::1]:3", "--weight", "7"])
        .await
        .expect_success();
    let names = shell.run(&["node", "list", "orders", "-o", "name"]).await;
    let mut ids: Vec<_> = names.expect_success().lines().collect();
    ids.sort_unstable();
    assert_eq!(ids, ["127.0.0.9:1", "127.0.0.9:2", "[::1]:3"]);
    assert_eq!(shell.client.view("orders").await.node("[::1]:3")["weight"], 7);
    let table = shell.run(&["node", "list", "orders"]).await;
    for part in ["127.0.0.9:1", "unknown", "no check"] {
        assert!(table.expect_success().contains(part), "{part}: {table:#?}");
    }

    shell.run(&["node", "set", "orders", "[::1]:3", "--draining", "true"]).await.expect_success();
    assert_eq!(shell.client.view("orders").await.node("[::1]:3")["admin"], "draining");
    shell.run(&["node", "remove", "orders", "[::1]:3", "127.0.0.9:2"]).await.expect_success();
    assert_eq!(shell.client.view("orders").await.node_ids(), ["127.0.0.9:1"]);

    check_failure(
        &shell.run(&["node", "remove", "orders", "127.0.0.9:9"]).await,
        NOT_FOUND,
        &["127.0.0.9:9"],
    );
    check_failure(&shell.run(&["node", "list", "absent"]).await, NOT_FOUND, &["absent"]);
    check_failure(&shell.run(&["node", "add", "absent", "127.0.0.9:1"]).await, NOT_FOUND, &["absent"]);
}

#[tokio::test]
async fn a_stale_revision_exits_with_5() {
    let shell = Shell::start().await;
    let stale = shell.client.put_cluster("orders", &json!({ "nodes": [] })).await.revision().to_string();
    shell.client.post_nodes("orders", &json!({ "address": "127.0.0.9", "ports": { "http": 1 } })).await.ok();
    for arguments in [
        ["node", "add", "orders", "127.0.0.9:2", "--if-revision", &stale].as_slice(),
        &["node", "remove", "orders", "127.0.0.9:1", "--if-revision", &stale],
        &["cluster", "delete", "orders", "--yes", "--if-revision", &stale],
    ] {
        check_failure(&shell.run(arguments).await, REVISION_CONFLICT, &["orders"]);
    }
    assert_eq!(shell.client.view("orders").await.node_ids(), ["127.0.0.9:1"]);
}

#[tokio::test]
async fn a_bad_command_line_exits_with_2() {
    let shell = Shell::start().await;
    for arguments in [
        ["cluster"].as_slice(),
        &["cluster", "get"],
        &["cluster", "get", ".."],
        &["cluster", "list", "-o", "xml"],
        &["node", "add", "orders", "localhost:80"],
        &["node", "add", "orders", "127.0.0.9"],
        &["node", "add", "orders", "127.0.0.9:70000"],
        &["resolve", "orders", "-n", "-1"],
        &["nonsense"],
        &[],
    ] {
        let exit = shell.run(arguments).await;
        assert_eq!(exit.code, Some(USAGE), "{arguments:?}: {exit:#?}");
        assert_eq!(exit.stdout, "", "{arguments:?}: {exit:#?}");
    }
    shell.run(&["--help"]).await.expect_success();
    shell.run(&["--version"]).await.expect_success();
}

#[tokio::test]
async fn no_server_exits_with_7_and_names_it() {
    let shell = Shell::start().await;
    let nobody = format!("http://{}:1", loopback::next());
    for arguments in
        [["cluster", "list"].as_slice(), &["resolve", "orders"], &["cluster", "delete", "x", "--yes"]]
    {
        let exit = shell.run_with(arguments, &[("JCM_SERVER", &nobody)], b"").await;
        check_failure(&exit, UNREACHABLE, &[&nobody]);
    }
}

#[tokio::test]
async fn a_second_server_is_asked_when_the_first_is_gone() {
    let shell = Shell::start().await;
    shell.client.put_cluster("orders", &json!({ "nodes": [] })).await.ok();
    let nobody = format!("http://{}:1", loopback::next());
    let url = shell.server.url();
    let arguments = ["--server", &nobody, "--server", &url, "cluster", "list", "-o", "name"];
    let exit = shell.run_with(&arguments, &[], b"").await;
    assert_eq!(exit.expect_success(), "orders\n");
}

const TWO_CLUSTERS: &str = "\
name: orders
check: { kind: tcp, interval: 10s }
nodes:
  - { address: 127.0.0.9, ports: { http: 1 } }
  - { address: 127.0.0.9, ports: { http: 2 }, weight: 50 }
---
name: billing
properties: { mode: fast }
nodes: []
";

#[tokio::test]
async fn a_file_is_compared_applied_exported_and_applied_again() {
    let shell = Shell::start().await;
    let file = shell.file("two.yaml", TWO_CLUSTERS);
    let diff = shell.run(&["diff", "-f", &file]).await;
    assert!(diff.expect_code(FAILURE).contains("orders"), "{diff:#?}");
    shell.run(&["apply", "-f", &file, "--dry-run"]).await.expect_success();
    shell.client.get_cluster("orders").await.expect_problem(404);

    shell.run(&["apply", "-f", &file]).await.expect_success();
    let orders = shell.client.get_cluster("orders").await;
    assert_eq!(orders.ok()["nodes"][1]["weight"], 50, "{orders}");
    let billing = shell.client.get_cluster("billing").await;
    assert_eq!(billing.ok()["properties"]["mode"], "fast", "{billing}");
    shell.run(&["diff", "-f", &file]).await.expect_success();

    let exported = shell.run(&["export"]).await;
    let export = shell.file("export.yaml", exported.expect_success());
    shell.run(&["diff", "-f", &export]).await.expect_success();
    shell.run(&["apply", "-f", &export]).await.expect_success();
    assert_eq!(shell.client.get_cluster("orders").await.etag(), orders.etag(), "nothing was changed");

    // The same from standard input, and in JSON.
    let input = json!([{ "name": "billing", "properties": { "mode": "slow" } }]).to_string();
    let server = [("JCM_SERVER", shell.server.url())];
    let environment = server.each_ref().map(|(name, value)| (*name, value.as_str()));
    shell.run_with(&["apply", "-f", "-"], &environment, input.as_bytes()).await.expect_success();
    assert_eq!(shell.client.get_cluster("billing").await.body["properties"]["mode"], "slow");

    let one = shell.file("one.yaml", "name: billing\n");
    shell.run(&["apply", "-f", &one, "--prune", "--yes"]).await.expect_success();
    shell.client.get_cluster("orders").await.expect_problem(404);
}

#[tokio::test]
async fn a_bad_file_exits_with_2_naming_file_and_place_and_changes_nothing() {
    let shell = Shell::start().await;
    for (text, part) in [
        ("name: orders\nnodez: []\n", "nodez"),
        ("name: [\n", "yaml"),
        ("nodes: []\n", "name"),
        ("name: orders\nnodes:\n  - { address: localhost, ports: { http: 1 } }\n", "localhost"),
        ("name: ../x\n", "name"),
        (
            "name: good\n---\nname: bad\nnodes: [{ address: 127.0.0.9, ports: { http: 1 }, weight: 0 }]\n",
            "weight",
        ),
        ("name: twice\n---\nname: twice\n", "twice"),
    ] {
        let file = shell.file("bad.yaml", text);
        let exit = shell.run(&["apply", "-f", &file]).await;
        check_failure(&exit, USAGE, &["bad.yaml", part]);
    }
    check_failure(&shell.run(&["apply", "-f", "/nowhere/x.yaml"]).await, USAGE, &["/nowhere/x.yaml"]);
    let list = shell.client.get("/v1/clusters").await;
    assert_eq!(list.ok()["clusters"], json!([]), "{list}");
}

#[tokio::test]
async fn resolve_and_why_follow_the_checks() {
    let shell = Shell::start().await;
    let target = Target::start(3).await;
    let check = json!({ "kind": "http", "interval": "400ms", "timeout": "350ms", "fall": 2 });
    shell.client.put_cluster("orders", &json!({ "check": check, "nodes": target.definitions() })).await.ok();
    shell.run(&["wait", "orders", "--for", "healthy", "--timeout", "30s"]).await.expect_success();
    let dead = target.nodes()[0];
    target.behave_at(dead, "error500").await;
    eventually(Duration::from_secs(30), "down", async || {
        let view = shell.client.view("orders").await;
        if view.node(&dead.to_string())["verdict"] == "down" { Ok(()) } else { Err(view) }
    })
    .await;
    let picked = shell.run(&["resolve", "orders", "-n", "10", "-o", "name"]).await;
    assert_eq!(picked.expect_success().lines().count(), 2, "{picked:#?}");
    assert!(!picked.stdout.contains(&dead.to_string()), "{picked:#?}");
    let why = shell.run(&["why", "orders", &dead.to_string()]).await;
    for part in ["down", "500"] {
        assert!(why.expect_success().contains(part), "{part}: {why:#?}");
    }
    let exit = shell.run(&["wait", "orders", "--for", "healthy", "--timeout", "1s"]).await;
    assert_eq!(exit.code, Some(CONDITION_NOT_MET), "{exit:#?}");
    check_failure(&shell.run(&["resolve", "absent"]).await, NOT_FOUND, &["absent"]);
    check_failure(&shell.run(&["why", "orders", "127.0.0.9:1"]).await, NOT_FOUND, &["127.0.0.9:1"]);
}

#[tokio::test]
async fn nothing_routable_exits_with_4() {
    let shell = Shell::start().await;
    shell.client.put_cluster("orders", &json!({ "nodes": [] })).await.ok();
    let exit = shell.run(&["resolve", "orders"]).await;
    assert_eq!(exit.code, Some(CONDITION_NOT_MET), "{exit:#?}");
}

#[tokio::test]
async fn watch_prints_a_line_of_json_for_each_event() {
    let shell = Shell::start().await;
    shell.client.put_cluster("orders", &json!({ "nodes": [] })).await.ok();
    let mut child = Command::new(binary::program("jcmctl"))
        .args(["--server", &shell.server.url(), "watch", "orders", "--count", "2"])
        .env("HOME", shell.home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(PROGRAM_DEADLINE, lines.next_line()).await.expect("a line in time");
        let line = line.unwrap().expect("a line");
        serde_json::from_str::<Value>(&line).unwrap_or_else(|error| panic!("{error} in {line}"))
    };
    let first = next().await;
    assert!(first.to_string().contains("orders"), "{first}");
    shell.client.post_nodes("orders", &json!({ "address": "127.0.0.9", "ports": { "http": 1 } })).await.ok();
    let second = next().await;
    assert!(second.to_string().contains("127.0.0.9:1"), "{second}");
    let status = tokio::time::timeout(PROGRAM_DEADLINE, child.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(OK));
}

#[tokio::test]
async fn version_tells_its_own_and_the_servers() {
    let shell = Shell::start().await;
    let exit = shell.run(&["version"]).await;
    let servers = shell.client.get("/v1/servers").await;
    let version = servers.ok()["servers"][0]["version"].as_str().expect("a version");
    assert!(exit.expect_success().contains(version), "{exit:#?}");
    // It is of use without a server, too.
    let nobody = format!("http://{}:1", loopback::next());
    let exit = shell.run_with(&["version"], &[("JCM_SERVER", &nobody)], b"").await;
    assert!(exit.stdout.contains(env!("CARGO_PKG_VERSION")), "{exit:#?}");
}

#[tokio::test]
async fn what_a_server_says_cannot_command_a_terminal() {
    let shell = Shell::start().await;
    // A name that no server would accept, asked for by a script that passes anything on.
    let exit = shell.run(&["cluster", "get", "a\u{1b}[31mb"]).await;
    assert_eq!(exit.code, Some(USAGE), "{exit:#?}");
    assert!(!exit.stderr.contains('\u{1b}'), "{exit:#?}");
}
