//! The report: every figure of a test under a stable, flat name that ends in its unit. JSON, thresholds, the summary
//! and the page are made from it.

use serde_json::{Map, Value, json};

use super::baseline::{Baseline, Change};
use super::circumstances::Circumstances;
use super::conductor::{Interruption, Outcome};
use super::histogram::Latencies;
use super::measures::{self, PERCENTILES};
use super::plan::Plan;
use super::target::Target;
use super::threshold::{Measure, Threshold};
use super::watch::ProcessUse;

/// With fewer connections, their cost can't be separated from the fixed cost of a process.
pub const MEANINGFUL_CONNECTIONS_MIN: u32 = 1000;
/// The reason for a missing figure in that case.
pub const TOO_FEW_CONNECTIONS: &str = "too few connections to measure this (at least 1,000)";

/// All figures of a test.
pub struct Report {
    /// The figures, in order.
    pub figures: Map<String, Value>,
    /// The distributions, by the name that thresholds use.
    pub distributions: Vec<(&'static str, Latencies)>,
    /// The thresholds that failed the test.
    pub missed: Vec<Missed>,
    /// What changed since an earlier run, if there is one to compare with.
    pub changes: Vec<Change>,
    /// If the user ended the test early: when.
    pub interruption: Option<Interruption>,
}

/// A threshold that fails the test.
pub struct Missed {
    /// The threshold.
    pub threshold: Threshold,
    /// The value that missed it, or why there is no value: a threshold that the user set does not pass without one.
    pub value: Result<f64, &'static str>,
}

impl Report {
    /// Computes the figures.
    pub fn new(plan: &Plan, outcome: &Outcome, circumstances: &Circumstances) -> Report {
        let tally = &outcome.tally;
        let mut distributions = vec![
            ("connect", tally.connect.clone()),
            ("response", tally.response.clone()),
            ("first_event", tally.first_event.clone()),
            ("latency", tally.latency.clone()),
            ("last_subscriber", tally.last_subscriber()),
            ("catch_up", tally.catch_up.clone()),
        ];
        if let Some(published) = &outcome.published {
            distributions.push(("publish", published.publish.clone()));
            distributions.push(("publish_lag", published.lag.clone()));
        }
        let mut figures = Figures(Map::new());
        circumstances.named().into_iter().for_each(|(name, text)| figures.set(name, text));
        figures.of_the_test(plan, outcome);
        figures.of_the_messages(outcome);
        for (name, latencies) in &distributions {
            figures.of_a_distribution(name, latencies);
        }
        figures.of_memory_and_cpu(plan, outcome);
        for (kind, count) in &tally.errors {
            figures.set(&format!("error_{kind}"), *count);
        }
        for (status, count) in &tally.statuses {
            figures.set(&format!("answers_{status}"), *count);
        }
        figures.0.insert("findings".to_owned(), json!(findings(plan, outcome)));
        let mut report = Report {
            figures: figures.0,
            distributions,
            missed: Vec::new(),
            changes: Vec::new(),
            interruption: outcome.interruption,
        };
        report.judge(plan, outcome);
        report
    }

    /// Compares the figures with those of an earlier run.
    pub fn compare(&mut self, baseline: &Baseline) {
        self.changes = baseline.compare(&self.figures);
        let regressions = self.changes.iter().filter(|change| change.is_regression).map(|change| change.name);
        self.figures.insert("regressions".to_owned(), regressions.collect());
        self.figures.insert("passed".to_owned(), json!(self.has_passed()));
    }

    /// True when no threshold was missed, and nothing is worse than in the baseline.
    pub fn has_passed(&self) -> bool {
        self.missed.is_empty() && self.changes.iter().all(|change| !change.is_regression)
    }

    /// A figure as a number.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.get(name).and_then(Value::as_f64)
    }

    fn judge(&mut self, plan: &Plan, outcome: &Outcome) {
        let given = plan.thresholds.iter().map(|threshold| (threshold, true));
        let defaults = plan.default_thresholds.iter().map(|threshold| (threshold, false));
        for (threshold, is_given) in given.chain(defaults) {
            let value = match self.measured(&threshold.measure) {
                Some(value) if threshold.is_missed_by(value) => Ok(value),
                None if is_given => Err(why_unmeasured(&threshold.measure, plan, outcome)),
                _ => continue,
            };
            self.missed.push(Missed { threshold: threshold.clone(), value });
        }
        let missed: Vec<String> = self.missed.iter().map(|missed| missed.threshold.to_string()).collect();
        self.figures.insert("thresholds_missed".to_owned(), json!(missed));
        self.figures.insert("passed".to_owned(), json!(missed.is_empty()));
    }

