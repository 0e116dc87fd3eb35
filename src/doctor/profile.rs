//! The sysctl profile: kernel settings for N connections, and what goes wrong without them.
//!
//! It has two parts. Settings that are the same on every host are files in `sysctl/`, which this code writes and a test
//! compares with it. Settings that depend on a host are computed on it, and never lower its own values. The doctor's
//! rules check the same keys, so the doctor reports none of these keys on a host with both parts.

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
        consequence: "when many come back at once, a full queue drops TCP handshakes without a word, and clients try \
                    again after 1, 3 and 7 seconds (ListenOverflows in /proc/net/netstat counts them); a proxy on a \
                    unix socket gets EAGAIN and answers 502",
        least: |demand| demand.connections.min(QUEUE_MAX),
        set: |_| QUEUE_MAX,
    },
    Key {
        name: "net.ipv4.tcp_max_syn_backlog",
        is_optional: false,
        bounds: "Handshakes under way, on a host with net.ipv4.tcp_syncookies = 0. With 1, the default, nothing asks \
                 for this number, and the listener's own queue is the bound.",
        consequence: "beyond three quarters of it, handshakes of clients that are new here are dropped, and they try \
                    again after 1, 3 and 7 seconds",
        least: |demand| demand.connections.min(QUEUE_MAX),
        set: |_| QUEUE_MAX,
    },
    Key {
        name: "net.core.netdev_max_backlog",
        // A network namespace of its own, such as a container's, does not show it.
        is_optional: true,
        bounds: "Packets that one CPU queues for itself before it handles them: all of loopback, so everything between \
                 the server and a proxy on the same host, and what network cards without NAPI receive. Kernel \
                 default: 1000.",
        consequence: "a burst such as the keepalive probes of a crowd that came at once is dropped in part (the second \
                    column of /proc/net/softnet_stat counts it); TCP tries again after 200 ms, and a lost probe \
                    brings its connection nearer to being given up",
        least: queued_packets,
        set: queued_packets,
    },
    Key {
        name: "net.ipv4.tcp_max_orphans",
        is_optional: false,
        bounds: "Connections that were closed before the peer acknowledged everything. Kernel default: one for each \
                 256 KiB of memory, at most 262144.",
        consequence: "when all are closed at once (a crash, a short drain) the rest are reset, and what they were told \
                    last, such as when to come back, is lost; the kernel logs \"too many orphaned sockets\"",
        least: |demand| demand.connections,
        set: |demand| demand.connections.next_multiple_of(ORPHANS_STEP),
    },
    Key {
        name: "net.netfilter.nf_conntrack_max",
        is_optional: true,
        bounds: "Connections that the firewall follows, if it follows any. A closed one stays for two minutes, so a \
                 crowd that comes back has two each. Kernel default: one for each 16 KiB of memory, at most 262144.",
        consequence: "new connections of the whole host are dropped, ssh among them; the kernel logs \"nf_conntrack: \
                    table full, dropping packet\"",
        least: |demand| 2 * demand.connections,
        set: tracked,
    },
    Key {
        name: "net.netfilter.nf_conntrack_buckets",
        is_optional: true,
        bounds: "The hash table of those connections, each twice in it, that every packet is looked up in.",
        consequence: "chains grow to more than eight entries, and each packet walks one: CPU for nothing",
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
        consequence: "no LimitNOFILE and no ulimit goes beyond it, and a login that asks for more in limits.d fails",
        least: |demand| demand.descriptors,
        set: |demand| demand.descriptors.max(DESCRIPTORS_OF_UNIT),
    },
    Key {
        name: "fs.file-max",
        is_optional: false,
        bounds: "Open files of all processes together; a proxy on this host has two for each subscriber. Kernel \
                 default: one for each 10 KiB of memory; systemd lifts it altogether.",
        consequence: "accept fails with ENFILE, for every process of the host",
        least: |demand| 3 * demand.connections + FILES_OF_OTHERS,
        set: |demand| 3 * demand.connections + FILES_OF_OTHERS,
    },
    Key {
        name: "fs.epoll.max_user_watches",
        is_optional: false,
        bounds: "Descriptors that one user may watch with epoll; a proxy watches two for each subscriber. Kernel \
                 default: as many as fit in 4 % of memory.",
        consequence: "connections beyond it are accepted and closed at once: epoll does not take them (ENOSPC)",
        least: |demand| 2 * demand.connections + FILES_OF_OTHERS,
        set: |demand| 2 * demand.connections + FILES_OF_OTHERS,
    },
];

