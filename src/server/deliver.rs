//! Live delivery: walks over the subscribers of topics that have something new, in slices.
//!
//! Nearly everybody stands at the same position, so one run serves a whole batch of sockets. Whoever doesn't fit (has
//! several topics, a pace, something half written) is sent its own run, or left to catch up.

use super::Server;
use super::connection::{Connection, Flags, Phase};
use super::transmit::{Laggard, RUN_LIMITS};
use super::wheel::Tick;
use crate::hub::{Run, Subscriber, TopicKey};
use crate::io::{Io, Sent, Socket};

/// Visits in one turn: about 2 ms of sends, so that accepting, health checks and other topics get their turn.
const VISITS_PER_TURN_MAX: usize = 512;
/// Bytes in one turn, for the same reason, when frames are large.
const BYTES_PER_TURN_MAX: usize = 4 << 20;
/// Visits between two topics' turns.
const VISITS_PER_SLICE: usize = 256;

/// What catching up leaves of its budget to live delivery: all but one part in this many.
const SHARE_BESIDE_WALKS: usize = 4;

/// The connections that one run is sent to, by slot, and their sockets.
pub(super) type Batch = Vec<(u32, Socket)>;

impl<I: Io> Server<I> {
    /// The part, one in so many, of a budget that others have in this turn: those who stayed come first.
    pub(super) fn share_beside_walks(&self) -> usize {
        if self.hub.is_walking() { SHARE_BESIDE_WALKS } else { 1 }
    }

    /// Brings walks forward by one turn's worth.
    pub(super) fn walk(&mut self) {
        let mut visits = 0;
        let bytes_before = self.counters.sent_bytes;
        while visits < VISITS_PER_TURN_MAX && self.counters.sent_bytes - bytes_before < BYTES_PER_TURN_MAX as u64 {
            let mut slice = std::mem::take(&mut self.scratch.slice);
            let Some(taken) = self.hub.next_slice(VISITS_PER_SLICE, self.now, &mut slice) else {
                self.scratch.slice = slice;
                return;
            };
            visits += slice.len().max(1);
            self.visit(taken.topic, &slice);
            if let Some(through) = self.scratch.cut_at.take() {
                self.hub.cut_walk(&taken, through, self.now);
            }
            // One look at the clock for a whole slice: it tells of each delivery what its slice's last one took.
            let took = self.io.now().saturating_sub(taken.started_at);
            self.counters.delivery_duration.observe_many(took, slice.len() as u32);
            self.scratch.slice = slice;
            if taken.ends_walk {
                self.counters.broadcast_duration.observe(took);
            }
        }
    }

    fn visit(&mut self, topic: TopicKey, slice: &[Subscriber]) {
        let mut run = std::mem::take(&mut self.scratch.run);
        run.clear();
        let mut batch = std::mem::take(&mut self.scratch.batch);
        let head = self.hub.head();
        for &Subscriber(slot) in slice {
            let Connection { flags, delivered_through, socket, phase, .. } = &self.connections[slot as usize];
            if *delivered_through >= head || !matches!(phase, Phase::Streaming) {
                continue;
            }
            let (position, socket) = (*delivered_through, *socket);
            if flags.has(Flags::NOT_PLAIN) {
                self.send_batch(&run, &mut batch);
                self.scratch.run = run;
                self.visit_special(slot);
                run = std::mem::take(&mut self.scratch.run);
                continue;
            }
            if !run.covers(position) {
                self.send_batch(&run, &mut batch);
                self.hub.run_for_topic(topic, position, RUN_LIMITS, &mut run);
            }
            if run.covers(position) {
                batch.push((slot, socket));
            } else if self.hub.is_evicted(Subscriber(slot), position) {
                // What it should get next is forgotten already, all of it perhaps: that wants a decision, not a send.
                self.queue_catching_up(slot);
            }
        }
        self.send_batch(&run, &mut batch);
        self.scratch.batch = batch;
        // A frame kept here would look as if a subscriber still held it.
        run.clear();
        self.scratch.run = run;
    }

    /// Visits a subscriber to which a shared run can't just be sent.
    fn visit_special(&mut self, slot: u32) {
        let flags = self.connections[slot as usize].flags;
        if flags.has(Flags::BLOCKED) {
            self.counters.skipped_blocked += 1;
        } else if flags.has(Flags::CATCHING_UP) {
            // Its turn comes after the walks.
        } else if flags.has(Flags::PACED) {
            self.pace(slot);
        } else if !self.transmit(slot) && !self.connections[slot as usize].flags.has(Flags::BLOCKED) {
            self.queue_catching_up(slot);
        }
    }

    /// Sends the run to everybody gathered so far; notes where it ends, if that is not all there is.
    fn send_batch(&mut self, run: &Run, batch: &mut Batch) {
        if batch.is_empty() {
            return;
        }
        if !run.is_complete() {
            let through = run.through();
            self.scratch.cut_at = Some(self.scratch.cut_at.map_or(through, |cut_at| cut_at.min(through)));
        }
        let mut outcomes = std::mem::take(&mut self.scratch.outcomes);
        self.io.send(run.frames(), 0, batch.iter().map(|&(_, socket)| socket), &mut outcomes);
        let now = Tick::of(self.now);
        let mut whole = 0;
        for (&(slot, _), &sent) in batch.iter().zip(&outcomes) {
            if sent == Sent::Bytes(run.bytes()) {
                let connection = &mut self.connections[slot as usize];
                connection.delivered_through = run.through();
                connection.since = now;
                whole += 1;
            } else {
                self.record_send_result(slot, Laggard::new(Vec::new(), self.now), run, sent);
            }
        }
        self.counters.sends += whole;
        self.counters.sent_bytes += whole * run.bytes() as u64;
        self.counters.delivered_events += whole * run.frames().len() as u64;
        batch.clear();
        outcomes.clear();
        self.scratch.outcomes = outcomes;
    }
}
