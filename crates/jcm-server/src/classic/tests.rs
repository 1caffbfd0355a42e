//! The pure functions of the facade, on clusters made of JSON.

use std::sync::Arc;

use jcm_model::routing::route;
use jcm_model::{
    Cluster, ClusterName, ClusterState, Judged, Mutation, NodeId, Precondition, Revision, ServerId, Stamp,
    TargetPolicy, Timestamp, Verdict,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::shape::PostedCluster;
use super::show::{self, Face};
use super::{ports, take};

fn name() -> ClusterName {
    ClusterName::parse("orders").unwrap()
}

fn policy() -> TargetPolicy {
    TargetPolicy { loopback_allowed: true, own: Vec::new() }
}

/// The cluster after a mutation; the same when it changes nothing.
fn after(held: Option<&Arc<Cluster>>, mutation: &Mutation) -> Arc<Cluster> {
    let revision = held.map_or(Revision(1), |held| held.revision.next());
    let change = mutation.change(&name(), held, Precondition::default(), revision, &policy()).unwrap();
    match change {
        Some(change) => change.apply(held).unwrap(),
        None => Arc::clone(held.unwrap()),
    }
}

/// A cluster written through `/v1`.
fn put(cluster: &Value) -> Arc<Cluster> {
    let spec = serde_json::from_value(cluster.clone()).unwrap();
    after(None, &Mutation::PutCluster(spec))
}

/// A cluster after a post.
fn post(held: Option<&Arc<Cluster>>, cluster: &Value) -> Arc<Cluster> {
    let posted: PostedCluster = serde_json::from_value(cluster.clone()).unwrap();
    let spec = take::cluster(&name(), &posted, held.map(|held| &**held)).unwrap();
    after(held, &Mutation::PutCluster(spec))
}

fn judged(cluster: &Arc<Cluster>, verdicts: &[(&str, Verdict)]) -> ClusterState {
    let verdicts = verdicts.iter().map(|(id, verdict)| {
        let id = NodeId::parse(id).unwrap();
        let birth = cluster.birth(cluster.node(&id).unwrap());
        let judged = Judged {
            verdict: *verdict,
            birth,
            stamp: Stamp {
                ring_epoch: 0,
                term: 0,
                server: ServerId::parse("s1").unwrap(),
                incarnation: 1,
                sequence: 1,
            },
            since: Timestamp::from_millisecond(1_700_000_000_123).unwrap(),
            single_vantage: true,
            stale_since: None,
        };
        (id, judged)
    });
    ClusterState::with_verdicts(Arc::clone(cluster), verdicts.collect::<Vec<_>>())
}

fn shown(state: &ClusterState, face: Face) -> Value {
    serde_json::to_value(show::cluster(state, &route(state), face)).unwrap()
}

fn unjudged(cluster: &Arc<Cluster>) -> Value {
    shown(&ClusterState::new(Arc::clone(cluster)), Face::Reported)
}

fn version(state: &ClusterState) -> i64 {
    shown(state, Face::Routed)["version"].as_i64().unwrap()
}

fn statuses(shown: &Value) -> Vec<&str> {
    shown["nodes"].as_array().unwrap().iter().map(|node| node["status"].as_str().unwrap()).collect()
}

fn specs(cluster: &Cluster) -> Vec<String> {
    cluster.nodes.iter().map(|node| ports::spec(cluster, node).to_string()).collect()
}

fn three(check: &Value) -> Arc<Cluster> {
    put(&json!({ "check": check, "nodes": [
        { "address": "127.0.0.1", "ports": { "http": 1 } },
        { "address": "127.0.0.1", "ports": { "http": 2 } },
        { "address": "127.0.0.1", "ports": { "http": 3 } },
    ]}))
}

#[test]
fn a_posted_cluster_is_shown_as_it_was_posted() {
    let posted = json!({
        "name": "orders",
        "online": "ONLINE",
        "nodes": [{
            "ip": "127.0.0.1",
            "protos": [{ "port": 40000, "proto": "HTTP" }, { "port": 9090, "proto": "TCP" }],
            "udata": "rack a7",
            "status": "NORMAL",
            "online": "ONLINE",
            "lastCheck": 5,
        }],
        "checkType": "HTTP",
        "checkFile": "/status",
        "version": 77,
    });
    let cluster = post(None, &posted);
    let shown = unjudged(&cluster);
    let mut wanted = posted;
    wanted["nodes"][0]["status"] = json!("INVALID");
    wanted["nodes"][0]["lastCheck"] = json!(0);
    wanted["version"] = shown["version"].clone();
    assert_eq!(shown, wanted);
    assert_eq!(shown["version"].as_i64().unwrap() >> 20, 1);
    assert_eq!(
        serde_json::to_value(cluster.to_spec()).unwrap()["nodes"][0]["ports"],
        json!({ "http": 40000, "tcp": 9090 })
    );
}

#[test]
fn what_a_new_cluster_leaves_out_is_as_it_was_in_2015() {
    let cluster = post(
        None,
        &json!({ "name": "orders", "colour": "red", "nodes": [
            { "ip": "127.0.0.1", "protos": [{ "port": 1, "proto": "tcp" }] }] }),
    );
    let shown = unjudged(&cluster);
    assert_eq!(shown["online"], "OFFLINE");
    assert_eq!(shown["checkType"], "NONE");
    assert_eq!(shown["nodes"][0]["online"], "OFFLINE");
    assert_eq!(shown["nodes"][0]["udata"], "");
}

#[test]
fn posting_back_what_was_shown_changes_nothing() {
    for cluster in [
        json!({ "nodes": [] }),
        json!({
            "online": false,
            "check": { "kind": "http", "port": "web", "path": "/live", "expect": "204", "method": "GET", "host": "a.example",
                "body_contains": "up", "interval": "300ms", "fall": 1 },
            "protection": { "panic_below": 0.2 },
            "properties": { "timeout_ms": "300" },
            "nodes": [
                { "id": "a", "address": "127.0.0.1", "ports": { "web": 1, "admin": 2, "grpc": 3 }, "weight": 7, "zone": "z1" },
                { "id": "b", "address": "127.0.0.1", "ports": { "web": 4 }, "draining": true, "labels": { "rack": "a7", "udata": "u" } },
                { "id": "c", "address": "::1", "ports": { "web": 1, "https": 5 }, "online": false, "priority": 3 },
            ],
        }),
        json!({ "check": { "kind": "tcp" }, "nodes": [{ "address": "127.0.0.1", "ports": { "tcp": 1, "http": 2, "http2": 3 } }] }),
        json!({ "check": { "kind": "http", "interval": "2s" }, "nodes": [{ "address": "127.0.0.1", "ports": { "a": 1 } }] }),
        json!({ "check": { "kind": "none", "interval": "2s" }, "nodes": [] }),
    ] {
        let held = put(&cluster);
        for face in [Face::Reported, Face::Routed] {
            let state = ClusterState::new(Arc::clone(&held));
            let again = post(Some(&held), &shown(&state, face));
            assert_eq!(again, held, "{cluster}");
        }
    }
}

#[test]
fn a_post_changes_what_it_says_and_nothing_else() {
    let held = put(&json!({
        "check": { "kind": "http", "path": "/live", "interval": "300ms" },
        "protection": { "panic_below": 0.2 },
        "nodes": [
            { "id": "a", "address": "127.0.0.1", "ports": { "api": 1, "admin": 2, "metrics": 3 }, "weight": 7 },
            { "id": "b", "address": "127.0.0.1", "ports": { "api": 4, "admin": 5 }, "draining": true, "labels": { "rack": "a7" } },
        ],
    }));
    // `admin` is the first by name, so it is what the check asks.
    assert_eq!(specs(&held), ["127.0.0.1|HTTP:2|TCP:1", "127.0.0.1|HTTP:5|TCP:4"]);
    let mut posted = unjudged(&held);
    posted["checkFile"] = json!("ready");
    posted["nodes"][0]["protos"][1]["port"] = json!(10);
    posted["nodes"][0]["online"] = json!("OFFLINE");
    posted["nodes"][1]["online"] = json!(true);
    posted["nodes"][1]["udata"] = json!("u");
    let after = serde_json::to_value(post(Some(&held), &posted).to_spec()).unwrap();
    assert_eq!(after["check"], json!({ "kind": "http", "path": "/ready", "interval": "300ms" }));
    assert_eq!(after["protection"], json!({ "panic_below": 0.2 }));
    assert_eq!(
        after["nodes"],
        json!([
            { "id": "a", "address": "127.0.0.1", "ports": { "admin": 2, "api": 10, "metrics": 3 }, "weight": 7, "online": false },
            { "id": "b", "address": "127.0.0.1", "ports": { "admin": 5, "api": 4 }, "online": true, "labels": { "rack": "a7", "udata": "u" } },
        ])
    );
}

#[test]
fn a_node_that_is_not_posted_is_gone_and_a_list_that_is_not_posted_stays() {
    let held = three(&json!({ "kind": "http" }));
    let mut posted = unjudged(&held);
    posted["nodes"].as_array_mut().unwrap().remove(1);
    assert_eq!(specs(&post(Some(&held), &posted)), ["127.0.0.1|HTTP:1", "127.0.0.1|HTTP:3"]);
    let bare = json!({ "name": "orders", "online": "OFFLINE" });
    let after = post(Some(&held), &bare);
    assert_eq!(specs(&after).len(), 3);
    assert!(!after.header.online());
    assert_eq!(after.check, held.check);
}

#[test]
fn one_check_becomes_another() {
    let node = |ports: Value| json!({ "ip": "127.0.0.1", "protos": ports, "online": "ONLINE" });
    let both = node(json!([{ "port": 1, "proto": "HTTP" }, { "port": 2, "proto": "TCP" }]));
    let http = node(json!([{ "port": 3, "proto": "HTTP" }]));
    let asked = |cluster: &Cluster| -> Vec<u16> {
        let port = cluster.check.port.as_deref();
        cluster.nodes.iter().filter_map(|node| node.port(port)).collect()
    };
    let tcp = post(None, &json!({ "name": "orders", "checkType": "TCP", "nodes": [both] }));
    assert_eq!((asked(&tcp), tcp.check.kind.as_str()), (vec![2], "tcp"));
    let mixed = post(None, &json!({ "name": "orders", "checkType": "TCP", "nodes": [both, http] }));
    assert_eq!(asked(&mixed), [1, 3]);
    let http = post(Some(&tcp), &json!({ "name": "orders", "checkType": "HTTP", "checkFile": "x" }));
    assert_eq!((asked(&http), &*http.check.path), (vec![1], "/x"));
    let again = post(Some(&http), &json!({ "name": "orders", "checkType": "TCP", "checkFile": "x" }));
    assert_eq!((asked(&again), again.check.kind.as_str()), (vec![2], "tcp"), "a file means nothing to it");
    assert_eq!(unjudged(&again)["checkFile"], "");
    let none = post(Some(&http), &json!({ "name": "orders", "checkType": "NONE", "checkFile": "x" }));
    assert!(!none.is_checked());
    assert_eq!(unjudged(&none)["checkFile"], "");
}

#[test]
fn several_ports_of_one_protocol_get_names_of_their_own() {
    let node = json!({ "ip": "127.0.0.1", "online": "ONLINE", "protos": [
        { "port": 81, "proto": "HTTP" }, { "port": 80, "proto": "HTTP" }, { "port": 90, "proto": "TCP" }, { "port": 81, "proto": "HTTP" } ] });
    let posted = json!({ "name": "orders", "nodes": [node, node] });
    let cluster = post(None, &posted);
    assert_eq!(cluster.nodes.len(), 1, "what is posted twice counts once");
    assert_eq!(
        serde_json::to_value(&cluster.nodes[0].ports).unwrap(),
        json!({ "http": 81, "http2": 80, "tcp": 90 })
    );
    assert_eq!(specs(&cluster), ["127.0.0.1|HTTP:81|TCP:90"]);
    assert_eq!(post(Some(&cluster), &posted), cluster);
}

#[test]
fn one_node_becomes_two() {
    let held =
        put(&json!({ "nodes": [{ "id": "a", "address": "127.0.0.1", "ports": { "http": 1, "tcp": 2 } }] }));
    let posted = json!({ "name": "orders", "nodes": [
        { "ip": "127.0.0.1", "protos": [{ "port": 1, "proto": "HTTP" }] },
        { "ip": "127.0.0.1", "protos": [{ "port": 2, "proto": "TCP" }] } ] });
    let after = post(Some(&held), &posted);
    assert_eq!(specs(&after), ["127.0.0.1|TCP:2", "127.0.0.1|HTTP:1"]);
    assert!(after.node(&NodeId::parse("a").unwrap()).is_some());
}

#[test]
fn a_refusal_names_the_field_that_was_posted() {
    for (posted, part) in [
        (json!({ "nodes": [{ "protos": [{ "port": 1, "proto": "TCP" }] }] }), "nodes[0].ip: is missing"),
        (
            json!({ "nodes": [{ "ip": "db.example", "protos": [{ "port": 1, "proto": "TCP" }] }] }),
            "nodes[0].ip: `db.example`",
        ),
        (json!({ "nodes": [{ "ip": "127.0.0.1" }] }), "nodes[0].protos: is empty"),
        (
            json!({ "nodes": [{ "ip": "127.0.0.1", "protos": [{ "port": 1, "proto": "TCP" }], "udata": "a\nb" }] }),
            "nodes[0].udata",
        ),
        (json!({ "checkType": "HTTP", "checkFile": "a b" }), "checkFile: `/a b`"),
    ] {
        let posted: PostedCluster = serde_json::from_value(posted).unwrap();
        let error = take::cluster(&name(), &posted, None).unwrap_err().to_string();
        assert!(error.starts_with(part), "{error}");
    }
}

#[test]
fn a_node_reports_what_was_found_and_is_routed_to_as_protection_wants() {
    let cluster = three(&json!({ "kind": "http" }));
    let (a, b, c) = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3");
    let check = |verdicts: &[(&str, Verdict)], reported: [&str; 3], routed: [&str; 3], invalids: &[&str]| {
        let state = judged(&cluster, verdicts);
        assert_eq!(statuses(&shown(&state, Face::Reported)), reported, "{verdicts:?}");
        assert_eq!(statuses(&shown(&state, Face::Routed)), routed, "{verdicts:?}");
        assert_eq!(show::invalids(&state, &route(&state)), invalids, "{verdicts:?}");
    };
    // Nobody has looked yet: no reason to send nobody any traffic.
    check(&[], ["INVALID"; 3], ["NORMAL"; 3], &[]);
    check(
        &[(a, Verdict::Healthy), (b, Verdict::Degraded), (c, Verdict::Down)],
        ["NORMAL", "NORMAL", "ABNORMAL"],
        ["NORMAL", "NORMAL", "ABNORMAL"],
        &["127.0.0.1|HTTP:3"],
    );
    check(
        &[(a, Verdict::Healthy), (b, Verdict::Healthy)],
        ["NORMAL", "NORMAL", "INVALID"],
        ["NORMAL", "NORMAL", "INVALID"],
        &["127.0.0.1|HTTP:3"],
    );
    // Panic: better a node that may not answer than none.
    check(
        &[(a, Verdict::Healthy), (b, Verdict::Down), (c, Verdict::Down)],
        ["NORMAL", "ABNORMAL", "ABNORMAL"],
        ["NORMAL"; 3],
        &[],
    );
}

#[test]
fn a_node_out_of_use_is_never_normal_to_a_client() {
    for check in [json!({ "kind": "http" }), json!({ "kind": "none" })] {
        let cluster = put(&json!({ "check": check, "nodes": [
            { "address": "127.0.0.1", "ports": { "http": 1 } },
            { "address": "127.0.0.1", "ports": { "http": 2 }, "online": false },
            { "address": "127.0.0.1", "ports": { "http": 3 }, "draining": true },
        ]}));
        let all = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"].map(|id| (id, Verdict::Healthy));
        let state = judged(&cluster, &all);
        let seen = shown(&state, Face::Routed);
        assert_eq!(statuses(&seen), ["NORMAL", "INVALID", "INVALID"]);
        assert_eq!(seen["nodes"][2]["online"], "OFFLINE");
        assert_eq!(show::invalids(&state, &route(&state)), ["127.0.0.1|HTTP:2", "127.0.0.1|HTTP:3"]);
    }
}

#[test]
fn a_version_differs_with_every_verdict_and_rises_with_the_revision() {
    let cluster = three(&json!({ "kind": "http" }));
    let id = "127.0.0.1:1";
    let versions = [Verdict::Healthy, Verdict::Degraded, Verdict::Down]
        .map(|verdict| version(&judged(&cluster, &[(id, verdict)])));
    assert_ne!(versions[0], versions[1]);
    assert_ne!(versions[1], versions[2]);
    assert_ne!(versions[0], versions[2]);
    assert_eq!(versions[0], version(&judged(&cluster, &[(id, Verdict::Healthy)])));
    let next = after(Some(&cluster), &Mutation::PatchCluster(json!({ "properties": { "a": "b" } })));
    let later = version(&ClusterState::new(next));
    for version in versions {
        assert!(later > version, "{later} {version}");
        assert_eq!(show::revision(version), cluster.revision);
    }
    assert_eq!(show::revision(-1), Revision::ZERO);
}

/// Posts that are mostly sound.
fn posts() -> impl Strategy<Value = Value> {
    let port = (1..6_u16, prop_oneof![Just("HTTP"), Just("tcp")])
        .prop_map(|(port, proto)| json!({ "port": port, "proto": proto }));
    let node = (
        prop_oneof![Just("127.0.0.1"), Just("127.0.0.2"), Just("::1")],
        prop::collection::vec(port, 1..4),
        prop::option::of(any::<bool>()),
        prop::option::of("[a-z]{0,3}"),
    )
        .prop_map(|(ip, protos, online, udata)| {
            json!({ "ip": ip, "protos": protos, "online": online, "udata": udata })
        });
    (
        prop::option::of(any::<bool>()),
        prop::option::of(prop::collection::vec(node, 0..5)),
        prop::option::of(prop_oneof![Just("NONE"), Just("HTTP"), Just("TCP")]),
        prop::option::of("/?[a-z]{0,3}"),
    )
        .prop_map(|(online, nodes, check_type, check_file)| {
            json!({ "name": "orders", "online": online, "nodes": nodes, "checkType": check_type, "checkFile": check_file })
        })
}

proptest! {
    /// Whatever was posted, in whatever order: it never panics, and what is shown can be posted back for no change.
    #[test]
    fn what_is_shown_after_any_posts_can_be_posted_back(posts in prop::collection::vec(posts(), 1..5)) {
        let mut held: Option<Arc<Cluster>> = None;
        for posted in posts {
            let posted: PostedCluster = serde_json::from_value(posted).unwrap();
            let Ok(spec) = take::cluster(&name(), &posted, held.as_deref()) else { continue };
            let revision = held.as_ref().map_or(Revision(1), |held| held.revision.next());
            let change = Mutation::PutCluster(spec)
                .change(&name(), held.as_ref(), Precondition::default(), revision, &policy());
            if let Ok(Some(change)) = change {
                held = change.apply(held.as_ref());
            }
            if let Some(held) = &held {
                let state = ClusterState::new(Arc::clone(held));
                prop_assert_eq!(&post(Some(held), &shown(&state, Face::Routed)), held);
                let places = ports::Places::new(held);
                for node in &held.nodes {
                    let found = places.exactly(&ports::spec(held, node)).unwrap();
                    prop_assert_eq!(&found.id, &node.id);
                }
            }
        }
    }
}
