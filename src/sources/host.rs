//! The host source of `--dev`: statistics of this machine once a second, as sample data to look at.
//!
//! The values come from /proc; a rate is the difference of two readings. When a file can't be read or parsed, its
//! fields are left out and the source is marked as down. Parsing is pure; nothing here depends on subscribers.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use serde_json::{Map, Value, json};

use crate::event::{Event, Topic};
use crate::sources::channel::SourceStatus;
use crate::sources::sequencer::Sequencer;
use crate::sources::thread::{SourceThread, Stop};

/// Between two readings.
const READING_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the source. `own` gets what was measured, and returns the server's own counters, which are added under `"server"`.
/// Dropping the result stops it.
pub fn spawn(
    topic: Topic,
    sequencer: Arc<Sequencer>,
    status: Arc<SourceStatus>,
    own: impl Fn(&Map<String, Value>) -> Value + Send + 'static,
) -> io::Result<SourceThread> {
    let body = {
        let status = Arc::clone(&status);
        move |stop: &Stop| {
            // Rates need a previous reading.
            let mut last = Reading::take(Path::new("/proc"));
            while !stop.wait(READING_INTERVAL) {
                let reading = Reading::take(Path::new("/proc"));
                match reading.missing() {
                    None => status.set_up(),
                    Some(file) => status.set_down(format!("/proc/{file} can't be read")),
                }
                let mut fields = reading.fields(&last);
                let counters = own(&fields);
                fields.insert("server".to_owned(), counters);
                status.count_received();
                sequencer.publish(&Event::message(topic.clone(), Value::Object(fields).to_string()));
                last = reading;
            }
            status.set_down("stopped");
        }
    };
    SourceThread::spawn("host-statistics", move |error| status.set_down(error), body)
}

/// All values at one moment; `None` where a file could not be read.
#[derive(Debug)]
struct Reading {
    at: Instant,
    time: SystemTime,
    cpu: Option<CpuTicks>,
    load: Option<Load>,
    memory: Option<Memory>,
    network: Option<NetworkBytes>,
    uptime: Option<Duration>,
    processes: Option<usize>,
}

impl Reading {
    fn take(proc: &Path) -> Reading {
        let read = |file: &str| fs::read_to_string(proc.join(file)).ok();
        Reading {
            at: Instant::now(),
            time: SystemTime::now(),
            cpu: read("stat").and_then(|text| parse_cpu(&text)),
            load: read("loadavg").and_then(|text| parse_load(&text)),
            memory: read("meminfo").and_then(|text| parse_memory(&text)),
            network: read("net/dev").and_then(|text| parse_network(&text)),
            uptime: read("uptime").and_then(|text| parse_uptime(&text)),
            processes: fs::read_dir(proc).ok().map(|entries| {
                let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
                names.filter(|name| name.bytes().all(|b| b.is_ascii_digit())).count()
            }),
        }
    }

    /// The first file without a usable value.
    fn missing(&self) -> Option<&'static str> {
        let read = [
            ("stat", self.cpu.is_some()),
            ("loadavg", self.load.is_some()),
            ("meminfo", self.memory.is_some()),
            ("net/dev", self.network.is_some()),
            ("uptime", self.uptime.is_some()),
        ];
        read.into_iter().find(|(_, is_read)| !is_read).map(|(file, _)| file)
    }

    /// The event's JSON members.
    fn fields(&self, before: &Reading) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        let since_epoch = self.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        put("time_ms", json!(since_epoch.as_millis() as u64));
        if let Some(cpu) = &self.cpu {
            if let Some(percent) = before.cpu.as_ref().and_then(|before| cpu.busy_percent(before)) {
                put("cpu_percent", json!(rounded(percent)));
            }
            put("cpu_count", json!(cpu.cpu_count));
        }
        if let Some(Load { averages: [one, five, fifteen], tasks_running, tasks }) = self.load {
            put("load_1m", json!(one));
            put("load_5m", json!(five));
            put("load_15m", json!(fifteen));
            put("tasks", json!(tasks));
            put("tasks_running", json!(tasks_running));
        }
        if let Some(processes) = self.processes {
            put("processes", json!(processes));
        }
        if let Some(Memory { total_bytes, available_bytes, swap_total_bytes, swap_free_bytes }) = self.memory {
            put("memory_total_bytes", json!(total_bytes));
            put("memory_available_bytes", json!(available_bytes));
            put("memory_used_bytes", json!(total_bytes.saturating_sub(available_bytes)));
            put("swap_total_bytes", json!(swap_total_bytes));
            put("swap_used_bytes", json!(swap_total_bytes.saturating_sub(swap_free_bytes)));
        }
        if let (Some(now), Some(then)) = (&self.network, &before.network) {
            let elapsed = self.at - before.at;
            put("network_received_bytes_per_second", json!(per_second(then.received, now.received, elapsed)));
            put("network_sent_bytes_per_second", json!(per_second(then.sent, now.sent, elapsed)));
        }
        if let Some(uptime) = self.uptime {
            put("uptime_seconds", json!(uptime.as_secs()));
        }
        fields
    }
}

