//! Counts by address, of all loops of the node together: connections, or bytes. No loop waits for another.

use papaya::{Compute, HashMap, Operation};

use crate::server::transport::peer::AddressKey;

/// The addresses that have any, and how many.
#[derive(Debug, Default)]
pub(crate) struct AddressCounts(HashMap<AddressKey, usize>);

impl AddressCounts {
    /// Counts `more` of an address, unless it would have more than `max` then.
    pub(crate) fn take(&self, key: AddressKey, more: usize, max: usize) -> bool {
        let add = |entry: Option<(&AddressKey, &usize)>| match entry.map_or(0, |(_, count)| *count) + more {
            count if count > max => Operation::Abort(()),
            count => Operation::Insert(count),
        };
        !matches!(self.0.pin().compute(key, add), Compute::Aborted(()))
    }

    /// Stops counting `fewer` of an address.
    pub(crate) fn give_back(&self, key: AddressKey, fewer: usize) {
        let subtract = |entry: Option<(&AddressKey, &usize)>| match entry {
            None => Operation::Abort(()),
            Some((_, count)) if *count <= fewer => Operation::Remove,
            Some((_, count)) => Operation::Insert(count - fewer),
        };
        self.0.pin().compute(key, subtract);
    }

    /// How many an address has.
    pub(crate) fn count(&self, key: AddressKey) -> usize {
        self.0.pin().get(&key).copied().unwrap_or(0)
    }

    /// How many addresses have any.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_count_an_address_together_and_up_to_its_limit() {
        let counts = AddressCounts::default();
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
}
