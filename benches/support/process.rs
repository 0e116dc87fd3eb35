//! What the kernel says of a process: CPU time, memory, and of itself: the memory that sockets take.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The core for the server under test, alone.
pub const SERVER_CORE: usize = 0;
/// The core for everything else.
pub const CLIENT_CORE: usize = 1;

/// A command that runs on one core, where the machine has several and `taskset` (util-linux) is there.
pub fn pinned(core: usize, program: &OsStr) -> Command {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cores < 2 || !fs::exists("/usr/bin/taskset").unwrap_or(false) {
        return Command::new(program);
    }
    let mut command = Command::new("/usr/bin/taskset");
    command.arg("--cpu-list").arg(core.to_string()).arg(program);
    command
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
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap_or_else(|error| panic!("process {pid}: {error}"));
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .map(|line| line.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0))
        .sum()
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

fn kilobytes(text: &str, key: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) << 10
}
