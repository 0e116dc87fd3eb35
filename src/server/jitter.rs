//! A small seeded generator (SplitMix64) that spreads actions over time. It is not for secrets.

use std::time::Duration;

#[derive(Debug)]
pub(super) struct Jitter(pub(super) u64);

impl Jitter {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A duration between zero and `max`.
    pub(super) fn up_to(&mut self, max: Duration) -> Duration {
        max.mul_f64((self.next() >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// A duration between half of `max` and `max`.
    pub(super) fn upper_half(&mut self, max: Duration) -> Duration {
        max / 2 + self.up_to(max / 2)
    }

    /// A duration between 80 and 120 percent of `mean`.
    pub(super) fn around(&mut self, mean: Duration) -> Duration {
        mean * (800 + (self.next() % 401) as u32) / 1000
    }
}
