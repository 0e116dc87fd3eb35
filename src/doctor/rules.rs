//! The rules: what a host must have for a demand. Pure; each rule checks one thing and reports only that.
//!
//! Ordered by severity: first what ends or refuses subscribers, then what delays them.

use super::Demand;
use super::certificate;
use super::host::{Host, tighter};
use super::profile::{self, DESCRIPTORS_OF_UNIT, Key, TCP_MEM, TCP_MEM_CONSEQUENCE};
use super::shortage::{Measure, Shortage};
use super::unit::Unit;

/// What the kernel takes for a connection: socket, inode, file, watch. Measured: 4.2 to 4.6 KB.
const KERNEL_BYTES_PER_CONNECTION: u64 = 4096;
/// What the server takes for one, by `cargo bench --bench memory`.
const SERVER_BYTES_PER_CONNECTION: u64 = 150;
/// What the server takes in addition: its logs of 64 MiB, and its own memory.
const SERVER_BYTES: u64 = 128 << 20;
/// The server has fewer threads than this.
const THREADS: u64 = 16;
/// Time from the end of the last stream to the end of the process.
const LAST_ANSWERS_SECONDS: u64 = 2;

/// All that the host is short of.
pub fn shortages(host: &Host, demand: &Demand) -> Vec<Shortage> {
    const RULES: [fn(&Host, &Demand) -> Option<Shortage>; 10] = [
        descriptors,
        memory,
        cgroup_memory,
        threads,
        local_ports,
        backlog,
        tcp_mem,
        receive_minimum,
        send_minimum,
        stop_timeout,
    ];
    let found = RULES.iter().filter_map(|rule| rule(host, demand));
    let keys = profile::OF_HOST.iter().chain(profile::FIXED);
    let found = found.chain(keys.filter_map(|key| sysctl(key, host, demand)));
    found.chain(interface_queues(host, demand)).chain(certificate::shortages(&host.certificates)).collect()
}

fn descriptors(host: &Host, demand: &Demand) -> Option<Shortage> {
    let has = host.unit.as_ref().map_or(host.descriptors_max, |unit| unit.descriptors_max);
    if has >= demand.descriptors {
        return None;
    }
    let not_streams = demand.descriptors - demand.connections;
    let shortage = Shortage::new("limit on open files (RLIMIT_NOFILE)", Measure::Count, has, demand.descriptors)
        .consequence(format!(
            "the server holds {} streams and asks all other clients to retry later",
            has.saturating_sub(not_streams).max(1)
        ));
    let limit = demand.descriptors.max(DESCRIPTORS_OF_UNIT);
    let shortage = match &host.unit {
        Some(_) => shortage,
        None => {
            shortage.fixed_by(format!("sudo prlimit --pid $$ --nofile={limit} # for processes started from this shell"))
        }
    };
    Some(shortage.fixed_by(in_service(host.unit.as_ref(), &format!("LimitNOFILE={limit}"))))
}

/// Includes a page for a frame in flight to each connection, which is the highest need.
fn bytes_needed(host: &Host, connections: u64) -> u64 {
    let each = KERNEL_BYTES_PER_CONNECTION + SERVER_BYTES_PER_CONNECTION + host.page_bytes;
    connections * each + SERVER_BYTES
}

fn memory(host: &Host, demand: &Demand) -> Option<Shortage> {
    let missing = demand.connections.saturating_sub(host.sockets_open);
    let needs = bytes_needed(host, missing);
    let each = bytes_needed(host, 1) - SERVER_BYTES;
    (host.memory_available_bytes < needs).then(|| {
        let enough_for = host.memory_available_bytes.saturating_sub(SERVER_BYTES) / each + host.sockets_open;
        Shortage::new("memory available", Measure::Bytes, host.memory_available_bytes, needs)
            .consequence(format!(
                "beyond about {enough_for} subscribers the kernel runs out of memory for connections and may kill the \
                 server; the only fixes are more memory or fewer subscribers"
            ))
            .fixed_by(format!("fanfare serve --max-connections {enough_for}"))
    })
}

