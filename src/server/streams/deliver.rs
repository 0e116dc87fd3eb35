//! Live delivery: walks over the subscribers of topics with new events, in slices.
//!
//! Nearly all subscribers are at the same position, so one run serves a whole batch of sockets. A subscriber that does
//! not fit (it has news of several topics, a pace, or a half-written frame) gets its own run, or is left to catch up.

use super::Streams;
use super::transmit::RUN_LIMITS;
use crate::event::Sequence;
use crate::hub::{Hub, Run, Subscriber, TopicKey};
use crate::io::{Io, Sent, Socket};
use crate::server::node::Node;
use crate::server::transport::Transport;
use crate::server::transport::connection::{Connection, Flags, Phase, Stream, StreamMode};
use crate::server::transport::outbox::{Outbox, Sending};
use crate::server::wheel::Tick;

/// Visits in one turn: about 2 ms of sends, so that accepting, health checks and other topics are served too.
const VISITS_PER_TURN_MAX: usize = 512;
/// Bytes in one turn, for the same reason, when frames are large.
const BYTES_PER_TURN_MAX: usize = 4 << 20;
/// Visits before the next topic is served.
const VISITS_PER_SLICE: usize = 256;

impl Streams {
    /// Advances walks by one turn's worth.
    pub(crate) fn walk<I: Io>(&mut self, transport: &mut Transport<I>, hub: &mut Hub, node: &mut Node) {
        let mut visits = 0;
        let bytes_before = node.counters.sent_bytes;
        while visits < VISITS_PER_TURN_MAX && node.counters.sent_bytes - bytes_before < BYTES_PER_TURN_MAX as u64 {
            let mut slice = std::mem::take(&mut self.scratch.slice);
            let Some(taken) = hub.next_slice(VISITS_PER_SLICE, node.now, &mut slice) else {
                self.scratch.slice = slice;
                return;
            };
            visits += slice.len().max(1);
            self.visit(taken.topic, &slice, transport, hub, node);
            if let Some(through) = self.scratch.cut_at.take() {
                hub.cut_walk(&taken, through, node.now);
            }
            // One clock reading for a whole slice: it gives each delivery the time of its slice's last one.
            let took = transport.now().saturating_sub(taken.started_at);
            let is_own = hub.is_reserved(taken.topic);
            if !is_own {
                node.counters.delivery_duration.observe_many(took, slice.len() as u32);
            }
            self.scratch.slice = slice;
            if taken.ends_walk && !is_own {
                node.counters.broadcast_duration.observe(took);
            }
        }
    }

    fn visit<I: Io>(
        &mut self,
        topic: TopicKey,
        slice: &[Subscriber],
        transport: &mut Transport<I>,
        hub: &Hub,
        node: &mut Node,
    ) {
        let mut run = std::mem::take(&mut self.scratch.run);
        run.clear();
        let mut batch = std::mem::take(&mut self.scratch.batch);
        let head = hub.head();
        let mut rest = slice;
        loop {
            rest = gather(rest, topic, &run, &mut batch, transport, hub);
            let Some((&Subscriber(slot), after)) = rest.split_first() else { break };
            rest = after;
            let Connection { flags, socket, phase, .. } = transport.at(slot);
            let Phase::Streaming(stream) = phase else { continue };
            let (position, mode, socket) = (stream.delivered_through, stream.mode, *socket);
            if position >= head {
                continue;
            }
            // A compressed stream of several topics never has a segment, and its batch would believe that it has.
            let is_special =
                mode.has(StreamMode::SPECIAL) && !is_like_plain(mode, topic, Subscriber(slot), position, hub);
            if flags.has(Flags::BEHIND) || is_special {
                self.send_gathered(&run, &mut batch, transport, hub, node);
                self.scratch.run = run;
                self.visit_special(slot, transport, hub, node);
                run = std::mem::take(&mut self.scratch.run);
                continue;
            }
            if !run.covers(position) {
                self.send_gathered(&run, &mut batch, transport, hub, node);
                hub.run_for_topic(topic, position, RUN_LIMITS, &mut run);
            }
            if run.covers(position) {
                match mode.has(StreamMode::COMPRESSED) {
                    false => batch.push((slot, socket)),
                    true => {
                        let has_segment = usize::from(mode.has(StreamMode::HAS_SEGMENT));
                        self.scratch.compressed[has_segment].push((slot, socket));
                    }
                }
            } else if hub.is_evicted(Subscriber(slot), position) {
                // Its next event is evicted, perhaps all it needs: the slow policy must decide.
                transport.queue_catching_up(slot);
            }
        }
        self.send_gathered(&run, &mut batch, transport, hub, node);
        self.scratch.batch = batch;
        run.clear();
        self.scratch.run = run;
    }

    /// Visits a subscriber that can't just get a shared run.
    fn visit_special<I: Io>(&mut self, slot: u32, transport: &mut Transport<I>, hub: &Hub, node: &mut Node) {
        let flags = transport.at(slot).flags;
        let Some(mode) = transport.stream(slot).map(|stream| stream.mode) else { return };
        if flags.has(Flags::BLOCKED) {
            node.counters.skipped_blocked += 1;
        } else if flags.has(Flags::CATCHING_UP) || mode.has(StreamMode::FETCHING) {
            // It is sent to after the walks.
        } else if mode.has(StreamMode::PACED) {
            if self.paces.is_due(slot, Tick::of(node.now)) {
                transport.queue_catching_up(slot);
            }
        } else if !self.transmit(slot, transport, hub, node) && !transport.at(slot).flags.has(Flags::BLOCKED) {
            transport.queue_catching_up(slot);
        }
    }

