//! The session against scripted servers, and against servers that say anything in any order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use jcm_model::pairs::Pairs;
use jcm_model::{
    Change, Cluster, ClusterState, Effect as ModelEffect, Judged, Node, NodeId, Revision, ServerId, Stamp,
    StoreId, Timestamp, Verdict,
};
use proptest::prelude::*;
use uuid::Uuid;

use jcm_proto::v1::watch_response as wire;

use super::*;

const HEARTBEAT: Duration = Duration::from_secs(1);

fn orders() -> ClusterName {
    ClusterName::parse("orders").unwrap()
}

fn store(number: u8) -> StoreId {
    StoreId(Uuid::from_u128(u128::from(number) + 1))
}

fn node(port: u16, birth: u64) -> Arc<Node> {
    Arc::new(Node {
        id: NodeId::parse(&format!("127.0.0.1:{port}")).unwrap(),
        address: "127.0.0.1".parse().unwrap(),
        ports: Pairs::new([("http".to_owned(), port.try_into().unwrap())]).unwrap(),
        attributes: jcm_model::node::Attributes::default(),
        birth: Revision(birth),
    })
}

fn judged(birth: Revision, sequence: u64) -> Judged {
    Judged {
        verdict: if sequence.is_multiple_of(3) { Verdict::Down } else { Verdict::Healthy },
        birth,
        stamp: Stamp {
            ring_epoch: 1,
            term: 0,
            server: ServerId::parse("s").unwrap(),
            incarnation: 1,
            sequence,
        },
        since: Timestamp::UNIX_EPOCH,
        single_vantage: false,
        stale_since: None,
    }
}

/// The states of `orders` in one store at revisions 1, 3, 5, …: nodes come, go and come back, verdicts turn.
fn history(length: u64) -> Vec<ClusterState> {
    let mut cluster: Option<Arc<Cluster>> = None;
    let mut states: Vec<ClusterState> = Vec::new();
    for step in 0..length {
        let revision = 2 * step + 1;
        let port = u16::try_from(step % 4).unwrap() + 1;
        let goes = step % 5 == 4;
        let change = Change {
            cluster: orders(),
            revision: Revision(revision),
            effect: ModelEffect::Updated {
                created: step == 0,
                header: None,
                put: if goes { vec![] } else { vec![node(port, revision)] },
                removed: if goes { vec![node(port, 0).id.clone()] } else { vec![] },
            },
        };
        cluster = change.apply(cluster.as_ref());
        let cluster = cluster.clone().unwrap();
        let mut state = states.last().map_or_else(
            || ClusterState::new(Arc::clone(&cluster)),
            |last| last.redefined(Arc::clone(&cluster)),
        );
        for (at, node) in cluster.nodes.iter().enumerate() {
            state.judge(&node.id, judged(cluster.birth(node), revision * 10 + at as u64));
        }
        states.push(state);
    }
    states
}

fn welcome() -> Answer {
    let heartbeat_ms = u32::try_from(HEARTBEAT.as_millis()).unwrap();
    Answer::Welcome(wire::Welcome { protocol: WATCH_PROTOCOL, server: "s".to_owned(), heartbeat_ms })
}

fn view(of: StoreId, state: &ClusterState) -> Answer {
    let token = state.cluster().revision.0.to_be_bytes().to_vec();
    Answer::View(wire::View::new(of, token, state, false))
}

fn delta(from: &ClusterState, to: &ClusterState) -> Answer {
    let token = to.cluster().revision.0.to_be_bytes().to_vec();
    Answer::Delta(wire::Delta::new(&orders(), token, &to.since(from), false))
}

fn removed(of: StoreId, revision: u64) -> Answer {
    let store = of.0.as_bytes().to_vec();
    Answer::Removed(wire::Removed { cluster: orders().to_string(), store, revision })
}

fn unknown() -> Answer {
    Answer::Unknown(wire::Unknown { cluster: orders().to_string(), reason: "not loaded".to_owned() })
}

/// A session with a clock of its own, and what it did.
struct Bench {
    session: Session,
    now: Instant,
    /// Links that are open or being opened, and the server of each.
    open: BTreeMap<LinkId, String>,
    /// What was sent since it was last looked at.
    sent: Vec<(LinkId, Request)>,
    published: Vec<Standing>,
}

