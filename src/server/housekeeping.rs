//! Once a second: what is too old is forgotten, subscribers that are stalled or too far behind are found, and buffers that
//! a storm left large are given back. What was found is closed a few at a time, in the turns that follow.

use std::time::Duration;

use super::connection::{Flags, Phase};
use super::slow::{self, Fate};
use super::{HOUSEKEEPING_INTERVAL, News, Server};
use crate::io::Io;

/// Slow subscribers closed in one turn: thousands that stall together end together, and others are not to wait.
const CLOSES_PER_TURN_MAX: usize = 64;
/// How soon what one turn leaves undone follows.
const REST_INTERVAL: Duration = Duration::from_millis(5);

impl<I: Io> Server<I> {
    pub(super) fn keep_house(&mut self) {
        self.close_slow();
        if self.now < self.next_housekeeping {
            return;
        }
        self.next_housekeeping = self.now + HOUSEKEEPING_INTERVAL;
        self.supervisor.tell(News::Alive { streams: self.streams, is_leaving: self.is_draining() });
        self.tell_all_left_out();
        if !self.hub.age(self.now) {
            self.next_housekeeping = self.now + REST_INTERVAL;
            return;
        }
        self.find_slow();
        self.tell_figures();
        self.tell_statistics();
        let spare = |len: usize, capacity: usize| capacity > 1024 && len < capacity / 4;
        if spare(self.laggards.len(), self.laggards.capacity()) {
            self.laggards.shrink_to(self.laggards.len() * 2);
        }
        if spare(self.paces.len(), self.paces.capacity()) {
            self.paces.shrink_to(self.paces.len() * 2);
        }
        self.credentials.shrink();
        if spare(self.addresses.len(), self.addresses.capacity()) {
            self.addresses.shrink_to(self.addresses.len() * 2);
        }
    }

    fn tell_figures(&self) {
        let live = &self.live;
        live.connections.set(self.connections.len() as u64);
        live.streams.set(self.streams as u64);
        live.broadcasts.set(self.counters.broadcasts);
        live.delivered_events.set(self.counters.delivered_events);
        live.sent_bytes.set(self.counters.sent_bytes);
        live.lagging_subscribers.set(self.laggards.len() as u64);
    }

    /// Finds the subscribers that are to be closed, unless those of the last time are not all closed yet.
    fn find_slow(&mut self) {
        if !self.closing.is_empty() {
            return;
        }
        let mut slots: Vec<u32> = self.laggards.keys().copied().filter(|slot| self.is_to_be_closed(*slot)).collect();
        // The map has no order, and a run is to be repeatable.
        slots.sort_unstable();
        self.closing = slots.into_iter().map(|slot| self.token(slot)).collect();
    }

    /// Closes some of them, if they have not come forward since.
    fn close_slow(&mut self) {
        for _ in 0..CLOSES_PER_TURN_MAX {
            let Some(token) = self.closing.pop_front() else { return };
            if self.connection(token).is_some()
                && let Some(Fate::Close(reason)) = self.fate_while_blocked(token.slot)
            {
                self.close(token.slot, reason);
            }
        }
    }

    fn is_to_be_closed(&self, slot: u32) -> bool {
        matches!(self.fate_while_blocked(slot), Some(Fate::Close(_)))
    }

    /// What becomes of a subscriber that accepts nothing at the moment.
    fn fate_while_blocked(&self, slot: u32) -> Option<Fate> {
        let connection = &self.connections[slot as usize];
        let is_blocked = matches!(connection.phase, Phase::Streaming) && connection.flags.has(Flags::BLOCKED);
        let laggard = self.laggards.get(&slot).filter(|_| is_blocked)?;
        Some(slow::fate(self.settings.delivery.slow_policy, self.lag(slot, laggard)))
    }
}
