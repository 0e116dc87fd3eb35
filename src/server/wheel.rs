//! The timer wheel: one deadline for each connection, rough by a tenth of a second, in four bytes each.
//!
//! An entry is only a slot. Whether it still counts the connection itself knows: it remembers the one tick it is
//! armed for. So nothing is ever removed or moved; a deadline that recedes is armed again when it fires, and a slot
//! with a new tenant ignores what its predecessor armed.

use std::time::Duration;

/// A time on the wheel, in steps of [`Tick::LENGTH`] since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(pub(super) u32);

impl Tick {
    pub(super) const LENGTH: Duration = Duration::from_millis(50);
    pub(super) const NEVER: Tick = Tick(u32::MAX);

    /// The last tick at or before `time`.
    pub(super) fn of(time: Duration) -> Tick {
        Tick((time.as_millis() / Tick::LENGTH.as_millis()) as u32)
    }

    /// The first tick that is a whole `wait` later.
    pub(super) fn after(self, wait: Duration) -> Tick {
        let ticks = wait.as_millis().div_ceil(Tick::LENGTH.as_millis());
        Tick(self.0.saturating_add(u32::try_from(ticks).unwrap_or(u32::MAX)).saturating_add(1))
    }

    /// When it begins.
    pub(super) fn time(self) -> Duration {
        Tick::LENGTH * self.0
    }
}

const SLOTS: usize = 2048;

/// Slots of connections by the tick they are armed for, within a horizon of about 100 seconds.
pub(super) struct Wheel {
    slots: Box<[Vec<u32>]>,
    occupied: [u64; SLOTS / 64],
    /// Everything before this tick has fired.
    next: Tick,
}

impl Wheel {
    pub(super) fn new() -> Wheel {
        Wheel { slots: vec![Vec::new(); SLOTS].into(), occupied: [0; SLOTS / 64], next: Tick(0) }
    }

    /// Arms `slot` for `tick`, or for the horizon if that is nearer; tells which.
    pub(super) fn arm(&mut self, slot: u32, tick: Tick) -> Tick {
        let tick = Tick(tick.0.clamp(self.next.0, self.next.0 + SLOTS as u32 - 1));
        let index = tick.0 as usize % SLOTS;
        self.slots[index].push(slot);
        self.occupied[index / 64] |= 1 << (index % 64);
        tick
    }

    /// Moves what is armed for the next tick that is due at `now` into `due`; the tick, or none when all have fired.
    pub(super) fn fire(&mut self, now: Tick, due: &mut Vec<u32>) -> Option<Tick> {
        due.clear();
        let tick = self.next_armed().filter(|tick| *tick <= now);
        self.next = tick.map_or(self.next.max(Tick(now.0 + 1)), |tick| Tick(tick.0 + 1));
        let index = tick?.0 as usize % SLOTS;
        self.occupied[index / 64] &= !(1 << (index % 64));
        // The buffer goes too: a storm's worth of deadlines is not kept for the next one.
        *due = std::mem::take(&mut self.slots[index]);
        tick
    }

    /// The next tick for which anything is armed.
    pub(super) fn next_armed(&self) -> Option<Tick> {
        let start = self.next.0 as usize % SLOTS;
        // Word by word round the wheel; the first word twice, for the part before `start`.
        (0..=self.occupied.len()).find_map(|step| {
            let word = (start / 64 + step) % self.occupied.len();
            let mask = match step {
                0 => u64::MAX << (start % 64),
                _ if step == self.occupied.len() => !(u64::MAX << (start % 64)),
                _ => u64::MAX,
            };
            let bits = self.occupied[word] & mask;
            let index = word * 64 + bits.trailing_zeros() as usize;
            (bits != 0).then(|| Tick(self.next.0 + ((index + SLOTS - start) % SLOTS) as u32))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_wheel_fires_what_a_sorted_map_would(steps in prop::collection::vec((0u32..5000, 0u32..3000), 1..60)) {
            let (mut wheel, mut naive, mut now) = (Wheel::new(), BTreeMap::<u32, Vec<u32>>::new(), 0);
            let mut due = Vec::new();
            for (slot, (advance, ahead)) in steps.into_iter().enumerate() {
                let tick = wheel.arm(slot as u32, Tick(now + ahead));
                naive.entry(tick.0).or_default().push(slot as u32);
                prop_assert_eq!(wheel.next_armed().map(|tick| tick.0), naive.keys().next().copied());
                now += advance;
                while let Some(tick) = wheel.fire(Tick(now), &mut due) {
                    prop_assert_eq!(naive.pop_first(), Some((tick.0, due.clone())));
                }
                prop_assert!(naive.keys().all(|tick| *tick > now));
                now = now.max(wheel.next.0);
            }
        }
    }

    #[test]
    fn a_deadline_is_never_early() {
        for (now_ms, wait_ms) in [(0, 1), (49, 50), (50, 50), (99, 1), (1234, 30_000)] {
            let (now, wait) = (Duration::from_millis(now_ms), Duration::from_millis(wait_ms));
            assert!(Tick::of(now).after(wait).time() >= now + wait, "{now_ms} + {wait_ms}");
        }
    }
}
