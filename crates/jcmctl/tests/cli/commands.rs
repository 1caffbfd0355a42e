//! What each command sends, and what it makes of the answer.

use serde_json::{Value, json};

use crate::program::Program;
use crate::scripted::{Reply, Server, nobody};

fn written() -> Reply {
    Reply::json(200, &json!({"revision": 7, "operation": "op-1"}))
}

fn at(server: &Server, arguments: &str) -> Program {
    Program::new(arguments).env("JCM_SERVER", server.url())
}

#[test]
fn create_sends_the_definition_for_a_cluster_that_is_not_there() {
    let server = Server::new(vec![written()]);
    let out = at(
        &server,
        "cluster create orders --node 127.0.0.1:18080 --node [::1]:http=1,grpc=2 --check http --path /status --interval 500ms --property timeout_ms=300",
    )
    .run()
    .ok();
    assert_eq!(out, "cluster `orders` created with 2 nodes, revision 7\n");
    let asked = server.asked_once();
    assert_eq!(asked.line, "PUT /v1/clusters/orders");
    assert_eq!(asked.header("if-none-match"), Some("*"));
    assert!(asked.header("idempotency-key").is_some_and(|key| key.len() >= 16));
    assert_eq!(
        asked.body,
        json!({
            "name": "orders",
            "check": {"kind": "http", "path": "/status", "interval": "500ms"},
            "properties": {"timeout_ms": "300"},
            "nodes": [
                {"address": "127.0.0.1", "ports": {"http": 18080}},
                {"address": "::1", "ports": {"grpc": 2, "http": 1}},
            ],
        })
    );
}

#[test]
fn create_of_a_cluster_that_exists_is_a_condition_not_met() {
    let refusal = json!({"title": "Condition not met", "status": 412, "detail": "it is there", "found": 42});
    let server = Server::new(vec![Reply::json(412, &refusal)]);
    let line = at(&server, "cluster create orders").run().failed(4);
    assert!(line.contains("`orders` exists already") && line.contains("42"), "{line}");
    assert!(line.contains("jcmctl cluster get orders"), "{line}");
}

#[test]
fn a_write_on_another_revision_is_a_conflict_that_names_the_one_found() {
    let refusal = json!({"title": "Condition not met", "status": 412, "detail": "it differs", "found": 42});
    let server = Server::new(vec![Reply::json(412, &refusal)]);
    let line = at(&server, "cluster delete orders --if-revision 41").run().failed(5);
    assert!(line.contains("found revision 42") && line.contains("jcmctl cluster get orders"), "{line}");
    assert_eq!(server.asked_once().header("if-match"), Some("\"41\""));
}

#[test]
fn delete_takes_several_clusters_each_with_a_key_of_its_own() {
    let server = Server::new(vec![written()]);
    at(&server, "cluster delete a b --idempotency-key k").run().ok();
    assert_eq!(server.lines(), ["DELETE /v1/clusters/a", "DELETE /v1/clusters/b"]);
    let keys: Vec<_> =
        server.asked().iter().map(|asked| asked.header("idempotency-key").map(str::to_owned)).collect();
    assert_eq!(keys, [Some("k".to_owned()), Some("k-1".to_owned())]);
}

