//! Changes come to those who watch: in order, without a gap, and resumed where they stopped.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jcm_tests::server::start;
use jcm_tests::{Client, Event, Events, Target, eventually};
use serde_json::{Value, json};

use crate::fixtures::{cluster, id, nodes};

const EVENT_DEADLINE: Duration = Duration::from_secs(20);

/// Long against every push, short against a test: nothing that comes later counts as pushed.
const SILENCE: Duration = Duration::from_millis(1500);

async fn put(client: &Client, name: &str, ports: impl IntoIterator<Item = u16>) -> u64 {
    client.put_cluster(name, &cluster(ports)).await.revision()
}

/// What a client holds of one cluster, from events alone.
#[derive(Debug, Default, PartialEq)]
struct Held {
    revision: u64,
    nodes: BTreeMap<String, Value>,
}

impl Held {
    /// Applies an event, and checks that it fits what is held.
    #[track_caller]
    fn apply(&mut self, event: &Event) {
        let data = &event.data;
        assert!(!event.id.is_empty(), "every event can be resumed after: {event:?}");
        match event.kind.as_str() {
            "view" => {
                let revision = data["revision"].as_u64().expect("a revision");
                assert!(revision >= self.revision, "a view goes back from {}: {event:?}", self.revision);
                self.revision = revision;
                self.nodes = by_id(&data["nodes"]);
            }
            "delta" => {
                assert_eq!(data["from"], self.revision, "a delta fits what is held: {event:?}");
                self.revision = data["to"].as_u64().expect("a revision");
                assert!(self.revision >= data["from"].as_u64().unwrap_or(u64::MAX), "{event:?}");
                assert!(data["token"].is_string(), "{event:?}");
                self.nodes.extend(by_id(&data["nodes"]));
                for id in data["removed"].as_array().expect("a list of ids") {
                    let id = id.as_str().expect("an id");
                    assert!(self.nodes.remove(id).is_some(), "{id} was not there: {event:?}");
                }
            }
            other => panic!("{other}: {event:?}"),
        }
    }
}

fn by_id(nodes: &Value) -> BTreeMap<String, Value> {
    let nodes = nodes.as_array().expect("a list of nodes");
    nodes.iter().map(|node| (node["id"].as_str().expect("an id").to_owned(), node.clone())).collect()
}

#[tokio::test]
async fn a_watch_begins_with_the_view() {
    let (_server, client) = start().await;
    let revision = put(&client, "orders", [1, 2]).await;
    let mut events = Events::open(&client, "orders", None).await;
    let event = events.next(EVENT_DEADLINE).await;
    assert_eq!(event.kind, "view", "{event:?}");
    let view = client.view("orders").await;
    for field in ["name", "revision", "stale", "panic", "nodes"] {
        assert_eq!(event.data[field], view.body[field], "the shape of GET …/view: {event:?}\n{view}");
    }
    assert_eq!(event.data["revision"], revision);
    assert!(event.data["token"].is_string(), "{event:?}");
}

#[tokio::test]
async fn a_change_comes_as_a_delta_of_what_changed() {
    let (_server, client) = start().await;
    let first = put(&client, "orders", [1, 2, 3]).await;
    let mut events = Events::open(&client, "orders", None).await;
    let mut held = Held::default();
    held.apply(&events.next(EVENT_DEADLINE).await);

    let second = client.patch_node("orders", &id(2), &json!({ "weight": 7 })).await.revision();
    let event = events.next(EVENT_DEADLINE).await;
    assert_eq!(event.kind, "delta", "{event:?}");
    assert_eq!((&event.data["from"], &event.data["to"]), (&json!(first), &json!(second)), "{event:?}");
    assert_eq!(event.data["cluster"], "orders", "{event:?}");
    assert_eq!(by_id(&event.data["nodes"]).keys().collect::<Vec<_>>(), [&id(2)], "{event:?}");
    assert_eq!(event.data["nodes"][0]["weight"], 7, "{event:?}");
    assert_eq!(event.data["removed"], json!([]), "{event:?}");
    held.apply(&event);

    let third = client.delete_node("orders", &id(1)).await.revision();
    let event = events.next(EVENT_DEADLINE).await;
    assert_eq!((&event.data["from"], &event.data["to"]), (&json!(second), &json!(third)), "{event:?}");
    assert_eq!(event.data["removed"], json!([id(1)]), "{event:?}");
    held.apply(&event);
    assert_eq!(held.nodes, by_id(&client.view("orders").await.body["nodes"]));
}

