//! Nodes that are gone although their program did not leave: it died, was cut off, or lost its place.

use std::process::Stdio;
use std::time::Duration;

use jcm_subscriber::{Me, RegistrationEnd, RegistrationStatus, Subscriber};
use jcm_tests::server::start;
use jcm_tests::{Server, binary, eventually, process};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::checked::quick_check;

use super::{
    DEADLINE, LONG_TTL, TTL, address, id, lease_of, me, of_leases, program, until_healthy, until_node, view,
};

/// A real program in a process of its own. Ends with its owner.
struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn start(server: &Server) -> Self {
        Self::start_with(server, &[])
    }

    /// One that has this id and this port.
    fn start_as(server: &Server, id: &str, port: &str) -> Self {
        Self::start_with(server, &[id, port])
    }

    fn start_with(server: &Server, arguments: &[&str]) -> Self {
        let mut child = Command::new(binary::example("register"))
            .args([&server.url(), "orders", &TTL.as_secs().to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("start the program");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines }
    }

    /// The next line that it prints which begins so.
    async fn says(&mut self, start: &str) -> String {
        let found = async {
            loop {
                let line = self.lines.next_line().await.expect("its output is text");
                let line = line.unwrap_or_else(|| panic!("it ended before it said `{start}`"));
                if line.starts_with(start) {
                    return line;
                }
            }
        };
        tokio::time::timeout(DEADLINE, found).await.unwrap_or_else(|_| panic!("it does not say `{start}`"))
    }

    /// Ends it as the kernel does.
    async fn kill_9(&mut self) {
        self.child.start_kill().expect("kill a process that this test started");
        self.child.wait().await.expect("a killed process ends");
    }

    /// Waits until it is registered, and answers its node.
    async fn registered(&mut self) -> String {
        let line = self.says("registered ").await;
        line.split(' ').nth(1).expect("the node").to_owned()
    }
}

#[tokio::test]
async fn a_killed_program_becomes_down_and_is_cleared_away_and_the_others_stay() {
    let (server, client) = start().await;
    client.put_cluster("orders", &of_leases()).await.ok();
    let (mut one, mut other) = (Program::start(&server), Program::start(&server));
    let (killed, kept) = (one.registered().await, other.registered().await);
    until_healthy(&client, 2).await;
    one.kill_9().await;
    until_node(&client, &killed, "verdict", json!("down")).await;
    eventually(DEADLINE, "it is cleared away", async || {
        let view = view(&client).await?;
        if view.node_ids() == [kept.clone()] { Ok(()) } else { Err(view) }
    })
    .await;
    until_node(&client, &kept, "verdict", json!("healthy")).await;
    // It leaves when it is asked to end.
    process::signal(other.child.id().expect("it runs"), "INT").await;
    other.says("left").await;
    assert!(other.child.wait().await.expect("it ends").success());
    assert!(client.get_cluster("orders").await.node_ids().is_empty());
}

#[tokio::test]
async fn a_program_in_a_checked_cluster_is_judged_by_the_check_and_cleared_away_when_it_is_dead() {
    let (server, client) = start().await;
    client.put_cluster("orders", &json!({ "check": quick_check(), "nodes": [] })).await.ok();
    let mut program = Program::start(&server);
    let node = program.registered().await;
    until_node(&client, &node, "routable", json!(true)).await;
    until_node(&client, &node, "verdict", json!("healthy")).await;
    program.kill_9().await;
    until_node(&client, &node, "verdict", json!("down")).await;
    eventually(DEADLINE, "it is cleared away", async || {
        let view = view(&client).await?;
        if view.node_ids().is_empty() { Ok(()) } else { Err(view) }
    })
    .await;
}