impl Bench {
    fn new(server_count: u16) -> Self {
        let servers =
            (1..=server_count).map(|port| Server::parse(&format!("127.0.0.1:{port}")).unwrap()).collect();
        let now = Instant::now();
        let session = Session::new("test".to_owned(), Servers::new(servers), Random::seeded(1), now);
        let mut bench = Self { session, now, open: BTreeMap::new(), sent: Vec::new(), published: Vec::new() };
        bench.apply(Event::Tick);
        bench
    }

    /// A session that follows `orders`, welcomed on its first link.
    fn following(server_count: u16, saved: Option<Saved>) -> (Self, LinkId) {
        let mut bench = Self::new(server_count);
        bench.apply(Event::Subscribe { cluster: orders(), saved });
        let link = bench.last_link();
        bench.says(link, welcome());
        (bench, link)
    }

    fn apply(&mut self, event: Event) {
        if let Event::Closed { link, .. } = &event {
            self.open.remove(link);
        }
        for effect in self.session.apply(event, self.now) {
            match effect {
                Effect::Connect { link, server } => {
                    assert!(self.open.insert(link, server.to_string()).is_none());
                }
                Effect::Send { link, request } => {
                    assert!(self.open.contains_key(&link), "sent {request:?} on a link that is not open");
                    self.sent.push((link, request));
                }
                Effect::Close { link } => assert!(self.open.remove(&link).is_some(), "closed twice"),
                Effect::Publish { cluster, .. } => self.published.push(self.session.standing(&cluster)),
            }
        }
        assert!(self.open.len() <= 2, "{} links", self.open.len());
        if let Some(deadline) = self.session.deadline() {
            assert!(deadline > self.now, "a deadline that has passed would be waited for without end");
        }
    }

    fn says(&mut self, link: LinkId, answer: Answer) {
        self.apply(Event::Message { link, answer: Box::new(answer) });
    }

    fn closes(&mut self, link: LinkId) {
        self.apply(Event::Closed { link, reason: "test".to_owned() });
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.session.deadline().filter(|deadline| *deadline <= end) {
            self.now = deadline;
            self.apply(Event::Tick);
        }
        self.now = end;
        self.apply(Event::Tick);
    }

    /// Waits until a link is being opened.
    fn connect(&mut self) {
        while self.open.is_empty() {
            let next = self.session.deadline().expect("there is always a next try");
            self.wait(next - self.now);
        }
    }

    /// Waits while the server shows that it lives.
    fn wait_with_heartbeats(&mut self, link: LinkId, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.wait(HEARTBEAT);
            self.says(link, Answer::Heartbeat(wire::Heartbeat { stale: false }));
        }
    }

    fn last_link(&self) -> LinkId {
        *self.open.keys().last().expect("a link is open")
    }

    fn held(&self) -> &Held {
        self.session.held(&orders()).unwrap()
    }

    fn standing(&self) -> Standing {
        self.session.standing(&orders())
    }

    fn is_live(&self) -> bool {
        matches!(self.standing(), Standing::Live { .. })
    }

    /// The subscriptions sent since it was last asked.
    fn subscriptions(&mut self) -> Vec<(LinkId, watch_request::Subscribe)> {
        std::mem::take(&mut self.sent)
            .into_iter()
            .filter_map(|(link, request)| match request {
                Request::Subscribe(subscribe) => Some((link, subscribe)),
                _ => None,
            })
            .collect()
    }
}

#[test]
fn a_stream_begins_with_hello_and_a_subscription_of_nothing() {
    let (mut bench, _) = Bench::following(1, None);
    assert!(
        matches!(&bench.sent[0].1, Request::Hello(hello) if hello.protocol == WATCH_PROTOCOL && hello.client == "test")
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
fn what_is_applied_is_acknowledged() {
    let states = history(2);
    let (mut bench, link) = Bench::following(1, None);
    bench.says(link, view(store(0), &states[0]));
    bench.says(link, delta(&states[0], &states[1]));
    let acknowledged: Vec<u64> = bench
        .sent
        .iter()
        .filter_map(|(_, request)| match request {
            Request::Acknowledge(acknowledge) => Some(acknowledge.revision),
            _ => None,
        })
        .collect();
    assert_eq!(acknowledged, [1, 3]);
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
    bench.wait_with_heartbeats(link, 5 * HEARTBEAT);
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
            protocol: WATCH_PROTOCOL + 1,
            server: "s".to_owned(),
            heartbeat_ms: 1,
        }),
    );
    assert!(bench.open.is_empty());
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

