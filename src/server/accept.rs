//! Accepting: within a budget, at a rate, while there are slots; and what to do when descriptors run out.
//!
//! Listeners are edge-triggered, so one that has more is remembered until an accept would block. At EMFILE the
//! spare descriptor lets one connection in at a time: a health check is answered, a stream told to come back. The
//! admin listener comes first, and takes the spare from a public connection that has it.

use std::time::Duration;

use super::allowance::Allowance;
use super::connection::{CompactPeer, Connection, Flags, Phase};
use super::log_entries::LogEntry;
use super::wheel::Tick;
use super::{CloseReason, Entrance, ListenerRole, Reach, Server};
use crate::event::Sequence;
use crate::io::{Accept, Close, Io, ListenerIndex, Peer, Socket, Token};

/// Connections accepted in one turn, about 2 ms of it; as many beside live delivery. What returns all at once must not
/// overflow the listener's queue: the kernel drops those beyond it without a word, and they try again after 1, 3 and 7
/// seconds. Their requests wait for their own budget.
const ACCEPTS_PER_TURN_MAX: usize = 256;
/// When nothing of ours is freed: how soon to look whether others freed descriptors.
const EXHAUSTED_RETRY: Duration = Duration::from_millis(500);
/// How soon a listener that could not accept is tried again.
const FAILED_RETRY: Duration = Duration::from_millis(500);

/// Why accepting pauses. The connections wait in the kernel's backlog meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PauseReason {
    /// No descriptor is left.
    Descriptors,
    /// Every slot is taken, the reserve for refusals and health checks too.
    Slots,
    /// As many as are allowed were accepted in this second.
    Rate,
    /// A listener can't accept: the kernel, a firewall or a security module says so.
    Error,
}

impl PauseReason {
    pub(super) const ALL: [PauseReason; 4] =
        [PauseReason::Descriptors, PauseReason::Slots, PauseReason::Rate, PauseReason::Error];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            PauseReason::Descriptors => "descriptors",
            PauseReason::Slots => "slots",
            PauseReason::Rate => "rate",
            PauseReason::Error => "error",
        }
    }
}

/// Which listeners have more, and what holds them up.
pub(super) struct Acceptor {
    listeners: Vec<Listening>,
    /// The listeners in the order in which they are looked at, those of operators first: whatever is short, they see it.
    turns: Vec<usize>,
    /// No descriptor is left; look again then.
    exhausted_until: Option<Duration>,
    /// Who got the spare descriptor last.
    on_spare: Option<Token>,
    /// What accepting has paused for since somebody waited: until nobody does, that is one pause.
    paused_for: Vec<PauseReason>,
    allowance: Option<Allowance>,
    /// The allowance is used up.
    over_rate: bool,
    /// It was, until now: whoever is accepted next had to wait for that.
    was_over_rate: bool,
}

struct Listening {
    role: ListenerRole,
    reach: Reach,
    has_more: bool,
    /// It could not accept; look again then.
    failed_until: Option<Duration>,
}

impl Listening {
    fn is_failing(&self, now: Duration) -> bool {
        self.failed_until.is_some_and(|until| until > now)
    }
}

impl Acceptor {
    pub(super) fn new(entrances: Vec<Entrance>, accepts_per_second_max: Option<u32>) -> Acceptor {
        // Whoever connected before the first wait was reported to nobody: start by looking.
        let mut turns: Vec<_> = (0..entrances.len()).collect();
        turns.sort_by_key(|index| entrances[*index].role == ListenerRole::Public);
        let listening = |Entrance { role, reach }| Listening { role, reach, has_more: true, failed_until: None };
        let listeners = entrances.into_iter().map(listening).collect();
        Acceptor {
            listeners,
            turns,
            exhausted_until: None,
            on_spare: None,
            paused_for: Vec::new(),
            allowance: accepts_per_second_max.map(|per_second_max| Allowance::new(per_second_max, Duration::ZERO)),
            over_rate: false,
            was_over_rate: false,
        }
    }

    /// Accepts at another rate from now on.
    pub(super) fn limit_rate(&mut self, accepts_per_second_max: Option<u32>, now: Duration) {
        self.allowance = accepts_per_second_max.map(|per_second_max| Allowance::new(per_second_max, now));
        self.over_rate = false;
        self.was_over_rate = false;
    }

    /// True when others than programs on this host reach a public listener.
    pub(super) fn is_exposed(&self) -> bool {
        let is_exposed = |it: &Listening| it.role == ListenerRole::Public && it.reach != Reach::Loopback;
        self.listeners.iter().any(is_exposed)
    }

    pub(super) fn listener_count(&self) -> usize {
        self.listeners.len()
    }

    pub(super) fn note_acceptable(&mut self, listener: ListenerIndex) {
        if let Some(listening) = self.listeners.get_mut(listener.0) {
            listening.has_more = true;
        }
    }

