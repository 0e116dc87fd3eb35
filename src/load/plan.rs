//! The plan of a test: the [`LoadArgs`], resolved, checked, and with the scenario's defaults filled in.
//!
//! The plan is only data: it travels as JSON to the processes that share the work. Each process derives its clients
//! from it. Client `i` of `n` belongs to part `i % parts`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::args::{LoadArgs, Scenario};
use super::clock::micros;
use super::publishing::{Pace, PublishPlan};
use super::stamp::TestRun;
use super::target::{Target, header_lines};
use super::threshold::{Threshold, defaults_beside};
use super::watch;
use crate::client::token::BearerToken;
use crate::client::trust::Trust;
use crate::io::dialer::Remote;
use crate::redis_address::RedisAddress;

pub(super) const DURATION_DEFAULT: Duration = Duration::from_secs(30);
/// Bounds for connecting and publishing, per second: they keep the time of the last turn a valid number.
pub(super) const RATE_MIN: f64 = 0.001;
pub(super) const RATE_MAX: f64 = 1e6;

/// A whole test.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the clients do.
    pub fleet: FleetPlan,
    /// What is published, if anything.
    pub publish: Option<PublishPlan>,
    /// Processes that share the work, including this one.
    pub processes: u32,
    /// How long to hold the connections; `None`: until all messages are sent, or half a minute without a message count.
    pub duration: Option<Duration>,
    /// How long to wait for the last messages.
    pub settle: Duration,
    /// Processes of the server.
    pub server_pids: Vec<u32>,
    /// The thresholds that the user set.
    pub thresholds: Vec<Threshold>,
    /// The default thresholds that also apply.
    pub default_thresholds: Vec<Threshold>,
}

/// The clients' side of a test: the same in every process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names and types say it; the flags document the rest")]
pub struct FleetPlan {
    pub scenario: Scenario,
    pub run: Option<TestRun>,
    pub clients: u32,
    /// Threads per process.
    pub threads: u32,
    pub targets: Vec<Target>,
    pub trust: Trust,
    pub sources: Vec<IpAddr>,
    pub connect_rate: Option<f64>,
    /// The sum over all parts.
    pub connecting_max: u32,
    pub connect_timeout_us: u64,
    pub last_event_id: Option<String>,
    pub resumes: bool,
    pub reconnects: bool,
    pub retry_us: Option<u64>,
    pub churn_per_second: f64,
    pub away_us: u64,
    pub storm_share: f64,
    /// Time after the hold began.
    pub storm_after_us: Option<u64>,
    pub slow_share: f64,
    pub slow_bytes_per_second: u32,
    pub slow_receive_buffer_bytes: usize,
    pub blackhole_share: f64,
    pub heartbeat_us: u64,
    pub gap_event: String,
    pub is_verbose: bool,
}

/// The behaviour of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads everything as it arrives.
    Plain,
    /// Reads slowly or not at all.
    Slow,
    /// Falls silent when the hold begins.
    Blackhole,
}

