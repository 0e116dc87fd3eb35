//! The sysctl profile: kernel settings for N connections, and what goes wrong without them.
//!
//! It has two parts. Settings that are the same on every host are files in `sysctl/`, which this code writes and a test
//! compares with it. Settings that depend on a host are computed on it, and never lower its own values. The doctor's
//! rules check the same keys, so the doctor reports none of these keys on a host with both parts. `tuning` decides which
//! of them `fanfare tune` applies.

use super::Demand;
use super::host::Host;
use super::table::wrapped;

/// A sysctl of one number.
pub struct Key {
    /// Its name, as sysctl writes it.
    pub name: &'static str,
    /// Some kernels do not have it; then it is left out without an error.
    pub is_optional: bool,
    /// What it bounds.
    pub bounds: &'static str,
    /// What happens when that is too little.
    pub consequence: &'static str,
    /// The least that is enough for a demand.
    pub least: fn(&Demand) -> u64,
    /// What to set it to.
    pub set: fn(&Demand) -> u64,
}

/// The same on every host: at least as much as any kernel's default, so that the profile never lowers a large host's.
pub const FIXED: &[Key] = &[
    Key {
        name: "net.core.somaxconn",
        is_optional: false,
        bounds: "Caps every listener's queue of connections that wait to be accepted, of TCP and unix sockets alike. \
                 Kernel default: 4096, before Linux 5.4 128.",
        consequence: "when many clients connect at once, a full queue silently drops TCP handshakes, and clients \
                      retry after 1, 3 and 7 seconds (ListenOverflows in /proc/net/netstat counts the drops); a proxy \
                      on a unix socket gets EAGAIN and answers 502",
        least: |demand| demand.connections.min(QUEUE_MAX),
        set: |_| QUEUE_MAX,
    },
    Key {
        name: "net.ipv4.tcp_max_syn_backlog",
        is_optional: false,
        bounds: "Handshakes in progress, on a host with net.ipv4.tcp_syncookies = 0. With 1, the default, the kernel \
                 ignores this number, and the listener's own queue is the bound.",
        consequence: "beyond three quarters of it, handshakes of clients that the kernel has no record of are \
                      dropped, and these clients retry after 1, 3 and 7 seconds",
        least: |demand| demand.connections.min(QUEUE_MAX),
        set: |_| QUEUE_MAX,
    },
    Key {
        name: "net.core.netdev_max_backlog",
        // A network namespace of its own, such as a container's, does not show it.
        is_optional: true,
        bounds: "Packets that one CPU queues before it processes them: all loopback traffic, which includes \
                 everything between the server and a proxy on the same host, and what network cards without NAPI \
                 receive. Kernel \
                 default: 1000.",
        consequence: "part of a burst is dropped, such as the heartbeats of a crowd that connected at once (the \
                      second column of /proc/net/softnet_stat counts the drops); TCP retransmits after 200 ms",
        least: queued_packets,
        set: queued_packets,
    },
    Key {
        name: "net.ipv4.tcp_max_orphans",
        is_optional: false,
        bounds: "Connections that were closed before the peer acknowledged everything. Kernel default: one for each \
                 256 KiB of memory, at most 262144.",
        consequence: "when all connections are closed at once (a crash, a short drain), those beyond the limit are \
                      reset and lose the last bytes sent to them, such as the reconnection time; the kernel logs \
                      \"too many orphaned sockets\"",
        least: |demand| demand.connections,
        set: |demand| demand.connections.next_multiple_of(ORPHANS_STEP),
    },
    Key {
        name: "net.netfilter.nf_conntrack_max",
        is_optional: true,
        bounds: "Connections that the firewall tracks, if it tracks any. A closed one stays for two minutes, so each \
                 client of a crowd that reconnects has two. Kernel default: one for each 16 KiB of memory, at most \
                 262144.",
        consequence: "new connections of the whole host are dropped, including ssh; the kernel logs \"nf_conntrack: \
                      table full, dropping packet\"",
        least: |demand| 2 * demand.connections,
        set: tracked,
    },
    Key {
        name: "net.netfilter.nf_conntrack_buckets",
        is_optional: true,
        bounds: "The size of the hash table of those connections: each is in it twice, and every packet is looked up \
                 in it.",
        consequence: "chains grow to more than eight entries, and each packet walks one, which wastes CPU",
        least: |demand| demand.connections / 2,
        set: tracked,
    },
];

