//! Definitions that are wrong: an answer 4xx that names the field and the reason, and nothing is stored.

use jcm_tests::server::start;
use reqwest::Method;
use serde_json::{Value, json};

use crate::refusal::{check_refusal, check_unharmed};

/// Each body is sent as the cluster `x`, and its refusal must name every part.
async fn check_clusters(table: &[(&str, &[&str])]) {
    let (mut server, client) = start().await;
    for (body, parts) in table {
        let request = client
            .request(Method::PUT, "/v1/clusters/x")
            .header("content-type", "application/json")
            .body((*body).to_owned());
        let answer = client.send(request).await;
        assert!((400..500).contains(&answer.status), "{body}\n{answer}");
        check_refusal(&answer, &[400], parts);
    }
    check_unharmed(&mut server, &client).await;
}

/// Each value replaces one member of a good node.
async fn check_nodes(member: &str, values: &[Value], parts: &[&str]) {
    let (mut server, client) = start().await;
    for value in values {
        let mut node = json!({ "address": "127.0.0.9", "ports": { "http": 1 } });
        node[member] = value.clone();
        let answer = client.put_cluster("x", &json!({ "nodes": [node] })).await;
        assert_eq!(answer.status, 400, "{member} = {value}\n{answer}");
        check_refusal(&answer, &[400], parts);
    }
    check_unharmed(&mut server, &client).await;
}

#[tokio::test]
async fn broken_json_is_refused_with_its_place() {
    check_clusters(&[
        ("", &[]),
        ("{", &["line 1"]),
        ("{\"nodes\": [}", &["line 1", "column"]),
        ("{\n\n\"nodes\": tru }", &["line 3"]),
        ("{} {}", &["line 1"]),
        ("\u{feff}{}", &[]),
        ("{\"online\": true, \"online\": false}", &["online"]),
        ("{\"nodes\": 1e999}", &[]),
        ("{\"properties\": {\"a\": \"\\ud800\"}}", &[]),
    ])
    .await;
}

