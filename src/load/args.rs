//! Options of `fanfare load` as typed; [`plan`](super::plan) interprets them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::threshold::Threshold;
use crate::config::{COUNT_MAX, count_within, number_within};

/// Opens very many SSE connections to a server, checks every message, and measures.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct LoadArgs {
    /// The stream: http:// or https://, the default scheme is http, the default path /events; or unix:PATH:/events for
    /// a Unix socket. Several are used in turn. Without one, on a terminal, you are asked.
    #[arg(env = "SSE_URL", hide_env_values = true, value_name = "URL")]
    pub urls: Vec<String>,

    /// What the clients do.
    #[arg(long, value_enum)]
    pub scenario: Option<Scenario>,

    /// How many clients, such as 500 or 10k (single: 1, others: 1000 unless given).
    #[arg(short = 'n', long, env = "SSE_CLIENTS", value_name = "N", value_parser = parse_clients)]
    pub clients: Option<u32>,

    /// How long to hold the connections once all are open.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,

    /// Print every event, with its time and its client.
    #[arg(short, long)]
    pub verbose: bool,

    /// Print only missed thresholds.
    #[arg(short, long)]
    pub quiet: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub connecting: ConnectArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub behaviour: BehaviourArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub publishing: PublishArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub reporting: ReportArgs,

    /// Run as one of several processes: the plan comes on standard input.
    #[arg(long, hide = true)]
    pub worker: bool,
}

/// What the clients of a test do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scenario {
    /// One client that prints every event.
    Single,
    /// All clients connect and stay.
    Multi,
    /// Connections open at a rate, stay, and close at the same rate.
    Ramp,
    /// A share of the clients leaves every second and returns with its Last-Event-ID.
    Churn,
    /// All clients drop at once and reconnect at once.
    Storm,
    /// A share of the clients reads slowly or not at all.
    Slow,
    /// A share of the clients falls silent without closing, as when a cable is pulled.
    Blackhole,
}

/// How connections are opened.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connecting")]
pub struct ConnectArgs {
    /// Connections to open per second (ramp: a tenth of the clients; otherwise as fast as they are answered).
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    pub connect_rate: Option<f64>,

    /// Connections that may be in progress at once.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = count_within(1, COUNT_MAX))]
    pub connecting_max: u32,

    /// Give up on a connection that has not answered within this time.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub connect_timeout: Duration,

    /// Local addresses to connect from, in turn: a list and ranges, such as 127.0.0.2-127.0.0.9,10.0.0.5. Towards
    /// loopback the default is one per 5000 clients.
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    pub source_ip: Vec<String>,

    /// A request header, such as 'Cookie: a=b' (repeatable).
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,

    /// A file with the bearer token to connect with.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// A PEM file with the certificates to trust over https://, when publishing too, instead of this host's.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// Processes to share the work; the first starts the others.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count_within(1, COUNT_MAX))]
    pub processes: u32,

    /// Threads per process, each with one event loop (as many as there are cores, over all processes).
    #[arg(long, value_name = "N", value_parser = count_within(1, COUNT_MAX))]
    pub threads: Option<u32>,
}

/// How clients behave other than only receiving.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Behaviour")]
pub struct BehaviourArgs {
    /// The Last-Event-ID that every client starts with.
    #[arg(long, value_name = "ID")]
    pub last_event_id: Option<String>,

    /// Reconnect without Last-Event-ID.
    #[arg(long)]
    pub no_resume: bool,

    /// Don't come back after a stream has ended.
    #[arg(long)]
    pub no_reconnect: bool,

    /// Wait this long before reconnecting, whatever the server's `retry:` says (default: that, else 3s).
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub retry: Option<Duration>,

    /// Share of the clients that leaves per second (churn: 5%).
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub churn: Option<f64>,

    /// How long a client that leaves stays away.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_duration)]
    pub away: Duration,

    /// Share of the clients that a storm hits.
    #[arg(long, value_name = "PERCENT", default_value = "100%", value_parser = parse_percent)]
    pub storm_share: f64,

    /// When the storm comes (storm: a third of the duration).
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub storm_after: Option<Duration>,

