//! The page: a test's report as one self-contained HTML file with its plots inside. No script, nothing fetched.

use std::fmt::Write;

use serde_json::Value;

use super::histogram::Latencies;
use super::plot::{NARROW, Plot, WIDE, escaped};
use super::report::Report;
use super::summary::{missed_lines, summary, thousands, time};
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
         <p>{title}</p>\n",
        title = escaped(&title),
    );
    for line in missed_lines(report, false) {
        let _ = writeln!(html, "<p class=\"missed\">{}</p>", escaped(&line));
    }
    html.push_str("<dl>\n");
    for (name, value, note) in headline(report) {
        let _ = writeln!(html, "<div><dt>{name}<dd>{}<dd class=\"note\">{}</div>", escaped(&value), escaped(&note));
    }
    html.push_str("</dl>\n");
    for plot in [connections(points), throughput(points), latency_over_time(points), percentiles(report)] {
        let _ = writeln!(html, "<figure>\n{}{}</figure>", plot.to_svg(WIDE), plot.to_svg(NARROW));
    }
    let run = format!("{}, fanfare {}, {}, {}", text("date"), text("version"), text("machine"), text("kernel"));
    let _ =
        writeln!(html, "<h2>The run</h2>\n<p>{}</p>\n<p><code>{}</code></p>", escaped(&run), escaped(text("command")));
    let _ = writeln!(html, "<h2>Summary</h2>\n<pre>{}</pre>", escaped(&summary(report, false).join("\n")));
    push_servers(&mut html, report);
    html.push_str("<details><summary>Every figure</summary>\n<table class=\"figures\">\n");
    for (name, value) in report.figures.iter().filter(|(name, _)| *name != "servers") {
        let value = match value {
            Value::Number(number) => number.as_f64().filter(|n| n.fract() == 0.0).map(thousands),
            Value::String(text) => Some(text.clone()),
            Value::Null => Some("not measured".to_owned()),
            _ => None,
        }
        .unwrap_or_else(|| value.to_string());
        let _ = writeln!(html, "<tr><th>{}<td>{}", escaped(name), escaped(&value));
    }
    html.push_str("</table>\n</details>\n</main>\n</html>\n");
    html
}

/// A table with a row for each process of the server.
fn push_servers(html: &mut String, report: &Report) {
    let Some(servers) = report.figures.get("servers").and_then(Value::as_array) else { return };
    html.push_str("<h2>Servers</h2>\n<table>\n<tr><th>process<th>MiB, connected<th>MiB, at the end");
    html.push_str("<th>CPU to connect<th>CPU to deliver\n");
    for server in servers {
        let number = |name: &str| server[name].as_f64().unwrap_or(0.0);
        let mebibytes = |name: &str| format!("{:.1}", number(name) / f64::from(1 << 20));
        let _ = writeln!(
            html,
            "<tr><th>{} {}<td>{}<td>{}<td>{}<td>{}",
            escaped(server["name"].as_str().unwrap_or_default()),
            number("pid"),
            mebibytes("resident_connected_bytes"),
            mebibytes("resident_published_bytes"),
            time(number("connecting_cpu_us") as u64),
            time(number("publishing_cpu_us") as u64),
        );
    }
    html.push_str("</table>\n");
}