#[tokio::test]
async fn a_change_of_another_cluster_is_not_sent() {
    let (_server, client) = start().await;
    put(&client, "orders", [1]).await;
    put(&client, "billing", [1]).await;
    let mut events = Events::open(&client, "orders", None).await;
    assert_eq!(events.next(EVENT_DEADLINE).await.kind, "view");
    put(&client, "billing", [2]).await;
    assert!(events.try_next(SILENCE).await.is_none(), "nothing of orders changed");
}

#[tokio::test]
async fn many_clusters_share_one_stream() {
    let (_server, client) = start().await;
    let names: Vec<String> = (0..40).map(|index| format!("c{index}")).collect();
    for name in &names {
        put(&client, name, [1]).await;
    }
    let mut events = Events::open(&client, &names.join(","), None).await;
    let mut held: BTreeMap<String, Held> = BTreeMap::new();
    for _ in &names {
        let event = events.next(EVENT_DEADLINE).await;
        let name = event.data["name"].as_str().expect("a view has a name").to_owned();
        held.entry(name).or_default().apply(&event);
    }
    assert_eq!(held.len(), names.len(), "one view each");
    for (index, name) in names.iter().enumerate() {
        let port = 100 + u16::try_from(index).unwrap();
        let revision = client.post_nodes(name, &nodes([port])).await.revision();
        let what = format!("{name} at {revision}");
        let event = events.until(EVENT_DEADLINE, &what, |event| event.data["to"] == revision).await;
        held.get_mut(name).expect("held").apply(&event);
        assert!(held[name].nodes.contains_key(&id(port)));
    }
}

