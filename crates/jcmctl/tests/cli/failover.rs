//! Several servers, broken ones among them.

use serde_json::json;

use crate::program::Program;
use crate::scripted::{Reply, Server, nobody};

fn written() -> Reply {
    Reply::json(200, &json!({"revision": 7, "operation": "op-1"}))
}

fn at(servers: &[String], arguments: &str) -> Program {
    let mut program = Program::new(arguments);
    for server in servers {
        program = program.arg("--server").arg(server);
    }
    program
}

fn keys(server: &Server) -> Vec<Option<String>> {
    server.asked().iter().map(|asked| asked.header("idempotency-key").map(str::to_owned)).collect()
}

#[test]
fn a_write_goes_on_to_the_next_server_under_the_same_key() {
    let busy = Server::new(vec![Reply::problem(503, "STORE_UNAVAILABLE")]);
    let breaks = Server::new(vec![Reply::HangUp]);
    let works = Server::new(vec![written()]);
    let servers = [nobody(), busy.url(), breaks.url(), works.url()];
    at(&servers, "cluster delete orders").run().ok();
    let key = keys(&works);
    assert!(key[0].is_some() && key.len() == 1, "{key:?}");
    assert_eq!((keys(&busy), keys(&breaks)), (key.clone(), key));
}

#[test]
fn an_unknown_outcome_is_asked_again_under_the_same_key() {
    let unknown = json!({"title": "Outcome unknown", "status": 504, "detail": "no answer from the store", "operation": "op-9"});
    let server = Server::new(vec![Reply::json(504, &unknown), Reply::problem(503, "not now"), written()]);
    at(&[server.url()], "cluster delete orders").run().ok();
    let keys = keys(&server);
    assert!(keys.len() == 3 && keys.iter().all(|key| key.is_some() && *key == keys[0]), "{keys:?}");
}

#[test]
fn an_outcome_that_stays_unknown_is_never_called_unreachable() {
    // The first attempt may have been carried out; that the later ones were not does not change it.
    let unknown = json!({"title": "Outcome unknown", "status": 504, "detail": "no answer from the store", "operation": "op-9"});
    let server = Server::new(vec![Reply::json(504, &unknown), Reply::problem(503, "not now")]);
    let line =
        at(&[server.url()], "cluster delete orders --idempotency-key k1 --retry-for 400ms").run().failed(1);
    assert!(line.contains("outcome unknown") && line.contains("op-9"), "{line}");
    assert!(line.contains("--idempotency-key k1"), "{line}");

    // What is named is the command's key, also when the write was not its first.
    let second = Server::new(vec![written(), Reply::json(504, &unknown)]);
    let line = at(&[second.url()], "cluster delete a b --idempotency-key k2 --retry-for 400ms").run();
    assert!(line.err.contains("--idempotency-key k2 "), "{line:?}");

    let breaks = Server::new(vec![Reply::HangUp]);
    let line = at(&[breaks.url()], "cluster delete orders --retry-for 400ms").run().failed(1);
    assert!(line.contains("outcome unknown"), "{line}");
    let line = at(&[breaks.url()], "cluster list --retry-for 400ms").run().failed(7);
    assert!(line.contains("no server is reachable"), "{line}");
}

#[test]
fn a_definite_refusal_is_not_taken_elsewhere() {
    let refuses = Server::new(vec![Reply::problem(404, "there is no cluster `orders`")]);
    let other = Server::new(vec![written()]);
    at(&[refuses.url(), other.url()], "cluster delete orders").run().failed(3);
    assert_eq!(other.lines(), [""; 0]);
}

#[test]
fn refusals_end_with_the_status_of_their_kind() {
    for (status, exit) in
        [(400, 1), (401, 6), (403, 6), (404, 3), (409, 5), (412, 5), (413, 1), (422, 1), (500, 1)]
    {
        let server = Server::new(vec![Reply::problem(status, "because of this")]);
        let line = at(&[server.url()], "node remove orders a --retry-for 2s").run().failed(exit);
        assert!(
            line.contains("because of this") && line.contains(&format!("({status}, {}", server.url())),
            "{line}"
        );
    }
    for (status, exit) in [(429, 1), (503, 7)] {
        let server = Server::new(vec![Reply::problem(status, "because of this")]);
        at(&[server.url()], "node remove orders a --retry-for 2s").run().failed(exit);
        assert!(server.asked().len() > 1, "{status} was not asked again");
    }
}

