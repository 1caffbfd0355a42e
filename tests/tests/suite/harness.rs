//! The harness itself: a node that should misbehave must do so, or the suites prove nothing.

use std::time::Duration;

use jcm_tests::Target;

/// Sends one request by hand and reads until the other side closes or stays silent.
async fn ask(node: std::net::SocketAddr) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(node).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n").await?;
    let mut answer = vec![0; 4096];
    match tokio::time::timeout(Duration::from_millis(300), stream.read(&mut answer)).await {
        Ok(count) => answer.truncate(count?),
        Err(_) => answer.clear(),
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn a_target_answers_as_it_is_told() {
    let target = Target::start(2).await;
    let [node, other] = *target.nodes() else { panic!("two were asked for") };
    for (behaviour, start) in [
        ("ok", "HTTP/1.1 200"),
        ("error500", "HTTP/1.1 500"),
        ("http10", "HTTP/1.0 200"),
        ("informational", "HTTP/1.1 100"),
        ("endless-headers", "HTTP/1.1 200"),
        ("slow-bytes", "H"),
        ("hang", ""),
        ("close", ""),
    ] {
        target.behave_at(node, behaviour).await;
        let answer = ask(node).await.unwrap();
        assert!(answer.starts_with(start), "{behaviour}: {answer:?}");
        assert!(answer.len() < 3 || start.len() > 2, "{behaviour}: {answer:?}");
    }
    assert!(ask(other).await.unwrap().starts_with("HTTP/1.1 200"), "the other node is not concerned");
    assert_eq!(target.count(node).await, 8);
    assert_eq!(target.count(other).await, 1);
    assert!(target.last_request(other).await.starts_with("GET / HTTP/1.1"));
}

#[tokio::test]
async fn a_refusing_target_refuses_and_comes_back_on_its_port() {
    let target = Target::start(1).await;
    let node = target.nodes()[0];
    target.behave("refuse").await;
    jcm_tests::eventually(Duration::from_secs(5), "refused", async || match ask(node).await {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    target.behave("ok").await;
    jcm_tests::eventually(Duration::from_secs(5), "answers", async || match ask(node).await {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test]
async fn a_killed_target_is_revived_on_its_ports() {
    let mut target = Target::start(3).await;
    let nodes = target.nodes().to_vec();
    target.kill().await;
    for node in &nodes {
        assert!(ask(*node).await.is_err(), "{node} is dead");
    }
    target.revive().await;
    for node in &nodes {
        assert!(ask(*node).await.unwrap().starts_with("HTTP/1.1 200"), "{node} is back");
    }
}
