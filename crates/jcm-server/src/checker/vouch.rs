//! This server's own probes for others: what a peer asks for a second opinion, it gets from here.
//!
//! A question names a node and its form; what is probed is what this server holds itself, under the policy that it
//! holds itself. Each answer is a fresh probe, also of a node that this server checked a moment ago: a memory is no
//! second look. The probes run in the task of whoever asks and end with it, a bounded number of them at a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jcm_health::{OnceProber, ReactorEngine};
use jcm_model::Check;

use super::opinions::{CALL_QUESTIONS_MAX, UNDER_WAY_MAX};
use crate::peers::{Answer, Question, Said};
use crate::views::Views;

/// The way back takes a part of the time that was given.
const WAY_BACK: Duration = Duration::from_millis(50);

/// Probes nodes for others.
#[derive(Debug, Clone)]
pub(super) struct Vouch {
    views: Arc<Views>,
    prober: Arc<OnceProber>,
}

impl Vouch {
    pub(super) fn new(views: Arc<Views>, engine: Arc<ReactorEngine>) -> Self {
        Self { views, prober: Arc::new(OnceProber::new(engine, UNDER_WAY_MAX)) }
    }

    /// What probes of these nodes find now: one answer for each question, in their order, within the time.
    pub(super) async fn probe(&self, questions: &[Question], within: Duration) -> Vec<Answer> {
        if questions.len() > CALL_QUESTIONS_MAX {
            return vec![Answer::nothing("too many questions in one call"); questions.len()];
        }
        let within = within.saturating_sub(WAY_BACK);
        join_all(questions.iter().map(|question| self.probe_one(question, within))).await
    }

    async fn probe_one(&self, question: &Question, within: Duration) -> Answer {
        let Some((address, check)) = self.target(question) else {
            return Answer::nothing("this server knows no such node in this form");
        };
        match self.prober.probe_twice(address, &check, within).await {
            Ok(probed) => Answer {
                said: if probed.outcome.is_success() { Said::Reached } else { Said::Failed },
                suspended: false,
                latency: probed.latency,
                phases: probed.phases,
                outcome: probed.outcome.to_string(),
            },
            Err(reason) => Answer::nothing(&reason.to_string()),
        }
    }

    fn target(&self, question: &Question) -> Option<(SocketAddr, Arc<Check>)> {
        let snapshot = self.views.snapshot();
        let cluster = snapshot.clusters.get(&question.cluster).filter(|cluster| cluster.is_checked())?;
        let node = cluster.node(&question.node).filter(|node| cluster.birth(node) == question.birth)?;
        let port = node.port(cluster.check.port.as_deref())?;
        Some((SocketAddr::new(node.address, port), Arc::clone(&cluster.check)))
    }
}
