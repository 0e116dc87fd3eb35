//! How many connections each address has.
//!
//! The table grows in steps. One table for a million addresses would move all of them in the turn of a single accept,
//! when it doubles: 20 ms and more. Here each part doubles by itself. Addresses are spread over the parts at random, so that
//! parts reach that point at different times.

use std::collections::HashMap;
use std::hash::BuildHasher;

use super::peer::AddressKey;
use crate::server::shrink::shrink_map;

const PARTS: usize = 256;
/// Parts that one call shrinks.
const SHRUNK_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Addresses {
    parts: Box<[HashMap<AddressKey, u32>]>,
    len: usize,
    /// The part that is shrunk next.
    next_shrunk: usize,
}

impl Default for Addresses {
    fn default() -> Addresses {
        // Not clones of one: a clone would have the same hash, and place what is in its part badly.
        Addresses { parts: (0..PARTS).map(|_| HashMap::new()).collect(), len: 0, next_shrunk: 0 }
    }
}

impl Addresses {
    /// How many addresses have connections.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many connections this address has.
    pub(super) fn count(&self, key: AddressKey) -> u32 {
        self.parts[self.part(key)].get(&key).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, key: AddressKey) {
        let part = self.part(key);
        let count = self.parts[part].entry(key).or_insert(0);
        self.len += usize::from(*count == 0);
        *count += 1;
    }

    pub(super) fn remove(&mut self, key: AddressKey) {
        let part = &mut self.parts[self.part(key)];
        if let Some(count) = part.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                part.remove(&key);
                self.len -= 1;
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.parts.iter_mut().for_each(HashMap::clear);
        self.len = 0;
    }

    /// Frees memory that is not needed any more, of some parts in each call.
    pub(super) fn shrink(&mut self) {
        self.parts[self.next_shrunk..][..SHRUNK_MAX].iter_mut().for_each(shrink_map);
        self.next_shrunk = (self.next_shrunk + SHRUNK_MAX) % PARTS;
    }

    /// By a random hash. The parts have hashes of their own, so this one says nothing about places in them.
    fn part(&self, key: AddressKey) -> usize {
        self.parts[0].hasher().hash_one(key) as usize % PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_by_address_and_parts_grow_one_after_the_other() {
        let mut addresses = Addresses::default();
        let key = |n: u32| {
            let mut key = AddressKey::default();
            key[4..].copy_from_slice(&n.to_be_bytes());
            key
        };
        let capacities = |addresses: &Addresses| addresses.parts.iter().map(HashMap::capacity).collect::<Vec<_>>();
        let (mut before, mut grown_at_once_max) = (capacities(&addresses), 0);
        for n in 0..200_000 {
            addresses.add(key(n));
            if n % 256 == 255 {
                let after = capacities(&addresses);
                let grown = std::iter::zip(&before, &after).filter(|(before, after)| before != after).count();
                // At first, each part is small.
                grown_at_once_max = if n < 50_000 { 0 } else { grown.max(grown_at_once_max) };
                before = after;
            }
        }
        assert!((1..PARTS / 8).contains(&grown_at_once_max), "{grown_at_once_max} parts in 256 accepts");
        addresses.add(key(7));
        assert_eq!((addresses.len(), addresses.count(key(7)), addresses.count(key(200_000))), (200_000, 2, 0));
        (0..200_000).for_each(|n| addresses.remove(key(n)));
        assert_eq!((addresses.len(), addresses.count(key(7)), addresses.count(key(8))), (1, 1, 0));
    }
}