#[tokio::test]
async fn a_body_that_is_no_cluster_is_refused() {
    check_clusters(&[
        ("[]", &[]),
        ("\"x\"", &[]),
        ("42", &[]),
        ("null", &[]),
        ("true", &[]),
        // Fields by their order is no shape that was ever promised.
        (r#"["x", true]"#, &[]),
        (r#"{"check": ["http"]}"#, &["check"]),
        (r#"{"protection": [0.5]}"#, &["protection"]),
        (r#"{"nodes": [["a", "127.0.0.9", {"http": 1}]]}"#, &["nodes"]),
    ])
    .await;
}

#[tokio::test]
async fn unknown_fields_are_refused_by_name() {
    check_clusters(&[
        (r#"{"nodez": []}"#, &["nodez"]),
        (r#"{"check": {"kind": "http", "retries": 3}}"#, &["retries"]),
        (r#"{"protection": {"panic_under": 0.5}}"#, &["panic_under"]),
        (r#"{"nodes": [{"address": "127.0.0.9", "ports": {"http": 1}, "wieght": 5}]}"#, &["wieght"]),
        (r#"{"revision": 3}"#, &["revision"]),
    ])
    .await;
}

#[tokio::test]
async fn wrong_types_are_refused_by_name() {
    check_clusters(&[
        (r#"{"online": "yes"}"#, &["online"]),
        (r#"{"online": null, "nodes": 7}"#, &["nodes"]),
        (r#"{"name": 7}"#, &["name"]),
        (r#"{"check": "http"}"#, &["check"]),
        (r#"{"check": {"kind": 1}}"#, &["kind"]),
        (r#"{"check": {"kind": "http", "fall": "3"}}"#, &["fall"]),
        (r#"{"check": {"kind": "http", "fresh": 1}}"#, &["fresh"]),
        (r#"{"properties": []}"#, &["properties"]),
        (r#"{"properties": {"a": 1}}"#, &["properties"]),
        (r#"{"nodes": {}}"#, &["nodes"]),
        (r#"{"nodes": [7]}"#, &["nodes"]),
        (
            r#"{"nodes": [{"address": "127.0.0.9", "ports": {"http": 1}, "labels": {"a": true}}]}"#,
            &["labels"],
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_check_policy_out_of_range_is_refused_with_the_range() {
    check_clusters(&[
        (r#"{"check": {"kind": "script"}}"#, &["kind", "script"]),
        (r#"{"check": {"kind": "http", "interval": "0s"}}"#, &["interval", "0"]),
        (r#"{"check": {"kind": "http", "interval": 0}}"#, &["interval"]),
        (r#"{"check": {"kind": "http", "interval": "0"}}"#, &["interval"]),
        (r#"{"check": {"kind": "http", "interval": "-1s"}}"#, &["interval"]),
        (r#"{"check": {"kind": "http", "interval": "1 fortnight"}}"#, &["interval"]),
        (r#"{"check": {"kind": "http", "interval": "99999999999999999999h"}}"#, &["interval"]),
        (r#"{"check": {"kind": "http", "interval": ""}}"#, &["interval"]),
        (r#"{"check": {"kind": "http", "timeout": "0ms"}}"#, &["timeout"]),
        (r#"{"check": {"kind": "http", "fall": 0}}"#, &["fall"]),
        (r#"{"check": {"kind": "http", "rise": 0}}"#, &["rise"]),
        (r#"{"check": {"kind": "http", "rise": -1}}"#, &["rise"]),
        (r#"{"check": {"kind": "http", "fall": 18446744073709551616}}"#, &["fall"]),
        (r#"{"check": {"kind": "http", "window": 0}}"#, &["window"]),
        (r#"{"check": {"kind": "http", "window": 100000}}"#, &["window"]),
        (r#"{"check": {"kind": "http", "degraded_at": 0}}"#, &["degraded_at"]),
        (r#"{"check": {"kind": "http", "degraded_at": 1.5}}"#, &["degraded_at"]),
        (r#"{"check": {"kind": "http", "expect": "fine"}}"#, &["expect", "fine"]),
        (r#"{"check": {"kind": "http", "expect": "299-200"}}"#, &["expect"]),
        (r#"{"check": {"kind": "http", "path": "status"}}"#, &["path"]),
        (r#"{"check": {"kind": "http", "path": "http://169.254.169.254/"}}"#, &["path"]),
        (r#"{"check": {"kind": "http", "path": "/a HTTP/1.1\r\nHost: b"}}"#, &["path"]),
        (r#"{"protection": {"panic_below": -0.1}}"#, &["panic_below"]),
        (r#"{"protection": {"panic_below": 2}}"#, &["panic_below"]),
        (
            r#"{"check": {"kind": "http", "port": "grpc"}, "nodes": [{"address": "127.0.0.9", "ports": {"http": 1}}]}"#,
            &["port", "grpc", "127.0.0.9:1"],
        ),
    ])
    .await;
}

#[tokio::test]
async fn duplicate_nodes_are_refused_and_named() {
    check_clusters(&[
        (
            r#"{"nodes": [{"address":"127.0.0.9","ports":{"http":1}}, {"address":"127.0.0.9","ports":{"http":1}}]}"#,
            &["nodes", "127.0.0.9:1"],
        ),
        (
            r#"{"nodes": [{"id":"a","address":"127.0.0.9","ports":{"http":1}}, {"id":"a","address":"127.0.0.9","ports":{"http":2}}]}"#,
            &["nodes", "a"],
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_node_without_address_or_ports_is_refused() {
    check_clusters(&[
        (r#"{"nodes": [{"ports": {"http": 1}}]}"#, &["address"]),
        (r#"{"nodes": [{"address": "127.0.0.9"}]}"#, &["ports"]),
        (r#"{"nodes": [{"address": "127.0.0.9", "ports": {}}]}"#, &["ports"]),
        (r#"{"nodes": [{"address": "127.0.0.9", "ports": {"http": 1, "http": 2}}]}"#, &["ports"]),
    ])
    .await;
}

#[tokio::test]
async fn an_address_is_an_ip_literal() {
    let values = [
        "localhost",
        "example.org",
        "127.0.0.1:80",
        "",
        " 127.0.0.1",
        "256.1.1.1",
        "127.1",
        "0x7f.0.0.1",
        "fe80::1%lo",
    ];
    let values: Vec<_> =
        values.into_iter().map(Value::from).chain([json!(2_130_706_433), json!(null)]).collect();
    check_nodes("address", &values, &["address"]).await;
}

#[tokio::test]
async fn addresses_that_must_never_be_probed_are_refused() {
    let values = [
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "169.254.0.1",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "::",
        "fe80::1",
        "ff02::1",
        "::ffff:169.254.169.254",
        "::ffff:0.0.0.0",
        "::ffff:224.0.0.1",
        "fd00:ec2::254",
    ];
    check_nodes("address", &values.map(Value::from), &["nodes[0]"]).await;
}

#[tokio::test]
async fn the_servers_own_address_is_no_node() {
    let (server, client) = start().await;
    let own = server.address();
    let answer = client.put_cluster("x", &json!({ "nodes": [jcm_tests::target::definition(own)] })).await;
    check_refusal(&answer, &[400], &[&own.to_string()]);
}

#[tokio::test]
async fn a_port_is_a_number_from_1_to_65535_with_a_name() {
    let values = [
        json!({ "http": 0 }),
        json!({ "http": 65536 }),
        json!({ "http": 70000 }),
        json!({ "http": -1 }),
        json!({ "http": 1.5 }),
        json!({ "http": "80" }),
        json!({ "http": null }),
        json!({ "": 80 }),
        json!({ "a b": 80 }),
        json!({ "a\u{0}": 80 }),
        json!([80]),
        json!(80),
    ];
    check_nodes("ports", &values, &["ports"]).await;
}

#[tokio::test]
async fn a_weight_is_from_1_to_1000() {
    check_nodes(
        "weight",
        &[json!(0), json!(-1), json!(1001), json!(1.5), json!("5"), json!(1e300)],
        &["weight"],
    )
    .await;
}

#[tokio::test]
async fn text_that_a_terminal_would_obey_is_refused() {
    let values = ["a\nb", "a\u{1b}[31mb", "a\u{0}b", "a\u{202e}b", "a\u{2066}b", "a\u{7f}b", "a\u{85}b"];
    let labels: Vec<_> = values.iter().map(|text| json!({ "rack": text })).collect();
    check_nodes("labels", &labels, &["labels"]).await;
    let labels: Vec<_> = values.iter().map(|text| json!({ (*text): "rack" })).collect();
    check_nodes("labels", &labels, &["labels"]).await;
    check_nodes("zone", &values.map(Value::from), &["zone"]).await;
    check_nodes("id", &values.map(Value::from), &["id"]).await;
}

#[tokio::test]
async fn a_cluster_beyond_the_limit_of_nodes_is_refused_with_the_limit() {
    let (mut server, client) = start().await;
    let nodes = |range: std::ops::Range<u32>| -> Value {
        range.map(|port| json!({ "address": "127.0.0.9", "ports": { "http": port } })).collect()
    };
    let answer = client.put_cluster("x", &json!({ "nodes": nodes(1..20_002) })).await;
    check_refusal(&answer, &[400, 413], &["20000"]);
    // Nor step by step.
    client.put_cluster("after", &json!({ "nodes": nodes(1..20_001) })).await.expect_status(201);
    let answer = client.post_nodes("after", &nodes(30_000..30_001)).await;
    check_refusal(&answer, &[400, 413], &["20000"]);
    check_unharmed(&mut server, &client).await;
}

#[tokio::test]
async fn a_write_beyond_what_a_store_takes_is_refused_with_both_sizes() {
    let (mut server, client) = start().await;
    // Hardly compressible text, and less than the limit of a body.
    let mut state = 1_u64;
    let text: String = (0..6_000_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'0' + u8::try_from(state >> 58).expect("six bits"))
        })
        .collect();
    let chunks: serde_json::Map<_, _> = text
        .as_bytes()
        .chunks(1000)
        .enumerate()
        .map(|(index, chunk)| (format!("key{index}"), Value::from(String::from_utf8_lossy(chunk))))
        .collect();
    let answer = client.put_cluster("x", &json!({ "properties": chunks })).await;
    check_refusal(&answer, &[400, 413], &[]);
    if answer.status == 413 {
        check_refusal(&answer, &[413], &["921600"]);
    }
    check_unharmed(&mut server, &client).await;
}
