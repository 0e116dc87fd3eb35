//! Accepting: within a budget, at a rate, while there are slots; and the handling of exhausted descriptors.
//!
//! Listeners are edge-triggered, so one that has more is remembered until an accept would block. At EMFILE the spare
//! descriptor admits one connection at a time: a health check is answered, a stream gets a reconnection time. The admin
//! listener comes first, and takes the spare from a public connection that has it.

use std::time::Duration;

use super::Transport;
use super::acceptor::{ListenerRole, Listening, PauseReason, Reach};
use super::clients::admit_peer;
use super::connection::{CloseReason, Connection, Flags, Phase};
use super::peer::CompactPeer;
use crate::io::{Accept, Close, Io, ListenerIndex, Peer, Socket, Token};
use crate::server::node::Node;
use crate::server::node::letter::Accepted;
use crate::server::node::log_entries::LogEntry;
use crate::server::wheel::Tick;

/// Connections accepted in one turn, about 2 ms of it; the same number during live delivery. Clients that all return at
/// once must not overflow the listener's queue: the kernel silently drops those beyond it, and they try again after 1,
/// 3 and 7 seconds. Their requests have a budget of their own.
const ACCEPTS_PER_TURN_MAX: usize = 256;
/// If the server frees no descriptor itself: how soon to check whether other processes did.
const EXHAUSTED_RETRY: Duration = Duration::from_millis(500);
/// How soon a listener that could not accept is tried again.
const FAILED_RETRY: Duration = Duration::from_millis(500);
/// How soon it is seen that there is room for further handshakes, the end of which nothing reports to all loops.
const HANDSHAKE_RETRY: Duration = Duration::from_millis(5);

/// The kernel does not report the readiness of a new connection, which is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NotWatched;

impl<I: Io> Transport<I> {
    /// True while a public connection may take a slot.
    pub(super) fn has_slot(&self, node: &Node) -> bool {
        node.common.has_place(node.settings.connections_total_max)
    }

    /// Accepts waiting connections, as far as budget, rate, slots and descriptors allow.
    pub(crate) fn accept(&mut self, node: &mut Node) {
        if let Some(until) = self.acceptor.exhausted_until {
            // Also if no connection waits to be accepted: a time that has passed would end every wait at once.
            let again = if until <= node.now { node.now + EXHAUSTED_RETRY } else { until };
            self.acceptor.exhausted_until = (!self.io.reserve_fd()).then_some(again);
        }
        for listening in &mut self.acceptor.listeners {
            listening.paused_until.take_if(|until| *until <= node.now);
        }
        if self.acceptor.over_rate_until.take_if(|until| *until <= node.now).is_some() {
            self.acceptor.was_over_rate = true;
        }
        let mut budget = ACCEPTS_PER_TURN_MAX;
        for turn in 0..self.acceptor.turns.len() {
            let index = self.acceptor.turns[turn];
            while budget > 0 && self.acceptor.listeners[index].has_more && self.may_accept(index, node) {
                budget -= 1;
                if !self.accept_one(ListenerIndex(index), node) {
                    break;
                }
            }
        }
    }

    /// Takes a place for a connection of this listener, and of public ones what it takes of the rate.
    fn may_accept(&mut self, index: usize, node: &mut Node) -> bool {
        if self.acceptor.listeners[index].is_pausing(node.now) {
            return false;
        }
        if !self.io.has_room_for(ListenerIndex(index)) {
            self.acceptor.listeners[index].paused_until = Some(node.now + HANDSHAKE_RETRY);
            self.note_pause(PauseReason::Handshakes, node);
            return false;
        }
        if self.acceptor.listeners[index].role == ListenerRole::Admin {
            return node.common.take_place(usize::MAX);
        }
        let is_paused = self.acceptor.exhausted_until.is_some_and(|until| until > node.now)
            || self.acceptor.over_rate_until.is_some();
        if is_paused {
            return false;
        }
        self.acceptor.lacks_place = !node.common.take_place(node.settings.connections_total_max);
        if self.acceptor.lacks_place {
            self.note_pause(PauseReason::Slots, node);
            return false;
        }
        let Some(rate_max) = node.settings.limits.accepts_per_second_max else { return true };
        self.acceptor.over_rate_until = node.common.accepts.take(1, rate_max, node.now).err();
        if self.acceptor.over_rate_until.is_some() {
            node.common.give_back_place();
        }
        self.acceptor.over_rate_until.is_none()
    }

