//! Measures processes and the kernel through /proc, before, during and after a test.
//!
//! The figures: *resident* and *proportional* memory are a process's own pages (VmRSS, Pss), without the kernel's part.
//! *CPU* is time on a core, user and system, of all threads (schedstat, in nanoseconds). The kernel's memory is the
//! host's: slabs (sockets, files, dentries, epoll items) and TCP buffer pages. When client and server share a host, it
//! covers both ends.

use std::fs;
use std::iter::Sum;
use std::path::PathBuf;

/// Memory and CPU of one process, or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUse {
    /// Resident memory.
    pub resident_bytes: u64,
    /// Resident memory, with shared pages split among the processes that share them.
    pub proportional_bytes: u64,
    /// CPU time.
    pub cpu_us: u64,
}

/// The kernel's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelUse {
    /// All slabs.
    pub slab_bytes: u64,
    /// Pages that TCP uses for buffers.
    pub tcp_bytes: u64,
}

impl KernelUse {
    /// The sum of both.
    pub fn total_bytes(&self) -> u64 {
        self.slab_bytes + self.tcp_bytes
    }
}

const PAGE_BYTES: u64 = 4096;
/// Linux reports hundredths of a second to user space, whatever its own clock.
const TICK_US: u64 = 10_000;

impl Sum for ProcessUse {
    fn sum<I: Iterator<Item = ProcessUse>>(uses: I) -> ProcessUse {
        uses.fold(ProcessUse::default(), |total, one| ProcessUse {
            resident_bytes: total.resident_bytes + one.resident_bytes,
            proportional_bytes: total.proportional_bytes + one.proportional_bytes,
            cpu_us: total.cpu_us + one.cpu_us,
        })
    }
}

/// What each of the processes uses now; `None` if there are none, or if one has exited or can't be read.
pub fn processes(pids: &[u32]) -> Option<Vec<ProcessUse>> {
    if pids.is_empty() {
        return None;
    }
    pids.iter().map(|pid| process(*pid)).collect()
}

/// The name of a process, as the kernel has it.
pub fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// What the kernel uses now.
pub fn kernel() -> KernelUse {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    KernelUse {
        slab_bytes: field_kb(&meminfo, "Slab:").unwrap_or(0),
        tcp_bytes: tcp_pages(&sockstat).unwrap_or(0) * PAGE_BYTES,
    }
}

/// This process's resident memory.
pub fn resident_bytes() -> Option<u64> {
    field_kb(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

fn process(pid: u32) -> Option<ProcessUse> {
    let root = PathBuf::from(format!("/proc/{pid}"));
    let status = fs::read_to_string(root.join("status")).ok()?;
    let resident_bytes = field_kb(&status, "VmRSS:")?;
    // Another user's smaps are not readable; its resident memory is.
    let rollup = fs::read_to_string(root.join("smaps_rollup")).unwrap_or_default();
    let proportional_bytes = field_kb(&rollup, "Pss:").unwrap_or(resident_bytes);
    let mut cpu_ns = 0;
    for task in fs::read_dir(root.join("task")).ok()?.flatten() {
        let schedstat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        cpu_ns += schedstat.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    // Threads that have ended are only in the process's own sum, which counts in ticks.
    let stat = fs::read_to_string(root.join("stat")).unwrap_or_default();
    let cpu_us = (cpu_ns / 1000).max(cpu_ticks(&stat).unwrap_or(0) * TICK_US);
    Some(ProcessUse { resident_bytes, proportional_bytes, cpu_us })
}

/// User and system time, the 14th and 15th field. The second field is the program's name, which may contain any text.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut ticks = after_name.split_whitespace().skip(11).map(|ticks| ticks.parse::<u64>().ok());
    Some(ticks.next()?? + ticks.next()??)
}

/// The value in bytes of a line such as `VmRSS:   123 kB`.
fn field_kb(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// The `mem` of `TCP: inuse 1 orphan 0 tw 0 alloc 1 mem 23`.
fn tcp_pages(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find(|line| line.starts_with("TCP:"))?;
    line.split_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(field_kb("Name:\tx\nVmRSS:\t    2 kB\n", "VmRSS:"), Some(2048));
        assert_eq!(field_kb("VmRSS: lots", "VmRSS:"), None);
        assert_eq!(tcp_pages("sockets: used 12\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 23\n"), Some(23));
        assert_eq!(tcp_pages(""), None);
        assert_eq!(cpu_ticks("1 (a) b) S 0 1 1 0 -1 4 5 6 7 8 30 12 0 0 20"), Some(42));
        assert_eq!(cpu_ticks("1 (x) S"), None);
    }

    #[test]
    fn this_process_can_be_watched() {
        let twice = processes(&[std::process::id(); 2]).unwrap();
        assert!(twice[0].resident_bytes > 0 && twice[0].proportional_bytes > 0);
        assert!(
            twice.iter().copied().sum::<ProcessUse>().resident_bytes
                >= 2 * twice[0].resident_bytes.min(twice[1].resident_bytes)
        );
        assert_eq!((processes(&[0]), processes(&[])), (None, None));
        assert_ne!(name_of(std::process::id()), "");
        assert!(kernel().slab_bytes > 0);
    }
}
