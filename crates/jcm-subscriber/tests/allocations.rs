//! A pick allocates nothing once a thread has met the view. One test, alone in its process: the counts are of all
//! threads.
#![expect(clippy::unwrap_used, reason = "a test whose preparation fails has failed")]

#[path = "suite/fake.rs"]
#[expect(dead_code, reason = "this test says little to the server")]
mod fake;
#[path = "suite/model.rs"]
#[expect(dead_code, reason = "this test needs one view")]
mod model;

use std::alloc::System;

use jcm_subscriber::{Policy, Subscriber};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

// One thread, so that no background task runs while picks are counted.
#[tokio::test(flavor = "current_thread")]
async fn a_pick_and_its_report_allocate_nothing() {
    let mut server = fake::Fake::start().await;
    let builder = Subscriber::builder().servers([server.url()]).ready_timeout(std::time::Duration::ZERO);
    let jcm = builder.build().await.unwrap();
    let mut clusters = Vec::new();
    for policy in [
        Policy::round_robin(),
        Policy::random(),
        Policy::p2c(),
        Policy::peak_ewma(),
        Policy::least_inflight(),
        Policy::ring_hash(),
        Policy::maglev(),
        Policy::primary(),
    ] {
        clusters.push(jcm.cluster("orders").policy(policy.prefer_zone("z1")).subscribe().await.unwrap());
    }
    let mut stream = server.welcome().await;
    stream.subscription().await;
    stream.send(model::view(&model::state(1, &model::healthy(1..100))));
    stream.acknowledged(1).await;
    for cluster in &clusters {
        drop(cluster.alloc().unwrap());
    }

    let region = Region::new(COUNTED);
    let held: [_; 40] = std::array::from_fn(|_| clusters[2].alloc().unwrap());
    for cluster in &clusters {
        for number in 0..10_000_u32 {
            let node = cluster.alloc().unwrap();
            assert_ne!(node.addr("http").unwrap().port(), 0);
            node.report(&if number % 2 == 0 { Ok(()) } else { Err(()) });
            drop(cluster.alloc_for(&number).unwrap());
            let other = cluster.alloc_excluding(&[held[0].id()]).unwrap();
            drop(other);
        }
    }
    drop(held);
    let stats = region.change();
    assert_eq!((stats.allocations, stats.reallocations, stats.deallocations), (0, 0, 0), "{stats:?}");
}
