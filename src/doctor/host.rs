//! A host at one moment: its limits, sysctls, memory and cgroup, as the files in /proc and /sys show them.
//!
//! A value that can't be read is none, and no rule checks it. Reading runs no command, so the server also does it at
//! start.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use super::certificate::CertificateState;
use super::profile;
use super::queue::Queue;
use super::unit::Unit;

/// What the doctor reads of a host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The size of a page of memory.
    pub page_bytes: u64,
    /// All memory.
    pub memory_total_bytes: u64,
    /// What is available of it without swapping.
    pub memory_available_bytes: u64,
    /// The hard limit on open files of this process: the server raises its soft one to it.
    pub descriptors_max: u64,
    /// The numbers of each sysctl that a rule checks, except those that the kernel does not have.
    pub sysctls: BTreeMap<&'static str, Vec<u64>>,
    /// TCP connections that are open already; their memory is already in use.
    pub sockets_open: u64,
    /// Handshakes that found a listener's queue full, since the host or its network namespace started.
    pub listen_overflows: u64,
    /// The limits of the cgroup that the server is in, or will be.
    pub cgroup: Cgroup,
    /// The unit of the service manager, where there is one.
    pub unit: Option<Unit>,
    /// What each network interface queues.
    pub queues: Vec<Queue>,
    /// The certificates that were asked about.
    pub certificates: Vec<CertificateState>,
    /// Whether io_uring can be used; if not, why. None: not asked.
    pub io_uring: Option<Result<(), String>>,
    /// What could not be read.
    pub unread: Vec<String>,
}

/// The tightest limits on the way from the root of cgroups to one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// memory.max.
    pub memory_max_bytes: Option<u64>,
    /// pids.max.
    pub threads_max: Option<u64>,
}

/// Sysctls that rules check in addition to those of the profile.
const OTHER_SYSCTLS: [&str; 5] = [
    profile::TCP_MEM,
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ip_local_port_range",
];

impl Host {
    /// Reads the host whose files are below `root`; its limits and cgroup are those of `process`, an id or `self`.
    ///
    /// Fails if /proc does not hold what the kernel writes there.
    pub fn read(root: &Path, process: &str, page_bytes: u64) -> io::Result<Host> {
        let proc = root.join("proc");
        let meminfo = read(&proc.join("meminfo"))?;
        let limits = read(&proc.join(process).join("limits"))?;
        let mut host = Host {
            page_bytes,
            memory_total_bytes: meminfo_bytes(&meminfo, "MemTotal").ok_or_else(|| odd("meminfo"))?,
            memory_available_bytes: meminfo_bytes(&meminfo, "MemAvailable").ok_or_else(|| odd("meminfo"))?,
            descriptors_max: hard_limit(&limits, "Max open files").ok_or_else(|| odd("limits"))?,
            ..Host::default()
        };
        let keys = profile::FIXED.iter().chain(profile::OF_HOST);
        let keys = keys.map(|key| (key.name, key.is_optional)).chain(OTHER_SYSCTLS.map(|name| (name, false)));
        for (name, is_optional) in keys {
            match sysctl(&proc, name) {
                Some(numbers) => drop(host.sysctls.insert(name, numbers)),
                None if is_optional => {}
                None => host.unread.push(name.to_owned()),
            }
        }
        let sockstat = fs::read_to_string(proc.join(process).join("net/sockstat"));
        match sockstat.ok().and_then(|text| open_sockets(&text)) {
            Some(count) => host.sockets_open = count,
            None => host.unread.push("net/sockstat".to_owned()),
        }
        let netstat = fs::read_to_string(proc.join(process).join("net/netstat"));
        match netstat.ok().and_then(|text| counter(&text, "TcpExt:", "ListenOverflows")) {
            Some(count) => host.listen_overflows = count,
            None => host.unread.push("net/netstat".to_owned()),
        }
        let cgroup = fs::read_to_string(proc.join(process).join("cgroup"));
        // Without cgroup version 2, there are no limits to read.
        if let Some(path) = cgroup.ok().as_deref().and_then(unified_path) {
            host.cgroup = Cgroup::read(root, path);
        }
        Ok(host)
    }

    /// A sysctl that is one number.
    pub fn sysctl(&self, name: &str) -> Option<u64> {
        self.sysctls.get(name)?.first().copied()
    }
}