#[tokio::test]
async fn a_deleted_cluster_is_said_to_be_removed_and_may_come_back() {
    let (_server, client) = start().await;
    put(&client, "orders", [1]).await;
    let mut events = Events::open(&client, "orders", None).await;
    assert_eq!(events.next(EVENT_DEADLINE).await.kind, "view");
    let deleted = client.delete_cluster("orders").await.revision();
    let event = events.next(EVENT_DEADLINE).await;
    assert_eq!(event.kind, "removed", "{event:?}");
    assert_eq!(event.data["cluster"], "orders", "{event:?}");
    assert!(event.data["revision"].as_u64().is_some_and(|revision| revision >= deleted), "{event:?}");
    let created = put(&client, "orders", [2]).await;
    let event = events.next(EVENT_DEADLINE).await;
    assert_eq!(event.kind, "view", "no delta spans a deletion: {event:?}");
    assert_eq!(event.data["revision"], created, "{event:?}");
    assert_eq!(by_id(&event.data["nodes"]).keys().collect::<Vec<_>>(), [&id(2)], "{event:?}");
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_removed_and_not_unknown() {
    let (_server, client) = start().await;
    put(&client, "other", [1]).await;
    let mut events = Events::open(&client, "orders", None).await;
    let event = events.next(EVENT_DEADLINE).await;
    assert_eq!((event.kind.as_str(), &event.data["cluster"]), ("removed", &json!("orders")), "{event:?}");
    put(&client, "orders", [1]).await;
    let event = events.next(EVENT_DEADLINE).await;
    assert_eq!(event.kind, "view", "{event:?}");
}

#[tokio::test]
async fn a_verdict_comes_as_a_delta_of_the_same_revision() {
    let (_server, client) = start().await;
    let target = Target::start(3).await;
    let check = json!({ "kind": "http", "interval": "400ms", "timeout": "350ms", "fall": 2, "rise": 2 });
    let cluster = json!({ "check": check, "nodes": target.definitions() });
    let revision = client.put_cluster("orders", &cluster).await.revision();
    let mut events = Events::open(&client, "orders", None).await;
    let mut held = Held::default();
    while held.nodes.is_empty() || held.nodes.values().any(|node| node["verdict"] != "healthy") {
        held.apply(&events.next(EVENT_DEADLINE).await);
    }
    let dead = target.nodes()[1];
    target.behave_at(dead, "error500").await;
    let event = events.next(EVENT_DEADLINE).await;
    assert_eq!(event.kind, "delta", "{event:?}");
    assert_eq!((&event.data["from"], &event.data["to"]), (&json!(revision), &json!(revision)), "{event:?}");
    assert_eq!(event.data["nodes"].as_array().map(Vec::len), Some(1), "only the one: {event:?}");
    assert_eq!(event.data["nodes"][0]["id"], dead.to_string(), "{event:?}");
    held.apply(&event);
    while held.nodes[&dead.to_string()]["verdict"] != "down" {
        held.apply(&events.next(EVENT_DEADLINE).await);
    }
    assert_eq!(held.nodes[&dead.to_string()]["routable"], false);
    target.behave_at(dead, "ok").await;
    while held.nodes[&dead.to_string()]["verdict"] != "healthy" {
        held.apply(&events.next(EVENT_DEADLINE).await);
    }
    assert_eq!(held.nodes[&dead.to_string()]["routable"], true);
}

/// Panic turns nodes routable whose verdicts have not changed: who only merges deltas must see that, too.
#[tokio::test]
async fn what_a_watcher_merges_is_what_the_view_says_through_panic_and_back() {
    let (_server, client) = start().await;
    let target = Target::start(4).await;
    let check = json!({ "kind": "http", "interval": "300ms", "timeout": "250ms", "fall": 2, "rise": 2 });
    client.put_cluster("orders", &json!({ "check": check, "nodes": target.definitions() })).await.ok();
    let mut events = Events::open(&client, "orders", None).await;
    let mut held = Held::default();
    let steps: [(&str, &[usize]); 4] =
        [("ok", &[0, 1, 2, 3]), ("error500", &[0, 1, 2, 3]), ("ok", &[0]), ("ok", &[1, 2, 3])];
    let mut wanted = ["healthy"; 4];
    for (behaviour, indexes) in steps {
        for index in indexes {
            target.behave_at(target.nodes()[*index], behaviour).await;
            wanted[*index] = if behaviour == "ok" { "healthy" } else { "down" };
        }
        let start = Instant::now();
        loop {
            if let Some(event) = events.try_next(SILENCE).await {
                held.apply(&event);
            }
            let view = client.view("orders").await;
            let turned = target.nodes().iter().zip(wanted);
            let mut turned = turned.map(|(node, wanted)| view.node(&node.to_string())["verdict"] == wanted);
            if turned.all(|turned| turned) && held.nodes == by_id(&view.body["nodes"]) {
                break;
            }
            assert!(start.elapsed() < EVENT_DEADLINE * 2, "merged: {held:#?}\nview: {view}");
        }
    }
}

#[tokio::test]
async fn a_stream_resumes_after_the_event_it_names() {
    let (_server, client) = start().await;
    let first = put(&client, "orders", 1..50).await;
    let mut events = Events::open(&client, "orders", None).await;
    let view = events.next(EVENT_DEADLINE).await;
    let mut held = Held::default();
    held.apply(&view);
    drop(events);

    // Nothing happened: what a sent event already holds is not sent again.
    let mut events = Events::open(&client, "orders", Some(&view.id)).await;
    assert!(events.try_next(SILENCE).await.is_none(), "nothing has changed");
    drop(events);

    let second = client.patch_node("orders", &id(2), &json!({ "weight": 7 })).await.revision();
    let mut events = Events::open(&client, "orders", Some(&view.id)).await;
    let delta = events.next(EVENT_DEADLINE).await;
    assert_eq!(delta.kind, "delta", "fifty nodes are not sent again: {delta:?}");
    assert_eq!((&delta.data["from"], &delta.data["to"]), (&json!(first), &json!(second)), "{delta:?}");
    held.apply(&delta);
    assert_eq!(held.nodes, by_id(&client.view("orders").await.body["nodes"]));
}

#[tokio::test]
async fn a_resumed_stream_of_several_clusters_sends_what_each_has_missed() {
    let (_server, client) = start().await;
    for name in ["a", "b", "c"] {
        put(&client, name, [1]).await;
    }
    let mut events = Events::open(&client, "a,b,c", None).await;
    let mut last = String::new();
    for _ in 0..3 {
        last = events.next(EVENT_DEADLINE).await.id;
    }
    drop(events);
    client.post_nodes("a", &nodes([2])).await.ok();
    client.delete_cluster("b").await.ok();
    let mut events = Events::open(&client, "a,b,c", Some(&last)).await;
    let mut seen = BTreeMap::new();
    while let Some(event) = events.try_next(SILENCE).await {
        let name = event.data["cluster"].as_str().or(event.data["name"].as_str()).expect("a name").to_owned();
        seen.insert(name, event.kind);
    }
    let wanted = [("a", "delta"), ("b", "removed")].map(|(name, kind)| (name.to_owned(), kind.to_owned()));
    assert_eq!(seen, BTreeMap::from(wanted), "c has missed nothing");
}

#[tokio::test]
async fn a_stream_resumes_over_a_restart_of_the_server() {
    let (mut server, client) = start().await;
    put(&client, "orders", 1..20).await;
    let mut events = Events::open(&client, "orders", None).await;
    let view = events.next(EVENT_DEADLINE).await;
    let mut held = Held::default();
    held.apply(&view);
    server.restart().await;
    let revision = client.patch_node("orders", &id(2), &json!({ "weight": 7 })).await.revision();
    let mut events = Events::open(&client, "orders", Some(&view.id)).await;
    while held.revision < revision {
        held.apply(&events.next(EVENT_DEADLINE).await);
    }
    assert_eq!(held.revision, revision);
    let now = client.view("orders").await;
    assert_eq!(held.nodes, by_id(&now.body["nodes"]), "{now}");
}

#[tokio::test]
async fn a_token_of_another_store_gets_a_full_view() {
    let (_one, client) = start().await;
    put(&client, "orders", [1, 2]).await;
    put(&client, "orders", [1, 2, 3]).await;
    let id_of_one = Events::open(&client, "orders", None).await.next(EVENT_DEADLINE).await.id;
    let (_two, client) = start().await;
    put(&client, "orders", [7]).await;
    let mut events = Events::open(&client, "orders", Some(&id_of_one)).await;
    let event = events.next(EVENT_DEADLINE).await;
    assert_eq!(event.kind, "view", "revisions of two stores do not compare: {event:?}");
    assert_eq!(by_id(&event.data["nodes"]).keys().collect::<Vec<_>>(), [&id(7)], "{event:?}");
}

#[tokio::test]
async fn a_watcher_that_merges_three_hundred_changes_holds_what_the_server_holds() {
    let (_server, client) = start().await;
    put(&client, "orders", 1..30).await;
    let mut events = Events::open(&client, "orders", None).await;
    let writer = client.clone();
    let writing = tokio::spawn(async move {
        let mut last = 0;
        for step in 0..300_u16 {
            let port = 1 + step * 7 % 60;
            let answer = match step % 3 {
                0 => writer.post_nodes("orders", &nodes([port])).await,
                1 => {
                    let patch = json!({ "weight": 1 + step % 1000, "draining": step % 2 == 0 });
                    writer.patch_node("orders", &id(port), &patch).await
                }
                _ => writer.delete_node("orders", &id(port)).await,
            };
            if answer.status != 404 {
                last = answer.revision();
            }
        }
        last
    });
    let mut held = Held::default();
    while !writing.is_finished() {
        if let Some(event) = events.try_next(Duration::from_millis(100)).await {
            held.apply(&event);
        }
    }
    let written = writing.await.unwrap();
    while held.revision < written {
        held.apply(&events.next(EVENT_DEADLINE).await);
    }
    assert_eq!(held.revision, written);
    assert_eq!(held.nodes, by_id(&client.view("orders").await.body["nodes"]));
}

#[tokio::test]
async fn watchers_are_counted_while_they_watch() {
    let (_server, client) = start().await;
    put(&client, "orders", [1]).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut events = Events::open(&client, "orders", None).await;
        events.next(EVENT_DEADLINE).await;
        streams.push(events);
    }
    for wanted in [5, 0] {
        eventually(EVENT_DEADLINE, &format!("{wanted} subscribers"), async || {
            let status = client.get("/v1/status").await;
            if status.ok()["subscribers"] == wanted { Ok(()) } else { Err(status) }
        })
        .await;
        streams.clear();
    }
}

