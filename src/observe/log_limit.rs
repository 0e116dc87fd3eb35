//! Log entries that any client can cause by the thousand: the first few of a kind are written, the rest counted.
//!
//! Invariant: the number of entries that were left out is logged. Absent: the log itself, and a clock.

use std::time::Duration;

/// From the first entry of a kind until its count starts anew.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// Entries of a kind in one interval.
const ENTRIES_MAX: u64 = 10;

/// Decides which entries of one kind are written.
#[derive(Clone, Debug, Default)]
pub struct LogLimit {
    began_at: Option<Duration>,
    /// In this interval, those left out included.
    entries: u64,
}

impl LogLimit {
    /// True when one more entry may be written.
    pub fn admit(&mut self, now: Duration) -> bool {
        self.began_at.get_or_insert(now);
        self.entries += 1;
        self.entries <= ENTRIES_MAX
    }

    /// How many entries an interval left out that is over by now. Called before each entry and at intervals, so that
    /// the number is also logged when no other entry comes.
    pub fn left_out(&mut self, now: Duration) -> Option<u64> {
        self.began_at.take_if(|began_at| now >= *began_at + INTERVAL)?;
        let entries = std::mem::take(&mut self.entries);
        entries.checked_sub(ENTRIES_MAX).filter(|left_out| *left_out > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is logged of entries at these times, in seconds: the entry, or how many were left out.
    fn check(entries: impl IntoIterator<Item = u64>, expected: &[&str]) {
        let (mut limit, mut logged) = (LogLimit::default(), Vec::new());
        let mut entries = entries.into_iter().peekable();
        for second in 0..100 {
            let now = Duration::from_secs(second);
            logged.extend(limit.left_out(now).map(|count| format!("{second}: {count} more")));
            while entries.next_if_eq(&second).is_some() {
                logged.extend(limit.admit(now).then(|| second.to_string()));
            }
        }
        assert_eq!(logged, expected);
    }

    #[test]
    fn a_few_entries_pass_and_the_others_are_counted() {
        check([], &[]);
        check([3; 10], &["3"; 10]);
        let ten = |second: &'static str| [second; 10];
        check([3; 11], &[&ten("3")[..], &["13: 1 more"]].concat());
        check([3; 5000], &[&ten("3")[..], &["13: 4990 more"]].concat());
        // The interval begins with its first entry, and what follows it is news again.
        check([3, 12, 13], &["3", "12", "13"]);
        check([[3; 12], [13; 12]].concat(), &[&ten("3")[..], &["13: 2 more"], &ten("13"), &["23: 2 more"]].concat());
    }
}
