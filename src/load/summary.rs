//! The summary: a test's report as lines for a terminal.

use serde_json::Value;

use super::conductor::Interruption;
use super::report::{MEANINGFUL_CONNECTIONS_MIN, Missed, Report, TOO_FEW_CONNECTIONS};
use super::tally::FINDINGS_MAX;

/// The lines to print; with `is_coloured`, missed thresholds are highlighted.
pub fn summary(report: &Report, is_coloured: bool) -> Vec<String> {
    let count = |name: &str| thousands(report.figure(name).unwrap_or(0.0));
    let mut lines = vec![format!(
        "clients      {} held of {}, connect success {}%, {} reconnects, {} refused, {} errors",
        count("held_clients"),
        count("clients"),
        report.figure("connect_success_percent").unwrap_or(0.0),
        count("reconnects"),
        count("refused_clients"),
        count("errors"),
    )];
    if report.figure("slow_clients") > Some(0.0) || report.figure("blackholed_clients") > Some(0.0) {
        lines.push(format!(
            "set apart    {} slow ({} of them closed by the server), {} silent",
            count("slow_clients"),
            count("slow_disconnects"),
            count("blackholed_clients"),
        ));
    }
    lines.extend(message_lines(report));
    lines.extend([
        format!(
            "announced    {} gaps ({} needless), {} lost in them, {} repeated, {} missed while away",
            count("gap_events"),
            count("needless_gap_events"),
            count("announced_lost_events"),
            count("repeated_events"),
            count("missed_while_away_events"),
        ),
        format!(
            "liveness     {} heartbeats, {} missed, {} disconnects, {} deferred, {} bytes received",
            count("heartbeats"),
            count("missed_heartbeats"),
            count("disconnects"),
            count("deferred_connections"),
            count("received_bytes"),
        ),
    ]);
    lines.extend(latency_lines(report));
    lines.extend(memory_lines(report));
    lines.extend(fault_lines(report, is_coloured));
    lines
}

fn latency_lines(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, latencies) in report.distributions.iter().filter(|(_, latencies)| latencies.count() > 0) {
        let cells: String = [50.0, 95.0, 99.0, 99.9, 100.0]
            .iter()
            .map(|percentile| format!(" {:>9}", time(latencies.percentile(*percentile).unwrap_or(0))))
            .collect();
        lines.push(format!("{:16}{cells}", name.replace('_', " ")));
    }
    if !lines.is_empty() {
        lines.insert(0, format!("{:16} {:>9} {:>9} {:>9} {:>9} {:>9}", "", "p50", "p95", "p99", "p99.9", "max"));
    }
    lines
}

/// Only messages that the test itself published are checked: without any, the summary claims no correctness.
fn message_lines(report: &Report) -> Vec<String> {
    let count = |name: &str| thousands(report.figure(name).unwrap_or(0.0));
    if report.figure("published_events") == Some(0.0) {
        return vec![format!("messages     none published, {} events received", count("received_events"))];
    }
    let published = format!(
        "messages     {} published, {} delivered ({} per second, {} per read)",
        count("published_events"),
        count("delivered_events"),
        count("delivered_per_second"),
        report.figure("events_per_read").unwrap_or(0.0),
    );
    let checked = format!(
        "checked      {} lost, {} duplicated, {} disordered, {} corrupted, {} unresolved",
        count("lost_events"),
        count("duplicated_events"),
        count("disordered_events"),
        count("corrupted_events"),
        count("unresolved_events"),
    );
    vec![published, checked]
}

fn memory_lines(report: &Report) -> Vec<String> {
    let bytes = |name: &str| report.figure(name).map_or("unknown".to_owned(), |bytes| thousands(bytes.round()));
    let is_meaningful = report.figure("held_clients") >= Some(f64::from(MEANINGFUL_CONNECTIONS_MIN));
    let per_connection = match is_meaningful {
        true => format!(
            "client {} bytes per connection, this host's kernel {}",
            bytes("client_bytes_per_connection"),
            bytes("kernel_bytes_per_connection"),
        ),
        false => TOO_FEW_CONNECTIONS.to_owned(),
    };
    let mut lines = vec![format!("memory       {per_connection}")];
    let user = format!("{} bytes per connection in user space", bytes("server_user_bytes_per_connection"));
    let cpu = report.figure("server_cpu_us_per_event").map(|us| format!("{us} µs CPU per event"));
    let of_the_server: Vec<_> = is_meaningful.then_some(user).into_iter().chain(cpu).collect();
    if report.figure("server_resident_before_bytes").is_some() && !of_the_server.is_empty() {
        lines.push(format!("server       {}", of_the_server.join(", ")));
    }
    lines.extend(server_lines(report));
    lines
}