/// What a reader wants to know first: name, value, and what belongs to it.
fn headline(report: &Report) -> Vec<(&'static str, String, String)> {
    let count = |name: &str| thousands(report.figure(name).unwrap_or(0.0));
    let us = |name: &str| report.figure(name).map_or("not measured".to_owned(), |us| time(us as u64));
    let clients =
        format!("of {}, connected in {} s", count("clients"), report.figure("connecting_seconds").unwrap_or(0.0));
    let mut headline = vec![("Clients held", count("held_clients"), clients)];
    if report.figure("published_events") > Some(0.0) {
        let faults = ["lost", "duplicated", "disordered", "corrupted", "unresolved"];
        let wrong: f64 = faults.iter().filter_map(|fault| report.figure(&format!("{fault}_events"))).sum();
        let note = faults.map(|fault| format!("{} {fault}", count(&format!("{fault}_events")))).join(", ");
        headline.push((
            "Delivered",
            format!("{}/s", count("delivered_per_second")),
            format!("{} in all", count("delivered_events")),
        ));
        headline.push(("Lost or wrong", thousands(wrong), note));
        let note = format!("p50 {}, max {}", us("latency_p50_us"), us("latency_max_us"));
        headline.push(("Delivery latency p99", us("latency_p99_us"), note));
        let note = format!("p50 {}, max {}", us("last_subscriber_p50_us"), us("last_subscriber_max_us"));
        headline.push(("Last subscriber p99", us("last_subscriber_p99_us"), note));
    } else {
        headline.push(("Received", count("received_events"), "events; this test published none".to_owned()));
    }
    headline.push(("Errors", count("errors"), format!("{} disconnects", count("disconnects"))));
    if let Some(cpu) = report.figure("server_cpu_us_per_event") {
        let memory = report.figure("server_user_bytes_per_connection");
        let note = memory.map_or(String::new(), |bytes| format!("{} bytes of memory per connection", thousands(bytes)));
        headline.push(("Server CPU per event", format!("{cpu} µs"), note));
    }
    headline
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2330; --dim: #5c6675; --line: #dfe3ea; --paper: #fcfcfd; --card: #fff;
  --a: #2563c9; --b: #c2410c; --c: #0f8a5f; --bad: #c02626; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --dim: #98a2b3; --line: #2b3240; --paper: #12151b; --card: #181c24;
  --a: #6ea8ff; --b: #ff9a62; --c: #4fd1a1; --bad: #ff7b7b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 780px; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; } p { overflow-wrap: anywhere; }
h1 span { font-size: 1rem; vertical-align: middle; padding: .1em .6em; border-radius: 1em; color: var(--paper); }
.passed { background: var(--c); } .failed { background: var(--bad); } .interrupted { background: var(--b); }
.missed { margin: .3rem 0; color: var(--bad); font-weight: 600; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 14rem), 1fr)); gap: .6rem; margin: 1.2rem 0; }
dl div { padding: .7rem .9rem; border: 1px solid var(--line); border-radius: 8px; background: var(--card); }
dt { color: var(--dim); font-size: 13px; } dd { margin: 0; font-size: 1.5rem; font-weight: 600; line-height: 1.3; }
dd.note { font-size: 12.5px; font-weight: 400; color: var(--dim); }
pre { overflow-x: auto; padding: 1rem; border: 1px solid var(--line); border-radius: 6px; font-size: 12.5px; }
figure { margin: 1.5rem 0; } svg { width: 100%; height: auto; } svg.narrow { display: none; }
svg text { fill: var(--dim); font: 12px system-ui, sans-serif; } svg .title { fill: var(--ink); font-weight: 600; }
.height { text-anchor: end; } .mark { text-anchor: middle; }
.grid { stroke: var(--line); } .series { fill: none; stroke-width: 2; stroke-linejoin: round; }
.series0 { stroke: var(--a); } .series1 { stroke: var(--b); } .series2 { stroke: var(--c); }
table { border-collapse: collapse; font-size: 13px; } th { text-align: left; font-weight: 400; color: var(--dim); }
th, td { padding: .15rem 1rem .15rem 0; border-bottom: 1px solid var(--line); } td { text-align: right; }
.figures { width: 100%; table-layout: fixed; } .figures th { width: 60%; } .figures :is(th, td) { overflow-wrap: anywhere; }
summary { margin: 2rem 0 .5rem; font-size: 1.1rem; font-weight: 700; cursor: pointer; }
@media (max-width: 560px) { svg.narrow { display: block; } svg.wide { display: none; } main { margin-top: 1rem; }
  dl { grid-template-columns: 1fr 1fr; } dl div { padding: .5rem .6rem; } dd { font-size: 1.15rem; } }
";

fn connections(points: &[Point]) -> Plot<'static> {
    let open = points.iter().map(|point| (point.seconds(), f64::from(point.open))).collect();
    let errors = points.iter().map(|point| (point.seconds(), point.errors as f64)).collect();
    Plot {
        title: "Connections",
        label: thousands,
        marks: Vec::new(),
        is_logarithmic: false,
        series: vec![("open", open), ("errors", errors)],
    }
}

/// The delivery rate, and the rate if every message reached every open stream at once.
fn throughput(points: &[Point]) -> Plot<'static> {
    let series = |rate: fn(&Point, &Point) -> f64| {
        // Of the second before each point.
        points.windows(3).map(|three| (three[2].seconds(), rate(&three[0], &three[2]))).collect()
    };
    Plot {
        title: "Messages per second",
        label: thousands,
        marks: Vec::new(),
        is_logarithmic: false,
        series: vec![
            ("delivered", series(|from, to| from.rate_to(to, |point| point.delivered))),
            ("published × open", series(|from, to| from.rate_to(to, |point| point.published) * f64::from(to.open))),
        ],
    }
}

fn latency_over_time(points: &[Point]) -> Plot<'static> {
    let series = |index: usize| {
        let at = |point: &Point| point.latency_us.map(|us| (point.seconds(), us[index] as f64));
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