impl Cgroup {
    /// The limits at a path of cgroups, and above it.
    pub fn read(root: &Path, path: &str) -> Cgroup {
        let top = root.join("sys/fs/cgroup");
        let mut cgroup = Cgroup::default();
        for folder in top.join(path.trim_start_matches('/')).ancestors().take_while(|folder| folder.starts_with(&top)) {
            // The word max means no limit, and is not a number.
            let limit = |file| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
            cgroup.memory_max_bytes = tighter(cgroup.memory_max_bytes, limit("memory.max"));
            cgroup.threads_max = tighter(cgroup.threads_max, limit("pids.max"));
        }
        cgroup
    }
}

/// The lesser of two limits, each of which may be none.
pub fn tighter(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn odd(file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{file} is not what the kernel writes"))
}

fn sysctl(proc: &Path, name: &str) -> Option<Vec<u64>> {
    let text = fs::read_to_string(proc.join("sys").join(name.replace('.', "/"))).ok()?;
    let numbers: Option<Vec<u64>> = text.split_whitespace().map(|number| number.parse().ok()).collect();
    numbers.filter(|numbers| !numbers.is_empty())
}

/// A line of /proc/meminfo, which counts in units of 1024 bytes.
fn meminfo_bytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The second number of a line of /proc/PID/limits.
fn hard_limit(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// The sockets in use of /proc/net/sockstat's line for TCP.
fn open_sockets(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP: inuse "))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A counter of /proc/net/netstat: a line of names, then one of numbers, both behind the same word.
fn counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let index = names.split_whitespace().position(|known| known == name)?;
    numbers.split_whitespace().nth(index)?.parse().ok()
}

/// The path in version 2's hierarchy, which is the one numbered 0.
fn unified_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(meminfo_bytes("MemTotal:   24684032 kB\nMemFree: 1 kB\n", "MemFree"), Some(1024));
        assert_eq!(meminfo_bytes("MemTotal: much\n", "MemTotal"), None);
        let limits = "Limit            Soft Limit   Hard Limit   Units\nMax open files   1024   20000   files\n";
        assert_eq!(hard_limit(limits, "Max open files"), Some(20_000));
        assert_eq!(hard_limit("Max open files   1024   unlimited   files", "Max open files"), Some(u64::MAX));
        assert_eq!(hard_limit(limits, "Max cpu time"), None);
        assert_eq!(open_sockets("sockets: used 9\nTCP: inuse 7 orphan 0\nUDP: inuse 1\n"), Some(7));
        let netstat = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 3\nIpExt: A\nIpExt: 4\n";
        assert_eq!(counter(netstat, "TcpExt:", "ListenOverflows"), Some(22));
        assert_eq!(counter(netstat, "TcpExt:", "Absent"), None);
        assert_eq!(unified_path("4:memory:/a\n0::/system.slice/b.service\n"), Some("/system.slice/b.service"));
        assert_eq!(unified_path("4:memory:/a\n"), None);
    }

    #[test]
    fn a_cgroup_is_as_tight_as_the_tightest_above_it() {
        let root = tempfile::tempdir().unwrap();
        let slice = root.path().join("sys/fs/cgroup/system.slice");
        let service = slice.join("fanfare.service");
        fs::create_dir_all(&service).unwrap();
        let put = |file: &Path, text: &str| fs::write(file, text).unwrap();
        put(&service.join("memory.max"), "max\n");
        put(&service.join("pids.max"), "77\n");
        put(&slice.join("memory.max"), "4096\n");
        put(&slice.join("pids.max"), "max\n");
        let cgroup = Cgroup::read(root.path(), "/system.slice/fanfare.service");
        assert_eq!(cgroup, Cgroup { memory_max_bytes: Some(4096), threads_max: Some(77) });
        assert_eq!(Cgroup::read(root.path(), "/"), Cgroup::default());
    }

    #[test]
    fn this_host_can_be_read() {
        let host = Host::read(Path::new("/"), "self", 4096).unwrap();
        assert!(host.memory_total_bytes >= host.memory_available_bytes && host.descriptors_max > 0, "{host:?}");
        assert!(host.sysctl("fs.nr_open").is_some_and(|files| files > 0), "{host:?}");
    }
}
