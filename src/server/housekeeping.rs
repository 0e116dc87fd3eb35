//! Once a second: what is too old is forgotten, who is stalled or too far behind is closed, and buffers that a storm
//! left large are given back.

use std::time::Duration;

use super::connection::{Flags, Phase};
use super::settings::SlowPolicy;
use super::{CloseReason, HOUSEKEEPING_INTERVAL, News, Server};
use crate::hub::Subscriber;
use crate::io::Io;

/// Stalled subscribers closed in one turn: thousands that stall together end together, and others are not to wait.
const CLOSES_PER_TURN_MAX: usize = 64;
/// How soon what one turn leaves undone follows.
const REST_INTERVAL: Duration = Duration::from_millis(5);

impl<I: Io> Server<I> {
    pub(super) fn keep_house(&mut self) {
        if self.now < self.next_housekeeping {
            return;
        }
        self.next_housekeeping = self.now + HOUSEKEEPING_INTERVAL;
        self.supervisor.tell(News::Alive { streams: self.streams, is_leaving: self.is_draining() });
        self.tell_all_left_out();
        let has_forgotten_all = self.hub.age(self.now);
        let has_closed_all = self.close_stalled() < CLOSES_PER_TURN_MAX;
        if !has_forgotten_all || !has_closed_all {
            self.next_housekeeping = self.now + REST_INTERVAL;
            return;
        }
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

    /// Closes subscribers that took no byte for the stall timeout, and those whose next event is forgotten; tells how
    /// many.
    fn close_stalled(&mut self) -> usize {
        let (now, delivery) = (self.now, self.settings.delivery);
        let mut closing = Vec::new();
        for (&slot, laggard) in &self.laggards {
            let connection = &self.connections[slot as usize];
            if !matches!(connection.phase, Phase::Streaming) || !connection.flags.has(Flags::BLOCKED) {
                continue;
            }
            let may_skip = delivery.slow_policy == SlowPolicy::Skip
                || connection.flags.has(Flags::PACED)
                || connection.flags.has(Flags::LATEST)
                || laggard.gap.is_some();
            if now.saturating_sub(laggard.progress_at) >= delivery.stall_timeout {
                closing.push((slot, CloseReason::Stalled));
            } else if !may_skip && self.hub.is_evicted(Subscriber(slot), connection.delivered_through) {
                closing.push((slot, CloseReason::Evicted));
            }
        }
        // The map's order is nobody's, and a run is to be repeatable.
        closing.sort_unstable_by_key(|(slot, _)| *slot);
        closing.truncate(CLOSES_PER_TURN_MAX);
        let count = closing.len();
        closing.into_iter().for_each(|(slot, reason)| self.close(slot, reason));
        count
    }
}
