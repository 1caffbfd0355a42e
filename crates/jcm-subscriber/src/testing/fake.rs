//! The cluster that a test tells what a server would say.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jcm_model::check::Raw;
use jcm_model::cluster::PanicBelow;
use jcm_model::pairs::Pairs;
use jcm_model::{
    Change, CheckKind, CheckSpec, ClusterName, ClusterState, Effect, Header, Judged, Node, NodeId, NodeSpec,
    Revision, ServerId, Stamp, Timestamp, Verdict,
};

use super::FakeNode;
use crate::cluster::Cluster;
use crate::core::Core;
use crate::policy::Policy;
use crate::status::Standing;
use crate::subscriber::{Shared, Subscriber};
use crate::view::Content;
use crate::world::World;

/// How often a subscriber looks at what changes with time.
const TENDED_EVERY: Duration = Duration::from_secs(1);

/// A cluster without a server. Clones are the same cluster.
///
/// All of it is said by `&self`, so that a test can go on saying while the program under test runs.
#[derive(Debug, Clone)]
pub struct FakeCluster {
    core: Arc<Core>,
    shared: Arc<Shared>,
    world: World,
    script: Arc<Mutex<Script>>,
}

/// What was said so far.
#[derive(Debug)]
struct Script {
    name: ClusterName,
    /// Rises with everything that is said.
    revision: u64,
    nodes: BTreeMap<NodeId, (NodeSpec, Verdict)>,
    properties: BTreeMap<String, String>,
    panic_below: Option<PanicBelow>,
}

/// A [`Subscriber`] that knows these clusters and no others: those that it is asked for besides are unknown. It asks no
/// server and has no tasks.
///
/// ```
/// # tokio_test(async {
/// use jcm_subscriber::testing::{self, FakeCluster};
///
/// let orders = FakeCluster::new("orders", ["127.0.0.1:8081"]);
/// let jcm = testing::subscriber([&orders]);
/// let handle = jcm.cluster("orders").subscribe().await.unwrap();
/// assert_eq!(handle.alloc().unwrap().id().as_str(), "127.0.0.1:8081");
/// # });
/// # fn tokio_test(test: impl Future<Output = ()>) {
/// #     tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
/// # }
/// ```
pub fn subscriber<'a>(clusters: impl IntoIterator<Item = &'a FakeCluster>) -> Subscriber {
    Subscriber::of(Shared::of_fakes(clusters.into_iter().map(|fake| Arc::clone(&fake.core))))
}

impl FakeCluster {
    /// A cluster of these nodes, kept up to date by a server, as it seems. An address alone is a healthy node.
    ///
    /// # Panics
    ///
    /// If a server would refuse such a cluster.
    #[track_caller]
    pub fn new<N: Into<FakeNode>>(name: &str, nodes: impl IntoIterator<Item = N>) -> Self {
        let fake = Self::unknown(name);
        let mut script = fake.script();
        for node in nodes {
            let (spec, verdict) = node.into().into_parts();
            let id = spec.id.clone().expect("a fake node has an id");
            let twin = script.nodes.insert(id.clone(), (spec, verdict));
            assert!(twin.is_none(), "node {id} stands there twice");
        }
        fake.tell(&mut script);
        drop(script);
        fake
    }

    /// A cluster of which nobody has said anything yet. The first node that is [`put`](Self::put) makes it known.
    ///
    /// # Panics
    ///
    /// If that is no cluster's name.
    #[track_caller]
    pub fn unknown(name: &str) -> Self {
        let name = ClusterName::parse(name).unwrap_or_else(|invalid| panic!("{invalid}"));
        let world = World::fake();
        let core = Arc::new(Core::new(name.clone(), Arc::default(), world.clone()));
        let script = Script {
            name,
            revision: 0,
            nodes: BTreeMap::new(),
            properties: BTreeMap::new(),
            panic_below: None,
        };
        let shared = Shared::of_fakes([Arc::clone(&core)]);
        Self { core, shared, world, script: Arc::new(Mutex::new(script)) }
    }

    /// A handle of it, as [`subscribe`](crate::ClusterBuilder::subscribe) gives one.
    ///
    /// # Panics
    ///
    /// If the policy makes no sense.
    #[track_caller]
    pub fn subscribe(&self, policy: Policy) -> Cluster {
        policy.check().unwrap_or_else(|invalid| panic!("the policy is refused: {invalid}"));
        Cluster::new(Arc::clone(&self.core), self.core.balance(policy, None), Arc::clone(&self.shared))
    }

    /// Checks find the node down.
    ///
    /// Protection holds as ever: when fewer than half of the nodes are left, picks go to all of them, see
    /// [`panic_below`](Self::panic_below).
    ///
    /// # Panics
    ///
    /// If it is not there.
    #[track_caller]
    pub fn down(&self, node: &str) {
        self.judge(node, Verdict::Down);
    }

    /// Checks find the node healthy.
    ///
    /// # Panics
    ///
    /// If it is not there.
    #[track_caller]
    pub fn up(&self, node: &str) {
        self.judge(node, Verdict::Healthy);
    }

    /// Checks find this of the node. A node whose verdict is unknown is not routable unless that of every other is
    /// unknown.
    ///
    /// # Panics
    ///
    /// If it is not there.
    #[track_caller]
    pub fn judge(&self, node: &str, verdict: Verdict) {
        let mut script = self.script();
        let Some((_, held)) = script.nodes.get_mut(node) else {
            panic!("{}", script.missing(node));
        };
        *held = verdict;
        self.tell(&mut script);
    }