    fn measured(&self, measure: &Measure) -> Option<f64> {
        match measure {
            Measure::Percentile { distribution, percentile } => {
                let (_, latencies) = self.distributions.iter().find(|(name, _)| name == distribution)?;
                latencies.percentile(*percentile).map(|us| us as f64)
            }
            Measure::Value(key) if measures::is_counter_by_kind(key) => Some(self.figure(key).unwrap_or(0.0)),
            Measure::Value(key) => self.figure(key),
        }
    }
}

/// The first faults as text; a single one where nothing arrived, because the server is rarely the cause.
fn findings(plan: &Plan, outcome: &Outcome) -> Vec<String> {
    let counters = &outcome.tally.counters;
    let has_received = counters.delivered_events + counters.corrupted_events > 0;
    match &plan.publish {
        Some(publish) if !has_received && counters.lost_events > 0 => {
            vec![format!("no client received any message: does {} match the stream?", publish.outlet.flag())]
        }
        _ => {
            let faults = outcome.tally.findings.iter().map(ToString::to_string);
            let is_all_corrupted = counters.delivered_events == 0 && counters.corrupted_events > 0;
            let advice = plan.publish.as_ref().filter(|_| is_all_corrupted).map(|publish| {
                format!("every event arrived in another form than it was published: {}", publish.outlet.body_advice())
            });
            advice.into_iter().chain(faults).collect()
        }
    }
}

fn why_unmeasured(measure: &Measure, plan: &Plan, outcome: &Outcome) -> &'static str {
    let is_of_the_server = matches!(measure, Measure::Value(key) if key.starts_with("server_"));
    let is_per_connection = matches!(measure, Measure::Value(key) if key.ends_with("_per_connection"));
    match (is_of_the_server, plan.server_pids.is_empty()) {
        (true, true) => "no --server-pid was given",
        (true, false) if outcome.server_vanished => "a process of --server-pid had ended",
        _ if is_per_connection && outcome.held_clients >= MEANINGFUL_CONNECTIONS_MIN => {
            "the memory shrank while the clients connected"
        }
        _ if is_per_connection => TOO_FEW_CONNECTIONS,
        _ if outcome.interruption.is_some() => "the test was interrupted",
        _ => "it did not occur during the test",
    }
}

struct Figures(Map<String, Value>);

impl Figures {
    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Sets a ratio with three decimals; leaves it out when the divisor is zero.
    fn set_ratio(&mut self, name: &str, dividend: f64, divisor: f64) {
        if divisor > 0.0 {
            self.set(name, (dividend / divisor * 1000.0).round() / 1000.0);
        }
    }

    /// Sets the growth of the memory for each connection; null where it can't be determined.
    fn set_per_connection(&mut self, name: &str, (before, after): (u64, u64), held: u32) {
        let growth = after.checked_sub(before).filter(|_| held >= MEANINGFUL_CONNECTIONS_MIN);
        self.set(name, growth.map(|bytes| (bytes as f64 / f64::from(held) * 1000.0).round() / 1000.0));
    }

    fn set_rate(&mut self, name: &str, count: u64, span_us: u64) {
        self.set_ratio(name, count as f64 * 1e6, span_us as f64);
    }

    fn of_the_test(&mut self, plan: &Plan, outcome: &Outcome) {
        self.0.extend(plan.kind());
        let urls: Vec<String> = plan.fleet.targets.iter().map(Target::shown).collect();
        self.set("url", urls.join(" "));
        self.set("processes", plan.processes);
        self.set("threads", plan.fleet.threads * plan.processes);
        self.set("held_clients", outcome.held_clients);
        self.set("connecting_seconds", seconds(outcome.connecting_us));
        self.set("elapsed_seconds", seconds(outcome.elapsed_us));
        self.set("interrupted", outcome.interruption.is_some());
        let counters = &outcome.tally.counters;
        let attempts = counters.connect_attempts as f64;
        self.set_ratio("connect_success_percent", counters.connect_successes as f64 * 100.0, attempts);
        self.set_ratio("connects_per_second", f64::from(outcome.held_clients), seconds(outcome.connecting_us));
        for (name, value) in counters.pairs() {
            self.set(name, value);
        }
    }