    /// Share of the clients that reads slowly (slow: 50%).
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub slow_share: Option<f64>,

    /// How fast slow clients read; 0 is not at all.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count_within(0, COUNT_MAX))]
    pub slow_bytes_per_second: u32,

    /// The receive buffer of a slow client, in bytes: the smaller, the sooner the server notices.
    #[arg(long, value_name = "BYTES", default_value_t = 16 * 1024, value_parser = number_within(0, COUNT_MAX as usize))]
    pub slow_receive_buffer: usize,

    /// Share of the clients that falls silent (blackhole: 10%).
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub blackhole_share: Option<f64>,

    /// How often the server is expected to break silence; 0s expects no heartbeats.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub heartbeat: Duration,

    /// The event type by which the server says that something is missing.
    #[arg(long, value_name = "TYPE", default_value = crate::event::GAP_EVENT_TYPE)]
    pub gap_event: String,
}

/// What this test publishes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Publishing")]
pub struct PublishArgs {
    /// Publish by POST to this address: http:// or https://, without a scheme http is meant, without a path /publish.
    #[arg(long, value_name = "URL", conflicts_with = "redis_url")]
    pub publish_url: Option<String>,

    /// Publish to this Redis instead.
    #[arg(long, value_name = "URL")]
    pub redis_url: Option<String>,

    /// A file whose first line is the password for Redis.
    #[arg(long, value_name = "FILE", requires = "redis_url")]
    pub redis_password_file: Option<PathBuf>,

    /// Redis channels to publish to, in turn (repeatable).
    #[arg(long, value_name = "NAME", default_value = "dashboard_updates")]
    pub redis_channel: Vec<String>,

    /// Messages per second, from 0.001 to 1000000; `lockstep` sends the next one when all clients have the last.
    #[arg(long, value_name = "N", default_value = "10")]
    pub publish_rate: String,

    /// Stop after this many messages (default: when the duration is over).
    #[arg(long, value_name = "N", value_parser = count_within(0, COUNT_MAX))]
    pub publish_count: Option<u32>,

    /// Bytes of a message's data.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number_within(0, COUNT_MAX as usize))]
    pub payload_bytes: usize,

    /// Topics to publish to, in turn (repeatable; unless given, those that every stream's address names with topic=,
    /// else dashboard_updates).
    #[arg(long, value_name = "TOPIC")]
    pub publish_topic: Vec<String>,

    /// Up to this many messages that are due may share one request.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count_within(1, COUNT_MAX))]
    pub publish_batch: u32,

    /// The request body: Fanfare's JSON with topic and data, or the bare payload for other servers.
    #[arg(long, value_enum, default_value_t = PublishBody::Envelope)]
    pub publish_body: PublishBody,

    /// A file with the bearer token to publish with.
    #[arg(long, value_name = "FILE")]
    pub publish_token_file: Option<PathBuf>,

    /// A header of publish requests (repeatable).
    #[arg(long, value_name = "NAME: VALUE")]
    pub publish_header: Vec<String>,

    /// How long to wait, after the last message, until every client has every event.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub settle: Duration,
}

/// What the body of a publish request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PublishBody {
    /// `{"topic": …, "data": …}`, or an array of them.
    Envelope,
    /// The payload and nothing else.
    Raw,
}

/// What is printed, and what counts as failed.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Reporting")]
pub struct ReportArgs {
    /// A process of the server, to measure its memory and CPU (repeatable).
    #[arg(long, value_name = "PID", value_parser = count_within(0, COUNT_MAX))]
    pub server_pid: Vec<u32>,

    /// Write every figure to this file as one JSON object; - is standard output, and the summary then goes to standard error.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write a page with plots to this file.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// A condition that fails the test, such as 'p95_first_event>3s' (repeatable).
    #[arg(long, value_name = "CONDITION")]
    pub fail_if: Vec<Threshold>,

    /// Compare with the figures that an earlier run wrote with --json, and fail where this run is worse.
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,

    /// By how much a figure may be worse than in the baseline.
    #[arg(long, value_name = "PERCENT", default_value = "20%", value_parser = parse_percent)]
    pub baseline_tolerance: f64,