#[tokio::test]
async fn a_stream_of_many_clusters_resumes_without_repeating_itself() {
    let (_server, client) = start().await;
    let names: Vec<String> = (0..60).map(|index| format!("c{index}")).collect();
    for name in &names {
        put(&client, name, [1]).await;
    }
    let clusters = names.join(",");
    let mut events = Events::open(&client, &clusters, None).await;
    let mut last = String::new();
    for _ in &names {
        last = events.next(EVENT_DEADLINE).await.id;
    }
    drop(events);
    let mut events = Events::open(&client, &clusters, Some(&last)).await;
    let repeated = events.try_next(SILENCE).await;
    assert!(repeated.is_none(), "nothing has changed: {repeated:?}");
    let revision = put(&client, "c42", [1, 2]).await;
    let event = events.next(EVENT_DEADLINE).await;
    assert_eq!((event.kind.as_str(), &event.data["to"]), ("delta", &json!(revision)), "{event:?}");
}

#[tokio::test]
async fn what_was_said_to_be_removed_is_not_said_again() {
    let (_server, client) = start().await;
    put(&client, "orders", [1]).await;
    let mut events = Events::open(&client, "orders,absent", None).await;
    events.next(EVENT_DEADLINE).await;
    let last = events.next(EVENT_DEADLINE).await.id;
    drop(events);
    let mut events = Events::open(&client, "orders,absent", Some(&last)).await;
    let repeated = events.try_next(SILENCE).await;
    assert!(repeated.is_none(), "nothing has changed: {repeated:?}");
    put(&client, "absent", [1]).await;
    let event = events.next(EVENT_DEADLINE).await;
    assert_eq!((event.kind.as_str(), &event.data["name"]), ("view", &json!("absent")), "{event:?}");
}