    /// Sends the run to the subscribers that were gathered for it.
    fn send_gathered<I: Io>(
        &mut self,
        run: &Run,
        batch: &mut Vec<(u32, Socket)>,
        transport: &mut Transport<I>,
        hub: &Hub,
        node: &mut Node,
    ) {
        self.send_batch(run, batch, transport, node);
        if self.scratch.compressed.iter().any(|batch| !batch.is_empty()) {
            self.send_compressed(run, transport, hub, node);
        }
    }

    /// Sends the run, compressed, to the gathered subscribers that get gzip.
    fn send_compressed<I: Io>(&mut self, run: &Run, transport: &mut Transport<I>, hub: &Hub, node: &mut Node) {
        for (index, had) in [false, true].into_iter().enumerate() {
            let Some(&(slot, _)) = self.scratch.compressed[index].first() else { continue };
            let mut batch = std::mem::take(&mut self.scratch.compressed[index]);
            let mut run = run.clone();
            self.forms.compress(&mut run, 0, (Subscriber(slot), had), hub, node);
            let has = run.completes_segment(0..run.frames().len(), had);
            let changed = if has == had { Vec::new() } else { batch.clone() };
            self.send_batch(&run, &mut batch, transport, node);
            self.scratch.compressed[index] = batch;
            for (slot, _) in changed {
                // What was sent in part is recorded already.
                if transport.outbox(slot).is_none()
                    && let Some(stream) = transport.at_mut(slot).stream_mut()
                {
                    stream.mode.assign(StreamMode::HAS_SEGMENT, has);
                }
            }
        }
    }

    /// Sends the run to the gathered subscribers; records where it ends if that is not the newest event.
    fn send_batch<I: Io>(
        &mut self,
        run: &Run,
        batch: &mut Vec<(u32, Socket)>,
        transport: &mut Transport<I>,
        node: &mut Node,
    ) {
        if batch.is_empty() {
            return;
        }
        if !run.is_complete() {
            let through = run.through();
            self.scratch.cut_at = Some(self.scratch.cut_at.map_or(through, |cut_at| cut_at.min(through)));
        }
        let mut outcomes = std::mem::take(&mut self.scratch.outcomes);
        transport.broadcast(run.frames(), batch.iter().map(|&(_, socket)| socket), &mut outcomes);
        // Those that watch the statistics get no run together with others.
        let is_own = transport.at(batch[0].0).flags.has(Flags::WATCHES);
        let (now, bytes, through) = (Tick::of(node.now), run.bytes(), run.through());
        let mut whole = 0;
        for (&(slot, _), &sent) in batch.iter().zip(&outcomes) {
            if sent == Sent::Bytes(bytes) {
                transport.note_delivered(slot, through, now);
                whole += 1;
            } else {
                self.note_short_send(slot, run, sent, transport, node);
            }
        }
        node.counters.sends += whole;
        node.counters.sent_bytes += whole * run.bytes() as u64;
        node.counters.delivered_events += whole * run.frames().len() as u64;
        if is_own {
            node.counters.own.sent_bytes += whole * run.bytes() as u64;
            node.counters.own.delivered_events += whole * run.frames().len() as u64;
        }
        batch.clear();
        outcomes.clear();
        self.scratch.outcomes = outcomes;
    }

    #[cold]
    fn note_short_send<I: Io>(
        &mut self,
        slot: u32,
        run: &Run,
        sent: Sent,
        transport: &mut Transport<I>,
        node: &mut Node,
    ) {
        let sending = Sending { frames: run.frames(), unlogged: 0, is_event: |_| true };
        if let Some(progress) = transport.record_send_result(slot, Outbox::new(node.now), &sending, sent, node) {
            self.note_progress(slot, run, 0, &progress, transport, node);
        }
    }
}

/// Gathers the subscribers that just get the topic's run, up to the first of another kind. Returns that one and those behind
/// it. Not inlined: within a turn of the loop, the compiler would keep its values on the stack.
#[inline(never)]
fn gather<'a, I: Io>(
    slice: &'a [Subscriber],
    topic: TopicKey,
    run: &Run,
    batch: &mut Vec<(u32, Socket)>,
    transport: &Transport<I>,
    hub: &Hub,
) -> &'a [Subscriber] {
    for (index, &subscriber) in slice.iter().enumerate() {
        let connection = transport.at(subscriber.0);
        let gets_run = match &connection.phase {
            Phase::Streaming(Stream { delivered_through, mode, .. }) => {
                !connection.flags.has(Flags::BEHIND)
                    && run.covers(*delivered_through)
                    && (!mode.has(StreamMode::NOT_PLAIN)
                        || is_like_plain(*mode, topic, subscriber, *delivered_through, hub))
            }
            _ => false,
        };
        if !gets_run {
            return &slice[index..];
        }
        batch.push((subscriber.0, connection.socket));
    }
    &[]
}

/// True if only its other topics keep this stream from being plain, and they have nothing for it.
#[inline(never)]
fn is_like_plain(mode: StreamMode, topic: TopicKey, subscriber: Subscriber, position: Sequence, hub: &Hub) -> bool {
    !mode.has(StreamMode::NOT_SHARED) && hub.has_news_only_of(topic, subscriber, position)
}
