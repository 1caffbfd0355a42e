//! Renewals of leases as they travel, in pieces that every receiver takes. A moment travels as its age: the clocks of two
//! servers have nothing in common.

use std::time::{Duration, Instant};

use jcm_model::{ClusterName, LeaseId, NodeId};
use jcm_proto::v1::follow_response as wire;

use crate::leases::Renewals;

/// Renewals in one message. Names have at most 128 bytes, so that even the longest stay below 1 MiB.
const RENEWALS_MAX: usize = 4096;

/// Renewals in pieces, with the age that each has now.
pub(super) fn pieces(renewals: &Renewals, now: Instant) -> impl Iterator<Item = wire::Renewals> + Send {
    let mut flat = renewals
        .iter()
        .flat_map(|(cluster, renewals)| renewals.iter().map(move |renewal| (cluster, renewal)));
    std::iter::from_fn(move || {
        let mut clusters: Vec<wire::ClusterRenewals> = Vec::new();
        for (cluster, (node, lease, at)) in flat.by_ref().take(RENEWALS_MAX) {
            let renewal = wire::Renewal {
                node: node.to_string(),
                lease: lease.as_bytes().to_vec(),
                age_ms: super::millis(now.saturating_duration_since(*at)),
            };
            match clusters.last_mut().filter(|last| last.cluster == cluster.as_str()) {
                Some(last) => last.renewals.push(renewal),
                None => {
                    clusters.push(wire::ClusterRenewals {
                        cluster: cluster.to_string(),
                        renewals: vec![renewal],
                    });
                }
            }
        }
        (!clusters.is_empty()).then_some(wire::Renewals { clusters })
    })
}

/// The renewals in a message. What cannot be read, or is older than this process, is left out: it costs none of the others.
pub(super) fn open(message: wire::Renewals, now: Instant) -> Renewals {
    let mut renewals = Renewals::new();
    for cluster in message.clusters {
        let Ok(name) = ClusterName::parse(&cluster.cluster) else { continue };
        let readable = cluster.renewals.into_iter().filter_map(|renewal| {
            let node = NodeId::parse(&renewal.node).ok()?;
            let lease = LeaseId::try_from(renewal.lease.as_slice()).ok()?;
            Some((node, lease, now.checked_sub(Duration::from_millis(renewal.age_ms))?))
        });
        renewals.entry(name).or_default().extend(readable);
    }
    renewals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_read_back_in_pieces_with_their_ages() {
        let now = Instant::now() + Duration::from_secs(1000);
        let name = |text: &str| ClusterName::parse(text).unwrap();
        let renewal = |n: usize| {
            let at = now.checked_sub(Duration::from_millis(n as u64 % 7)).unwrap();
            (NodeId::parse(&format!("n{n}")).unwrap(), LeaseId::new([1; 16]), at)
        };
        let renewals =
            Renewals::from([(name("a"), (0..5000).map(renewal).collect()), (name("b"), vec![renewal(1)])]);
        let pieces: Vec<wire::Renewals> = pieces(&renewals, now).collect();
        assert_eq!(pieces.len(), 2);
        let mut read = Renewals::new();
        for piece in pieces {
            for (cluster, mut renewals) in open(piece, now) {
                read.entry(cluster).or_default().append(&mut renewals);
            }
        }
        assert_eq!(read, renewals);
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let now = Instant::now();
        let renewal =
            |node: &str, lease: usize| wire::Renewal { node: node.into(), lease: vec![1; lease], age_ms: 0 };
        let cluster = |cluster: &str, renewals| wire::ClusterRenewals { cluster: cluster.into(), renewals };
        let message = wire::Renewals {
            clusters: vec![
                cluster("/", vec![renewal("n1", 16)]),
                cluster("a", vec![renewal("n1", 15), renewal("", 16), renewal("n2", 16)]),
            ],
        };
        let read = open(message, now);
        assert_eq!(read.values().flatten().map(|(node, ..)| node.as_str()).collect::<Vec<_>>(), ["n2"]);
    }
}
