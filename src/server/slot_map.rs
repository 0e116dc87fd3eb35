//! Maps by a connection's slot: what only few connections need.
//!
//! The server gives out slots itself, as small numbers, so they need no hash that withstands an attacker's choice of
//! keys.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

pub(super) type SlotMap<T> = HashMap<u32, T, BuildHasherDefault<SlotHasher>>;

/// Multiplies a slot by an odd number near 2^64 divided by the golden ratio, which spreads successive slots (Knuth, The
/// Art of Computer Programming, volume 3, 6.4).
#[derive(Debug, Default)]
pub(super) struct SlotHasher(u64);

impl Hasher for SlotHasher {
    fn write_u32(&mut self, slot: u32) {
        self.0 = u64::from(slot).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(self.0 as u32 ^ u32::from(*byte)));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
