//! What the kernel says of a process: CPU time, memory, and of itself: the memory that sockets take.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The core for the server under test, alone.
pub const SERVER_CORE: usize = 0;
/// The core for everything else.
pub const CLIENT_CORE: usize = 1;

/// A command that runs on one core, where the machine has several and `taskset` (util-linux) is there.
pub fn pinned(core: usize, program: &OsStr) -> Command {
    if core_count() <= core || !fs::exists("/usr/bin/taskset").unwrap_or(false) {
        return Command::new(program);
    }
    let mut command = Command::new("/usr/bin/taskset");
    command.arg("--cpu-list").arg(core.to_string()).arg(program);
    command
}

/// The machine's cores, not those that this process keeps to.
fn core_count() -> usize {
    let stat = fs::read_to_string("/proc/stat").expect("Linux has /proc/stat");
    stat.lines().filter(|line| line.starts_with("cpu")).count() - 1
}

/// Keeps this process, and what it starts without a core of its own, off the server's core.
pub fn pin_self() {
    let (core, pid) = (CLIENT_CORE.to_string(), std::process::id().to_string());
    let mut command = Command::new("/usr/bin/taskset");
    command.args(["--cpu-list", "--pid", &core, &pid]).stdout(std::process::Stdio::null());
    // Without taskset, or a second core, the figures are only noisier.
    let _ = command.stderr(std::process::Stdio::null()).status();
}

/// Nanoseconds since 1970: the one clock that several processes share.
pub fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_nanos() as u64
}

/// CPU time of a process, all threads, in nanoseconds, once it has come to rest: a running thread's own figure lags.
pub fn cpu_ns(pid: u32) -> u64 {
    let mut last = cpu_ns_now(pid);
    loop {
        sleep(Duration::from_micros(300));
        match cpu_ns_now(pid) {
            now if now == last => return now,
            now => last = now,
        }
    }
}

/// As [`cpu_ns`], without waiting for rest.
pub fn cpu_ns_now(pid: u32) -> u64 {
    thread_cpu_ns(pid).values().sum()
}

/// CPU time of each thread of a process, by its name, in nanoseconds and without waiting for rest. Threads of one name
/// count together.
pub fn thread_cpu_ns(pid: u32) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap_or_else(|error| panic!("process {pid}: {error}"));
    for path in tasks.filter_map(|task| Some(task.ok()?.path())) {
        // A thread may end meanwhile.
        let (Ok(name), Ok(line)) = (fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("schedstat")))
        else {
            continue;
        };
        let ns = line.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        *found.entry(name.trim_end().to_owned()).or_default() += ns;
    }
    found
}

/// As [`sending_cpu_ns`], without waiting for rest.
pub fn sending_cpu_ns_now(pid: u32) -> u64 {
    family(pid).into_iter().map(cpu_ns_now).sum::<u64>() + softirq_thread().map_or(0, cpu_ns_now)
}

/// CPU time of a sender in nanoseconds, once it has come to rest: its own, and what the kernel did of its work in the
/// softirq thread of the server's core. Batches of sends push half their cost there; single sends none.
pub fn sending_cpu_ns(pid: u32) -> u64 {
    family(pid).into_iter().map(cpu_ns).sum::<u64>() + softirq_thread().map_or(0, cpu_ns_now)
}

/// The kernel's thread that receives packets on the server's core when there are too many to do at once; none where
/// kernel threads can't be seen.
fn softirq_thread() -> Option<u32> {
    static FOUND: OnceLock<Option<u32>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let name = format!("ksoftirqd/{SERVER_CORE}\n");
        let processes = fs::read_dir("/proc").ok()?;
        let is_it = |path: &PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm == name);
        let found = processes.filter_map(|entry| Some(entry.ok()?.path())).find(is_it)?;
        found.file_name()?.to_str()?.parse().ok()
    })
}

/// A process's memory in bytes: resident, and of that anonymous (heap, stacks).
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    pub all: u64,
    pub anonymous: u64,
}

/// What is resident, exactly: counted from the page tables, not from counters that lag.
pub fn resident(pid: u32) -> Resident {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    let rollup = rollup.unwrap_or_else(|error| panic!("process {pid}: {error}"));
    Resident { all: kilobytes(&rollup, "Rss:"), anonymous: kilobytes(&rollup, "Anonymous:") }
}

/// What is resident, by a counter that lags a little but costs nothing to read.
pub fn resident_now(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// The most that was ever resident, in bytes.
pub fn resident_peak(pid: u32) -> u64 {
    kilobytes(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default(), "VmHWM:")
}

/// Memory of the whole kernel that grows with sockets, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Slab caches: sockets, inodes, files, dentries, epoll items.
    pub slab: u64,
    /// Pages in TCP buffers.
    pub tcp_buffers: u64,
}

/// What the kernel uses now. Other processes' doings are in it too: measure deltas, several times.
pub fn kernel() -> Kernel {
    let meminfo = fs::read_to_string("/proc/meminfo").expect("Linux has /proc/meminfo");
    let sockstat = fs::read_to_string("/proc/net/sockstat").expect("Linux has /proc/net/sockstat");
    let tcp = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = tcp.rsplit(' ').next().and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    Kernel { slab: kilobytes(&meminfo, "Slab:"), tcp_buffers: pages * 4096 }
}

/// A process and all that it started: what some servers are made of.
pub fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    std::iter::once(pid).chain(children.flat_map(family)).collect()
}

fn kilobytes(text: &str, key: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) << 10
}
