//! Tables of large clusters, which are made beside everything else.

use jcm_model::Revision;
use jcm_subscriber::{Cluster, Policy};

use crate::fake::{DEADLINE, Fake};
use crate::model::{delta, healthy, state, view};
use crate::{subscriber, until, until_live};

/// Which port each of some keys comes to.
fn owners(orders: &Cluster) -> Vec<u16> {
    (0..1000).map(|key: u32| orders.alloc_for(&key).unwrap().addr("http").unwrap().port()).collect()
}

#[tokio::test]
async fn keys_of_a_large_cluster_never_come_to_a_node_that_left_and_soon_to_where_any_program_has_them() {
    let mut server = Fake::start().await;
    let jcm = subscriber(&[server.url()]).await;
    let mut handles = Vec::new();
    for policy in [Policy::ring_hash(), Policy::maglev()] {
        handles.push(jcm.cluster("orders").policy(policy.clone()).subscribe().await.unwrap());
    }
    let mut stream = server.welcome().await;
    stream.subscription().await;
    let (first, second) = (state(1, &healthy(1..401)), state(2, &healthy(11..411)));
    stream.send(view(&first));
    until_live(&handles[0]).await;
    stream.send(delta(&first, &second));
    for (orders, policy) in handles.iter().zip([Policy::ring_hash(), Policy::maglev()]) {
        assert!(tokio::time::timeout(DEADLINE, orders.reached(Revision(2))).await.unwrap());
        assert!(owners(orders).iter().all(|port| *port > 10));
        let fresh = jcm.cluster("orders").policy(policy).subscribe().await.unwrap();
        until("its own table is there", || owners(orders) == owners(&fresh)).await;
    }
    jcm.shutdown().await;
}
