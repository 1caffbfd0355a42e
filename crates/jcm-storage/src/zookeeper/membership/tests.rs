//! Servers on a real ZooKeeper: `JCM_TEST_ZOOKEEPER` names one, or each test starts its own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_model::{ServerId, StoreId};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use zookeeper_client as zk;

use super::super::session::{self, Contact, Line, Session};
use super::super::testing::{Ensemble, persistent};
use super::super::{Config, layout};
use super::election::Candidate;
use super::reading::encode_member;
use super::{ELECTION, EPOCH, RING, Recognise, SERVERS, ZooKeeperMembership, place};
use crate::{JoinError, Member, Membership, Roster, Standing};

/// A deadline for what hangs, not a measure of speed.
const PATIENCE: Duration = Duration::from_secs(40);
/// Long enough that nothing ends by its timeout in a test.
const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_secs(2);

impl Ensemble {
    fn server(&self, session_timeout: Duration) -> Server {
        Server::new(self.config(&self.hosts, session_timeout), Arc::new(|_| Some(StoreId(Uuid::nil()))))
    }
}

fn ephemeral() -> zk::CreateOptions<'static> {
    zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all())
}

/// What one server has of the membership.
struct Server {
    membership: ZooKeeperMembership,
    session: Session,
    tasks: TaskTracker,
    stop: DropGuard,
}

