//! How results look, and that nothing which a server says can take over a terminal.

use serde_json::{Value, json};

use crate::program::Program;
use crate::scripted::{Reply, Server};

fn listing() -> Server {
    Server::with(|asked| {
        let row =
            |name: &str| json!({"name": name, "revision": 3, "nodes": 2, "healthy": 1, "state": "degraded"});
        Reply::json(
            200,
            &match asked.line.as_str() {
                "GET /v1/clusters" => json!({"clusters": [row("a")], "next": "a"}),
                _ => json!({"clusters": [row("b")], "next": null}),
            },
        )
    })
}

fn run(server: &Server, arguments: &str) -> String {
    Program::new(arguments).env("JCM_SERVER", server.url()).run().ok()
}

#[test]
fn a_list_is_the_same_in_every_format_over_all_pages() {
    let server = listing();
    let table = "NAME  STATE     NODES  HEALTHY  REVISION\na     degraded  2      1        3\nb     degraded  2      1        3\n";
    assert_eq!(run(&server, "cluster list"), table);
    assert_eq!(run(&server, "cluster list -o name"), "a\nb\n");
    let names = |value: &Value| -> Vec<Value> {
        value["clusters"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect()
    };
    let json: Value = serde_json::from_str(&run(&server, "cluster list -o json")).unwrap();
    assert_eq!(names(&json), ["a", "b"]);
    let lines = run(&server, "cluster list -o jsonl");
    assert_eq!(
        lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["name"].clone())
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert!(run(&server, "cluster list -o yaml").contains("- name: a\n"));
    assert_eq!(server.lines()[..2], ["GET /v1/clusters", "GET /v1/clusters?after=a"]);
}

#[test]
fn nodes_show_verdict_and_routing_side_by_side() {
    let view = json!({"name": "orders", "revision": 4, "token": "t", "stale": true, "panic": true, "nodes": [
        {"id": "127.0.0.1:80", "address": "127.0.0.1", "ports": {"http": 80}, "weight": 100, "priority": 0, "zone": "z1", "labels": {"rack": "a7"},
         "admin": "online", "verdict": "down", "effective_weight": 100, "routable": true, "reason": "panic: down", "since": "2026-01-02T03:04:05.678901234Z"},
    ]});
    let server = Server::new(vec![Reply::json(200, &view)]);
    let outcome = Program::new("node list orders").env("JCM_SERVER", server.url()).run();
    assert!(outcome.err.contains("panic") && outcome.err.contains("stale"), "{outcome:?}");
    assert_eq!(
        outcome.ok(),
        "ID            ADDRESS    PORTS    ADMIN   VERDICT  ROUTABLE  WEIGHT  REASON\n\
         127.0.0.1:80  127.0.0.1  http=80  online  down     yes       100     panic: down\n"
    );
    let wide = run(&server, "node list orders -o wide -q");
    assert!(
        wide.contains("z1") && wide.contains("rack=a7") && wide.contains("2026-01-02T03:04:05Z"),
        "{wide}"
    );
    assert_eq!(server.lines(), ["GET /v1/clusters/orders/view"; 2]);
}

#[test]
fn a_lease_is_shown_where_there_is_one() {
    let lease = json!({"id": "00112233445566778899aabbccddeeff", "ttl": "10s"});
    let node = json!({"id": "a", "address": "127.0.0.1", "ports": {"http": 80}, "admin": "online", "verdict": "healthy",
         "effective_weight": 100, "weight": 100, "routable": true, "reason": null, "lease": lease});
    let server =
        Server::new(vec![Reply::json(200, &json!({"name": "orders", "token": "t", "nodes": [node]}))]);
    assert_eq!(
        run(&server, "node list orders"),
        "ID  ADDRESS    PORTS    ADMIN   VERDICT  ROUTABLE  WEIGHT  LEASE  REASON\n\
         a   127.0.0.1  http=80  online  healthy  yes       100     10s    -\n"
    );
    let mut lease = lease;
    for (renewed, shown) in [
        (json!(null), "no renewal is known"),
        (json!({"ms_ago": 1200.0, "through": "s2"}), "renewed 1200 ms ago through s2"),
    ] {
        lease["renewed"] = renewed;
        let server = Server::new(vec![Reply::json(200, &json!({"verdict": "healthy", "lease": lease}))]);
        let text = run(&server, "why orders a");
        assert!(text.contains(&format!("00112233445566778899aabbccddeeff, 10s, {shown}")), "{text}");
    }
}

#[test]
fn why_shows_the_evidence() {
    let why = json!({"cluster": "orders", "node": "a", "verdict": "down", "routable": false, "reason": "down", "owner": "s1",
        "vantages": [{"server": "s1", "results": [{"at": "2026-01-02T03:04:05Z", "outcome": "failure", "latency_ms": 1.5, "error": "connection refused"}]}],
        "thresholds": {"fall": 3, "rise": 2}, "protection": {"panic_below": 0.5}});
    let server = Server::new(vec![Reply::json(200, &why)]);
    let out = run(&server, "why orders a");
    for part in [
        "Verdict:     down",
        "fall=3 rise=2",
        "s1       2026-01-02T03:04:05Z  failure  1.5 ms   connection refused",
    ] {
        assert!(out.contains(part), "{part} is missing in\n{out}");
    }
    assert_eq!(server.asked_once().line, "GET /v1/clusters/orders/nodes/a/why");
}

#[test]
fn nothing_a_server_says_takes_over_the_terminal() {
    let evil = "x\u{1b}[2J\u{9b}31m\u{202e}\ry\n\u{7}";
    let bad = |text: &str| text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}');
    let page = json!({"clusters": [{"name": evil, "state": evil}], "next": null});
    let view = json!({"name": evil, "nodes": [{"id": evil, "verdict": evil, "reason": evil, "labels": {evil: evil}, "ports": {evil: 1}}]});
    let server = Server::with(move |asked| match asked.line.as_str() {
        "GET /v1/clusters" => Reply::json(200, &page),
        line if line.ends_with("view") => Reply::json(200, &view),
        line if line.contains("watch") => Reply::Stream(format!(
            "event: {evil}\nevent: delta\nid: 1\ndata: {}\n\n",
            json!({"cluster": evil, "nodes": [{"id": evil}], "removed": [evil]})
        )),
        _ => Reply::problem(400, evil),
    });
    for command in ["cluster list", "node list orders", "watch orders --count 1"] {
        for format in ["table", "wide", "json", "yaml", "jsonl", "name"] {
            if command.starts_with("watch") && matches!(format, "yaml" | "name") {
                continue;
            }
            let out = run(&server, &format!("{command} -o {format}"));
            assert!(!out.is_empty() && !bad(&out), "{command} -o {format}: {out:?}");
        }
    }
    let outcome = Program::new("cluster get orders -v").env("JCM_SERVER", server.url()).run();
    assert!(!bad(&outcome.err), "{:?}", outcome.err);
    outcome.failed(1);
}

#[test]
fn a_reader_that_hangs_up_is_no_error() {
    let server = listing();
    let program = Program::new("cluster list").env("JCM_SERVER", server.url());
    assert_eq!(program.run_without_reader(), 0);
}

#[test]
fn quiet_leaves_data_and_errors_only() {
    let server = Server::new(vec![Reply::json(200, &json!({"revision": 7, "operation": "op-1"}))]);
    assert_eq!(run(&server, "cluster delete orders -q"), "");
    let json: Value = serde_json::from_str(&run(&server, "cluster delete orders -q -o json")).unwrap();
    assert_eq!(json["revision"], 7);
    assert_eq!(run(&server, "cluster delete orders -o name"), "orders\n");
}
