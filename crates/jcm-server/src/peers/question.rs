//! What one checker asks of another: its own probe of a node.
//!
//! A question names a node and its form, never an address: whoever is asked probes what it holds itself, under the
//! policy that it holds itself, so that no peer can make it connect anywhere else.

use std::time::Duration;

use jcm_health::Phases;
use jcm_model::{ClusterName, NodeId, Revision};
use jcm_proto::{Malformed, v1};

/// Which node to probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) cluster: ClusterName,
    pub(crate) node: NodeId,
    /// The form of the node that is meant: one who holds another form says nothing.
    pub(crate) birth: Revision,
}

/// What the probe came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) said: Said,
    /// The server that answers suspects itself: its success counts, its failure does not.
    pub(crate) suspended: bool,
    pub(crate) latency: Duration,
    /// How that time was spent, as far as the server that probed tells.
    pub(crate) phases: Phases,
    /// In words, for people.
    pub(crate) outcome: String,
}

/// What the probe says of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// It passed.
    Reached,
    /// It failed.
    Failed,
    /// There was no probe: another form, too many questions, trouble of that machine.
    Nothing,
}

impl Answer {
    /// An answer without a probe.
    pub(crate) fn nothing(reason: &str) -> Self {
        Self {
            said: Said::Nothing,
            suspended: false,
            latency: Duration::ZERO,
            phases: Phases::default(),
            outcome: reason.to_owned(),
        }
    }

    pub(super) fn new(message: v1::probe_response::Answer, suspended: bool) -> Self {
        let said = match message.said() {
            v1::probe_response::Said::Reached => Said::Reached,
            v1::probe_response::Said::Failed => Said::Failed,
            v1::probe_response::Said::Nothing => Said::Nothing,
        };
        let phases = Phases {
            connected: message.connected_us.map(Duration::from_micros),
            secured: message.secured_us.map(Duration::from_micros),
            answering: message.answering_us.map(Duration::from_micros),
        };
        let latency = Duration::from_micros(message.latency_us);
        Self { said, suspended, latency, phases, outcome: message.outcome }
    }
}

impl From<Answer> for v1::probe_response::Answer {
    fn from(answer: Answer) -> Self {
        let said = match answer.said {
            Said::Reached => v1::probe_response::Said::Reached,
            Said::Failed => v1::probe_response::Said::Failed,
            Said::Nothing => v1::probe_response::Said::Nothing,
        };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            said: said.into(),
            latency_us: micros(answer.latency),
            outcome: answer.outcome,
            connected_us: answer.phases.connected.map(micros),
            secured_us: answer.phases.secured.map(micros),
            answering_us: answer.phases.answering.map(micros),
        }
    }
}

impl From<&Question> for v1::probe_request::Question {
    fn from(question: &Question) -> Self {
        Self {
            cluster: question.cluster.to_string(),
            node: question.node.to_string(),
            birth: question.birth.0,
        }
    }
}

impl TryFrom<v1::probe_request::Question> for Question {
    type Error = Malformed;

    fn try_from(message: v1::probe_request::Question) -> Result<Self, Malformed> {
        Ok(Self {
            cluster: ClusterName::parse(&message.cluster)?,
            node: NodeId::parse(&message.node)?,
            birth: Revision(message.birth),
        })
    }
}
