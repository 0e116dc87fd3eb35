//! Counts by address, of all loops of the node together: connections, or bytes.
//!
//! The table is divided, each part under a lock of its own, which is held while one entry changes. So loops hardly ever wait for
//! each other. The largest part has twice the share of the smallest: so parts grow, and shrink, one after the other.

use std::array;
use std::collections::HashMap;
use std::ops::{Add, Sub};
use std::sync::{Mutex, MutexGuard};

use crate::server::transport::peer::AddressKey;

const PARTS: usize = 64;
/// A part of up to this size keeps its memory.
const KEPT_MAX: usize = 64;

/// The addresses that have any, and how many.
#[derive(Debug)]
pub(crate) struct AddressCounts<N>([Mutex<HashMap<AddressKey, N>>; PARTS]);

impl<N> Default for AddressCounts<N> {
    fn default() -> AddressCounts<N> {
        AddressCounts(array::from_fn(|_| Mutex::default()))
    }
}

impl<N: Copy + Default + Ord + Add<Output = N> + Sub<Output = N>> AddressCounts<N> {
    /// Counts `more` of an address, unless it would have more than `max` then.
    pub(crate) fn take(&self, key: AddressKey, more: N, max: N) -> bool {
        let mut part = self.part(key);
        let count = part.get(&key).copied().unwrap_or_default() + more;
        if count <= max {
            part.insert(key, count);
        }
        count <= max
    }

    /// Stops counting `fewer` of an address.
    pub(crate) fn give_back(&self, key: AddressKey, fewer: N) {
        let mut part = self.part(key);
        match part.get_mut(&key) {
            Some(count) if *count > fewer => *count = *count - fewer,
            _ => _ = part.remove(&key),
        }
        if part.capacity() > KEPT_MAX && part.len() < part.capacity() / 4 {
            let len = part.len();
            part.shrink_to(2 * len);
        }
    }

    /// How many an address has.
    pub(crate) fn count(&self, key: AddressKey) -> N {
        self.part(key).get(&key).copied().unwrap_or_default()
    }

    /// How many addresses have any.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|part| lock(part).len()).sum()
    }

    fn part(&self, key: AddressKey) -> MutexGuard<'_, HashMap<AddressKey, N>> {
        // The golden ratio spreads neighbouring addresses over 0 to 1.
        let spread = u64::from_le_bytes(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let fraction = spread as f64 / f64::from(u32::MAX) / 1.000_001;
        lock(&self.0[((1.0 + fraction).log2() * PARTS as f64) as usize])
    }
}

fn lock<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    part.lock().expect("nothing panics while it changes a count")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_count_an_address_together_and_up_to_its_limit() {
        let counts = AddressCounts::<u32>::default();
        let key = |n: u8| AddressKey::from([n; 8]);
        let taken = std::thread::scope(|scope| {
            let take = || (0..2000).filter(|n| counts.take(key((n % 2) as u8), 1, 700)).count();
            let threads = [(); 4].map(|()| scope.spawn(take));
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!((taken, counts.count(key(0)), counts.count(key(1))), (1400, 700, 700));
        (0..700).for_each(|_| counts.give_back(key(0), 1));
        assert_eq!((counts.count(key(0)), counts.len()), (0, 1));
    }

    #[test]
    fn addresses_that_are_gone_leave_no_memory() {
        let counts = AddressCounts::<u32>::default();
        let keys = || (0..100_000u64).map(u64::to_le_bytes);
        keys().for_each(|key| assert!(counts.take(key, 1, 1)));
        let lens = || counts.0.iter().map(|part| lock(part).len());
        assert!(lens().max() < Some(2 * counts.len() / PARTS), "{:?}", lens().max());
        let larger = lens().filter(|len| 4 * len > 5 * counts.len() / PARTS).count();
        assert!((PARTS / 8..PARTS / 2).contains(&larger), "{larger} parts would grow at the same time");
        keys().for_each(|key| counts.give_back(key, 1));
        assert_eq!(counts.len(), 0);
        assert!(counts.0.iter().all(|part| lock(part).capacity() <= 2 * KEPT_MAX));
    }
}
