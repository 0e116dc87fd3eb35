//! Catching up: replays, subscribers that are writable again, responses half written. After live delivery, within a
//! budget for each turn, in turns among all of them: ten thousand that return at once delay nobody who stayed.

use super::connection::Flags;
use super::{Server, wheel::Tick};
use crate::io::Io;

/// Sends in one turn, for when each is small.
const SENDS_PER_TURN_MAX: usize = 256;

impl<I: Io> Server<I> {
    pub(super) fn catch_up(&mut self) {
        let share = self.share_beside_walks();
        let bytes_before = self.counters.sent_bytes;
        let bytes_max = (self.settings.delivery.catch_up_bytes_per_tick / share) as u64;
        for _ in 0..self.catching_up.len().min(SENDS_PER_TURN_MAX / share) {
            if self.counters.sent_bytes - bytes_before >= bytes_max {
                return;
            }
            let Some(token) = self.catching_up.pop_front() else { return };
            let Some(connection) = self.connection(token) else { continue };
            connection.flags.clear(Flags::CATCHING_UP);
            let sent_before = self.counters.sent_bytes;
            let caught_up = self.transmit(token.slot);
            let Some(connection) = self.connection(token) else { continue };
            if caught_up {
                connection.flags.clear(Flags::REPLAYING);
                if self.counters.sent_bytes > sent_before {
                    self.note_pace(token.slot, Tick::of(self.now));
                }
                self.after_transmission(token.slot);
            } else if !connection.flags.has(Flags::BLOCKED) {
                self.queue_catching_up(token.slot);
            }
        }
        if self.catching_up.is_empty() && self.catching_up.capacity() > 1024 {
            self.catching_up.shrink_to(1024);
        }
    }
}