fn cgroup_memory(host: &Host, demand: &Demand) -> Option<Shortage> {
    let of_unit = host.unit.as_ref().and_then(|unit| unit.memory_max_bytes);
    let has = tighter(host.cgroup.memory_max_bytes, of_unit)?;
    let needs = bytes_needed(host, demand.connections);
    (has < needs).then(|| {
        let line = format!("MemoryMax={}M", needs.div_ceil(1 << 20));
        Shortage::new("the cgroup's memory.max", Measure::Bytes, has, needs)
            .consequence(
                "the kernel kills the server when the cgroup is full; the memory of its connections counts too",
            )
            .fixed_by(in_service(host.unit.as_ref(), &line))
    })
}

fn threads(host: &Host, _: &Demand) -> Option<Shortage> {
    let of_unit = host.unit.as_ref().and_then(|unit| unit.threads_max);
    let has = tighter(host.cgroup.threads_max, of_unit)?;
    (has < THREADS).then(|| {
        Shortage::new("the cgroup's pids.max", Measure::Count, has, THREADS)
            .consequence("the server can't start all of its threads, and exits at startup")
            .fixed_by(in_service(host.unit.as_ref(), &format!("TasksMax={THREADS}")))
    })
}

/// A proxy on this host needs a separate port for each connection to the same address and port.
fn local_ports(host: &Host, demand: &Demand) -> Option<Shortage> {
    const NAME: &str = "net.ipv4.ip_local_port_range";
    let [first, last] = host.sysctls.get(NAME)?.as_slice() else { return None };
    let ports = last.saturating_sub(*first) + 1;
    let has = ports * demand.loopback_listeners;
    (demand.loopback_listeners > 0 && has < demand.connections).then(|| {
        let listeners = 1..=demand.connections.div_ceil(ports).min(254);
        let addresses: String = listeners.map(|last| format!(" --listen 127.0.0.{last}:3001")).collect();
        Shortage::new(NAME, Measure::Count, has, demand.connections)
            .consequence(format!(
                "a proxy on this host has no port for more than {has} connections to Fanfare (EADDRNOTAVAIL), and \
                 slows down from half of that"
            ))
            .fixed_by("fanfare serve --listen unix:/run/fanfare/fanfare.sock # needs no ports")
            .fixed_by(format!("fanfare serve{addresses} # the proxy must use all of them"))
    })
}

/// The backlog that the listener asks for. The rule of somaxconn covers the kernel's cap on it.
fn backlog(host: &Host, demand: &Demand) -> Option<Shortage> {
    let of_socket = host.unit.as_ref().and_then(|unit| unit.backlog.map(|backlog| (unit, backlog)));
    let queue = profile::FIXED.iter().find(|key| key.name == "net.core.somaxconn")?;
    let needs = (queue.least)(demand);
    let has = of_socket.as_ref().map(|(_, backlog)| *backlog).or(demand.backlog)?;
    (has < needs).then(|| {
        let shortage =
            Shortage::new("the listener's backlog", Measure::Count, has, needs).consequence(queue.consequence);
        match of_socket {
            Some((unit, _)) => {
                let socket = unit.name.replace(".service", ".socket");
                let both = format!("{socket} {}", unit.name);
                // A restart of both fails: systemd may start the socket while the service still runs.
                let restart = format!("sudo systemctl stop {both} && sudo systemctl start {both}");
                shortage.fixed_by(drop_in(&socket, "Socket", &format!("Backlog={needs}"), &restart))
            }
            None => shortage.fixed_by(format!("fanfare serve --backlog {needs}")),
        }
    })
}

/// A broadcast takes a page per connection until it is acknowledged; past the second number the kernel saves memory.
fn tcp_mem(host: &Host, demand: &Demand) -> Option<Shortage> {
    let [_, pressure, _] = host.sysctls.get(TCP_MEM)?.as_slice() else { return None };
    (*pressure < demand.connections).then(|| {
        let enough = profile::tcp_mem(host);
        let wanted = enough[1];
        let shortage =
            Shortage::new(TCP_MEM, Measure::Pages, *pressure, demand.connections).consequence(TCP_MEM_CONSEQUENCE);
        // A larger share than a quarter would starve the server itself: then only more memory helps, or fewer
        // connections.
        shortage.fixed_by(match wanted < demand.connections {
            false => format!("sudo sysctl -w {TCP_MEM}='{}'", profile::joined(&enough)),
            true => format!("fanfare serve --max-connections {wanted}"),
        })
    })
}

