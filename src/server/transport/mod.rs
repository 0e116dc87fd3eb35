//! Transport: the sockets. It accepts connections, reads requests, writes answers and frames, and closes.
//!
//! ```text
//!  accept ─▶ connection ─▶ read ─▶ request ─▶ a Service (routes, streams) ─▶ respond, or a stream
//!                             ▲                                                │
//!                             └──────────── the next request ◀────────────────┘
//! ```
//!
//! Invariants:
//! - A closed connection keeps its slot until the end of the turn. A late event for it does not reach the slot's next
//!   connection: their generations differ.
//! - No send is attempted on a socket that awaits writability, and no frame starts before the last one ended.
//!
//! Not here: topics, routes and tokens. Other modules decide what a request means and what a stream gets.

mod accept;
pub(super) mod acceptor;
pub(super) mod answers;
pub(super) mod clients;
pub(super) mod connection;
mod date;
pub(super) mod deadlines;
mod fair_queue;
pub(super) mod outbox;
pub(super) mod peer;
pub(super) mod read;
mod reading_queue;
mod request;
pub(super) mod respond;
pub(super) mod secure;
mod send;

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use slab::Slab;

use super::node::Node;
use super::node::log_entries::LogEntry;
use super::shrink::shrink_map;
use super::slot_map::SlotMap;
use super::wheel::{Tick, Wheel};
use crate::event::{Frame, Sequence};
use crate::hub::HoldChange;
use crate::io::{Close, Io, ListenerIndex, Readiness, Sent, Socket, Token};
use crate::tls::handshake::Failure;
use acceptor::{Acceptor, Entrance};
use connection::{CloseReason, Connection, Flags, Phase, Stream};
use date::Date;
use outbox::Outbox;
use reading_queue::ReadingQueue;

/// The size of one read; all connections share the buffer.
const READ_BYTES: usize = 64 << 10;

/// While every place is taken: how soon to see whether another loop has given one back.
const PLACE_INTERVAL: Duration = Duration::from_millis(20);

/// Every socket, and the half-read and half-written data on it.
pub(super) struct Transport<I: Io> {
    io: I,
    connections: Slab<Connection>,
    generation: u32,
    /// How many of the connections are streams.
    streams: usize,
    acceptor: Acceptor,
    /// A buffer that every wait reuses.
    ready: Vec<Readiness>,
    /// The handshakes that ended since the last turn.
    handshakes: Vec<(Token, Result<(), Failure>)>,
    /// Connections that may have more to read.
    readable: ReadingQueue,
    read_buffer: Box<[u8]>,
    /// The visit to a connection starts no further request after this time.
    visit_until: Duration,
    /// When the last visit ended: the time, for the next one.
    visited_at: Duration,
    /// Connections that took more than their share are not read before this time.
    heavy_again_at: Duration,
    /// While events go out, they are not read before this time, either.
    heavy_beside_walks_at: Duration,
    /// Bytes received from those subscribers that sent any.
    uploads: SlotMap<usize>,
    /// Half-written frames.
    outboxes: SlotMap<Outbox>,
    /// What the hub does not know yet of frames that are half written.
    hold_changes: Vec<HoldChange>,
    /// Connections that have something to be sent after live delivery: replays, and what was half written.
    catching_up: VecDeque<Token>,
    date: Date,
    continue_frame: Frame,
    deadlines: Wheel,
    outcomes: Vec<Sent>,
    dead: Vec<u32>,
}

impl<I: Io> Transport<I> {
    pub(super) fn new(io: I, listeners: Vec<Entrance>) -> Transport<I> {
        Transport {
            io,
            connections: Slab::new(),
            generation: 0,
            streams: 0,
            acceptor: Acceptor::new(listeners),
            ready: Vec::new(),
            handshakes: Vec::new(),
            readable: ReadingQueue::default(),
            read_buffer: vec![0; READ_BYTES].into(),
            visit_until: Duration::ZERO,
            visited_at: Duration::ZERO,
            heavy_again_at: Duration::ZERO,
            heavy_beside_walks_at: Duration::ZERO,
            uploads: SlotMap::default(),
            outboxes: SlotMap::default(),
            hold_changes: Vec::new(),
            catching_up: VecDeque::new(),
            date: Date::default(),
            continue_frame: crate::protocol::response::CONTINUE.into(),
            deadlines: Wheel::new(),
            outcomes: Vec::new(),
            dead: Vec::new(),
        }
    }