    /// The public listeners, which are to be closed; they have no more.
    pub(super) fn close_public(&mut self) -> Vec<ListenerIndex> {
        let is_public = |(_, listening): &(usize, &mut Listening)| listening.role == ListenerRole::Public;
        let public = self.listeners.iter_mut().enumerate().filter(is_public);
        public
            .map(|(index, listening)| {
                listening.has_more = false;
                ListenerIndex(index)
            })
            .collect()
    }

    /// True when an accept would be tried now.
    pub(super) fn is_due(&self, now: Duration, has_slot: bool) -> bool {
        let exhausted = self.exhausted_until.is_some_and(|until| until > now);
        let waits = |listening: &Listening| {
            listening.has_more && !listening.is_failing(now) && !self.is_paused_for(listening.role, has_slot)
        };
        !exhausted && self.listeners.iter().any(waits)
    }

    /// When to look again, if that depends on time.
    pub(super) fn next_try(&self) -> Option<Duration> {
        // Rounded up: at a time that is a hair too early the allowance is as good as there and never is.
        let rate = |allowance: &Allowance| allowance.time_of(1) + Duration::from_millis(1);
        let rate = self.allowance.as_ref().filter(|_| self.over_rate).map(rate);
        let failing = self.listeners.iter().filter_map(|listening| listening.failed_until);
        self.exhausted_until.into_iter().chain(rate).chain(failing).min()
    }

    /// An accept said so; whatever holds up the next who comes is another pause.
    fn note_nobody_waits(&mut self, listener: ListenerIndex) {
        self.listeners[listener.0].has_more = false;
        if self.listeners.iter().all(|listening| !listening.has_more) {
            self.paused_for.clear();
        }
    }

    fn is_paused_for(&self, role: ListenerRole, has_slot: bool) -> bool {
        role == ListenerRole::Public && (self.over_rate || !has_slot)
    }
}

impl<I: Io> Server<I> {
    /// True while a public connection may take a slot.
    pub(super) fn has_slot(&self) -> bool {
        self.connections.len() < self.settings.connections_total_max
    }

    /// Accepts what waits, as far as budget, rate, slots and descriptors allow.
    pub(super) fn accept(&mut self) {
        if let Some(until) = self.acceptor.exhausted_until {
            // Also when nobody waits to be accepted: a time that has passed would end every wait at once.
            let again = if until <= self.now { self.now + EXHAUSTED_RETRY } else { until };
            self.acceptor.exhausted_until = (!self.io.keep_spare()).then_some(again);
        }
        for listening in &mut self.acceptor.listeners {
            listening.failed_until.take_if(|until| *until <= self.now);
        }
        if let Some(allowance) = &mut self.acceptor.allowance {
            allowance.refill(self.now);
            if self.acceptor.over_rate && allowance.has(1) {
                self.acceptor.over_rate = false;
                self.acceptor.was_over_rate = true;
            }
        }
        let mut budget = ACCEPTS_PER_TURN_MAX;
        for turn in 0..self.acceptor.turns.len() {
            let index = self.acceptor.turns[turn];
            while budget > 0 && self.acceptor.listeners[index].has_more && self.may_accept(index) {
                budget -= 1;
                if !self.accept_one(ListenerIndex(index)) {
                    break;
                }
            }
        }
    }

    fn may_accept(&mut self, index: usize) -> bool {
        if self.acceptor.listeners[index].is_failing(self.now) {
            return false;
        }
        if self.acceptor.listeners[index].role == ListenerRole::Admin {
            return true;
        }
        if self.acceptor.exhausted_until.is_some_and(|until| until > self.now) {
            return false;
        }
        let has_slot = self.has_slot();
        if !has_slot {
            self.note_pause(PauseReason::Slots);
        }
        let Some(allowance) = &self.acceptor.allowance else { return has_slot };
        self.acceptor.over_rate |= !allowance.has(1);
        has_slot && !self.acceptor.over_rate
    }

    /// Counts a pause and tells of it, unless it is still the same one: each slot that is freed lets one in, and the
    /// next of a thousand waits again.
    fn note_pause(&mut self, reason: PauseReason) {
        if self.acceptor.paused_for.contains(&reason) {
            return;
        }
        self.acceptor.paused_for.push(reason);
        self.counters.accept_pauses.count(reason.as_str());
        let entry = match reason {
            PauseReason::Slots => LogEntry::SlotsTaken,
            PauseReason::Descriptors => LogEntry::DescriptorsTaken,
            // An operator has asked for it; an error is logged with its cause.
            PauseReason::Rate | PauseReason::Error => return,
        };
        if self.may_log(entry) {
            tracing::warn!(connections = self.connections.len(), "{}", entry.text());
        }
    }