#[test]
fn nodes_are_added_changed_and_removed() {
    let server = Server::new(vec![written()]);
    at(&server, "node add orders 127.0.0.1:80 127.0.0.2:80 --weight 5 --zone z1 --label rack=a7").run().ok();
    at(&server, "node set orders [::1]:80 --draining true --label rack= --if-revision 3").run().ok();
    at(&server, "node remove orders 127.0.0.1:80 127.0.0.2:80").run().ok();
    at(&server, "node add orders -f -").input("- {address: 127.0.0.3, ports: {http: 1}}").run().ok();
    assert_eq!(
        server.lines(),
        [
            "POST /v1/clusters/orders/nodes",
            "PATCH /v1/clusters/orders/nodes/[::1]:80",
            "DELETE /v1/clusters/orders/nodes/127.0.0.1:80",
            "DELETE /v1/clusters/orders/nodes/127.0.0.2:80",
            "POST /v1/clusters/orders/nodes",
        ]
    );
    let asked = server.asked();
    let node = |address: &str| json!({"address": address, "ports": {"http": 80}, "weight": 5, "zone": "z1", "labels": {"rack": "a7"}});
    assert_eq!(asked[0].body, json!([node("127.0.0.1"), node("127.0.0.2")]));
    assert_eq!(asked[1].body, json!({"draining": true, "labels": {"rack": null}}));
    assert_eq!(asked[1].header("if-match"), Some("\"3\""));
    assert_eq!(asked[4].body, json!([{"address": "127.0.0.3", "ports": {"http": 1}}]));
}

#[test]
fn a_node_that_cannot_be_is_refused_before_anything_is_sent() {
    let server = Server::new(vec![written()]);
    for (arguments, part) in [
        ("node add orders 127.0.0.1:0", "ports.http: 0 is out of range"),
        ("node add orders localhost:80", "names are refused"),
        ("node add orders ::1:80", "an IPv6 address in brackets"),
        ("node add orders 127.0.0.1:80 --weight 0", "weight: 0 is refused"),
        ("node add orders 127.0.0.1:80 127.0.0.2:80 --id a", "--id: it fits one node only"),
        ("node set orders a", "nothing to set"),
        ("node set orders a b --weight 1 --if-revision 1", "--if-revision: it fits one node only"),
        ("cluster create orders --check ping", "unknown variant `ping`"),
        ("cluster create orders --check http --interval 1", "check.interval: `1` is no duration"),
        ("cluster get ../x", "`../x` is refused"),
    ] {
        let line = at(&server, arguments).run().failed(2);
        assert!(line.contains(part), "{arguments}: {line}");
    }
    assert_eq!(server.lines(), [""; 0]);
}