/// Memory for socket buffers, in pages. It has three numbers, so it needs its own rule.
pub const TCP_MEM: &str = "net.ipv4.tcp_mem";
/// What [`TCP_MEM`] bounds.
const TCP_MEM_BOUNDS: &str = "Pages of memory for all that TCP sockets hold for their peers or their readers: no worry \
                              below the first number, thrift from the second, no more than the third. An idle \
                              connection holds none; one that was sent something holds a page until its peer has \
                              acknowledged it. Kernel default: 4.7, 6.3 and 9.4 % of memory; here four times that, \
                              since connections are what this host is for.";
/// What happens when [`TCP_MEM`] is too little.
pub const TCP_MEM_CONSEQUENCE: &str = "in a broadcast the kernel shrinks the buffers of all sockets, takes no more from \
                                     the server, and resets what is being closed: late events, and \"TCP: out of \
                                     memory -- consider tuning tcp_mem\" in its log";

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
pub fn tcp_mem(host: &Host) -> [u64; 3] {
    let pressure = host.memory_total_bytes / host.page_bytes / 4;
    let wanted = [pressure / 4 * 3, pressure, pressure / 4 * 6];
    let given = host.sysctls.get(TCP_MEM).and_then(|given| <[u64; 3]>::try_from(given.as_slice()).ok());
    given.map_or(wanted, |given| std::array::from_fn(|index| wanted[index].max(given[index])))
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

/// The profile as a file for sysctl.d.
pub fn text(part: Part, host: &Host, demand: &Demand) -> String {
    let connections = demand.connections;
    let mut text = match part {
        Part::All => format!("# Fanfare: this host for {connections} connections.\n"),
        Part::Fixed => format!("# Fanfare: a host for {connections} connections.\n"),
        Part::Host => format!("# Fanfare: {connections} connections, as far as it depends on this host.\n"),
    };
    let command = format!("fanfare doctor --connections {} --sysctl", demand.connections);
    text += &match part {
        Part::All => format!("# Written by: {command}\n"),
        Part::Fixed => format!("# Written by: {command}=fixed\n# What depends on the host's memory: {command}=host\n"),
        Part::Host => format!("# Written by: {command}=host\n"),
    };
    text += "# Put in force by: systemctl restart systemd-sysctl (sysctl -p fails at a key that the kernel lacks)\n";
    if part != Part::Host {
        FIXED.iter().for_each(|key| text += &entry(key, (key.set)(demand).max(floor(key, part, host))));
    }
    if part != Part::Fixed {
        OF_HOST.iter().for_each(|key| text += &entry(key, (key.set)(demand).max(floor(key, part, host))));
        let [low, pressure, high] = tcp_mem(host);
        text += &comment(TCP_MEM_BOUNDS, TCP_MEM_CONSEQUENCE);
        text += &format!("{TCP_MEM} = {low} {pressure} {high}\n");
    }
    text
}

/// The host's own value, which the profile never lowers. The fixed part does not depend on a host.
fn floor(key: &Key, part: Part, host: &Host) -> u64 {
    host.sysctl(key.name).filter(|_| part != Part::Fixed).unwrap_or(0)
}

fn entry(key: &Key, value: u64) -> String {
    let prefix = if key.is_optional { "-" } else { "" };
    comment(key.bounds, key.consequence) + &format!("{prefix}{} = {value}\n", key.name)
}

fn comment(bounds: &str, consequence: &str) -> String {
    let lines = wrapped(bounds, 110).into_iter().chain(wrapped(&format!("Too low: {consequence}."), 110));
    lines.fold("\n".to_owned(), |text, line| text + "# " + &line + "\n")
}
