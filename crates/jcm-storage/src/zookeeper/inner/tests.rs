//! What becomes of what is held when the ensemble is not what it was.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::{Config, session};
use super::*;

fn head(revision: u64, version: i32) -> Head {
    Head { revision: Revision(revision), version, recent: vec![Revision(revision)], latest: Vec::new() }
}

#[tokio::test]
async fn an_ensemble_that_lost_writes_and_went_on_is_loaded_again_and_not_followed_from_what_was_lost() {
    let stop = CancellationToken::new();
    stop.cancel();
    let config = Config {
        hosts: "127.0.0.1:1".to_owned(),
        root: "/".to_owned(),
        session_timeout: Duration::from_secs(4),
        digest: None,
    };
    let inner = Inner::new(session::keep(config, &TaskTracker::new(), stop), "");
    let floor = head(150, 9);
    let tail = Tail::new(floor.revision, TAIL_TRANSACTIONS_MAX, TAIL_BYTES_MAX);
    let store = StoreId(uuid::Uuid::from_u128(1));
    let held = Held { store, tail, mirror: Mirror::default(), head: floor.clone(), log_bytes: 0 };
    inner.state().held = Some(held);
    inner.refuse_rewound(&floor, &head(151, 10)).unwrap();
    assert!(inner.state().held.is_some(), "that is how it goes on");
    inner.refuse_rewound(&floor, &head(140, 7)).unwrap_err();
    assert!(inner.state().refusal().is_some() && inner.state().held.is_some(), "it is served on");
    let resets = inner.state().resets;
    inner.refuse_rewound(&floor, &head(151, 10)).unwrap();
    let state = inner.state();
    assert!(state.refusal().is_none() && state.held.is_none() && state.resets == resets + 1);
}