#[test]
fn a_server_that_asks_for_more_patience_than_there_is_ends_the_command() {
    let later = Reply::Answer(429, "retry-after: 18446744073709551615\r\n", "{}".into());
    let server = Server::new(vec![later]);
    at(&[server.url()], "cluster list").run().failed(1);
    assert_eq!(server.lines(), ["GET /v1/clusters"]);
}

#[test]
fn nobody_there_is_seven_with_each_server_named() {
    let servers = [nobody(), nobody()];
    let line = at(&servers, "cluster list").run().failed(7);
    assert!(servers.iter().all(|server| line.contains(server.as_str())), "{line}");
}

#[test]
fn what_is_no_jcm_server_is_said_to_be_none() {
    for reply in [
        Reply::Answer(200, "", "<html>".into()),
        Reply::json(200, &json!({"hello": 1})),
        Reply::json(200, &json!({"clusters": [{"name": 3}]})),
        Reply::json(200, &json!("text")),
    ] {
        let server = Server::new(vec![reply]);
        at(&[server.url()], "cluster list").run().failed(1);
    }
}

#[test]
fn a_redirect_is_not_followed_and_the_token_stays() {
    let elsewhere = Server::new(vec![written()]);
    let location: &'static str = format!("location: {}/\r\n", elsewhere.url()).leak();
    let server = Server::new(vec![Reply::Answer(307, location, String::new())]);
    let outcome = at(&[server.url()], "cluster list -v --token-file token").file("token", "s3cret\n").run();
    assert_eq!(server.asked_once().header("authorization"), Some("Bearer s3cret"));
    assert_eq!(elsewhere.lines(), [""; 0]);
    assert!(outcome.err.contains("GET ") && !outcome.err.contains("s3cret"), "{outcome:?}");
    outcome.failed(1);
}

#[test]
fn a_token_file_that_holds_none_is_refused_without_showing_it() {
    for text in ["", "two words", "umläut", "line\nline"] {
        let line = Program::new("cluster list --token-file token").file("token", text).run().failed(2);
        assert!(line.contains("token file token"), "{line}");
        assert!(text.is_empty() || !line.contains(text), "{line}");
    }
}

#[test]
fn a_hung_server_is_left_for_the_next() {
    // It accepts and never answers: the backlog of a listener that nobody reads.
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hung_url = format!("http://{}", hung.local_addr().unwrap());
    let works = Server::new(vec![written()]);
    at(&[hung_url, works.url()], "cluster delete orders --request-timeout 200ms").run().ok();
    assert_eq!(works.lines(), ["DELETE /v1/clusters/orders"]);
}

fn event(kind: &str, id: &str, data: &serde_json::Value) -> String {
    format!("event: {kind}\nid: {id}\ndata: {data}\n\n")
}

#[test]
fn watch_resumes_at_another_server_after_the_last_event() {
    let view = json!({"name": "orders", "revision": 4, "nodes": []});
    let delta = json!({"cluster": "orders", "from": 4, "to": 5, "nodes": [], "removed": ["a"]});
    let removed = json!({"cluster": "orders", "revision": 6});
    // Each stream breaks: one in the middle of an event, one between events, one by a refusal that passes.
    let first = Server::new(vec![
        Reply::Stream(format!(": hello\n\n{}event: delta\nid: t2\ndata: {{\"cl", event("view", "t1", &view))),
        Reply::problem(503, "draining"),
        Reply::Stream(event("removed", "t3", &removed)),
    ]);
    let second = Server::new(vec![Reply::Stream(event("delta", "t2", &delta)), Reply::HangUp]);
    let out = at(&[first.url(), second.url()], "watch orders carts --count 3").run().ok();
    let events: Vec<serde_json::Value> =
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        events,
        [
            json!({"event": "view", "id": "t1", "data": view}),
            json!({"event": "delta", "id": "t2", "data": delta}),
            json!({"event": "removed", "id": "t3", "data": removed}),
        ]
    );
    let resumed = |server: &Server| -> Vec<Option<String>> {
        server.asked().iter().map(|asked| asked.header("last-event-id").map(str::to_owned)).collect()
    };
    assert_eq!(first.lines()[0], "GET /v1/watch?clusters=orders%2Ccarts");
    assert_eq!(resumed(&first), [None, Some("t2".to_owned()), Some("t2".to_owned())]);
    assert_eq!(resumed(&second), [Some("t1".to_owned()), Some("t2".to_owned())]);
}

#[test]
fn watch_ends_where_asking_again_cannot_help() {
    let server = Server::new(vec![Reply::problem(400, "`clusters` is missing")]);
    at(&[server.url()], "watch orders").run().failed(1);
    at(&[nobody()], "watch orders").run().failed(7);
}
