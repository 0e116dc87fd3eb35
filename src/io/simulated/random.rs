//! Random numbers from a seed.

use std::time::Duration;

/// A small seeded generator (xorshift64*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that repeats the same sequence for the same seed.
    pub fn new(seed: u64) -> Random {
        let mixed = (seed ^ 0x6a09_e667_f3bc_c909).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Random((mixed ^ (mixed >> 32)) | 1)
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.bits()) * end as u128) >> 64) as usize
    }

    /// True with this chance, per thousand.
    pub fn chance(&mut self, in_a_thousand: u32) -> bool {
        in_a_thousand > 0 && self.below(1000) < in_a_thousand as usize
    }

    /// A time up to `max`.
    pub fn up_to(&mut self, max: Duration) -> Duration {
        Duration::from_micros(self.below(max.as_micros() as usize + 1) as u64)
    }
}
