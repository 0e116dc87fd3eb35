//! Connections with TLS: their handshakes, which the IO does elsewhere, and the end of those whose keys are worn.

use std::time::Duration;

use super::Transport;
use super::connection::{CloseReason, Flags, Phase};
use crate::io::{Io, Token};
use crate::server::node::Node;
use crate::server::wheel::Tick;

/// What a handshake that succeeded is counted as.
pub(crate) const COMPLETED: &str = "completed";

impl<I: Io> Transport<I> {
    /// Begins the handshake of a connection, from which this was read already.
    pub(super) fn secure(&mut self, slot: u32, received: Vec<u8>, node: &Node) {
        let token = self.token(slot);
        let connection = &mut self.connections[slot as usize];
        connection.phase = Phase::Securing;
        connection.since = Tick::of(node.now);
        self.io.secure(connection.socket, token, received);
    }

    /// Goes on with the connections whose handshakes ended.
    pub(crate) fn take_handshakes(&mut self, node: &mut Node) {
        let mut handshakes = std::mem::take(&mut self.handshakes);
        for (token, outcome) in handshakes.drain(..) {
            let Some(connection) = self.connection_mut(token) else { continue };
            match outcome {
                Ok(()) => {
                    node.counters.handshakes.count(COMPLETED);
                    connection.phase = Phase::Idle;
                    connection.since = Tick::of(node.now);
                    // What arrived meanwhile was reported meanwhile.
                    connection.flags.clear(Flags::READABLE);
                    self.push_readable(token.slot);
                    self.arm_deadline(token.slot, node);
                }
                Err(failure) => {
                    tracing::debug!(peer = %connection.peer, reason = failure.as_str(), "a TLS handshake failed");
                    node.counters.handshakes.count(failure.as_str());
                    self.close(token.slot, CloseReason::Handshake, node);
                }
            }
        }
        self.handshakes = handshakes;
    }

    /// Lets a stream end as if it had reached its age: its client returns with new keys, and resumes where it was.
    pub(super) fn retire_worn(&mut self, token: Token, now: Duration) {
        let Some(stream) = self.connection_mut(token).and_then(|connection| connection.stream_mut()) else { return };
        stream.ends_at = stream.ends_at.min(Tick::of(now));
        let at = self.deadlines.arm(token.slot, Tick::of(now));
        self.connections[token.slot as usize].armed_for = at;
    }
}
