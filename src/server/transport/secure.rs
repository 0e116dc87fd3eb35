//! Connections with TLS: their handshakes, which the IO does elsewhere, and the end of those whose keys are worn.

use std::time::Duration;

use super::Transport;
use super::connection::{CloseReason, Flags, Phase};
use crate::io::{Io, Token};
use crate::server::node::Node;
use crate::server::wheel::Tick;

/// What a handshake that succeeded is counted as.
pub(crate) const COMPLETED: &str = "completed";
/// What one is counted as that took too long.
pub(crate) const TIMED_OUT: &str = "timed_out";

impl<I: Io> Transport<I> {
    /// Begins the handshake of a connection that has something to read, and from which this was read already. Those that are silent
    /// take no handshake's place.
    pub(super) fn secure(&mut self, slot: u32, received: Vec<u8>, node: &Node) {
        let token = self.token(slot);
        let connection = &mut self.connections[slot as usize];
        connection.flags.clear(Flags::AWAITS_HANDSHAKE);
        connection.flags.clear(Flags::READABLE);
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
                    self.queue_reading(token);
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

    /// The client took too long.
    pub(super) fn time_out_handshake(&mut self, slot: u32, node: &mut Node) {
        node.counters.handshakes.count(TIMED_OUT);
        self.close(slot, CloseReason::HandshakeTimeout, node);
    }

    /// Lets a stream end as if it had reached its age: its client returns with new keys, and resumes where it was. What is no
    /// stream ends with its next answer.
    pub(super) fn retire_worn(&mut self, token: Token, now: Duration) {
        let Some(connection) = self.connection_mut(token) else { return };
        connection.flags.set(Flags::WORN);
        let Some(stream) = connection.stream_mut() else { return };
        stream.ends_at = stream.ends_at.min(Tick::of(now));
        let at = self.deadlines.arm(token.slot, Tick::of(now));
        self.connections[token.slot as usize].armed_for = at;
    }
}
