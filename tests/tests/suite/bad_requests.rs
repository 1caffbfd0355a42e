//! Requests that are wrong: never a 5xx, a panic or a forged log line, whatever arrives.

use jcm_tests::raw;
use jcm_tests::server::start;
use reqwest::Method;
use serde_json::json;

use crate::refusal::{check_refusal, check_unharmed};

/// As a path segment, and as JSON text when it can be.
const BAD_NAMES: [(&str, &str); 14] = [
    ("..", ".."),
    ("%2e%2e", ".."),
    ("a..b", "a..b"),
    (".a", ".a"),
    ("-a", "-a"),
    ("a%2Fb", "a/b"),
    ("..%2F..%2Fetc%2Fpasswd", "../../etc/passwd"),
    ("a%00", "a\0"),
    ("%E2%80%AEa", "\u{202e}a"),
    ("%C3%A9", "é"),
    ("a%20b", "a b"),
    ("a%0d%0aFORGED", "a\r\nFORGED"),
    ("a%5Cb", "a\\b"),
    ("%F0%9F%92%A9", "💩"),
];

#[tokio::test]
async fn a_bad_name_is_refused_in_a_path() {
    let (mut server, client) = start().await;
    let long = "a".repeat(129);
    let huge = "a".repeat(4096);
    let names = BAD_NAMES.iter().map(|(path, _)| *path).chain([long.as_str(), huge.as_str(), "%FF"]);
    for name in names {
        for (method, path) in [
            ("PUT", format!("/v1/clusters/{name}")),
            ("GET", format!("/v1/clusters/{name}")),
            ("GET", format!("/v1/clusters/{name}/view")),
            ("GET", format!("/v1/resolve/{name}")),
            ("DELETE", format!("/v1/clusters/{name}/nodes/{name}")),
        ] {
            let answer = raw::with_json(server.address(), method, &path, b"{}").await.expect("an answer");
            check_refusal(&answer, &[400, 404, 414], &[]);
        }
    }
    check_unharmed(&mut server, &client).await;
    assert!(!server.log().lines().any(|line| line.starts_with("FORGED")), "{}", server.log());
}

#[tokio::test]
async fn a_bad_name_is_refused_in_a_body() {
    let (mut server, client) = start().await;
    let long = "a".repeat(129);
    let huge = "a".repeat(4096);
    for name in BAD_NAMES.iter().map(|(_, text)| *text).chain([long.as_str(), huge.as_str(), ""]) {
        let answer = client.apply(&json!([{ "name": name, "nodes": [] }])).await;
        check_refusal(&answer, &[400], &["name"]);
    }
    check_unharmed(&mut server, &client).await;
}

#[tokio::test]
async fn a_huge_body_is_answered_with_the_limit() {
    let (mut server, client) = start().await;
    let filler = "x".repeat(10_000_000);
    for (method, path) in [("PUT", "/v1/clusters/x"), ("POST", "/v1/apply"), ("POST", "/v1/clusters/x/nodes")]
    {
        let body = format!("{{\"properties\": {{\"a\": \"{filler}\"}}}}");
        let answer = raw::with_json(server.address(), method, path, body.as_bytes()).await;
        let answer = answer.unwrap_or_else(|| panic!("{method} {path}: closed without an answer"));
        check_refusal(&answer, &[413], &["8388608"]);
    }
    check_unharmed(&mut server, &client).await;
}

#[tokio::test]
async fn a_large_body_is_refused_where_bodies_are_small() {
    let (_server, client) = start().await;
    client.put_cluster("x", &json!({ "nodes": [] })).await.ok();
    let patch = json!({ "labels": { "a": "x".repeat(100_000) } });
    let answer = client.patch_node("x", "a", &patch).await;
    check_refusal(&answer, &[413], &["65536"]);
}

