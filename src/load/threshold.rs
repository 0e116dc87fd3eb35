//! Thresholds: conditions under which a test has failed, as `--fail-if` takes them.
//!
//! ```text
//! p95_first_event>3s     connect_success<95%     errors>=500     lost_events>0     latency_p99_us>250000
//! ```
//!
//! A name is a percentile of a distribution (`p50_latency` … `p99.9_latency`, `max_latency`, `mean_latency`), or any
//! key of the JSON report. This module handles no measured values, only the names in [`measures`].

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::measures;

/// One condition that makes the test fail.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// The measure to check.
    pub measure: Measure,
    /// The comparison.
    pub comparison: Comparison,
    /// The limit: microseconds, percent, or a plain number.
    pub limit: f64,
    text: String,
}

/// The measure of a threshold.
#[derive(Clone, Debug, PartialEq)]
pub enum Measure {
    /// A percentile (100 is the maximum) of a distribution of latencies.
    Percentile {
        /// Which distribution, such as `first_event`.
        distribution: String,
        /// From 0 to 100.
        percentile: f64,
    },
    /// The value under a key of the report.
    Value(String),
}

/// How a value is compared with its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `==`
    Equal,
    /// `!=`
    Unequal,
}

/// Why a threshold could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ThresholdError {
    /// No comparison in it.
    #[error("{0:?} has no comparison; write NAME OP VALUE, such as 'p95_first_event>3s'")]
    Comparison(String),
    /// The name is not a measure.
    #[error("{name:?} is not a measure; the measures are {}", measures::all_names(), name = .0)]
    Name(String),
    /// The value is invalid.
    #[error("{0:?} is not a value; write a number, a percentage such as 95%, or a time such as 250ms or 3s")]
    Value(String),
}

/// Thresholds that apply unless the same measure is given another limit: those of a widely used k6 script for SSE, plus
/// the condition that no message of the test itself was missing or wrong.
pub const DEFAULT_THRESHOLDS: [&str; 11] = [
    "connect_success<=95%",
    "errors>=500",
    "p95_response>=5s",
    "p95_first_event>=3s",
    "lost_events>0",
    "duplicated_events>0",
    "disordered_events>0",
    "corrupted_events>0",
    "unresolved_events>0",
    "publish_failures>0",
    "unheard_events>0",
];

/// The defaults for measures without a given threshold.
pub fn defaults_beside(given: &[Threshold]) -> Vec<Threshold> {
    let defaults = DEFAULT_THRESHOLDS.iter().filter_map(|text| text.parse::<Threshold>().ok());
    defaults.filter(|default| given.iter().all(|t| t.measure != default.measure)).collect()
}