    /// No connection came for what was taken.
    fn give_back(&mut self, listener: ListenerIndex, node: &mut Node) {
        node.common.give_back_place();
        if self.acceptor.listeners[listener.0].role != ListenerRole::Admin
            && let Some(rate_max) = node.settings.limits.accepts_per_second_max
        {
            node.common.accepts.give_back(1, rate_max);
        }
    }

    /// Counts and logs a pause, unless it is still the same one: each freed slot admits one connection, and the next of
    /// a thousand waits again.
    fn note_pause(&mut self, reason: PauseReason, node: &mut Node) {
        if self.acceptor.paused_for.contains(&reason) {
            return;
        }
        self.acceptor.paused_for.push(reason);
        node.counters.accept_pauses.count(reason.as_str());
        let entry = match reason {
            PauseReason::Slots => LogEntry::SlotsTaken,
            PauseReason::Descriptors => LogEntry::DescriptorsTaken,
            // The rate was set by an operator; an error is logged with its cause; handshakes take milliseconds.
            PauseReason::Rate | PauseReason::Error | PauseReason::Handshakes => return,
        };
        if node.may_log(entry) {
            tracing::warn!(connections = self.connections.len(), "{}", entry.text());
        }
    }

    /// Accepts one connection; false when there is no descriptor for another.
    fn accept_one(&mut self, listener: ListenerIndex, node: &mut Node) -> bool {
        match self.io.accept(listener) {
            Accept::Connection(socket, peer) => {
                self.note_accepted(listener, node);
                self.admit_or_hand_over(socket, peer, listener, node);
                return true;
            }
            Accept::Exhausted => {
                self.accept_on_spare(listener, node);
                return false;
            }
            Accept::Aborted => {}
            Accept::WouldBlock => {
                self.acceptor.note_accept_queue_is_empty(listener);
                self.acceptor.was_over_rate &= self.acceptor.listeners[listener.0].role == ListenerRole::Admin;
            }
            Accept::Failed(error) => {
                self.give_back(listener, node);
                self.pause_failing(listener, error, node);
                return false;
            }
        }
        self.give_back(listener, node);
        true
    }

    fn note_accepted(&mut self, listener: ListenerIndex, node: &mut Node) {
        node.counters.accepted += 1;
        // Only now it is certain that a connection waited.
        if self.acceptor.listeners[listener.0].role != ListenerRole::Admin
            && std::mem::take(&mut self.acceptor.was_over_rate)
        {
            self.note_pause(PauseReason::Rate, node);
        }
    }

    /// Makes a socket a connection of this loop, or of the one that has the fewest. Those of operators stay.
    fn admit_or_hand_over(&mut self, socket: Socket, peer: Peer, listener: ListenerIndex, node: &mut Node) {
        let Listening { role, reach, .. } = self.acceptor.listeners[listener.0];
        let accepted = Accepted { socket, peer, reach };
        let kept = match role {
            ListenerRole::Admin => Some(accepted),
            ListenerRole::Public => node.member.hand_over(accepted, node.now),
            // Its connections are short.
            ListenerRole::Redirect => Some(accepted),
        };
        if let Some(accepted) = kept {
            node.member.count_connection();
            if self.admit(accepted, role, Flags::FRESH, node) == Err(NotWatched) {
                self.pause(listener, node);
            }
        }
    }

    /// Takes a connection that another loop has accepted.
    pub(crate) fn adopt(&mut self, accepted: Accepted, node: &mut Node) {
        let _is_closed_otherwise = self.admit(accepted, ListenerRole::Public, Flags::FRESH, node);
    }

    /// A listener can't accept, and would fail again at once: it pauses, and the others continue.
    fn pause_failing(&mut self, listener: ListenerIndex, error: i32, node: &mut Node) {
        if node.may_log(LogEntry::AcceptFailed) {
            let error = std::io::Error::from_raw_os_error(error);
            tracing::warn!(listener = listener.0, %error, "{}", LogEntry::AcceptFailed.text());
        }
        self.pause(listener, node);
    }