    fn of_the_messages(&mut self, outcome: &Outcome) {
        let counters = &outcome.tally.counters;
        let published = outcome.published.clone().unwrap_or_default();
        let unconfirmed: u64 = published.unconfirmed.iter().map(|r| u64::from(r.end() - r.start()) + 1).sum();
        // Both start at the first message sent and end at the last answer, or at the last delivery, however late it
        // was.
        let publishing_us = published.elapsed_us;
        let last_us = outcome.tally.last_delivery_us;
        let delivering_us = published.first_sent_us.map_or(0, |first_us| last_us.saturating_sub(first_us));
        self.set("published_events", u64::from(published.count));
        self.set("unconfirmed_events", unconfirmed);
        self.set("publish_failures", published.failures);
        self.set("unheard_events", published.unheard);
        if let Some(error) = &published.last_error {
            self.set("publish_last_error", error.as_str());
        }
        self.set("publishing_seconds", seconds(publishing_us));
        self.set_rate("published_per_second", u64::from(published.count), publishing_us);
        self.set("delivering_seconds", seconds(delivering_us));
        self.set_rate("delivered_per_second", counters.delivered_events, delivering_us);
        let receiving_us = if delivering_us > 0 { delivering_us } else { outcome.elapsed_us };
        self.set_rate("received_bytes_per_second", counters.received_bytes, receiving_us);
        self.set_ratio("events_per_read", counters.received_events as f64, counters.reads as f64);
        let reached = outcome.tally.spread.iter().map(|spread| u64::from(spread.subscribers));
        self.set("reached_subscribers_min", reached.clone().min().unwrap_or(0));
        self.set("reached_subscribers_max", reached.max().unwrap_or(0));
    }

    fn of_a_distribution(&mut self, name: &str, latencies: &Latencies) {
        self.set(&format!("{name}_count"), latencies.count());
        for (suffix, percentile) in PERCENTILES {
            if let Some(us) = latencies.percentile(percentile) {
                self.set(&format!("{name}_{suffix}_us"), us);
            }
        }
        if let (Some(max), Some(mean)) = (latencies.max(), latencies.mean()) {
            self.set(&format!("{name}_max_us"), max);
            self.set(&format!("{name}_mean_us"), mean.round());
        }
    }

    fn of_memory_and_cpu(&mut self, plan: &Plan, outcome: &Outcome) {
        let held = outcome.held_clients;
        self.set("client_resident_bytes", outcome.own_resident_bytes.1);
        self.set_per_connection("client_bytes_per_connection", outcome.own_resident_bytes, held);
        let (before, after) = outcome.kernel;
        // One host holds both ends of its own connections, so this is per connection, not per end.
        let both = (before.total_bytes(), after.total_bytes());
        self.set_per_connection("kernel_bytes_per_connection", both, held);
        self.set_per_connection("kernel_slab_bytes_per_connection", (before.slab_bytes, after.slab_bytes), held);
        self.set_per_connection("kernel_tcp_bytes_per_connection", (before.tcp_bytes, after.tcp_bytes), held);
        if outcome.server_vanished {
            self.set("server_vanished", true);
        }
        let Some(uses) = &outcome.server else { return };
        let [before, connected, published] = uses.each_ref().map(|each| each.iter().copied().sum::<ProcessUse>());
        let user = (before.resident_bytes, connected.resident_bytes);
        let proportional = (before.proportional_bytes, connected.proportional_bytes);
        let cpu_us = published.cpu_us as f64 - connected.cpu_us as f64;
        self.set("server_resident_before_bytes", before.resident_bytes);
        self.set("server_resident_connected_bytes", connected.resident_bytes);
        self.set("server_resident_published_bytes", published.resident_bytes);
        self.set_per_connection("server_user_bytes_per_connection", user, held);
        self.set_per_connection("server_proportional_bytes_per_connection", proportional, held);
        self.set("server_connecting_cpu_us", connected.cpu_us as f64 - before.cpu_us as f64);
        self.set("server_publishing_cpu_us", cpu_us);
        let delivered = outcome.tally.counters.delivered_events as f64;
        self.set_ratio("server_cpu_us_per_event", cpu_us, delivered);
        let [before, connected, published] = uses;
        let of_each = plan.server_pids.iter().zip(&outcome.server_names).enumerate().map(|(i, (pid, name))| {
            json!({
                "pid": pid,
                "name": name,
                "resident_before_bytes": before[i].resident_bytes,
                "resident_connected_bytes": connected[i].resident_bytes,
                "resident_published_bytes": published[i].resident_bytes,
                "connecting_cpu_us": connected[i].cpu_us.saturating_sub(before[i].cpu_us),
                "publishing_cpu_us": published[i].cpu_us.saturating_sub(connected[i].cpu_us),
            })
        });
        self.0.insert("servers".to_owned(), of_each.collect());
    }
}