/// Dependent on the host: its memory, or what its service manager has set already.
pub const OF_HOST: &[Key] = &[
    Key {
        name: "fs.nr_open",
        is_optional: false,
        bounds: "The most open files that any process may be allowed. Kernel default: 1048576.",
        consequence: "no LimitNOFILE and no ulimit can exceed it, and logins for which limits.d sets more fail",
        least: |demand| demand.descriptors,
        set: |demand| demand.descriptors.max(DESCRIPTORS_OF_UNIT),
    },
    Key {
        name: "fs.file-max",
        is_optional: false,
        bounds: "Open files of all processes together; a proxy on this host has two for each subscriber. Kernel \
                 default: one for each 10 KiB of memory; systemd removes the limit.",
        consequence: "accept fails with ENFILE, for every process of the host",
        least: |demand| 3 * demand.connections + FILES_OF_OTHERS,
        set: |demand| 3 * demand.connections + FILES_OF_OTHERS,
    },
    Key {
        name: "fs.epoll.max_user_watches",
        is_optional: false,
        bounds: "Descriptors that one user may watch with epoll; a proxy watches two for each subscriber. Kernel \
                 default: as many as fit in 4 % of memory.",
        consequence: "connections beyond it are accepted and closed at once: epoll rejects them (ENOSPC)",
        least: |demand| 2 * demand.connections + FILES_OF_OTHERS,
        set: |demand| 2 * demand.connections + FILES_OF_OTHERS,
    },
];

/// Memory for socket buffers, in pages. It has three numbers, so it needs its own rule.
pub const TCP_MEM: &str = "net.ipv4.tcp_mem";
/// What [`TCP_MEM`] bounds.
const TCP_MEM_BOUNDS: &str = "Pages of memory for the data that TCP sockets hold, sent or received: no restriction \
                              below the first number, memory saving from the second, never more than the third. An \
                              idle connection holds no page; a connection with unacknowledged data holds one until \
                              its peer acknowledges it. Kernel default: 4.7, 6.3 and 9.4 % of memory; this profile \
                              sets four times that, because connections are what this host is for.";
/// What happens when [`TCP_MEM`] is too little.
pub const TCP_MEM_CONSEQUENCE: &str = "in a broadcast the kernel shrinks the buffers of all sockets, accepts no more \
                                       data from the server, and resets connections that are being closed; events \
                                       arrive late, and the kernel logs \"TCP: out of memory -- consider tuning \
                                       tcp_mem\"";

/// Longer queues than this would only hide that the server is late.
const QUEUE_MAX: u64 = 65_535;
/// The kernel's default.
const NETDEV_BACKLOG_DEFAULT: u64 = 1000;
/// The largest default of a kernel.
const ORPHANS_STEP: u64 = 262_144;
/// As above.
const TRACKED_STEP: u64 = 262_144;
/// What the shipped unit asks for.
pub const DESCRIPTORS_OF_UNIT: u64 = 1_048_576;
/// Open files of everything else on the host.
const FILES_OF_OTHERS: u64 = 16_384;

/// A tenth of the connections at one moment, and at least the kernel's default.
fn queued_packets(demand: &Demand) -> u64 {
    (demand.connections / 10).clamp(NETDEV_BACKLOG_DEFAULT, QUEUE_MAX)
}

/// Two for each connection, and a quarter more for the rest of the host.
fn tracked(demand: &Demand) -> u64 {
    (demand.connections * 5 / 2).next_multiple_of(TRACKED_STEP)
}

/// The three numbers of [`TCP_MEM`] for a host: the middle one is a quarter of its memory, the others are in the
/// kernel's ratio to it. No number is lower than the host's own.
pub fn tcp_mem(host: &Host) -> Vec<u64> {
    of_memory(host).at_least(host.sysctls.get(TCP_MEM)).values
}