impl Server {
    fn new(config: Config, recognise: Recognise) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let session_timeout = config.session_timeout;
        let session = session::keep(config, &tasks, stop.clone());
        let membership =
            ZooKeeperMembership::keep(session.clone(), recognise, session_timeout, &tasks, stop.clone());
        Self { membership, session, tasks, stop: stop.drop_guard() }
    }

    async fn joined(self, name: &str) -> Self {
        self.membership.join(member(name, 1)).await.unwrap();
        self
    }

    /// Waits for a roster.
    async fn sees(&self, what: &str, is_so: impl Fn(&Roster) -> bool) -> Arc<Roster> {
        let mut roster = self.membership.roster();
        let seen = tokio::time::timeout(PATIENCE, roster.wait_for(|roster| is_so(roster))).await;
        match seen.map(|seen| seen.map(|roster| Arc::clone(&roster))) {
            Ok(Ok(roster)) => roster,
            _ => panic!("not seen: {what}; the roster is {:?}", self.membership.roster().borrow()),
        }
    }

    /// Waits until it leads.
    async fn led(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.membership.leads() {
            assert!(Instant::now() < deadline, "it does not lead: {:?}", self.membership.roster().borrow());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn client(&self) -> zk::Client {
        let mut contact = self.session.contact();
        let up = contact.wait_for(|contact| matches!(contact.line, Line::Up(_))).await.unwrap();
        match &up.line {
            Line::Up(client) => client.clone(),
            Line::Down { .. } => unreachable!("it was waited for"),
        }
    }

    /// Ends its session behind its back.
    async fn lose_session(&self, hosts: &str) {
        let session = self.client().await.session().clone();
        let before = self.session.contact().borrow().session;
        let ending = async {
            // The server's own client takes the session back as often as it is taken from it: it is over once this one
            // is told so.
            loop {
                match zk::Client::connector().with_session(session.clone()).connect(hosts).await {
                    Ok(client) => drop(client),
                    Err(zk::Error::Timeout) => {}
                    Err(error) => {
                        assert!(matches!(error, zk::Error::SessionExpired), "{error}");
                        std::future::pending::<()>().await;
                    }
                }
            }
        };
        let ended =
            self.in_contact(|contact| contact.session > before && matches!(contact.line, Line::Up(_)));
        tokio::select! {
            () = ended => {}
            () = ending => unreachable!("it has no end"),
        }
    }

    async fn in_contact(&self, is_so: impl Fn(&Contact) -> bool) {
        let mut contact = self.session.contact();
        let reached = tokio::time::timeout(PATIENCE, contact.wait_for(|contact| is_so(contact))).await;
        assert!(matches!(reached, Ok(Ok(_))), "the contact is {:?}", self.session.contact().borrow());
    }

    async fn stop(self) {
        drop(self.stop);
        self.tasks.close();
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.unwrap();
    }
}

/// A way to ZooKeeper that can be blocked and cut.
struct Way {
    hosts: String,
    is_open: watch::Sender<bool>,
    cuts: watch::Sender<u64>,
    _stop: DropGuard,
}

impl Way {
    async fn to(ensemble: &Ensemble, is_open: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hosts = listener.local_addr().unwrap().to_string();
        let target = ensemble.hosts.split(',').next().unwrap().to_owned();
        let (is_open, cuts) = (watch::Sender::new(is_open), watch::Sender::new(0));
        let stop = CancellationToken::new();
        let (opened, cut, ended) = (is_open.subscribe(), cuts.subscribe(), stop.clone());
        tokio::spawn(async move {
            let accept = async {
                loop {
                    let Ok((from, _)) = listener.accept().await else { continue };
                    tokio::spawn(carry(from, target.clone(), opened.clone(), cut.clone()));
                }
            };
            tokio::select! {
                () = ended.cancelled() => {}
                () = accept => {}
            }
        });
        Self { hosts, is_open, cuts, _stop: stop.drop_guard() }
    }

    /// Nothing comes through any more, and no connection ends.
    fn block(&self) {
        self.is_open.send_replace(false);
    }

    fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// Every connection ends; new ones come through.
    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn carry(
    mut from: TcpStream,
    target: String,
    opened: watch::Receiver<bool>,
    mut cut: watch::Receiver<u64>,
) {
    cut.borrow_and_update();
    let mut waiting = opened.clone();
    if waiting.wait_for(|is_open| *is_open).await.is_err() {
        return;
    }
    let Ok(mut to) = TcpStream::connect(&target).await else { return };
    loop {
        let mut changed = opened.clone();
        if !*changed.borrow_and_update() {
            // Held: what is sent stays in the buffers of the sockets.
            tokio::select! {
                held = changed.wait_for(|is_open| *is_open) => if held.is_err() { return },
                _ = cut.changed() => return,
            }
            continue;
        }
        tokio::select! {
            _ = copy_bidirectional(&mut from, &mut to) => return,
            _ = changed.changed() => {}
            _ = cut.changed() => return,
        }
    }
}

fn id(name: &str) -> ServerId {
    ServerId::parse(name).unwrap()
}

fn member(name: &str, instance: u128) -> Member {
    Member {
        id: id(name),
        instance: Uuid::from_u128(instance),
        advertise: format!("{name}-{instance}.example:7400"),
        zone: "z1".to_owned(),
        version: "1.0.0".to_owned(),
    }
}

fn names(roster: &Roster) -> Vec<&str> {
    roster.members.iter().map(|member| member.id.as_str()).collect()
}

/// Watches that no two lead at one time, until it is dropped.
async fn watch_leaders(servers: &[&Server]) -> (u64, BTreeSet<usize>) {
    let (mut looks, mut leaders) = (0, BTreeSet::new());
    loop {
        // Who does not lead at the first look and at the last did not lead when the other was looked at.
        let first: Vec<_> = servers.iter().map(|server| server.membership.leads()).collect();
        let second: Vec<_> = servers.iter().map(|server| server.membership.leads()).collect();
        let leading: Vec<_> = (0..servers.len()).filter(|at| first[*at] && second[*at]).collect();
        assert!(leading.len() < 2, "{leading:?} lead at one time");
        leaders.extend(leading);
        looks += 1;
        if leaders.len() == servers.len() {
            return (looks, leaders);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn three_servers_know_one_another_and_one_of_them_leads() {
    let ensemble = Ensemble::new();
    let a = ensemble.server(LONG).joined("a").await;
    a.led().await;
    let b = ensemble.server(LONG).joined("b").await;
    let c = ensemble.server(LONG).joined("c").await;
    for server in [&a, &b, &c] {
        let roster = server
            .sees("three members and their leader", |roster| {
                names(roster) == ["a", "b", "c"] && roster.leader == Some(id("a"))
            })
            .await;
        assert_eq!(roster.epoch, 1);
        assert_eq!(roster.members[1], member("b", 1));
        assert_eq!(roster.ring.servers, [], "nobody asked to share in the checks");
    }
    assert!(!b.membership.leads() && !c.membership.leads());
}

#[tokio::test]
async fn a_server_whose_session_ended_is_known_again_and_stands_at_the_end_of_the_queue() {
    let ensemble = Ensemble::new();
    let a = ensemble.server(LONG).joined("a").await;
    a.led().await;
    let b = ensemble.server(LONG).joined("b").await;
    a.membership.share_checks(true).await;
    a.lose_session(&ensemble.hosts).await;
    b.led().await;
    for server in [&a, &b] {
        let roster = server
            .sees("both, led by the other, with its ring", |roster| {
                names(roster) == ["a", "b"]
                    && roster.leader == Some(id("b"))
                    && roster.ring.servers == [id("a")]
            })
            .await;
        assert_eq!(roster.epoch, 2);
    }
    assert!(!a.membership.leads());
    let client = ensemble.client(LONG).await;
    assert_eq!(client.list_children(ELECTION).await.unwrap().len(), 2, "a candidate is left over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_has_stopped_before_another_leads() {
    let ensemble = Ensemble::new();
    let way = Way::to(&ensemble, true).await;
    let a = Server::new(ensemble.config(&way.hosts, SHORT), Arc::new(|_| Some(StoreId(Uuid::nil()))));
    let a = a.joined("a").await;
    a.led().await;
    let b = ensemble.server(SHORT).joined("b").await;
    way.block();
    let (looks, _) =
        tokio::time::timeout(PATIENCE, watch_leaders(&[&a, &b])).await.expect("both led in turn");
    assert!(looks > 10, "only {looks} looks");
    assert!(!a.membership.leads() && b.membership.leads());
    let before = a.membership.roster().borrow().clone();
    assert_eq!(before.leader, Some(id("a")), "a roster changed while the store was gone");
    way.open();
    let roster = a.sees("its successor", |roster| roster.leader == Some(id("b"))).await;
    assert!(roster.epoch > before.epoch);
    a.sees("both", |roster| names(roster) == ["a", "b"]).await;
    assert!(!a.membership.leads(), "leadership was stolen back");
}

#[tokio::test]
async fn what_an_earlier_run_left_behind_is_taken_over_at_once() {
    let ensemble = Ensemble::new();
    let ghost = ensemble.client(LONG).await;
    for parent in [SERVERS, RING, ELECTION] {
        ghost.create(parent, b"", &persistent()).await.unwrap();
    }
    let earlier = Member { advertise: "earlier.example:1".to_owned(), ..member("a", 1) };
    ghost.create(&place(SERVERS, &earlier.id), &encode_member(&earlier), &ephemeral()).await.unwrap();
    ghost.create(&place(RING, &earlier.id), b"", &ephemeral()).await.unwrap();
    let prefix = format!("{ELECTION}/{}", Candidate::prefix(ghost.session_id().0, &earlier.id));
    let sequential = zk::CreateMode::EphemeralSequential.with_acls(zk::Acls::anyone_all());
    ghost.create(&prefix, b"", &sequential).await.unwrap();

    let a = ensemble.server(LONG).joined("a").await;
    a.membership.share_checks(true).await;
    a.led().await;
    let roster = a.sees("itself in the ring", |roster| roster.ring.servers == [id("a")]).await;
    assert_eq!(roster.members, [member("a", 1)]);
    let own = a.client().await.session_id().0;
    for path in [place(SERVERS, &id("a")), place(RING, &id("a"))] {
        let stat = ghost.check_stat(&path).await.unwrap().expect("it is there");
        assert_eq!(stat.ephemeral_owner, own, "{path} still is the ghost's");
    }
}

#[tokio::test]
async fn an_id_of_another_server_is_refused_with_its_address_and_left_alone() {
    let ensemble = Ensemble::new();
    let first = ensemble.server(SHORT).joined("a").await;
    let second = ensemble.server(SHORT);
    let refusal = second.membership.join(member("a", 2)).await.unwrap_err();
    assert!(
        matches!(&refusal, JoinError::Taken { id, advertise } if id.as_str() == "a" && advertise == "a-1.example:7400"),
        "{refusal}"
    );
    let roster = second.sees("the first one", |roster| !roster.members.is_empty()).await;
    assert_eq!(roster.members, [member("a", 1)]);
    assert!(first.membership.leads() && !second.membership.leads());

    // The wish is kept: once the id is free, it is this server's.
    first.membership.leave().await;
    let mut standing = second.membership.standing();
    let known = standing.wait_for(|standing| *standing == Standing::Known);
    tokio::time::timeout(PATIENCE, known).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_id_that_becomes_free_in_time_is_taken() {
    let ensemble = Ensemble::new();
    let first = ensemble.server(SHORT).joined("a").await;
    let second = ensemble.server(SHORT);
    let (joined, ()) = tokio::join!(second.membership.join(member("a", 2)), async {
        second.sees("the first one", |roster| !roster.members.is_empty()).await;
        first.stop().await;
    });
    joined.unwrap();
    second.sees("itself", |roster| roster.members == [member("a", 2)]).await;
}

#[tokio::test]
async fn every_change_of_the_ring_has_a_higher_number() {
    let ensemble = Ensemble::new();
    let a = ensemble.server(LONG).joined("a").await;
    let b = ensemble.server(LONG).joined("b").await;
    let mut last = 0;
    for round in 0..6 {
        let wanted = round % 2 == 0;
        a.membership.share_checks(wanted).await;
        let expected: &[ServerId] = if wanted { &[id("a")] } else { &[] };
        for server in [&a, &b] {
            let roster = server.sees("the ring", |roster| roster.ring.servers == expected).await;
            assert!(roster.ring.epoch > last, "{} does not follow {last}", roster.ring.epoch);
        }
        last = a.membership.roster().borrow().ring.epoch;
    }
}

#[tokio::test]
async fn a_connection_that_is_lost_within_the_session_changes_nothing() {
    let ensemble = Ensemble::new();
    let way = Way::to(&ensemble, true).await;
    let a = Server::new(ensemble.config(&way.hosts, LONG), Arc::new(|_| Some(StoreId(Uuid::nil()))));
    let a = a.joined("a").await;
    a.membership.share_checks(true).await;
    a.led().await;
    let client = ensemble.client(LONG).await;
    let places = [place(SERVERS, &id("a")), place(RING, &id("a")), EPOCH.to_owned()];
    let mut before = Vec::new();
    for path in &places {
        before.push(client.check_stat(path).await.unwrap());
    }
    for round in 1..=3 {
        way.cut();
        a.in_contact(|contact| contact.connection > round && matches!(contact.line, Line::Up(_))).await;
        assert!(a.membership.leads(), "a short loss ended a leadership");
        // Something that is only seen by a look at the store after the return.
        a.membership.announce(Member { zone: format!("z{round}"), ..member("a", 1) });
        let zone = format!("z{round}");
        a.sees("what it says now", |roster| roster.members[0].zone == zone).await;
    }
    assert_eq!(a.session.contact().borrow().session, 1);
    assert_eq!(client.list_children(ELECTION).await.unwrap().len(), 1, "it stands twice");
    assert_eq!(client.list_children(SERVERS).await.unwrap().len(), 1);
    for (path, before) in places.iter().zip(before).skip(1) {
        assert_eq!(client.check_stat(path).await.unwrap(), before, "{path} was made again");
    }
}

#[tokio::test]
async fn whoever_leaves_is_gone_for_the_others_without_a_timeout_and_the_next_leads() {
    let ensemble = Ensemble::new();
    let a = ensemble.server(LONG).joined("a").await;
    a.membership.share_checks(true).await;
    a.led().await;
    let b = ensemble.server(LONG).joined("b").await;
    b.sees("both", |roster| names(roster) == ["a", "b"]).await;
    a.membership.leave().await;
    assert!(!a.membership.leads());
    assert_eq!(*a.membership.standing().borrow(), Standing::Absent);
    b.led().await;
    b.sees("itself alone", |roster| names(roster) == ["b"] && roster.ring.servers.is_empty()).await;
    a.membership.announce(member("a", 1));
    b.sees("both again", |roster| names(roster) == ["a", "b"]).await;
}

#[tokio::test]
async fn a_server_that_was_announced_before_the_store_is_there_is_known_when_it_is() {
    let ensemble = Ensemble::new();
    let way = Way::to(&ensemble, false).await;
    let a = Server::new(ensemble.config(&way.hosts, SHORT), Arc::new(|_| Some(StoreId(Uuid::nil()))));
    a.membership.announce(member("a", 1));
    a.membership.share_checks(true).await;
    assert_eq!(*a.membership.standing().borrow(), Standing::Absent);
    way.open();
    a.sees("itself in the ring", |roster| roster.ring.servers == [id("a")]).await;
    a.led().await;
}

#[tokio::test]
async fn nothing_is_touched_in_an_ensemble_that_holds_another_store() {
    let ensemble = Ensemble::new();
    let is_ours = watch::Sender::new(false);
    let told = is_ours.subscribe();
    let recognise: Recognise = Arc::new(move |identity| {
        assert!(identity.is_none_or(|bytes| bytes == b"somebody"));
        told.borrow().then_some(StoreId(Uuid::nil()))
    });
    let a = Server::new(ensemble.config(&ensemble.hosts, LONG), recognise);
    a.membership.announce(member("a", 1));
    let client = ensemble.client(LONG).await;
    client.create(layout::IDENTITY, b"somebody", &persistent()).await.unwrap();
    a.membership.share_checks(true).await;
    assert_eq!(client.list_children("/").await.unwrap(), ["identity"]);
    assert_eq!(**a.membership.roster().borrow(), Roster::default());
    is_ours.send_replace(true);
    a.led().await;
}
