//! Tables of large clusters, which are made beside everything else.

use std::sync::mpsc;

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

#[test]
fn changes_are_followed_and_acknowledged_while_a_table_is_being_made() {
    // One thread for what takes long, so that a test can keep it from all that is to be made there.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    runtime.unwrap().block_on(async {
        for policy in [Policy::ring_hash(), Policy::maglev()] {
            let mut server = Fake::start().await;
            let jcm = subscriber(&[server.url()]).await;
            let orders = jcm.cluster("orders").policy(policy).subscribe().await.unwrap();
            let mut stream = server.welcome().await;
            stream.subscription().await;
            let states =
                [state(1, &healthy(1..401)), state(2, &healthy(11..411)), state(3, &healthy(21..421))];
            stream.send(view(&states[0]));
            stream.acknowledged(1).await;
            let (release, held) = mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || held.recv());
            let newcomers = || owners(&orders).into_iter().filter(|port| *port > 400).count();
            for (pair, revision) in states.windows(2).zip(2..) {
                stream.send(delta(&pair[0], &pair[1]));
                stream.acknowledged(revision).await;
                assert_eq!(orders.revision(), Some(Revision(revision)));
                assert_eq!(newcomers(), 0, "they are in no table yet");
            }
            drop(release);
            busy.await.unwrap().unwrap_err();
            until("a table with the newcomers is there", || newcomers() > 0).await;
            jcm.shutdown().await;
        }
    });
}
