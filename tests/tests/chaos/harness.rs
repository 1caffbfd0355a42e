//! The harness itself: a fault that does not bite would let every row pass.

use std::time::Duration;

use jcm_tests::{Client, Ensemble, Proxy, Server, eventually};
use reqwest::Method;

const DEADLINE: Duration = Duration::from_secs(30);
/// Long against an answer over loopback.
const SILENCE: Duration = Duration::from_millis(500);

async fn answers(client: &Client) -> bool {
    let request = client.request(Method::GET, "/livez").timeout(SILENCE);
    client.try_send(request).await.is_ok_and(|answer| answer.status == 200)
}

#[tokio::test]
async fn members_of_zookeeper_are_killed_and_paused_singly() {
    let zookeeper = Ensemble::start(3).await;
    let leader = zookeeper.leader().await;
    let before = zookeeper.transactions().await;
    zookeeper.pause(leader).await;
    assert_eq!(zookeeper.mode(leader).await, None, "a paused member does not answer");
    zookeeper.resume(leader).await;
    let leader = zookeeper.leader().await;
    zookeeper.kill_9(leader).await;
    let next = zookeeper.leader().await;
    assert_ne!(next, leader);
    zookeeper.restart(leader).await;
    assert_eq!(zookeeper.mode(leader).await.as_deref(), Some("follower"));
    let after = zookeeper.transactions().await;
    assert_eq!((before, after), (0, 0), "nobody wrote");
    zookeeper.wipe().await;
    zookeeper.leader().await;
}

#[tokio::test]
async fn a_proxy_cuts_holds_and_heals() {
    let server = Server::dev().start().await;
    let proxy = Proxy::to(server.address()).await;
    let client = Client::new(&format!("http://{}", proxy.address()));
    assert!(answers(&client).await);
    for fault in [Proxy::cut, Proxy::hold, Proxy::deafen] {
        fault(&proxy);
        assert!(!answers(&client).await, "it is cut off");
        proxy.heal();
        eventually(
            DEADLINE,
            "it answers again",
            async || if answers(&client).await { Ok(()) } else { Err("no") },
        )
        .await;
    }
    assert!(proxy.connections() >= 2);
}
