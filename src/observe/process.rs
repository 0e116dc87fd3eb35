//! The kernel's figures of this process, memory and descriptors, sampled by a separate thread.
//!
//! The event loop reads the samples and not /proc: while another thread maps memory, or the process has many
//! descriptors, a read there takes milliseconds.

use std::sync::Arc;
use std::time::Duration;
use std::{fs, io, thread};

use super::live::Live;

/// Between two samples.
const INTERVAL: Duration = Duration::from_secs(1);
/// Looking at each descriptor costs about a microsecond: more than these are not counted one by one.
const DESCRIPTORS_COUNTED_MAX: u64 = 4096;

/// Takes the first sample, and then one a second in a separate thread, which ends with the process.
pub fn sample_into(live: Arc<Live>, page_bytes: u64) -> io::Result<()> {
    sample(&live, page_bytes);
    let sample_on = move || {
        loop {
            thread::sleep(INTERVAL);
            sample(&live, page_bytes);
        }
    };
    thread::Builder::new().name("process-figures".to_owned()).spawn(sample_on).map(drop)
}

fn sample(live: &Live, page_bytes: u64) {
    live.resident_bytes.set(resident_bytes(page_bytes).unwrap_or(0));
    live.open_descriptors.set(open_descriptors(live.connections.get()).unwrap_or(0));
}

fn resident_bytes(page_bytes: u64) -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    resident_pages(&statm).map(|pages| pages * page_bytes)
}

/// The second number of /proc/PID/statm, which counts pages.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

/// Open descriptors, of which at least `known` are.
fn open_descriptors(known: u64) -> Option<u64> {
    // Since Linux 6.2 the folder's size is their number.
    let folder_size = fs::metadata("/proc/self/fd").ok().map(|folder| folder.len());
    match folder_size.filter(|count| *count > 0) {
        Some(count) => Some(count),
        None if known > DESCRIPTORS_COUNTED_MAX => None,
        // Reading the folder takes one itself.
        None => fs::read_dir("/proc/self/fd").ok().map(|entries| (entries.count() as u64).saturating_sub(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_pages_are_of_the_size_that_it_says() {
        assert_eq!(resident_pages("100 7 3 1 0 50 0\n"), Some(7));
        assert_eq!(resident_pages("100"), None);
        let (small, large) = (Live::default(), Live::default());
        sample(&small, 4 << 10);
        sample(&large, 64 << 10);
        // Sixteen times as much for as many pages, give or take what another test's thread takes meanwhile.
        let ratio = large.resident_bytes.get() / small.resident_bytes.get();
        assert!((12..=20).contains(&ratio), "{ratio}");
        assert!(small.open_descriptors.get() > 2);
    }
}
