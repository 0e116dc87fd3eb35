//! The page: a test's report as one self-contained HTML file with its plots inside. No script, nothing fetched.

use std::fmt::Write;

use serde_json::Value;

use super::histogram::Latencies;
use super::plot::{Plot, escaped};
use super::report::Report;
use super::summary::{summary, thousands, time};
use super::timeline::Point;

/// The whole page.
pub fn page(report: &Report, points: &[Point]) -> String {
    let text = |name: &str| report.figures.get(name).and_then(Value::as_str).unwrap_or_default();
    let verdict = match report.interruption {
        Some(_) => "interrupted",
        None if report.has_passed() => "passed",
        None => "failed",
    };
    let title = format!("{} on {}", text("scenario"), text("url"));
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>fanfare load: {title}</title>\n\
         <style>{STYLE}</style>\n<main>\n<h1>fanfare load <span class=\"{verdict}\">{verdict}</span></h1>\n\
         <p>{title}</p>\n<p class=\"run\">{run}<br><code>{command}</code></p>\n<pre>{}</pre>\n",
        escaped(&summary(report, false).join("\n")),
        title = escaped(&title),
        run =
            escaped(&format!("{}, fanfare {}, {}, {}", text("date"), text("version"), text("machine"), text("kernel"))),
        command = escaped(text("command")),
    );
    for plot in [connections(points), throughput(points), latency_over_time(points), percentiles(report)] {
        let _ = writeln!(html, "<figure>\n{}</figure>", plot.to_svg());
    }
    html.push_str("<h2>Every figure</h2>\n<table>\n");
    for (name, value) in &report.figures {
        let value = match value {
            Value::Number(number) => number.as_f64().filter(|n| n.fract() == 0.0).map(thousands),
            Value::String(text) => Some(text.clone()),
            Value::Null => Some("not measured".to_owned()),
            _ => None,
        }
        .unwrap_or_else(|| value.to_string());
        let _ = writeln!(html, "<tr><th>{}<td>{}", escaped(name), escaped(&value));
    }
    html.push_str("</table>\n</main>\n</html>\n");
    html
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2330; --dim: #5c6675; --line: #dfe3ea; --paper: #fcfcfd;
  --a: #2563c9; --b: #c2410c; --c: #0f8a5f; --bad: #c02626; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --dim: #98a2b3; --line: #2b3240; --paper: #12151b;
  --a: #6ea8ff; --b: #ff9a62; --c: #4fd1a1; --bad: #ff7b7b; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 780px; margin: 2rem auto; padding: 0 1rem; }
h1 span { font-size: 1rem; vertical-align: middle; padding: .1em .6em; border-radius: 1em; color: var(--paper); }
.passed { background: var(--c); } .failed { background: var(--bad); } .interrupted { background: var(--b); }
.run { color: var(--dim); font-size: 13px; overflow-wrap: anywhere; }
pre { overflow-x: auto; padding: 1rem; border: 1px solid var(--line); border-radius: 6px; font-size: 12.5px; }
figure { margin: 1.5rem 0; } svg { width: 100%; height: auto; }
svg text { fill: var(--dim); font: 12px system-ui, sans-serif; } svg .title { fill: var(--ink); font-weight: 600; }
.height { text-anchor: end; } .mark { text-anchor: middle; }
.grid { stroke: var(--line); } .series { fill: none; stroke-width: 2; stroke-linejoin: round; }
.series0 { stroke: var(--a); } .series1 { stroke: var(--b); } .series2 { stroke: var(--c); }
table { border-collapse: collapse; font-size: 13px; } th { text-align: left; font-weight: 400; color: var(--dim); }
th, td { padding: .15rem 1rem .15rem 0; border-bottom: 1px solid var(--line); } td { text-align: right; }
";

fn connections(points: &[Point]) -> Plot<'static> {
    let open = points.iter().map(|point| (f64::from(point.second), f64::from(point.open))).collect();
    let errors = points.iter().map(|point| (f64::from(point.second), point.errors as f64)).collect();
    Plot {
        title: "Connections",
        label: thousands,
        marks: Vec::new(),
        is_logarithmic: false,
        series: vec![("open", open), ("errors", errors)],
    }
}

/// The delivery rate, and the rate if every message reached every open stream within its second.
fn throughput(points: &[Point]) -> Plot<'static> {
    let per_second = |count: fn(&Point, &Point) -> u64| {
        let rate = |pair: &[Point]| {
            let seconds = f64::from(pair[1].second - pair[0].second).max(1.0);
            (f64::from(pair[1].second), count(&pair[0], &pair[1]) as f64 / seconds)
        };
        points.windows(2).map(rate).collect()
    };
    Plot {
        title: "Messages per second",
        label: thousands,
        marks: Vec::new(),
        is_logarithmic: false,
        series: vec![
            ("delivered", per_second(|from, to| to.delivered - from.delivered)),
            ("published × open", per_second(|from, to| (to.published - from.published) * u64::from(to.open))),
        ],
    }
}

fn latency_over_time(points: &[Point]) -> Plot<'static> {
    let series = |index: usize| {
        let at = |point: &Point| point.latency_us.map(|us| (f64::from(point.second), us[index] as f64));
        points.iter().filter_map(at).collect()
    };
    Plot {
        title: "Delivery latency over time",
        label: time_label,
        marks: Vec::new(),
        is_logarithmic: true,
        series: vec![("median", series(0)), ("p99", series(1)), ("max", series(2))],
    }
}

/// Latency against percentile, drawn so that each further nine takes the same room.
fn percentiles(report: &Report) -> Plot<'static> {
    let nines = |percentile: f64| -(1.0 - percentile / 100.0).log10();
    let curve = |latencies: &Latencies| {
        let finest = (latencies.count().max(2) as f64).log10();
        let quantiles = (0..=80).map(|step| f64::from(step) / 20.0).take_while(|nines| *nines <= finest);
        let at = |nines: f64| {
            let us = latencies.percentile(100.0 * (1.0 - 10f64.powf(-nines)))?;
            Some((nines, us as f64))
        };
        quantiles.filter_map(at).collect()
    };
    let series = [("latency", "one subscriber"), ("last_subscriber", "the last"), ("catch_up", "catching up")]
        .into_iter()
        .filter_map(|(name, title)| {
            let (_, latencies) = report.distributions.iter().find(|(distribution, _)| *distribution == name)?;
            (latencies.count() > 0).then(|| (title, curve(latencies)))
        });
    let marks = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)];
    Plot {
        title: "Latency by percentile",
        label: time_label,
        marks: marks.into_iter().map(|(label, percentile)| (nines(percentile), label.to_owned())).collect(),
        is_logarithmic: true,
        series: series.collect(),
    }
}

fn time_label(us: f64) -> String {
    time(us as u64)
}