    /// Accepts one connection; false when there is no descriptor for another.
    fn accept_one(&mut self, listener: ListenerIndex) -> bool {
        match self.io.accept(listener) {
            Accept::Connection(socket, peer) => {
                self.admit(socket, peer, listener, Flags::FRESH);
            }
            Accept::Aborted => {}
            Accept::WouldBlock => {
                self.acceptor.note_nobody_waits(listener);
                self.acceptor.was_over_rate &= self.acceptor.listeners[listener.0].role == ListenerRole::Admin;
            }
            Accept::Exhausted => {
                self.accept_on_spare(listener);
                return false;
            }
            Accept::Failed(error) => {
                self.pause_failing(listener, error);
                return false;
            }
        }
        true
    }

    /// A listener can't accept, and would say so again at once: it pauses, and others go on.
    fn pause_failing(&mut self, listener: ListenerIndex, error: i32) {
        self.acceptor.listeners[listener.0].failed_until = Some(self.now + FAILED_RETRY);
        self.note_pause(PauseReason::Error);
        if self.may_log(LogEntry::AcceptFailed) {
            let error = std::io::Error::from_raw_os_error(error);
            tracing::warn!(listener = listener.0, %error, "{}", LogEntry::AcceptFailed.text());
        }
    }

    /// No descriptor is left: lets one connection in on the spare one, and pauses until there is a spare again.
    fn accept_on_spare(&mut self, listener: ListenerIndex) {
        let has_spare = self.io.release_spare() || self.take_spare_for(listener);
        let accepted = if has_spare { self.io.accept(listener) } else { Accept::Exhausted };
        if accepted == Accept::WouldBlock {
            // The table is full to the last, and the kernel says so even when nobody waits: no reason to pause.
            self.acceptor.note_nobody_waits(listener);
            self.io.keep_spare();
            return;
        }
        if let Accept::Failed(error) = accepted {
            self.io.keep_spare();
            return self.pause_failing(listener, error);
        }
        self.acceptor.exhausted_until = Some(self.now + EXHAUSTED_RETRY);
        self.note_pause(PauseReason::Descriptors);
        if let Accept::Connection(socket, peer) = accepted {
            self.acceptor.on_spare = self.admit(socket, peer, listener, Flags::ON_SPARE);
        }
    }

    /// Frees the spare descriptor for an operator if a public connection has it.
    fn take_spare_for(&mut self, listener: ListenerIndex) -> bool {
        let is_admin = self.acceptor.listeners[listener.0].role == ListenerRole::Admin;
        let Some(holder) = self.acceptor.on_spare.take_if(|_| is_admin) else { return false };
        let is_public = self.connection(holder).is_some_and(|connection| !connection.flags.has(Flags::ADMIN));
        if is_public {
            self.close(holder.slot, CloseReason::Refused);
        }
        is_public
    }

    /// Makes a connection of a socket, unless its peer may not have one.
    fn admit(&mut self, socket: Socket, peer: Peer, listener: ListenerIndex, mut flags: Flags) -> Option<Token> {
        self.counters.accepted += 1;
        let Listening { role, reach, .. } = self.acceptor.listeners[listener.0];
        let is_admin = role == ListenerRole::Admin;
        if reach == Reach::Loopback {
            flags.set(Flags::LOOPBACK);
        }
        if is_admin {
            flags.set(Flags::ADMIN);
        } else if let Some(allowance) = &mut self.acceptor.allowance {
            allowance.take(1);
            // Only now it is known that somebody waited.
            if std::mem::take(&mut self.acceptor.was_over_rate) {
                self.note_pause(PauseReason::Rate);
            }
        }
        let peer = CompactPeer::new(peer);
        // An operator's look is in nobody's way, not even in that of a subscriber at the same address.
        if !is_admin && let Err(refusal) = self.admit_peer(peer, &mut flags) {
            self.count_refusal(refusal);
            self.counters.closed.count(CloseReason::Refused.as_str());
            self.io.close(socket, Close::Reset);
            return None;
        }
        self.generation = self.generation.wrapping_add(1);
        let slot = self.connections.vacant_key() as u32;
        let token = Token { slot, generation: self.generation };
        if let Err(error) = self.io.watch(socket, token) {
            if self.may_log(LogEntry::NotWatched) {
                tracing::warn!(%peer, %error, "{}", LogEntry::NotWatched.text());
            }
            self.counters.closed.count(CloseReason::SocketError.as_str());
            self.io.close(socket, Close::Reset);
            self.forget_address(peer, flags);
            return None;
        }
        let since = Tick::of(self.now);
        self.connections.insert(Connection {
            socket,
            generation: self.generation,
            delivered_through: Sequence::ZERO,
            phase: Phase::Idle,
            peer,
            flags,
            since,
            armed_for: Tick::NEVER,
            retires_at: Tick::NEVER,
        });
        self.arm_deadline(slot);
        Some(token)
    }
}