fn receive_minimum(host: &Host, demand: &Demand) -> Option<Shortage> {
    buffer_minimum("net.ipv4.tcp_rmem", host, demand)
}

fn send_minimum(host: &Host, demand: &Demand) -> Option<Shortage> {
    buffer_minimum("net.ipv4.tcp_wmem", host, demand)
}

/// What every socket may hold even when the kernel saves memory, so that saving has no effect.
fn buffer_minimum(name: &'static str, host: &Host, demand: &Demand) -> Option<Shortage> {
    let [_, _, pages] = host.sysctls.get(TCP_MEM)?.as_slice() else { return None };
    let [minimum, initial, most] = host.sysctls.get(name)?.as_slice() else { return None };
    let page = host.page_bytes;
    let allowed = (pages * page / demand.connections.max(1)).max(page);
    (*minimum > allowed).then(|| {
        Shortage::new(format!("{name} (its first number)"), Measure::Bytes, *minimum, allowed)
            .consequence(format!(
                "{} sockets may hold more than {TCP_MEM} allows: {TCP_MEM_CONSEQUENCE}",
                demand.connections
            ))
            .fixed_by(format!("sudo sysctl -w {name}='{page} {initial} {most}'"))
    })
}

/// Only where the server can't ask for more time itself.
fn stop_timeout(host: &Host, demand: &Demand) -> Option<Shortage> {
    let unit = host.unit.as_ref().filter(|unit| !unit.is_notified)?;
    let has = unit.stop_timeout?.as_secs();
    let needs = demand.drain.as_secs() + LAST_ANSWERS_SECONDS;
    (has < needs).then(|| {
        Shortage::new("the unit's TimeoutStopSec", Measure::Seconds, has, needs)
            .consequence(
                "systemd kills the server during the drain: all remaining subscribers are dropped at once, and \
                 reconnect at once",
            )
            .fixed_by(in_service(Some(unit), &format!("TimeoutStopSec={needs}")))
    })
}

fn sysctl(key: &Key, host: &Host, demand: &Demand) -> Option<Shortage> {
    let has = host.sysctl(key.name)?;
    let needs = (key.least)(demand);
    let is_asked_for = key.name != "net.ipv4.tcp_max_syn_backlog" || host.sysctl("net.ipv4.tcp_syncookies") == Some(0);
    (has < needs && is_asked_for).then(|| {
        let consequence = match (key.name, host.listen_overflows) {
            ("net.core.somaxconn", overflows @ 1..) => format!("{} - {overflows} so far", key.consequence),
            _ => key.consequence.to_owned(),
        };
        Shortage::new(key.name, Measure::Count, has, needs).consequence(consequence).fixed_by(format!(
            "sudo sysctl -w {}={}",
            key.name,
            (key.set)(demand)
        ))
    })
}

/// A broadcast is one packet per subscriber, produced faster than a slow link sends them.
fn interface_queues(host: &Host, demand: &Demand) -> Vec<Shortage> {
    let short = host.queues.iter().filter(|queue| queue.packets_max < demand.connections);
    let shortages = short.map(|queue| {
        let (device, needs) = (&queue.device, demand.connections);
        let what = format!("packets queued for {device} ({})", queue.kind);
        Shortage::new(what, Measure::Count, queue.packets_max, needs)
            .consequence(
                "if the link is slower than the server, packets of a broadcast beyond the queue are dropped; their \
                 subscribers get them when TCP retransmits, 200 ms later or more",
            )
            .fixed_by(format!("sudo tc qdisc replace dev {device} root fq limit {needs}"))
    });
    shortages.collect()
}

/// The command that adds a line to a unit in a drop-in that overrides the others; with `restart` it takes effect.
fn drop_in(unit: &str, section: &str, line: &str, restart: &str) -> String {
    let name = line.split('=').next().unwrap_or_default();
    format!(
        "printf '[{section}]\\n{line}\\n' | sudo install -Dm644 /dev/stdin /etc/systemd/system/{unit}.d/zz-{name}.conf && \
         sudo systemctl daemon-reload && {restart}"
    )
}

/// The same for a service; only the line if no unit is known.
fn in_service(unit: Option<&Unit>, line: &str) -> String {
    let Some(Unit { name, .. }) = unit else { return format!("{line} # in the unit") };
    drop_in(name, "Service", line, &format!("sudo systemctl restart {name}"))
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
