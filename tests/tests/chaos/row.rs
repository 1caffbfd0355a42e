//! One row of the fault matrix: what was measured, what was not kept, and the file that says so.
//!
//! A row collects everything it finds wrong and fails at its end, so that one fault shows all it breaks. A row that
//! ends before (a step that never came about) leaves a file that says `ended early`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use jcm_tests::Group;
use jcm_tests::history::Violation;
use serde_json::{Map, Value, json};

/// What every row ends with: all is healed, and all agree.
const CONVERGED_DEADLINE: Duration = Duration::from_secs(10);
/// A row waits longer than the promise, to say by how much it was missed.
const CONVERGED_PATIENCE: Duration = Duration::from_mins(1);
/// Violations of one kind that are told in words; the rest is counted.
const TOLD_MAX: usize = 5;

#[derive(Debug)]
pub(crate) struct Row {
    name: &'static str,
    fault: &'static str,
    promise: &'static str,
    figures: Map<String, Value>,
    broken: Vec<(&'static str, String)>,
    begun: Instant,
    is_over: bool,
}

impl Row {
    /// `name` is the row's number in the matrix, or the name of what stands outside it.
    pub(crate) fn begin(name: &'static str, fault: &'static str, promise: &'static str) -> Self {
        Self {
            name,
            fault,
            promise,
            figures: Map::new(),
            broken: Vec::new(),
            begun: Instant::now(),
            is_over: false,
        }
    }

    pub(crate) fn figure(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        eprintln!("row {}: {name} = {value}", self.name);
        self.figures.insert(name.to_owned(), value);
    }

    /// A duration, in seconds.
    pub(crate) fn time(&mut self, name: &str, value: Duration) {
        self.figure(name, rounded(value));
    }

    /// A duration that must not be longer than promised.
    pub(crate) fn time_within(&mut self, name: &'static str, value: Duration, promised: Duration) {
        self.time(name, value);
        let text = format!("{:.2} s, promised {:.2} s", value.as_secs_f64(), promised.as_secs_f64());
        self.require(name, value <= promised, text);
    }

    /// A count that must be zero.
    pub(crate) fn none(&mut self, name: &'static str, count: usize) {
        self.figure(name, count);
        self.require(name, count == 0, format!("{count}, promised 0"));
    }

    pub(crate) fn require(&mut self, key: &'static str, holds: bool, otherwise: impl Into<String>) {
        if !holds {
            self.broken.push((key, otherwise.into()));
        }
    }

    /// The load has to be there, or the row proves nothing.
    pub(crate) fn traffic(&mut self, name: &str, count: usize, at_least: usize) {
        self.figure(name, count);
        let text = format!("{count} {name}, at least {at_least} are needed for the row to mean something");
        self.require("too-little-traffic", count >= at_least, text);
    }

    pub(crate) fn violations(&mut self, name: &str, violations: &[Violation]) {
        self.figure(name, violations.len());
        for violation in violations {
            self.broken.push((violation.key, violation.text.clone()));
        }
    }

    /// The last step of every row that has healed all.
    pub(crate) async fn converged(&mut self, group: &Group) {
        let took = group.converged(CONVERGED_PATIENCE).await;
        self.time_within("converged_s", took, CONVERGED_DEADLINE);
    }

    /// Writes the result, and fails the test when a promise was not kept.
    #[track_caller]
    pub(crate) fn end(mut self) {
        self.is_over = true;
        self.write();
        let mut text = String::new();
        let mut told = std::collections::BTreeMap::<_, usize>::new();
        for (key, what) in &self.broken {
            let count = told.entry(key).or_default();
            *count += 1;
            if *count <= TOLD_MAX {
                let _ = write!(text, "\n  {key}: {what}");
            }
        }
        assert!(self.broken.is_empty(), "row {} ({}): {told:?}{text}", self.name, self.fault);
    }

    fn write(&self) {
        let mut keys: Vec<_> = self.broken.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        let result = json!({
            "row": self.name,
            "fault": self.fault,
            "promise": self.promise,
            "figures": self.figures,
            "pass": self.broken.is_empty(),
            "broken": keys,
            "details": self.broken.iter().take(50).map(|(key, text)| format!("{key}: {text}")).collect::<Vec<_>>(),
            "seconds": rounded(self.begun.elapsed()),
        });
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../chaos");
        std::fs::create_dir_all(&directory).expect("a directory for results");
        let file = directory.join(format!("{}.json", self.name));
        let text = serde_json::to_string_pretty(&result).expect("JSON of strings and numbers");
        std::fs::write(file, text + "\n").expect("write the result");
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        if !self.is_over {
            self.broken
                .push(("ended-early", "a step did not come about; the test's output says which".to_owned()));
            self.write();
        }
    }
}

fn rounded(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100.0).round() / 100.0
}