impl Plan {
    /// Resolves arguments; publishing goes to `redis` if it is given. The errors are for the user.
    pub fn new(args: &LoadArgs, redis: Option<RedisAddress>) -> anyhow::Result<Plan> {
        let scenario = args.scenario.unwrap_or(Scenario::Multi);
        let clients = args.clients.unwrap_or(if scenario == Scenario::Single { 1 } else { 1000 });
        ensure!(clients > 0, "--clients must be at least 1");
        ensure!(!args.urls.is_empty(), "give the address of a stream, such as http://localhost:3001/dashboard/stream");
        let targets = read_targets(args)?;
        let processes = args.connecting.processes;
        ensure!((1..=256).contains(&processes), "--processes must be from 1 to 256");
        let connect_rate = args.connecting.connect_rate.or_else(|| default_connect_rate(scenario, clients));
        ensure!(
            connect_rate.is_none_or(|rate| (RATE_MIN..=RATE_MAX).contains(&rate)),
            "--connect-rate must be from {RATE_MIN} to {RATE_MAX} connections per second"
        );
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u32;
        let threads = args.connecting.threads.unwrap_or(cores.div_ceil(processes)).clamp(1, 64);
        let storm_default = args.duration.unwrap_or(DURATION_DEFAULT) / 3;
        let publish = PublishPlan::new(args, redis, &targets)?;
        let lockstep = publish.as_ref().is_some_and(|publish| publish.pace == Pace::Lockstep);
        ensure!(!lockstep || processes == 1, "--publish-rate lockstep needs --processes 1");
        let seed = || getrandom::u64().context("the system provides no random numbers");
        let fleet = FleetPlan {
            scenario,
            run: if publish.is_some() { Some(TestRun::from_bits(seed()?)) } else { None },
            clients,
            threads: threads.min(clients.div_ceil(processes)),
            sources: read_sources(&args.connecting.source_ip, &targets, clients)?,
            targets,
            trust: Trust::new(args.connecting.ca.as_deref())?,
            connect_rate,
            connecting_max: args.connecting.connecting_max.max(1),
            connect_timeout_us: micros(args.connecting.connect_timeout),
            last_event_id: args.behaviour.last_event_id.clone(),
            resumes: !args.behaviour.no_resume,
            reconnects: !args.behaviour.no_reconnect,
            retry_us: args.behaviour.retry.map(micros),
            churn_per_second: default_for(args.behaviour.churn, scenario == Scenario::Churn, 0.05),
            away_us: micros(args.behaviour.away),
            storm_share: args.behaviour.storm_share,
            storm_after_us: (args.behaviour.storm_after.or((scenario == Scenario::Storm).then_some(storm_default)))
                .map(micros),
            slow_share: default_for(args.behaviour.slow_share, scenario == Scenario::Slow, 0.5),
            slow_bytes_per_second: args.behaviour.slow_bytes_per_second,
            slow_receive_buffer_bytes: args.behaviour.slow_receive_buffer,
            blackhole_share: default_for(args.behaviour.blackhole_share, scenario == Scenario::Blackhole, 0.1),
            heartbeat_us: micros(args.behaviour.heartbeat),
            gap_event: args.behaviour.gap_event.clone(),
            is_verbose: args.verbose || scenario == Scenario::Single && !args.quiet,
        };
        ensure!(
            !lockstep || fleet.is_attentive(),
            "--publish-rate lockstep waits for every client: it can't be combined with churn, a storm, slow or silent \
             clients"
        );
        let is_unix = |target: &Target| matches!(target.remote, Remote::Unix(_));
        ensure!(
            fleet.blackhole_share == 0.0 || !fleet.targets.iter().any(is_unix),
            "--blackhole-share needs TCP: it does not work on a Unix socket"
        );
        for pid in &args.reporting.server_pid {
            ensure!(
                watch::processes(&[*pid]).is_some(),
                "--server-pid {pid}: the process does not exist, or this user may not inspect it"
            );
        }
        let thresholds = args.reporting.fail_if.clone();
        let has_defaults = !args.reporting.no_default_thresholds;
        Ok(Plan {
            fleet,
            publish,
            processes,
            duration: args.duration,
            settle: args.publishing.settle,
            server_pids: args.reporting.server_pid.clone(),
            default_thresholds: if has_defaults { defaults_beside(&thresholds) } else { Vec::new() },
            thresholds,
        })
    }

    /// How long to hold the connections; `None` if the last message ends the hold.
    pub fn hold(&self) -> Option<Duration> {
        let is_counted = self.publish.as_ref().is_some_and(|publish| publish.count_max < u32::MAX);
        self.duration.or((!is_counted).then_some(DURATION_DEFAULT))
    }

    /// The figures of a report that say which kind of test it was.
    pub fn kind(&self) -> Map<String, Value> {
        [("scenario", json!(self.fleet.scenario)), ("clients", json!(self.fleet.clients))]
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect()
    }

    /// Fails, with the fix, if one process may not open as many descriptors as its share of the clients needs.
    pub fn check_descriptors(&self, descriptors_max: u64) -> anyhow::Result<()> {
        /// For epoll, files, pipes to the other processes, and publishing.
        const SPARE: u64 = 64;
        let clients = u64::from(self.fleet.clients);
        let needed = clients.div_ceil(u64::from(self.processes)) + SPARE;
        if needed > descriptors_max {
            let processes = clients.div_ceil(descriptors_max.saturating_sub(SPARE).max(1));
            bail!(
                "{clients} clients in {} process(es) need {needed} descriptors each, but the hard limit is \
                 {descriptors_max}: share the work with --processes {processes}, or raise the limit \
                 (ulimit -Hn {needed} as root, or LimitNOFILE= in a unit)",
                self.processes
            );
        }
        Ok(())
    }
}

impl FleetPlan {
    /// The role of client `index`.
    pub fn role(&self, index: u32) -> Role {
        if is_chosen(index, self.blackhole_share) {
            Role::Blackhole
        } else if is_chosen(index, self.slow_share) {
            Role::Slow
        } else {
            Role::Plain
        }
    }

    /// True if every client stays connected and reads all the time.
    fn is_attentive(&self) -> bool {
        let shares = self.churn_per_second + self.slow_share + self.blackhole_share;
        shares == 0.0 && self.storm_after_us.is_none()
    }

    /// When client `index` connects for the first time, in microseconds after the start.
    pub fn connect_after_us(&self, index: u32) -> u64 {
        self.connect_rate.map_or(0, |rate| (f64::from(index) * 1e6 / rate) as u64)
    }
}