    fn pause(&mut self, listener: ListenerIndex, node: &mut Node) {
        self.acceptor.listeners[listener.0].paused_until = Some(node.now + FAILED_RETRY);
        self.note_pause(PauseReason::Error, node);
    }

    /// No descriptor is left: admits one connection on the spare one, and pauses until there is a spare again.
    fn accept_on_spare(&mut self, listener: ListenerIndex, node: &mut Node) {
        let has_spare = self.io.release_reserved_fd() || self.take_spare_for(listener, node);
        let accepted = if has_spare { self.io.accept(listener) } else { Accept::Exhausted };
        if !matches!(accepted, Accept::Connection(..)) {
            self.give_back(listener, node);
        }
        if accepted == Accept::WouldBlock {
            // The table is full, and the kernel reports that even if no connection waits: no reason to pause.
            self.acceptor.note_accept_queue_is_empty(listener);
            self.io.reserve_fd();
            return;
        }
        if let Accept::Failed(error) = accepted {
            self.io.reserve_fd();
            return self.pause_failing(listener, error, node);
        }
        self.acceptor.exhausted_until = Some(node.now + EXHAUSTED_RETRY);
        self.note_pause(PauseReason::Descriptors, node);
        if let Accept::Connection(socket, peer) = accepted {
            self.note_accepted(listener, node);
            node.member.count_connection();
            let Listening { role, reach, .. } = self.acceptor.listeners[listener.0];
            self.acceptor.on_spare = match self.admit(Accepted { socket, peer, reach }, role, Flags::ON_SPARE, node) {
                Ok(token) => token,
                Err(NotWatched) => {
                    self.pause(listener, node);
                    None
                }
            };
        }
    }

    /// Frees the spare descriptor for an operator if a public connection has it.
    fn take_spare_for(&mut self, listener: ListenerIndex, node: &mut Node) -> bool {
        let is_admin = self.acceptor.listeners[listener.0].role == ListenerRole::Admin;
        let Some(holder) = self.acceptor.on_spare.take_if(|_| is_admin) else { return false };
        let is_public = self.connection_mut(holder).is_some_and(|connection| !connection.flags.has(Flags::ADMIN));
        if is_public {
            self.close(holder.slot, CloseReason::Refused, node);
        }
        is_public
    }

    /// Makes a socket, which has its place, a connection, unless its peer may not have one.
    fn admit(
        &mut self,
        accepted: Accepted,
        role: ListenerRole,
        mut flags: Flags,
        node: &mut Node,
    ) -> Result<Option<Token>, NotWatched> {
        let Accepted { socket, peer, reach } = accepted;
        let is_admin = role == ListenerRole::Admin;
        if reach == Reach::Loopback {
            flags.set(Flags::LOOPBACK);
        }
        match role {
            ListenerRole::Admin => flags.set(Flags::ADMIN),
            ListenerRole::Redirect => flags.set(Flags::REDIRECTS),
            ListenerRole::Public => {}
        }
        if socket.speaks_tls() {
            flags.set(Flags::AWAITS_HANDSHAKE);
        }
        let peer = CompactPeer::new(peer);
        // An operator's connection takes no other's place, not even that of a subscriber at the same address.
        if !is_admin && let Err(refusal) = admit_peer(peer, &mut flags, node) {
            node.count_refusal(refusal);
            node.counters.closed.count(CloseReason::Refused.as_str());
            self.io.close(socket, Close::Reset);
            node.forget_connection();
            return Ok(None);
        }
        self.generation = self.generation.wrapping_add(1);
        let slot = self.connections.vacant_key() as u32;
        let token = Token { slot, generation: self.generation };
        if let Err(error) = self.io.watch(socket, token) {
            if node.may_log(LogEntry::NotWatched) {
                tracing::warn!(%peer, %error, "{}", LogEntry::NotWatched.text());
            }
            node.counters.closed.count(CloseReason::SocketError.as_str());
            self.io.close(socket, Close::Reset);
            Self::forget_address(peer, flags, node);
            node.forget_connection();
            return Err(NotWatched);
        }
        let since = Tick::of(node.now);
        self.connections.insert(Connection {
            socket,
            generation: self.generation,
            phase: Phase::Idle,
            peer,
            flags,
            since,
            armed_for: Tick::NEVER,
        });
        self.arm_deadline(slot, node);
        Ok(Some(token))
    }
}