/// A line for each process of the server, if there are several.
fn server_lines(report: &Report) -> Vec<String> {
    let servers = report.figures.get("servers").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if servers.len() < 2 {
        return Vec::new();
    }
    let line = |server: &Value| {
        let number = |name: &str| server[name].as_f64().unwrap_or(0.0);
        format!(
            "  {:<10} {}: {} MiB resident, {} of CPU to connect, {} to deliver",
            number("pid"),
            server["name"].as_str().unwrap_or_default(),
            thousands((number("resident_published_bytes") / f64::from(1 << 20)).round()),
            time(number("connecting_cpu_us") as u64),
            time(number("publishing_cpu_us") as u64),
        )
    };
    servers.iter().map(line).collect()
}

fn fault_lines(report: &Report, is_coloured: bool) -> Vec<String> {
    const SHOWN_MAX: usize = 10;
    let mut lines = Vec::new();
    for (key, value) in report.figures.iter().filter(|(key, _)| key.starts_with("error_")) {
        lines.push(format!("error        {} {value}", key.trim_start_matches("error_")));
    }
    let positive = |name: &str| report.figure(name).filter(|count| *count > 0.0).map(thousands);
    if let Some(failures) = positive("publish_failures") {
        let error = report.figures.get("publish_last_error").and_then(serde_json::Value::as_str).unwrap_or_default();
        lines.push(format!("publishing   {failures} failed: {error}"));
    }
    if let Some(unheard) = positive("unheard_events") {
        lines.push(format!("publishing   {unheard} had no subscriber in Redis"));
    }
    let findings = report.figures.get("findings").and_then(serde_json::Value::as_array).map_or(&[][..], Vec::as_slice);
    for finding in findings.iter().take(SHOWN_MAX).filter_map(serde_json::Value::as_str) {
        lines.push(format!("found        {finding}"));
    }
    if findings.len() > SHOWN_MAX {
        let at_least = if findings.len() == FINDINGS_MAX { "at least " } else { "" };
        lines.push(format!("found        … and {at_least}{} more like these", findings.len() - SHOWN_MAX));
    }
    if let Some(Interruption { after_us, stage }) = report.interruption {
        lines.push(format!("interrupted  after {}, while {stage}", time(after_us)));
    }
    lines.extend(
        report.changes.iter().filter(|change| !change.is_regression).map(|change| format!("baseline     {change}")),
    );
    lines.extend(missed_lines(report, is_coloured));
    if report.has_passed() {
        let (green, plain) = if is_coloured { ("\x1b[32m", "\x1b[0m") } else { ("", "") };
        lines.push(format!("{green}passed       every threshold{plain}"));
    }
    lines
}

/// A line for each threshold that was missed, and for each figure that is worse than in the baseline.
pub fn missed_lines(report: &Report, is_coloured: bool) -> Vec<String> {
    let (red, plain) = if is_coloured { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
    let line = |Missed { threshold, value }: &Missed| match value {
        Ok(value) => format!("{red}missed       {threshold} (it was {value}){plain}"),
        Err(reason) => format!("{red}missed       {threshold} (not measured: {reason}){plain}"),
    };
    let regressions = report.changes.iter().filter(|change| change.is_regression);
    let regressions = regressions.map(|change| format!("{red}baseline     {change}{plain}"));
    report.missed.iter().map(line).chain(regressions).collect()
}

/// A number with separated thousands.
pub fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

/// A time in a suitable unit.
pub fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_readable() {
        assert_eq!(thousands(0.0), "0");
        assert_eq!(thousands(999.0), "999");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
        assert_eq!(thousands(-1_234.0), "-1,234");
        assert_eq!(time(999), "999 µs");
        assert_eq!(time(1_500), "1.5 ms");
        assert_eq!(time(2_250_000), "2.25 s");
    }
}