impl Threshold {
    /// True if `value` makes the test fail.
    pub fn is_missed_by(&self, value: f64) -> bool {
        match self.comparison {
            Comparison::Below => value < self.limit,
            Comparison::AtMost => value <= self.limit,
            Comparison::Above => value > self.limit,
            Comparison::AtLeast => value >= self.limit,
            #[allow(clippy::float_cmp, reason = "counts are whole numbers, exact in a float")]
            Comparison::Equal => value == self.limit,
            #[allow(clippy::float_cmp, reason = "counts are whole numbers, exact in a float")]
            Comparison::Unequal => value != self.limit,
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Threshold {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Threshold, ThresholdError> {
        let (name, comparison, value) = split(text).ok_or_else(|| ThresholdError::Comparison(text.to_owned()))?;
        let measure = parse_measure(name).ok_or_else(|| ThresholdError::Name(name.to_owned()))?;
        let limit = parse_value(value).ok_or_else(|| ThresholdError::Value(value.to_owned()))?;
        Ok(Threshold { measure, comparison, limit, text: text.to_owned() })
    }
}

fn split(text: &str) -> Option<(&str, Comparison, &str)> {
    // The two-character ones first, or `<=` would be read as `<`.
    const COMPARISONS: [(&str, Comparison); 6] = [
        ("<=", Comparison::AtMost),
        (">=", Comparison::AtLeast),
        ("==", Comparison::Equal),
        ("!=", Comparison::Unequal),
        ("<", Comparison::Below),
        (">", Comparison::Above),
    ];
    let (sign, comparison) = COMPARISONS.into_iter().find(|(sign, _)| text.contains(sign))?;
    let (name, value) = text.split_once(sign)?;
    Some((name.trim(), comparison, value.trim()))
}

fn parse_measure(name: &str) -> Option<Measure> {
    let percentile_of = |percentile: f64, distribution: &str| {
        let is_known = measures::DISTRIBUTIONS.contains(&distribution);
        is_known.then(|| Measure::Percentile { distribution: distribution.to_owned(), percentile })
    };
    let value_of = |key: String| measures::is_figure(&key).then_some(Measure::Value(key));
    match name.split_once('_') {
        Some(("max", distribution)) => percentile_of(100.0, distribution),
        Some(("mean", distribution)) => value_of(format!("{distribution}_mean_us")),
        Some((prefix, distribution))
            if prefix.starts_with('p') && prefix[1..].starts_with(|c: char| c.is_ascii_digit()) =>
        {
            let percentile = prefix[1..].parse().ok().filter(|percentile| (0.0..=100.0).contains(percentile))?;
            percentile_of(percentile, distribution)
        }
        _ if name == "connect_success" => value_of("connect_success_percent".to_owned()),
        _ => value_of(name.to_owned()),
    }
}

fn parse_value(text: &str) -> Option<f64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let scale = match unit.trim() {
        "" | "%" | "us" | "µs" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" | "min" => 60e6,
        "k" | "K" | "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &Result<(Measure, Comparison, f64), ThresholdError>) {
        let found = text.parse::<Threshold>().map(|t| (t.measure, t.comparison, t.limit));
        assert_eq!(&found, expected, "{text}");
    }

    fn percentile(percentile: f64, distribution: &str) -> Measure {
        Measure::Percentile { distribution: distribution.to_owned(), percentile }
    }

    fn value(key: &str) -> Measure {
        Measure::Value(key.to_owned())
    }

    #[test]
    fn thresholds_are_parsed_in_every_notation() {
        check("p95_first_event>3s", &Ok((percentile(95.0, "first_event"), Comparison::Above, 3e6)));
        check("p99.9_latency >= 250ms", &Ok((percentile(99.9, "latency"), Comparison::AtLeast, 250e3)));
        check("max_last_subscriber>1.5s", &Ok((percentile(100.0, "last_subscriber"), Comparison::Above, 1.5e6)));
        check("mean_latency>800us", &Ok((value("latency_mean_us"), Comparison::Above, 800.0)));
        check("connect_success<95%", &Ok((value("connect_success_percent"), Comparison::Below, 95.0)));
        check("error_connect_refused>0", &Ok((value("error_connect_refused"), Comparison::Above, 0.0)));
        check("answers_503==0", &Ok((value("answers_503"), Comparison::Equal, 0.0)));
        check("errors>=500", &Ok((value("errors"), Comparison::AtLeast, 500.0)));
        check("published_events!=100", &Ok((value("published_events"), Comparison::Unequal, 100.0)));
        check("latency_p99_us>250000", &Ok((value("latency_p99_us"), Comparison::Above, 250_000.0)));
        let bytes = "server_user_bytes_per_connection";
        check(&format!("{bytes}>1KiB"), &Ok((value(bytes), Comparison::Above, 1024.0)));
    }

    #[test]
    fn an_invalid_threshold_is_explained() {
        check("errors", &Err(ThresholdError::Comparison("errors".to_owned())));
        check(">5", &Err(ThresholdError::Name(String::new())));
        check("p101_latency>5", &Err(ThresholdError::Name("p101_latency".to_owned())));
        check("p99_latncy>1ms", &Err(ThresholdError::Name("p99_latncy".to_owned())));
        check("max_errors>5", &Err(ThresholdError::Name("max_errors".to_owned())));
        check("mean_errors>5", &Err(ThresholdError::Name("mean_errors".to_owned())));
        check("lost_event>0", &Err(ThresholdError::Name("lost_event".to_owned())));
        check("url==5", &Err(ThresholdError::Name("url".to_owned())));
        check("errors>many", &Err(ThresholdError::Value("many".to_owned())));
        check("errors>5 parsecs", &Err(ThresholdError::Value("5 parsecs".to_owned())));
    }

    #[test]
    fn comparisons_at_the_limit() {
        let check = |text: &str, value: f64, missed: bool| {
            assert_eq!(text.parse::<Threshold>().unwrap().is_missed_by(value), missed, "{value} {text}");
        };
        for (text, below, at, above) in [
            ("errors<2", true, false, false),
            ("errors<=2", true, true, false),
            ("errors>2", false, false, true),
            ("errors>=2", false, true, true),
            ("errors==2", false, true, false),
            ("errors!=2", true, false, true),
        ] {
            check(text, 1.0, below);
            check(text, 2.0, at);
            check(text, 3.0, above);
        }
    }

    #[test]
    fn a_given_limit_replaces_the_default_one() {
        let given: Threshold = "errors>0".parse().unwrap();
        assert_eq!(defaults_beside(&[]).len(), DEFAULT_THRESHOLDS.len());
        let defaults = defaults_beside(std::slice::from_ref(&given));
        assert_eq!(defaults.len(), DEFAULT_THRESHOLDS.len() - 1);
        assert!(defaults.iter().all(|default| default.measure != given.measure));
    }
}