    /// What reports call the backend of its IO.
    pub(super) fn io_backend(&self) -> &'static str {
        self.io.backend()
    }

    // ---- time and readiness ----

    pub(super) fn now(&self) -> Duration {
        self.io.now()
    }

    pub(super) fn unix_time(&self) -> SystemTime {
        self.io.unix_time()
    }

    /// Waits, and sorts what became ready into the queues of the next phases. Returns the time after the wait.
    pub(super) fn wait(&mut self, timeout: Duration) -> std::io::Result<Duration> {
        self.io.wait(Some(timeout), &mut self.ready)?;
        let now = self.io.now();
        let mut ready = std::mem::take(&mut self.ready);
        for ready in ready.drain(..) {
            match ready {
                Readiness::Acceptable(listener) => self.acceptor.note_acceptable(listener),
                Readiness::Readable(token) => self.queue_reading(token),
                Readiness::Writable(token) => self.note_writable(token, now),
                Readiness::Taken(token) => self.note_taken(token, now),
                Readiness::Secured(token) => self.handshakes.push((token, Ok(()))),
                Readiness::NotSecured(token, failure) => self.handshakes.push((token, Err(failure))),
                Readiness::Worn(token) => self.retire_worn(token, now),
            }
        }
        self.ready = ready;
        Ok(now)
    }

    fn note_writable(&mut self, token: Token, now: Duration) {
        if let Some(connection) = self.connection_mut(token)
            && connection.flags.has(Flags::BLOCKED)
        {
            connection.flags.clear(Flags::BLOCKED);
            if let Some(outbox) = self.outboxes.get_mut(&token.slot) {
                outbox.writable_at = Some(now);
            }
            self.queue_catching_up(token.slot);
        }
    }

    /// The kernel took a part of what TLS holds for a connection: it does not stall.
    fn note_taken(&mut self, token: Token, now: Duration) {
        if self.connection_mut(token).is_some()
            && let Some(outbox) = self.outboxes.get_mut(&token.slot)
        {
            outbox.progress_at = now;
        }
    }

    /// True while there is work that needs no further readiness.
    pub(super) fn has_work(&self, node: &Node) -> bool {
        self.readable.has_light()
            || (self.readable.has_heavy() && self.io.now() >= self.heavy_again_at)
            || !self.catching_up.is_empty()
            || self.acceptor.is_due(self.io.now(), self.has_slot(node))
    }

    /// When work is due, whatever becomes ready.
    pub(super) fn next_deadline(&self, node: &Node) -> Option<Duration> {
        let deadline = self.deadlines.next_armed().map(Tick::time);
        let heavy_again_at = self.readable.has_heavy().then_some(self.heavy_again_at);
        let place = (self.acceptor.lacks_place && node.member.has_peers()).then(|| self.io.now() + PLACE_INTERVAL);
        [deadline, heavy_again_at, self.acceptor.next_try(), place].into_iter().flatten().min()
    }

    // ---- connections ----

    /// The connection of a slot that has one.
    pub(super) fn at(&self, slot: u32) -> &Connection {
        &self.connections[slot as usize]
    }

    pub(super) fn at_mut(&mut self, slot: u32) -> &mut Connection {
        &mut self.connections[slot as usize]
    }

    /// The connection of a token, unless it has ended.
    pub(super) fn connection_mut(&mut self, token: Token) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(token.slot as usize)?;
        let current = connection.generation == token.generation && !matches!(connection.phase, Phase::Dead);
        current.then_some(connection)
    }

    pub(super) fn token(&self, slot: u32) -> Token {
        Token { slot, generation: self.connections[slot as usize].generation }
    }

    /// The stream of a slot, if it has one.
    pub(super) fn stream(&self, slot: u32) -> Option<&Stream> {
        self.connections.get(slot as usize)?.stream()
    }

    /// All slots are below this one.
    pub(super) fn slots_end(&self) -> usize {
        self.connections.capacity()
    }

    /// The slots that have a connection.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        self.connections.iter().map(|(slot, _)| slot as u32)
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().map(|(_, connection)| connection)
    }

    pub(super) fn connection_count(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn stream_count(&self) -> usize {
        self.streams
    }

    pub(super) fn catching_up_count(&self) -> usize {
        self.catching_up.len()
    }

    /// True while a connection has a half-written frame, or is queued to catch up.
    pub(super) fn is_any_behind(&self) -> bool {
        !self.outboxes.is_empty() || !self.catching_up.is_empty()
    }

    /// True when clients other than programs on this host reach a public listener.
    pub(super) fn is_exposed(&self) -> bool {
        self.acceptor.is_exposed()
    }

    /// Makes the connection a stream, which has its place among the node's streams.
    pub(super) fn start_stream(&mut self, slot: u32, stream: Stream, now: Duration) {
        let connection = &mut self.connections[slot as usize];
        connection.phase = Phase::Streaming(stream);
        connection.since = Tick::of(now);
        self.streams += 1;
        if connection.flags.has(Flags::WORN) {
            let token = Token { slot, generation: connection.generation };
            self.retire_worn(token, now);
        }
    }

    /// Records that all events up to a position were sent to a subscriber.
    #[inline]
    pub(super) fn note_delivered(&mut self, slot: u32, through: Sequence, now: Tick) {
        let connection = &mut self.connections[slot as usize];
        connection.since = now;
        if let Phase::Streaming(stream) = &mut connection.phase {
            stream.delivered_through = through;
        }
    }

    /// Queues this subscriber or response, so that the phase after live delivery sends what it is behind with.
    pub(super) fn queue_catching_up(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if !connection.flags.has(Flags::CATCHING_UP) {
            connection.flags.set(Flags::CATCHING_UP);
            let token = Token { slot, generation: connection.generation };
            self.catching_up.push_back(token);
        }
    }

    /// The next connection that is behind.
    pub(super) fn next_catching_up(&mut self) -> Option<Token> {
        while let Some(token) = self.catching_up.pop_front() {
            if let Some(connection) = self.connection_mut(token) {
                connection.flags.clear(Flags::CATCHING_UP);
                return Some(token);
            }
        }
        None
    }

    // ---- the end ----

    /// Closes a connection's socket at once; its slot is freed at the end of the turn.
    pub(super) fn close(&mut self, slot: u32, reason: CloseReason, node: &mut Node) {
        let connection = &mut self.connections[slot as usize];
        if matches!(connection.phase, Phase::Dead) {
            return;
        }
        // If the peer accepts nothing, the kernel would keep its data, and the connection, for minutes more.
        let takes_nothing = reason.is_eviction() || reason == CloseReason::AnswerTimeout;
        let how = if takes_nothing { Close::Reset } else { Close::Graceful };
        let is_cut = takes_nothing || reason == CloseReason::TlsRecord || self.outboxes.contains_key(&slot);
        if connection.socket.speaks_tls() && !is_cut && !matches!(connection.phase, Phase::Lingering(_)) {
            self.io.end(connection.socket); // with TLS, a client can tell an end from a cut
        }
        self.io.close(connection.socket, how);
        let peer = connection.peer;
        let mut position = Default::default();
        match std::mem::replace(&mut connection.phase, Phase::Dead) {
            Phase::Responding(answer) => node.common.answers.release(answer.account, answer.waiting_bytes),
            Phase::Streaming(stream) => {
                self.streams -= 1;
                node.common.give_back_stream();
                position = stream.delivered_through;
            }
            _ => {}
        }
        let outbox = self.outboxes.remove(&slot);
        if !reason.is_eviction() {
            tracing::debug!(%peer, reason = reason.as_str(), "closed");
        } else if node.may_log(LogEntry::SlowReaderClosed) {
            let lagging_bytes = outbox.as_ref().map_or(0, Outbox::unsent_bytes);
            let text = LogEntry::SlowReaderClosed.text();
            tracing::info!(%peer, reason = reason.as_str(), position = position.0, lagging_bytes, "{text}");
        }
        self.hold_changes.extend(outbox.and_then(Outbox::into_held).map(HoldChange::Released));
        node.counters.closed.count(reason.as_str());
        self.dead.push(slot);
    }

    /// Closes all connections.
    pub(super) fn close_all(&mut self, reason: CloseReason, node: &mut Node) {
        let open: Vec<_> = self.connections.iter().map(|(slot, _)| slot as u32).collect();
        open.into_iter().for_each(|slot| self.close(slot, reason, node));
    }

    /// Closes the public listeners.
    pub(super) fn close_public_listeners(&mut self) {
        for listener in self.acceptor.close_public() {
            self.io.stop_listening(listener);
        }
    }

    /// Frees and returns the slots of closed connections. Last in the turn: until then no connection reuses them.
    pub(super) fn reap(&mut self, node: &Node) -> Vec<u32> {
        let dead = std::mem::take(&mut self.dead);
        for &slot in &dead {
            let connection = self.connections.remove(slot as usize);
            self.uploads.remove(&slot);
            if connection.flags.has(Flags::HEAVY) {
                self.readable.forget_charge(slot);
            }
            self.outboxes.remove(&slot);
            Self::forget_address(connection.peer, connection.flags, node);
            node.forget_connection();
        }
        dead
    }

    /// Frees the memory that departed connections took.
    pub(super) fn shrink(&mut self) {
        shrink_map(&mut self.outboxes);
        self.readable.shrink();
        if self.catching_up.is_empty() && self.catching_up.capacity() > 1024 {
            self.catching_up.shrink_to(1024);
        }
    }

    /// The rate of accepts has changed.
    pub(super) fn forget_accept_rate(&mut self) {
        self.acceptor.forget_rate();
    }

    /// The outside world, as tests control it.
    pub(super) fn io_mut(&mut self) -> &mut I {
        &mut self.io
    }

    /// Sends the same run to each target, and appends the outcomes in their order.
    #[inline]
    pub(super) fn broadcast(
        &mut self,
        run: &[Frame],
        targets: impl ExactSizeIterator<Item = Socket>,
        outcomes: &mut Vec<Sent>,
    ) {
        self.io.send(run, 0, targets, outcomes);
    }
}

impl<I: Io> Drop for Transport<I> {
    fn drop(&mut self) {
        for (_, connection) in &self.connections {
            if !matches!(connection.phase, Phase::Dead) {
                self.io.close(connection.socket, Close::Graceful);
            }
        }
        for listener in 0..self.acceptor.listener_count() {
            self.io.stop_listening(ListenerIndex(listener));
        }
    }
}
