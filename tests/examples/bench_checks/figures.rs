//! Figures of many rounds: medians and extremes, and the table that shows them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::contender::SaidOfItself;
use crate::nodes::Told;

/// What one round of one contender came to.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) micros_a_check: f64,
    checks_a_second: f64,
    bytes_a_target: f64,
    late_ms: Option<[f64; 4]>,
    off_ms: [f64; 4],
}

impl Sample {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(crate) fn new(told: &Told, cpu: Duration, own: &SaidOfItself) -> Self {
        let asked = told.asked as f64;
        Self {
            micros_a_check: cpu.as_secs_f64() * 1e6 / asked,
            checks_a_second: asked / told.seconds,
            bytes_a_target: own.bytes_a_target,
            late_ms: own.late_ms,
            off_ms: told.off_ms,
        }
    }
}

/// The median, 99 and 99.9 of a hundred, and the worst.
pub(crate) fn percentiles(mut values: Vec<f64>) -> [f64; 4] {
    values.sort_by(f64::total_cmp);
    let at = |share: usize| values.get((values.len() * share / 1_000).min(values.len().saturating_sub(1)));
    [500, 990, 999, 1_000].map(|share| at(share).copied().unwrap_or_default())
}

pub(crate) fn median(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    sorted(samples, of)[samples.len() / 2]
}

fn sorted(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// All rounds of one contender.
pub(crate) fn summary(name: &str, samples: &[Sample], bare_micros: f64) -> Value {
    let micros = sorted(samples, |sample| sample.micros_a_check);
    let medians = |of: &dyn Fn(&Sample) -> [f64; 4]| -> Vec<f64> {
        (0..4).map(|part| rounded(median(samples, |sample| of(sample)[part]))).collect()
    };
    let is_late_known = samples.iter().all(|sample| sample.late_ms.is_some());
    let late = is_late_known.then(|| medians(&|sample| sample.late_ms.unwrap_or_default()));
    json!({
        "name": name,
        "micros_a_check": rounded(micros[micros.len() / 2]),
        "micros_a_check_least": rounded(micros[0]),
        "micros_a_check_most": rounded(micros[micros.len() - 1]),
        "beside_the_bare_loop": rounded(micros[micros.len() / 2] / bare_micros),
        "checks_a_second": median(samples, |sample| sample.checks_a_second).round(),
        "bytes_a_target": median(samples, |sample| sample.bytes_a_target).round(),
        "late_ms": late,
        "off_ms": medians(&|sample| sample.off_ms),
    })
}

/// The table of one case.
pub(crate) fn print(case: &str, figures: &Value) {
    println!(
        "\n{case}\n{:<11} {:>8} {:>15} {:>8} {:>9} {:>9}  {:<24} {:<24}",
        "",
        "µs CPU",
        "(least, most)",
        "of bare",
        "checks/s",
        "B/target",
        "late ms 50 99 99.9 max",
        "interval off ms, same"
    );
    for contender in figures["contenders"].as_array().into_iter().flatten() {
        let number = |key: &str| contender[key].as_f64().unwrap_or_default();
        let list = |key: &str| {
            let parts = contender[key].as_array().map_or(&[][..], Vec::as_slice);
            parts
                .iter()
                .map(|part| format!("{:.1}", part.as_f64().unwrap_or_default()))
                .collect::<Vec<_>>()
                .join(" ")
        };
        println!(
            "{:<11} {:>8.2} {:>15} {:>8.2} {:>9.0} {:>9.0}  {:<24} {:<24}",
            contender["name"].as_str().unwrap_or_default(),
            number("micros_a_check"),
            format!("({:.2}, {:.2})", number("micros_a_check_least"), number("micros_a_check_most")),
            number("beside_the_bare_loop"),
            number("checks_a_second"),
            number("bytes_a_target"),
            list("late_ms"),
            list("off_ms"),
        );
    }
}
