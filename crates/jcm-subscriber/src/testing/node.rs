//! A node as a test writes it.

use std::net::SocketAddr;

use jcm_model::node::RawNode;
use jcm_model::pairs::Pairs;
use jcm_model::{NodeId, NodeSpec, Verdict};

/// A node of a [`FakeCluster`](super::FakeCluster): by its address alone, or with what people say of it.
///
/// ```
/// use jcm_subscriber::testing::FakeNode;
///
/// let node = FakeNode::at("127.0.0.1:8081").port("grpc", 9091).weight(50).zone("z1").label("rack", "a7");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeNode {
    at: SocketAddr,
    ports: Vec<(String, u16)>,
    weight: Option<u16>,
    priority: Option<u16>,
    zone: Option<String>,
    online: Option<bool>,
    draining: Option<bool>,
    labels: Vec<(String, String)>,
    verdict: Verdict,
}

impl FakeNode {
    /// A healthy node that offers this port as `http`. The address, as it stands there, is its id.
    ///
    /// # Panics
    ///
    /// If that is no IP address with a port.
    #[track_caller]
    pub fn at(address: impl AsRef<str>) -> Self {
        let address = address.as_ref();
        let Ok(at) = address.parse() else {
            panic!("`{address}` is no address of a node: an IP address and a port, like 127.0.0.1:8081");
        };
        Self {
            at,
            ports: Vec::new(),
            weight: None,
            priority: None,
            zone: None,
            online: None,
            draining: None,
            labels: Vec::new(),
            verdict: Verdict::Healthy,
        }
    }

    /// A further port by its name; `http` replaces the one of the address.
    #[must_use]
    pub fn port(mut self, name: impl Into<String>, number: u16) -> Self {
        self.ports.push((name.into(), number));
        self
    }

    /// Its weight, 1–1000: 100 unless set.
    #[must_use]
    pub fn weight(mut self, weight: u16) -> Self {
        self.weight = Some(weight);
        self
    }

    /// Its priority, of which the lowest number is the first choice: 0 unless set.
    #[must_use]
    pub fn priority(mut self, priority: u16) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Where it stands.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }

    /// Somebody took it out.
    #[must_use]
    pub fn offline(mut self) -> Self {
        self.online = Some(false);
        self
    }

    /// Somebody is emptying it.
    #[must_use]
    pub fn draining(mut self) -> Self {
        self.draining = Some(true);
        self
    }

    /// What checks find of it: healthy unless set.
    #[must_use]
    pub fn verdict(mut self, verdict: Verdict) -> Self {
        self.verdict = verdict;
        self
    }

    /// The node as it would be defined, and what is found of it.
    #[track_caller]
    pub(super) fn into_parts(self) -> (NodeSpec, Verdict) {
        let mut ports: Vec<(String, i64)> =
            self.ports.into_iter().map(|(name, number)| (name, i64::from(number))).collect();
        if !ports.iter().any(|(name, _)| name == "http") {
            ports.push(("http".to_owned(), i64::from(self.at.port())));
        }
        let raw = || {
            Ok(RawNode {
                id: Some(NodeId::parse(&self.at.to_string())?),
                address: self.at.ip().to_string(),
                ports: Pairs::new(ports)?,
                weight: self.weight.map(i64::from),
                priority: self.priority.map(i64::from),
                zone: self.zone,
                online: self.online,
                draining: self.draining,
                labels: Pairs::new(self.labels)?,
                lease: None,
            })
        };
        match raw().and_then(NodeSpec::try_from) {
            Ok(spec) => (spec, self.verdict),
            Err(invalid) => panic!("node `{}` is refused: {invalid}", self.at),
        }
    }
}

/// A healthy node at this address.
impl From<&str> for FakeNode {
    #[track_caller]
    fn from(address: &str) -> Self {
        Self::at(address)
    }
}

/// A healthy node at this address.
impl From<String> for FakeNode {
    #[track_caller]
    fn from(address: String) -> Self {
        Self::at(address)
    }
}

/// A healthy node at this address.
impl From<SocketAddr> for FakeNode {
    fn from(address: SocketAddr) -> Self {
        Self::at(address.to_string())
    }
}
