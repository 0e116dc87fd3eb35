//! Pace: subscribers that want events at most once per interval. What is new waits for their next one in the log; here
//! is only when that comes, on a wheel of its own, since it comes far more often than any other deadline.

use std::time::Duration;

use super::Server;
use super::connection::{Flags, Phase};
use super::wheel::Tick;
use crate::io::Io;

/// Intervals that end in one turn: about 1 ms.
const PACES_PER_TURN_MAX: usize = 512;

/// How often a subscriber wants events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    interval: Duration,
    /// When its next interval begins.
    next_at: Tick,
    /// The one tick at which the wheel's entry for it counts; never: nothing new waits for it.
    armed_for: Tick,
}

impl Pace {
    pub(super) fn new(interval: Duration) -> Pace {
        Pace { interval, next_at: Tick(0), armed_for: Tick::NEVER }
    }
}

impl<I: Io> Server<I> {
    /// A walk came by: what is new goes out now if the interval has passed, else when it has.
    pub(super) fn pace(&mut self, slot: u32) {
        let Some(pace) = self.paces.get_mut(&slot) else { return };
        if pace.next_at <= Tick::of(self.now) {
            self.queue_catching_up(slot);
        } else if pace.armed_for == Tick::NEVER {
            pace.armed_for = self.pace_wheel.arm(slot, pace.next_at);
        }
    }

    /// Everything pending went out: the next interval starts.
    pub(super) fn note_pace(&mut self, slot: u32, now: Tick) {
        if let Some(pace) = self.paces.get_mut(&slot) {
            pace.next_at = if pace.interval.is_zero() { now } else { now.after(pace.interval) };
        }
    }

    /// Lets those catch up whose interval has passed, one turn's worth of them.
    pub(super) fn fire_paces(&mut self) {
        let now = Tick::of(self.now);
        for _ in 0..PACES_PER_TURN_MAX {
            let Some((slot, tick)) = self.pace_wheel.fire(now) else { return };
            let Some(pace) = self.paces.get_mut(&slot).filter(|pace| pace.armed_for == tick) else { continue };
            if pace.next_at > now {
                // It lies beyond the wheel's horizon, or something was sent meanwhile.
                pace.armed_for = self.pace_wheel.arm(slot, pace.next_at);
                continue;
            }
            pace.armed_for = Tick::NEVER;
            let connection = &self.connections[slot as usize];
            if matches!(connection.phase, Phase::Streaming) && !connection.flags.has(Flags::BLOCKED) {
                self.queue_catching_up(slot);
            }
        }
    }
}
