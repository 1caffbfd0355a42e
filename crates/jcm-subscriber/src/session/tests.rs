//! The session against scripted servers.

mod anything;
pub(super) mod bench;
mod leaving;

use std::time::SystemTime;

use jcm_model::{NodeId, Revision};
use jcm_proto::v1::watch_response as wire;

use super::*;
use bench::{Bench, HEARTBEAT, delta, history, judged, node, orders, removed, store, unknown, view, welcome};

#[test]
fn a_stream_begins_with_hello_and_a_subscription_of_nothing() {
    let (mut bench, _) = Bench::following(1, None);
    assert!(
        matches!(&bench.sent[0].1, Request::Hello(hello) if hello.protocol == WATCH_PROTOCOLS.oldest() && hello.client == "test")
    );
    let [(_, subscribe)] = &bench.subscriptions()[..] else { panic!("one subscription") };
    assert_eq!((subscribe.store.len(), subscribe.revision, subscribe.token.len()), (0, 0, 0));
}

#[test]
fn a_new_stream_resumes_from_what_is_held() {
    let states = history(3);
    let (mut bench, link) = Bench::following(1, None);
    bench.says(link, view(store(0), &states[2]));
    bench.subscriptions();
    bench.closes(link);
    assert!(matches!(bench.standing(), Standing::Stale { .. }));
    bench.wait(Duration::from_secs(1));
    let [(_, subscribe)] = &bench.subscriptions()[..] else { panic!("one subscription") };
    assert_eq!(subscribe.store, store(0).0.as_bytes());
    assert_eq!((subscribe.revision, subscribe.token.clone()), (5, 5_u64.to_be_bytes().to_vec()));
}

#[test]
fn what_is_applied_is_acknowledged_together_and_once() {
    let states = history(4);
    let (mut bench, link) = Bench::following(1, None);
    let acknowledged = |bench: &Bench| -> Vec<u64> {
        let revision = |(_, request): &(LinkId, Request)| match request {
            Request::Acknowledge(acknowledge) => Some(acknowledge.revision),
            _ => None,
        };
        bench.sent.iter().filter_map(revision).collect()
    };
    bench.says(link, view(store(0), &states[0]));
    bench.says(link, delta(&states[0], &states[1]));
    assert!(acknowledged(&bench).is_empty(), "other programs are still being told of the same change");
    bench.wait(Duration::from_secs(1));
    assert_eq!(acknowledged(&bench), [3]);
    // What says nothing new of the definition is not acknowledged again.
    bench.says(link, view(store(0), &states[1]));
    bench.wait(Duration::from_secs(1));
    assert_eq!(acknowledged(&bench), [3]);
    bench.says(link, delta(&states[1], &states[2]));
    bench.wait(Duration::from_secs(1));
    assert_eq!(acknowledged(&bench).len(), 2);
    // The same revision of another store is another definition.
    bench.says(link, view(store(1), &states[2]));
    bench.wait(Duration::from_secs(1));
    assert_eq!(acknowledged(&bench).len(), 3);
}

#[test]
fn a_delta_that_starts_elsewhere_asks_for_a_full_view_once() {
    let states = history(6);
    let (mut bench, link) = Bench::following(1, None);
    bench.says(link, view(store(0), &states[0]));
    bench.subscriptions();
    bench.says(link, delta(&states[1], &states[2]));
    bench.says(link, delta(&states[2], &states[3]));
    let [(_, subscribe)] = &bench.subscriptions()[..] else { panic!("one subscription") };
    assert!(subscribe.token.is_empty() && subscribe.revision == 0);
    assert_eq!(bench.held().revision(), Some(Revision(1)));
    bench.says(link, view(store(0), &states[3]));
    bench.says(link, delta(&states[3], &states[4]));
    assert_eq!(bench.held().revision(), Some(Revision(9)));
    assert!(bench.subscriptions().is_empty());
}

/// A delta of one verdict that leaves out what the client holds, and brings another end of the token.
fn short_delta(id: &NodeId, judged: &jcm_model::Judged) -> Answer {
    Answer::Delta(wire::Delta {
        cluster: orders().to_string(),
        token_end: vec![9, 9],
        from: 1,
        verdicts: vec![jcm_proto::v1::NodeVerdict::of_same_judge(id, judged)],
        ..wire::Delta::default()
    })
}

