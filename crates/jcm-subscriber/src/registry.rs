//! Writes of this program to the registry, through the server that it follows: what one says, and what came of it.

use std::time::Duration;

use jcm_model::{ClusterName, LeaseId, Node, NodeId, NodeSpec, Revision};
use jcm_proto::v1;
use jcm_proto::v1::registry_client::RegistryClient;
use jcm_proto::v1::write_options::Condition;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A server answers a write within 2 s, or says that it cannot tell.
const WRITE_TIMEOUT: Duration = Duration::from_secs(4);
/// What is shown of a server's text: its own are shorter.
const REASON_CHARS_MAX: usize = 500;

/// A write that is about one node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Write {
    pub(crate) cluster: ClusterName,
    pub(crate) node: NodeId,
    /// The lease that the node must have, if it is there.
    pub(crate) lease: LeaseId,
    /// The same for each repetition, and for nothing else.
    pub(crate) key: String,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum What {
    /// The node shall be there.
    Put(Box<NodeSpec>),
    /// It is in use.
    Online,
    /// It takes nothing new.
    Drain,
    /// It shall be gone.
    Delete,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is stored.
    Done(Place),
    /// It may not have been: to be repeated, after this time at the earliest.
    Again {
        after: Duration,
        reason: String,
    },
    NoCluster,
    NoNode,
    /// The node has another lease, or none.
    Leased {
        found: Option<LeaseId>,
    },
    /// Another node has its address and port.
    Clash {
        reason: String,
    },
    /// It cannot be as it is.
    Refused {
        reason: String,
    },
}

/// Where a write stands in a store: who is not as far cannot tell of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub(crate) store: Vec<u8>,
    pub(crate) revision: Revision,
}

/// Carries a write out, once.
pub(crate) async fn carry_out(channel: Channel, write: Write) -> Outcome {
    let mut registry = RegistryClient::new(channel);
    match tokio::time::timeout(WRITE_TIMEOUT, send(&mut registry, write)).await {
        Ok(Ok(answer)) => Outcome::Done(Place { store: answer.store, revision: Revision(answer.revision) }),
        Ok(Err(status)) => outcome(&status),
        Err(_) => {
            Outcome::Again { after: Duration::ZERO, reason: "the server does not answer in time".to_owned() }
        }
    }
}

async fn send(registry: &mut RegistryClient<Channel>, write: Write) -> Result<v1::WriteResponse, Status> {
    let Write { cluster, node, lease, key, what } = write;
    let cluster = cluster.to_string();
    let options = Some(v1::WriteOptions {
        idempotency_key: key,
        condition: Some(Condition::Lease(lease.as_bytes().to_vec())),
        ..Default::default()
    });
    let merge_patch = match what {
        What::Put(spec) => {
            let nodes = vec![(&to_node(*spec, node)).into()];
            return Ok(registry
                .put_nodes(v1::PutNodesRequest { cluster, nodes, options })
                .await?
                .into_inner());
        }
        What::Delete => {
            let request = v1::DeleteNodeRequest { cluster, node: node.to_string(), options };
            return Ok(registry.delete_node(request).await?.into_inner());
        }
        What::Online => r#"{"online":true}"#,
        What::Drain => r#"{"draining":true}"#,
    };
    let request = v1::PatchNodeRequest {
        cluster,
        node: node.to_string(),
        merge_patch: merge_patch.to_owned(),
        options,
    };
    Ok(registry.patch_node(request).await?.into_inner())
}

fn to_node(spec: NodeSpec, id: NodeId) -> Node {
    let NodeSpec { id: _, address, ports, attributes } = spec;
    Node { id, address, ports, attributes, birth: Revision::ZERO }
}

/// What a status says. Its trailers have the stable code and the facts: docs/grpc.md.
fn outcome(status: &Status) -> Outcome {
    let fact = |name| status.metadata().get(name).and_then(|value| value.to_str().ok());
    let reason = said(status.message());
    match (status.code(), fact("jcm-code")) {
        (Code::NotFound, Some("NO_CLUSTER")) => Outcome::NoCluster,
        (Code::NotFound, Some("NO_NODE")) => Outcome::NoNode,
        (Code::Aborted, Some("LEASE")) => {
            Outcome::Leased { found: fact("jcm-found").and_then(|found| LeaseId::parse(found).ok()) }
        }
        (Code::AlreadyExists, Some("CLASH")) => Outcome::Clash { reason },
        (Code::InvalidArgument | Code::AlreadyExists | Code::OutOfRange | Code::DataLoss, Some(_))
        | (Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented, _) => {
            Outcome::Refused { reason }
        }
        // Whatever else went wrong, this server or another one may do it.
        (code, _) => {
            let after = fact("jcm-retry-after-ms").and_then(|text| text.parse().ok()).unwrap_or_default();
            Outcome::Again { after: Duration::from_millis(after), reason: format!("{code:?}: {reason}") }
        }
    }
}

/// A server's text as it may appear in a message: bounded, and without what could forge a log line.
fn said(text: &str) -> String {
    text.chars().take(REASON_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: Code, trailers: &[(&'static str, &str)]) -> Status {
        let mut status = Status::new(code, "so\nit is");
        for (name, value) in trailers {
            status.metadata_mut().insert(*name, value.parse().unwrap());
        }
        status
    }

    #[test]
    fn what_a_status_means_is_told_by_its_stable_code() {
        let found = "00112233445566778899aabbccddeeff";
        let refused = || Outcome::Refused { reason: "so it is".to_owned() };
        let again = |ms, code| Outcome::Again {
            after: Duration::from_millis(ms),
            reason: format!("{code}: so it is"),
        };
        for (code, trailers, wanted) in [
            (Code::NotFound, &[("jcm-code", "NO_CLUSTER")][..], Outcome::NoCluster),
            (Code::NotFound, &[("jcm-code", "NO_NODE")], Outcome::NoNode),
            (Code::NotFound, &[], again(0, "NotFound")),
            (Code::Aborted, &[("jcm-code", "LEASE")], Outcome::Leased { found: None }),
            (
                Code::Aborted,
                &[("jcm-code", "LEASE"), ("jcm-found", found)],
                Outcome::Leased { found: Some(LeaseId::parse(found).unwrap()) },
            ),
            (Code::InvalidArgument, &[("jcm-code", "INVALID")], refused()),
            (Code::AlreadyExists, &[("jcm-code", "CLASH")], Outcome::Clash { reason: "so it is".to_owned() }),
            (Code::AlreadyExists, &[("jcm-code", "ID_TAKEN")], refused()),
            (Code::AlreadyExists, &[], again(0, "AlreadyExists")),
            (Code::DataLoss, &[("jcm-code", "QUARANTINED")], refused()),
            (Code::Unimplemented, &[], refused()),
            (
                Code::ResourceExhausted,
                &[("jcm-code", "BUSY"), ("jcm-retry-after-ms", "1000")],
                again(1000, "ResourceExhausted"),
            ),
            (Code::Unavailable, &[("jcm-code", "STORE_UNAVAILABLE")], again(0, "Unavailable")),
            (Code::DeadlineExceeded, &[("jcm-code", "OUTCOME_UNKNOWN")], again(0, "DeadlineExceeded")),
            (Code::Unknown, &[], again(0, "Unknown")),
            (Code::InvalidArgument, &[], again(0, "InvalidArgument")),
        ] {
            assert_eq!(outcome(&status(code, trailers)), wanted, "{code:?} {trailers:?}");
        }
    }
}
