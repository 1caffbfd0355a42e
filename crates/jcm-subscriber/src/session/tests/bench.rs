//! A session with a clock of its own, and what servers say to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jcm_model::pairs::Pairs;
use jcm_model::{
    Change, Cluster, ClusterState, Effect as ModelEffect, Judged, Node, NodeId, Revision, ServerId, Stamp,
    StoreId, Timestamp, Verdict,
};
use jcm_proto::v1::watch_response as wire;
use uuid::Uuid;

use super::super::*;

pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);

pub(crate) fn orders() -> ClusterName {
    ClusterName::parse("orders").unwrap()
}

pub(crate) fn store(number: u8) -> StoreId {
    StoreId(Uuid::from_u128(u128::from(number) + 1))
}

pub(crate) fn node(port: u16, birth: u64) -> Arc<Node> {
    Arc::new(Node {
        id: NodeId::parse(&format!("127.0.0.1:{port}")).unwrap(),
        address: "127.0.0.1".parse().unwrap(),
        ports: Pairs::new([("http".to_owned(), port.try_into().unwrap())]).unwrap(),
        attributes: jcm_model::node::Attributes::default(),
        birth: Revision(birth),
    })
}

pub(crate) fn judged(birth: Revision, sequence: u64) -> Judged {
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
pub(crate) fn history(length: u64) -> Vec<ClusterState> {
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

pub(crate) fn welcome() -> Answer {
    let heartbeat_ms = u32::try_from(HEARTBEAT.as_millis()).unwrap();
    Answer::Welcome(wire::Welcome {
        protocol: WATCH_PROTOCOLS.newest(),
        server: "s".to_owned(),
        heartbeat_ms,
    })
}

pub(crate) fn view(of: StoreId, state: &ClusterState) -> Answer {
    let token = state.cluster().revision.0.to_be_bytes().to_vec();
    Answer::View(wire::View::new(of, (token, 0), state, false))
}

pub(crate) fn delta(from: &ClusterState, to: &ClusterState) -> Answer {
    let token = to.cluster().revision.0.to_be_bytes().to_vec();
    Answer::Delta(wire::Delta { token, ..wire::Delta::new(&orders(), &to.since(from), false) })
}

pub(crate) fn removed(of: StoreId, revision: u64) -> Answer {
    let store = of.0.as_bytes().to_vec();
    Answer::Removed(wire::Removed { cluster: orders().to_string(), store, revision })
}

pub(crate) fn unknown() -> Answer {
    Answer::Unknown(wire::Unknown { cluster: orders().to_string(), reason: "not loaded".to_owned() })
}

/// A session with a clock of its own, and what it did.
pub(crate) struct Bench {
    pub(crate) session: Session,
    pub(crate) now: Instant,
    /// Links that are open or being opened, and the server of each.
    pub(crate) open: BTreeMap<LinkId, String>,
    /// What was sent since it was last looked at.
    pub(crate) sent: Vec<(LinkId, Request)>,
    pub(crate) published: Vec<Standing>,
    /// Writes that were not answered.
    pub(crate) writes: Vec<(LinkId, LeaseId, Write)>,
    /// Links whose local address is looked for.
    pub(crate) looking: Vec<LinkId>,
    pub(crate) told: BTreeMap<LeaseId, RegistrationStatus>,
}

impl Bench {
    pub(crate) fn new(server_count: u16) -> Self {
        let servers =
            (1..=server_count).map(|port| Server::parse(&format!("127.0.0.1:{port}")).unwrap()).collect();
        let now = Instant::now();
        let session = Session::new("test".to_owned(), Servers::new(servers), Random::seeded(1), now);
        let mut bench = Self {
            session,
            now,
            open: BTreeMap::new(),
            sent: Vec::new(),
            published: Vec::new(),
            writes: Vec::new(),
            looking: Vec::new(),
            told: BTreeMap::new(),
        };
        bench.apply(Event::Tick);
        bench
    }

    /// A session that follows `orders`, welcomed on its first link.
    pub(crate) fn following(server_count: u16, saved: Option<Saved>) -> (Self, LinkId) {
        let mut bench = Self::new(server_count);
        bench.apply(Event::Subscribe { cluster: orders(), saved });
        let link = bench.last_link();
        bench.says(link, welcome());
        (bench, link)
    }

    pub(crate) fn apply(&mut self, event: Event) {
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
                Effect::Write { link, lease, write } => {
                    assert!(self.open.contains_key(&link), "wrote {write:?} on a link that is not open");
                    self.writes.push((link, lease, *write));
                }
                Effect::FindAddress { link } => self.looking.push(link),
                Effect::Tell { lease, status } => {
                    self.told.insert(lease, status);
                }
            }
        }
        assert!(self.open.len() <= 2, "{} links", self.open.len());
        if let Some(deadline) = self.session.deadline() {
            assert!(deadline > self.now, "a deadline that has passed would be waited for without end");
        }
    }

    pub(crate) fn says(&mut self, link: LinkId, answer: Answer) {
        self.apply(Event::Message { link, answer: Box::new(answer) });
    }

    pub(crate) fn closes(&mut self, link: LinkId) {
        self.apply(Event::Closed { link, reason: "test".to_owned() });
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.session.deadline().filter(|deadline| *deadline <= end) {
            self.now = deadline;
            self.apply(Event::Tick);
        }
        self.now = end;
        self.apply(Event::Tick);
    }

    /// Waits until a link is being opened.
    pub(crate) fn connect(&mut self) {
        while self.open.is_empty() {
            let next = self.session.deadline().expect("there is always a next try");
            self.wait(next - self.now);
        }
    }

    /// Waits while the server shows that it lives.
    pub(crate) fn wait_with_heartbeats(&mut self, link: LinkId, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.wait(HEARTBEAT);
            self.says(link, Answer::Heartbeat(wire::Heartbeat { stale: false }));
        }
    }

    pub(crate) fn last_link(&self) -> LinkId {
        *self.open.keys().last().expect("a link is open")
    }

    pub(crate) fn held(&self) -> &Held {
        self.session.held(&orders()).unwrap()
    }

    pub(crate) fn standing(&self) -> Standing {
        self.session.standing(&orders())
    }

    pub(crate) fn is_live(&self) -> bool {
        matches!(self.standing(), Standing::Live { .. })
    }

    /// The subscriptions sent since it was last asked.
    pub(crate) fn subscriptions(&mut self) -> Vec<(LinkId, watch_request::Subscribe)> {
        std::mem::take(&mut self.sent)
            .into_iter()
            .filter_map(|(link, request)| match request {
                Request::Subscribe(subscribe) => Some((link, subscribe)),
                _ => None,
            })
            .collect()
    }
}