/// Chooses `share` of all indices, evenly spread.
pub fn is_chosen(index: u32, share: f64) -> bool {
    ((f64::from(index) + 1.0) * share).floor() > (f64::from(index) * share).floor()
}

fn default_for(given: Option<f64>, is_scenario: bool, default: f64) -> f64 {
    given.unwrap_or(if is_scenario { default } else { 0.0 })
}

fn default_connect_rate(scenario: Scenario, clients: u32) -> Option<f64> {
    (scenario == Scenario::Ramp).then(|| (f64::from(clients) / 10.0).max(1.0))
}

fn read_targets(args: &LoadArgs) -> anyhow::Result<Vec<Target>> {
    let mut headers = header_lines("--header", &args.connecting.headers)?;
    if let Some(file) = &args.connecting.token_file {
        headers.extend(authorization(file)?);
    }
    args.urls.iter().map(|url| Target::new(url, &headers)).collect()
}

/// The header that shows the token in a file.
pub(super) fn authorization(file: &Path) -> anyhow::Result<Option<(String, String)>> {
    let token = BearerToken::read(Some(file), "")?;
    Ok(token.header().map(|value| ("Authorization".to_owned(), value)))
}

/// The addresses to connect from: as given, or for loopback one per 5000 clients. `connect` scans half of the port
/// range before it turns to the other half, so a source address slows down long before it is used up.
fn read_sources(given: &[String], targets: &[Target], clients: u32) -> anyhow::Result<Vec<IpAddr>> {
    const CLIENTS_PER_SOURCE: u32 = 5000;
    let is_loopback =
        |target: &Target| matches!(target.remote, Remote::Tcp(SocketAddr::V4(v4)) if v4.ip().is_loopback());
    if !given.is_empty() {
        let mut sources = Vec::new();
        for text in given {
            sources.extend(read_range(text)?);
        }
        let suits = |source: &IpAddr, target: &Target| match target.remote {
            Remote::Tcp(address) => source.is_ipv4() == address.is_ipv4(),
            Remote::Unix(_) => false,
        };
        ensure!(
            sources.iter().all(|source| targets.iter().all(|target| suits(source, target))),
            "--source-ip and the server's address must be of the same family (IPv4 or IPv6)"
        );
        return Ok(sources);
    }
    if clients <= CLIENTS_PER_SOURCE || !targets.iter().all(is_loopback) {
        return Ok(Vec::new());
    }
    let sources = clients.div_ceil(CLIENTS_PER_SOURCE).min(250);
    Ok((2..).take(sources as usize).map(|last| Ipv4Addr::new(127, 0, 0, last).into()).collect())
}

fn read_range(text: &str) -> anyhow::Result<Vec<IpAddr>> {
    const ADDRESSES_MAX: u32 = 65_536;
    let address = |text: &str| -> anyhow::Result<IpAddr> {
        text.trim().parse().with_context(|| format!("--source-ip: {text:?} is not an address"))
    };
    let Some((from, to)) = text.split_once('-') else { return Ok(vec![address(text)?]) };
    let (IpAddr::V4(from), IpAddr::V4(to)) = (address(from)?, address(to)?) else {
        bail!("--source-ip: ranges work only with IPv4 addresses; list IPv6 addresses one by one");
    };
    let (from, to) = (u32::from(from), u32::from(to));
    ensure!(
        from <= to && to - from < ADDRESSES_MAX,
        "--source-ip: {text:?} is not a range of at most {ADDRESSES_MAX} addresses"
    );
    Ok((from..=to).map(|bits| Ipv4Addr::from(bits).into()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_addresses_are_lists_and_ranges() {
        let check = |text: &str, expected: &[&str]| {
            let found: Vec<String> = read_range(text).unwrap_or_default().iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("10.0.0.5", &["10.0.0.5"]);
        check("127.0.0.254-127.0.1.1", &["127.0.0.254", "127.0.0.255", "127.0.1.0", "127.0.1.1"]);
        check("::1", &["::1"]);
        check("127.0.0.9-127.0.0.2", &[]);
        check("::1-::2", &[]);
        check("localhost", &[]);
    }

    #[test]
    fn a_share_is_met_exactly_and_spread() {
        let check = |share: f64, clients: u32, expected: usize| {
            assert_eq!((0..clients).filter(|&index| is_chosen(index, share)).count(), expected, "{share} of {clients}");
        };
        check(0.0, 1000, 0);
        check(1.0, 1000, 1000);
        check(0.5, 10_000, 5000);
        check(0.1, 1000, 100);
        assert!((0..999).all(|index| is_chosen(index, 0.5) != is_chosen(index + 1, 0.5)));
    }
}