/// Whoever answers at the place answers the check of the dead one's node, so that this is fit and not cleared away.
#[tokio::test]
async fn a_program_that_starts_again_under_another_id_in_a_checked_cluster_takes_the_place_of_the_dead_one() {
    let (server, client) = start().await;
    client.put_cluster("orders", &json!({ "check": quick_check(), "nodes": [] })).await.ok();
    let mut before = Program::start(&server);
    let dead = before.registered().await;
    until_node(&client, &dead, "routable", json!(true)).await;
    before.kill_9().await;
    let port = dead.rsplit(':').next().expect("an address and a port");
    let mut after = Program::start_as(&server, "orders-2", port);
    assert_eq!(after.registered().await, "orders-2");
    until_node(&client, "orders-2", "routable", json!(true)).await;
    until_node(&client, "orders-2", "verdict", json!("healthy")).await;
    assert_eq!(client.get_cluster("orders").await.node_ids(), ["orders-2"]);
}

#[tokio::test]
async fn a_program_that_stood_still_until_it_was_cleared_away_comes_back() {
    let (server, client) = start().await;
    client.put_cluster("orders", &of_leases()).await.ok();
    let mut program = Program::start(&server);
    let node = program.registered().await;
    until_node(&client, &node, "routable", json!(true)).await;
    let lease = lease_of(&client, &node).await;
    process::signal(program.child.id().expect("it runs"), "STOP").await;
    eventually(DEADLINE, "it is cleared away", async || {
        let view = view(&client).await?;
        if view.node_ids().is_empty() { Ok(()) } else { Err(view) }
    })
    .await;
    process::signal(program.child.id().expect("it runs"), "CONT").await;
    until_node(&client, &node, "routable", json!(true)).await;
    until_node(&client, &node, "verdict", json!("healthy")).await;
    assert_eq!(lease_of(&client, &node).await, lease);
}