#[tokio::test]
async fn a_chunked_body_is_bounded_as_any_other() {
    let (mut server, client) = start().await;
    let mut request = b"PUT /v1/clusters/x HTTP/1.1\r\nHost: jcm\r\nConnection: close\r\n\
        Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        .to_vec();
    let block = [b"10000\r\n".as_slice(), &vec![b' '; 0x1_0000], b"\r\n"].concat();
    for _ in 0..160 {
        request.extend_from_slice(&block);
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let answer = raw::send(server.address(), &request).await.expect("an answer");
    check_refusal(&answer, &[413], &["8388608"]);
    check_unharmed(&mut server, &client).await;
}

#[tokio::test]
async fn deep_nesting_is_refused() {
    let (mut server, client) = start().await;
    for depth in [40, 200, 100_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            for body in [deep.clone(), format!("{{\"properties\":{deep}}}"), format!("{{\"name\":{deep}}}")] {
                let answer = raw::with_json(server.address(), "PUT", "/v1/clusters/x", body.as_bytes()).await;
                check_refusal(&answer.expect("an answer"), &[400], &[]);
            }
            // A merge patch is free JSON before it meets the cluster.
            client.put_cluster("x", &json!({})).await.ok();
            let patch = format!("{{\"properties\":{deep}}}");
            let answer = raw::with_json(server.address(), "PATCH", "/v1/clusters/x", patch.as_bytes()).await;
            check_refusal(&answer.expect("an answer"), &[400, 413], &[]);
            client.delete_cluster("x").await.ok();
        }
    }
    check_unharmed(&mut server, &client).await;
}

#[tokio::test]
async fn bytes_that_are_not_text_are_refused() {
    let (mut server, client) = start().await;
    for body in
        [b"\xff\xfe{\x00}\x00".as_slice(), b"{\"name\": \"\xff\"}", b"\x00\x00\x00\x00", b"\x1f\x8b\x08\x00"]
    {
        let answer =
            raw::with_json(server.address(), "PUT", "/v1/clusters/x", body).await.expect("an answer");
        check_refusal(&answer, &[400], &[]);
    }
    check_unharmed(&mut server, &client).await;
}

#[tokio::test]
async fn another_content_type_is_refused_with_the_right_one() {
    let (mut server, client) = start().await;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/xml", "nonsense"] {
        let request =
            client.request(Method::PUT, "/v1/clusters/x").header("content-type", kind).body("{\"nodes\":[]}");
        let answer = client.send(request).await;
        check_refusal(&answer, &[415], &["application/json"]);
    }
    check_unharmed(&mut server, &client).await;
}

