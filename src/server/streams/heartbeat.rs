//! What is due on a stream: its end, or a heartbeat.

use std::time::Duration;

use super::Streams;
use super::transmit::send_private;
use crate::hub::{Hub, Subscriber};
use crate::io::Io;
use crate::protocol::encoder;
use crate::server::node::Node;
use crate::server::transport::Transport;
use crate::server::transport::connection::{CloseReason, Flags, Stream, StreamMode};
use crate::server::transport::deadlines::heartbeat_wait;
use crate::server::wheel::Tick;

/// Heartbeats in one turn during walks: events come first, and an event serves as a heartbeat.
const HEARTBEATS_BESIDE_WALKS_MAX: usize = 32;
/// How soon a heartbeat is tried again after it gave way to events.
const HEARTBEAT_DELAY: Duration = Duration::from_secs(1);

impl Streams {
    /// Sets how many heartbeats this turn may send. Without walks, the turn's limit on deadlines is enough.
    pub(crate) fn budget_heartbeats(&mut self, is_walking: bool) {
        self.heartbeats_left = if is_walking { HEARTBEATS_BESIDE_WALKS_MAX } else { usize::MAX };
    }

    /// Acts on the deadline of a stream.
    pub(crate) fn act_on_deadline<I: Io>(
        &mut self,
        slot: u32,
        transport: &mut Transport<I>,
        hub: &mut Hub,
        node: &mut Node,
    ) {
        let now = Tick::of(node.now);
        let Some(stream) = transport.stream(slot) else { return };
        if stream.ends_at > now {
            self.beat(slot, transport, hub, node);
        } else if self.credentials.expiry(slot) <= now {
            let reason = CloseReason::TokenExpired;
            self.end_stream(slot, encoder::TOKEN_EXPIRED.into(), reason, transport, hub, node);
        } else {
            self.retire(slot, transport, hub, node);
        }
        transport.arm_deadline(slot, node);
    }

    fn beat<I: Io>(&mut self, slot: u32, transport: &mut Transport<I>, hub: &Hub, node: &mut Node) {
        let now = Tick::of(node.now);
        let flags = transport.at(slot).flags;
        let Some(&Stream { delivered_through, mode, .. }) = transport.stream(slot) else { return };
        let takes_nothing = flags.has(Flags::BLOCKED);
        // An event that waits for a pace may wait for an hour, and one that waits for the bus until that is back.
        let may_wait_long = mode.has(StreamMode::PACED) || mode.has(StreamMode::FETCHING);
        let is_due_more =
            flags.has(Flags::CATCHING_UP) || !may_wait_long && hub.has_news_for(Subscriber(slot), delivered_through);
        // The silence restarts although nothing was sent: slow subscribers are handled elsewhere, and an event that is
        // on its way will end the silence.
        if takes_nothing || is_due_more {
            transport.at_mut(slot).since = now;
        } else if self.heartbeats_left == 0 {
            // Sets the silence so that the heartbeat is due a little later.
            let wait = Tick(0).after(heartbeat_wait(slot, &node.settings));
            let due = now.after(HEARTBEAT_DELAY);
            transport.at_mut(slot).since = Tick(due.0.saturating_sub(wait.0));
        } else {
            self.heartbeats_left -= 1;
            node.counters.heartbeats += 1;
            transport.at_mut(slot).since = now;
            // A position of this run alone would replace an id that other nodes know.
            let has_position = hub.follows_bus() && !mode.has(StreamMode::FETCHING);
            let frame = match mode.has(StreamMode::POSITION_HEARTBEATS) && has_position {
                true => encoder::position(&hub.id_of(hub.reach(Subscriber(slot), delivered_through))),
                false => self.heartbeat.clone(),
            };
            send_private(slot, frame, transport, node);
        }
    }
}
