//! What the kernel says of this process: memory and descriptors.

use std::fs;

/// Bytes of memory that are resident.
pub fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    // statm counts in pages, which are 4 KiB on every machine this runs on (x86-64, aarch64 by default).
    Some(pages * 4096)
}

/// Open descriptors. Costs a look at each: for a scrape, not for a tick.
pub fn open_descriptors() -> Option<usize> {
    // The look itself takes one.
    fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1))
}