/// One thing that may happen; numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Happening {
    View { store: u8, at: usize },
    Delta { from: usize, to: usize },
    Removed { store: u8, revision: u64 },
    Unknown,
    Welcome,
    Heartbeat,
    GoAway,
    Close,
    Wait { ms: u64 },
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (0..2_u8, 0..10_usize).prop_map(|(store, at)| Happening::View { store, at }),
        6 => (0..10_usize, 0..3_usize).prop_map(|(from, steps)| Happening::Delta { from, to: from + steps }),
        1 => (0..2_u8, 0..24_u64).prop_map(|(store, revision)| Happening::Removed { store, revision }),
        1 => Just(Happening::Unknown),
        4 => Just(Happening::Welcome),
        1 => Just(Happening::Heartbeat),
        1 => Just(Happening::GoAway),
        1 => Just(Happening::Close),
        3 => (0..9000_u64).prop_map(|ms| Happening::Wait { ms }),
    ]
}

proptest! {
    /// Whatever servers say on whatever links: what is held is always a true state of one store, goes forward only, and
    /// is emptied only by a removal of that store at no lower revision.
    #[test]
    fn what_is_held_goes_forward_and_is_emptied_on_purpose_only(
        happenings in prop::collection::vec((happening(), any::<bool>()), 1..120),
    ) {
        let states = history(12);
        let (mut bench, _) = Bench::following(3, None);
        for (happening, on_last) in happenings {
            let before = bench.held().clone();
            let link = if on_last { bench.open.keys().last() } else { bench.open.keys().next() }.copied();
            let mut removal = None;
            let mut replacement = None;
            match (happening, link) {
                (Happening::Wait { ms }, _) => bench.wait(Duration::from_millis(ms)),
                (_, None) => bench.wait(Duration::from_secs(1)),
                (Happening::View { store: of, at }, Some(link)) => {
                    replacement = Some(store(of));
                    bench.says(link, view(store(of), &states[at]));
                }
                (Happening::Delta { from, to }, Some(link)) => bench.says(link, delta(&states[from], &states[to])),
                (Happening::Removed { store: of, revision }, Some(link)) => {
                    removal = Some((store(of), Revision(revision)));
                    bench.says(link, removed(store(of), revision));
                }
                (Happening::Unknown, Some(link)) => bench.says(link, unknown()),
                (Happening::Welcome, Some(link)) => bench.says(link, welcome()),
                (Happening::Heartbeat, Some(link)) => bench.says(link, Answer::Heartbeat(wire::Heartbeat { stale: false })),
                (Happening::GoAway, Some(link)) => bench.says(link, Answer::GoAway(wire::GoAway::default())),
                (Happening::Close, Some(link)) => bench.closes(link),
            }

            let after = bench.held();
            if let Held::View { state, .. } = after {
                let truth = &states[usize::try_from(state.cluster().revision.0 / 2).unwrap()];
                prop_assert_eq!(state.cluster(), truth.cluster());
            }
            if before.store() == after.store() {
                prop_assert!(before.revision() <= after.revision(), "{:?} became {:?}", before, after);
            } else if before.store().is_some() {
                let by_removal = matches!(before, Held::Removed { .. }) && removal.is_some();
                prop_assert!(by_removal || replacement == after.store(), "{:?} became {:?}", before, after);
            }
            if matches!(before, Held::View { .. }) && !matches!(after, Held::View { .. }) {
                let (of, revision) = removal.expect("only a removal empties");
                prop_assert!(Some(of) == before.store() && Some(revision) >= before.revision());
            }
            if let (Held::View { store: one, state: old, .. }, Held::View { store: other, state: new, .. }) = (&before, after)
                && one == other
            {
                for (node, held) in old.nodes() {
                    let later = new.judged(&node.id);
                    let went_back = held.zip(later).is_some_and(|(held, later)| held.supersedes(later));
                    prop_assert!(!went_back, "a verdict of {} went back", node.id);
                }
            }
        }
    }
}