/// /proc/stat: clock ticks since boot, summed over all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CpuTicks {
    busy: u64,
    idle: u64,
    cpu_count: usize,
}

impl CpuTicks {
    /// `None` when no tick passed. Counters that run backwards (iowait does) count as no progress.
    fn busy_percent(&self, before: &CpuTicks) -> Option<f64> {
        let busy = self.busy.saturating_sub(before.busy);
        let all = busy + self.idle.saturating_sub(before.idle);
        (all > 0).then(|| 100.0 * busy as f64 / all as f64)
    }
}

fn parse_cpu(stat: &str) -> Option<CpuTicks> {
    let mut lines = stat.lines();
    let ticks: Vec<u64> =
        lines.next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; the guest time that follows is already part of user time.
    let [user, nice, system, idle, iowait, irq, softirq, steal] = *ticks.first_chunk()?;
    let cpu_count = lines.filter(|line| line.starts_with("cpu")).count();
    Some(CpuTicks { busy: user + nice + system + irq + softirq + steal, idle: idle + iowait, cpu_count })
}

/// /proc/loadavg.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Load {
    averages: [f64; 3],
    tasks_running: u64,
    tasks: u64,
}

fn parse_load(loadavg: &str) -> Option<Load> {
    let mut words = loadavg.split_whitespace();
    let mut average = || words.next()?.parse().ok();
    let averages = [average()?, average()?, average()?];
    let (running, tasks) = words.next()?.split_once('/')?;
    Some(Load { averages, tasks_running: running.parse().ok()?, tasks: tasks.parse().ok()? })
}

/// /proc/meminfo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Memory {
    total_bytes: u64,
    available_bytes: u64,
    swap_total_bytes: u64,
    swap_free_bytes: u64,
}

fn parse_memory(meminfo: &str) -> Option<Memory> {
    let field_bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    Some(Memory {
        total_bytes: field_bytes("MemTotal")?,
        available_bytes: field_bytes("MemAvailable")?,
        // A kernel without swap may leave these out.
        swap_total_bytes: field_bytes("SwapTotal").unwrap_or(0),
        swap_free_bytes: field_bytes("SwapFree").unwrap_or(0),
    })
}

/// /proc/net/dev: bytes since boot over all interfaces except the loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NetworkBytes {
    received: u64,
    sent: u64,
}

fn parse_network(dev: &str) -> Option<NetworkBytes> {
    let mut bytes = NetworkBytes { received: 0, sent: 0 };
    // Two lines of titles; the first eight columns are the receive counters.
    for line in dev.lines().skip(2) {
        let (name, columns) = line.split_once(':')?;
        let mut columns = columns.split_whitespace();
        let (received, sent): (u64, u64) = (columns.next()?.parse().ok()?, columns.nth(7)?.parse().ok()?);
        if name.trim() != "lo" {
            bytes.received = bytes.received.wrapping_add(received);
            bytes.sent = bytes.sent.wrapping_add(sent);
        }
    }
    Some(bytes)
}

fn parse_uptime(uptime: &str) -> Option<Duration> {
    let seconds: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// When an interface disappears, its bytes disappear too: the rate is then 0, not negative.
fn per_second(before: u64, now: u64, elapsed: Duration) -> u64 {
    (now.saturating_sub(before) as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE)) as u64
}

/// One decimal is precise enough for a display.
fn rounded(percent: f64) -> f64 {
    (percent * 10.0).round() / 10.0
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