#[tokio::test]
async fn what_was_deleted_under_a_living_program_is_there_again() {
    let (server, client) = start().await;
    client.put_cluster("orders", &of_leases()).await.ok();
    let jcm = program(&[server.url()]).await;
    let me = me(&jcm, 1).ttl(TTL).start().await.expect("it is registered");
    me.ready().await.expect("it stands");
    client.delete_node("orders", &id(1)).await.ok();
    until_node(&client, &id(1), "routable", json!(true)).await;
    assert_eq!(lease_of(&client, &id(1)).await, me.lease().to_string(), "it is the same lease");
    // So is the cluster's end survived, if there is one again.
    client.delete_cluster("orders").await.ok();
    eventually(DEADLINE, "it says what is missing", async || match me.status() {
        RegistrationStatus::Trying { reason: Some(reason) } if reason.contains("no cluster `orders`") => {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    })
    .await;
    client.put_cluster("orders", &of_leases()).await.ok();
    until_node(&client, &id(1), "routable", json!(true)).await;
}

#[tokio::test]
async fn the_last_process_has_the_place_and_the_one_before_says_so() {
    let (server, client) = start().await;
    client.put_cluster("orders", &of_leases()).await.ok();
    let (before, after) = (program(&[server.url()]).await, program(&[server.url()]).await);
    let old = me(&before, 1).ttl(TTL).ready_at_once().start().await.expect("it is registered");
    let new = me(&after, 1).ttl(TTL).ready_at_once().start().await.expect("it takes the place");
    assert_eq!(lease_of(&client, &id(1)).await, new.lease().to_string());
    let end = tokio::time::timeout(DEADLINE, old.ended()).await.expect("in time");
    assert_eq!(end, RegistrationEnd::Taken);
    old.ready().await.expect_err("it is over");
    old.leave(TTL).await.expect("there is nothing to leave");
    assert_eq!(lease_of(&client, &id(1)).await, new.lease().to_string(), "the other one's node stays");
    until_healthy(&client, 1).await;
}

#[tokio::test]
async fn a_program_that_starts_again_under_another_id_waits_until_its_old_node_may_be_replaced() {
    let (server, client) = start().await;
    client.put_cluster("orders", &of_leases()).await.ok();
    let before = program(&[server.url()]).await;
    let old = me(&before, 1).ttl(TTL).ready_at_once().start().await.expect("it is registered");
    until_healthy(&client, 1).await;
    // It dies.
    before.shutdown().await;
    drop(old);
    let jcm = Subscriber::builder().servers([server.url()]).ready_timeout(Duration::from_secs(1));
    let jcm = jcm.build().await.expect("a good address");
    let me = Me::new().port("http", 80).address(address(1)).id("orders-2");
    let me = jcm.register("orders", me).ttl(TTL).ready_at_once().start().await.expect("it is tried");
    match me.status() {
        RegistrationStatus::Trying { reason: Some(reason) } => {
            assert!(reason.contains(&id(1)) && reason.contains("10.0.0.1 port 80"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let node = tokio::time::timeout(DEADLINE, me.registered()).await.expect("in time").expect("it stands");
    assert_eq!(node.as_str(), "orders-2");
    until_node(&client, "orders-2", "routable", json!(true)).await;
    assert_eq!(client.get_cluster("orders").await.node_ids(), ["orders-2"]);
}

/// As many that lapse at once they would be left for the grace time.
#[tokio::test]
async fn programs_that_all_start_again_under_other_ids_have_their_places() {
    const COUNT: u16 = 5;
    let (server, client) = start().await;
    client.put_cluster("orders", &of_leases()).await.ok();
    let before = program(&[server.url()]).await;
    let mut old = Vec::new();
    for number in 0..COUNT {
        old.push(me(&before, number).ttl(TTL).ready_at_once().start().await.expect("it is registered"));
    }
    until_healthy(&client, COUNT.into()).await;
    before.shutdown().await;
    drop(old);
    let jcm = Subscriber::builder().servers([server.url()]).ready_timeout(Duration::from_millis(100));
    let jcm = jcm.build().await.expect("a good address");
    let mut new = Vec::new();
    for number in 0..COUNT {
        let me = Me::new().port("http", 80).address(address(number)).id(format!("again-{number}"));
        new.push(
            jcm.register("orders", me).ttl(LONG_TTL).ready_at_once().start().await.expect("it is tried"),
        );
    }
    for me in &new {
        tokio::time::timeout(DEADLINE, me.registered()).await.expect("in time").expect("it stands");
    }
    let view = until_healthy(&client, COUNT.into()).await;
    assert!(view.node_ids().iter().all(|id| id.starts_with("again-")), "{view}");
}

#[tokio::test]
async fn a_node_that_people_take_over_is_theirs() {
    let (server, client) = start().await;
    client.put_cluster("orders", &json!({ "nodes": [] })).await.ok();
    let jcm = program(&[server.url()]).await;
    let me = me(&jcm, 1).ttl(TTL).ready_at_once().start().await.expect("it is registered");
    client.patch_node("orders", &id(1), &json!({ "lease": null })).await.ok();
    let end = tokio::time::timeout(DEADLINE, me.ended()).await.expect("in time");
    assert_eq!(end, RegistrationEnd::Adopted);
    drop(me);
    jcm.shutdown().await;
    // Long after any lease would have lapsed.
    tokio::time::sleep(TTL * 4).await;
    assert_eq!(client.get_cluster("orders").await.node_ids(), [id(1)]);
}

#[tokio::test]
async fn a_program_that_drops_its_registration_is_cleared_away() {
    let (server, client) = start().await;
    client.put_cluster("orders", &of_leases()).await.ok();
    let jcm = program(&[server.url()]).await;
    let dropped = me(&jcm, 1).ttl(TTL).ready_at_once().start().await.expect("it is registered");
    let _kept = me(&jcm, 2).ttl(TTL).ready_at_once().start().await.expect("it is registered");
    until_healthy(&client, 2).await;
    drop(dropped);
    eventually(DEADLINE, "it is cleared away", async || {
        let view = view(&client).await?;
        if view.node_ids() == [id(2)] { Ok(()) } else { Err(view) }
    })
    .await;
    until_healthy(&client, 1).await;
}
