//! The harness itself: a fault that does not bite would let every row pass.

use std::net::SocketAddr;
use std::time::Duration;

use jcm_tests::{Client, Ensemble, Network, Proxy, Server, Target, eventually, network};
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

#[tokio::test]
async fn hosts_of_a_network_are_cut_from_one_another_and_healed() {
    if !network::isolated("harness::hosts_of_a_network_are_cut_from_one_another_and_healed").await {
        return;
    }
    let network = Network::of(&["a", "b"]).await;
    let node = SocketAddr::from((network.address("b"), 8080));
    let _target = Target::within("b", &[node], network.address("b").into()).await;
    let reaches = async |host: &str| {
        // The shell's own redirection: a bare Debian has no client for it.
        let connect = format!("exec 3<>/dev/tcp/{}/{}", node.ip(), node.port());
        let mut command = tokio::process::Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{host}")).args(["timeout", "1", "bash", "-c", &connect]);
        command.status().await.expect("run nsenter").success()
    };
    assert!(reaches("a").await);
    network.cut("a", "b").await;
    assert!(!reaches("a").await);
    assert!(answers(&Client::new(&format!("http://{node}"))).await, "the test itself still reaches it");
    network.heal().await;
    assert!(reaches("a").await);
    network.lose(1.0).await;
    assert!(!reaches("a").await);
    assert!(network.dropped().await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_and_a_look_out_see_nothing_wrong_in_one_server_that_is_killed_and_comes_back() {
    let mut server = Server::dev().start().await;
    let target = Target::start(3).await;
    server.client().put_cluster("checked", &crate::lookout::checked(&target)).await.ok();
    crate::lookout::all_healthy(&[server.client()], "checked").await;
    let lookout = crate::lookout::Lookout::start(vec![server.client()], &["checked"]);
    let load = crate::load::Load::start(vec![server.client()], crate::load::Plan::usual()).await;
    load.more(50).await;
    let killed = std::time::Instant::now();
    server.kill_9().await;
    server.restart().await;
    load.more(50).await;
    let broken = target.nodes()[1];
    let at = lookout.now();
    lookout.broken(broken);
    target.behave_at(broken, "refuse").await;
    lookout.until(&[0], broken, "down", at).await;
    let done = load.stop().await;
    assert!(done.acknowledged() >= 100);
    assert!(done.gap(&[0], killed, std::time::Instant::now()) > Duration::ZERO);
    let wrong: Vec<_> = done.histories.iter().flat_map(|(_, history)| history.violations()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let (history, looks) = lookout.stop().await;
    assert_eq!(history.violations(), [], "a node is broken, the others are well");
    assert!(looks[&0].0 > 10);
}