#[test]
fn apply_sends_all_files_as_one_request() {
    let results = json!({"revision": 9, "operation": "op", "results": [
        {"name": "a", "action": "created", "revision": 8, "header_changed": true, "nodes_added": ["x:1", "x:2"], "nodes_changed": [], "nodes_removed": []},
        {"name": "b", "action": "unchanged", "revision": 3, "header_changed": false, "nodes_added": [], "nodes_changed": [], "nodes_removed": []},
    ]});
    let server = Server::new(vec![Reply::json(200, &results)]);
    let program = || {
        at(&server, "apply -f one.yaml two.json -f -")
            .file("one.yaml", "name: a\n---\nname: b\n")
            .file("two.json", r#"[{"name":"c"}]"#)
            .input("name: d\n")
    };
    assert_eq!(
        program().run().ok(),
        "NAME  ACTION     REVISION  CHANGES\na     created    8         definition, +2 nodes\nb     unchanged  3         -\n"
    );
    let asked = server.asked_once();
    assert_eq!(asked.line, "POST /v1/apply");
    let names: Vec<Value> =
        asked.body["clusters"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert_eq!(asked.body["prune"], false);
    program().arg("--dry-run").arg("--prune").run().ok();
    assert_eq!(server.asked()[1].line, "POST /v1/apply?dry_run=true");
    assert_eq!(server.asked()[1].body["prune"], true);
    assert!(asked.header("idempotency-key").is_some());
    assert_eq!(server.asked()[1].header("idempotency-key"), None, "a dry run is no operation");
}

#[test]
fn a_file_with_a_mistake_is_shown_with_its_line_and_nothing_is_sent() {
    let server = Server::new(vec![written()]);
    for command in ["apply", "diff"] {
        let program = at(&server, command).arg("-f").arg("a.yaml");
        let line = program
            .file("a.yaml", "name: a\nnodes:\n  - { address: 127.0.0.1, ports: { http: 80 }, wieght: 3 }\n")
            .run()
            .failed(2);
        assert!(
            line.contains("a.yaml:3:") && line.contains("nodes[0].wieght: unknown field `wieght`"),
            "{line}"
        );
    }
    let line = at(&server, "apply -f none.yaml").in_home().run().failed(2);
    assert!(line.contains("none.yaml: No such file"), "{line}");
    assert_eq!(server.lines(), [""; 0]);
}

#[test]
fn diff_exits_with_one_when_there_is_a_difference() {
    let result = |action: &str| {
        let results = json!({"dry_run": true, "results": [{"name": "a", "action": action, "header_changed": false, "nodes_added": ["x:1"], "nodes_changed": [], "nodes_removed": ["y:1"]}]});
        Reply::json(200, &results)
    };
    let server = Server::new(vec![result("updated"), result("unchanged")]);
    let run = || at(&server, "diff -f -").input("name: a\n").run();
    let differs = run();
    assert_eq!((differs.exit, differs.err.as_str()), (1, ""));
    assert_eq!(differs.out, "~ cluster a (updated)\n    + node x:1\n    - node y:1\n");
    assert_eq!(run().ok(), "");
    assert_eq!(server.asked()[0].line, "POST /v1/apply?dry_run=true");
}

#[test]
fn resolve_asks_as_told_and_says_when_nothing_is_routable() {
    let node = json!({"id": "127.0.0.1:80", "address": "127.0.0.1", "ports": {"http": 80}});
    let pick = |nodes: Value| Reply::json(200, &json!({"cluster": "orders", "revision": 4, "nodes": nodes}));
    let server = Server::new(vec![pick(json!([node])), pick(json!([]))]);
    let out = at(&server, "resolve orders -n 2 --zone z1 --policy p2c -o name").run().ok();
    assert_eq!(out, "127.0.0.1:80\n");
    assert_eq!(server.asked_once().line, "GET /v1/resolve/orders?n=2&zone=z1&policy=p2c");
    let line = at(&server, "resolve orders").run().failed(4);
    assert!(line.contains("jcmctl node list orders"), "{line}");
}

#[test]
fn export_reads_back_as_it_was() {
    let cluster = |name: &str| json!({"name": name, "online": true, "check": {"kind": "none"}, "properties": {"a": "yes", "b": "1"}, "nodes": []});
    let server = Server::with(move |asked| match asked.line.as_str() {
        "GET /v1/clusters" => Reply::json(200, &json!({"clusters": [{"name": "a"}], "next": "a"})),
        "GET /v1/clusters?after=a" => {
            Reply::json(200, &json!({"clusters": [{"name": "gone"}, {"name": "b"}], "next": null}))
        }
        "GET /v1/clusters/gone" => Reply::problem(404, "there is no cluster `gone`"),
        line => Reply::json(200, &cluster(line.rsplit('/').next().unwrap())),
    });
    let yaml = at(&server, "export").run().ok();
    assert_eq!(yaml.matches("---\n").count(), 1, "{yaml}");
    let json = at(&server, "export -o json").run().ok();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), json!([cluster("a"), cluster("b")]));

    let sink = Server::new(vec![Reply::json(200, &json!({"revision": 1, "operation": "o", "results": []}))]);
    for text in [yaml, json, at(&server, "export -o jsonl").run().ok()] {
        at(&sink, "apply -f -").input(&text).run().ok();
    }
    for asked in sink.asked() {
        assert_eq!(asked.body["clusters"].as_array().unwrap().len(), 2);
        assert_eq!(asked.body["clusters"][1]["properties"], json!({"a": "yes", "b": "1"}));
    }
}

