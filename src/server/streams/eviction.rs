//! Subscribers that are stalled or too far behind: found once a second, and closed a few per turn.

use super::Streams;
use super::slow::{self, Fate};
use crate::hub::Hub;
use crate::io::Io;
use crate::server::node::Node;
use crate::server::transport::Transport;
use crate::server::transport::connection::Flags;

/// Slow subscribers closed in one turn: thousands may stall and end together, and must not delay the others.
const CLOSES_PER_TURN_MAX: usize = 64;

impl Streams {
    /// Finds the subscribers to close, unless some of the last time are still to be closed.
    pub(crate) fn find_slow<I: Io>(&mut self, transport: &Transport<I>, hub: &Hub, node: &Node) {
        if !self.closing.is_empty() {
            return;
        }
        let slots = transport.outboxes().map(|(slot, _)| slot);
        let is_to_be_closed =
            |slot: &u32| matches!(self.fate_while_blocked(*slot, transport, hub, node), Some(Fate::Close(_)));
        let mut slots: Vec<u32> = slots.filter(is_to_be_closed).collect();
        // The map has no order, and simulated runs must be repeatable.
        slots.sort_unstable();
        self.closing = slots.into_iter().map(|slot| transport.token(slot)).collect();
    }

    /// Closes some of them, if they have made no progress since.
    pub(crate) fn close_slow<I: Io>(&mut self, transport: &mut Transport<I>, hub: &Hub, node: &mut Node) {
        for _ in 0..CLOSES_PER_TURN_MAX {
            let Some(token) = self.closing.pop_front() else { return };
            if transport.connection_mut(token).is_none() {
                continue;
            }
            if let Some(Fate::Close(reason)) = self.fate_while_blocked(token.slot, transport, hub, node) {
                transport.close(token.slot, reason, node);
            }
        }
    }

    /// The fate of a subscriber that accepts nothing at the moment.
    fn fate_while_blocked<I: Io>(&self, slot: u32, transport: &Transport<I>, hub: &Hub, node: &Node) -> Option<Fate> {
        let is_blocked = transport.at(slot).flags.has(Flags::BLOCKED);
        let outbox = transport.outbox(slot).filter(|_| is_blocked)?;
        let lag = self.lag(slot, outbox, transport, hub, node)?;
        Some(slow::fate(node.settings.delivery.slow_policy, lag))
    }
}
