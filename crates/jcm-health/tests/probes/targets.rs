//! What an engine is told, and what it says of itself.

use super::*;

#[tokio::test]
async fn the_target_policy_is_asked_again_at_connect() {
    let node = Node::answering(OK).await;
    for policy in [
        TargetPolicy { loopback_allowed: false, own: Vec::new() },
        TargetPolicy { loopback_allowed: true, own: vec![node.address] },
    ] {
        for kind in [CheckKind::Tcp, CheckKind::Http, CheckKind::Https, CheckKind::Grpc] {
            let check = Check { kind, ..http() };
            let mut checker = Checker::with(policy.clone(), 16);
            checker.set(1, 1, node.address, &check);
            assert_eq!(checker.next().await.outcome, Outcome::Forbidden);
            checker.stop().await;
        }
    }
    assert_eq!(node.connections(), 0);
}

#[tokio::test]
async fn reports_carry_the_generation_of_what_was_probed() {
    let node = Node::answering(OK).await;
    let mut checker = Checker::start();
    checker.set(7, 1, node.address, &http());
    assert_eq!(checker.next().await.generation, 1);
    checker.set(7, 2, node.address, &http());
    while checker.next().await.generation != 2 {}
    for _ in 0..10 {
        let report = checker.next().await;
        assert_eq!((report.key, report.generation), (TargetKey(7), 2));
        assert!(report.latency <= http().timeout * 2);
    }
    checker.stop().await;
}

#[tokio::test]
async fn a_target_that_is_set_again_and_again_is_still_probed() {
    let slow = Node::start(|mut stream, _| async move {
        while read_request(&mut stream).await.is_some() {
            sleep(Duration::from_millis(30)).await;
            stream.write_all(OK.as_bytes()).await.ok();
        }
    })
    .await;
    let mut checker = Checker::start();
    let setting_until_reported = async {
        while timeout(Duration::from_millis(5), checker.reports.recv()).await.is_err() {
            checker.engine.set(Target {
                key: TargetKey(1),
                address: slow.address,
                check: Arc::new(http()),
                generation: 1,
            });
        }
    };
    timeout(DEADLINE, setting_until_reported).await.expect("the same setting starts nothing anew");
    checker.stop().await;
}

#[tokio::test]
async fn a_removed_target_is_not_probed_any_more() {
    let node = Node::answering(OK).await;
    let mut checker = Checker::start();
    checker.set(1, 1, node.address, &http());
    checker.set(2, 1, node.address, &http());
    checker.next().await;
    checker.targets(2).await;
    checker.engine.remove(TargetKey(1));
    checker.engine.remove(TargetKey(3));
    checker.targets(1).await;
    // What was on its way may arrive; after a report of the other target, that is over.
    while checker.next().await.key != TargetKey(2) {}
    for _ in 0..10 {
        assert_eq!(checker.next().await.key, TargetKey(2));
    }
    // A kind that nobody probes is no target either.
    checker.set(2, 2, node.address, &Check { kind: CheckKind::None, ..http() });
    checker.targets(0).await;
    checker.stop().await;
}

#[tokio::test]
async fn after_shutdown_nothing_is_probed_and_the_channel_ends() {
    let node = Node::answering(OK).await;
    let mut checker = Checker::start();
    for key in 0..50 {
        checker.set(key, 1, node.address, &http());
    }
    checker.next().await;
    checker.stop().await;
    checker.set(99, 1, node.address, &http());
    assert_eq!(checker.engine.stats().targets, 0);
    drop(checker.engine);
    let drained = async { while checker.reports.recv().await.is_some() {} };
    timeout(DEADLINE, drained).await.expect("every task let go of the channel");
}

#[tokio::test]
async fn no_probe_begins_while_nobody_takes_the_reports() {
    let node = Node::answering(OK).await;
    let mut checker = Checker::with(anywhere(), 1);
    for key in 0..3 {
        checker.set(key, 1, node.address, &http());
    }
    // One report fits the channel; the next one stops all but what is under way.
    let all_wait = async {
        while checker.engine.stats().rounds < 2 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, all_wait).await.expect("two rounds");
    sleep(http().interval * 10).await;
    assert!(checker.engine.stats().rounds <= 4, "{:?}", checker.engine.stats());
    for _ in 0..10 {
        assert!(checker.next().await.outcome.is_success());
    }
    checker.stop().await;
}