fn seconds(us: u64) -> f64 {
    (us as f64 / 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser;

    use super::*;
    use crate::load::args::LoadArgs;
    use crate::load::publisher::Published;
    use crate::load::watch::KernelUse;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: LoadArgs,
    }

    fn plan(args: &[&str]) -> Plan {
        let typed = [&["load", "http://127.0.0.1:1/"], args].concat();
        Plan::new(&Typed::parse_from(typed).args, None).unwrap()
    }

    /// A thousand clients, ten messages sent within a second from 5 s on, the last delivered at 9 s.
    fn full_outcome() -> Outcome {
        let mut recorded = Latencies::default();
        recorded.record(1000);
        let published = Published {
            count: 10,
            first_sent_us: Some(5_000_000),
            elapsed_us: 1_000_000,
            publish: recorded.clone(),
            lag: recorded.clone(),
            ..Published::default()
        };
        let mut outcome = Outcome {
            published: Some(published),
            held_clients: 1000,
            connecting_us: 1000,
            elapsed_us: 10_000_000,
            server: Some([const { Vec::new() }; 3]),
            ..Outcome::default()
        };
        let tally = &mut outcome.tally;
        tally.record_delivery(1, 1000);
        tally.last_delivery_us = 9_000_000;
        for latencies in [&mut tally.connect, &mut tally.response, &mut tally.first_event, &mut tally.catch_up] {
            latencies.record(1000);
        }
        let counters = &mut tally.counters;
        (counters.connect_attempts, counters.connect_successes) = (10, 10);
        (counters.reads, counters.delivered_events) = (10, 100);
        outcome
    }

    #[test]
    fn every_number_is_a_measure_and_every_measure_a_number() {
        let report = Report::new(&plan(&[]), &full_outcome(), &Circumstances::default());
        let numbers = report.figures.iter().filter(|(_, value)| value.is_number()).map(|(name, _)| name.clone());
        assert_eq!(numbers.collect::<BTreeSet<_>>(), measures::keys());
        let distributions: Vec<_> = report.distributions.iter().map(|(name, _)| *name).collect();
        assert_eq!(distributions, measures::DISTRIBUTIONS);
    }

    #[test]
    fn deliveries_are_spread_over_the_time_that_they_took() {
        let report = Report::new(&plan(&[]), &full_outcome(), &Circumstances::default());
        let figures = ["published_per_second", "delivering_seconds", "delivered_per_second"];
        assert_eq!(figures.map(|name| report.figure(name)), [Some(10.0), Some(4.0), Some(25.0)]);
    }

    #[test]
    fn a_requested_measure_without_a_value_counts_as_missed() {
        let check = |args: &[&str], outcome: &Outcome, expected: &[(&str, &str)]| {
            let report = Report::new(&plan(args), outcome, &Circumstances::default());
            let why = |missed: &Missed| (missed.threshold.to_string(), missed.value.unwrap_err());
            let found: Vec<_> = report.missed.iter().map(why).collect();
            let expected: Vec<_> = expected.iter().map(|(threshold, why)| ((*threshold).to_owned(), *why)).collect();
            assert_eq!(found, expected, "{args:?}");
            assert_eq!(report.figures["passed"], json!(expected.is_empty()), "{args:?}");
        };
        let (full, nothing) = (full_outcome(), Outcome::default());
        let interrupted =
            Outcome { interruption: Some(Interruption { after_us: 1, stage: "holding" }), ..Outcome::default() };
        let vanished = Outcome { server_vanished: true, ..Outcome::default() };
        let cpu = "server_cpu_us_per_event>5";
        check(&[], &nothing, &[]);
        check(&["--fail-if", cpu, "--fail-if", "p99_latency>1s"], &full, &[]);
        check(&["--fail-if", cpu], &nothing, &[(cpu, "no --server-pid was given")]);
        check(&["--server-pid", "1", "--fail-if", cpu], &vanished, &[(cpu, "a process of --server-pid had ended")]);
        check(&["--server-pid", "1", "--fail-if", cpu], &interrupted, &[(cpu, "the test was interrupted")]);
        let late = "p99_latency>1s";
        check(&["--fail-if", late], &nothing, &[(late, "it did not occur during the test")]);
        let memory = "kernel_bytes_per_connection>1";
        let few = Outcome { held_clients: 999, ..Outcome::default() };
        check(&["--fail-if", memory], &few, &[(memory, TOO_FEW_CONNECTIONS)]);
        let before = KernelUse { slab_bytes: 1, tcp_bytes: 0 };
        let shrunk = Outcome { kernel: (before, KernelUse::default()), ..full_outcome() };
        check(&["--fail-if", memory], &shrunk, &[(memory, "the memory shrank while the clients connected")]);
        check(&["--fail-if", memory], &full, &[]);
        // It occurred zero times, which is a measurement.
        check(&["--fail-if", "error_connect_refused>0"], &nothing, &[]);
    }
}
