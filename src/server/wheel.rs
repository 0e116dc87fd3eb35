//! The timer wheel: one deadline for each connection, up to a tenth of a second late, in four bytes each.
//!
//! An entry is only a slot. The connection stores the one tick it is armed for, which decides whether an entry still
//! counts. So no entry is ever removed or moved: a deadline that moves to a later time is armed again when it fires,
//! and a new connection in a slot ignores what the previous one armed.

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

    /// The first tick that is at least `wait` later.
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
    /// Entries on it. It is often zero, and every turn checks it.
    entries: usize,
    /// Everything before this tick has fired, or is in `firing`.
    next: Tick,
    /// The slots of the firing tick that are still to fire.
    firing: (Tick, Vec<u32>),
}

impl Wheel {
    pub(super) fn new() -> Wheel {
        Wheel {
            slots: vec![Vec::new(); SLOTS].into(),
            occupied: [0; SLOTS / 64],
            entries: 0,
            next: Tick(0),
            firing: (Tick(0), Vec::new()),
        }
    }

    /// Arms `slot` for `tick`, or for the horizon if that is nearer; returns the tick.
    pub(super) fn arm(&mut self, slot: u32, tick: Tick) -> Tick {
        let tick = Tick(tick.0.clamp(self.next.0, self.next.0 + SLOTS as u32 - 1));
        let index = tick.0 as usize % SLOTS;
        self.slots[index].push(slot);
        self.entries += 1;
        self.occupied[index / 64] |= 1 << (index % 64);
        tick
    }

    /// Takes out one slot that is due at `now`, and the tick it was armed for, the earliest first; none when all have
    /// fired.
    pub(super) fn fire(&mut self, now: Tick) -> Option<(u32, Tick)> {
        let (tick, slots) = &mut self.firing;
        if let Some(slot) = slots.pop() {
            self.entries -= 1;
            return Some((slot, *tick));
        }
        // Drops the buffer, so that the memory of a burst of deadlines is not kept.
        *slots = Vec::new();
        let due = self.next_armed().filter(|tick| *tick <= now);
        self.next = due.map_or(self.next.max(Tick(now.0 + 1)), |tick| Tick(tick.0 + 1));
        let due = due?;
        let index = due.0 as usize % SLOTS;
        self.occupied[index / 64] &= !(1 << (index % 64));
        self.firing = (due, std::mem::take(&mut self.slots[index]));
        self.fire(now)
    }

    /// The next tick for which anything is armed.
    pub(super) fn next_armed(&self) -> Option<Tick> {
        if self.entries == 0 {
            return None;
        }
        if !self.firing.1.is_empty() {
            return Some(self.firing.0);
        }
        let start = self.next.0 as usize % SLOTS;
        // Word by word around the wheel; the first word twice, for the part before `start`.
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
            for (slot, (advance, ahead)) in steps.into_iter().enumerate() {
                let tick = wheel.arm(slot as u32, Tick(now + ahead));
                naive.entry(tick.0).or_default().push(slot as u32);
                prop_assert_eq!(wheel.next_armed().map(|tick| tick.0), naive.keys().next().copied());
                now += advance;
                while let Some((slot, tick)) = wheel.fire(Tick(now)) {
                    let mut first = naive.first_entry().unwrap();
                    prop_assert_eq!((Some(slot), tick.0), (first.get_mut().pop(), *first.key()));
                    if first.get().is_empty() {
                        first.remove();
                    }
                    prop_assert_eq!(wheel.next_armed().map(|tick| tick.0), naive.keys().next().copied());
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
