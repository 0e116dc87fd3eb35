//! The names of a test's measurements, on which a threshold may be set. Any other name is a mistake: a threshold on it
//! would never fail.

use super::counters::Counters;

/// The distributions of latencies.
pub const DISTRIBUTIONS: [&str; 8] =
    ["connect", "response", "first_event", "latency", "last_subscriber", "catch_up", "publish", "publish_lag"];

/// The percentiles of each distribution in the report, with their keys.
pub const PERCENTILES: [(&str, f64); 5] = [("p50", 50.0), ("p90", 90.0), ("p95", 95.0), ("p99", 99.0), ("p999", 99.9)];

/// The numbers of the report other than counters and distributions.
const FIGURES: [&str; 35] = [
    "clients",
    "processes",
    "threads",
    "held_clients",
    "connecting_seconds",
    "elapsed_seconds",
    "connect_success_percent",
    "connects_per_second",
    "published_events",
    "unconfirmed_events",
    "publish_failures",
    "unheard_events",
    "publishing_seconds",
    "published_per_second",
    "delivering_seconds",
    "delivered_per_second",
    "received_bytes_per_second",
    "events_per_read",
    "reached_subscribers_min",
    "reached_subscribers_max",
    "client_resident_bytes",
    "client_bytes_per_connection",
    "kernel_bytes_per_connection",
    "kernel_slab_bytes_per_connection",
    "kernel_tcp_bytes_per_connection",
    "server_resident_before_bytes",
    "server_resident_connected_bytes",
    "server_resident_published_bytes",
    "server_user_bytes_per_connection",
    "server_proportional_bytes_per_connection",
    "server_connecting_cpu_us",
    "server_publishing_cpu_us",
    "server_cpu_us_per_event",
    // A kind or status that is not in the report occurred zero times.
    "error_KIND",
    "answers_STATUS",
];

/// True for a key that names a kind of error or answer: if it is not in the report, it occurred zero times.
pub fn is_counter_by_kind(key: &str) -> bool {
    key.starts_with("error_") || key.starts_with("answers_")
}

/// True for the key of a number in the report.
pub fn is_figure(key: &str) -> bool {
    is_counter_by_kind(key) || figures().any(|name| name == key) || distribution_keys().any(|name| name == key)
}

/// Every name, for an error message about an unknown one.
pub fn all_names() -> String {
    let figures: Vec<_> = figures().collect();
    format!(
        "connect_success; pNN_, max_ and mean_ before {}; the keys of the JSON report: {}, and of each distribution \
         such as latency_count, latency_p50_us, latency_max_us",
        DISTRIBUTIONS.join(", "),
        figures.join(", ")
    )
}

fn figures() -> impl Iterator<Item = &'static str> {
    FIGURES.into_iter().chain(Counters::default().pairs().into_iter().map(|(name, _)| name))
}

fn distribution_keys() -> impl Iterator<Item = String> {
    let of_one = |name: &'static str| {
        let percentiles = PERCENTILES.into_iter().map(move |(percentile, _)| format!("{name}_{percentile}_us"));
        percentiles.chain(["count", "max_us", "mean_us"].map(|suffix| format!("{name}_{suffix}")))
    };
    DISTRIBUTIONS.into_iter().flat_map(of_one)
}

/// The key of every number that a full report has.
#[cfg(test)]
pub(super) fn keys() -> std::collections::BTreeSet<String> {
    figures().filter(|name| !is_counter_by_kind(name)).map(str::to_owned).chain(distribution_keys()).collect()
}
