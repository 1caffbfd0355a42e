//! Everything that `why` shows of the checks of one node, as it goes from server to server.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use jcm_health::Sample;
use jcm_model::{ServerId, Timestamp, Verdict};
use serde::{Deserialize, Serialize};

use super::doubt::Suspended;
use super::opinions::Vouched;
use super::record::Record;
use crate::peers::Said;

/// What was found of a node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Findings {
    pub(crate) vantages: Vec<Vantage>,
    /// `None`: nothing is probed.
    pub(crate) thresholds: Option<Thresholds>,
    pub(crate) last_turn: Option<LastTurn>,
    /// The verdict stays because the node flaps, if it does.
    #[serde(default)]
    pub(crate) held: Option<Held>,
    /// What it takes for the verdict to turn, in words.
    #[serde(default)]
    pub(crate) needs: Vec<String>,
    /// Why the server that checks the node suspects itself, if it does.
    #[serde(default)]
    pub(crate) suspended: Option<Suspended>,
}

/// One server's results.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Vantage {
    pub(crate) server: ServerId,
    pub(crate) results: Vec<ResultRow>,
}

/// One result, newest first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ResultRow {
    pub(crate) at: Timestamp,
    /// `success`, `failure`, or `ignored` where it says more about that server than about the node.
    pub(crate) outcome: Cow<'static, str>,
    pub(crate) latency_ms: f64,
    pub(crate) status: Option<u16>,
    pub(crate) error: Option<String>,
}

/// Where the node stands between its verdicts.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Thresholds {
    pub(crate) failures_in_a_row: u32,
    pub(crate) fall: u32,
    pub(crate) successes_in_a_row: u32,
    pub(crate) rise: u32,
    pub(crate) window_failed: u32,
    pub(crate) window_filled: u32,
    pub(crate) window: u32,
    pub(crate) degraded_at: f64,
}

/// The turn that led to the present verdict.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LastTurn {
    pub(crate) at: Timestamp,
    pub(crate) from: Verdict,
    pub(crate) to: Verdict,
    pub(crate) because: String,
    /// The results that it follows from, newest first, as far as they are kept.
    #[serde(default)]
    pub(crate) results: Vec<ResultRow>,
}

/// How a node is held that flaps.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) reason: String,
    /// At the earliest: it has to be well without a break until then.
    pub(crate) until: Timestamp,
    /// How long that is from now on.
    pub(crate) remaining_ms: u64,
}

impl Findings {
    /// What was found here, and what others found when they were asked.
    pub(super) fn of<'a>(
        record: &Record,
        server: &ServerId,
        vouched: impl Iterator<Item = &'a Vouched>,
        suspended: Option<Suspended>,
    ) -> Self {
        let own =
            Vantage { server: server.clone(), results: record.evidence.iter().map(Into::into).collect() };
        let mut vantages = vec![own];
        for vouched in vouched {
            let at = vantages.iter().position(|vantage| vantage.server == vouched.server);
            let at = at.unwrap_or_else(|| {
                vantages.push(Vantage { server: vouched.server.clone(), results: Vec::new() });
                vantages.len() - 1
            });
            vantages[at].results.push(vouched.into());
        }
        vantages[1..].sort_by(|one, other| one.server.cmp(&other.server));
        let (moment, now) = (Instant::now(), Timestamp::now());
        let held = record.judge.held_until(moment).map(|until| Held::until(until, moment, now));
        let needs = record.judge.needs(&record.check).iter().map(ToString::to_string).collect();
        Self {
            vantages,
            thresholds: Some(Thresholds::of(record)),
            last_turn: record.last_turn(),
            needs,
            held,
            suspended,
        }
    }
}

impl Thresholds {
    fn of(record: &Record) -> Self {
        let (window_failed, window_filled) = record.judge.window();
        Self {
            failures_in_a_row: record.judge.failures_in_a_row(),
            fall: record.check.fall,
            successes_in_a_row: record.judge.successes_in_a_row(),
            rise: record.check.rise,
            window_failed,
            window_filled,
            window: record.check.window,
            degraded_at: record.check.degraded_at,
        }
    }
}

impl Held {
    fn until(until: Instant, moment: Instant, now: Timestamp) -> Self {
        let left = until.saturating_duration_since(moment);
        let until = now.checked_add(left).unwrap_or(now);
        // Whole seconds: it is for people, and a moment that moves with each failure anyhow.
        let shown = Timestamp::from_second(until.as_second()).unwrap_or(until);
        let remaining_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        Self { reason: format!("held: flapping, until {shown} at the earliest"), until, remaining_ms }
    }
}

impl From<Sample> for ResultRow {
    fn from(sample: Sample) -> Self {
        Self {
            at: sample.at(),
            outcome: match sample.outcome() {
                outcome if outcome.is_local_trouble() => "ignored",
                outcome if outcome.is_success() => "success",
                _ => "failure",
            }
            .into(),
            latency_ms: milliseconds(sample.latency()),
            status: sample.outcome().status(),
            error: (!sample.outcome().is_success()).then(|| sample.outcome().to_string()),
        }
    }
}

impl From<&Vouched> for ResultRow {
    fn from(vouched: &Vouched) -> Self {
        let outcome = match vouched.said {
            Said::Reached => "success",
            Said::Failed => "failure",
            Said::Nothing => "ignored",
        };
        Self {
            at: vouched.at,
            outcome: outcome.into(),
            latency_ms: milliseconds(vouched.latency),
            status: None,
            error: (vouched.said != Said::Reached).then(|| vouched.outcome.clone()),
        }
    }
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