#[tokio::test]
async fn bad_query_parameters_are_refused_by_name() {
    let (_server, client) = start().await;
    client.put_cluster("x", &json!({ "nodes": [] })).await.ok();
    for (path, part) in [
        ("/v1/clusters?limit=abc", "limit"),
        ("/v1/clusters?limit=-1", "limit"),
        ("/v1/clusters?limit=0", "limit"),
        ("/v1/clusters?state=sideways", "state"),
        ("/v1/clusters/x?min_revision=abc", "min_revision"),
        ("/v1/clusters/x/view?wait=soon", "wait"),
        ("/v1/clusters/x/view?wait=-1s", "wait"),
        ("/v1/resolve/x?n=abc", "n"),
        ("/v1/resolve/x?n=-1", "n"),
        ("/v1/resolve/x?policy=best", "policy"),
        ("/v1/watch?clusters=..", "clusters"),
        ("/v1/watch", "clusters"),
    ] {
        let answer = client.get(path).await;
        check_refusal(&answer, &[400], &[part]);
    }
    for token in ["x", "%00", "AAAA", "////", &"A".repeat(3000)] {
        let answer = client.get(&format!("/v1/clusters/x/view?token={token}")).await;
        assert!(answer.status < 500, "a foreign token is refused or ignored: {answer}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let (_server, client) = start().await;
    for path in
        ["/nowhere", "/v1", "/v1/nowhere", "/v1/clusters/x/y/z", "/%00", "/v1/operations/nothing%20at%20all"]
    {
        let answer = client.get(path).await;
        check_refusal(&answer, &[400, 404], &[]);
    }
    let answer = client.send(client.request(Method::POST, "/v1/clusters/x").json(&json!({}))).await;
    check_refusal(&answer, &[405], &["POST"]);
    assert!(answer.header("allow").is_some_and(|allow| allow.contains("PUT")), "{answer}");
}

#[tokio::test]
async fn hostile_headers_are_refused_or_ignored() {
    let (mut server, client) = start().await;
    for header in [
        format!("Idempotency-Key: {}", "k".repeat(10_000)),
        "Idempotency-Key: \u{1b}[31mFORGED".to_owned(),
        "Idempotency-Key:".to_owned(),
        "Idempotency-Key: \u{e9}\u{e9}".to_owned(),
        "If-Match: ,,,".to_owned(),
    ] {
        let request = format!(
            "PUT /v1/clusters/x HTTP/1.1\r\nHost: jcm\r\nConnection: close\r\n{header}\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        let answer = raw::send(server.address(), request.as_bytes()).await.expect("an answer");
        assert!((400..500).contains(&answer.status), "{header:.40?}: {answer}");
    }
    for request in [
        "GET / HTTP/9.9\r\n\r\n",
        "\r\n\r\n\r\n\r\nnonsense\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n",
        "GET /livez HTTP/1.1\r\nBad Header: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot a frame at all, by no means",
    ] {
        // An answer or a close: either is fine, hanging on is not.
        if let Some(answer) = raw::send(server.address(), request.as_bytes()).await {
            assert!(answer.status < 500, "{request:?}: {answer}");
        }
    }
    let head = format!("GET /livez HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", "X: y\r\n".repeat(200_000));
    if let Some(answer) = raw::send(server.address(), head.as_bytes()).await {
        assert!((400..500).contains(&answer.status), "endless headers: {answer}");
    }
    check_unharmed(&mut server, &client).await;
}

#[tokio::test]
async fn nothing_that_is_sent_forges_a_log_line() {
    let (mut server, client) = start().await;
    let payloads = ["x%0aFORGED", "x%0d%0aFORGED", "x%1b[31mFORGED", "x%00FORGED", "%E2%80%AEFORGED"];
    for payload in payloads {
        for path in [
            format!("/v1/clusters/{payload}"),
            format!("/{payload}"),
            format!("/v1/clusters?after={payload}"),
            format!("/v1/watch?clusters={payload}"),
            format!("/v1/operations/{payload}"),
        ] {
            if let Some(answer) = raw::get(server.address(), &path).await {
                assert!(answer.status < 500, "{answer}");
            }
        }
    }
    for text in ["x\nFORGED", "x\u{1b}[31mFORGED", "x\r\nFORGED"] {
        let body = json!({ "name": text, "properties": { "a": text }, "nodes": [{ "address": text }] });
        client.put_cluster("x", &body).await.expect_problem(400);
        client.apply(&json!([body])).await.expect_problem(400);
    }
    let log = server.log();
    assert!(!log.lines().any(|line| line.trim_start().starts_with("FORGED")), "{log}");
    for sequence in ["\u{1b}[31mFORGED", "\0FORGED", "\u{202e}FORGED", "\rFORGED"] {
        assert!(!log.contains(sequence), "{sequence:?} in the log:\n{log}");
    }
    check_unharmed(&mut server, &client).await;
}

#[tokio::test]
async fn a_large_body_is_taken_or_drained_whatever_refuses_it() {
    let (mut server, client) = start().await;
    let body = vec![b' '; 6_000_000];
    for (method, path, kind) in [
        ("PUT", "/v1/clusters/x", "text/plain"),
        ("PUT", "/v1/clusters/..%2f", "application/json"),
        ("PUT", "/v1/clusters/x?dry_run=perhaps", "application/json"),
        ("POST", "/v1/nowhere", "application/json"),
        ("POST", "/v1/clusters/x", "application/json"),
    ] {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: jcm\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        // As a client that reads only once it has written all.
        let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
        let mut answer = Vec::new();
        let exchange = async {
            tokio::io::AsyncWriteExt::write_all(&mut stream, &[head.as_bytes(), &body].concat()).await?;
            tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await
        };
        let exchanged = tokio::time::timeout(std::time::Duration::from_secs(30), exchange).await;
        assert!(exchanged.is_ok_and(|result| result.is_ok()), "{method} {path} {kind}: the answer was lost");
        assert!(answer.starts_with(b"HTTP/1.1 4"), "{method} {path}: {}", String::from_utf8_lossy(&answer));
    }
    check_unharmed(&mut server, &client).await;
}

#[tokio::test]
async fn what_clients_make_up_makes_no_metric() {
    let (_server, client) = start().await;
    client.get("/v1/clusters").await.ok();
    let series = async || client.get("/metrics").await.text.lines().count();
    let before = series().await;
    for index in 0..200 {
        let method = Method::from_bytes(format!("MADE{index}UP").as_bytes()).unwrap();
        client.send(client.request(method, &format!("/v1/made/{index}"))).await;
        client.get(&format!("/v1/clusters/made-{index}?up={index}")).await;
    }
    let after = series().await;
    assert!(after < before + 100, "from {before} lines to {after}");
}
