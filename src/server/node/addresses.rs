//! How many connections each address has, on all loops of the node together. No loop waits for another.

use papaya::{HashMap, Operation};

use crate::server::transport::peer::AddressKey;

/// Addresses that have connections.
#[derive(Debug, Default)]
pub(crate) struct Addresses(HashMap<AddressKey, u32>);

impl Addresses {
    /// Counts another connection of an address, if it has fewer than `limit`.
    pub(crate) fn take(&self, key: AddressKey, limit: u32) -> bool {
        let more = |entry: Option<(&AddressKey, &u32)>| match entry.map_or(0, |(_, count)| *count) {
            count if count >= limit => Operation::Abort(()),
            count => Operation::Insert(count + 1),
        };
        !matches!(self.0.pin().compute(key, more), papaya::Compute::Aborted(()))
    }

    /// Stops counting a connection of an address.
    pub(crate) fn give_back(&self, key: AddressKey) {
        let less = |entry: Option<(&AddressKey, &u32)>| match entry {
            None => Operation::Abort(()),
            Some((_, count)) if *count <= 1 => Operation::Remove,
            Some((_, count)) => Operation::Insert(count - 1),
        };
        self.0.pin().compute(key, less);
    }

    /// How many connections an address has.
    pub(crate) fn count(&self, key: AddressKey) -> u32 {
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
        let addresses = Addresses::default();
        let key = |n: u8| AddressKey::from([n; 8]);
        let taken = std::thread::scope(|scope| {
            let take = || (0..2000).filter(|n| addresses.take(key((n % 2) as u8), 700)).count();
            let threads = [(); 4].map(|()| scope.spawn(take));
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!((taken, addresses.count(key(0)), addresses.count(key(1))), (1400, 700, 700));
        (0..700).for_each(|_| addresses.give_back(key(0)));
        assert_eq!((addresses.count(key(0)), addresses.len()), (0, 1));
    }
}
