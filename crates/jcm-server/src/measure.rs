//! What operators can measure: one recorder, rendered for Prometheus.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jcm_health::{Engine, ReactorEngine};
use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

/// How often samples of histograms are summed up when nobody scrapes: it bounds what they take.
const UPKEEP_PAUSE: Duration = Duration::from_secs(1);

/// Seconds, from a memory access to the longest request.
const BUCKETS_SECONDS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Mutations of one commit.
const BUCKETS_MUTATIONS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// The recorder's reading side.
pub(crate) struct Metrics {
    handle: PrometheusHandle,
    engine: Arc<ReactorEngine>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Starts recording, once in a process.
    pub(crate) fn start(engine: Arc<ReactorEngine>) -> Result<Self> {
        let builder = PrometheusBuilder::new()
            .set_buckets(BUCKETS_SECONDS)
            .and_then(|builder| {
                let commits = metrics_exporter_prometheus::Matcher::Full("jcm_commit_mutations".to_owned());
                builder.set_buckets_for_metric(commits, BUCKETS_MUTATIONS)
            })
            .context("the buckets of histograms are refused")?;
        let handle = builder.install_recorder().context("metrics could not be started")?;
        describe_counter!("jcm_checks_total", "Probes that ended, by kind of check, result and outcome");
        describe_counter!("jcm_verdict_turns_total", "Verdicts that turned, by what they turned from and to");
        describe_counter!(
            "jcm_check_rounds_late_total",
            "Rounds of probes thrown away because this server was late"
        );
        describe_counter!(
            "jcm_check_rounds_skipped_total",
            "Rounds of probes that were not begun because the round before them began too late"
        );
        describe_counter!(
            "jcm_check_local_troubles_total",
            "Probes thrown away because of trouble on this server"
        );
        describe_counter!(
            "jcm_check_connections_unkept_total",
            "Connections that were not kept open for the next probe, because the limit on descriptors is near"
        );
        describe_counter!("jcm_connections_total", "Connections accepted");
        describe_counter!("jcm_http_requests_total", "Requests answered, by route, method and status");
        describe_gauge!("jcm_nodes_checked", "Nodes that this server checks");
        describe_gauge!("jcm_nodes_held", "Nodes whose verdict is held because they flap");
        describe_gauge!("jcm_checks_in_flight", "Probes under way");
        describe_gauge!("jcm_suspended", "1 while this server suspects itself and holds bad verdicts");
        describe_counter!("jcm_suspicions_total", "How often this server began to suspect itself, by reason");
        describe_counter!("jcm_opinions_asked_total", "Probes of nodes that other servers were asked for");
        describe_gauge!("jcm_subscribers", "Streams of subscribers that are open");
        describe_gauge!("jcm_clusters_quarantined", "Clusters that cannot be read from the store");
        describe_gauge!("jcm_peers_connected", "Other servers that are heard and can be asked");
        describe_gauge!("jcm_peers_relayed", "Other servers that are followed by way of another one");
        describe_gauge!("jcm_peer_silence_seconds", "Time since anybody heard the server");
        describe_counter!("jcm_peers_refused_total", "Calls of servers that do not know the peer token");
        describe_counter!(
            "jcm_peer_verdict_batches_total",
            "Messages with verdicts from and to other servers"
        );
        describe_counter!(
            "jcm_peer_verdict_batches_missed_total",
            "Messages with verdicts that the checker had no room for"
        );
        describe_counter!(
            "jcm_peer_verdicts_unreadable_total",
            "Verdicts of other servers that could not be read"
        );
        describe_counter!(
            "jcm_peer_followers_behind_total",
            "Times that a server which follows was sent everything again"
        );
        describe_counter!("jcm_peer_repairs_total", "Times that verdicts out of step were asked for again");
        describe_histogram!(
            "jcm_peer_lag_seconds",
            "Time from a verdict's publication to its way to another server"
        );
        describe_histogram!("jcm_check_seconds", "Time of one probe, by kind of check");
        describe_histogram!(
            "jcm_check_lateness_seconds",
            "Time by which a probe began after its time, by kind of check"
        );
        describe_histogram!(
            "jcm_http_request_seconds",
            "Time from a request's headers to its answer's headers"
        );
        describe_histogram!("jcm_commit_mutations", "Mutations in one commit of the store");
        Ok(Self { handle, engine })
    }

    /// All figures in Prometheus' text format.
    pub(crate) fn render(&self) -> String {
        let stats = self.engine.stats();
        metrics::counter!("jcm_check_rounds_late_total").absolute(stats.late_rounds);
        metrics::counter!("jcm_check_rounds_skipped_total").absolute(stats.skipped_rounds);
        metrics::counter!("jcm_check_local_troubles_total").absolute(stats.local_troubles);
        metrics::counter!("jcm_check_connections_unkept_total").absolute(stats.unkept);
        metrics::gauge!("jcm_checks_in_flight").set(u32::try_from(stats.in_flight).unwrap_or(u32::MAX));
        self.handle.render()
    }

    /// Sums samples up now and then until told to stop.
    pub(crate) async fn upkeep(self: Arc<Self>, stop: CancellationToken) {
        while tokio::time::timeout(UPKEEP_PAUSE, stop.cancelled()).await.is_err() {
            self.handle.run_upkeep();
        }
    }
}
