//! Pace: subscribers that want events at most once per interval. New events wait in the log; this module only tracks
//! when the next interval begins, on a wheel of its own, since that happens far more often than any other deadline.

use std::time::Duration;

use crate::server::shrink::shrink_map;
use crate::server::slot_map::SlotMap;
use crate::server::wheel::{Tick, Wheel};

/// How often a subscriber wants events.
#[derive(Clone, Copy, Debug)]
struct Pace {
    interval: Duration,
    /// When its next interval begins.
    next_at: Tick,
    /// The one tick at which the wheel's entry for it counts; never: no new event waits for it.
    armed_for: Tick,
}

/// The paces of all subscribers that have one, by slot.
pub(super) struct Paces {
    paces: SlotMap<Pace>,
    wheel: Wheel,
}

impl Paces {
    pub(super) fn new() -> Paces {
        Paces { paces: SlotMap::default(), wheel: Wheel::new() }
    }

    pub(super) fn insert(&mut self, slot: u32, interval: Duration) {
        self.paces.insert(slot, Pace { interval, next_at: Tick(0), armed_for: Tick::NEVER });
    }

    pub(super) fn remove(&mut self, slot: u32) {
        self.paces.remove(&slot);
    }

    /// Called when there is a new event for a subscriber. True: its interval has passed, and it may be sent now.
    /// Otherwise it is due when the interval has passed.
    pub(super) fn is_due(&mut self, slot: u32, now: Tick) -> bool {
        let Some(pace) = self.paces.get_mut(&slot) else { return false };
        if pace.next_at <= now {
            return true;
        }
        if pace.armed_for == Tick::NEVER {
            pace.armed_for = self.wheel.arm(slot, pace.next_at);
        }
        false
    }

    /// All pending events were sent: the next interval starts.
    pub(super) fn restart(&mut self, slot: u32, now: Tick) {
        if let Some(pace) = self.paces.get_mut(&slot) {
            pace.next_at = if pace.interval.is_zero() { now } else { now.after(pace.interval) };
        }
    }

    /// Takes one entry whose tick has passed. `Some(None)`: it no longer counts. None: all have fired.
    pub(super) fn fire(&mut self, now: Tick) -> Option<Option<u32>> {
        let (slot, tick) = self.wheel.fire(now)?;
        let Some(pace) = self.paces.get_mut(&slot).filter(|pace| pace.armed_for == tick) else { return Some(None) };
        if pace.next_at > now {
            // It lies beyond the wheel's horizon, or the interval was restarted meanwhile.
            pace.armed_for = self.wheel.arm(slot, pace.next_at);
            return Some(None);
        }
        pace.armed_for = Tick::NEVER;
        Some(Some(slot))
    }

    /// When the next interval ends that an event waits for.
    pub(super) fn next(&self) -> Option<Duration> {
        self.wheel.next_armed().map(Tick::time)
    }

    pub(super) fn shrink(&mut self) {
        shrink_map(&mut self.paces);
    }
}
