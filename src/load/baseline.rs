//! A baseline: an earlier run's figures, with which a run is compared. What became worse by more than a share fails the test.

use std::path::Path;
use std::{fmt, fs};

use anyhow::Context;
use serde_json::{Map, Value};

/// An earlier run, as `--json` wrote it.
#[derive(Clone, Debug)]
pub struct Baseline {
    figures: Map<String, Value>,
    /// How much worse a figure may be, as a share.
    tolerance: f64,
}

/// A figure of both runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The figure's name.
    pub name: &'static str,
    /// Its value in the earlier run.
    pub before: f64,
    /// Its value now.
    pub now: f64,
    /// It became worse by more than the tolerance.
    pub is_regression: bool,
}

/// Which values of a figure are better.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Better {
    Lower,
    Higher,
}

/// What is compared, in this order, as far as both runs have measured it.
const COMPARED: [(&str, Better); 11] = [
    ("connects_per_second", Better::Higher),
    ("connect_p99_us", Better::Lower),
    ("first_event_p99_us", Better::Lower),
    ("delivered_per_second", Better::Higher),
    ("latency_p50_us", Better::Lower),
    ("latency_p99_us", Better::Lower),
    ("last_subscriber_p99_us", Better::Lower),
    ("catch_up_p99_us", Better::Lower),
    ("server_cpu_us_per_event", Better::Lower),
    ("server_user_bytes_per_connection", Better::Lower),
    ("kernel_bytes_per_connection", Better::Lower),
];
/// What has to be the same in both ([`Plan::kind`](super::plan::Plan::kind)), for the comparison to mean something.
const SAME: [&str; 2] = ["scenario", "clients"];

impl Baseline {
    /// Reads the file that `--json` has written.
    pub fn read(path: &Path, tolerance: f64) -> anyhow::Result<Baseline> {
        let text = fs::read_to_string(path).with_context(|| format!("--baseline {}", path.display()))?;
        let is_report = |figures: &Map<String, Value>| SAME.iter().all(|name| figures.contains_key(*name));
        let figures = serde_json::from_str(&text).ok().filter(is_report);
        let figures = figures.with_context(|| format!("--baseline {}: not what --json writes", path.display()))?;
        Ok(Baseline { figures, tolerance })
    }

    /// Why these figures can't be compared with the earlier ones, if they can't.
    pub fn mismatch(&self, figures: &Map<String, Value>) -> Option<String> {
        let differs = |name: &&str| self.figures.get(*name) != figures.get(*name);
        SAME.into_iter().find(differs).map(|name| {
            let shown = |figures: &Map<String, Value>| figures.get(name).map_or("none".to_owned(), Value::to_string);
            format!("the baseline's {name} is {}, this run's is {}", shown(&self.figures), shown(figures))
        })
    }

    /// Compares what both have measured.
    pub fn compare(&self, figures: &Map<String, Value>) -> Vec<Change> {
        let change = |(name, better): (&'static str, Better)| {
            let value = |figures: &Map<String, Value>| figures.get(name)?.as_f64().filter(|value| *value > 0.0);
            let (before, now) = (value(&self.figures)?, value(figures)?);
            let is_regression = match better {
                Better::Lower => now > before * (1.0 + self.tolerance),
                Better::Higher => now < before / (1.0 + self.tolerance),
            };
            Some(Change { name, before, now, is_regression })
        };
        COMPARED.into_iter().filter_map(change).collect()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Change { name, before, now, is_regression } = self;
        let percent = (now / before - 1.0) * 100.0;
        write!(f, "{name} {before} before, {now} now ({percent:+.1} %)")?;
        if *is_regression { f.write_str(", a regression") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn baseline(figures: &Value) -> Baseline {
        Baseline { figures: figures.as_object().unwrap().clone(), tolerance: 0.2 }
    }

    #[test]
    fn only_what_became_worse_by_more_than_the_tolerance_is_a_regression() {
        let before = baseline(&json!({
            "latency_p99_us": 1000, "latency_p50_us": 1000, "delivered_per_second": 600.0, "connects_per_second": 600.0,
            "connect_p99_us": 0, "first_event_p99_us": 5, "kernel_bytes_per_connection": null,
        }));
        let now = json!({
            "latency_p99_us": 1201, "latency_p50_us": 1200, "delivered_per_second": 499.0, "connects_per_second": 500.0,
            "connect_p99_us": 10, "kernel_bytes_per_connection": 7000.0, "errors": 10,
        });
        let changes = before.compare(now.as_object().unwrap());
        let found: Vec<_> = changes.iter().map(|change| (change.name, change.is_regression)).collect();
        assert_eq!(
            found,
            [
                ("connects_per_second", false),
                ("delivered_per_second", true),
                ("latency_p50_us", false),
                ("latency_p99_us", true)
            ]
        );
        assert_eq!(changes[3].to_string(), "latency_p99_us 1000 before, 1201 now (+20.1 %), a regression");
    }

    #[test]
    fn runs_of_different_kinds_are_not_compared() {
        let before = baseline(&json!({ "scenario": "multi", "clients": 10 }));
        let mismatch = |figures: Value| before.mismatch(figures.as_object().unwrap());
        assert_eq!(mismatch(json!({ "scenario": "multi", "clients": 10, "threads": 2 })), None);
        let expected = "the baseline's clients is 10, this run's is 20";
        assert_eq!(mismatch(json!({ "scenario": "multi", "clients": 20 })).as_deref(), Some(expected));
    }
}