#[test]
fn a_short_delta_is_completed_from_what_is_held() {
    let states = history(1);
    let id = node(1, 1).id.clone();
    let (mut bench, link) = Bench::following(1, None);
    let whole = wire::View::new(store(0), (vec![1, 2, 3, 4], 3), &states[0], false);
    bench.says(link, Answer::View(whole));
    bench.subscriptions();
    let later = judged(Revision(1), 999);
    bench.says(link, short_delta(&id, &later));
    let Held::View { state, .. } = bench.held() else { panic!("a view is held") };
    assert_eq!(state.judged(&id), Some(&later));
    assert_eq!(state.cluster(), states[0].cluster(), "the definition is what it was");
    assert_eq!(bench.held().to_subscribe(&orders()).token, [1, 2, 3, 9, 9]);
    assert!(bench.subscriptions().is_empty());
    // It counts from a verdict of somebody else: nothing of it can be taken over.
    let mut foreign = judged(Revision(1), 1_000);
    foreign.stamp.server = jcm_model::ServerId::parse("t").unwrap();
    bench.says(link, short_delta(&id, &foreign));
    let Held::View { state, .. } = bench.held() else { panic!("a view is held") };
    assert_eq!(state.judged(&id), Some(&later));
    let [(_, subscribe)] = &bench.subscriptions()[..] else { panic!("one subscription") };
    assert!(subscribe.token.is_empty(), "the whole view is asked for");
}

#[test]
fn what_follows_a_delta_that_cannot_be_read_changes_nothing_until_it_was_asked_for_again() {
    let states = history(1);
    let id = node(1, 1).id.clone();
    let (mut bench, link) = Bench::following(1, None);
    let whole = || Answer::View(wire::View::new(store(0), (vec![1, 2, 3, 4], 3), &states[0], false));
    bench.says(link, whole());
    bench.subscriptions();
    let Answer::Delta(mut unreadable) = short_delta(&id, &judged(Revision(1), 998)) else { unreachable!() };
    unreadable.verdicts[0].node = "\n".to_owned();
    bench.says(link, Answer::Delta(unreadable));
    // The next one counts from what that one would have led to.
    bench.says(link, short_delta(&id, &judged(Revision(1), 999)));
    let Held::View { state, .. } = bench.held() else { panic!("a view is held") };
    assert_eq!(state.judged(&id), states[0].judged(&id));
    assert_eq!(bench.held().to_subscribe(&orders()).token, [1, 2, 3, 4], "the way from here is missing");
    assert!(matches!(bench.standing(), Standing::Stale { .. }));
    assert!(bench.subscriptions().is_empty(), "a server that says what cannot be read is not asked at once");
    bench.wait_with_heartbeats(link, ANSWER_TIMEOUT);
    let [(_, subscribe)] = &bench.subscriptions()[..] else { panic!("one subscription") };
    assert!(subscribe.token.is_empty(), "the whole view is asked for");
    bench.says(link, whole());
    let later = judged(Revision(1), 1_000);
    bench.says(link, short_delta(&id, &later));
    let Held::View { state, .. } = bench.held() else { panic!("a view is held") };
    assert_eq!(state.judged(&id), Some(&later));
}

#[test]
fn a_server_that_is_behind_is_told_what_is_held_and_changes_nothing() {
    let states = history(4);
    let (mut bench, link) = Bench::following(2, None);
    bench.says(link, view(store(0), &states[3]));
    bench.closes(link);
    bench.wait(Duration::from_secs(1));
    let other = bench.last_link();
    bench.says(other, welcome());
    bench.subscriptions();
    bench.says(other, view(store(0), &states[1]));
    assert_eq!(bench.held().revision(), Some(Revision(7)));
    assert!(matches!(bench.standing(), Standing::Stale { .. }));
    assert_eq!(bench.subscriptions()[0].1.revision, 7);
    bench.says(other, removed(store(0), 6));
    assert_eq!(bench.held().revision(), Some(Revision(7)));
    bench.says(other, removed(store(0), 8));
    assert_eq!(bench.standing(), Standing::Removed { revision: Revision(8) });
    bench.says(other, view(store(0), &states[3]));
    assert_eq!(bench.standing(), Standing::Removed { revision: Revision(8) }, "a removed cluster came back");
}