#[test]
fn wait_returns_when_the_view_is_as_wanted() {
    let view = |verdict: &str| json!({"name": "orders", "revision": 4, "token": "t 1", "nodes": [{"id": "a", "admin": "online", "verdict": verdict, "routable": true}]});
    let server = Server::new(vec![
        Reply::problem(503, "not loaded yet"),
        Reply::problem(404, "there is no cluster `orders`"),
        Reply::json(200, &view("down")),
        Reply::json(200, &view("healthy")),
    ]);
    let out = at(&server, "wait orders --for healthy --timeout 15s -o name").run().ok();
    assert_eq!(out, "orders\n");
    let lines = server.lines();
    assert_eq!(lines[..3], ["GET /v1/clusters/orders/view"; 3]);
    assert!(lines[3].starts_with("GET /v1/clusters/orders/view?token=t+1&wait="), "{lines:?}");
}

#[test]
fn wait_ends_with_four_and_says_what_is_missing() {
    let view = json!({"name": "orders", "revision": 4, "token": "", "nodes": []});
    let server = Server::new(vec![Reply::json(200, &view)]);
    let line = at(&server, "wait orders --for revision=5 --timeout 300ms").run().failed(4);
    assert!(line.contains("revision=5") && line.contains("it is at revision 4"), "{line}");
    let line =
        Program::new("wait orders --for nodes=1 --timeout 300ms --server").arg(nobody()).run().failed(4);
    assert!(line.contains("no server is reachable"), "{line}");
}

#[test]
fn contexts_are_kept_and_used() {
    let server = Server::new(vec![Reply::json(200, &json!({"clusters": [], "next": null}))]);
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &str| Program::new(arguments).env("HOME", home.path()).run();
    let url = server.url();
    run(&format!("config set-context test --server {url} --token-file /token")).ok();
    run("config set-context prod --server 127.0.0.1:9,127.0.0.1:10").ok();
    run("config set-context test --token-file token.txt").ok();
    let shown: Value = serde_json::from_str(&run("config view -o json").ok()).unwrap();
    assert_eq!(shown["current_context"], "test");
    assert_eq!(shown["contexts"][0]["servers"], json!(["http://127.0.0.1:9", "http://127.0.0.1:10"]));
    run("config use-context nowhere").failed(3);
    run("config use-context prod").ok();

    // The token file of a context is read when the context is used, and only then.
    let line = run("cluster list --context test").failed(2);
    assert!(line.contains("token file") && line.contains("token.txt"), "{line}");
    let token = home.path().join("token.txt");
    std::fs::write(&token, "secret\n").unwrap();
    run(&format!("config set-context test --token-file {}", token.display())).ok();
    run("cluster list --context test").ok();
    assert_eq!(server.asked_once().header("authorization"), Some("Bearer secret"));
}

#[test]
fn an_unknown_key_of_the_configuration_is_named() {
    let line = Program::new("cluster list")
        .file(".config/jcm/config.toml", "current_context = 'a'\n[contexts.a]\nserver = ['x']\n")
        .run()
        .failed(2);
    assert!(line.contains("config.toml: line 3: unknown field `server`"), "{line}");
}

#[test]
fn version_does_without_a_server() {
    let outcome = Program::new("version --server").arg(nobody()).run();
    assert!(outcome.err.contains("servers unknown"), "{outcome:?}");
    assert!(outcome.ok().contains(env!("CARGO_PKG_VERSION")));
    let servers = json!({"servers": [{"id": "s1", "advertise": "127.0.0.1:1", "zone": "z", "role": "leader", "version": "9.8.7"}]});
    let server = Server::new(vec![Reply::json(200, &servers)]);
    assert!(at(&server, "version").run().ok().contains("9.8.7"));
}

#[test]
fn every_shell_gets_a_completion_script() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Program::new("completion").arg(shell).run().ok();
        assert!(script.contains("jcmctl") && script.contains("resolve"), "{shell}");
    }
}

#[test]
fn help_names_every_exit_status() {
    let help = Program::new("--help").run().ok();
    for status in 0..=7 {
        assert!(help.contains(&format!("\n  {status}  ")), "{status} is missing");
    }
}
