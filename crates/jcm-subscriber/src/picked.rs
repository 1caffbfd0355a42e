//! A node to call, for as long as the call takes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use jcm_model::{ClusterName, Node, NodeId};

use crate::alloc;
use crate::policy::Choice;
use crate::view::View;

/// A node that was picked for one call. Hold it while the call is under way, and [`report`](Self::report) how it went;
/// dropped without a report, the call counts as cancelled.
///
/// It stays what it was when it was picked, however the cluster changes meanwhile.
#[must_use = "a node that is not held counts as a call that was cancelled at once"]
pub struct Picked {
    /// `Some` until it is dropped.
    view: Option<Arc<View>>,
    /// Which entry of the view, and the [`COUNTED`] bit. Two fields, not three: a pick then returns in two registers.
    entry: u32,
}

/// Set where the load of the entry counts the call. Views have far fewer entries than this.
const COUNTED: u32 = 1 << 31;

/// The node offers no port of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node `{node}` of cluster `{cluster}` has no port `{port}`: it offers {offered}")]
pub struct NoSuchPort {
    /// Which cluster.
    pub cluster: ClusterName,
    /// Which node.
    pub node: NodeId,
    /// What was asked for.
    pub port: String,
    /// What there is, for people.
    pub offered: String,
}

impl Picked {
    /// A call to an entry of `view` begins; `reference` is to the same view.
    #[inline]
    pub(crate) fn begin(view: &View, reference: Arc<View>, entry: u32, choice: Choice) -> Self {
        let counted = choice == Choice::P2c;
        if counted {
            view.entries[entry as usize].load.start();
        }
        Self { view: Some(reference), entry: if counted { entry | COUNTED } else { entry } }
    }

    #[inline]
    fn entry(&self) -> u32 {
        self.entry & !COUNTED
    }

    #[inline]
    fn view(&self) -> &View {
        self.view.as_ref().expect("only a drop takes it")
    }

    /// The definition of the node.
    pub fn node(&self) -> &Node {
        self.view().node(self.entry())
    }

    /// Its id.
    pub fn id(&self) -> &NodeId {
        &self.node().id
    }

    /// Where it is.
    pub fn address(&self) -> IpAddr {
        self.node().address
    }

    /// Address and port under a port's name; it prints as `127.0.0.1:8080` or `[::1]:8080`.
    pub fn addr(&self, port: &str) -> Result<SocketAddr, NoSuchPort> {
        let node = self.node();
        match node.port(Some(port)) {
            Some(number) => Ok(SocketAddr::new(node.address, number)),
            None => Err(self.no_such_port(port)),
        }
    }

    #[cold]
    fn no_such_port(&self, port: &str) -> NoSuchPort {
        let offered: Vec<&str> = self.node().ports.iter().map(|(name, _)| name).collect();
        NoSuchPort {
            cluster: self.view().name.clone(),
            node: self.id().clone(),
            port: port.to_owned(),
            offered: offered.join(", "),
        }
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node().attributes.labels().get(key).map(AsRef::as_ref)
    }

    /// Where it stands; empty when nobody said.
    pub fn zone(&self) -> &str {
        self.node().attributes.zone()
    }

    /// Ends the call. A failure is counted for the node, see [`NodeStatus::failures`](crate::NodeStatus::failures).
    pub fn report<T, E>(self, outcome: &Result<T, E>) {
        if outcome.is_err() {
            self.view().entries[self.entry() as usize].load.fail();
        }
    }
}

impl Drop for Picked {
    #[inline]
    fn drop(&mut self) {
        if let Some(view) = self.view.take() {
            if self.entry & COUNTED != 0 {
                view.entries[self.entry() as usize].load.end();
            }
            alloc::give_back(view);
        }
    }
}

impl std::fmt::Debug for Picked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Picked")
            .field("cluster", &self.view().name)
            .field("node", self.id())
            .finish_non_exhaustive()
    }
}