#[test]
fn a_full_view_with_an_earlier_verdict_keeps_the_later_one() {
    let states = history(1);
    let id = node(1, 1).id.clone();
    let mut later = states[0].clone();
    assert!(later.judge(&id, judged(Revision(1), 999)));
    let (mut bench, link) = Bench::following(1, None);
    bench.says(link, view(store(0), &later));
    bench.says(link, view(store(0), &states[0]));
    let Held::View { state, .. } = bench.held() else { panic!("a view is held") };
    assert_eq!(state.judged(&id), later.judged(&id));
    // Verdicts of another store are not comparable: that store's view replaces everything.
    bench.says(link, view(store(1), &states[0]));
    let Held::View { state, .. } = bench.held() else { panic!("a view is held") };
    assert_eq!(state.judged(&id), states[0].judged(&id));
}

#[test]
fn a_server_that_served_for_a_while_ends_the_long_delays() {
    let mut bench = Bench::new(1);
    for _ in 0..20 {
        let link = bench.last_link();
        bench.closes(link);
        bench.connect();
    }
    let link = bench.last_link();
    bench.says(link, welcome());
    bench.wait_with_heartbeats(link, 2 * HEARTBEAT);
    bench.closes(link);
    bench.wait(crate::servers::BACKOFF_BASE);
    assert!(!bench.open.is_empty());
}

#[test]
fn another_store_replaces_in_one_step_and_its_absence_empties_nothing() {
    let states = history(4);
    let (mut bench, link) = Bench::following(1, None);
    bench.says(link, view(store(0), &states[3]));
    bench.says(link, removed(store(1), 99));
    assert_eq!(bench.held().store(), Some(store(0)));
    assert!(matches!(bench.standing(), Standing::Stale { .. }));
    bench.says(link, delta(&states[3], &states[3]));
    assert!(!bench.is_live(), "a delta of another store was taken for one of this");
    bench.says(link, view(store(1), &states[0]));
    assert_eq!((bench.held().store(), bench.held().revision()), (Some(store(1)), Some(Revision(1))));
    assert!(bench.is_live());
}

#[test]
fn unknown_keeps_what_is_held_and_is_asked_again() {
    let states = history(2);
    let (mut bench, link) = Bench::following(1, None);
    bench.says(link, view(store(0), &states[1]));
    bench.says(link, unknown());
    assert_eq!(bench.held().revision(), Some(Revision(3)));
    assert!(matches!(bench.standing(), Standing::Stale { .. }));
    bench.subscriptions();
    bench.wait_with_heartbeats(link, ANSWER_TIMEOUT);
    assert_eq!(bench.subscriptions()[0].1.revision, 3);
    bench.wait_with_heartbeats(link, ANSWER_TIMEOUT);
    assert!(bench.is_live(), "silence after a subscription means that there is nothing new");
}

#[test]
fn silence_after_a_resume_means_that_nothing_changed() {
    let states = history(2);
    let held = Held::from_event(view(store(0), &states[1])).unwrap();
    let saved = Saved { held, written: SystemTime::UNIX_EPOCH };
    let (mut bench, link) = Bench::following(1, Some(saved));
    assert!(matches!(bench.standing(), Standing::Snapshot { .. }));
    bench.wait_with_heartbeats(link, 7 * HEARTBEAT);
    assert!(matches!(bench.standing(), Standing::Snapshot { .. }));
    bench.wait_with_heartbeats(link, HEARTBEAT);
    assert!(bench.is_live());
    bench.closes(link);
    assert!(matches!(bench.standing(), Standing::Stale { .. }));
}

#[test]
fn a_server_that_loses_its_store_makes_everything_stale_with_one_word() {
    let states = history(2);
    let (mut bench, link) = Bench::following(1, None);
    bench.says(link, view(store(0), &states[0]));
    assert!(bench.is_live());
    for _ in 0..2 {
        bench.says(link, Answer::Heartbeat(wire::Heartbeat { stale: true }));
        let Standing::Stale { since } = bench.standing() else { panic!("{:?}", bench.standing()) };
        bench.wait_with_heartbeats(link, Duration::ZERO);
        bench.says(link, Answer::Heartbeat(wire::Heartbeat { stale: true }));
        assert_eq!(bench.standing(), Standing::Stale { since }, "since it was first said");
        assert_eq!(bench.held().revision(), Some(states[0].cluster().revision), "what is held stays");
        bench.says(link, Answer::Heartbeat(wire::Heartbeat { stale: false }));
        assert!(bench.is_live());
    }
}

