//! One server is left for another: whose word counts, and when.

use std::sync::Arc;

use jcm_model::{ClusterState, Revision};
use jcm_proto::v1::watch_response as wire;

use super::super::*;
use super::bench::{Bench, HEARTBEAT, delta, history, judged, node, orders, removed, store, view, welcome};
use super::short_delta;

#[test]
fn what_a_left_server_still_says_does_not_count_once_another_has_answered() {
    let states = history(4);
    let (mut bench, link) = Bench::following(2, None);
    bench.apply(Event::Subscribe { cluster: ClusterName::parse("payments").unwrap(), saved: None });
    bench.says(link, view(store(0), &states[0]));
    let mut payments = states[0].cluster().as_ref().clone();
    payments.name = ClusterName::parse("payments").unwrap();
    // The old link stays for the other cluster, of which the new one says nothing.
    bench.says(link, view(store(0), &ClusterState::new(Arc::new(payments))));
    bench.says(link, Answer::GoAway(wire::GoAway::default()));
    bench.wait(crate::servers::BACKOFF_BASE);
    let other = bench.last_link();
    bench.says(other, welcome());
    bench.says(other, view(store(0), &states[1]));
    assert!(bench.open.contains_key(&link));
    bench.says(link, view(store(1), &states[3]));
    bench.says(link, removed(store(0), 99));
    assert_eq!((bench.held().store(), bench.held().revision()), (Some(store(0)), Some(Revision(3))));
    assert!(bench.is_live());
}

#[test]
fn a_left_server_that_is_listened_to_again_is_asked_for_what_it_said_meanwhile() {
    let states = history(3);
    let id = node(1, 1).id.clone();
    let whole = || Answer::View(wire::View::new(store(0), (vec![1, 2, 3, 4], 3), &states[0], false));
    let (mut bench, link) = Bench::following(2, None);
    bench.apply(Event::Subscribe { cluster: ClusterName::parse("payments").unwrap(), saved: None });
    bench.says(link, whole());
    // The old link stays for the other cluster, of which the new one says nothing.
    let mut payments = states[0].cluster().as_ref().clone();
    payments.name = ClusterName::parse("payments").unwrap();
    bench.says(link, view(store(0), &ClusterState::new(Arc::new(payments))));
    bench.says(link, Answer::GoAway(wire::GoAway::default()));
    bench.wait(crate::servers::BACKOFF_BASE);
    let other = bench.last_link();
    bench.says(other, welcome());
    bench.says(other, Answer::View(wire::View::new(store(0), (vec![5, 6, 7, 8], 3), &states[0], false)));
    let later = |sequence| judged(Revision(1), sequence);
    bench.says(link, short_delta(&id, &later(997)));
    bench.subscriptions();
    bench.closes(other);
    assert!(matches!(bench.standing(), Standing::Stale { .. }));
    let [(on, subscribe)] = &bench.subscriptions()[..] else { panic!("one subscription") };
    assert_eq!((*on, subscribe.cluster.as_str(), &subscribe.token[..]), (link, "orders", &[5, 6, 7, 8][..]));
    // It was on its way when that was asked: it says nothing of what was passed over, and its token ends another one.
    bench.says(link, short_delta(&id, &later(998)));
    assert!(matches!(bench.standing(), Standing::Stale { .. }));
    assert_eq!(bench.held().to_subscribe(&orders()).token, [5, 6, 7, 8]);
    let Answer::Delta(answer) = short_delta(&id, &later(999)) else { unreachable!() };
    bench.says(link, Answer::Delta(wire::Delta { token: vec![1, 2, 3, 9], token_kept: 3, ..answer }));
    assert!(bench.is_live());
    bench.says(link, short_delta(&id, &later(1_000)));
    let Held::View { state, .. } = bench.held() else { panic!("a view is held") };
    assert_eq!(state.judged(&id), Some(&later(1_000)));
    assert_eq!(bench.held().to_subscribe(&orders()).token, [1, 2, 3, 9, 9]);
    assert!(bench.subscriptions().is_empty());
}

#[test]
fn a_server_that_asks_to_be_left_is_left_without_a_gap() {
    let states = history(3);
    let (mut bench, link) = Bench::following(2, None);
    bench.says(link, view(store(0), &states[0]));
    bench.wait_with_heartbeats(link, 2 * HEARTBEAT);
    bench.published.clear();
    bench.says(link, Answer::GoAway(wire::GoAway { reason: "stopping".to_owned() }));
    bench.wait(crate::servers::BACKOFF_BASE);
    let other = bench.last_link();
    assert_ne!(bench.open[&link], bench.open[&other]);
    bench.says(link, delta(&states[0], &states[1]));
    bench.says(other, welcome());
    assert!(bench.open.contains_key(&link), "left before the other had answered");
    bench.says(other, view(store(0), &states[1]));
    assert!(!bench.open.contains_key(&link));
    bench.says(other, delta(&states[1], &states[2]));
    let always_live = bench.published.iter().all(|standing| matches!(standing, Standing::Live { .. }));
    assert!(always_live && bench.is_live(), "{:?}", bench.published);
}

#[test]
fn the_only_server_is_kept_until_it_ends_the_stream_itself() {
    let states = history(2);
    let (mut bench, link) = Bench::following(1, None);
    bench.says(link, view(store(0), &states[0]));
    bench.says(link, Answer::GoAway(wire::GoAway { reason: "stopping".to_owned() }));
    for _ in 0..20 {
        bench.wait_with_heartbeats(link, HEARTBEAT);
        let last = bench.last_link();
        if last != link {
            bench.closes(last);
        }
    }
    assert!(bench.open.contains_key(&link) && bench.is_live());
}