    /// Fail on the given conditions only.
    #[arg(long)]
    pub no_default_thresholds: bool,
}

const EXAMPLES: &str = "\
Examples:
  fanfare load http://localhost:3001/dashboard/stream --clients 1000 --duration 30s
  fanfare load http://localhost:3001/dashboard/stream -n 10000 --redis-url redis://localhost --publish-rate 10
  fanfare load http://localhost:3001/events --scenario churn --churn 10% --publish-url http://localhost:3001/publish \\
      --fail-if 'p99_latency>250ms' --report load.html

FANFARE_REDIS_PASSWORD holds the password for Redis; no flag does, since every user of a host sees its arguments.

Ctrl-C ends a test early, with a report of what there was until then; a second one ends it at once.

Exit codes: 0 all well, 1 a threshold missed, 2 wrong usage, 130 interrupted.";

/// Far below the value at which a sum of times would overflow.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A time with its unit: `250ms`, `30s`, `5m`, `1h`, or several in a row.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time; write a number and a unit, such as 250ms, 30s or 5m");
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(unit_at);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, after) = tail.split_at(unit_end);
        let unit_seconds = match unit.trim() {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(number * unit_seconds).map_err(|_| wrong())?;
        total = total.saturating_add(part);
        rest = after;
    }
    if total > DURATION_MAX {
        return Err(format!("{text:?} is longer than a year"));
    }
    Ok(total)
}

/// A number of clients, also in thousands (`10k`) or millions (`1m`).
pub(super) fn parse_clients(text: &str) -> Result<u32, String> {
    let lower = text.trim().to_ascii_lowercase();
    let (number, unit) = match lower.split_at_checked(lower.len().saturating_sub(1)) {
        Some((number, "k")) => (number, 1e3),
        Some((number, "m")) => (number, 1e6),
        _ => (&*lower, 1.0),
    };
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let clients = number.parse::<f64>().ok().filter(|_| is_plain).map(|number| number * unit);
    match clients.filter(|clients| clients.fract() == 0.0 && (1.0..=f64::from(COUNT_MAX)).contains(clients)) {
        Some(clients) => Ok(clients as u32),
        None => Err(format!("allowed is a whole number from 1 to {COUNT_MAX}, also as 10k or 1m")),
    }
}

/// A number per second; the plan knows its bounds.
fn parse_rate(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "allowed is a number, such as 100 or 0.5".to_owned())
}

/// `5%` or `5`, as a fraction.
fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim().parse::<f64>();
    let percent = number.ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.map(|percent| percent / 100.0).ok_or_else(|| format!("{text:?} is not a share from 0% to 100%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_unit() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(parse_duration(text).ok().map(|d| d.as_micros() as u64), expected, "{text:?}");
        };
        check("30s", Some(30_000_000));
        check("250ms", Some(250_000));
        check("1.5s", Some(1_500_000));
        check("1m30s", Some(90_000_000));
        check("0s", Some(0));
        check("30", None);
        check("", None);
        check("s", None);
        check("5 parsecs", None);
        check("8760h", Some(31_536_000_000_000));
        check("8760h1us", None);
        check("5000000000000000h5000000000000000h", None);
        check("99999999999999999999h", None);
    }

    #[test]
    fn clients_may_come_in_thousands() {
        let check = |text: &str, expected: Option<u32>| assert_eq!(parse_clients(text).ok(), expected, "{text:?}");
        check("1", Some(1));
        check("10k", Some(10_000));
        check("1.5K", Some(1500));
        check("1m", Some(1_000_000));
        check("100000000", (100_000_000 <= COUNT_MAX).then_some(100_000_000));
        for bad in ["", "k", "0", "0k", "1.5", "-1k", "1e3", "10 thousand", "inf", "99999999999"] {
            check(bad, None);
        }
    }

    #[test]
    fn shares_are_percent() {
        let check = |text: &str, expected: Option<f64>| assert_eq!(parse_percent(text).ok(), expected, "{text:?}");
        check("5%", Some(0.05));
        check("5", Some(0.05));
        check("100 %", Some(1.0));
        check("101%", None);
        check("-1", None);
        check("x", None);
    }
}
