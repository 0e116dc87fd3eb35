//! The kernel's figures of this process, memory and descriptors, sampled by a separate thread. It also returns free memory
//! to the kernel, after much of what the loop held is gone.
//!
//! The event loop reads the samples and not /proc: while another thread maps memory, or the process has many
//! descriptors, a read there takes milliseconds.

use std::sync::Arc;
use std::time::Duration;
use std::{fs, io, thread};

use super::live::Live;

/// Between two samples.
const INTERVAL: Duration = Duration::from_secs(1);
/// When free memory is returned once more: the timers of connections that have closed are gone by then, and with them the pages
/// where these lay.
const AGAIN_AFTER: u32 = 110;
/// Looking at each descriptor costs about a microsecond: more than these are not counted one by one.
const DESCRIPTORS_COUNTED_MAX: u64 = 4096;
/// Fewer connections, topics and events than these leave little memory behind: about 1 MB.
const RELEASED_MIN: u64 = 1000;

/// Takes the first sample, and then one a second in a separate thread, which ends with the process. The thread calls
/// `return_free_memory` when a time of many connections, topics or events is over, and again [`AGAIN_AFTER`] samples later.
pub fn sample_into(live: Arc<Live>, page_bytes: u64, return_free_memory: fn()) -> io::Result<()> {
    sample(&live, page_bytes);
    let sample_on = move || {
        let mut decline = Decline::default();
        let mut again_in: u32 = 0;
        loop {
            thread::sleep(INTERVAL);
            let is_over = decline.is_over(live.held.get());
            if is_over || again_in == 1 {
                return_free_memory();
            }
            again_in = if is_over { AGAIN_AFTER } else { again_in.saturating_sub(1) };
            sample(&live, page_bytes);
        }
    };
    thread::Builder::new().name("process-figures".to_owned()).spawn(sample_on).map(drop)
}

/// Finds the end of each decline of a figure by at least a quarter.
#[derive(Debug, Default)]
struct Decline {
    /// The highest value since the last decline.
    highest: u64,
    last: u64,
}

impl Decline {
    fn is_over(&mut self, held: u64) -> bool {
        let is_falling = held < self.last - self.last / 64;
        self.last = held;
        self.highest = self.highest.max(held);
        let is_over = !is_falling && self.highest - held >= (self.highest / 4).max(RELEASED_MIN);
        if is_over {
            self.highest = held;
        }
        is_over
    }
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
    fn a_decline_is_over_once_when_what_was_held_falls_no_more() {
        let over = |values: &[u64]| {
            let mut decline = Decline::default();
            values.iter().map(|held| decline.is_over(*held)).collect::<Vec<_>>()
        };
        assert_eq!(over(&[0, 100_000, 60_000, 9_000, 9_000, 9_000]), [false, false, false, false, true, false]);
        assert_eq!(over(&[100_000, 80_000, 80_000, 75_000, 75_000]), [false, false, false, false, true]);
        assert_eq!(over(&[1_500, 501, 501]), [false; 3], "too few are gone");
        assert_eq!(over(&[1_500, 500, 500]), [false, false, true]);
    }

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
