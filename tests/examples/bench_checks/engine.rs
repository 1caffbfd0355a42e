//! The engine alone, with one thread, and somebody who takes its reports.

use std::net::SocketAddr;
use std::sync::Arc;

use jcm_health::engine::{REPORT_QUEUE_MAX, reports};
use jcm_health::{Engine, Options, ReactorEngine, Target, TargetKey, Trust};
use jcm_model::{Check, CheckKind, CheckSpec, TargetPolicy};

use crate::Way;
use crate::contender::Own;

pub(crate) fn check(way: Way, addresses: &[SocketAddr]) {
    let (sender, mut reports) = reports::channel(REPORT_QUEUE_MAX);
    let policy = Arc::new(TargetPolicy { loopback_allowed: true, own: Vec::new() });
    let options = Options { threads: 1, kept_max: 20_000, trust: Trust::default() };
    let engine = ReactorEngine::start(&policy, &sender, options).unwrap();
    let mut own = Own::begin(addresses.len());
    let kind = if way == Way::Tcp { CheckKind::Tcp } else { CheckKind::Http };
    let check = Arc::new(Check { kind, fresh: way == Way::Fresh, ..CheckSpec::default().effective() });
    for (key, address) in addresses.iter().enumerate() {
        engine.set(Target {
            key: TargetKey(key as u64),
            address: *address,
            check: Arc::clone(&check),
            generation: 1,
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut taken = Vec::new();
        while !own.is_over() {
            reports.recv_many(&mut taken, REPORT_QUEUE_MAX).await;
            for report in taken.drain(..) {
                assert!(report.outcome.is_success(), "{}", report.outcome);
                own.late(report.lateness);
            }
        }
    });
}
