//! Once a second: what is too old is forgotten, who is stalled or too far behind is closed, and buffers that a storm
//! left large are given back.

use super::connection::{Flags, Phase};
use super::settings::SlowPolicy;
use super::{CloseReason, HOUSEKEEPING_INTERVAL, Server};
use crate::hub::Subscriber;
use crate::io::Io;

impl<I: Io> Server<I> {
    pub(super) fn keep_house(&mut self) {
        if self.now < self.next_housekeeping {
            return;
        }
        self.next_housekeeping = self.now + HOUSEKEEPING_INTERVAL;
        self.hub.age(self.now);
        self.close_stalled();
        let spare = |len: usize, capacity: usize| capacity > 1024 && len < capacity / 4;
        if spare(self.laggards.len(), self.laggards.capacity()) {
            self.laggards.shrink_to(self.laggards.len() * 2);
        }
        if spare(self.paces.len(), self.paces.capacity()) {
            self.paces.shrink_to(self.paces.len() * 2);
        }
        if spare(self.addresses.len(), self.addresses.capacity()) {
            self.addresses.shrink_to(self.addresses.len() * 2);
        }
    }

    /// Closes subscribers that took no byte for the stall timeout, and those whose next event is forgotten.
    fn close_stalled(&mut self) {
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
        closing.sort_unstable_by_key(|(slot, _)| *slot); // the map's order is nobody's, and a run is to be repeatable
        for (slot, reason) in closing {
            self.close(slot, reason);
        }
    }
}
