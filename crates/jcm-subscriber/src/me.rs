//! What a program says of itself when it registers.

use std::net::{IpAddr, Ipv4Addr};

use jcm_model::node::RawNode;
use jcm_model::pairs::Pairs;
use jcm_model::{Invalid, Lease, NodeId, NodeSpec};

/// The node that a program is: its ports, and what else callers should know.
///
/// ```
/// use jcm_subscriber::Me;
///
/// let me = Me::new().port("http", 8080).zone("z1").weight(200).label("version", "7");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "it is registered with `Subscriber::register`"]
pub struct Me {
    id: Option<String>,
    address: Option<IpAddr>,
    ports: Vec<(String, u16)>,
    weight: Option<u16>,
    priority: Option<u16>,
    zone: Option<String>,
    labels: Vec<(String, String)>,
}

impl Me {
    /// Nothing yet: it needs a port at least.
    pub fn new() -> Self {
        Self::default()
    }

    /// A port that is served, by its name.
    pub fn port(mut self, name: impl Into<String>, port: u16) -> Self {
        self.ports.push((name.into(), port));
        self
    }

    /// Where callers reach the program. Unless set it is the address from which this machine reaches the server.
    pub fn address(mut self, address: impl Into<IpAddr>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// The id of the node, unique in its cluster: `address:port` of the first port by name unless set.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Its share of the calls, from 1 to 1000: 100 unless set.
    pub fn weight(mut self, weight: u16) -> Self {
        self.weight = Some(weight);
        self
    }

    /// The order of preference, 0 first: 0 unless set.
    pub fn priority(mut self, priority: u16) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Where it stands, for those who prefer their own zone.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// A free label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }

    /// Whether the program has said where it is.
    pub(crate) fn has_address(&self) -> bool {
        self.address.is_some()
    }

    /// Fixes the address, where the program did not say one: it is the same ever after, and so is the id.
    pub(crate) fn is_at(&mut self, address: IpAddr) {
        self.address.get_or_insert(address);
    }

    /// The id of the node, once it is known where it is.
    pub(crate) fn node_id(&self) -> Option<NodeId> {
        self.address?;
        let spec = self.spec(None, true).ok()?;
        Some(spec.id.clone().unwrap_or_else(|| spec.default_id()))
    }

    /// The node as it is written. While it is not known where the program is, an address stands in, to try the rest with.
    pub(crate) fn spec(&self, lease: Option<Lease>, online: bool) -> Result<NodeSpec, Invalid> {
        let id = self.id.as_deref().map(NodeId::parse).transpose().map_err(|e| e.within("id"))?;
        let address = self.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let ports = self.ports.iter().map(|(name, port)| (name.clone(), i64::from(*port)));
        let mut spec = NodeSpec::try_from(RawNode {
            id,
            address: address.to_string(),
            ports: Pairs::new(ports).map_err(|e| e.within("ports"))?,
            weight: self.weight.map(i64::from),
            priority: self.priority.map(i64::from),
            zone: self.zone.clone(),
            // What is left out is online.
            online: (!online).then_some(false),
            draining: None,
            labels: Pairs::new(self.labels.iter().cloned()).map_err(|e| e.within("labels"))?,
            lease,
        })?;
        let id = spec.id.take().unwrap_or_else(|| spec.default_id());
        spec.id = Some(id);
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_by_field() {
        for (me, part) in [
            (Me::new(), "ports: 0 ports"),
            (Me::new().port("http", 0), "ports.http: 0"),
            (Me::new().port("http", 1).port("http", 2), "ports"),
            (Me::new().port("http", 1).weight(0), "weight: 0 is refused"),
            (Me::new().port("http", 1).id("a/b"), "id: "),
            (Me::new().port("http", 1).label("a", "x\0"), "labels.a"),
        ] {
            let error = me.spec(None, false).expect_err("it makes no sense").to_string();
            assert!(error.starts_with(part), "{error}");
        }
    }

    #[test]
    fn an_address_that_was_found_is_kept_and_names_the_node() {
        let mut me = Me::new().port("http", 8080).port("admin", 9000);
        assert_eq!(me.node_id(), None);
        me.is_at("10.0.0.7".parse().unwrap());
        me.is_at("10.0.0.8".parse().unwrap());
        assert_eq!(me.node_id(), Some(NodeId::parse("10.0.0.7:9000").unwrap()));
        let spec = me.clone().id("orders-1").spec(None, false).unwrap();
        assert_eq!((spec.id, spec.attributes.online()), (Some(NodeId::parse("orders-1").unwrap()), false));
        assert!(me.spec(None, true).unwrap().attributes.written().online.is_none());
    }
}