/// True for the keys of the profile.
pub fn has(name: &str) -> bool {
    name == TCP_MEM || FIXED.iter().chain(OF_HOST).any(|key| key.name == name)
}

/// Which part of the profile is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Both.
    All,
    /// What is the same on every host: the files in sysctl/.
    Fixed,
    /// What depends on this host's memory and settings.
    Host,
}

/// A sysctl and what it is to be set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name, as sysctl writes it.
    pub name: &'static str,
    /// Its numbers.
    pub values: Vec<u64>,
    is_optional: bool,
    bounds: &'static str,
    consequence: &'static str,
}

impl Setting {
    fn of(key: &Key, demand: &Demand) -> Setting {
        let Key { name, is_optional, bounds, consequence, .. } = *key;
        Setting { name, values: vec![(key.set)(demand)], is_optional, bounds, consequence }
    }

    /// The same without a number that is lower than the other value's.
    pub fn at_least(mut self, other: Option<&Vec<u64>>) -> Setting {
        if let Some(other) = other.filter(|other| other.len() == self.values.len()) {
            self.values.iter_mut().zip(other).for_each(|(value, least)| *value = (*value).max(*least));
        }
        self
    }

    /// The setting as a file of sysctl.d has it, below its reason.
    pub fn text(&self) -> String {
        let prefix = if self.is_optional { "-" } else { "" };
        let consequence = format!("Too low: {}.", self.consequence);
        let reason = wrapped(self.bounds, 110).into_iter().chain(wrapped(&consequence, 110));
        let comment = reason.fold("\n".to_owned(), |text, line| text + "# " + &line + "\n");
        format!("{comment}{prefix}{} = {}\n", self.name, joined(&self.values))
    }
}

/// The numbers of a sysctl as the kernel and sysctl write them.
pub fn joined(values: &[u64]) -> String {
    values.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

/// The settings of a part of the profile, whatever the host has already.
pub fn settings(part: Part, host: &Host, demand: &Demand) -> Vec<Setting> {
    let fixed = FIXED.iter().filter(|_| part != Part::Host);
    let of_host = OF_HOST.iter().filter(|_| part != Part::Fixed);
    let tcp_mem = (part != Part::Fixed).then(|| of_memory(host));
    fixed.chain(of_host).map(|key| Setting::of(key, demand)).chain(tcp_mem).collect()
}

fn of_memory(host: &Host) -> Setting {
    let pressure = host.memory_total_bytes / host.page_bytes / 4;
    Setting {
        name: TCP_MEM,
        values: vec![pressure / 4 * 3, pressure, pressure / 4 * 6],
        is_optional: false,
        bounds: TCP_MEM_BOUNDS,
        consequence: TCP_MEM_CONSEQUENCE,
    }
}

/// The profile as a file for sysctl.d. Only the fixed part does not depend on the host, and may be lower than its values.
pub fn text(part: Part, host: &Host, demand: &Demand) -> String {
    let connections = demand.connections;
    let mut text = match part {
        Part::All => format!("# Fanfare: this host for {connections} connections.\n"),
        Part::Fixed => format!("# Fanfare: a host for {connections} connections.\n"),
        Part::Host => format!("# Fanfare: the settings for {connections} connections that depend on this host.\n"),
    };
    let command = format!("fanfare doctor --connections {connections} --sysctl");
    text += &match part {
        Part::All => format!("# Written by: {command}\n"),
        Part::Fixed => format!("# Written by: {command}=fixed\n# What depends on the host's memory: {command}=host\n"),
        Part::Host => format!("# Written by: {command}=host\n"),
    };
    text += "# Apply with: systemctl restart systemd-sysctl (sysctl -p fails at a key that the kernel lacks)\n";
    for setting in settings(part, host, demand) {
        let own = host.sysctls.get(setting.name).filter(|_| part != Part::Fixed);
        text += &setting.at_least(own).text();
    }
    text
}
