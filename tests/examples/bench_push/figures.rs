//! What was measured: one sample a contender and round, and the table of their medians.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The anchor of all ratios.
const ANCHOR: &str = "bare tonic";

#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// From each change to the last stream that heard of it.
    pub(crate) last_ms: Vec<f64>,
    /// The same to the stream in the middle.
    pub(crate) median_ms: Vec<f64>,
    /// All that the process took from each change until shortly after its last stream was told.
    pub(crate) cpu_micros_an_event: f64,
    /// What it takes for each stream in each second in which nothing happens: heartbeats.
    pub(crate) idle_micros_a_stream_second: f64,
    pub(crate) bytes_an_event: f64,
    pub(crate) memory_a_stream: f64,
}

/// All samples by shape and contender, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<(String, &'static str, Vec<Sample>)>);

impl Figures {
    pub(crate) fn add(&mut self, shape: &str, name: &'static str, sample: &Sample) {
        let found = self.0.iter_mut().find(|(held, who, _)| held == shape && *who == name);
        match found {
            Some((_, _, samples)) => samples.push(sample.clone()),
            None => self.0.push((shape.to_owned(), name, vec![sample.clone()])),
        }
    }

    pub(crate) fn print(&self, shape: &str) {
        println!(
            "\n{:<24} {:>8} {:>8} {:>8} {:>18} {:>6} {:>10} {:>7} {:>10} {:>6}",
            format!("{shape} streams"),
            "last p50",
            "p99 ms",
            "ratio",
            "µs CPU an event",
            "ratio",
            "idle µs/s",
            "bytes",
            "KB/stream",
            "ratio"
        );
        let rows = self.of(shape);
        let anchor = rows.get(ANCHOR).cloned().unwrap_or_default();
        for (name, row) in &rows {
            println!(
                "{name:<24} {:>8.0} {:>8.0} {:>8.2} {:>18} {:>6.2} {:>10.1} {:>7.0} {:>10.1} {:>6.2}",
                row.last.0,
                row.last.1,
                row.last.1 / anchor.last.1,
                format!("{:.1} ({:.1}-{:.1})", row.cpu.1, row.cpu.0, row.cpu.2),
                row.cpu.1 / anchor.cpu.1,
                row.idle,
                row.bytes,
                row.memory / 1024.0,
                row.memory / anchor.memory,
            );
        }
    }

    fn of(&self, shape: &str) -> BTreeMap<&'static str, Row> {
        let of_shape = self.0.iter().filter(|(held, _, _)| held == shape);
        of_shape.map(|(_, name, samples)| (*name, Row::of(samples))).collect()
    }

    pub(crate) fn to_json(&self) -> Value {
        let samples = |samples: &[Sample]| -> Vec<Value> {
            let each = |sample: &Sample| {
                json!({
                    "last_ms": sample.last_ms,
                    "median_ms": sample.median_ms,
                    "cpu_micros_an_event": sample.cpu_micros_an_event,
                    "idle_micros_a_stream_second": sample.idle_micros_a_stream_second,
                    "bytes_an_event": sample.bytes_an_event,
                    "memory_a_stream": sample.memory_a_stream,
                })
            };
            samples.iter().map(each).collect()
        };
        let each = |(shape, name, of): &(String, &str, Vec<Sample>)| json!({ "streams": shape, "who": name, "samples": samples(of) });
        self.0.iter().map(each).collect()
    }
}

/// Medians of all rounds; percentiles of all changes of all rounds.
#[derive(Debug, Clone, Default)]
struct Row {
    last: (f64, f64),
    /// Least, median, most.
    cpu: (f64, f64, f64),
    idle: f64,
    bytes: f64,
    memory: f64,
}

impl Row {
    fn of(samples: &[Sample]) -> Self {
        let sorted = |value: fn(&Sample) -> f64| {
            let mut values: Vec<f64> = samples.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let median = |value: fn(&Sample) -> f64| sorted(value)[samples.len() / 2];
        let cpu = sorted(|sample| sample.cpu_micros_an_event);
        let mut last: Vec<f64> = samples.iter().flat_map(|sample| sample.last_ms.iter().copied()).collect();
        last.sort_by(f64::total_cmp);
        Self {
            last: (last[(last.len() - 1) / 2], last[(last.len() - 1) * 99 / 100]),
            cpu: (cpu[0], cpu[cpu.len() / 2], cpu[cpu.len() - 1]),
            idle: median(|sample| sample.idle_micros_a_stream_second),
            bytes: median(|sample| sample.bytes_an_event),
            memory: median(|sample| sample.memory_a_stream),
        }
    }
}