    /// Somebody adds the node, or replaces the one at the same address.
    ///
    /// # Panics
    ///
    /// If a server would refuse it.
    #[track_caller]
    pub fn put(&self, node: impl Into<FakeNode>) {
        let (spec, verdict) = node.into().into_parts();
        let id = spec.id.clone().expect("a fake node has an id");
        let mut script = self.script();
        script.nodes.insert(id, (spec, verdict));
        self.tell(&mut script);
    }

    /// Somebody removes the node.
    ///
    /// # Panics
    ///
    /// If it is not there.
    #[track_caller]
    pub fn remove(&self, node: &str) {
        let mut script = self.script();
        assert!(script.nodes.remove(node).is_some(), "{}", script.missing(node));
        self.tell(&mut script);
    }

    /// Somebody sets a property of the cluster.
    pub fn property(&self, key: impl Into<String>, value: impl Into<String>) {
        let mut script = self.script();
        script.properties.insert(key.into(), value.into());
        self.tell(&mut script);
    }

    /// Below which share of routable nodes picks go to every online one: 0.5 unless set; 0 is never.
    ///
    /// # Panics
    ///
    /// If that is no share.
    #[track_caller]
    pub fn panic_below(&self, share: f64) {
        let share = PanicBelow::try_from(share).unwrap_or_else(|invalid| panic!("{invalid}"));
        let mut script = self.script();
        script.panic_below = Some(share);
        self.tell(&mut script);
    }

    /// Somebody deletes the cluster. What is said next creates it anew, with nothing of before.
    pub fn delete(&self) {
        let mut script = self.script();
        script.revision += 1;
        script.nodes.clear();
        script.properties.clear();
        script.panic_below = None;
        let revision = Revision(script.revision);
        self.core.publish(Some(Content::Removed(revision)), Standing::Removed { revision }, self.world.now());
    }

    /// No server can be reached any more: what is held stays, [stale](crate::Status::Stale). The next thing that is
    /// said makes it [live](crate::Status::Live) again.
    pub fn stale(&self) {
        let now = self.world.now();
        self.core.publish(None, Standing::Stale { since: now }, now);
    }

    /// Time passes: what a subscriber looks at each second is looked at for so many seconds, and in any case once, now.
    ///
    /// Nodes whose calls were reported as failed are ejected by it, and taken back; slow starts go on; budgets for
    /// retries fill up. It is no time of the runtime: deadlines of calls are not moved.
    pub fn pass(&self, time: Duration) {
        let mut left = time;
        while left > TENDED_EVERY {
            self.world.pass(TENDED_EVERY);
            self.core.tend(self.world.now());
            left -= TENDED_EVERY;
        }
        self.world.pass(left);
        self.core.tend(self.world.now());
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[track_caller]
    fn tell(&self, script: &mut Script) {
        script.revision += 1;
        let revision = Revision(script.revision);
        let content = Content::State(Arc::new(script.state()));
        self.core.publish(Some(content), Standing::Live { revision }, self.world.now());
    }
}

impl Script {
    fn missing(&self, node: &str) -> String {
        let there: Vec<&str> = self.nodes.keys().map(NodeId::as_str).collect();
        format!("cluster `{}` has no node `{node}`: it has {}", self.name, there.join(", "))
    }

    #[track_caller]
    fn state(&self) -> ClusterState {
        let revision = Revision(self.revision);
        // A node whose form changed is born anew each time: what was found of the old one says nothing of it.
        let node = |(id, (spec, _)): (&NodeId, &(NodeSpec, Verdict))| {
            let (address, ports, attributes) = (spec.address, spec.ports.clone(), spec.attributes.clone());
            Arc::new(Node { id: id.clone(), address, ports, attributes, birth: revision })
        };
        let effect = Effect::Updated {
            created: true,
            header: Some(Arc::new(self.header())),
            put: self.nodes.iter().map(node).collect(),
            removed: Vec::new(),
        };
        let change = Change { cluster: self.name.clone(), revision, effect };
        let cluster = change.apply(None).expect("what was created is there");
        let verdicts = self.nodes.iter().map(|(id, (_, verdict))| (id.clone(), judged(*verdict, revision)));
        ClusterState::with_verdicts(cluster, verdicts)
    }

    #[track_caller]
    fn header(&self) -> Header {
        let check = CheckSpec::try_from(Raw { kind: CheckKind::Tcp, ..Raw::default() });
        let boxed = |(key, value): (&String, &String)| (key.clone(), value.clone().into_boxed_str());
        Header {
            online: None,
            check: Some(check.expect("a check of this kind needs no more")),
            panic_below: self.panic_below,
            properties: Pairs::new(self.properties.iter().map(boxed))
                .unwrap_or_else(|invalid| panic!("the properties are refused: {invalid}")),
        }
    }
}

fn judged(verdict: Verdict, birth: Revision) -> Judged {
    let stamp = Stamp {
        ring_epoch: 1,
        term: 1,
        server: ServerId::parse("fake").expect("a good name"),
        incarnation: 1,
        sequence: birth.0,
    };
    Judged { verdict, birth, stamp, since: Timestamp::UNIX_EPOCH, single_vantage: false, stale_since: None }
}
