//! Catching up: replays, subscribers that are writable again, half-written responses. It runs after live delivery, in
//! rotation, within a budget for each turn: ten thousand clients that return at once do not delay the others.

use std::time::Duration;

use super::Streams;
use crate::hub::Hub;
use crate::io::Io;
use crate::server::node::Node;
use crate::server::share::share;
use crate::server::transport::Transport;
use crate::server::transport::connection::{Flags, StreamMode};
use crate::server::wheel::Tick;

/// Sends in one turn, the limit when each is small.
const SENDS_PER_TURN_MAX: usize = 256;
/// Intervals that end in one turn: about 1 ms.
const PACES_PER_TURN_MAX: usize = 512;

impl Streams {
    pub(crate) fn catch_up<I: Io>(&mut self, transport: &mut Transport<I>, hub: &Hub, node: &mut Node) {
        let share = share(hub.is_walking()) as usize;
        let bytes_before = node.counters.sent_bytes;
        let bytes_max = (node.settings.catch_up_bytes_max / share) as u64;
        for _ in 0..transport.catching_up_count().min(SENDS_PER_TURN_MAX / share) {
            if node.counters.sent_bytes - bytes_before >= bytes_max {
                return;
            }
            let Some(token) = transport.next_catching_up() else { return };
            let Some(stream) = transport.stream(token.slot) else {
                transport.continue_response(token.slot, node);
                continue;
            };
            if stream.mode.has(StreamMode::FETCHING) {
                self.catch_up_from_archive(token.slot, transport, hub, node);
                continue;
            }
            let sent_before = node.counters.sent_bytes;
            let caught_up = self.transmit(token.slot, transport, hub, node);
            let Some(connection) = transport.connection_mut(token) else { continue };
            if caught_up {
                if let Some(stream) = connection.stream_mut() {
                    stream.mode.clear(StreamMode::REPLAYING);
                }
                if node.counters.sent_bytes > sent_before {
                    self.paces.restart(token.slot, Tick::of(node.now));
                }
            } else if !connection.flags.has(Flags::BLOCKED) {
                transport.queue_catching_up(token.slot);
            }
        }
    }

    /// Queues paced subscribers whose interval has passed, up to one turn's worth.
    pub(crate) fn fire_paces<I: Io>(&mut self, transport: &mut Transport<I>, now: Duration) {
        for _ in 0..PACES_PER_TURN_MAX {
            match self.paces.fire(Tick::of(now)) {
                None => return,
                Some(None) => {}
                Some(Some(slot)) => {
                    let connection = transport.at(slot);
                    if connection.is_streaming() && !connection.flags.has(Flags::BLOCKED) {
                        transport.queue_catching_up(slot);
                    }
                }
            }
        }
    }
}