#[test]
fn a_server_that_falls_silent_is_left_after_three_heartbeats() {
    let states = history(1);
    let (mut bench, link) = Bench::following(2, None);
    bench.says(link, view(store(0), &states[0]));
    let first = bench.open[&link].clone();
    bench.wait(Duration::from_millis(2999));
    assert!(bench.is_live() && bench.open.contains_key(&link));
    bench.wait(Duration::from_millis(1) + crate::servers::BACKOFF_BASE * 2);
    assert!(!bench.open.contains_key(&link));
    assert_ne!(bench.open[&bench.last_link()], first);
    assert!(matches!(bench.standing(), Standing::Stale { since } if since + 3 * HEARTBEAT <= bench.now));
}

#[test]
fn a_server_that_never_says_welcome_is_left_at_the_deadline() {
    let mut bench = Bench::new(2);
    let link = bench.last_link();
    bench.says(link, Answer::Heartbeat(wire::Heartbeat { stale: false }));
    bench.wait(CONNECT_TIMEOUT);
    assert!(!bench.open.contains_key(&link));
}

#[test]
fn a_server_of_a_later_protocol_is_left() {
    let mut bench = Bench::new(1);
    let link = bench.last_link();
    bench.says(
        link,
        Answer::Welcome(wire::Welcome {
            protocol: WATCH_PROTOCOLS.newest() + 1,
            server: "s".to_owned(),
            heartbeat_ms: 1,
        }),
    );
    assert!(bench.open.is_empty());
}

#[test]
fn tries_go_on_for_ever_with_growing_delays() {
    let mut bench = Bench::new(3);
    let mut tries = 0;
    let end = bench.now + Duration::from_mins(10);
    while bench.now < end {
        if !bench.open.is_empty() {
            tries += 1;
            let link = bench.last_link();
            bench.closes(link);
        }
        let next = bench.session.deadline().expect("there is always a next try");
        bench.wait(next - bench.now);
    }
    assert!((100..1000).contains(&tries), "{tries} tries in ten minutes");
}

#[test]
fn a_cluster_that_nobody_holds_is_unsubscribed() {
    let (mut bench, link) = Bench::following(1, None);
    bench.apply(Event::Unsubscribe { cluster: orders() });
    assert!(
        matches!(&bench.sent.last().unwrap().1, Request::Unsubscribe(unsubscribe) if unsubscribe.cluster == "orders")
    );
    bench.says(link, view(store(0), &history(1)[0]));
    assert!(bench.session.held(&orders()).is_none());
}

#[test]
fn nonsense_from_a_server_changes_nothing() {
    let states = history(2);
    let (mut bench, link) = Bench::following(1, None);
    bench.says(link, view(store(0), &states[1]));
    let held = bench.held().clone();
    for nonsense in [
        Answer::View(wire::View::default()),
        Answer::View(wire::View {
            store: vec![1, 2, 3],
            cluster: Some(states[0].cluster().as_ref().into()),
            ..Default::default()
        }),
        Answer::Delta(wire::Delta { cluster: "orders".to_owned(), from: 3, to: 1, ..Default::default() }),
        Answer::Delta(wire::Delta { cluster: "../../etc".to_owned(), ..Default::default() }),
        Answer::Delta(wire::Delta { cluster: "other".to_owned(), ..Default::default() }),
        Answer::Removed(wire::Removed { cluster: "orders".to_owned(), store: vec![], revision: u64::MAX }),
        Answer::Unknown(wire::Unknown::default()),
    ] {
        bench.says(link, nonsense);
        assert_eq!(*bench.held(), held);
    }
}

#[test]
fn a_session_that_stopped_opens_no_link_and_says_that_what_is_held_grows_old() {
    let (mut bench, link) = Bench::following(2, None);
    bench.says(link, view(store(0), &history(1)[0]));
    bench.apply(Event::Stop);
    bench.now += Duration::from_mins(1);
    let effects = bench.session.apply(Event::Tick, bench.now);
    assert!(effects.is_empty(), "{effects:?}");
    assert!(bench.open.is_empty() && matches!(bench.standing(), Standing::Stale { .. }));
}
